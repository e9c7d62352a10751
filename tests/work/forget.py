#!/usr/bin/python3
"""Lookups and opens over many files by several processes, the kernel told to forget in between: the service's memory stays below
a bound of --base-mib plus --per-inode bytes for each inode that the kernel knows at a time, and what the kernel forgets is forgotten.

Full size: --files 1000000 --operations 10000000. --tree DIR: on the keystore and vault that an earlier run left there (KEEPFS_TEST_KEEP=1).
"""
import argparse
import os
import random
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import keepfs_testlib as t

PER_DIR = 1000


class Forget:
    def __init__(self, args):
        self.args = args
        self.v = t.Vault(base=args.base)
        self.highest = 0
        if args.tree:
            self.v.keystore, self.v.vault = args.tree + "/ks", args.tree + "/vault"
            self.v.env["KEEPFS_KEYSTORE"] = self.v.keystore

    def directory(self, n):
        return "%s/d%d/e%d" % (self.v.mnt, n // 100, n)

    def resident(self):
        with open("/proc/%d/status" % self.v.pid()) as f:
            now = [int(line.split()[1]) / 1024 for line in f if line.startswith("VmRSS")][0]
        self.highest = max(self.highest, now)
        return now

    def inodes(self):
        return self.v.keepctl("mount", "list", json=True)[0]["inodes"]

    def loops(self, jobs):
        procs = [subprocess.Popen([str(a) for a in job], stdout=subprocess.DEVNULL) for job in jobs]
        for proc in procs:
            t.check(proc.wait(7200) == 0, "the loops program failed")

    def make(self, dirs):
        for n in range(dirs):
            os.makedirs(self.directory(n))
        for n in range(0, dirs, 2):
            self.loops([[self.args.loops, "create", self.directory(k), PER_DIR, 10] for k in range(n, min(n + 2, dirs))])

    def round(self, rng, dirs, number):
        """Every file is looked up: by listing its directory with attributes, which is a lookup of each name, or by name; of one directory in ten
        all files are opened and read as well. Returns how many operations that was."""
        order = rng.sample(range(dirs), dirs)
        count = 0
        for at in range(0, dirs, 4):
            jobs = []
            for k in order[at:at + 4]:
                how = rng.random()
                if how < .1:
                    jobs.append([self.args.loops, "readall", self.directory(k), PER_DIR])
                elif how < .4:
                    jobs.append([self.args.loops, "lookup", self.directory(k), PER_DIR, PER_DIR, number * 1000 + k + 1])
                else:
                    jobs.append(["ls", "-lU", self.directory(k)])
                count += PER_DIR * (2 if how < .1 else 1)
            self.loops(jobs)
            if at % 200 == 0:
                self.resident()
        return count

    def go(self):
        args, v = self.args, self.v
        dirs = args.files // PER_DIR
        if not args.tree:
            v.init()
            v.mount()
            start = time.time()
            self.make(dirs)
            print("%d files made in %.0f s" % (dirs * PER_DIR, time.time() - start), flush=True)
            v.unmount()
        v.mount()
        empty = self.resident()
        rng, done, number, known, worst = random.Random(5), 0, 0, 0, 0
        start = time.time()
        while done < args.operations:
            done += self.round(rng, dirs, number)
            number += 1
            known, worst = self.inodes(), max(worst, self.inodes())
            bound = args.base_mib + worst * args.per_inode / 2**20
            now = self.resident()
            t.check(self.highest <= bound, "resident %.0f MiB with %d inodes known; the bound is %.0f" % (self.highest, worst, bound))
            os.sync()
            with open("/proc/sys/vm/drop_caches", "w") as f:
                f.write("2")
            t.wait_for(lambda: self.inodes() <= dirs / 10 + 100, 120, "the kernel's FORGETs to be heard (%d inodes are known)" % self.inodes())
            print("round %d: %d operations, %.0f s, %d inodes known, resident %.0f MiB; after the kernel forgot: %d inodes, %.0f MiB" % (
                number, done, time.time() - start, known, now, self.inodes(), self.resident()), flush=True)
        print("%d operations, %.0f a second; resident at most %.0f MiB (%.0f with nothing known), bound %.0f MiB (%d MiB and %d bytes an inode)" % (
            done, done / (time.time() - start), self.highest, empty, bound, args.base_mib, args.per_inode))
        v.unmount()


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--loops", required=True, help="the loops program of tests/bench")
    p.add_argument("--files", type=int, default=3000)
    p.add_argument("--operations", type=int, default=8000)
    p.add_argument("--base-mib", type=int, default=160)
    p.add_argument("--per-inode", type=int, default=500)
    p.add_argument("--tree", help="directory that an earlier run left")
    p.add_argument("--base", help="directory for everything")
    args = p.parse_args()
    t.need_fuse()
    if os.geteuid() != 0:
        t.skip("only root makes the kernel forget")
    Forget(args).go()


t.main(main)
