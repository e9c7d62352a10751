#!/usr/bin/python3
"""Wrong bytes anywhere in a vault: each must give an error, the absence of the entry, or be harmless; never other data or names.

First the fixed attacks of the format's table (blocks moved or rolled back, files cut or grown, headers and records exchanged, ...).
Then random single-byte changes over everything: contents, headers, names, links, long-name records, directory records, xattrs, the
config; many at once, but at most one per file, and never below a directory that was changed itself. What was not changed must
read as before. Then, most of them, changes of contents (contents.py), over files up to 64 MiB and over some that are larger.
After each mount `keepctl scrub` must name all that was changed, but for bytes that no reader uses. Full size: --changes 20000.
"""
import argparse
import os
import random
import re
import shutil
import stat
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import contents
import keepfs_testlib as t

MIB = 1 << 20
ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
SIZES = (0, 1, 100, 4095, 4096, 4097, 50000, 84 * 1024 - 1, 84 * 1024, 84 * 1024 + 1, 200000, 5 << 20)


def build(mnt, rng):
    """The tree that is attacked."""
    for d in ("", "/dir", "/dir/sub", "/" + "long directory " * 13, "/other"):
        if d:
            os.mkdir(mnt + d)
        for i, size in enumerate(SIZES if d in ("", "/dir") else SIZES[:7]):
            name = "%s/%sfile%d" % (mnt + d, "l" * 190 if i % 3 == 2 else "", i)
            with open(name, "wb") as f:
                f.write(rng.randbytes(size))
            if i % 2 == 0:
                os.setxattr(name, "user.note", b"note of %d in %s" % (i, d.encode()))
        os.symlink("target of %s" % d, mnt + d + "/link")
        os.symlink("t" * 500, mnt + d + "/" + "k" * 200)
        if d:
            os.setxattr(mnt + d, "user.dir", b"directory " + d.encode()[:20])
    for name in ("sparse1", "sparse2"):
        with open(mnt + "/dir/" + name, "wb") as f:
            f.seek(300000)
            f.write(rng.randbytes(5000))
            f.seek(4 << 20)
            f.write(rng.randbytes(100))
            f.truncate(6 << 20)
    for i in range(3):  # blocks with two slots in use
        with open(mnt + "/dir/rewritten%d" % i, "wb") as f:
            f.write(rng.randbytes(120000))
        for _ in range(20):
            with open(mnt + "/dir/rewritten%d" % i, "r+b") as f:
                f.seek(rng.randrange(110000))
                f.write(rng.randbytes(5000))


class Reading:
    """What a mounted tree says: {path: value or OSError}, also of xattrs and sizes."""

    def __init__(self, mnt):
        self.mnt, self.seen = mnt, {}
        self.walk("")

    def note(self, key, function, *args, **more):
        try:
            self.seen[key] = function(*args, **more)
        except OSError as error:
            self.seen[key] = error
        return self.seen[key]

    def walk(self, rel):
        path = self.mnt + rel
        self.xattrs(rel, path)
        names = self.note(rel + "/", lambda: sorted(os.listdir(path)))
        if isinstance(names, OSError):
            return
        for name in names:
            child = rel + "/" + name
            st = self.note(child + " stat", lambda: self.stat(self.mnt + child))
            if isinstance(st, OSError):
                continue
            if st[0] == stat.S_IFDIR:
                self.walk(child)
            elif st[0] == stat.S_IFLNK:
                self.note(child + " link", os.readlink, self.mnt + child)
            else:
                self.note(child + " data", self.data, self.mnt + child)
                self.xattrs(child, self.mnt + child)

    def stat(self, path):
        st = os.lstat(path)
        return stat.S_IFMT(st.st_mode), st.st_size if stat.S_ISREG(st.st_mode) else 0

    def data(self, path):
        with open(path, "rb") as f:
            return f.read()

    def xattrs(self, rel, path):
        def get():
            return {x: os.getxattr(path, x) for x in os.listxattr(path) if x.startswith("user.")}
        self.note(rel + " xattrs", get)


class Attack:
    def __init__(self, args):
        self.args, self.rng = args, random.Random(args.seed)
        self.v = t.Vault(base=args.base)
        self.v.init()
        self.v.mount()
        build(self.v.mnt, self.rng)
        self.good = Reading(self.v.mnt).seen
        bad = {k: x for k, x in self.good.items() if isinstance(x, OSError)}
        t.check(not bad, "before any change: %s" % list(bad.items())[:3])
        self.names = self.map_names()
        self.v.unmount()
        self.pristine = os.path.join(self.v.dir, "pristine")
        t.run(["cp", "-a", "--sparse=always", self.v.vault, self.pristine])
        self.count = {"an error": 0, "absent": 0, "harmless": 0, "no mount": 0}
        self.shapes = {}

    def map_names(self):
        """{backing path below the vault: clear path}, by asking the service for each entry."""
        by_inode = {}
        for base, dirs, names in os.walk(self.v.vault):
            for name in dirs + names:
                path = os.path.join(base, name)
                by_inode[os.lstat(path).st_ino] = os.path.relpath(path, self.v.vault)
        found = {}
        for base, dirs, names in os.walk(self.v.mnt):
            for name in dirs + names:
                path = os.path.join(base, name)
                backing = by_inode.get(os.lstat(path).st_ino)
                t.check(backing, "st_ino of %s is not that of a backing entry" % path)
                found[backing] = path[len(self.v.mnt):]
        return found

    def restore(self):
        t.run(["rsync", "-aHX", "--checksum", "--delete", self.pristine + "/", self.v.vault + "/"])

    def backing_of(self, clear):
        return next(b for b, c in self.names.items() if c == clear)

    # -- judging ------------------------------------------------------------------------------------------------

    def owner(self, backing):
        """(clear path of the entry that a backing path belongs to, whether it is a directory's own)."""
        base, name = os.path.split(backing)
        if name == "keepfs.dir":
            return (self.names[base] if base else ""), True
        if name.startswith("N."):
            backing = os.path.join(base, "L." + name[2:])
        return self.names[backing], backing in self.names and stat.S_ISDIR(os.lstat(os.path.join(self.pristine, backing)).st_mode)

    def judge(self, seen, touched, must_fail=()):
        """touched: {clear path: (is a directory, what was changed)}."""
        self.no_invention(seen, touched)
        below = tuple(c + "/" for c, (is_dir, _) in touched.items() if is_dir)
        for key, value in self.good.items():
            entry = key.rstrip("/") if key.endswith("/") else key.rsplit(" ", 1)[0]
            under = entry.startswith(below) if below else False
            if entry in touched or under or "" in touched:
                continue
            got = seen.get(key, "nothing")
            if key.endswith("/") and isinstance(got, list):  # changed children may be missing in a list
                missing = [n for n in value if n not in got and entry + "/" + n not in touched]
                t.check(not missing, "unchanged entries vanished from %s/: %s; changed: %s" % (entry, missing[:3], touched))
                continue
            t.check(type(got) is type(value) and got == value, "%s was not changed but reads as %s; changed: %s" %
                    (key[:200], got if isinstance(got, (OSError, str)) else "other data", touched))
        for clear in touched:
            result = self.result(seen, clear)
            self.count[result] += 1
            t.check(clear not in must_fail or result != "harmless", "%s: %s and nothing noticed it" % (clear, touched[clear][1]))

    def no_invention(self, seen, touched):
        """Whatever was read without an error is what was there before: names, kinds, contents, links, xattrs."""
        for key, value in seen.items():
            if isinstance(value, OSError):
                continue
            t.check(key in self.good, "there is something new, %r; changed: %s" % (key[:200], touched))
            good = self.good[key]
            if key.endswith("/"):
                new = set(value) - set(good)
                t.check(not new, "new names in %s: %s; changed: %s" % (key, new, touched))
            elif key.endswith(" xattrs"):
                wrong = [x for x in value if value[x] != good.get(x)]
                t.check(not wrong, "%s: xattrs %s; changed: %s" % (key, wrong, touched))
            elif key.endswith(" stat") and key[:-5] in touched:  # stat needs no key: a size says what the backing file's is
                t.check(value[0] == good[0], "%s is of another kind" % key)
            else:
                if value != good:
                    raise t.Failure("WRONG DATA served for %s: %s; changed: %s" % (key[:200], self.where(good, value), touched))

    def where(self, good, value):
        if isinstance(value, bytes):
            at = next((i for i in range(min(len(good), len(value))) if good[i] != value[i]), min(len(good), len(value)))
            return "first at %d of %d, %d bytes read" % (at, len(good), len(value))
        return "%r instead of %r" % (value, good)

    def result(self, seen, clear):
        mine = [k for k in self.good if k == clear + "/" or (k.rsplit(" ", 1)[0] == clear and not k.endswith("/"))]
        if any(isinstance(seen.get(k), OSError) for k in mine):
            return "an error"
        if any(k not in seen for k in mine):
            return "absent"
        if any(k.endswith(" xattrs") and seen[k] != self.good[k] for k in mine):
            return "absent"
        return "harmless"

    def look(self, touched, must_fail=()):
        """Mount, read all, unmount, judge. A mount that refuses is an error for what was changed."""
        try:
            self.v.mount()
        except t.Failure as failure:
            t.check("before it had mounted" in str(failure), str(failure))
            t.check(any(c == "" for c in touched), "the mount failed, but only this was changed: %s\n%s" % (touched, failure))
            code = self.v.procs.pop().returncode
            t.check(0 < code < 10, "a damaged vault ends keepfs with %s: %s" % (code, failure))
            self.count["no mount"] += len(touched)
            return
        seen = Reading(self.v.mnt).seen
        self.v.unmount()
        self.judge(seen, touched, must_fail)

    # -- random changes -------------------------------------------------------------------------------------------

    def targets(self):
        """Every backing entry but directories' contents, as ("byte" | "name" | "link" | "xattr", backing path)."""
        found = []
        for base, dirs, names in os.walk(self.pristine):
            for name in dirs + names:
                path = os.path.join(base, name)
                rel = os.path.relpath(path, self.pristine)
                st = os.lstat(path)
                special = name.startswith("keepfs.")
                if stat.S_ISREG(st.st_mode):
                    found += [("byte", rel)] * (8 if st.st_size > 1 << 20 else 3 if not name.startswith("N.") else 1)
                if stat.S_ISLNK(st.st_mode):
                    found += [("link", rel)] * 3
                elif any(x.startswith("user.") for x in os.listxattr(path)):
                    found.append(("xattr", rel))
                if not special:
                    found.append(("name", rel))
        return found

    def config_or_root(self, rel):
        return rel in ("keepfs.vault", "keepfs.dir")

    def change(self, kind, rel):
        """One byte; returns what was done, or None when there is nothing to change."""
        path = os.path.join(self.v.vault, rel)
        if kind == "byte":
            size = os.lstat(path).st_size
            at = self.offset(path, size)
            with open(path, "r+b") as f:
                f.seek(at)
                old = f.read(1)[0]
                new = old ^ (1 << self.rng.randrange(8)) if self.rng.random() < 0.5 else (old + self.rng.randrange(1, 256)) % 256
                f.seek(at)
                f.write(bytes([new]))
            self.dead = self.nobodys(rel, at)
            return "byte %d of %d: %d to %d in %s" % (at, size, old, new, rel)
        if kind == "link":
            old = os.fsencode(os.readlink(path))
            new = self.other_character(old)
            os.unlink(path)
            os.symlink(new, os.fsencode(path))
            return "link target %s" % rel
        if kind == "xattr":
            return self.change_xattr(path, rel)
        base, name = os.path.split(path)
        new = os.path.join(os.fsencode(base), self.other_character(os.fsencode(name)))
        if os.path.lexists(new):
            return None
        os.rename(path, new)
        return "name %s to %s" % (rel, os.path.basename(new).decode(errors="replace"))

    def offset(self, path, size):
        """Anywhere; half of the time where the format keeps something that matters."""
        if self.rng.random() < 0.5 or size < 4096:
            return self.rng.randrange(size)
        return self.rng.choice([self.rng.randrange(512), self.rng.randrange(512, 2560), self.rng.randrange(2560, 4096),
                                self.rng.randrange(max(0, size - 4096), size),
                                min(size - 1, 22 * 4096 + self.rng.randrange(4096))])

    def other_character(self, text):
        at = self.rng.randrange(len(text))
        while True:
            new = self.rng.choice(ALPHABET) if self.rng.random() < 0.7 else self.rng.randrange(1, 256)
            if new != text[at] and new != ord("/"):
                return text[:at] + bytes([new]) + text[at + 1:]

    def change_xattr(self, path, rel):
        name = self.rng.choice([x for x in os.listxattr(path) if x.startswith("user.")])
        value = os.getxattr(path, name)
        if self.rng.random() < 0.5 and value:
            at = self.rng.randrange(len(value))
            os.setxattr(path, name, value[:at] + bytes([value[at] ^ (1 << self.rng.randrange(8))]) + value[at + 1:])
            return "value of an xattr of %s" % rel
        prefix = len("user.keepfs.")
        new = name[:prefix] + self.other_character(name[prefix:].encode()).decode("utf-8", "surrogateescape")
        os.removexattr(path, name)
        try:
            os.setxattr(path, new, value)
        except (OSError, UnicodeError):
            self.dead = True  # an xattr that is gone leaves nothing behind
        return "name of an xattr of %s" % rel

    # -- what scrub says ---------------------------------------------------------------------------------------------

    def nobodys(self, rel, at):
        """Is this byte of a backing file one that no reader uses?"""
        name = os.path.basename(rel)
        if name == "keepfs.vault":
            with open(os.path.join(self.pristine, rel), "rb") as f:
                page = f.read()
            live = page[2304:2312][::-1] > page[1280:1288][::-1]
            return contents.STATE[not live][0] <= at < contents.STATE[not live][1]
        if name.startswith(("keepfs.", "N.")):
            return False
        if rel not in self.shapes:
            self.shapes[rel] = contents.Shape(os.path.join(self.pristine, rel), len(self.good[self.names[rel] + " data"]))
        return self.shapes[rel].dead(at)

    def inodes(self, rel):
        """Of the entries that a finding about this backing path may name."""
        base, name = os.path.split(os.path.join(self.v.vault, rel))
        paths = [base] if name == "keepfs.dir" else [base + "/" + name]
        if name.startswith(("N.", "L.")):
            paths += [base + "/L." + name[2:], base + "/N." + name[2:]]
        return {os.lstat(p).st_ino for p in paths if os.path.lexists(p)}

    def scrub(self):
        """(exit code, {inode: finding})."""
        code, out, err = self.v.keepctl("--json", "scrub", self.v.vault, ok=None)
        t.check(code in (0, 4, 6), "scrub: exit %d: %s" % (code, err))
        lines = [x for x in t.json_lines(out) if "problem" in x and not x.get("note")]
        t.check(bool(lines) == (code == 6) or code == 4, "scrub: exit %d and %s" % (code, lines[:3]))
        return code, {self.inode(x["backing_path"]): x for x in lines}

    def inode(self, backing):
        """Of a name in a finding, where bytes that are no UTF-8 are written as \\xHH."""
        name = re.sub(rb"\\x([89a-f][0-9a-f])", lambda m: bytes([int(m.group(1), 16)]), os.fsencode(backing))
        path = os.path.join(os.fsencode(self.v.vault), name)
        return os.lstat(path if os.path.lexists(path) else os.path.join(self.v.vault, backing)).st_ino

    def scrub_names(self, changed):
        """changed: (what, inodes, whether no reader uses it) of everything that was."""
        code, named = self.scrub()
        if code != 4:  # the vault as a whole was refused
            for what, inodes, dead in changed:
                t.check(dead or inodes & set(named), "scrub says nothing of: %s; it names %s" % (what, list(named.values())[:3]))
        known = set().union(*(inodes for _, inodes, _ in changed))
        for inode, finding in named.items():
            t.check(inode in known, "scrub names what was not changed: %s; changed: %s" % (finding, [w for w, _, _ in changed]))

    def choose(self, targets, limit):
        """So many of the targets as may be changed in one mount."""
        self.rng.shuffle(targets)
        first = targets[0]
        if self.config_or_root(first[1]):
            return [first]
        taken, clears, dirs = [], set(), []
        for kind, rel in targets:
            if self.config_or_root(rel):
                continue
            clear, is_dir = self.owner(rel)
            if clear in clears or any(clear.startswith(d + "/") for d in dirs):
                continue
            if is_dir and any(c.startswith(clear + "/") for c in clears):
                continue
            clears.add(clear)
            if is_dir:
                dirs.append(clear)
            taken.append((kind, rel))
            if len(taken) == limit:
                break
        return taken

    def random_changes(self, wanted):
        done, mounts = 0, 0
        config = max(2, wanted // 40)
        while done < wanted:
            touched = {}
            targets = self.targets()
            if config > 0 and self.rng.random() < 0.5:
                config -= 1
                picked = [("byte", self.rng.choice(["keepfs.vault", "keepfs.vault", "keepfs.dir"]))]
            else:
                picked = self.choose([x for x in targets if not self.config_or_root(x[1])], min(wanted - done, self.rng.randrange(15, 40)))
            changed = []
            for kind, rel in sorted(picked, key=lambda x: -x[1].count("/")):  # deepest first: names of directories change last
                self.dead, inodes = False, self.inodes(rel)
                what = self.change(kind, rel)
                if what:
                    changed.append((what, inodes | (self.inodes(rel) if kind == "link" else set()), self.dead))
                    touched[("" if self.config_or_root(rel) else self.owner(rel)[0])] = \
                        (self.config_or_root(rel) or self.owner(rel)[1], what)
            self.look(touched)
            self.scrub_names(changed)
            self.restore()
            done += len(touched)
            mounts += 1
        print("%d single-byte changes in %d mounts: %s" % (done, mounts, ", ".join("%d %s" % (n, what) for what, n in self.count.items())))


# -- the fixed attacks --------------------------------------------------------------------------------------------------

def page_of(block):
    if block < 21:
        return 1 + block
    return 22 + 912 * ((block - 21) // 896) + 16 + (block - 21) % 896


def entry_of(block):
    """(offset of the 72-byte tag entry) of a block."""
    if block < 21:
        return 2560 + 72 * block
    n = (block - 21) % 896
    return (22 + 912 * ((block - 21) // 896) + n // 56) * 4096 + 72 * (n % 56)


def read_at(path, at, size):
    with open(path, "rb") as f:
        f.seek(at)
        return f.read(size)


def write_at(path, at, data):
    with open(path, "r+b") as f:
        f.seek(at)
        f.write(data)


def copy_block(path, block, source, source_block, entry=True):
    write_at(path, page_of(block) * 4096, read_at(source, page_of(source_block) * 4096, 4096))
    if entry:
        write_at(path, entry_of(block), read_at(source, entry_of(source_block), 72))


def fixed_attacks(a):
    """Each: (what, the entries that must not be readable as they were). Run one per mount."""
    f6, f11 = "/dir/file6", "/" + "l" * 190 + "file11"
    big, other = a.backing_of(f11), a.backing_of("/dir" + f11)
    small, small2 = a.backing_of("/dir/file6"), a.backing_of("/dir/sub/file6")
    note, note2 = a.backing_of("/file4"), a.backing_of("/dir/file4")
    sub = a.backing_of("/dir/sub")

    def p(rel):
        return os.path.join(a.v.vault, rel)

    def header(size, at=0):
        def do():
            one, two = read_at(p(small), at, size), read_at(p(small2), at, size)
            write_at(p(small), at, two)
            write_at(p(small2), at, one)
        return do

    def xattr_swap():
        for x in os.listxattr(p(note)):
            if x.startswith("user."):
                os.removexattr(p(note), x)
        for x in os.listxattr(p(note2)):
            if x.startswith("user."):
                os.setxattr(p(note), x, os.getxattr(p(note2), x))

    def link_swap():
        one, two = a.backing_of("/link"), a.backing_of("/dir/link")
        target = os.readlink(p(two))
        os.unlink(p(one))
        os.symlink(target + "A", p(one))

    yield "a block copied from another file", [f11], lambda: copy_block(p(big), 30, p(other), 30)
    yield "a block copied without its tag", [f11], lambda: copy_block(p(big), 30, p(other), 30, entry=False)
    yield "two blocks of a file exchanged", [f11], lambda: copy_block(p(big), 31, p(big), 700)
    yield "a tag entry zeroed", [f11], lambda: write_at(p(big), entry_of(900), bytes(72))
    yield "a data page zeroed", [f11], lambda: write_at(p(big), page_of(900) * 4096, bytes(4096))
    yield "a tag entry and its page zeroed", [f11], lambda: (write_at(p(big), entry_of(3), bytes(72)), write_at(p(big), page_of(3) * 4096, bytes(4096)))
    yield "a hole punched into a file", [f11], lambda: t.run(["fallocate", "-p", "-o", 22 * 4096, "-l", 200 * 4096, p(big)])
    yield "a file cut by a byte", [f6], lambda: os.truncate(p(small), os.path.getsize(p(small)) - 1)
    yield "a file cut by a page", [f6], lambda: os.truncate(p(small), os.path.getsize(p(small)) - 4096)
    yield "a file cut to its header", [f6], lambda: os.truncate(p(small), 4096)
    yield "a file emptied", [f6], lambda: os.truncate(p(small), 0)
    yield "a file grown by a byte", [f6], lambda: os.truncate(p(small), os.path.getsize(p(small)) + 1)
    yield "a file grown by a page", [f6], lambda: os.truncate(p(small), os.path.getsize(p(small)) + 4096)
    yield "headers of two files exchanged", [f6, "/dir/sub/file6"], header(4096)
    yield "wrap slots of two files exchanged", [f6, "/dir/sub/file6"], header(768, 512)
    yield "state slots of two files exchanged", [f6, "/dir/sub/file6"], header(1280, 1280)
    yield "immutable fields of two files exchanged", [f6, "/dir/sub/file6"], header(512)
    yield "a directory moved under another", ["/dir/sub"], lambda: os.rename(p(sub), p(os.path.join(a.backing_of("/other"), os.path.basename(sub))))
    yield "xattrs put on another file", ["/file4"], xattr_swap
    yield "a link target made longer", ["/link"], link_swap
    yield "a directory record deleted", ["/dir/sub"], lambda: os.unlink(p(sub + "/keepfs.dir"))
    yield "another directory's record", ["/dir/sub"], lambda: shutil.copy(p(a.backing_of("/other") + "/keepfs.dir"), p(sub + "/keepfs.dir"))


def rollbacks(a):
    """Blocks, tag pages and states replaced by their own older ciphertext, with everything else new."""
    clear = "/dir/rewritten0"
    rel = a.backing_of(clear)
    path = os.path.join(a.v.vault, rel)
    old_path = os.path.join(a.pristine, rel)
    a.v.mount()
    new = a.rng.randbytes(120000)
    with open(a.v.mnt + clear, "r+b") as f:
        f.write(new)
    a.v.unmount()
    newer = open(path, "rb").read()
    good = a.good[clear + " data"]
    a.good[clear + " data"] = new
    attacks = [("block 2 rolled back with its tags", lambda: copy_block(path, 2, old_path, 2)),
               ("block 25 rolled back with its tags", lambda: copy_block(path, 25, old_path, 25)),
               ("a tag page and its blocks rolled back", lambda: (write_at(path, 22 * 4096, read_at(old_path, 22 * 4096, 16 * 4096)),
                                                                   [copy_block(path, b, old_path, b, entry=False) for b in range(21, 29)])),
               ("header rolled back, content new", lambda: write_at(path, 0, read_at(old_path, 0, 4096))),
               ("state rolled back, content new", lambda: [write_at(path, at, read_at(old_path, at, 256)) for at in (1280, 2304)]),
               ("content rolled back, header new", lambda: write_at(path, 4096, read_at(old_path, 4096, os.path.getsize(old_path))))]
    for what, do in attacks:
        do()
        a.look({clear: (False, what)}, must_fail=(clear,))
        t.check(a.scrub()[0] == 6, "scrub does not see: %s" % what)
        with open(path, "r+b") as f:
            f.write(newer)
    a.good[clear + " data"] = good
    a.restore()
    return len(attacks)


def run_fixed(a):
    number = 0
    for what, clears, do in fixed_attacks(a):
        do()
        is_dir = "director" in what
        touched = {c: (is_dir, what) for c in clears}
        if what == "a directory moved under another":
            touched["/other"] = (True, what)
            a.count["harmless"] -= 1
        try:
            a.look(touched, must_fail=clears)
            t.check(a.scrub()[0] == 6, "scrub does not see it")
        except t.Failure as failure:
            raise t.Failure("attack %r: %s" % (what, failure))
        a.restore()
        number += 1
    number += rollbacks(a)
    print("%d fixed attacks: all refused" % number, flush=True)
    a.count = {k: 0 for k in a.count}


# -- contents -----------------------------------------------------------------------------------------------------------

def table(c, done, batches, what, start):
    print("%d changes of contents in %d mounts, %s, %.0f s:\n%s" % (done, batches, what, time.time() - start, c.table()), flush=True)


def finish(c):
    verdict = c.v.keepctl("audit", "verify", json=True)[-1]
    t.check(verdict["ok"] is True, "audit verify: %s" % verdict)
    c.v.cleanup()


def run_contents(args, rng, wanted):
    """Files up to 64 MiB: one of exactly that in the full size."""
    start, full = time.time(), wanted >= 2000
    sizes = [0, 1, 100, 4095, 4096, 4097, 50000, 84 * 1024 - 1, 84 * 1024, 84 * 1024 + 1, 200000]
    sizes += [rng.randrange(1, 300000) for _ in range(90 if full else 30)]
    sizes += [rng.randrange(MIB // 2, 6 * MIB) for _ in range(24 if full else 5)]
    sizes += [9 * MIB, 20 * MIB, 40 * MIB, 64 * MIB - 5, 64 * MIB] if full else [9 * MIB]
    c = contents.Contents(args.base, rng, sizes, most=64 * MIB)
    done, batches = c.run(wanted)
    table(c, done, batches, "%d files of %d MiB together, the largest %d MiB" % (len(sizes), sum(sizes) // MIB, max(sizes) // MIB), start)
    finish(c)


def run_big(args, rng, wanted):
    """Files beyond 64 MiB: as the others with verify=always; without it an error when the last tag page has been seen."""
    start, full = time.time(), wanted >= 100
    sizes = [80 * MIB, 100 * MIB + 123, 150 * MIB] if full else [70 * MIB]
    c = contents.Contents(args.base, rng, sizes, versions=2, filled=1 if full else 0)
    done, batches = c.run(wanted // 2, options="verify=always")
    table(c, done, batches, "files of %s MiB, verify=always" % ", ".join(str(s // MIB) for s in sizes), start)
    c.count, start = {}, time.time()
    done, batches = c.run(wanted - wanted // 2, kinds=c.LATE, late=True)
    table(c, done, batches, "the same files without verify=always", start)
    finish(c)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--changes", type=int, default=400)
    p.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    p.add_argument("--base", help="directory for everything", default="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    args = p.parse_args()
    print("seed %d" % args.seed, flush=True)
    t.need_fuse()
    a = Attack(args)
    run_fixed(a)
    a.random_changes(args.changes // 10)
    verdict = a.v.keepctl("audit", "verify", json=True)[-1]
    t.check(verdict["ok"] is True, "audit verify: %s" % verdict)
    big = max(6, args.changes // 100)
    run_contents(args, a.rng, args.changes - args.changes // 10 - big)
    run_big(args, a.rng, big)


t.main(main)
