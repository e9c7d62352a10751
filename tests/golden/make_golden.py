#!/usr/bin/python3
"""Makes a golden vault: a small vault with its keystore (token and PIN included, it is test data) in OUT/keepfs.tar.gz, and
OUT/manifest.json with what a reader must find. Run once per version of the format, commit the result, never make it again.

    make_golden.py tests/golden/v1
"""
import hashlib
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import keepfs_testlib as t

SIZES = (0, 1, 100, 4095, 4096, 4097, 20000, 84 * 1024 - 1, 84 * 1024, 84 * 1024 + 1, 120000)


def pattern(name, size):
    block = hashlib.sha256(name.encode()).digest()
    out = b""
    while len(out) < size:
        block = hashlib.sha256(block).digest()
        out += block
    return out[:size]


def put(path, size):
    with open(path, "wb") as f:
        f.write(pattern(os.path.basename(path), size))


def fill(v):
    m = v.mnt
    for d in ("/plain", "/plain/deeper", "/" + "d" * 200, "/zone"):
        os.mkdir(m + d)
    v.keepctl("key", "create", "golden")
    v.keepctl("dir", "set-key", m + "/zone", "golden")
    for i, size in enumerate(SIZES):
        put(m + "/plain/size-%d" % size, size)
        if i % 3 == 0:
            put(m + "/plain/deeper/" + "long-name-" * 17 + str(i), size)
    v.keepctl("key", "rotate", "default")
    v.keepctl("key", "rotate", "golden")
    for name in ("zone/in-zone", "zone/größe-数据", "d" * 200 + "/x"):
        put(m + "/" + name, 5000)
    put(m + "/zone/" + "n" * 175, 10)
    put(m + "/zone/" + "n" * 176, 10)
    put(m + "/zone/" + "n" * 255, 10)
    with open(m + "/sparse", "wb") as f:
        f.seek(150000)
        f.write(pattern("sparse", 3000))
        f.truncate(1000001)
    put(m + "/rewritten", 100000)
    for at in (0, 5000, 90000, 99000, 5000):
        with open(m + "/rewritten", "r+b") as f:
            f.seek(at)
            f.write(pattern("again%d" % at, 6000))
            f.flush()
            os.fsync(f.fileno())
    put(m + "/cut", 100000)
    os.truncate(m + "/cut", 30001)
    os.truncate(m + "/cut", 50000)
    os.link(m + "/plain/size-100", m + "/hardlink")
    os.symlink("plain/size-100", m + "/link")
    os.symlink("t" * 1000, m + "/long-link")
    os.setxattr(m + "/plain/size-100", "user.comment", b"a comment")
    os.setxattr(m + "/zone", "user.directory", b"\0binary\xff")
    os.chmod(m + "/plain/size-1", 0o400)
    os.chmod(m + "/plain/deeper", 0o750)
    os.rename(m + "/plain/deeper", m + "/" + "d" * 200 + "/moved")


def manifest(root):
    found = {}
    for base, dirs, names in os.walk(root):
        for name in dirs + names:
            path = os.path.join(base, name)
            st = os.lstat(path)
            rel = os.path.relpath(path, root)
            entry = {"mode": "%o" % st.st_mode}
            if os.path.islink(path):
                entry["target"] = os.readlink(path)
            else:
                if os.path.isfile(path):
                    entry.update(size=st.st_size, sha256=t.digest(path), nlink=st.st_nlink)
                entry["xattrs"] = {x: os.getxattr(path, x).hex() for x in sorted(os.listxattr(path)) if x.startswith("user.")}
            found[rel] = entry
    return found


def main():
    if len(sys.argv) != 2:
        print(__doc__)
        sys.exit(2)
    out = os.path.abspath(sys.argv[1])
    t.check(not os.path.exists(out + "/keepfs.tar.gz"), "%s has a golden vault already: a golden vault is for good" % out)
    os.makedirs(out, exist_ok=True)
    v = t.Vault(base="/tmp")
    v.init()
    v.mount()
    fill(v)
    v.unmount()
    v.mount()
    with open(out + "/manifest.json", "w") as f:
        json.dump(manifest(v.mnt), f, indent=1, sort_keys=True)
        f.write("\n")
    v.unmount()
    for name in ("ks/control.sock", "ks/lock"):
        if os.path.exists(os.path.join(v.dir, name)):
            os.unlink(os.path.join(v.dir, name))
    t.run(["tar", "--xattrs", "--sparse", "--numeric-owner", "--owner=0", "--group=0", "-C", v.dir, "-czf", out + "/keepfs.tar.gz", "ks", "vault"])
    print("%s: %d bytes" % (out + "/keepfs.tar.gz", os.path.getsize(out + "/keepfs.tar.gz")))


if __name__ == "__main__":
    t.main(main)
