#!/usr/bin/python3
"""Many files: a lookup and a create cost no more than twice as much in a full directory of a full vault as in an empty one; many files open
at once work; the service's resident memory is printed.

Full size: --one 100000 --all 1000000 --open 10000.
"""
import argparse
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import keepfs_testlib as t


class Many:
    def __init__(self, args):
        self.args = args
        self.v = t.Vault(base=args.base)

    def loops(self, *args):
        return float(t.run([self.args.loops] + [str(a) for a in args], timeout=7200)[1].split()[-1])

    def remount(self):
        self.v.unmount()
        t.drop_caches()
        self.v.mount()

    def memory(self):
        with open("/proc/%d/status" % self.v.pid()) as f:
            return {line.split(":")[0]: int(line.split()[1]) for line in f if line.startswith(("VmRSS", "VmHWM", "VmLck"))}

    def tell(self, when):
        m = self.memory()
        print("memory of the service %s: resident %.1f MiB (highest %.1f), locked %.1f" %
              (when, m["VmRSS"] / 1024, m["VmHWM"] / 1024, m["VmLck"] / 1024), flush=True)

    def measure(self, directory, there):
        """Microseconds per create and per cold lookup (first after a mount) in a directory with `there` numbered files."""
        n = self.args.probe
        creates, lookups = [], []
        for i in range(self.args.rounds):
            creates.append(self.loops("create", directory, n, 0, there) / n * 1e6)
            if there:
                self.remount()
                lookups.append(self.loops("lookup", directory, n, there, i + 1) / n * 1e6)
            else:  # the same number of names, all of them there
                self.remount()
                lookups.append(self.loops("lookup", directory, n, n, i + 1) / n * 1e6)
            for k in range(there, there + n):
                os.unlink("%s/file%07d" % (directory, k))
        return min(creates), min(lookups)  # the least disturbed round

    def fill(self):
        """One directory with args.one files, and directories of 1,000 until the vault has args.all."""
        start = time.time()
        full = self.v.mnt + "/full"
        os.mkdir(full)
        self.loops("create", full, self.args.one, 10)
        made, number = self.args.one, 0
        while made < self.args.all:
            if number % 100 == 0:
                os.mkdir(self.v.mnt + "/rest%d" % (number // 100))
            directory = self.v.mnt + "/rest%d/dir%d" % (number // 100, number)
            os.mkdir(directory)
            n = min(1000, self.args.all - made)
            self.loops("create", directory, n, 10)
            made += n
            number += 1
        print("%d files made, %.0f a second" % (made, made / (time.time() - start)), flush=True)
        return full

    def go(self):
        self.v.init()
        self.v.mount()
        os.mkdir(self.v.mnt + "/empty")
        create0, lookup0 = self.measure(self.v.mnt + "/empty", 0)
        self.tell("with an empty vault")
        full = self.fill()
        self.tell("after making them")
        create1, lookup1 = self.measure(full, self.args.one)
        self.remount()
        create2, lookup2 = self.measure(self.v.mnt + "/empty", 0)
        print("create: %.0f us empty, %.0f us in the full directory (%.2fx), %.0f us in an empty one of the full vault (%.2fx)" %
              (create0, create1, create1 / create0, create2, create2 / create0))
        print("lookup: %.0f us empty, %.0f us in the full directory (%.2fx), %.0f us in an empty one of the full vault (%.2fx)" %
              (lookup0, lookup1, lookup1 / lookup0, lookup2, lookup2 / lookup0), flush=True)
        start = time.time()
        names = os.listdir(full)
        t.check(len(names) == self.args.one, "the full directory lists %d of %d names" % (len(names), self.args.one))
        print("listed in %.1f s" % (time.time() - start))
        self.remount()
        count = min(self.args.open, self.args.one)
        print("%d files open at once: %.1f s" % (count, self.loops("open", full, count)))
        self.tell("after %d files were open" % count)
        self.v.unmount()
        for what, ratio in (("create", create1 / create0), ("lookup", lookup1 / lookup0), ("create in another directory", create2 / create0),
                            ("lookup in another directory", lookup2 / lookup0)):
            t.check(ratio <= self.args.ratio, "%s costs %.2f times that of an empty directory" % (what, ratio))


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--loops", required=True, help="the loops program of tests/bench")
    p.add_argument("--one", type=int, default=5000, help="files in one directory")
    p.add_argument("--all", type=int, default=20000, help="files in the vault")
    p.add_argument("--open", type=int, default=3000)
    p.add_argument("--probe", type=int, default=1000, help="creates and lookups of one measurement")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--ratio", type=float, default=2.0)
    p.add_argument("--base", help="directory for everything")
    args = p.parse_args()
    t.need_fuse()
    Many(args).go()


t.main(main)
