#!/usr/bin/python3
"""A block that somebody put back from an older copy of the vault, in a file that is too large to be verified at every open.

With -o verify=always the open itself is refused (EIO). Without it the file opens, and reading all of it is refused at the latest when the
last of its tags has been seen. Put right again, it reads in both ways.
"""
import errno
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import keepfs_testlib as t

SIZE = 200 << 20
BLOCK = 30000


def page_of(block):
    return 1 + block if block < 21 else 22 + 912 * ((block - 21) // 896) + 16 + (block - 21) % 896


def tag_page_of(block):
    return 22 + 912 * ((block - 21) // 896) + (block - 21) % 896 // 56


def roll_back(path, pages):
    """Put pages of an older version back; returns what was there."""
    st = os.stat(path)
    with open(path, "r+b") as f:
        now = {}
        for page, data in pages.items():
            now[page] = os.pread(f.fileno(), t.PAGE, page * t.PAGE)
            os.pwrite(f.fileno(), data, page * t.PAGE)
    os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))
    return now


def read_all(path):
    with open(path, "rb") as f:
        while f.read(1 << 20):
            pass


def refused(function, *args):
    try:
        function(*args)
    except OSError as error:
        return error.errno == errno.EIO
    return False


def main():
    t.need_fuse()
    v = t.Vault()
    v.init()
    v.mount()
    path = os.path.join(v.mnt, "large")
    chunk = os.urandom(1 << 20)
    with open(path, "wb") as f:
        for _ in range(SIZE >> 20):
            f.write(chunk)
    backing = v.keepctl("file", "show", path, json=True)[0]["backing_path"]
    v.unmount()
    with open(backing, "rb") as f:
        old = {page: os.pread(f.fileno(), t.PAGE, page * t.PAGE) for page in (page_of(BLOCK), tag_page_of(BLOCK))}
    v.mount("verify=always")
    read_all(path)
    with open(path, "r+b") as f:
        f.seek(BLOCK * 4096)
        f.write(b"new" * 1000)
    v.unmount()
    new = roll_back(backing, old)
    t.check(new != old, "the write changed neither the block nor its tag")
    v.mount("verify=always")
    t.check(refused(open, path, "rb"), "verify=always: a file with an old block was opened")
    t.check(refused(open, path, "r+b"), "verify=always: a file with an old block was opened for writing")
    v.unmount()
    v.mount()
    with open(path, "rb") as f:
        t.check(f.read(4096) == chunk[:4096], "without verify=always the first block is not served")
    t.check(refused(read_all, path), "all of a file with an old block was read")
    v.unmount()
    roll_back(backing, new)
    for options in ("verify=always", None):
        v.mount(options)
        read_all(path)
        with open(path, "rb") as f:
            f.seek(BLOCK * 4096)
            t.check(f.read(3000) == b"new" * 1000, "the file put right again is not as it was written")
        v.unmount()
    code, _, err = t.run([t.KEEPFS, v.vault, v.mnt, "-o", "verify=sometimes"], ok=None, env=v.env)
    t.check(code == 2 and "verify takes" in err, "verify=sometimes: exit %d: %s" % (code, err))


t.main(main)
