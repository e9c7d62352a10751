#!/usr/bin/python3
"""Sparse files of 1 TiB and 100 GiB: islands of data in holes.

Made by truncate and islands, stat, SEEK_DATA and SEEK_HOLE find exactly the islands, islands and holes read as they should, punch over an
island and hundreds of gigabytes of hole, truncate down and up, all again after a remount, and after a SIGKILL. The service must not read
tag pages that nobody wrote: what it reads and how much memory it takes are counted. --islands N.
"""
import argparse
import errno
import hashlib
import os
import random
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import keepfs_testlib as t

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40
PUNCH = 3  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE


def punch(fd, off, length):
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    t.check(libc.fallocate64(fd, PUNCH, ctypes.c_int64(off), ctypes.c_int64(length)) == 0, "punch: errno %d" % ctypes.get_errno())


def pattern(off, length, turn):
    seed = hashlib.sha256(b"%d %d" % (off, turn)).digest()
    return (seed * (length // 32 + 1))[:length]


class Huge:
    """One file and what is in it: {offset: (length, turn)}; islands are whole blocks, so that holes have exact ends."""

    def __init__(self, path, size):
        self.path, self.size, self.islands = path, size, {}

    def make(self, count, rng):
        with open(self.path, "wb") as f:
            f.truncate(self.size)
            places = {0, self.size - MIB} | {rng.randrange(self.size // GIB) * GIB + rng.randrange(200) * MIB for _ in range(count)}
            for off in places:
                self.write(f, off, 4096 * rng.randint(1, 256), 0)
            os.fsync(f.fileno())

    def write(self, f, off, length, turn):
        length = min(length, self.size - off)
        f.seek(off)
        f.write(pattern(off, length, turn))
        f.flush()
        self.islands[off] = (length, turn)

    def check(self):
        st = os.stat(self.path)
        t.check(st.st_size == self.size, "size %d, expected %d" % (st.st_size, self.size))
        t.check(st.st_blocks * 512 < 64 * MIB, "a sparse file takes %d bytes" % (st.st_blocks * 512))
        with open(self.path, "rb") as f:
            fd, at, found = f.fileno(), 0, []
            while True:
                try:
                    at = os.lseek(fd, at, os.SEEK_DATA)
                except OSError as error:
                    t.check(error.errno == errno.ENXIO, "SEEK_DATA: %s" % error)
                    break
                end = os.lseek(fd, at, os.SEEK_HOLE)
                found.append((at, end))
                at = end
            expected = [(off, min(-(-(off + length) // 4096) * 4096, self.size)) for off, (length, _) in sorted(self.islands.items())]
            t.check(found == expected, "data is at %s, expected %s" % (found[:5], expected[:5]))
            for off, (length, turn) in sorted(self.islands.items()):
                t.check(os.pread(fd, length, off) == pattern(off, length, turn), "the island at %d" % off)
                near = min(off + length + MIB, self.size - 4096)
                if not any(o < near + 4096 and near < o + n for o, (n, _) in self.islands.items()):
                    t.check(os.pread(fd, 4096, near) == bytes(4096), "the hole at %d" % near)

    def punch(self):
        """Everything between a fifth and two fifths goes."""
        first, end = self.size // 5 // GIB * GIB, self.size * 2 // 5 // GIB * GIB
        with open(self.path, "r+b") as f:
            punch(f.fileno(), first, end - first)
        self.islands = {off: what for off, what in self.islands.items() if not first <= off < end}

    def cut(self, size):
        os.truncate(self.path, size)
        kept = {}
        for off, (length, turn) in self.islands.items():
            if off < size:
                kept[off] = (min(length, size - off), turn)
        self.size, self.islands = size, kept

    def grow(self, size):
        os.truncate(self.path, size)
        self.size = size


def service(v):
    """Bytes that the service has read by now, and the most memory that it had, in bytes."""
    with open("/proc/%d/io" % v.pid()) as f:
        read = int(next(line for line in f if line.startswith("rchar")).split()[1])
    with open("/proc/%d/status" % v.pid()) as f:
        memory = int(next(line for line in f if line.startswith("VmHWM")).split()[1]) * 1024
    return read, memory


def frugal(v, what, limit=256 * MIB):
    """Both counts since the mount. FUSE requests count as reads, so the islands themselves are in it."""
    read, memory = service(v)
    print("%s: %d MiB read, %d MiB of memory at most" % (what, read // MIB, memory // MIB))
    t.check(read < limit, "%s: the service read %d MiB" % (what, read // MIB))
    t.check(memory < 512 * MIB, "%s: the service took %d MiB of memory" % (what, memory // MIB))


def main():
    words = argparse.ArgumentParser()
    words.add_argument("--islands", type=int, default=12)
    words = words.parse_args()
    t.need_fuse()
    v = t.Vault()
    v.init()
    v.mount()
    rng = random.Random(9)
    files = [Huge(os.path.join(v.mnt, "tera"), TIB), Huge(os.path.join(v.mnt, "hundred"), 100 * GIB)]
    for file in files:
        try:
            file.make(words.islands, rng)
        except OSError as error:
            if error.errno == errno.EFBIG:
                t.skip("the file system below takes no file of 1 TiB")
            raise
        file.check()
    frugal(v, "made")
    v.unmount()
    v.mount()
    for file in files:
        file.check()
        file.punch()
        file.check()
        file.cut(file.size * 2 // 3 + 123)
        file.check()
        file.grow(file.size + 5 * GIB)
        file.check()
    frugal(v, "cut")
    v.unmount()
    v.mount()
    handles = []
    for file in files:
        file.check()
        f = open(file.path, "r+b", buffering=0)
        handles.append(f)
        for off in list(file.islands)[:3]:
            file.write(f, off, file.islands[off][0], 1)
        os.fsync(f.fileno())
    v.kill9()
    for f in handles:
        f.close()
    v.mount()
    for file in files:
        file.check()
    frugal(v, "recovered")
    v.unmount()


t.main(main)
