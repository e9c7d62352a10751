#!/usr/bin/python3
"""Every row of the format's table of attacks, in at least five variants each; every variant must meet exactly what its column says.

Adversaries: A has a snapshot of the cipher directory, B writes to it while it is offline, C while it is mounted. The variants are in
rows_content.py, rows_names.py, rows_keys.py and rows_crash.py. Each is a generator that is led through the life of one vault together with all
others, every one in a directory of its own: made (mounted), kept (offline: snapshots), changed (mounted), edited (offline), judged (mounted),
judged with verify=always. Files that nobody edits are read at the end.

Rows that other tests drive: "crash (SIGKILL) at any instruction" is tests/crash/kill.py and resize.py, and every step in tests/format/model.py;
"power cut" is the replay of recorded writes in tests/crash, and tests/format/model.py.

Not met by version 1, and so not tested as attacks (README.md says so to users): two entries of one directory exchanged, or a
deleted one brought back; a whole file rolled back together with its header; owner, mode, suid, ACLs and the type of a file; an xattr removed or
rolled back; sizes, times and the shape of the tree are visible; names hang on the vault key, not on the zone's.
"""
import argparse
import errno
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "lib"), HERE]
import keepfs_testlib as t
import rows_content
import rows_crash
import rows_keys
import rows_names

ROWS = {
    1: ("a bit flipped in a file, name, link, xattr, directory record, config", "an error, never other bytes"),
    2: ("a block copied from another file, or moved within the file", "EIO"),
    3: ("a block replaced by its own older ciphertext", "EIO at open up to 64 MiB; above at the last tag page, by scrub, with verify=always"),
    4: ("a file cut short, grown, or emptied", "EIO at open"),
    5: ("a hole punched, or a zero block put into a file", "as older ciphertext"),
    6: ("the header of file A put on file B", "EIO"),
    7: ("a wrapped key replaced by one under another key or version", "unwrap fails"),
    8: ("tampering blessed by the rebuilding after a crash", "only what the keystore knows as open, against the sealed horizon"),
    9: ("a directory moved under another parent", "refused"),
    10: ("an xattr exchanged between files", "refused"),
    11: ("names that are not canonical", "refused"),
    12: ("the config weakened, or rolled back", "refused: exit 6"),
    13: ("a key that also opens a forged file", "the commitment does not match: EIO"),
}
ELSEWHERE = {14: ("SIGKILL at any instruction, also twice", "tests/crash/kill.py, resize.py; tests/format/model.py"),
             15: ("power cut", "tests/crash; tests/format/model.py")}
PHASES = ("made", "kept", "changed", "edited", "judged")
PAGE = 4096


class Case:
    """One variant: what it uses of the vault lies in a directory of its own."""

    def __init__(self, number, variant, v):
        self.row, self.who, self.what, self.function = variant
        self.number, self.v = number, v
        self.dir = "%02d-%02d" % (self.row, number)
        self.inodes, self.backing, self.kept, self.said = {}, {}, {}, []
        self.run = None

    # -- while it is mounted ---------------------------------------------------------------------------------------

    def path(self, name=""):
        return os.path.join(self.v.mnt, self.dir, name).rstrip("/")

    def put(self, name, data, at=None):
        """Write data over a new file, or into an old one at an offset."""
        with open(self.path(name), "wb" if at is None else "r+b") as f:
            f.seek(at or 0)
            f.write(data)
        self.note(name)
        return data

    def note(self, name):
        """Its backing object is wanted later."""
        self.inodes[name] = os.lstat(self.path(name)).st_ino

    def mkdir(self, name):
        os.mkdir(self.path(name))
        self.note(name)

    def fails(self, what, wanted, function, *args):
        """It must fail with one of these errors."""
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        try:
            got = function(*args)
        except OSError as error:
            t.check(error.errno in wanted, "%s: %s gave %s, not %s" % (self, what, errno.errorcode[error.errno],
                                                                      " or ".join(errno.errorcode[w] for w in wanted)))
            self.said.append("%s %s" % (what, errno.errorcode[error.errno]))
            return
        if isinstance(got, int) and what == "open":
            os.close(got)
        raise t.Failure("%s: %s went well: %.80r" % (self, what, got))

    def refused(self, name, wanted=errno.EIO):
        self.fails("open", wanted, os.open, self.path(name), os.O_RDONLY)

    def not_other(self, name, good, need=True):
        """Opened, then read block by block: each as it was, or EIO; at least one EIO (need)."""
        try:
            fd = os.open(self.path(name), os.O_RDONLY)
        except OSError as error:
            t.check(error.errno == errno.EIO, "%s: open gave %s" % (self, error))
            self.said.append("open EIO")
            return
        try:
            self.blocks(fd, good, need)
        finally:
            os.close(fd)

    def blocks(self, fd, good, need=True):
        bad = 0
        for at in range(0, max(len(good), 1), PAGE):
            try:
                got = os.pread(fd, PAGE, at)
            except OSError as error:
                t.check(error.errno == errno.EIO, "%s: read at %d gave %s" % (self, at, error))
                bad += 1
                continue
            t.check(got == good[at:at + PAGE], "%s: OTHER BYTES at %d" % (self, at))
        t.check(bad or not need, "%s: everything was read as it was" % self)
        self.said.append("read EIO in %d of %d blocks" % (bad, -(-len(good) // PAGE)) if bad else "read as it was")

    def absent(self, name, also=errno.ENOENT, listed=()):
        """The name leads nowhere, and the listing holds nothing but `listed`."""
        self.fails("lookup", (errno.ENOENT, errno.EIO), os.lstat, self.path(name))
        found = sorted(os.listdir(self.path(os.path.dirname(name))))
        t.check(found == sorted(listed), "%s: listed are %s, expected %s" % (self, found, sorted(listed)))

    # -- while it is offline, or behind the mount's back -------------------------------------------------------------

    def back(self, name):
        t.check(name in self.backing, "%s: no backing entry of %r" % (self, name))
        return self.backing[name]

    def bytes(self, name, at=0, size=None):
        with open(self.back(name), "rb") as f:
            f.seek(at)
            return f.read() if size is None else f.read(size)

    def write(self, name, at, data):
        with open(self.back(name), "r+b") as f:
            f.seek(at)
            f.write(data)

    def flip(self, name, at, bit=0):
        self.write(name, at, bytes([self.bytes(name, at, 1)[0] ^ 1 << bit]))

    def keep(self, name):
        """Adversary A's snapshot."""
        self.kept[name] = self.bytes(name)
        return self.kept[name]

    def __str__(self):
        return "row %d.%d (%s), %s" % (self.row, self.number, self.who, self.what)


def page_of(block):
    return 1 + block if block < 21 else 22 + 912 * ((block - 21) // 896) + 16 + (block - 21) % 896


def entry_of(block):
    if block < 21:
        return 2560 + 72 * block
    n = (block - 21) % 896
    return (22 + 912 * ((block - 21) // 896) + n // 56) * PAGE + 72 * (n % 56)


def resolve(cases, v):
    """From inodes to backing paths."""
    where = {}
    for base, dirs, names in os.walk(v.vault):
        for name in dirs + names:
            path = os.path.join(base, name)
            where[os.lstat(path).st_ino] = path
    for c in cases:
        c.backing = {name: where[ino] for name, ino in c.inodes.items() if ino in where}


def together(v, variants, report):
    """All variants through the life of one vault."""
    cases = []
    for row, who, what, function in variants:
        number = 1 + sum(c.row == row for c in cases)
        cases.append(Case(number, (row, who, what, function), v))
    v.mount()
    for name in ("zone", "other-zone"):
        v.keepctl("key", "create", name)
    bystanders = {"file%d" % i: os.urandom(size) for i, size in enumerate((0, 5000, 100000, 4000000))}
    for name, data in bystanders.items():
        with open(v.mnt + "/" + name, "wb") as f:
            f.write(data)
    for c in cases:
        os.mkdir(c.path())
        c.run = c.function(c)
    for phase in PHASES:
        mounted = phase in ("made", "changed", "judged")
        if mounted and phase != "made":
            v.mount()
        for c in cases:
            step(c, phase)
        if mounted:
            resolve(cases, v)
            if phase == "judged":
                calm(v, bystanders)
            v.unmount()
    scrub(v, cases)
    v.mount("verify=always")
    for c in cases:
        step(c, "judged with verify=always")
    v.unmount()
    for c in cases:
        t.check(c.said, "%s: nothing was judged" % c)
        report(c, ", ".join(c.said))


def step(c, phase):
    if phase == "judged" and not c.backing:
        resolve([c], c.v)
    try:
        next(c.run, None)
    except t.Failure:
        raise
    except Exception as error:
        raise t.Failure("%s, %s: %r" % (c, phase, error)) from error


def calm(v, bystanders):
    for name, data in bystanders.items():
        with open(v.mnt + "/" + name, "rb") as f:
            t.check(f.read() == data, "the untouched %s reads otherwise" % name)


def scrub(v, cases):
    """The scrub names every damaged content (variants that ask for it)."""
    wanted = [c for c in cases if getattr(c, "scrubbed", None)]
    code, out, err = v.keepctl("scrub", v.vault, ok=None)
    t.check(code == 6, "scrub of a tampered vault ends with %d: %s%s" % (code, out[-500:], err[-500:]))
    for c in wanted:
        rel = os.path.basename(c.back(c.scrubbed))
        t.check(rel in out + err or (c.dir + "/" + c.scrubbed) in out + err, "%s: scrub does not name it:\n%s" % (c, (out + err)[:1500]))
        c.said.append("scrub names it")


class Report:
    def __init__(self):
        self.met = {}

    def __call__(self, case, text):
        self.met[case.row] = self.met.get(case.row, 0) + 1
        print("row %2d.%-2d %-3s %-66s %s" % (case.row, case.number, case.who, case.what, text), flush=True)

    def line(self, row, number, who, what, text):
        self.met[row] = self.met.get(row, 0) + 1
        print("row %2d.%-2d %-3s %-66s %s" % (row, self.met[row], who, what, text), flush=True)

    def table(self):
        print("\nrow  attack %60s variants  must meet" % "")
        for row, (attack, must) in ROWS.items():
            print("%3d  %-68s %4d    %s: met" % (row, attack, self.met.get(row, 0), must))
            t.check(self.met.get(row, 0) >= 5, "row %d has only %d variants" % (row, self.met.get(row, 0)))
        for row, (attack, where) in ELSEWHERE.items():
            print("%3d  %-68s    -    %s" % (row, attack, where))


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.parse_args()
    t.need_fuse()
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    report = Report()
    v = t.Vault(base=base)
    v.init()
    together(v, rows_content.VARIANTS + rows_names.VARIANTS + rows_keys.VARIANTS, report)
    rows_keys.configs(base, report)
    rows_crash.crashes(base, report)
    report.table()


if __name__ == "__main__":
    sys.modules["rows"] = sys.modules["__main__"]
    t.main(main)
