#!/usr/bin/python3
"""Random file operations against a model in memory, with remounts in between; the files must be the model's after each.

Every seed has a shape of its own: small files around the header page's blocks, files over many tag pages and runs, files beyond a large hole.
--ops 1000000 is the full size. KEEPFS may name a build with sanitizers."""
import argparse
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import keepfs_testlib as t

MIB = 1 << 20
# Longest content, and the offset where it begins. 64 MiB: up to there files are verified as a whole at open.
SHAPES = ((5 * MIB, 0), (20 * MIB, 0), (6 * MIB, 62 * MIB), (MIB, 0), (8 * MIB, 3 * 1024 * MIB + 777), (200 * 1024, 0))


def one_seed(v, args, number):
    seed = args.seed + number
    size, base = SHAPES[(seed - 1) % len(SHAPES)]
    model = os.path.join(v.dir, "model")
    path = os.path.join(v.mnt, "exercise%d" % seed)
    done = part = 0

    def run(ops, part):
        argv = [args.exercise, "--file", path, "--ops", ops, "--seed", seed * 1000 + part, "--size", size, "--base", base, "--model", model]
        if "cache=none" in (args.options or ""):
            argv.append("--no-map")
        code, out, err = t.run(argv, ok=None, timeout=120 + args.ops)
        t.check(code == 0, "%s: exit %d\n%s%s\nservice said:\n%s" % (" ".join(str(a) for a in argv), code, out, err, v.log_tail()))
        print(out, end="", flush=True)

    while done < args.ops:
        ops = min(args.between, args.ops - done)
        run(ops, part)
        done, part = done + ops, part + 1
        v.unmount()
        v.mount(args.options)
    run(0, part)
    os.unlink(model)
    os.unlink(path)
    os.unlink(path + ".2")


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--exercise", required=True, help="the exercise program")
    p.add_argument("--ops", type=int, default=6000, help="operations for each seed")
    p.add_argument("--between", type=int, default=50000, help="operations between two remounts")
    p.add_argument("--seeds", type=int, default=3, help="how many seeds")
    p.add_argument("--seed", type=int, default=1, help="the first seed")
    p.add_argument("--options", help="mount options")
    p.add_argument("--base", help="directory for the vault")
    args = p.parse_args()
    t.need_fuse()
    v = t.Vault(base=args.base)
    v.init()
    v.env.setdefault("UBSAN_OPTIONS", "print_stacktrace=1")
    v.mount(args.options)
    for number in range(args.seeds):
        one_seed(v, args, number)
        report = v.sanitizer_report()
        t.check(report is None, "a sanitizer said:\n%s" % report)
    v.unmount()
    report = v.sanitizer_report()
    t.check(report is None, "a sanitizer said:\n%s" % report)


t.main(main)
