#!/usr/bin/python3
"""What crash=strict costs: the same writes with and without it, on a real disk (--base), medians of --rounds, interleaved. Prints seconds and ratios."""
import argparse
import os
import random
import statistics
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import keepfs_testlib as t

SIZE = 64 << 20


def prepare(path):
    with open(path, "wb") as f:
        f.write(os.urandom(SIZE))
        os.fsync(f.fileno())


def random_each(path, count):
    """4 KiB at random places of a synced file, fsync after each."""
    rng, data = random.Random(1), os.urandom(4096)
    fd = os.open(path, os.O_RDWR)
    for _ in range(count):
        os.pwrite(fd, data, rng.randrange(SIZE // 4096) * 4096)
        os.fsync(fd)
    os.close(fd)


def random_once(path, count):
    """The same places, one fsync at the end."""
    rng, data = random.Random(2), os.urandom(4096)
    fd = os.open(path, os.O_RDWR)
    for _ in range(count * 10):
        os.pwrite(fd, data, rng.randrange(SIZE // 4096) * 4096)
    os.fsync(fd)
    os.close(fd)


def whole(path, count):
    """All of a synced file, from the front."""
    data = os.urandom(1 << 20)
    fd = os.open(path, os.O_RDWR)
    for at in range(0, SIZE, len(data)):
        os.pwrite(fd, data, at)
    os.fsync(fd)
    os.close(fd)


def append(path, count):
    """80 bytes at the end of a synced file, opened and closed each time."""
    for _ in range(count):
        with open(path, "ab") as f:
            f.write(b"x" * 80)


def rewrite(path, count):
    """A small synced file emptied and written again, as `>` does."""
    small = path + ".small"
    with open(small, "wb") as f:
        f.write(b"y" * 3000)
        os.fsync(f.fileno())
    for _ in range(count):
        with open(small, "wb") as f:
            f.write(b"z" * 3000)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--base", help="directory on a disk")
    p.add_argument("--count", type=int, default=300)
    p.add_argument("--rounds", type=int, default=5)
    args = p.parse_args()
    t.need_fuse()
    work = [random_each, random_once, whole, append, rewrite]
    ways = {"default": None, "strict": "crash=strict"}
    seconds = {(w.__name__, way): [] for w in work for way in ways}
    v = t.Vault(base=args.base)
    v.init()
    for number in range(args.rounds):
        for way, options in ways.items():
            v.mount(options)
            for w in work:
                path = "%s/%s" % (v.mnt, w.__name__)
                prepare(path)
                start = time.time()
                w(path, args.count)
                seconds[w.__name__, way].append(time.time() - start)
            v.unmount()
    print("%-14s %10s %10s %8s" % ("", "default", "strict", "ratio"))
    for w in work:
        plain, strict = (statistics.median(seconds[w.__name__, way]) for way in ways)
        print("%-14s %9.3fs %9.3fs %7.2fx   %s" % (w.__name__, plain, strict, strict / plain, w.__doc__))


t.main(main)
