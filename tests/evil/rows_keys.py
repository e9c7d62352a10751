"""Rows 7, 12 and 13 of the table: wrapped keys, the config, the key commitment. Imported by rows.py, which tells what the phases are."""
import errno
import hashlib
import os
import shutil
import struct

import keepfs_testlib as t

PAGE = 4096
SIZE = 30000
WRAPS = (512, 1536)
NONE = (errno.EIO, errno.ENOTSUP, errno.ENOKEY, errno.ENOENT)  # what names something that the keystore has not got
VARIANTS = []


def row(number, who, what):
    def add(function):
        VARIANTS.append((number, who, what, function))
        return function
    return add


# -- row 7: wrapped keys ----------------------------------------------------------------------------------------------------

def live_at(page):
    return max(WRAPS, key=lambda at: struct.unpack_from("<Q", page, at)[0])


def slot_of(c, name):
    page = c.bytes(name, 0, PAGE)
    at = live_at(page)
    return page[at:at + 768]


def mended(slot, **fields):
    """The slot with other fields and a checksum that fits."""
    places = {"sequence": (0, "<Q"), "key": (8, "16s"), "version": (24, "<I"), "mechanism": (28, "B"), "hash": (29, "B"), "iv_mode": (30, "B"),
              "purpose": (31, "B"), "length": (32, "<H"), "blob": (36, "720s")}
    slot = bytearray(slot)
    for name, value in fields.items():
        at, how = places[name]
        struct.pack_into(how, slot, at, value)
    return bytes(slot[:760]) + hashlib.sha256(bytes(slot[:760])).digest()[:8]


def set_slot(c, slot, name="f"):
    c.write(name, live_at(c.bytes(name, 0, PAGE)), slot)


def wrapped(what, edit, who="B", wanted=errno.EIO):
    """f and g under one key, which has two versions (f and g hang on the first, new on the second); h under another key."""
    def run(c):
        key = "key-" + c.dir
        for name in ("one", "two"):
            c.v.keepctl("key", "create", key + name)
            c.mkdir(name)
            c.v.keepctl("dir", "set-key", c.path(name), key + name)
        for name in ("one/f", "one/g", "two/h"):
            c.put(name, os.urandom(SIZE))
        c.v.keepctl("key", "rotate", key + "one")
        c.put("one/new", os.urandom(SIZE))
        yield
        yield
        yield
        if who == "B":
            edit(c)
        yield
        if who == "C":
            edit(c)
        c.refused("one/f", wanted)
        c.fails("open to write", wanted, os.open, c.path("one/f"), os.O_RDWR)
    VARIANTS.append((7, who, what, run))


def put_slot(source, who="B", **fields):
    return lambda c: set_slot(c, mended(slot_of(c, source), **fields), "one/f")


def with_fields(**fields):
    return put_slot("one/f", **fields)


wrapped("the wrap of another file, same key and version", put_slot("one/g"))
wrapped("the wrap of another file, newer version of the key", put_slot("one/new"))
wrapped("the wrap of another file under another key", put_slot("two/h"))
wrapped("the file's own wrap, called another version", with_fields(version=2))
wrapped("the file's own wrap, called another key", lambda c: set_slot(c, mended(slot_of(c, "one/f"), key=slot_of(c, "two/h")[8:24]), "one/f"))
wrapped("the file's own wrap, called another mechanism", with_fields(mechanism=2), wanted=NONE)
wrapped("the file's own wrap, called another hash", with_fields(hash=1), wanted=NONE)
wrapped("the file's own wrap, called another IV mode", lambda c: set_slot(c, mended(slot_of(c, "one/f"), iv_mode=slot_of(c, "one/f")[30] % 3 + 1), "one/f"), wanted=NONE)
wrapped("the file's own wrap, called a vault's", with_fields(purpose=2))
wrapped("the vault's wrap, called a file's", lambda c: set_slot(c, mended(config_slot(c), purpose=1), "one/f"))
wrapped("a version that never was", with_fields(version=77), wanted=NONE)
wrapped("a key that never was", with_fields(key=b"k" * 16), wanted=NONE)
wrapped("a newer slot of garbage", lambda c: c.write("one/f", 1536, mended(slot_of(c, "one/f"), sequence=9, blob=os.urandom(60))))
wrapped("another file's wrap as the newer slot", lambda c: c.write("one/f", 1536, mended(slot_of(c, "one/g"), sequence=9)))
wrapped("two slots of one sequence", lambda c: c.write("one/f", 1536, slot_of(c, "one/g")))
wrapped("the wrap of another file, while it is mounted", put_slot("one/g"), who="C")


def config_slot(c):
    with open(c.v.vault + "/keepfs.vault", "rb") as f:
        page = f.read()
    at = live_at(page)
    return page[at:at + 768]


@row(7, "A, B", "the file's own older wrap, called the newer version")
def older_wrap(c):
    key = "key-" + c.dir
    c.v.keepctl("key", "create", key)
    c.mkdir("d")
    c.v.keepctl("dir", "set-key", c.path("d"), key)
    c.put("d/f", os.urandom(SIZE))
    yield
    c.kept["slot"] = slot_of(c, "d/f")
    yield
    c.v.keepctl("key", "rotate", key)
    c.v.keepctl("rewrap", "--key", key, c.v.vault)
    yield
    now = slot_of(c, "d/f")
    set_slot(c, mended(c.kept["slot"], version=struct.unpack_from("<I", now, 24)[0], sequence=99), "d/f")
    yield
    c.refused("d/f")


@row(7, "A, B", "the file's own older wrap, of a version that was destroyed")
def destroyed(c):
    key = "key-" + c.dir
    c.v.keepctl("key", "create", key)
    c.mkdir("d")
    c.v.keepctl("dir", "set-key", c.path("d"), key)
    c.put("d/f", os.urandom(SIZE))
    yield
    c.kept["slot"] = slot_of(c, "d/f")
    yield
    c.v.keepctl("key", "rotate", key)
    c.v.keepctl("rewrap", "--key", key, c.v.vault)
    c.v.keepctl("key", "destroy-version", key, "1", "--yes")
    yield
    set_slot(c, c.kept["slot"], "d/f")
    yield
    c.refused("d/f", errno.ENOKEY)


# -- row 13: the commitment ---------------------------------------------------------------------------------------------------

def committed(what, *pieces, flip=None):
    """Of g, whose DEK and wrap are good: pieces of its header put into f."""
    def run(c):
        c.put("f", os.urandom(SIZE))
        c.put("g", os.urandom(SIZE))
        yield
        yield
        yield
        for at, size in pieces:
            c.write("f", at, c.bytes("g", at, size))
        if flip is not None:
            c.flip("f", flip)
        yield
        c.refused("f")
    VARIANTS.append((13, "B", what, run))


IDS, COMMITMENT, WRAP, STATES = (16, 32), (64, 32), (512, 768), ((1280, 256), (2304, 256))
committed("a bit of the commitment", flip=64 + 9)
committed("the commitment of another file", COMMITMENT)
committed("another DEK, validly wrapped, under the own commitment", IDS, WRAP)
committed("another DEK, validly wrapped, with its commitment, under the own state", IDS, WRAP, COMMITMENT)
committed("another DEK with its commitment and its state, under the own tags", IDS, WRAP, COMMITMENT, *STATES)
committed("another DEK, its commitment, the own file id", WRAP, COMMITMENT)
committed("a bit of the flags, which the commitment covers", flip=12)


# -- row 12: the config ---------------------------------------------------------------------------------------------------------

class Configs:
    """One vault whose config is changed between mounts; every mount must end with 6."""

    def __init__(self, base, report):
        self.v, self.report = t.Vault(base=base, foreground=False), report
        v = self.v
        v.init()
        v.other = os.path.join(v.dir, "other")
        v.keepctl("init", v.other)
        v.mount()
        os.mkdir(v.mnt + "/sub")
        with open(v.mnt + "/f", "wb") as f:
            f.write(b"content")
        v.unmount()
        self.path, self.root = v.vault + "/keepfs.vault", v.vault + "/keepfs.dir"
        self.first = self.read()
        name = next(k["name"] for k in v.keepctl("key", "list", json=True) if k.get("id") == t.parse_header(self.path)["key_id"])
        for _ in range(2):
            self.second = self.read()
            v.mount()
            v.keepctl("key", "rotate", name)
            v.keepctl("rewrap", v.vault)
            v.unmount()
        self.good, self.good_root = self.read(), self.read(self.root)

    def read(self, path=None):
        with open(path or self.path, "rb") as f:
            return f.read()

    def put(self, data, path=None):
        path = path or self.path
        if os.path.islink(path):
            os.unlink(path)
        with open(path, "wb") as f:
            f.write(data)

    def mount(self):
        return t.run([t.KEEPFS, self.v.vault, self.v.mnt], ok=None, env=self.v.env, timeout=120)

    def refused(self, row, who, what, exits=(6,)):
        code, _, err = self.mount()
        if code == 0:
            self.v.mounts.append(self.v.mnt)
            self.v.pids.append(self.v.service_pid())
        t.check(code in exits, "row %d, %s: the mount ended with %d, not %s: %s" % (row, what, code, exits, err))
        t.check(not t.is_mounted(self.v.mnt) and err.strip(), "row %d, %s: no message" % (row, what))
        self.report.line(row, 0, who, what, "exit %d" % code)
        self.put(self.good)
        self.put(self.good_root, self.root)

    def changed(self, at, data):
        return self.good[:at] + data + self.good[at + len(data):]

    def states_of(self, old):
        return self.good[:1280] + old[1280:1536] + self.good[1536:2304] + old[2304:2560] + self.good[2560:]

    def flipped(self, at):
        return self.changed(at, bytes([self.good[at] ^ 1]))


def edits(c):
    """(row, what, the config's new bytes)"""
    live, state = live_at(c.good), max((1280, 2304), key=lambda at: struct.unpack_from("<Q", c.good, at)[0])
    with open(next(p for p in t.backing_files(c.v.vault) if not p.endswith("keepfs.vault")), "rb") as f:
        file_page = f.read(PAGE)
    yield 1, "a bit of the config's state", c.flipped(state + 50)
    yield 1, "a bit of the config's wrap", c.flipped(live + 50)
    yield 12, "another suite", c.changed(10, b"\2\0")
    yield 12, "another format", c.changed(8, b"\2\0")
    yield 12, "flag 0 set", c.flipped(12)
    yield 12, "flag 1 set", c.changed(12, b"\2")
    yield 12, "a reserved byte", c.flipped(100)
    yield 12, "bytes where a file has tags", c.changed(2560, os.urandom(72))
    yield 12, "another mechanism in the wrap slot", c.changed(live, mended(c.good[live:live + 768], mechanism=2))
    yield 12, "the wrap of a file", c.changed(live, mended(file_page[live_at(file_page):][:768], purpose=2))
    yield 12, "the header of a file", file_page
    yield 12, "rolled back to the one before the rewrap", c.second
    yield 12, "rolled back to the first one", c.first
    yield 12, "its states rolled back, its wrap new", c.states_of(c.second)
    yield 12, "its states rolled back to the first, its wrap new", c.states_of(c.first)
    yield 12, "its newer state slot zeroed", c.changed(state, bytes(256))
    yield 12, "cut short", c.good[:4000]
    yield 12, "emptied", b""
    yield 13, "a bit of the config's commitment", c.flipped(70)
    yield 13, "the commitment of another vault of the keystore", c.changed(64, c.read(c.v.other + "/keepfs.vault")[64:96])


def configs(base, report):
    c = Configs(base, report)
    for number, what, data in edits(c):
        if data == c.good:
            raise t.Failure("row %d, %s: nothing was changed" % (number, what))
        c.put(data)
        c.refused(number, "A, B" if "rolled" in what else "B", what)
    c.put(c.read(c.v.other + "/keepfs.vault"))
    c.refused(12, "B", "the config of another vault of the keystore")
    c.put(c.read(c.v.other + "/keepfs.dir"), c.root)
    c.refused(12, "B", "the root record of another vault of the keystore")
    sub = next(e.path for e in os.scandir(c.v.vault) if e.is_dir())
    c.put(c.read(sub + "/keepfs.dir"), c.root)
    c.refused(12, "B", "the record of a subdirectory as that of the root")
    os.unlink(c.path)
    os.symlink(c.v.other + "/keepfs.vault", c.path)
    c.refused(12, "B", "a symlink to another config")
    other_vault(c, report)


def other_vault(c, report):
    """A file of another vault of the same keystore: its header names its vault."""
    v = c.v
    v.mount(vault=v.other)
    with open(v.mnt + "/theirs", "wb") as f:
        f.write(b"of the other vault")
    v.unmount()
    theirs = next(p for p in t.backing_files(v.other) if not p.endswith("keepfs.vault"))
    ours = next(p for p in t.backing_files(v.vault) if not p.endswith("keepfs.vault"))
    shutil.copy(theirs, ours)
    v.mount()
    try:
        os.close(os.open(v.mnt + "/f", os.O_RDONLY))
        raise t.Failure("a file of another vault is opened")
    except OSError as error:
        t.check(error.errno == errno.EIO, "a file of another vault gives %s" % error)
    v.unmount()
    report.line(6, 0, "B", "the whole file of another vault of the same keystore", "open EIO")
