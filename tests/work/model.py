#!/usr/bin/python3
"""Runs the model of eight processes inside a mount, remounts, compares again; fails when a sanitizer had something to say.
Full size: --seconds 60. KEEPFS may name a build with ASAN and UBSAN, or TSAN."""
import argparse
import os
import random
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import keepfs_testlib as t


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--model", required=True, help="the model program")
    p.add_argument("--seconds", type=float, default=8)
    p.add_argument("--writers", type=int, default=4)
    p.add_argument("--readers", type=int, default=4)
    p.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    p.add_argument("--options", help="mount options")
    p.add_argument("--base", help="directory for everything")
    args = p.parse_args()
    print("seed %d" % args.seed, flush=True)
    t.need_fuse()
    v = t.Vault(base=args.base)
    v.init()
    v.env.setdefault("UBSAN_OPTIONS", "print_stacktrace=1")
    v.mount(args.options)
    state = os.path.join(v.dir, "state")

    def model(*words):
        code, out, err = t.run([args.model] + [str(w) for w in words], ok=None, timeout=args.seconds + 600)
        t.check(code == 0, "%s: exit %d\n%s%s\nservice said:\n%s" % (words[0], code, out, err, v.log_tail()))
        print(out, end="", flush=True)

    model("run", v.mnt, state, args.seconds, args.seed, args.writers, args.readers)
    v.unmount()
    v.mount(args.options)
    model("verify", v.mnt, state)
    v.unmount()
    report = v.sanitizer_report()
    t.check(report is None, "a sanitizer said:\n%s" % report)


t.main(main)
