#!/usr/bin/python3
"""Every golden vault (tests/golden/v*) still mounts from a copy, and reads as its manifest says; then rotate, rewrap and read again."""
import glob
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import keepfs_testlib as t
from make_golden import manifest


def same(want, found, when):
    for path in sorted(set(want) | set(found)):
        t.check(want.get(path) == found.get(path), "%s, %s: expected %s, found %s" % (path, when, want.get(path), found.get(path)))


def one(golden):
    v = t.Vault()
    t.run(["tar", "--xattrs", "--xattrs-include=user.*", "--no-same-owner", "-C", v.dir, "-xzf", golden + "/keepfs.tar.gz"])
    with open(golden + "/manifest.json") as f:
        want = json.load(f)
    v.mount()
    same(want, manifest(v.mnt), "as it was made")
    verdict = v.keepctl("audit", "verify", json=True)[-1]
    t.check(verdict["ok"] is True, "its audit trail: %s" % verdict)
    v.keepctl("key", "rotate", "default")
    last = v.keepctl("rewrap", v.vault, json=True)[-1]
    t.check(last["failed"] == 0 and last["rewrapped"] > 0, "rewrap of a golden vault: %s" % last)
    same(want, manifest(v.mnt), "after a rewrap")
    v.unmount()
    print("%s: %d entries read as they were" % (os.path.basename(golden), len(want)))


def main():
    t.need_fuse()
    vaults = sorted(glob.glob(os.path.join(os.path.dirname(os.path.abspath(__file__)), "v[0-9]*")))
    if not vaults:
        t.skip("no golden vault yet")
    for golden in vaults:
        one(golden)


t.main(main)
