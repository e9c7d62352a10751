#!/usr/bin/python3
"""`keepctl scrub`: a sound vault has no findings, each kind of damage is named with its block, what no reader uses is not; a crash is
recovered; and beside a mount that writes, opens, cuts, renames and deletes, whole rounds of scrub find nothing.

--seconds N: so long beside the writers. --size MIB: also a file of that size, scrubbed and plainly read, with the throughput of both and
the most memory that scrub took.
"""
import argparse
import os
import random
import struct
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
sys.path.insert(0, os.path.join(HERE, "..", "golden"))
import keepfs_testlib as t
from reader import PAGE, entry_at, page_of

MIB = 1 << 20


def scrub(v, path=None, code=0):
    """(findings, last line); the exit code must be 6 with findings and 0 without."""
    lines = v.keepctl("scrub", path or v.vault, json=True, ok=(code,))
    last = lines.pop()
    t.check("remaining" in last and "blocks" in last and "bytes" in last, "the last line is %s" % last)
    for line in lines:
        t.check("progress" in line or {"path", "backing_path", "problem", "detail", "action"} <= set(line), "a line: %s" % line)
        t.check("progress" not in line or 0 <= line["progress"] <= line["total"], "progress: %s" % line)
    found = [x for x in lines if "problem" in x and not x.get("note")]
    t.check(len(found) == last["problems"] == last["remaining"], "%d findings, and %s" % (len(found), last))
    t.check((code == 6) == bool(found), "exit %d with %s" % (code, found[:3]))
    return found, last


def live_slot(path, block):
    """Offset of the live slot of a block's tag."""
    with open(path, "rb") as f:
        f.seek(entry_at(block))
        entry = f.read(72)
    seqs = [struct.unpack_from("<Q", entry, i + 28)[0] & (1 << 48) - 1 for i in (0, 36)]
    return entry_at(block) + 36 * (seqs[1] > seqs[0])


class Damage:
    """A place in a backing file, and what it was."""

    def __init__(self, path):
        self.path, self.log = path, []

    def write(self, at, data):
        with open(self.path, "r+b", buffering=0) as f:
            size = f.seek(0, os.SEEK_END)
            f.seek(at)
            self.log.append((at, f.read(len(data)), size))
            f.seek(at)
            f.write(data)

    def flip(self, at):
        with open(self.path, "rb") as f:
            f.seek(at)
            self.write(at, bytes([f.read(1)[0] ^ 0x40]))

    def resize(self, size):
        with open(self.path, "r+b", buffering=0) as f:
            old = f.seek(0, os.SEEK_END)
            f.seek(min(size, old))
            self.log.append((min(size, old), f.read(), old))
            f.truncate(size)

    def back(self):
        for at, data, size in reversed(self.log):
            with open(self.path, "r+b", buffering=0) as f:
                f.truncate(size)
                f.seek(at)
                f.write(data)
        self.log = []


def backing(v, path):
    inode = os.lstat(path).st_ino
    for base, dirs, names in os.walk(v.vault):
        for name in dirs + names:
            if os.lstat(os.path.join(base, name)).st_ino == inode:
                return os.path.join(base, name)
    raise t.Failure("no backing of " + path)


def build(v, rng):
    """{name: backing path}; "big" was written twice, so most tags have two slots; an older copy of it is kept."""
    v.mount()
    os.mkdir(v.mnt + "/dir")
    paths = {}
    for name, size in (("small", 30000), ("big", 5 * MIB), ("dir/two", 2 * MIB), ("empty", 0), ("dir/sparse", 100)):
        with open(os.path.join(v.mnt, name), "wb") as f:
            f.write(rng.randbytes(size))
            if name == "dir/sparse":
                f.seek(3 * MIB)
                f.write(b"end")
        paths[name] = backing(v, os.path.join(v.mnt, name))
    os.setxattr(v.mnt + "/small", "user.note", b"a note")
    os.symlink("target", v.mnt + "/link")
    v.unmount()
    with open(paths["big"], "rb") as f:
        old = f.read()
    v.mount()
    with open(v.mnt + "/big", "r+b") as f:
        f.write(rng.randbytes(5 * MIB))
    v.unmount()
    return paths, old


def cases(paths, old):
    """(what, file, how, the problem's code word, text that its detail must hold)"""
    big = paths["big"]
    for block in (0, 20, 21, 300, 916, 917, 1279):
        yield "a byte of block %d" % block, "big", lambda d, b=block: d.flip(page_of(b) * PAGE + 77), "data-damaged", "block %d (bytes %d to " % (
            block, block * PAGE)
    yield "four blocks zeroed", "big", lambda d: d.write(page_of(30) * PAGE, bytes(4 * PAGE)), "data-damaged", "blocks 30 to 33 (bytes %d to %d " % (
        30 * PAGE, 34 * PAGE - 1)
    yield "the nonce of a tag", "big", lambda d: d.flip(live_slot(big, 40)), "data-damaged", "block 40 "
    yield "the tag of a tag", "big", lambda d: d.flip(live_slot(big, 950) + 20), "data-damaged", "block 950 "
    yield "the sequence of a tag", "big", lambda d: d.flip(live_slot(big, 41) + 33), "tags-damaged", "block 41 "
    yield "the length of a tag", "big", lambda d: d.write(live_slot(big, 42) + 28 + 6, b"\xff\xff"), "tags-damaged", "block 42 "
    yield "a reserved byte of a tag page", "big", lambda d: d.flip(22 * PAGE + 4090), "tags-damaged", "blocks 21 to 76 "
    yield "a tag page that no block uses", "big", lambda d: d.flip((22 + 912 + 15) * PAGE + 5), "tags-damaged", "a tag without a sequence"
    yield "a block with its tag, from an older copy", "big", lambda d: (d.write(page_of(500) * PAGE, old[page_of(500) * PAGE:][:PAGE]),
                                                                         d.write(entry_at(500), old[entry_at(500):][:72])), "tags-damaged", "as a whole"
    yield "a reserved byte of the header", "big", lambda d: d.flip(100), "header-damaged", "byte 100 "
    yield "the last bytes of the header page", "big", lambda d: d.flip(4090), "header-damaged", "byte 4090 "
    yield "the magic", "small", lambda d: d.flip(0), "header-damaged", "KEEPFSF1"
    yield "the vault's id", "small", lambda d: d.flip(16), "header-damaged", "another vault"
    yield "the file's id", "small", lambda d: d.flip(33), "header-damaged", ""
    yield "the commitment", "small", lambda d: d.flip(70), "header-damaged", ""
    yield "the wrap slot in use", "small", lambda d: d.flip(560), "header-damaged", "wrap slot 0 (bytes 512 to 1279) is damaged"
    yield "the wrap slot not in use", "small", lambda d: d.flip(1700), "header-damaged", "wrap slot 1 (bytes 1536 to 2303) is damaged"
    yield "both state slots", "small", lambda d: (d.flip(1300), d.flip(2320)), "header-damaged", "state"
    yield "a header alone", "small", lambda d: d.resize(PAGE), "", ""
    yield "no byte left", "small", lambda d: d.resize(0), "header-damaged", ""
    yield "one byte less", "big", lambda d: d.resize(os.path.getsize(big) - 1), "size", "was cut or grew"
    yield "one byte more", "big", lambda d: d.resize(os.path.getsize(big) + 1), "size", "was cut or grew"
    yield "the hole's end cut", "dir/sparse", lambda d: d.resize(os.path.getsize(paths["dir/sparse"]) - PAGE), "size", "was cut or grew"
    yield "a tag in a hole", "dir/sparse", lambda d: d.flip(entry_at(100) + 30), "tags-damaged", ""


def damaged(v, paths, old):
    number = 0
    for what, name, do, word, text in cases(paths, old):
        d = Damage(paths[name])
        do(d)
        found, _ = scrub(v, code=6)
        d.back()
        t.check(all(x["path"] == "/" + name for x in found), "%s: findings about others: %s" % (what, found))
        t.check(any(x["problem"].startswith(word) and text in x["detail"] for x in found), "%s: no %s with %r in %s" % (what, word, text, found))
        number += 1
    print("%d kinds of damage: each named with its place" % number)


def around(v, paths):
    """What is not a file's content."""
    for rel, at in (("keepfs.vault", 20), ("keepfs.vault", 100), ("keepfs.vault", 600), ("keepfs.vault", 3000), ("keepfs.dir", 50),
                    (os.path.relpath(os.path.dirname(paths["dir/two"]), v.vault) + "/keepfs.dir", 50)):
        d = Damage(os.path.join(v.vault, rel))
        d.flip(at)
        code, out, err = v.keepctl("scrub", v.vault, ok=(4, 6))
        d.back()
        t.check("keepfs.vault" in out + err or "record" in out + err, "byte %d of %s: %s %s" % (at, rel, out, err))
    name = os.listxattr(paths["small"])[0]
    value = os.getxattr(paths["small"], name)
    os.setxattr(paths["small"], name, value[:-1] + bytes([value[-1] ^ 1]))
    found, _ = scrub(v, code=6)
    t.check(found[0]["problem"] == "xattr-damaged" and name in found[0]["detail"], "an xattr: %s" % found)
    os.setxattr(paths["small"], name, value)
    other = paths["small"][:-1] + ("A" if paths["small"][-1] != "A" else "B")
    os.rename(paths["small"], other)
    found, _ = scrub(v, code=6)
    t.check(found[0]["path"] is None and found[0]["backing_path"] == os.path.basename(other), "a name: %s" % found)
    os.rename(other, paths["small"])
    scrub(v)


def unused(v, paths):
    """Bytes that no reader uses: the older state slot, tag slots that a newer one replaced, data of holes."""
    with open(paths["big"], "rb") as f:
        page = f.read(PAGE)
    older = 1280 if page[2304:2312][::-1] > page[1280:1288][::-1] else 2304
    d = Damage(paths["big"])
    d.flip(older + 30)
    dead = entry_at(60) + 36 * (live_slot(paths["big"], 60) == entry_at(60))
    d.flip(dead + 3)
    hole = Damage(paths["dir/sparse"])
    hole.write(page_of(200) * PAGE, b"rubbish")
    scrub(v)
    d.back()
    hole.back()


def targets(v, paths):
    """A part of the vault, named by its backing path and, mounted, by its clear one."""
    d, e = Damage(paths["dir/two"]), Damage(paths["small"])
    d.flip(page_of(5) * PAGE)
    t.check(not scrub(v, paths["big"])[0] and scrub(v, paths["big"])[1]["files"] == 1, "one file")
    t.check([x["path"] for x in scrub(v, os.path.dirname(paths["dir/two"]), code=6)[0]] == ["/dir/two"], "a directory")
    v.mount()
    e.flip(page_of(2) * PAGE)
    t.check([x["path"] for x in scrub(v, v.mnt + "/dir", code=6)[0]] == ["/dir/two"], "a directory of the mount")
    t.check(not scrub(v, v.mnt + "/big")[0], "a file of the mount")
    with open(v.mnt + "/big", "rb"):  # open here, and changed underneath
        f = Damage(paths["big"])
        f.flip(page_of(1000) * PAGE)
        found, _ = scrub(v, v.mnt + "/big", code=6)
        t.check("block 1000 " in found[0]["detail"], "in an open file: %s" % found)
        f.back()
    t.check(sorted(x["path"] for x in scrub(v, v.mnt, code=6)[0]) == ["/dir/two", "/small"], "the whole mount")
    records = v.keepctl("audit", "list", "--action", "integrity", json=True)
    t.check(any(x.get("reason", "").startswith("block 5 ") for x in records), "no record of the damage: %s" % records[-3:])
    v.unmount()
    d.back()
    e.back()


def crash(v, rng):
    """What a killed service left is recovered, and counted."""
    v.mount()
    handles = [os.open(v.mnt + "/crash%d" % i, os.O_RDWR | os.O_CREAT) for i in range(3)]
    for fd in handles:
        os.write(fd, rng.randbytes(300000))
        os.fsync(fd)
    v.kill9()
    for fd in handles:
        try:
            os.close(fd)
        except OSError:  # there is nobody to flush to
            pass
    _, last = scrub(v)
    t.check(last["recovered"] == 3, "three files were open for writing: %s" % last)
    t.check(scrub(v)[1]["recovered"] == 0, "recovered a second time")


# -- beside writers -------------------------------------------------------------------------------------------------------

class Writers:
    def __init__(self, mnt, seed):
        self.mnt, self.stop, self.failed, self.done = mnt, False, [], 0
        self.threads = [threading.Thread(target=self.work, args=(kind, random.Random(seed + i)))
                        for i, kind in enumerate((self.overwrite, self.reopen, self.churn, self.large))]
        for thread in self.threads:
            thread.start()

    def work(self, kind, rng):
        try:
            for _ in kind(rng):
                self.done += 1
                if self.stop:
                    return
        except Exception as error:  # told by the main thread
            self.failed.append("%s: %r" % (kind.__name__, error))

    def end(self):
        self.stop = True
        for thread in self.threads:
            thread.join()
        t.check(not self.failed, "the writers: %s" % self.failed)

    def overwrite(self, rng):
        """One file that stays open: overwrites, appends, cuts, holes."""
        with open(self.mnt + "/live", "w+b", buffering=0) as f:
            while True:
                f.seek(rng.randrange(2 * MIB))
                f.write(rng.randbytes(rng.randrange(1, 100000)))
                if rng.random() < 0.1:
                    f.truncate(rng.randrange(3 * MIB))
                if rng.random() < 0.1:
                    os.fsync(f.fileno())
                yield

    def reopen(self, rng):
        """Opened, written and closed, over and over."""
        while True:
            with open(self.mnt + "/again%d" % rng.randrange(3), "ab", buffering=0) as f:
                f.write(rng.randbytes(rng.randrange(1, 60000)))
                if f.tell() > 4 * MIB:
                    f.truncate(rng.randrange(MIB))
            yield

    def churn(self, rng):
        """Made, renamed, deleted."""
        while True:
            name = self.mnt + "/c%d" % rng.randrange(20)
            with open(name + ".new", "wb") as f:
                f.write(rng.randbytes(rng.randrange(200000)))
            os.rename(name + ".new", name)
            if rng.random() < 0.3:
                os.unlink(name)
            yield

    def large(self, rng):
        """Beyond 64 MiB, so that it is not verified at its opening; mostly holes."""
        while True:
            with open(self.mnt + "/large", "r+b" if os.path.exists(self.mnt + "/large") else "w+b", buffering=0) as f:
                f.truncate(70 * MIB)
                for _ in range(5):
                    f.seek(rng.randrange(68 * MIB))
                    f.write(rng.randbytes(rng.randrange(300000)))
                    yield


def beside(v, seconds, seed):
    v.mount()
    writers = Writers(v.mnt, seed)
    end, rounds, files = time.time() + seconds, 0, 0
    try:
        while time.time() < end and not writers.failed:
            _, last = scrub(v, v.mnt)
            rounds += 1
            files += last["files"]
    finally:
        writers.end()
    scrub(v, v.mnt)
    v.unmount()
    scrub(v)
    print("%d rounds over %d files beside %d operations of writers: no finding" % (rounds, files, writers.done))


def throughput(v, size):
    v.mount()
    with open(v.mnt + "/measured", "wb") as f:
        for _ in range(size):
            f.write(os.urandom(MIB))
    path = backing(v, v.mnt + "/measured")
    v.unmount()
    rates, peak = {}, 0
    for what in ("plain read", "scrub", "plain read again", "scrub again"):
        os.sync()
        t.drop_caches()
        start = time.time()
        if what.startswith("scrub"):
            proc = subprocess.Popen([t.KEEPCTL, "scrub", path], env=v.env, stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(proc.pid, 0)
            t.check(status == 0, "scrub: status %d" % status)
            peak = max(peak, usage.ru_maxrss)
        else:
            with open(path, "rb", buffering=0) as f:
                while f.read(MIB):
                    pass
        rates[what] = size / (time.time() - start)
    print("%d MiB: %s; most memory of scrub %d MiB" % (size, ", ".join("%s %.0f MiB/s" % x for x in rates.items()), peak >> 10))


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--seconds", type=float, default=6)
    p.add_argument("--size", type=int, default=0)
    p.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    args = p.parse_args()
    print("seed %d" % args.seed, flush=True)
    t.need_fuse()
    rng = random.Random(args.seed)
    v = t.Vault()
    v.init()
    paths, old = build(v, rng)
    _, last = scrub(v)
    t.check(last["files"] == 5 and last["blocks"] >= 1280 + 512 + 8 + 2, "a sound vault: %s" % last)
    damaged(v, paths, old)
    around(v, paths)
    unused(v, paths)
    targets(v, paths)
    crash(v, rng)
    beside(v, args.seconds, args.seed)
    if args.size:
        throughput(v, args.size)


t.main(main)
