"""What the test programs share: a keystore and a vault of their own, mounts, kills by pid, trees to compare.

KEEPFS and KEEPCTL name the programs (else they are looked for on the PATH). Every Vault lives in its own directory, which
is removed at exit together with its mounts; only processes that it started are ever killed.
"""
import atexit
import hashlib
import json
import os
import random
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import time

KEEPFS = os.environ.get("KEEPFS", "keepfs")
KEEPCTL = os.environ.get("KEEPCTL", "keepctl")
SKIP = 77  # meson: this test cannot run here


class Failure(Exception):
    """A check of a test failed; the text says what was expected and what came."""


def check(condition, text):
    if not condition:
        raise Failure(text)


def skip(text):
    print("SKIP: " + text)
    sys.exit(SKIP)


def main(function):
    """Run a test program's main function: 0 when it returns, 1 with the reason when a check fails."""
    start = time.time()
    try:
        function()
    except Failure as failure:
        print("FAILED: %s" % failure)
        sys.exit(1)
    print("ok, %.1f s" % (time.time() - start))
    sys.exit(0)


def need_fuse():
    if not os.path.exists("/dev/fuse") or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        skip("no /dev/fuse here")


def run(argv, ok=(0,), env=None, cwd=None, stdin=None, timeout=600):
    """Run a program, return (exit code, stdout, stderr); an exit code that is not in ok fails the test. ok=None: any."""
    done = subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL if stdin is None else None, input=stdin,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, cwd=cwd, timeout=timeout)
    out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    if ok is not None and done.returncode not in ok:
        raise Failure("%s: exit %d, expected %s\n%s%s" % (" ".join(map(str, argv)), done.returncode, ok, out[-2000:], err[-2000:]))
    return done.returncode, out, err


def json_lines(text):
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def is_mounted(path):
    with open("/proc/self/mountinfo") as table:
        return any(line.split()[4].replace("\\040", " ") == path for line in table)


def public_copy(program):
    """A copy that every user can run: a build directory can lie where only its owner may go. Removed at exit."""
    place = tempfile.mkdtemp(prefix="keepfs-bin-")
    atexit.register(shutil.rmtree, place, True)
    os.chmod(place, 0o755)
    return shutil.copy(shutil.which(program), place)


def preloaded(library):
    """The environment in which keepfs loads this library first, behind a sanitizer's runtime where it has one."""
    linked = run(["ldd", shutil.which(KEEPFS)])[1].splitlines()
    first = [line.split("=>")[1].split()[0] for line in linked if "libasan" in line or "libtsan" in line]
    return {"LD_PRELOAD": " ".join(first + [os.path.abspath(library)])}


def wait_for(condition, seconds, what):
    end = time.time() + seconds
    while not condition():
        if time.time() > end:
            raise Failure("waited %d s for %s" % (seconds, what))
        time.sleep(0.01)


def alive(pid):
    try:
        with open("/proc/%d/stat" % pid) as f:
            return f.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def drop_caches():
    """Forget clean caches, where we may."""
    try:
        with open("/proc/sys/vm/drop_caches", "w") as f:
            f.write("3")
        return True
    except OSError:
        return False


class Vault:
    """A keystore and vaults under one directory of their own.

    base: where that directory is made (default: the usual place for temporary files; on tmpfs or a small file system for some
    tests). foreground: run keepfs with -f as our own child, its messages in .log; otherwise it becomes a daemon as for users.
    """

    def __init__(self, base=None, foreground=True):
        self.dir = tempfile.mkdtemp(prefix="kf", dir=base or os.environ.get("KEEPFS_TEST_DIR"))
        self.keystore = os.path.join(self.dir, "ks")
        self.vault = os.path.join(self.dir, "vault")
        self.mnt = os.path.join(self.dir, "mnt")
        self.log = os.path.join(self.dir, "log")
        self.foreground = foreground
        self.env = dict(os.environ, KEEPFS_KEYSTORE=self.keystore)
        self.mounts = []
        self.procs = []   # our children: (Popen)
        self.pids = []    # daemons that we started
        os.mkdir(self.mnt)
        atexit.register(self.cleanup)

    # -- programs -------------------------------------------------------------------------------------------------

    def keepctl(self, *args, json=False, ok=(0,), stdin=None, timeout=600):
        """Run keepctl; with json the parsed lines, else (exit code, stdout, stderr)."""
        argv = [KEEPCTL] + (["--json"] if json else []) + [str(a) for a in args]
        code, out, err = run(argv, ok=ok, env=self.env, stdin=stdin, timeout=timeout)
        if json:
            return json_lines(out)
        return code, out, err

    def init(self, *args, vault=None):
        return self.keepctl("init", vault or self.vault, *args)

    # -- mounting -------------------------------------------------------------------------------------------------

    def mount(self, options=None, vault=None, mnt=None, wait=60, env=None):
        """Mount; returns when the mount is usable. With -f the process is in self.proc."""
        vault, mnt = vault or self.vault, mnt or self.mnt
        os.makedirs(mnt, exist_ok=True)
        argv = [KEEPFS, vault, mnt] + (["-o", options] if options else [])
        env = dict(self.env, **(env or {}))
        if not self.foreground:
            run(argv, env=env, timeout=wait)
            check(is_mounted(mnt), "keepfs returned 0, but nothing is mounted at %s" % mnt)
            self.pids.append(self.service_pid())
        else:
            with open(self.log, "ab") as log:
                proc = subprocess.Popen(argv + ["-f"], env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            self.procs.append(proc)
            self.proc = proc

            def ready():
                if is_mounted(mnt):
                    return True
                if proc.poll() is not None:
                    raise Failure("keepfs -f ended with %d before it had mounted:\n%s" % (proc.returncode, self.log_tail()))
                return False
            wait_for(ready, wait, "the mount at %s" % mnt)
            os.stat(mnt)
        self.mounts.append(mnt)
        return self

    def service_pid(self):
        return int(self.keepctl("status", json=True)[0]["pid"])

    def pid(self):
        """The service that holds the mount."""
        if self.foreground and self.procs:
            return self.procs[-1].pid
        return self.pids[-1] if self.pids else self.service_pid()

    def unmount(self, mnt=None, wait=60, timeout_ok=False):
        """Unmount as a user does, and wait for a service that ends with its last mount."""
        mnt = mnt or self.mnt
        end = time.time() + 60  # somebody may be looking at every mount of the machine
        while True:
            code, _, err = run(["fusermount3", "-u", mnt], ok=None)
            if code == 0 or not is_mounted(mnt):
                break
            if time.time() > end:
                raise Failure("cannot unmount %s: %s" % (mnt, err))
            time.sleep(0.05)
        if mnt in self.mounts:
            self.mounts.remove(mnt)
        if not self.mounts:
            self.wait_end(wait)

    def wait_end(self, wait=60):
        """Wait until every service that we started is gone; a child's exit code must be 0."""
        for proc in self.procs:
            try:
                code = proc.wait(wait)
            except subprocess.TimeoutExpired:
                raise Failure("keepfs (pid %d) is still there %d s after its last mount went" % (proc.pid, wait))
            check(code == 0, "keepfs ended with %d:\n%s" % (code, self.log_tail()))
        self.procs = []
        for pid in self.pids:
            wait_for(lambda: not alive(pid), wait, "the service (pid %d) to end" % pid)
        self.pids = []

    def kill9(self):
        """SIGKILL the service, then take the dead mounts away."""
        for proc in self.procs:
            proc.send_signal(signal.SIGKILL)
            proc.wait(60)
        self.procs = []
        for pid in self.pids:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
            wait_for(lambda: not alive(pid), 60, "pid %d to die" % pid)
        self.pids = []
        self.detach()

    def detach(self):
        for mnt in list(self.mounts):
            while is_mounted(mnt):
                if run(["fusermount3", "-u", "-z", mnt], ok=None)[0] != 0:
                    run(["umount", "-l", mnt], ok=None)
            self.mounts.remove(mnt)

    def log_tail(self, size=4000):
        try:
            with open(self.log, errors="replace") as f:
                return f.read()[-size:]
        except OSError:
            return ""

    def sanitizer_report(self):
        """The first sanitizer report in the log, or None."""
        try:
            with open(self.log, errors="replace") as f:
                text = f.read()
        except OSError:
            return None
        for mark in ("ERROR: AddressSanitizer", "WARNING: ThreadSanitizer", "runtime error:", "ERROR: LeakSanitizer"):
            at = text.find(mark)
            if at >= 0:
                return text[max(0, at - 200):at + 4000]
        return None

    def cleanup(self):
        for proc in self.procs:
            if proc.poll() is None:
                self.detach()
                try:
                    proc.wait(5)
                except subprocess.TimeoutExpired:
                    proc.kill()
                    proc.wait()
        self.procs = []
        self.detach()
        for pid in self.pids:
            end = time.time() + 5
            while alive(pid) and time.time() < end:
                time.sleep(0.05)
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        self.pids = []
        if os.environ.get("KEEPFS_TEST_KEEP"):
            print("kept: " + self.dir)
            return
        shutil.rmtree(self.dir, ignore_errors=True)


# -- trees -----------------------------------------------------------------------------------------------------------

def make_tree(root, files, seed=1, big=2, plain=False):
    """A tree of directories, files of many sizes, links and hard links, the same for the same seed. Returns its file count.
    big: so many files of 6 MiB. plain: no links and no long names."""
    rng = random.Random(seed)
    words = ("alpha beta gamma delta header source config index readme naïve größe 数据 with space and.dots long").split()
    dirs = [root]
    os.makedirs(root, exist_ok=True)
    count = 0
    while count < files:
        if rng.random() < 0.08 and len(dirs) < files // 12 + 2:
            path = os.path.join(rng.choice(dirs), "d%d_%s" % (len(dirs), rng.choice(words)))
            if len(path) < 900:
                os.mkdir(path)
                dirs.append(path)
            continue
        parent = rng.choice(dirs)
        name = "f%d_%s" % (count, rng.choice(words))
        if rng.random() < 0.01 and not plain:
            name += "n" * rng.randint(140, 220)
        path = os.path.join(parent, name[:200])
        kind = 1 if plain else rng.random()
        if kind < 0.02:
            os.symlink(rng.choice(["../x", "/etc/hostname", "a" * 300, name]), path)
        elif kind < 0.03 and count:
            with open(path, "wb") as f:
                f.write(b"linked")
            os.link(path, path[:-1] + "~")
            count += 1
        else:
            size = rng.choice([0, 1, 17, 300, 4095, 4096, 4097, rng.randint(1, 20000), rng.randint(1, 20000), rng.randint(1, 60000)])
            if big and count % (files // big + 1) == 5:
                size = 6 * 1024 * 1024 + 123
            with open(path, "wb") as f:
                f.write(rng.randbytes(size))
            os.chmod(path, rng.choice([0o644, 0o644, 0o600, 0o755, 0o640]))
            os.utime(path, ns=(10**18 + count, 10**18 + rng.randrange(10**17)))
        count += 1
    return count


def digest(path):
    h = hashlib.sha256()
    with open(path, "rb") as f:
        while True:
            chunk = f.read(1 << 20)
            if not chunk:
                return h.hexdigest()
            h.update(chunk)


def snapshot(root, times=True):
    """{relative path: what it is}, to compare two trees with."""
    seen = {}
    for base, dirs, names in os.walk(root):
        for name in dirs + names:
            path = os.path.join(base, name)
            st = os.lstat(path)
            rel = os.path.relpath(path, root)
            if stat.S_ISLNK(st.st_mode):
                seen[rel] = ("link", os.readlink(path))
            elif stat.S_ISDIR(st.st_mode):
                seen[rel] = ("dir", stat.S_IMODE(st.st_mode))
            else:
                seen[rel] = ("file", stat.S_IMODE(st.st_mode), st.st_size, st.st_nlink, st.st_mtime_ns if times else 0, digest(path))
    return seen


def compare(expected, found, what):
    """Fail with the first differences of two snapshots."""
    if expected == found:
        return
    lines = []
    for path in sorted(set(expected) | set(found)):
        if expected.get(path) != found.get(path):
            lines.append("%r: expected %r, found %r" % (path, expected.get(path), found.get(path)))
    raise Failure("%s: %d differences\n%s" % (what, len(lines), "\n".join(lines[:10])))


# -- the format, as far as tests look at it (fs/FORMAT.md) -------------------------------------------------------------

PAGE = 4096
WRAP_AT = (512, 1536)
WRAP_SIZE = 768
MAGIC_FILE, MAGIC_CONFIG = b"KEEPFSF1", b"KEEPFSV1"


def parse_header(path):
    """{magic, vault_id, file_id, key_id, version, sequence, slots}: the live wrap slot of a header page."""
    with open(path, "rb") as f:
        page = f.read(PAGE)
    check(len(page) == PAGE, "%s is shorter than a page" % path)
    live, slots = None, 0
    for at in WRAP_AT:
        slot = page[at:at + WRAP_SIZE]
        if slot == bytes(WRAP_SIZE):
            continue
        slots += 1
        if hashlib.sha256(slot[:760]).digest()[:8] != slot[760:]:
            continue
        sequence, key_id, version = struct.unpack_from("<Q16sI", slot)
        if live is None or sequence > live[0]:
            live = (sequence, key_id, version)
    check(live is not None, "%s has no valid wrap slot" % path)
    return {"magic": page[:8], "vault_id": page[16:32].hex(), "file_id": page[32:48].hex(), "key_id": live[1].hex(),
            "version": live[2], "sequence": live[0], "slots": slots}


def backing_files(vault):
    """Paths of all files with a header page, contents and the config; of hard links one."""
    found, inodes = [], set()
    for base, _, names in os.walk(vault):
        for name in names:
            path = os.path.join(base, name)
            if os.path.islink(path) or not os.path.isfile(path) or name == "keepfs.dir" or name.startswith(("N.", "tmp.")):
                continue
            inode = os.stat(path).st_ino
            if inode not in inodes:
                inodes.add(inode)
                found.append(path)
    return sorted(found)
