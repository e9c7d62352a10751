#!/usr/bin/python3
"""A service that may open only a few descriptors: what it cannot do any more is EMFILE, nothing that was acknowledged is lost, and when files are
closed it goes on."""
import errno
import os
import resource
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import keepfs_testlib as t

LIMIT = 80


def limited(argv, env):
    def lower():
        resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
    return subprocess.Popen(argv, env=env, preexec_fn=lower, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def attempt(work, refused):
    try:
        return work()
    except OSError as e:
        t.check(e.errno == errno.EMFILE, "expected EMFILE, not %s" % e)
        refused.append(e)
        return None


def body(n):
    return b"%d " % n * 3000


def fill(root, count, refused):
    """Hold as many files open as can be, each written; descriptors by number."""
    held = {}
    for n in range(count):
        path = "%s/d%d" % (root, n % 40)
        if attempt(lambda: os.makedirs(path, exist_ok=True) or True, refused) is None:
            continue
        fd = attempt(lambda: os.open("%s/f%d" % (path, n), os.O_RDWR | os.O_CREAT, 0o600), refused)
        if fd is not None:
            held[n] = fd
            if attempt(lambda: os.pwrite(fd, body(n), 0), refused) is not None:
                os.fsync(fd)
    return held


def main():
    t.need_fuse()
    v = t.Vault()
    v.init()
    proc = limited([t.KEEPFS, v.vault, v.mnt, "-f"], v.env)
    v.procs.append(proc)
    t.wait_for(lambda: t.is_mounted(v.mnt) or proc.poll() is not None, 60, "the mount")
    t.check(proc.poll() is None, "keepfs needs more than %d descriptors to start" % LIMIT)
    v.mounts.append(v.mnt)
    refused = []
    held = fill(v.mnt, 300, refused)
    print("%d descriptors: %d files open at once, %d requests refused with EMFILE" % (LIMIT, len(held), len(refused)))
    t.check(held, "nothing could be opened")
    t.check(refused, "a service with %d descriptors holds 300 open files: the limit did not reach it" % LIMIT)
    for fd in held.values():
        os.close(fd)
    for n in held:
        with open("%s/d%d/f%d" % (v.mnt, n % 40, n), "rb") as f:
            t.check(f.read() == body(n), "f%d holds other bytes" % n)
    for n in range(1000):
        with open("%s/after%d" % (v.mnt, n % 100), "ab") as f:
            f.write(b"x")
    t.check(v.keepctl("status", json=True), "the control socket does not answer")
    tree = t.snapshot(v.mnt)
    v.unmount()
    v.mount()
    t.compare(tree, t.snapshot(v.mnt), "after a remount")
    t.check(v.keepctl("audit", "verify", json=True)[-1]["ok"], "the audit trail")
    v.unmount()


t.main(main)
