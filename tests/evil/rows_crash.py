"""Row 8 of the table: what a service that was killed left, edited before the next one starts. Imported by rows.py."""
import contextlib
import errno
import os

import keepfs_testlib as t
from rows_content import PAGE, at_page, entry_of

SIZE = 200000


class Crash:
    """One vault, one kill: files that nobody had open, and files that were open for writing, one for each variant."""

    def __init__(self, base):
        self.v = t.Vault(base=base)
        self.old, self.good, self.back, self.snapshots, self.fds = {}, {}, {}, {}, {}

    def raw(self, name):
        with open(self.back[name], "rb") as f:
            return f.read()

    def write(self, name, at, data):
        with open(self.back[name], "r+b") as f:
            f.seek(at)
            f.write(data)

    def put_back(self, name, at, size, snapshot="first"):
        self.write(name, at, self.snapshots[snapshot][name][at:at + size])

    def block_back(self, name, block, snapshot="first"):
        self.put_back(name, at_page(block), PAGE, snapshot)
        self.put_back(name, entry_of(block), 72, snapshot)

    def snap(self, when):
        self.snapshots[when] = {name: self.raw(name) for name in self.back}

    def build(self, names):
        """Written, kept (first), written again and kept (clean), so that there is something older."""
        v = self.v
        v.init()
        for when in ("first", "clean"):
            v.mount()
            for name in names:
                self.old[name] = self.good.get(name)
                self.good[name] = os.urandom(SIZE)
                with open(v.mnt + "/" + name, "r+b" if when == "clean" else "wb") as f:
                    f.write(self.good[name])
            inodes = {os.stat(v.mnt + "/" + name).st_ino: name for name in names}
            v.unmount()
            self.back = {inodes[os.stat(p).st_ino]: p for p in t.backing_files(v.vault) if os.stat(p).st_ino in inodes}
            self.snap(when)

    def crash(self, names):
        """Open for writing, a block written and synced (below the horizon), kept (synced), one written and not synced; then the kill."""
        v = self.v
        v.mount("cache=none")
        for name in names:
            self.fds[name] = os.open(v.mnt + "/" + name, os.O_RDWR)
            self.over(name, 5)
            os.fsync(self.fds[name])
        self.snap("synced")
        for name in names:
            self.over(name, 30)
        v.kill9()
        for fd in self.fds.values():
            with contextlib.suppress(OSError):  # nobody is there to hear of it
                os.close(fd)
        self.snap("killed")

    def over(self, name, block):
        data = os.urandom(PAGE)
        os.pwrite(self.fds[name], data, block * PAGE)
        self.old[name] = self.good[name]
        self.good[name] = self.good[name][:block * PAGE] + data + self.good[name][(block + 1) * PAGE:]


def variants(c):
    """(name, was it open, what, edit, judge)"""
    yield "c1", False, "a file that was not open: a block rolled back", lambda n: c.block_back(n, 3), refused
    yield "c2", False, "a file that was not open: its DIRTY state of an earlier session", lambda n: dirty_again(c, n), refused
    yield "c3", False, "a file that was not open: the header of one that was", lambda n: c.write(n, 0, c.raw("o1")[:PAGE]), refused
    yield "c4", False, "a file that was not open: a tag entry zeroed", lambda n: c.write(n, entry_of(30), bytes(72)), refused
    yield "c5", False, "a file that was not open: cut by a page", lambda n: os.truncate(c.back[n], len(c.raw(n)) - PAGE), refused
    yield "o1", True, "a file that was open, not tampered with", lambda n: None, whole
    yield "o2", True, "a file that was open: a block below the horizon rolled back", lambda n: c.block_back(n, 3), refused
    yield "o3", True, "a file that was open: the synced block rolled back", lambda n: c.block_back(n, 5, "clean"), refused
    yield "o4", True, "a file that was open: a tag below the horizon zeroed", lambda n: c.write(n, entry_of(7), bytes(72)), refused
    yield "o5", True, "a file that was open: data below the horizon damaged", lambda n: c.write(n, at_page(7), os.urandom(100)), never_other
    yield "o6", True, "a file that was open: data above the horizon damaged", lambda n: c.write(n, at_page(30), os.urandom(100)), never_other
    yield "o7", True, "a file that was open: a tag above the horizon damaged", lambda n: damage_newest(c, n, 30), never_other
    yield "o8", True, "a file that was open: the state from before it was opened", lambda n: [c.put_back(n, 1280, 256, "clean"), c.put_back(n, 2304, 256, "clean")], refused
    yield "o9", True, "a file that was open: the header page of its last sync", lambda n: c.put_back(n, 0, PAGE, "synced"), never_other
    yield "o10", True, "a file that was open: cut by a page", lambda n: os.truncate(c.back[n], len(c.raw(n)) - PAGE), never_other
    yield "o11", True, "a file that was open: the header of another that was", lambda n: c.write(n, 0, c.snapshots["killed"]["o1"][:PAGE]), refused


def dirty_again(c, name):
    """Sealed with a session that ended long ago: the older of the two slots is DIRTY, the CLEAN one goes."""
    slots = sorted((int.from_bytes(c.raw(name)[at:at + 8], "little"), at) for at in (1280, 2304))
    c.write(name, slots[1][1], bytes(256))


def damage_newest(c, name, block):
    raw = c.raw(name)[entry_of(block):entry_of(block) + 72]
    newest = max((0, 36), key=lambda at: int.from_bytes(raw[at + 28:at + 34], "little"))
    c.write(name, entry_of(block) + newest + 15, b"XYZ")


def refused(c, name):
    try:
        os.close(os.open(c.v.mnt + "/" + name, os.O_RDONLY))
    except OSError as error:
        t.check(error.errno == errno.EIO, "%s: open gave %s" % (name, error))
        return "open EIO"
    raise t.Failure("%s was opened" % name)


def whole(c, name):
    with open(c.v.mnt + "/" + name, "rb") as f:
        t.check(f.read() == c.good[name], "%s lost something" % name)
    return "recovered"


def never_other(c, name):
    """Every block as it was written last, or as it was before, or EIO."""
    try:
        fd = os.open(c.v.mnt + "/" + name, os.O_RDONLY)
    except OSError as error:
        t.check(error.errno == errno.EIO, "%s: open gave %s" % (name, error))
        return "open EIO"
    bad = old = 0
    try:
        t.check(os.fstat(fd).st_size == SIZE, "%s has %d bytes" % (name, os.fstat(fd).st_size))
        for at in range(0, SIZE, PAGE):
            try:
                got = os.pread(fd, PAGE, at)
            except OSError as error:
                t.check(error.errno == errno.EIO, "%s at %d: %s" % (name, at, error))
                bad += 1
                continue
            if got != c.good[name][at:at + PAGE]:
                t.check(at == 30 * PAGE and got == c.old[name][at:at + PAGE], "%s: OTHER BYTES at %d" % (name, at))
                old += 1
    finally:
        os.close(fd)
    return "read EIO in %d blocks, %d as before the last write, the rest as written" % (bad, old)


def crashes(base, report):
    c = Crash(base)
    todo = list(variants(c))
    c.build([name for name, *_ in todo] + ["copy"])
    c.crash([name for name, was_open, *_ in todo if was_open] + ["copy"])
    for name, _, _, edit, _ in todo:
        edit(name)
    c.v.mount()
    for name, was_open, what, _, judge in todo:
        try:
            report.line(8, 0, "B", what, judge(c, name))
        except t.Failure as failure:
            raise t.Failure("row 8, %s: %s" % (what, failure))
    t.check(whole(c, "copy") == "recovered", "the one to be copied")
    c.v.unmount()
    with open(c.back["copy"], "wb") as f:
        f.write(c.snapshots["killed"]["copy"])
    c.v.mount()
    report.line(8, 0, "A, B", "a file that was open, as the crash left it, put back after its recovery", refused(c, "copy"))
    c.v.unmount()
