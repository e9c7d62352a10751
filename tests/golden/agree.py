#!/usr/bin/python3
"""The reader written from fs/FORMAT.md alone and the mount agree on a vault of random files: sizes at every boundary of the format, holes,
rewritten and punched blocks, long names, links, hard links, special files, xattrs, several keys and versions; then once more after a rewrap.
Both say for every entry what it is, its content, link target, xattrs. Full size: --files 2000."""
import argparse
import collections
import ctypes
import os
import random
import socket
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import keepfs_testlib as t
from make_golden import manifest

PAGE = 4096
GROUPS = [(21 + 56 * n) * PAGE for n in (0, 1, 2, 15)]
RUNS = [(21 + 896 * n) * PAGE for n in (1, 2)]
EDGES = [0, 1, 2, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE] + [at + d for at in GROUPS for d in (-PAGE, -1, 0, 1, PAGE, PAGE + 1)]
LARGE = [at + d for at in RUNS for d in (-1, 0, 1, PAGE)]
WORDS = "a alpha größe 数据 with-space .hidden UPPER %percent \udcff\udcfe".split()
libc = ctypes.CDLL(None, use_errno=True)


def punch(f, at, size):
    if libc.fallocate(f.fileno(), 3, ctypes.c_long(at), ctypes.c_long(size)) != 0:
        raise OSError(ctypes.get_errno(), "punch")


class Tree:
    def __init__(self, v, rng):
        self.v, self.rng, self.dirs, self.made, self.kinds = v, rng, [v.mnt], [], collections.Counter()

    def name(self, n):
        rng = self.rng
        if rng.random() < 0.15:
            size = rng.choice((174, 175, 176, 177, 254, 255))
            return ("%d-" % n).ljust(size, rng.choice("xyz"))
        return "%d%s" % (n, rng.choice(WORDS) if rng.random() < 0.5 else "")

    def xattrs(self, path, chance):
        if self.rng.random() < chance:
            for i in range(self.rng.randint(1, 3)):
                name = "user." + self.rng.choice(("note", "größe", "n" * 160)) + str(i)
                os.setxattr(path, name, self.rng.randbytes(self.rng.choice((0, 1, 20, 300))))
            self.kinds["with xattrs"] += 1

    def directory(self, n):
        parent = self.rng.choice(self.dirs[-3:]) if self.rng.random() < 0.5 else self.rng.choice(self.dirs)
        path = os.path.join(parent, self.name(n))
        if len(os.fsencode(path)) > 3000:
            return
        os.mkdir(path)
        self.xattrs(path, 0.3)
        self.dirs.append(path)
        self.kinds["directories"] += 1

    def content(self, path, size):
        """Written in order, or in pieces, with holes by truncate and by punching, and again."""
        rng = self.rng
        with open(path, "wb") as f:
            how = rng.randrange(4) if size <= 1 << 20 else 1
            if how == 0:
                f.write(rng.randbytes(size))
            for _ in range(0 if how == 0 else rng.randint(1, 6)):
                at = rng.choice((rng.randrange(size + 1), max(0, size - rng.randrange(1, 9000)), 0))
                f.seek(at)
                f.write(rng.randbytes(min(size - at, rng.choice((1, 100, PAGE, rng.randrange(1, 40000))))))
                f.flush()
                if rng.random() < 0.3:
                    os.fsync(f.fileno())
            f.truncate(size)
            if how == 2 and size > 1:
                at = rng.randrange(size)
                punch(f, at, rng.randint(1, size - at))
                self.kinds["punched"] += 1
            if how == 3:
                cut = rng.randrange(size + 1)
                f.truncate(cut)
                f.truncate(size)
                self.kinds["cut and grown"] += 1

    def file(self, n, size):
        path = os.path.join(self.rng.choice(self.dirs), self.name(n))
        self.content(path, size)
        self.xattrs(path, 0.15)
        os.chmod(path, self.rng.choice((0o600, 0o644, 0o755, 0o440)))
        self.made.append(path)
        self.kinds["files"] += 1

    def other(self, n):
        """Links and special files."""
        rng, path = self.rng, os.path.join(self.rng.choice(self.dirs), self.name(n))
        kind = rng.randrange(4)
        if kind == 0 and self.made:
            old = rng.choice(self.made)
            os.link(old, os.path.join(os.path.dirname(old), os.path.basename(path)))  # another zone would be EXDEV
            self.kinds["hard links"] += 1
        elif kind == 1:
            os.mkfifo(path, 0o600)
            self.kinds["special files"] += 1
        elif kind == 2 and len(os.fsencode(path)) < 100:
            with socket.socket(socket.AF_UNIX) as s:
                s.bind(path)
            self.kinds["special files"] += 1
        else:
            os.symlink("t" * rng.choice((1, 2, 3, 100, 1000, 3043)), path)
            self.kinds["symlinks"] += 1

    def change(self):
        """What a life does to files: written again, appended, renamed."""
        rng, path = self.rng, self.rng.choice(self.made)
        size = os.path.getsize(path)
        what = rng.randrange(4)
        if what == 3:
            new = os.path.join(os.path.dirname(path), self.name(10 ** 6 + rng.randrange(10 ** 6)))
            os.rename(path, new)
            self.made[self.made.index(path)] = new
            return
        os.chmod(path, 0o600)
        with open(path, "r+b") as f:
            f.seek(size if what == 0 else rng.randrange(size + 1))
            f.write(rng.randbytes(rng.choice((1, 10, 5000))))
            if what == 2:
                f.truncate(rng.randrange(size + 1))
        self.kinds["changed later"] += 1

    def grow(self, count, first):
        for n in range(first, first + count):
            if self.rng.random() < 0.1:
                self.directory(n * 10)
            if self.rng.random() < 0.12:
                self.other(n * 10 + 1)
            if n < len(EDGES):
                size = EDGES[n]
            elif n % 97 == 96:
                size = self.rng.choice(LARGE)
            else:
                size = self.rng.choice((self.rng.choice(EDGES), self.rng.randrange(9000), self.rng.randrange(9000), self.rng.randrange(400000)))
            self.file(n * 10 + 2, size)
            if n % 4 == 3:
                self.change()


def compare(v, unwrap, when):
    """Mount's answer against the reader's."""
    import reader
    v.mount()
    want = manifest(v.mnt)
    v.unmount()
    keys = t.run([unwrap, v.keystore, v.vault + "/keepfs.vault"] + t.backing_files(v.vault), env=v.env)[1]
    deks = reader.parse_keys(keys)
    found = reader.read_vault(v.vault, deks)
    wrong = [p for p in sorted(set(want) | set(found)) if want.get(p) != found.get(p)]
    t.check(not wrong, "%d entries differ %s; the first: %r: the mount has %s, the reader %s" %
            (len(wrong), when, wrong[:1], want.get(wrong[0] if wrong else ""), found.get(wrong[0] if wrong else "")))
    return want, deks


DAMAGE = {"magic": 0, "suite": 10, "flags": 12, "vault id": 16, "file id": 40, "zeros behind the ids": 50, "commitment": 70, "zeros before the areas": 100,
          "state slots": (1300, 2330), "first tag entry": 2560, "zeros at the end of page 0": 4080, "data": 5000,
          "tag entry in a tag page": 22 * PAGE + 3, "zeros of a tag page": 22 * PAGE + 4050}


def reader_refuses(v, deks):
    """The reader does check: one changed byte of each kind makes it refuse a file. One with a tag page, and whose damaged
    slots count: nobody looks at those that newer ones have replaced."""
    import reader
    path = next(p for p in t.backing_files(v.vault) if os.path.getsize(p) > 23 * PAGE and t.parse_header(p)["magic"] == t.MAGIC_FILE and
                first_counts(p, 2560) and first_counts(p, 22 * PAGE))
    with open(path, "rb") as f:
        raw = f.read()
    dek, copy = deks[os.stat(path).st_ino], os.path.join(v.dir, "copy")
    for what, at in [("nothing", None)] + list(DAMAGE.items()) + [("a tag entry zeroed", 2560), ("a byte cut off", -1)]:
        damaged = bytearray(raw)
        if what == "a tag entry zeroed":
            damaged[2560:2632] = bytes(72)
        elif at == -1:
            damaged = damaged[:-1]
        elif at is not None:
            for place in at if isinstance(at, tuple) else (at,):
                damaged[place] ^= 1
        with open(copy, "wb") as f:
            f.write(damaged)
        try:
            reader.File(copy, dek, raw[16:32]).content()
            read = True
        except (reader.Bad, reader.InvalidTag):
            read = False
        t.check(read == (at is None), "the reader %s a file with damage in: %s" % ("reads" if read else "refuses", what))
    return len(DAMAGE) + 2


def first_counts(path, at):
    """Of the two slots of the entry there, the first has the higher sequence."""
    with open(path, "rb") as f:
        f.seek(at)
        first, second = (int.from_bytes(f.read(36)[28:34], "little") for _ in range(2))
    return first > second


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--files", type=int, default=200)
    p.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    p.add_argument("--base", default="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    p.add_argument("--unwrap", required=True, help="the unwrap program of tests/evil")
    args = p.parse_args()
    print("seed %d" % args.seed, flush=True)
    t.need_fuse()
    try:
        import reader  # noqa: F401
    except ImportError as error:
        t.skip("the reader needs python3-cryptography: %s" % error)
    v = t.Vault(base=args.base)
    v.init()
    v.mount()
    tree = Tree(v, random.Random(args.seed))
    for zone in ("one", "two"):
        v.keepctl("key", "create", zone)
        os.mkdir(v.mnt + "/" + zone)
        v.keepctl("dir", "set-key", v.mnt + "/" + zone, zone)
        tree.dirs.append(v.mnt + "/" + zone)
    parts = 5
    for i in range(parts):
        tree.grow(args.files // parts, i * (args.files // parts))
        if i < parts - 1:
            v.keepctl("key", "rotate", ("default", "one", "two", "one")[i])
        if i == 2:
            v.keepctl("rewrap", v.mnt + "/one", json=True)
    v.unmount()
    want, _ = compare(v, args.unwrap, "before the rewrap")
    versions = {(h["key_id"], h["version"]) for h in map(t.parse_header, t.backing_files(v.vault))}
    t.check(len(versions) >= 4, "only %d versions of keys are in use" % len(versions))
    v.mount()
    v.keepctl("rewrap", v.vault, json=True)
    v.unmount()
    again, deks = compare(v, args.unwrap, "after the rewrap")
    t.check(again == want, "the rewrap changed what is there")
    damages = reader_refuses(v, deks)
    sizes = sum(e.get("size", 0) for e in want.values())
    print("%d entries (%s), %d MB, under %d versions of keys: the reader and the mount agree, and do so after a rewrap; it refuses %d "
          "kinds of damage" % (len(want), ", ".join("%d %s" % (n, k) for k, n in sorted(tree.kinds.items())), sizes >> 20, len(versions), damages))


t.main(main)
