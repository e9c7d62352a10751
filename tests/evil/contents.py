"""Changes of file contents at rest: bytes, blocks, tag pages, header pages, sizes; what is served afterwards, and what `keepctl scrub` names.

For tamper.py. Every file has older versions, whose backing bytes were kept: an attacker who can write the vault could have kept them
too. Many files are changed at once, each by one change, and put back afterwards.
"""
import ctypes
import os
import random
import shutil
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
sys.path.insert(0, os.path.join(HERE, "..", "golden"))
import keepfs_testlib as t
from reader import PAGE, entry_at, map_size, page_of

LIBC = ctypes.CDLL(None, use_errno=True)
MIB = 1 << 20
WRAP = ((512, 1280), (1536, 2304))
STATE = ((1280, 1536), (2304, 2560))
CHUNK = MIB


def punch(fd, at, size):
    """fallocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)."""
    if LIBC.fallocate(fd, 3, ctypes.c_longlong(at), ctypes.c_longlong(size)) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")


class Shape:
    """What of a backing file no reader uses, read from its clear fields (fs/FORMAT.md)."""

    def __init__(self, path, size):
        with open(path, "rb") as f:
            raw = f.read()
        t.check(len(raw) == map_size(size), "%s has %d bytes, and a content of %d bytes needs %d" % (path, len(raw), size, map_size(size)))
        self.state = max((struct.unpack_from("<Q", raw, at)[0], i) for i, (at, _) in enumerate(STATE))[1]
        self.wrap = max((struct.unpack_from("<Q", raw, at)[0], i) for i, (at, _) in enumerate(WRAP))[1]
        self.blocks = []  # (live slot, length), None for a hole
        for block in range((size + PAGE - 1) // PAGE):
            at = entry_at(block)
            metas = [struct.unpack_from("<Q", raw, at + i + 28)[0] for i in (0, 36)]
            live = metas[1] & (1 << 48) - 1 > metas[0] & (1 << 48) - 1
            self.blocks.append((int(live), metas[live] >> 48 & 8191) if metas[live] else None)

    def block(self, number):
        return self.blocks[number] if number < len(self.blocks) else None

    def dead(self, at):
        """Is this byte used by nobody?"""
        page, inside = divmod(at, PAGE)
        if page == 0:
            if inside >= 2560 and inside < 2560 + 72 * 21:
                return self.dead_tag((inside - 2560) // 72, (inside - 2560) % 72)
            return any(a <= inside < b for a, b in (WRAP[not self.wrap], STATE[not self.state]))
        if page >= 22:
            run, k = divmod(page - 22, 912)
            if k < 16:
                return inside < 56 * 72 and self.dead_tag(21 + 896 * run + 56 * k + inside // 72, inside % 72)
            page = 21 + 896 * run + k - 16 + 1
        live = self.block(page - 1)
        return live is None or inside >= live[1]

    def dead_tag(self, block, inside):
        live = self.block(block)
        return live is not None and inside // 36 != live[0]


class File:
    """A file of the vault: versions as (content, path of its backing bytes then); the last one is current."""

    def __init__(self, name, content):
        self.name, self.model, self.versions = name, bytearray(content), []
        self.path, self.shape, self.log, self.differ = None, None, [], {}

    def keep(self, directory, snapshot=True):
        copy = None
        if snapshot:
            copy = os.path.join(directory, "%s.%d" % (self.name, len(self.versions)))
            shutil.copyfile(self.path, copy)
        self.versions.append((bytes(self.model), copy))

    def content(self):
        return self.versions[-1][0]

    def size(self):
        return os.path.getsize(self.path)

    def old(self, rng):
        return rng.choice(self.versions[:-1])

    def differing(self, copy):
        """Blocks whose tags are others in an older version (at most those of 20 tag pages with a difference)."""
        if copy not in self.differ:
            found, pages = [], 0
            for first in [0] + list(range(21, len(self.shape.blocks), 56)):
                count = min(21 if first == 0 else 56, len(self.shape.blocks) - first)
                new, old = (self.read(entry_at(first), 72 * count, path) for path in (None, copy))
                if new != old and pages < 20:
                    pages += 1
                    found += [first + i for i in range(count) if new[72 * i:72 * i + 72] != old[72 * i:72 * i + 72] and self.shape.blocks[first + i]]
            self.differ[copy] = found
        return self.differ[copy]

    # -- changes, and their way back ------------------------------------------------------------------------------

    def read(self, at, size, path=None):
        with open(path or self.path, "rb") as f:
            f.seek(at)
            return f.read(size)

    def write(self, at, data):
        """Within the file."""
        with open(self.path, "r+b", buffering=0) as f:
            end = f.seek(0, os.SEEK_END)
            data = data[:max(0, end - at)]
            f.seek(at)
            self.log.append((at, f.read(len(data)), end))
            f.seek(at)
            f.write(data)

    def resize(self, size, fill=b""):
        with open(self.path, "r+b", buffering=0) as f:
            end = f.seek(0, os.SEEK_END)
            f.seek(min(size, end))
            self.log.append((min(size, end), f.read(end), end))
            f.truncate(size)
            if size > end and fill:
                f.seek(end)
                f.write(fill[:size - end])

    def punch(self, at, size):
        size = min(size, self.size() - at)
        with open(self.path, "r+b", buffering=0) as f:
            self.log.append((at, self.read(at, size), self.size()))
            punch(f.fileno(), at, size)

    def back(self):
        for at, data, end in reversed(self.log):
            with open(self.path, "r+b", buffering=0) as f:
                f.truncate(end)
                f.seek(at)
                f.write(data)
        self.log = []

    def changed(self):
        """"same", "dead" when all that differs is used by nobody, or the first offset that differs and is used (-1: the size)."""
        if self.size() != map_size(len(self.content())):
            return -1
        found = "same"
        for page in sorted({p for at, data, _ in self.log for p in range(at // PAGE, (at + len(data) + PAGE - 1) // PAGE)}):
            now = self.read(page * PAGE, PAGE)
            before = bytearray(now)
            for at, data, _ in reversed(self.log):
                low, high = max(at, page * PAGE), min(at + len(data), page * PAGE + len(now))
                if low < high:
                    before[low - page * PAGE:high - page * PAGE] = data[low - at:high - at]
            if before != now:
                found = "dead"
                for i, (x, y) in enumerate(zip(before, now)):
                    if x != y and not self.shape.dead(page * PAGE + i):
                        return page * PAGE + i
        return found

    def is_version(self, number):
        """All that readers use is as it was in an older version: a rollback of the whole file."""
        content, copy = self.versions[number]
        if copy is None or self.size() != map_size(len(content)):
            return False
        shape = Shape(copy, len(content))
        with open(self.path, "rb") as f, open(copy, "rb") as g:
            at = 0
            while True:
                a, b = f.read(PAGE), g.read(PAGE)
                if not a:
                    return True
                if a != b and any(x != y and not shape.dead(at + i) for i, (x, y) in enumerate(zip(a, b))):
                    return False
                at += PAGE


class Contents:
    """A vault whose files are changed, served and scrubbed."""

    def __init__(self, base, rng, sizes, versions=3, most=None, filled=None):
        """most: no version of a file is larger. filled: so many files are full of data, the others are sparse (None: all are full)."""
        self.rng, self.v, self.most, self.filled = rng, t.Vault(base=base), most or 1 << 40, len(sizes) if filled is None else filled
        self.snapshots = os.path.join(self.v.dir, "snapshots")
        os.mkdir(self.snapshots)
        self.v.init()
        self.files = []
        self.count = {}
        for number in range(versions):
            self.v.mount()
            if number == 0:
                for i, size in enumerate(sizes):
                    self.make("f%03d" % i, size)
            else:
                for f in self.files:
                    self.edit(f)
            self.v.unmount()
            for f in self.files:
                f.keep(self.snapshots)
        for f in self.files:
            f.shape = Shape(f.path, len(f.content()))
        self.seen_scrub((0,))

    def make(self, name, size):
        f = File(name, self.rng.randbytes(size) if len(self.files) < self.filled else b"")
        path = os.path.join(self.v.mnt, name)
        with open(path, "wb") as out:
            out.write(f.model)
            if len(f.model) < size:  # a big one with holes
                f.model.extend(bytes(size))
                out.truncate(size)
                for _ in range(60):
                    self.overwrite(f, out.fileno(), 200000)
        inode = os.stat(path).st_ino
        f.path = next(e.path for e in os.scandir(self.v.vault) if e.inode() == inode)
        self.files.append(f)

    def overwrite(self, f, fd, most):
        data = self.rng.randbytes(self.rng.randrange(1, most))[:len(f.model)]
        at = self.rng.randrange(len(f.model) - len(data) + 1)
        os.pwrite(fd, data, at)
        f.model[at:at + len(data)] = data

    def edit(self, f):
        """A newer version: overwrites, now and then a cut, an end that is longer, a hole."""
        rng, fd = self.rng, os.open(os.path.join(self.v.mnt, f.name), os.O_RDWR)
        what = rng.random()
        for _ in range(rng.randrange(1, 5) if len(f.model) else 0):
            self.overwrite(f, fd, 20000)
        if what < 0.2:
            data = rng.randbytes(rng.randrange(1, 9000))[:self.most - len(f.model)]
            os.pwrite(fd, data, len(f.model))
            f.model += data
        elif what < 0.35 and f.model:
            size = rng.randrange(len(f.model) // 2, len(f.model))
            os.truncate(fd, size)
            del f.model[size:]
            longer = min(self.most, size + rng.randrange(0, 10000))
            os.truncate(fd, longer)
            f.model.extend(bytes(longer - size))
        elif what < 0.45 and len(f.model) > 30000:
            at, size = rng.randrange(len(f.model) - 20000), rng.randrange(1, 20000)
            punch(fd, at, size)
            f.model[at:at + size] = bytes(size)
        os.close(fd)

    # -- one change ---------------------------------------------------------------------------------------------------

    def data_page(self, f):
        blocks = (len(f.content()) + PAGE - 1) // PAGE
        return self.rng.randrange(blocks) if blocks else None

    def flip(self, f, _):
        """1 to 8 bytes, half of the time where the format keeps something that matters."""
        size = f.size()
        at = self.rng.randrange(size)
        if self.rng.random() < 0.5:
            at = self.rng.choice([self.rng.randrange(512), self.rng.randrange(512, 2560), self.rng.randrange(2560, 4096),
                                  self.rng.randrange(max(0, size - PAGE), size), min(size - 1, 22 * PAGE + self.rng.randrange(16 * PAGE))])
        for i in range(self.rng.choice([1, 1, 1, 2, 8])):
            here = at + i if self.rng.random() < 0.7 else self.rng.randrange(size)
            old = f.read(here, 1)
            if old:
                f.write(here, bytes([old[0] ^ self.rng.choice([1 << self.rng.randrange(8), self.rng.randrange(1, 256)])]))
        return "bytes"

    def copy_block(self, f, block, source, path, other, tag):
        f.write(page_of(block) * PAGE, source.read(page_of(other) * PAGE, PAGE, path).ljust(PAGE, b"\0"))
        if tag:
            f.write(entry_at(block), source.read(entry_at(other), 72, path))

    def swap(self, f, g):
        """Blocks of one file, or of two, exchanged or copied; with their tags or without; tag pages likewise."""
        one, two = self.data_page(f), self.data_page(g or f)
        if one is None or two is None or (g is None and one == two):
            return None
        if self.rng.random() < 0.15 and f.size() > 23 * PAGE and (g or f).size() > 24 * PAGE:
            f.write(22 * PAGE, (g or f).read((23 if g is None else 22) * PAGE, PAGE))
            return "tag pages swapped"
        tag, other = self.rng.random() < 0.6, g or f
        keep = [other.read(page_of(two) * PAGE, PAGE), other.read(entry_at(two), 72)]
        mine = [f.read(page_of(one) * PAGE, PAGE), f.read(entry_at(one), 72)]
        f.write(page_of(one) * PAGE, keep[0].ljust(PAGE, b"\0"))
        if tag:
            f.write(entry_at(one), keep[1])
        if g is None:
            f.write(page_of(two) * PAGE, mine[0].ljust(PAGE, b"\0"))
            if tag:
                f.write(entry_at(two), mine[1])
        return "blocks swapped" if g is None else "a block of another file"

    def rollback(self, f, _):
        """A page, or a slot, as it was in an older version."""
        content, copy = f.old(self.rng)
        what = self.rng.randrange(7)
        if what == 0:
            at, size, name = 0, PAGE, "header page rolled back"
        elif what == 1:
            at, size, name = self.rng.choice([512, 1280, 1536, 2304]), 256, "slot rolled back"
            size = 768 if at in (512, 1536) else 256
        elif what == 2 and f.size() > 23 * PAGE:
            at, size, name = (22 + self.rng.randrange(16)) * PAGE, PAGE, "tag page rolled back"
        elif what == 3:
            at, size, name = 2560, 72 * 21, "tags of page 0 rolled back"
        elif what == 4 and len(content) and self.data_page(f) is not None:
            at, size, name = page_of(self.data_page(f)) * PAGE, PAGE, "data page rolled back"
        elif what == 5 and f.size() > 23 * PAGE and os.path.getsize(copy) >= f.size() - PAGE:
            at, size, name = PAGE, f.size() - PAGE, "content rolled back, header new"
        else:
            return self.rollback_block(f, copy)
        f.write(at, f.read(at, size, copy))
        return name

    def rollback_block(self, f, copy):
        """Blocks with their tags: each authenticates by itself."""
        differ = f.differing(copy)
        if not differ:
            return None
        for block in self.rng.sample(differ, min(len(differ), self.rng.choice([1, 1, 2, 20]))):
            self.copy_block(f, block, f, copy, block, True)
        return "blocks rolled back with their tags"

    def size_change(self, f, _):
        size = f.size()
        new = self.rng.choice([size - 1, size + 1, size - PAGE, size + PAGE, 0, PAGE, self.rng.randrange(size + 20000),
                               map_size(self.rng.randrange(len(f.content()) + 1)), map_size(len(f.content()) + self.rng.randrange(30000))])
        if new < 0 or new == size:
            return None
        f.resize(new, self.rng.randbytes(min(max(0, new - size), 5000)) if self.rng.random() < 0.5 else b"")
        return "cut" if new < size else "grown"

    def header(self, f, g):
        """Headers, or parts of them, exchanged between two files."""
        if g is None:
            return None
        at, size = self.rng.choice([(0, PAGE), (0, 2560), (0, 512), (0, 96), (16, 16), (32, 16), (64, 32), (512, 768), (1280, 256), (2304, 256),
                                    (512, 2048), (2560, 1512)])
        one, two = f.read(at, size), g.read(at, size)
        f.write(at, two)
        g.write(at, one)
        return "headers swapped"

    def zero(self, f, _):
        size = f.size()
        page = self.rng.choice([0, 22, self.rng.randrange((size + PAGE - 1) // PAGE), self.rng.randrange((size + PAGE - 1) // PAGE)])
        if page * PAGE >= size:
            return None
        count = self.rng.choice([1, 1, 3, 20])
        if self.rng.random() < 0.5:
            f.write(page * PAGE, bytes(count * PAGE))
            return "pages zeroed"
        f.punch(page * PAGE, count * PAGE)
        return "holes punched"

    KINDS = [(flip, 40), (rollback, 22), (swap, 14), (size_change, 10), (header, 7), (zero, 7)]

    def late_block(self, f, _):
        return self.rollback_block(f, f.old(self.rng)[1])

    LATE = [(late_block, 120)] + KINDS

    def change(self, f, partners, kinds):
        """Change f, and maybe a partner: (what, the files that it touched)."""
        for _ in range(20):
            kind = self.rng.choices([k for k, _ in kinds], [n for _, n in kinds])[0]
            pair = kind is Contents.header or (kind is Contents.swap and self.rng.random() < 0.5)
            g = partners[-1] if pair and partners else None
            what = kind(self, f, g)
            touched = [x for x in (f, g) if x is not None and x.log]
            changed = {x.name: x.changed() for x in touched}
            if what and changed.get(f.name, "same") != "same":
                touched = [x for x in touched if changed[x.name] != "same"]
                if g in touched:
                    partners.pop()
                return what, [(x, changed[x.name]) for x in touched]
            for x in touched:
                x.back()
        return None

    # -- judging ------------------------------------------------------------------------------------------------------

    def serve(self, f):
        """Read all of f: (errors, chunks that are wrong as (offset, data), what was read or None when that is not all of it)."""
        errors, wrong, parts, good = 0, [], [], f.content()
        try:
            fd = os.open(os.path.join(self.v.mnt, f.name), os.O_RDONLY)
        except OSError:
            return 1, [], None
        size = os.fstat(fd).st_size
        for at in range(0, max(size, len(good)), CHUNK):
            data = b""
            while len(data) < min(CHUNK, size - at):
                try:
                    more = os.pread(fd, min(CHUNK, size - at) - len(data), at + len(data))
                except OSError:
                    more = b""
                    errors += 1
                data += more
                if not more:
                    break
            if data != good[at:at + len(data)]:
                wrong.append((at, data))
            parts.append(data)
        os.close(fd)
        return errors, wrong, None if errors else b"".join(parts)

    def seen_scrub(self, codes):
        """Backing names that scrub has findings about."""
        lines = self.v.keepctl("scrub", self.v.vault, json=True, ok=codes)
        last = lines[-1]
        t.check("remaining" in last, "the last line of scrub is %s" % last)
        named = {x["backing_path"]: x for x in lines[:-1] if "problem" in x and not x.get("note")}
        t.check(bool(named) == (last["problems"] > 0), "scrub names %s and counts %s" % (list(named)[:3], last))
        return named

    def older(self, f, got):
        """The whole file was rolled back, header and all: a documented limit, as long as it is one whole older version."""
        return got is not None and any(got == content and f.is_version(i) for i, (content, _) in enumerate(f.versions[:-1]))

    def older_header(self, f, wrong):
        """The header page is that of an older version, and so are all other tags: the same limit, carried out in part. What is served are the
        holes and the untouched blocks of that one version."""
        for content, copy in f.versions[:-1]:
            if copy and f.read(0, PAGE) == f.read(0, PAGE, copy) and all(data == content[at:at + len(data)] for at, data in wrong):
                return True
        return False

    def tally(self, what, outcome):
        row = self.count.setdefault(what, {})
        row[outcome] = row.get(outcome, 0) + 1

    def judge(self, changes, named, served, late=False):
        """late: files beyond 64 MiB without verify=always: older blocks may be served until the last tag page has been seen."""
        touched = {}
        for what, files in changes:
            outcomes = []
            for f, changed in files:
                touched[os.path.basename(f.path)] = f
                outcomes.append(self.judge_file(f, what, changed, named, served[f.name], late))
            self.tally(what, min(outcomes, key=("wrong until the end", "an error", "an older version", "an older version in part", "served, named", "dead bytes").index))
        for name in named:
            t.check(name in touched, "scrub names %s, which was not changed: %s" % (name, named[name]))

    def judge_file(self, f, what, changed, named, result, late):
        errors, wrong, got = result
        dead = changed == "dead"
        where = "%s (%d bytes): %s; changed: %s" % (f.name, len(f.content()), what, changed)
        if wrong and self.older(f, got):
            return "an older version"
        if wrong and errors and self.older_header(f, wrong):
            t.check(os.path.basename(f.path) in named, "scrub says nothing of %s" % where)
            return "an older version in part"
        if wrong and late and errors:
            t.check(all(self.of_versions(f, at, data) for at, data in wrong), "WRONG DATA, of no version: %s" % where)
            outcome = "wrong until the end"
        else:
            t.check(not wrong, "WRONG DATA served in the MiB at %s: %s" % ([at for at, _ in wrong[:5]], where))
            outcome = "an error" if errors else "dead bytes" if dead else "served, named"
        t.check(dead or os.path.basename(f.path) in named, "scrub says nothing of %s" % where)
        return outcome

    def of_versions(self, f, at, data):
        """Every block of this MiB is that of one version or another, or zeros: an entry that was emptied is a hole."""
        for i in range(0, len(data), PAGE):
            block = data[i:i + PAGE]
            if any(block) and not any(block == content[at + i:at + i + len(block)] for content, _ in f.versions):
                return False
        return True

    # -- a run --------------------------------------------------------------------------------------------------------

    def batch(self, limit, options=None, kinds=None, late=False):
        changes, left = [], self.files[:]
        self.rng.shuffle(left)
        left = [f for f in left if not 8 * MIB <= len(f.model) <= 64 * MIB or self.rng.random() < 0.2]
        while left and len(changes) < limit:
            f = left.pop()
            done = self.change(f, left, kinds or self.KINDS)
            if done:
                changes.append(done)
        self.v.mount(options)
        served = {f.name: self.serve(f) for _, files in changes for f, _ in files}
        self.v.unmount()
        expected = any(changed != "dead" for _, files in changes for _, changed in files)
        named = self.seen_scrub((6,) if expected else (0, 6))
        try:
            self.judge(changes, named, served, late)
        except t.Failure:
            for _, files in changes:
                for f, _ in files:
                    shutil.copyfile(f.path, os.path.join(self.v.dir, "failed-" + f.name))
            raise
        for _, files in changes:
            for f, _ in files:
                f.back()
        return len(changes)

    def run(self, wanted, options=None, kinds=None, late=False):
        done = batches = 0
        while done < wanted:
            done += self.batch(wanted - done, options, kinds, late)
            batches += 1
        for f in self.files:
            with open(f.path, "rb") as a, open(f.versions[-1][1], "rb") as b:
                t.check(a.read() == b.read(), "%s is not what it was at the beginning" % f.name)
        return done, batches

    def table(self):
        lines = []
        for what in sorted(self.count):
            lines.append("  %-36s %s" % (what, ", ".join("%d %s" % (n, outcome) for outcome, n in sorted(self.count[what].items()))))
        return "\n".join(lines)
