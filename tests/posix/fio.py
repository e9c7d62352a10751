#!/usr/bin/python3
"""fio with verification: four jobs at once, mixed block sizes, several engines; the written data is verified again after a remount.

--size 256m is the full size. KEEPFS may name a build with sanitizers."""
import argparse
import os
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import keepfs_testlib as t

# Every job writes with checksums and verifies. `again`: fio can find again what it wrote, so that it is verified after a remount as well; it cannot
# where it reads between its writes, nor where its writes do not add up to the file's size.
JOBS = (
    ("randwrite, sync engine, fsync now and then", True,
     ["--ioengine=sync", "--rw=randwrite", "--bssplit=512/10:4k/40:8k/10:12k/10:64k/20:256k/10", "--fsync=64", "--verify=crc32c"]),
    ("randwrite, libaio with queue depth 16, fdatasync", True,
     ["--ioengine=libaio", "--iodepth=16", "--rw=randwrite", "--bsrange=4k-128k", "--blockalign=4k", "--fdatasync=100", "--verify=crc32c"]),
    ("randwrite, direct", True,
     ["--ioengine=libaio", "--iodepth=8", "--direct=1", "--rw=randwrite", "--bssplit=4k/60:16k/30:512k/10", "--verify=crc32c"]),
    ("randwrite through mmap", True, ["--ioengine=mmap", "--rw=randwrite", "--bs=4k", "--fsync=200", "--verify=crc32c"]),
    ("random reads and writes, verified while it writes", False,
     ["--ioengine=psync", "--rw=randrw", "--rwmixread=40", "--bsrange=1k-64k", "--fsync=50", "--verify=crc32c", "--verify_backlog=256"]),
    ("sequential writes of odd sizes", False, ["--ioengine=vsync", "--rw=write", "--bsrange=1k-300k", "--bs_unaligned", "--end_fsync=1", "--verify=md5"]),
)


def fio(v, name, words, args, only_verify=False):
    argv = ["fio", "--name=job", "--directory=" + v.mnt, "--numjobs=4", "--size=" + args.size, "--verify_fatal=1", "--group_reporting",
            "--randseed=%d" % args.seed, "--allrandrepeat=1", "--fallocate=none", "--thread=0"] + words
    if only_verify:
        argv.append("--verify_only")
    code, out, err = t.run(argv, ok=None, cwd=v.dir, timeout=3600)
    t.check(code == 0 and "verify:" not in err, "%s: exit %d\n%s%s\nservice said:\n%s" % (name, code, out[-3000:], err[-3000:], v.log_tail()))


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--size", default="3m", help="of each of the four files")
    p.add_argument("--seed", type=int, default=20)
    p.add_argument("--options", help="mount options")
    p.add_argument("--base", help="directory for the vault")
    args = p.parse_args()
    t.need_fuse()
    if not shutil.which("fio"):
        t.skip("no fio here")
    v = t.Vault(base=args.base)
    v.init()
    v.env.setdefault("UBSAN_OPTIONS", "print_stacktrace=1")
    v.mount(args.options)
    for name, again, words in JOBS:
        fio(v, name, words, args)
        if again:
            v.unmount()
            v.mount(args.options)
            fio(v, name + ", after a remount", words, args, only_verify=True)
        for left in os.listdir(v.mnt):
            os.unlink(os.path.join(v.mnt, left))
        print(name + (": verified, and again after a remount" if again else ": verified"), flush=True)
    v.unmount()
    report = v.sanitizer_report()
    t.check(report is None, "a sanitizer said:\n%s" % report)


t.main(main)
