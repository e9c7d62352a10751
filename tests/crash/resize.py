#!/usr/bin/python3
"""After a crash the backing file of a file that was being written can be longer than the file is. What is read after the remount has the
recovered size, whoever looked at the name before it was opened."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import keepfs_testlib as t


def crash(v, path, content):
    """Leave path open for writing, synced, in a killed service; its backing file longer than it was."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.write(fd, content)
    os.fsync(fd)
    backing = v.keepctl("file", "show", path, json=True)[-1]["backing_path"]
    v.kill9()
    try:
        os.close(fd)
    except OSError:
        pass
    os.truncate(backing, os.path.getsize(backing) + 8192)
    v.mount()


def main():
    t.need_fuse()
    v = t.Vault()
    v.init()
    v.mount()
    for number, (size, use) in enumerate([(1000, "read"), (4096, "append"), (300000, "truncate"), (70000, "xattr")]):
        path = "%s/f%d" % (v.mnt, number)
        content = os.urandom(size)
        crash(v, path, content)
        t.check(os.stat(path).st_size == size + 8192, "%s: stat before the recovery tells %d" % (use, os.stat(path).st_size))
        if use == "append":
            with open(path, "ab") as f:
                f.write(b"more")
            content += b"more"
        elif use == "truncate":
            os.truncate(path, 5000)
            content = content[:5000]
        elif use == "xattr":
            os.setxattr(path, "user.a", b"b")
        with open(path, "rb") as f:
            t.check(os.fstat(f.fileno()).st_size == len(content), "%s: fstat tells %d" % (use, os.fstat(f.fileno()).st_size))
            t.check(f.read() == content, "%s: other bytes" % use)
        t.check(os.stat(path).st_size == len(content), "%s: stat tells %d" % (use, os.stat(path).st_size))
    before = t.snapshot(v.mnt)
    v.unmount()
    v.mount()
    t.compare(before, t.snapshot(v.mnt), "after a clean remount")
    v.unmount()


t.main(main)
