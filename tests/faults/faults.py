#!/usr/bin/python3
"""A full disk, a spent quota, a broken disk: a script of 200 operations runs again and again, and each time another change of the backing
vault fails (ENOSPC, EDQUOT, EIO; once or for a while; after half of a write), or of the keystore. Promised: an operation that could not be carried out says so at
write, fsync or close; what was not touched is whole; a file whose operation failed holds, block by block, what it held before or what was to be
written; after a remount the same, fsck has nothing to say, and the audit trail verifies.

  --points N   so many places per kind of failure
  --every      every place, where one call to the vault fails and the writeback cache is on; --points of the others
"""
import argparse
import ctypes
import errno
import fcntl
import mmap
import os
import random
import struct
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import keepfs_testlib as t

OPERATIONS = 200
BLOCK = 4096
SPACE, SYNC, READ = 1, 2, 4
FOREVER = 1 << 62
libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
KEEP_SIZE, PUNCH = 1, 2


class Control:
    """struct control of inject.c."""

    def __init__(self, path, prefix):
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self.fd, 8192)
        self.map = mmap.mmap(self.fd, 8192)
        self.map[104:104 + len(prefix) + 1] = prefix.encode() + b"\0"

    def arm(self, at, until, error, half=False, classes=SPACE):
        struct.pack_into("<QQQiIII", self.map, 0, 0, at, until, error, half, classes, 0)

    def off(self):
        count, hits = struct.unpack_from("<Q", self.map, 0)[0], struct.unpack_from("<I", self.map, 36)[0]
        struct.pack_into("<I", self.map, 32, 0)
        return count, hits

    def call(self):
        return self.map[40:104].split(b"\0")[0].decode()


class Content:
    """What a file may hold: exactly `data`, or after a failed operation in each block what it had before or after one of its writes."""

    def __init__(self, data=b""):
        self.data, self.other = data, None

    def fail(self, *wanted):
        self.other = wanted

    def accepts(self, got):
        if self.other is None:
            return got == self.data
        states = (self.data,) + self.other
        if not min(map(len, states)) <= len(got) <= max(map(len, states)):
            return False
        return all(self.accepts_block(got[at:at + BLOCK], at, states) for at in range(0, len(got), BLOCK))

    def accepts_block(self, block, at, states):
        allowed = [(c[at:at + BLOCK] + bytes(BLOCK))[:len(block)] for c in states]
        return block in allowed or any(self.joined(block, old, new) for old, new in zip(allowed, allowed[1:]))

    @staticmethod
    def joined(block, old, new):
        """A block of which a part was written: that part is new, the rest is old."""
        return all(block[i] == new[i] for i in range(len(block)) if block[i] != old[i])


class Script:
    """The operations, the model of what they leave, and what failed on the way."""

    def __init__(self, root, seed):
        self.root, self.rng = root, random.Random(seed)
        self.files, self.dirs, self.links, self.xattrs = {}, {"": set()}, {}, {}
        self.unsure = set()   # names of which we know nothing any more but that they are old or new
        self.failed = []
        self.serial = 0

    def path(self, name):
        return os.path.join(self.root, name)

    def fresh(self):
        self.serial += 1
        long = "x" * 190 if self.serial % 9 == 0 else ""
        return os.path.join(self.rng.choice(sorted(self.dirs)), "n%d%s" % (self.serial, long))

    def pick(self):
        names = sorted(n for n, c in self.files.items() if c.other is None and n not in self.unsure)
        return self.rng.choice(names) if names else None

    def run(self):
        kinds = [self.create] * 5 + [self.append] * 4 + [self.overwrite] * 5 + [self.truncate] * 3 + [self.punch] * 2 + [
            self.rename] * 2 + [self.mkdir] * 2 + [self.symlink, self.link, self.unlink, self.setxattr, self.replace, self.allocate, self.several]
        for number in range(OPERATIONS):
            kind = self.rng.choice(kinds)
            seed = self.rng.random()
            kind(random.Random(seed))

    def attempt(self, what, work, done, undone):
        try:
            work()
        except OSError as e:
            self.failed.append((what, e.errno))
            undone()
        else:
            done()

    def write_to(self, path, flags, pieces, sync):
        fd = os.open(path, flags, 0o644)
        try:
            for off, data in pieces:
                os.pwrite(fd, data, off)
            if sync:
                os.fsync(fd)
        except OSError:
            try:
                os.close(fd)
            except OSError:
                pass
            raise
        os.close(fd)

    def change(self, name, pieces, sync, what):
        content, states = self.files[name], []
        wanted = bytearray(content.data)
        for off, data in pieces:
            if off > len(wanted):
                wanted += bytes(off - len(wanted))
            wanted[off:off + len(data)] = data
            states.append(bytes(wanted))
        self.attempt(what, lambda: self.write_to(self.path(name), os.O_RDWR, pieces, sync),
                     lambda: self.files.__setitem__(name, Content(states[-1])), lambda: content.fail(*states))

    def create(self, rng):
        name = self.fresh()
        data = rng.randbytes(rng.choice([0, 10, 4096, 5000, rng.randrange(40000), rng.randrange(200000)]))

        def undone():
            self.unsure.add(name)
            self.files[name] = Content()
            self.files[name].fail(data)
        self.attempt("create", lambda: self.write_to(self.path(name), os.O_RDWR | os.O_CREAT | os.O_EXCL, [(0, data)], rng.random() < .5),
                     lambda: self.files.__setitem__(name, Content(data)), undone)

    def append(self, rng):
        name = self.pick()
        if name:
            data = rng.randbytes(rng.choice([1, 100, 5000, rng.randrange(1, 60000)]))
            self.change(name, [(len(self.files[name].data), data)], rng.random() < .5, "append")

    def overwrite(self, rng):
        name = self.pick()
        if name:
            off = rng.randrange(len(self.files[name].data) + 5000)
            self.change(name, [(off, rng.randbytes(rng.randrange(1, 30000)))], rng.random() < .5, "overwrite")

    def several(self, rng):
        name = self.pick()
        if name:
            size = len(self.files[name].data) + 20000
            self.change(name, [(rng.randrange(size), rng.randbytes(rng.randrange(1, 9000))) for _ in range(5)], True, "several")

    def resize(self, name, wanted, what, work):
        content = self.files[name]

        def run():
            fd = os.open(self.path(name), os.O_RDWR)
            try:
                work(fd)
            finally:
                os.close(fd)
        self.attempt(what, run, lambda: self.files.__setitem__(name, Content(wanted)), lambda: content.fail(wanted))

    def truncate(self, rng):
        name = self.pick()
        if name:
            old = self.files[name].data
            size = rng.choice([0, len(old) // 2, rng.randrange(len(old) + 1), len(old) + rng.randrange(90000)])
            self.resize(name, old[:size] + bytes(max(0, size - len(old))), "truncate", lambda fd: os.ftruncate(fd, size))

    def fallocate(self, fd, mode, off, size):
        if libc.fallocate(fd, mode, off, size) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    def punch(self, rng):
        name = self.pick()
        if name and self.files[name].data:
            old = self.files[name].data
            off = rng.randrange(len(old))
            size = rng.randrange(1, len(old) - off + 1)
            self.resize(name, old[:off] + bytes(size) + old[off + size:], "punch", lambda fd: self.fallocate(fd, KEEP_SIZE | PUNCH, off, size))

    def allocate(self, rng):
        name = self.pick()
        if name:
            old, size = self.files[name].data, rng.randrange(1, 50000)
            self.resize(name, old + bytes(size), "fallocate", lambda fd: self.fallocate(fd, 0, len(old), size))

    def rename(self, rng):
        old, new = self.pick(), self.fresh()
        if not old:
            return

        def done():
            self.files[new] = self.files.pop(old)
            if old in self.xattrs:
                self.xattrs[new] = self.xattrs.pop(old)
        self.attempt("rename", lambda: os.rename(self.path(old), self.path(new)), done, lambda: self.unsure.update([old]) or self.either(old, new))

    def either(self, old, new):
        self.unsure.add(new)
        self.files[new] = self.files[old]
        if old in self.xattrs:
            self.xattrs[new] = self.xattrs[old]

    def replace(self, rng):
        """The way in which editors save: a new file, synced, renamed over the old one."""
        name = self.pick()
        if not name:
            return
        data, temp = rng.randbytes(rng.randrange(30000)), self.fresh()

        def work():
            self.write_to(self.path(temp), os.O_RDWR | os.O_CREAT | os.O_EXCL, [(0, data)], True)
            os.rename(self.path(temp), self.path(name))

        def done():
            self.files[name] = Content(data)
            self.xattrs.pop(name, None)

        def undone():
            self.unsure.update([temp, name])
            self.files[temp] = Content()
            self.files[temp].fail(data)
            self.xattrs.pop(name, None)
            self.files[name].fail(data)
        self.attempt("replace", work, done, undone)

    def mkdir(self, rng):
        name = self.fresh()
        self.attempt("mkdir", lambda: os.mkdir(self.path(name)), lambda: self.dirs.__setitem__(name, set()), lambda: self.unsure.add(name))

    def symlink(self, rng):
        name, target = self.fresh(), "t" * rng.randrange(1, 300)
        self.attempt("symlink", lambda: os.symlink(target, self.path(name)), lambda: self.links.__setitem__(name, target),
                     lambda: self.unsure.add(name))

    def link(self, rng):
        """A second name, and the first removed: in the end a rename."""
        old, new = self.pick(), self.fresh()
        if not old:
            return

        def work():
            os.link(self.path(old), self.path(new))
            os.unlink(self.path(old))

        def done():
            self.files[new] = self.files.pop(old)
            if old in self.xattrs:
                self.xattrs[new] = self.xattrs.pop(old)
        self.attempt("link", work, done, lambda: self.unsure.add(old) or self.either(old, new))

    def unlink(self, rng):
        name = self.pick()
        if not name:
            return

        def done():
            self.files.pop(name)
            self.xattrs.pop(name, None)
        self.attempt("unlink", lambda: os.unlink(self.path(name)), done, lambda: self.unsure.add(name))

    def setxattr(self, rng):
        name = self.pick()
        if not name:
            return
        key, value = "user.k%d" % rng.randrange(3), rng.randbytes(rng.randrange(200))
        have = self.xattrs.setdefault(name, {})
        before = set(have.get(key, {None}))
        self.attempt("setxattr", lambda: os.setxattr(self.path(name), key, value), lambda: have.__setitem__(key, {value}),
                     lambda: have.__setitem__(key, before | {value}))

    # -- afterwards ------------------------------------------------------------------------------------------------

    def verify(self, when):
        for name, content in self.files.items():
            path = self.path(name)
            try:
                with open(path, "rb") as f:
                    got = f.read()
            except FileNotFoundError:
                t.check(name in self.unsure, "%s: %s is gone" % (when, name[:40]))
                continue
            except OSError as e:
                raise t.Failure("%s: %s cannot be read: %s" % (when, name[:40], e))
            t.check(content.accepts(got), "%s: %s holds other bytes (%d; expected %d%s)" % (
                when, name[:40], len(got), len(content.data), "" if content.other is None else " or %d" % len(content.other[-1])))
            for key, values in self.xattrs.get(name, {}).items():
                try:
                    value = os.getxattr(path, key)
                except OSError as e:
                    t.check(e.errno == errno.ENODATA, "%s: xattr of %s: %s" % (when, name[:40], e))
                    value = None
                t.check(value in values, "%s: xattr %s of %s is another" % (when, key, name[:40]))
        for name, target in self.links.items():
            t.check(os.readlink(self.path(name)) == target, "%s: the link %s leads elsewhere" % (when, name[:40]))
        known = set(self.files) | set(self.links) | set(self.dirs) | self.unsure
        for base, dirs, names in os.walk(self.root):
            for name in dirs + names:
                relative = os.path.relpath(os.path.join(base, name), self.root)
                t.check(relative in known, "%s: %s should not be there" % (when, relative[:40]))


class Bench:
    def __init__(self, library, options=None, keystore=False):
        self.v = t.Vault()
        self.v.init()
        self.keystore = keystore
        self.control = Control(os.path.join(self.v.dir, "control"), self.v.keystore if keystore else self.v.vault)
        self.env = dict(t.preloaded(library), KEEPFS_FAULTS=os.path.join(self.v.dir, "control"))
        self.options = options
        self.v.mount(options, env=self.env)
        self.batch, self.number = [], 0

    def one(self, at, until, error, half, classes=SPACE):
        """Run the script with this failure. Returns (calls that could have failed, calls that failed)."""
        root = os.path.join(self.v.mnt, "r%d" % self.number)
        os.mkdir(root)
        script = Script(root, 7)
        what = "%s at %s%s%s" % (errno.errorcode.get(error, "-"), at, "" if until == at + 1 else "..%s" % until, " half" if half else "")
        self.control.arm(at, until, error, half, classes)
        script.run()
        count, hits = self.control.off()
        what += " (%s)" % self.control.call() if hits else ""
        # What comes late, at close, the kernel keeps only as ENOSPC or EIO.
        for name, code in script.failed:
            t.check(code in (error, errno.EIO), "%s: %s failed with %s" % (what, name, errno.errorcode.get(code, code)))
        t.check(hits or not script.failed, "%s: %s" % (what, script.failed))
        self.number += 1
        self.batch.append((what, script))
        return count, hits, bool(script.failed)

    def settle(self):
        """Everything of the batch is as it has to be, now and after a remount."""
        self.v.unmount()
        report = self.v.sanitizer_report()
        t.check(not report, "a sanitizer reports:\n%s" % report)
        self.v.mount(self.options, env=self.env)
        for what, script in self.batch:
            script.verify(what)
        self.v.unmount()
        # Where even removing failed, leftovers are fine that fsck may remove.
        repair = ["--repair", "--yes"] if any(what.startswith("EIO") for what, _ in self.batch) else []
        fsck = self.v.keepctl("fsck", self.v.vault, *repair, json=True, ok=None)
        t.check(fsck[-1].get("remaining") == 0, "fsck after %s .. %s: %s" % (self.batch[0][0], self.batch[-1][0], fsck[-5:]))
        t.check(self.v.keepctl("audit", "verify", json=True)[-1]["ok"], "the audit trail does not verify")
        self.v.mount(self.options, env=self.env)
        for _, script in self.batch:
            subprocess.run(["rm", "-rf", script.root], check=True)
        self.batch = []


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--library", required=True)
    parser.add_argument("--points", type=int, default=2)
    parser.add_argument("--every", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    t.need_fuse()
    rng = random.Random(arguments.seed)
    for options, keystore in [(None, False), ("cache=none", False), (None, True)]:
        bench = Bench(arguments.library, options, keystore)
        totals = {}
        for classes in [SPACE, SYNC, SPACE | SYNC]:
            totals[classes], hits, failed = bench.one(0, 0, errno.ENOSPC, False, classes)
            t.check((totals[classes] > 10 or keystore) and not hits and not failed, "the script alone: %d calls, failures %d" % (totals[classes], hits))
        bench.settle()
        # kind: error, how many calls in a row, after half of a write, which calls
        kinds = [(errno.ENOSPC, 1, False, SPACE), (errno.ENOSPC, 1, True, SPACE), (errno.ENOSPC, 60, False, SPACE), (errno.EDQUOT, 1, False, SPACE),
                 (errno.EIO, 1, False, SPACE), (errno.EIO, 1, False, SYNC), (errno.EIO, 20, False, SPACE | SYNC)]
        for error, row, half, classes in kinds:
            total = totals[classes]
            every = arguments.every and row == 1 and not half and not options and not keystore
            places = range(total) if every else sorted(rng.sample(range(total), min(total, arguments.points)))
            struck = said = 0
            for number, at in enumerate(places):
                _, hits, failed = bench.one(at, at + row, error, half, classes)
                struck += bool(hits)
                said += failed
                if len(bench.batch) == 25:
                    bench.settle()
            bench.settle()
            t.check(struck or not places, "none of %d runs met its %s" % (len(places), errno.errorcode[error]))
            print("%-10s %-6s x%-2d%s%s: %d runs, %d struck, %d told the application" % (
                "keystore" if keystore else options or "writeback", errno.errorcode[error], row, " half" if half else "", " sync" if classes & SYNC else "",
                len(places), struck, said), flush=True)
        bench.v.unmount()


t.main(main)
