#!/usr/bin/python3
"""Every golden vault (tests/golden/v*) still mounts from a copy, and reads as its manifest says; then rotate, rewrap and read again.
With --unwrap also the reader written from fs/FORMAT.md alone reads it, before and after."""
import argparse
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


def read_as_stranger(v, unwrap, want, when):
    try:
        import reader
    except ImportError as error:
        print("the reader is left out: %s" % error)
        return
    keys = t.run([unwrap, v.keystore, v.vault + "/keepfs.vault"] + t.backing_files(v.vault), env=v.env)[1]
    same(want, reader.read_vault(v.vault, reader.parse_keys(keys)), "by the reader, " + when)


def one(golden, unwrap):
    v = t.Vault()
    t.run(["tar", "--xattrs", "--xattrs-include=user.*", "--no-same-owner", "-C", v.dir, "-xzf", golden + "/keepfs.tar.gz"])
    with open(golden + "/manifest.json") as f:
        want = json.load(f)
    if unwrap:
        read_as_stranger(v, unwrap, want, "as it was made")
    v.mount()
    same(want, manifest(v.mnt), "as it was made")
    verdict = v.keepctl("audit", "verify", json=True)[-1]
    t.check(verdict["ok"] is True, "its audit trail: %s" % verdict)
    v.keepctl("key", "rotate", "default")
    last = v.keepctl("rewrap", v.vault, json=True)[-1]
    t.check(last["failed"] == 0 and last["rewrapped"] > 0, "rewrap of a golden vault: %s" % last)
    same(want, manifest(v.mnt), "after a rewrap")
    v.unmount()
    if unwrap:
        read_as_stranger(v, unwrap, want, "after a rewrap")
    print("%s: %d entries read as they were" % (os.path.basename(golden), len(want)))


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--unwrap", help="the unwrap program of tests/evil")
    args = p.parse_args()
    t.need_fuse()
    vaults = sorted(glob.glob(os.path.join(os.path.dirname(os.path.abspath(__file__)), "v[0-9]*")))
    if not vaults:
        t.skip("no golden vault yet")
    for golden in vaults:
        one(golden, args.unwrap)


t.main(main)
