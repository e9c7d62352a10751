#!/usr/bin/python3
"""Real programs in a mount of root's: git, PostgreSQL, SQLite, a build, tar, rsync, and the tree of a container image.

programs.py [--full] [PART...]      parts: git postgres sqlite build tar rsync oci

Without --full sizes are small, and a part whose program is not installed is left out by name; with it that is a failure.
"""
import argparse
import errno
import mmap
import os
import pwd
import random
import re
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from keepfs_testlib import *  # noqa: E402,F401,F403

TOP = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
FULL = False


class Missing(Exception):
    pass


def need(*programs, places=()):
    """The paths of programs; PATH of a plain user does not hold all of them."""
    found = []
    for program in programs:
        path = shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", *places]))
        if not path:
            raise Missing("%s is not installed%s" % (program, " (Debian's package postgresql)" if places or program == "initdb" else ""))
        found.append(path)
    return found


def as_user(uid, gid, argv, **more):
    return subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          user=uid, group=gid, extra_groups=[], **more)


# ---- what a tree is ----------------------------------------------------------------------------------------------------

def data_map(path):
    """[(start, end)] of what is not a hole."""
    out, at = [], 0
    fd = os.open(path, os.O_RDONLY)
    try:
        end = os.fstat(fd).st_size
        while at < end:
            try:
                start = os.lseek(fd, at, os.SEEK_DATA)
            except OSError as e:
                check(e.errno == errno.ENXIO, "%s: SEEK_DATA: %s" % (path, e))
                break
            at = os.lseek(fd, start, os.SEEK_HOLE)
            out.append((start, at))
    finally:
        os.close(fd)
    return out


def describe(root, times=True):
    """{path: all that an archive carries}. Names of hard links are told by the first of them."""
    seen, first = {}, {}
    for base, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(folders + names):
            path = os.path.join(base, name)
            st = os.lstat(path)
            rel = os.path.relpath(path, root)
            it = {"mode": "%o" % st.st_mode, "owner": (st.st_uid, st.st_gid)}
            if times and not stat.S_ISDIR(st.st_mode):
                it["mtime"] = st.st_mtime_ns
            if stat.S_ISREG(st.st_mode):
                it.update(size=st.st_size, links=st.st_nlink, digest=digest(path))
            if stat.S_ISLNK(st.st_mode):
                it["target"] = os.readlink(path)
            if stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode):
                it["device"] = (os.major(st.st_rdev), os.minor(st.st_rdev))
            if st.st_nlink > 1 and not stat.S_ISDIR(st.st_mode):
                it["same"] = first.setdefault((st.st_dev, st.st_ino), rel)
            it["xattrs"] = {key: os.getxattr(path, key, follow_symlinks=False) for key in sorted(os.listxattr(path, follow_symlinks=False))}
            seen[rel] = it
    return seen


def same(plain, mounted, what, **more):
    compare(describe(plain, **more), describe(mounted, **more), what)


# ---- git ---------------------------------------------------------------------------------------------------------------

def git(t, *args, cwd):
    return run(["git", "-c", "safe.directory=*", "-c", "user.name=t", "-c", "user.email=t@localhost", *args], cwd=cwd, timeout=3600,
               env=dict(os.environ, GIT_CONFIG_NOSYSTEM="1", HOME=t.dir))[1].strip()


def source_repository(t):
    """This repository; where there is only its tree, one with a few commits."""
    if os.path.exists(TOP + "/.git"):
        return TOP
    repo = t.dir + "/repo"
    shutil.copytree(TOP, repo, ignore=shutil.ignore_patterns("build*"), symlinks=True)
    git(t, "init", "-q", cwd=repo)
    for part in sorted(os.listdir(repo)):
        if part != ".git":
            git(t, "add", "-A", part, cwd=repo)
            git(t, "commit", "-q", "--allow-empty", "-m", part, cwd=repo)
    return repo


def part_git(t):
    need("git")
    source, clone = source_repository(t), t.mnt + "/clone"
    git(t, "clone", "-q", "--no-hardlinks", source, clone, cwd=t.dir)
    head = git(t, "rev-parse", "HEAD", cwd=clone)
    check(head == git(t, "rev-parse", "HEAD", cwd=source), "the clone is at another commit")
    commits = git(t, "rev-list", "HEAD", cwd=clone).split()
    for commit in (commits[len(commits) // 2], commits[-1], head):
        git(t, "checkout", "-q", commit, cwd=clone)
        check(git(t, "status", "--porcelain", cwd=clone) == "", "checkout of %s leaves changes" % commit)
    with open(clone + "/README.md", "a") as f:
        f.write("one more line\n")
    check(git(t, "status", "--porcelain", cwd=clone).endswith("M README.md"), "git does not see a change")
    git(t, "commit", "-q", "-a", "-m", "one more", cwd=clone)
    git(t, "branch", "side", "HEAD~1", cwd=clone)
    git(t, "gc", "-q", "--aggressive" if FULL else "--prune=now", cwd=clone)
    git(t, "repack", "-q", "-a", "-d", cwd=clone)
    t.again()
    git(t, "fsck", "--full", "--strict", cwd=clone)
    check(git(t, "status", "--porcelain", cwd=clone) == "", "a new mount leaves changes")
    git(t, "checkout", "-q", "side", cwd=clone)
    git(t, "worktree", "add", "-q", t.mnt + "/worktree", commits[-1], cwd=clone)
    git(t, "fsck", "--full", cwd=t.mnt + "/worktree")
    return "%d commits, %s files" % (len(commits), len(git(t, "ls-files", cwd=clone).split("\n")))


# ---- PostgreSQL --------------------------------------------------------------------------------------------------------

def postgres_bin():
    base = "/usr/lib/postgresql"
    versions = sorted(os.listdir(base), key=lambda v: [int(n) for n in v.split(".")]) if os.path.isdir(base) else []
    place = os.path.join(base, versions[-1], "bin") if versions else ""
    need("initdb", "postgres", "pgbench", "psql", "pg_checksums", places=[place] if place else [])
    return place


def children(pid):
    """The process and all below it."""
    found = [pid]
    for at in found:
        try:
            with open("/proc/%d/task/%d/children" % (at, at)) as f:
                found += [int(word) for word in f.read().split()]
        except OSError:
            pass
    return found


class Server:
    def __init__(self, t, place, account):
        self.t, self.place, self.account = t, place, account
        self.data, self.sock, self.proc = t.mnt + "/pgdata", t.dir + "/sock", None
        os.mkdir(self.sock)
        os.chown(self.sock, account.pw_uid, account.pw_gid)
        os.mkdir(self.data, 0o700)
        os.chown(self.data, account.pw_uid, account.pw_gid)

    def tool(self, name, *args, ok=True, timeout=1800):
        done = as_user(self.account.pw_uid, self.account.pw_gid, [os.path.join(self.place, name), *args], cwd=self.sock, timeout=timeout,
                       env=dict(os.environ, LC_ALL="C", PGHOST=self.sock, PGDATABASE="postgres", PGUSER="bench", HOME=self.sock))
        check(not ok or done.returncode == 0, "%s %s: exit %d\n%s" % (name, " ".join(args), done.returncode, done.stdout[-3000:]))
        return done.stdout

    def start(self):
        with open(self.t.dir + "/pg.log", "ab") as log:
            self.proc = subprocess.Popen([os.path.join(self.place, "postgres"), "-D", self.data, "-k", self.sock, "-c", "listen_addresses="],
                                         stdin=subprocess.DEVNULL, stdout=log, stderr=log, user=self.account.pw_uid,
                                         group=self.account.pw_gid, extra_groups=[], cwd=self.sock, start_new_session=True)

        def ready():
            check(self.proc.poll() is None, "postgres ended with %s:\n%s" % (self.proc.returncode, self.log()[-3000:]))
            time.sleep(0.3)
            return as_user(self.account.pw_uid, self.account.pw_gid, [os.path.join(self.place, "pg_isready"), "-q", "-h", self.sock, "-U", "bench",
                                                                      "-d", "postgres"]).returncode == 0
        wait_for(ready, 300, "postgres")

    def log(self):
        with open(self.t.dir + "/pg.log", errors="replace") as f:
            return f.read()

    def stop(self):
        if self.proc:
            self.proc.send_signal(signal.SIGINT)
            check(self.proc.wait(300) == 0, "postgres ended badly:\n" + self.log()[-3000:])
            self.proc = None

    def kill9(self):
        victims = children(self.proc.pid)
        for pid in victims:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.proc.wait(60)
        wait_for(lambda: not any(alive(pid) for pid in victims), 60, "the killed server to be gone")
        self.proc = None
        return len(victims)

    def ask(self, sql):
        return self.tool("psql", "-X", "-A", "-t", "-q", "-c", sql).strip()

    def sums(self, when):
        # One statement: one snapshot, also under load.
        row = self.ask("select (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers), "
                       "(select sum(bbalance) from pgbench_branches), (select coalesce(sum(delta), 0) from pgbench_history), "
                       "(select count(*) from pgbench_history)")
        *sums, count = [int(word) for word in row.split("|")]
        check(len(set(sums)) == 1, "%s: sums of accounts, tellers, branches and history: %s" % (when, sums))
        return count


def part_postgres(t):
    place = postgres_bin()
    try:
        account = pwd.getpwnam("postgres")
    except KeyError:
        account = pwd.getpwnam("nobody")
    seconds, scale = (60, 10) if FULL else (3, 1)
    server = Server(t, place, account)
    try:
        server.tool("initdb", "-k", "-A", "trust", "-U", "bench", "-E", "UTF8", "--no-locale", "-D", server.data)
        server.start()
        server.tool("pgbench", "-i", "-q", "-s", str(scale))
        out = server.tool("pgbench", "-c", "4", "-j", "2", "-T", str(seconds), "-n")
        done = int(re.search(r"transactions actually processed: (\d+)", out).group(1))
        count = server.sums("after pgbench")
        check(count == done, "pgbench did %d transactions, history has %d" % (done, count))
        # Killed in the midst of work, with one more client that keeps what was acknowledged.
        load = subprocess.Popen([os.path.join(place, "pgbench"), "-c", "4", "-j", "2", "-T", "600", "-n", "-h", server.sock, "-U", "bench", "postgres"],
                                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=account.pw_uid,
                                group=account.pw_gid, extra_groups=[], cwd=server.sock)
        time.sleep(5 if FULL else 1.5)
        acknowledged = server.sums("under load")
        killed = server.kill9()
        load.wait(60)
        server.start()
        check("was not properly shut down" in server.log(), "postgres did not recover:\n" + server.log()[-3000:])
        after = server.sums("after SIGKILL and recovery")
        check(after >= acknowledged, "%d transactions were there before SIGKILL, %d after" % (acknowledged, after))
        server.stop()
        server.tool("pg_checksums", "--check", "-D", server.data)
        t.again()
        server.start()
        check(server.sums("after a new mount") == after, "a new mount has other rows")
        if FULL:
            server.tool("pgbench", "-c", "2", "-t", "500", "-n")
            server.ask("vacuum full")
            server.ask("reindex database postgres")
            server.sums("after vacuum full")
        server.stop()
        server.tool("pg_checksums", "--check", "-D", server.data)
        rate = re.search(r"tps = ([\d.]+)", out).group(1)
        return "%d transactions in %d s (%s a second), %d processes killed, %d transactions after recovery" % (done, seconds, rate, killed, after)
    finally:
        if server.proc:
            server.kill9()


# ---- SQLite ------------------------------------------------------------------------------------------------------------

def sqlite_writer(path, who, count):
    db = sqlite3.connect(path, timeout=120, isolation_level=None)
    db.execute("pragma synchronous = normal")
    for i in range(count):
        db.execute("begin immediate")
        db.execute("insert into log(who, n, text) values(?, ?, ?)", (who, i, "x" * (i % 900)))
        db.execute("update total set n = n + 1")
        db.execute("commit")
    db.close()


def spawn(function, *args):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function(*args)
            code = 0
        finally:
            os._exit(code)
    return pid


def part_sqlite(t):
    count = 5000 if FULL else 300
    path = t.mnt + "/wal.db"
    db = sqlite3.connect(path, isolation_level=None)
    check(db.execute("pragma journal_mode = wal").fetchone()[0] == "wal", "no WAL mode here")
    db.execute("create table log(id integer primary key, who text, n integer, text text)")
    db.execute("create table total(n integer)")
    db.execute("insert into total values(0)")
    db.close()
    writers = [spawn(sqlite_writer, path, who, count) for who in ("one", "two")]
    victim = spawn(sqlite_writer, path, "victim", 10 ** 9)
    time.sleep(1)
    os.kill(victim, signal.SIGKILL)
    os.waitpid(victim, 0)
    for pid in writers:
        check(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "a writer failed")
    for when in ("at once", "after a new mount"):
        db = sqlite3.connect(path)
        check(db.execute("pragma integrity_check").fetchone()[0] == "ok", "integrity_check " + when)
        rows = dict(db.execute("select who, count(*) from log group by who"))
        check(rows["one"] == count and rows["two"] == count, "rows %s: %s" % (when, rows))
        check(db.execute("select n from total").fetchone()[0] == sum(rows.values()), "total %s" % when)
        db.close()
        if when == "at once":
            t.again()
    shell = shutil.which("sqlite3")
    if shell:
        check(run([shell, path, "pragma integrity_check"])[1].strip() == "ok", "integrity_check of the shell")
    return "%d rows of two writers, %d of one that was killed" % (2 * count, rows.get("victim", 0))


# ---- a build -----------------------------------------------------------------------------------------------------------

def part_build(t):
    need("meson", "ninja", "cc")
    source = t.mnt + "/source"
    shutil.copytree(TOP, source, symlinks=True, ignore=lambda folder, names: [n for n in names if n.startswith((".", "build", "__pycache__"))])
    plain = dict(os.environ, PATH="/usr/bin:/bin:/usr/sbin:/sbin:" + os.environ.get("PATH", ""))
    run(["meson", "setup", "build", "-Dunit_tests=disabled"], cwd=source, env=plain, timeout=600)
    targets = ["fs/keepfs", "tools/keepctl"] if FULL else ["kms/base/libbase.a"]
    run(["ninja", "-j2", "-C", "build", *targets], cwd=source, env=plain, timeout=7200)
    if FULL:
        check(run([source + "/build/tools/keepctl", "--version"])[1].startswith("keepctl "), "what was built here does not run")
        check(run([source + "/build/fs/keepfs", "--version"])[1].startswith("keepfs "), "what was built here does not run")
    else:
        with open(t.mnt + "/hello.c", "w") as f:
            f.write('#include <stdio.h>\nint main(void) { return puts("built here") < 0; }\n')
        run(["cc", "-o", t.mnt + "/hello", t.mnt + "/hello.c"])
        check(run([t.mnt + "/hello"])[1] == "built here\n", "what was built here does not run")
    check("no work to do" in run(["ninja", "-C", "build", *targets], cwd=source, env=plain, timeout=7200)[1], "built twice: times are off")
    t.again()
    check("no work to do" in run(["ninja", "-C", "build", *targets], cwd=source, env=plain, timeout=7200)[1], "built again after a new mount: times are off")
    return ", ".join(targets)


# ---- trees -------------------------------------------------------------------------------------------------------------

def rich_tree(root, files):
    """Files of many kinds with xattrs, ACLs, holes, links and owners."""
    make_tree(root, files, seed=5, big=1)
    rng = random.Random(6)
    paths = [os.path.join(base, name) for base, _, names in sorted(os.walk(root)) for name in sorted(names)]
    paths = [path for path in paths if not os.path.islink(path)]
    for path in rng.sample(paths, len(paths) // 4):
        os.setxattr(path, "user.note", rng.randbytes(rng.choice([1, 20, 300])))
        os.setxattr(path, "user.empty", b"")
    for path in rng.sample(paths, len(paths) // 4):
        os.chown(path, rng.choice([0, 41001, 100000, 2 ** 31 + 7]), rng.choice([0, 42010, 100000]))
    for path in rng.sample(paths, len(paths) // 4):
        run(["setfacl", "-m", "u:%d:rw,g:%d:r" % (rng.randint(40000, 50000), rng.randint(40000, 50000)), path])
    folders = [os.path.join(base, name) for base, names, _ in sorted(os.walk(root)) for name in sorted(names)]
    for path in rng.sample(folders, min(len(folders), 5)):
        run(["setfacl", "-d", "-m", "u:41001:rwx,g:42010:rx", path])
        os.setxattr(path, "user.folder", b"yes")
        os.chmod(path, 0o2770)
    for i, (size, data) in enumerate([(1 << 20, [(65536, 8192)]), (8 << 20, [(0, 4096), (4 << 20, 100000)]), (3 << 20, []), (5000000, [(4999000, 1000)])]):
        with open("%s/sparse%d" % (root, i), "wb") as f:
            f.truncate(size)
            for at, length in data:
                f.seek(at)
                f.write(rng.randbytes(length))
    paths = [os.path.join(base, name) for base, _, names in os.walk(root) for name in names]
    for i, path in enumerate(paths):
        os.utime(path, ns=(10 ** 18, 10 ** 18 + i), follow_symlinks=False)


def sparse_maps(root):
    return [data_map("%s/sparse%d" % (root, i)) for i in range(4)]


def copy_tar(source, target):
    os.mkdir(target)
    flags = ["--xattrs", "--xattrs-include=*", "--acls", "--sparse", "--format=posix"]
    maker = subprocess.Popen(["tar", "-C", source, *flags, "-cf", "-", "."], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    done = subprocess.run(["tar", "-C", target, *flags, "--same-owner", "-p", "-xf", "-"], stdin=maker.stdout, stderr=subprocess.PIPE)
    said = maker.stderr.read().decode()
    said = "\n".join(line for line in said.split("\n") if "socket ignored" not in line).strip()
    check(maker.wait() == 0 and done.returncode == 0 and not said and not done.stderr, "tar: %s %s" % (said, done.stderr.decode()))


def part_tar(t):
    need("tar", "setfacl", "getfacl")
    plain, inside, back = t.dir + "/tree", t.mnt + "/tree", t.dir + "/tree-back"
    rich_tree(plain, 3000 if FULL else 150)
    copy_tar(plain, inside)
    same(plain, inside, "tar into the mount")
    t.again()
    copy_tar(inside, back)
    same(plain, back, "tar out of the mount")
    check(sparse_maps(plain) == sparse_maps(inside), "holes in the mount: %s, not %s" % (sparse_maps(inside), sparse_maps(plain)))
    check(sparse_maps(plain) == sparse_maps(back), "holes after the round trip: %s, not %s" % (sparse_maps(back), sparse_maps(plain)))
    for tool in (["getfattr", "-R", "-h", "-d", "-m", "-", "."], ["getfacl", "-R", "-P", "-n", "."]):
        if shutil.which(tool[0]):
            def blocks(top):
                return sorted(run(tool, cwd=top)[1].split("\n\n"))
            check(blocks(plain) == blocks(inside), "%s says something else in the mount" % tool[0])
    return "%d entries" % len(describe(plain))


def part_rsync(t):
    need("rsync", "setfacl")
    plain, inside, back = t.dir + "/rtree", t.mnt + "/rtree", t.dir + "/rtree-back"
    rich_tree(plain, 3000 if FULL else 100)
    for source, target in ((plain, inside), (inside, back)):
        run(["rsync", "-aHAX", source + "/", target + "/"], timeout=3600)
        same(source, target, "rsync to " + target)
        left = run(["rsync", "-aHAXcin", "--delete", source + "/", target + "/"], timeout=3600)[1]
        check(left == "", "rsync would do it again:\n" + left[:2000])
        t.again()
    with open(plain + "/sparse0", "r+b") as f:
        f.seek(500000)
        f.write(b"changed")
    os.unlink(plain + "/sparse1")
    run(["rsync", "-aHAX", "--delete", "--inplace", "--no-whole-file", plain + "/", inside + "/"], timeout=3600)
    same(plain, inside, "rsync of changes")
    return "%d entries" % len(describe(plain))


# ---- the tree of a container image ---------------------------------------------------------------------------------------

def oci_tree(root, setcap):
    os.mkdir(root)
    for name, mode, uid, gid in (("bin", 0o755, 0, 0), ("dev", 0o755, 0, 0), ("etc", 0o755, 0, 0), ("home", 0o755, 0, 0), ("home/u", 0o700, 1000, 1000),
                                 ("tmp", 0o1777, 0, 0), ("var", 0o755, 0, 0), ("var/mail", 0o2775, 0, 8), ("var/empty", 0o555, 0, 0), ("etc/conf.d", 0o750, 0, 42)):
        os.mkdir("%s/%s" % (root, name))
        os.chown("%s/%s" % (root, name), uid, gid)
        os.chmod("%s/%s" % (root, name), mode)
    for name, kind, major, minor, mode in (("null", stat.S_IFCHR, 1, 3, 0o666), ("tty", stat.S_IFCHR, 5, 0, 0o620), ("loop0", stat.S_IFBLK, 7, 0, 0o660),
                                           ("big", stat.S_IFCHR, 511, 70000, 0o600), ("whiteout", stat.S_IFCHR, 0, 0, 0)):
        path = "%s/dev/%s" % (root, name)
        os.mknod(path, kind | mode, os.makedev(major, minor))
        os.chmod(path, mode)
        os.chown(path, 0, 5)
    os.mkfifo(root + "/dev/initctl", 0o600)
    with socket.socket(socket.AF_UNIX) as s:
        here = os.getcwd()
        os.chdir(root + "/dev")
        s.bind("log")
        os.chdir(here)
    for name, uid, gid, mode in (("id", 0, 0, 0o4755), ("wall", 0, 5, 0o2755), ("both", 1000, 5, 0o6711), ("plain", 0, 0, 0o755), ("capable", 0, 0, 0o755)):
        shutil.copyfile(shutil.which("id"), "%s/bin/%s" % (root, name))
        os.chown("%s/bin/%s" % (root, name), uid, gid)
        os.chmod("%s/bin/%s" % (root, name), mode)
    run([setcap, "cap_net_raw,cap_net_bind_service+ep", root + "/bin/capable"])
    for i in range(60):
        path = "%s/home/u/%d" % (root, i)
        with open(path, "wb") as f:
            f.write(b"%d" % i * (i * 100))
        os.chown(path, 1000 + i * 7919, 100000 + i)
        os.chmod(path, 0o600 + i % 64)
    for i in range(8):
        os.link(root + "/home/u/7", "%s/var/link%d" % (root, i))
    os.link(root + "/dev/null", root + "/dev/null2")
    os.symlink("/nowhere/at/all", root + "/etc/dangling")
    os.symlink("bin", root + "/sbin")
    os.lchown(root + "/sbin", 1000, 1000)
    os.link(root + "/etc/dangling", root + "/etc/dangling2", follow_symlinks=False)
    run(["setfacl", "-m", "u:1000:rwx,g:42:r-x", root + "/etc/conf.d"])
    run(["setfacl", "-d", "-m", "u:1000:rwx,g:42:r-x", root + "/etc/conf.d"])
    with open(root + "/etc/conf.d/inherits", "w") as f:
        f.write("x")
    run(["setfacl", "-m", "u:4294967294:r", root + "/home/u/3"])
    os.setxattr(root + "/var", "trusted.overlay.opaque", b"y")
    os.setxattr(root + "/sbin", "trusted.note", b"of a link", follow_symlinks=False)
    os.setxattr(root + "/etc", "user.origin", b"layer 1")
    for base, folders, names in sorted(os.walk(root), reverse=True):
        for name in sorted(names) + folders:
            os.utime(os.path.join(base, name), ns=(10 ** 18, 10 ** 18 + len(name)), follow_symlinks=False)


def capability(path):
    try:
        return os.getxattr(path, "security.capability").hex()
    except OSError as e:
        return errno.errorcode[e.errno]


def write_at(path, flags=0):
    fd = os.open(path, os.O_WRONLY | flags)
    os.write(fd, b"\x7f")
    os.close(fd)


def map_write(path):
    fd = os.open(path, os.O_RDWR)
    with mmap.mmap(fd, 4096) as m:
        m[0] = 0x7f
    os.close(fd)


CHANGES = [("write", write_at), ("append", lambda p: write_at(p, os.O_APPEND)), ("truncate", lambda p: os.truncate(p, 100)),
           ("open with O_TRUNC", lambda p: os.close(os.open(p, os.O_WRONLY | os.O_TRUNC))), ("chown", lambda p: os.chown(p, 1, -1)),
           ("chmod", lambda p: os.chmod(p, 0o700)), ("rename", lambda p: (os.rename(p, p + "~"), os.rename(p + "~", p))),
           ("fallocate", lambda p: call_fallocate(p)), ("a shared mapping", lambda p: map_write(p)), ("reading", lambda p: digest(p))]


def call_fallocate(path):
    fd = os.open(path, os.O_WRONLY)
    os.posix_fallocate(fd, 0, 1 << 20)
    os.close(fd)


def changes_clear(top, setcap):
    """What is left of a file's capabilities and set-id bits after each kind of change: by root, and by the file's owner."""
    out = []
    for who in (0, 41001):
        for name, change in CHANGES:
            path = "%s/cleared" % top
            shutil.copyfile(shutil.which("id"), path)
            os.chown(path, who, who)
            os.chmod(path, 0o6755)
            run([setcap, "cap_net_raw+ep", path])
            pid = os.fork()
            if pid == 0:
                code = 0
                try:
                    os.setgroups([])
                    os.setresgid(who, who, who)
                    os.setresuid(who, who, who)
                    change(path)
                except OSError as e:
                    code = e.errno
                os._exit(code)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            out.append("%s by %d: %s, mode %o, capability %s" % (name, who, errno.errorcode.get(code, code), os.stat(path).st_mode & 0o7777, capability(path)))
            os.unlink(path)
    return out


def set_id_works(top):
    """The program `id` in the tree, run by another: with its owner's rights where the mount lets it."""
    done = as_user(41001, 41001, [top + "/bin/id"])
    return "euid=0" in done.stdout


def part_oci(t):
    setcap, _, _ = need("setcap", "setfacl", "tar")
    plain, inside, back = t.dir + "/oci", t.mnt + "/oci", t.dir + "/oci-back"
    oci_tree(plain, setcap)
    oci_tree(inside, setcap)
    same(plain, inside, "the image's tree")
    check(set_id_works(plain) and set_id_works(inside), "a set-uid program does not run with its owner's rights under -o suid")
    with open(inside + "/dev/null", "w") as f:
        f.write("gone")
    check(os.path.getsize(inside + "/dev/null") == 0, "/dev/null in the mount keeps what is written to it under -o dev")
    t.again()
    same(plain, inside, "the image's tree after a new mount")
    check(set_id_works(inside), "a set-uid program after a new mount")
    run(["cp", "-a", inside, t.mnt + "/oci-copy"])
    same(plain, t.mnt + "/oci-copy", "cp -a of the image's tree")
    for name in ("/dev/log", "/dev/null2"):  # tar leaves sockets out, and does not know that two names are one device
        os.unlink(plain + name)
        os.unlink(inside + name)
    copy_tar(inside, back)
    same(plain, back, "the image's tree through tar")
    copy_tar(back, t.mnt + "/oci-again")
    same(plain, t.mnt + "/oci-again", "the image's tree through tar and back")
    compare(dict(enumerate(changes_clear(t.dir, setcap))), dict(enumerate(changes_clear(t.mnt, setcap))), "what changes clear")
    return "%d entries, %d kinds of change" % (len(describe(plain)), 2 * len(CHANGES))


# ---- all ---------------------------------------------------------------------------------------------------------------

PARTS = {"git": part_git, "postgres": part_postgres, "sqlite": part_sqlite, "build": part_build, "tar": part_tar, "rsync": part_rsync, "oci": part_oci}
OPTIONS = "allow_other,suid,dev"


class Place(Vault):
    def again(self):
        """A new mount: what is there now comes from the disk."""
        self.unmount()
        self.mount(options=OPTIONS)


def programs():
    global FULL
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true")
    parser.add_argument("part", nargs="*", choices=[[]] + list(PARTS))
    args = parser.parse_args()
    FULL = args.full
    if os.getuid() != 0:
        skip("only root can make owners, devices and capabilities")
    need_fuse()
    for name in args.part or PARTS:
        t = Place()
        os.chmod(t.dir, 0o755)
        t.init()
        t.mount(options=OPTIONS)
        os.chmod(t.mnt, 0o755)
        t.keepctl("role", "assign", "everyone", "Writer")
        start = time.time()
        try:
            said = PARTS[name](t)
        except Missing as missing:
            check(not FULL, "%s: %s" % (name, missing))
            print("SKIP %s: %s" % (name, missing), flush=True)
            continue
        t.unmount()
        check(t.sanitizer_report() is None, "%s" % t.sanitizer_report())
        check(t.keepctl("audit", "verify", json=True)[0]["ok"], "the audit trail after " + name)
        print("%-8s %6.1f s  %s" % (name, time.time() - start, said), flush=True)
        t.cleanup()


main(programs)
