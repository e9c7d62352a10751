#!/usr/bin/python3
"""keepfs beside a plain directory, gocryptfs, securefs and, if given, a bare passthrough: seconds and ratio to the plain directory.

Rounds are interleaved: in each round every file system does all workloads on a fresh cipher directory; the median of the rounds
counts. Cipher directories are on tmpfs by default (--base), so that only CPU and requests count. "cold": freshly mounted, caches
dropped. What changes files is timed with a syncfs of the mount at its end, for all alike.
Full size: --rounds 3 (--scale 1 is the default). --passthrough 'COMMAND {dir} {mnt}' adds a column.
"""
import argparse
import ctypes
import os
import shlex
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import keepfs_testlib as t

libc = ctypes.CDLL(None, use_errno=True)


def syncfs(path):
    fd = os.open(path, os.O_RDONLY)
    t.check(libc.syncfs(fd) == 0, "syncfs of %s failed" % path)
    os.close(fd)


class Native:
    name = "native"

    def __init__(self, base, args):
        self.dir = tempfile.mkdtemp(prefix="kfb", dir=base)
        self.args, self.mnt = args, os.path.join(self.dir, "plain")
        os.mkdir(self.mnt)

    def mount(self):
        pass

    def unmount(self):
        pass

    def done(self):
        self.unmount()
        shutil.rmtree(self.dir)

    def cold(self):
        self.unmount()
        t.drop_caches()
        self.mount()
        os.listdir(self.mnt)


class Command(Native):
    """A file system with a command that mounts and stays, or goes to the background."""

    def __init__(self, base, args):
        super().__init__(base, args)
        self.cipher = os.path.join(self.dir, "cipher")
        os.mkdir(self.cipher)
        self.proc = None
        self.create()
        self.mount()

    def create(self):
        pass

    def mount(self):
        self.proc = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        t.wait_for(lambda: t.is_mounted(self.mnt), 30, "%s to mount" % self.name)

    def unmount(self):
        if self.proc is None:
            return
        while t.is_mounted(self.mnt):
            if t.run(["fusermount3", "-u", self.mnt], ok=None)[0]:
                time.sleep(0.05)
        self.proc.wait(60)
        self.proc = None


class Gocryptfs(Command):
    name = "gocryptfs"

    def create(self):
        self.secret = os.path.join(self.dir, "pass")
        with open(self.secret, "w") as f:
            f.write("benchmark\n")
        t.run(["gocryptfs", "-init", "-q", "-scryptn", "10", "-passfile", self.secret, self.cipher])

    def command(self):
        return ["gocryptfs", "-fg", "-q", "-nosyslog", "-passfile", self.secret, self.cipher, self.mnt]


class Securefs(Command):
    name = "securefs"

    def create(self):
        t.run(["securefs", "create", "--pass", "benchmark", "-r", "1", "--pbkdf", "pkcs5-pbkdf2-hmac-sha256", self.cipher])

    def command(self):
        return ["securefs", "mount", "--pass", "benchmark", self.cipher, self.mnt]


class Passthrough(Command):
    name = "passthrough"

    def command(self):
        return [a.format(dir=self.cipher, mnt=self.mnt) for a in shlex.split(self.args.passthrough)]


class Keepfs(Native):
    name = "keepfs"

    def __init__(self, base, args):
        self.v = t.Vault(base=base)
        self.mnt, self.args = self.v.mnt, args
        self.v.init()
        self.mount()

    def mount(self):
        self.v.mount(self.args.options)

    def unmount(self):
        if self.v.mounts:
            self.v.unmount()

    def done(self):
        self.unmount()
        shutil.rmtree(self.v.dir)


class Workloads:
    """The workloads in the order they run; each returns its seconds."""

    ORDER = ("seqwrite", "seqread_cold", "seqread_warm", "randread4k_cold", "randwrite4k_fsync", "seqread_2procs_cold", "append_80B", "untar",
             "lsR_cold", "lsR_warm", "tar_read", "rm_rf", "create_4000x1K", "read_4000x1K_cold", "sqlite_200tx")

    def __init__(self, fs, args, tar):
        self.fs, self.args, self.tar = fs, args, tar
        self.m = fs.mnt
        self.bytes = max(int(512 * args.scale), 2) << 20
        self.count = max(int(16384 * args.scale), 100)
        self.files = max(int(4000 * args.scale), 50)

    def loops(self, *args, sync=False):
        out = t.run([self.args.loops] + [str(a) for a in args])[1]
        seconds = float(out.split()[-1])
        if sync:
            start = time.monotonic()
            syncfs(self.m)
            seconds += time.monotonic() - start
        return seconds

    def shell(self, command, sync=False):
        start = time.monotonic()
        t.run(["sh", "-c", command], env=dict(os.environ, M=self.m, TAR=self.tar, LC_ALL="C"))
        if sync:
            syncfs(self.m)
        return time.monotonic() - start

    def seqwrite(self):
        return self.loops("seqwrite", self.m + "/big", self.bytes, sync=True)

    def seqread_cold(self):
        self.fs.cold()
        return self.loops("seqread", self.m + "/big")

    def seqread_warm(self):
        return self.loops("seqread", self.m + "/big")

    def randread4k_cold(self):
        self.fs.cold()
        return self.loops("randread", self.m + "/big", self.count)

    def randwrite4k_fsync(self):
        return self.loops("randwrite", self.m + "/big", self.count, sync=True)

    def seqread_2procs_cold(self):
        os.unlink(self.m + "/big")
        for name in ("/one", "/two"):
            self.loops("seqwrite", self.m + name, self.bytes // 2)
        self.fs.cold()
        seconds = self.loops("seqread", self.m + "/one", self.m + "/two")
        os.unlink(self.m + "/one")
        os.unlink(self.m + "/two")
        return seconds

    def append_80B(self):
        return self.loops("append", self.m + "/log", self.count, sync=True)

    def untar(self):
        os.mkdir(self.m + "/tree")
        return self.shell('tar -xf "$TAR" -C "$M/tree"', sync=True)

    def lsR_cold(self):
        self.fs.cold()
        return self.shell('ls -lR "$M/tree" >/dev/null')

    def lsR_warm(self):
        return self.shell('ls -lR "$M/tree" >/dev/null')

    def tar_read(self):
        self.fs.cold()
        return self.shell('tar -cf - -C "$M/tree" . | cat >/dev/null')

    def rm_rf(self):
        return self.shell('rm -rf "$M/tree"', sync=True)

    def create_4000x1K(self):
        os.mkdir(self.m + "/many")
        return self.loops("create", self.m + "/many", self.files, 1024, sync=True)

    def read_4000x1K_cold(self):
        self.fs.cold()
        return self.loops("readall", self.m + "/many", self.files)

    def sqlite_200tx(self):
        start = time.monotonic()
        db = sqlite3.connect(self.m + "/test.db", isolation_level=None)
        db.execute("create table t (id integer primary key, v text)")
        for i in range(max(int(200 * self.args.scale), 10)):
            db.execute("begin")
            db.execute("insert into t (v) values (?)", ("value %d" % i,))
            db.execute("commit")
        db.close()
        syncfs(self.m)
        return time.monotonic() - start


def make_tar(base, scale):
    """A real tree where the machine has one of size, else a generated one; the same for all."""
    path = os.path.join(base, "kfbench-%d.tar" % os.getpid())
    if scale >= 1 and sum(len(f) for _, _, f in os.walk("/usr/include")) >= 7000:
        t.run(["tar", "-cf", path, "-C", "/usr", "include"])
        return path
    with tempfile.TemporaryDirectory(dir=base) as tree:
        t.make_tree(tree, max(int(7000 * scale), 100), big=0, plain=True)
        t.run(["tar", "-cf", path, "-C", tree, "."])
    return path


def table(kinds, results):
    print("%-20s" % "workload" + "".join("%18s" % k.name for k in kinds))
    slower = []
    for what in Workloads.ORDER:
        row, median = "%-20s" % what, {}
        for kind in kinds:
            if results[kind.name].get(what):
                median[kind.name] = statistics.median(results[kind.name][what])
                row += "%9.3fs %6.2fx" % (median[kind.name], median[kind.name] / max(median["native"], 1e-9))
            else:
                row += "%18s" % "-"
        print(row)
        if "keepfs" in median and median["keepfs"] > median.get("gocryptfs", 1e9):
            slower.append("%s (%.2fx)" % (what, median["keepfs"] / median["gocryptfs"]))
    if any(k.name == "gocryptfs" for k in kinds):
        print("slower than gocryptfs: " + (", ".join(slower) or "none"))


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--loops", required=True, help="the loops program")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--scale", type=float, default=1.0, help="part of the full sizes")
    p.add_argument("--base", default="/dev/shm")
    p.add_argument("--fs", default="native,keepfs,gocryptfs,securefs")
    p.add_argument("--passthrough", help="a command with {dir} and {mnt} that mounts and stays in the foreground")
    p.add_argument("--options", help="mount options of keepfs")
    args = p.parse_args()
    t.need_fuse()
    kinds = [k for k in (Native, Keepfs, Gocryptfs, Securefs, Passthrough) if k.name in args.fs.split(",")]
    kinds = [k for k in kinds if k in (Native, Keepfs) or (k is Passthrough) or shutil.which(k.name)]
    if args.passthrough and Passthrough not in kinds:
        kinds.append(Passthrough)
    results = {k.name: {} for k in kinds}
    tar = make_tar(args.base, args.scale)
    try:
        for number in range(args.rounds):
            for kind in kinds:
                fs = kind(args.base, args)
                work = Workloads(fs, args, tar)
                for what in Workloads.ORDER:
                    try:
                        seconds = getattr(work, what)()
                    except (t.Failure, OSError, sqlite3.Error) as failure:
                        t.check(kind not in (Native, Keepfs), "%s, %s: %s" % (kind.name, what, failure))
                        continue
                    results[kind.name].setdefault(what, []).append(seconds)
                fs.done()
            print("round %d of %d done" % (number + 1, args.rounds), file=sys.stderr, flush=True)
    finally:
        os.unlink(tar)
    print("medians of %d rounds, scale %g, cipher directories under %s, %d CPUs, Linux %s" %
          (args.rounds, args.scale, args.base, os.cpu_count(), os.uname().release))
    table(kinds, results)


t.main(main)
