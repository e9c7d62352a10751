#!/usr/bin/python3
"""A full disk in mid-write: the vault is on a small tmpfs. ENOSPC reaches the writer, old data stays intact, after deleting files
writing works again, and a remount compares equal."""
import argparse
import errno
import os
import random
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import keepfs_testlib as t


def write_until_full(path, rng, chunk, mode="wb"):
    """Write chunks until an error; (bytes that write and fsync acknowledged, the error's errno)."""
    synced = 0
    fd = os.open(path, os.O_RDWR | os.O_CREAT | (os.O_APPEND if mode == "ab" else 0), 0o600)
    try:
        while True:
            data = rng.randbytes(chunk)
            try:
                if os.write(fd, data) != len(data):
                    return synced, errno.ENOSPC
                os.fsync(fd)
            except OSError as error:
                return synced, error.errno
            synced += chunk
    finally:
        try:
            os.close(fd)
        except OSError:
            pass


def old_files(v, rng, count):
    """{path: what it may hold}: one content, and after a refused overwrite, block by block, the one before or after it."""
    want = {}
    for i in range(count):
        path = os.path.join(v.mnt, "old%d" % i)
        want[path] = [rng.randbytes(rng.choice([10, 5000, 90000, 200000]))]
        with open(path, "wb") as f:
            f.write(want[path][0])
            f.flush()
            os.fsync(f.fileno())
    return want


def intact(want, when):
    for path, contents in want.items():
        with open(path, "rb") as f:
            found = f.read()
        sizes = [len(c) for c in contents]
        t.check(min(sizes) <= len(found) <= max(sizes), "%s has %d bytes %s, expected %s" % (path, len(found), when, sizes))
        for at in range(0, len(found), 4096):
            block = found[at:at + 4096]
            t.check(any(block == c[at:at + 4096].ljust(4096, b"\0")[:len(block)] for c in contents),
                    "block %d of %s is damaged %s" % (at // 4096, path, when))


def overlaid(data, at, new):
    return data[:at].ljust(at, b"\0") + new + data[at + len(new):]


def overwrite_when_full(want, rng):
    """Overwrites on the full disk: done, or ENOSPC. Returns how many were refused."""
    refused = 0
    for path in sorted(want):
        at, new = rng.randrange(len(want[path][0])), rng.randbytes(9000)
        after = [overlaid(c, at, new) for c in want[path]]
        try:
            with open(path, "r+b", buffering=0) as f:
                f.seek(at)
                if f.write(new) != len(new):
                    raise OSError(errno.ENOSPC, "short write")
                os.fsync(f.fileno())
            want[path] = after
        except OSError as error:
            t.check(error.errno == errno.ENOSPC, "writing into %s on a full disk: %s" % (path, error))
            refused += 1
            want[path] += after
    return refused


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--seed", type=int, default=1)
    args = p.parse_args()
    t.need_fuse()
    if os.geteuid() != 0:
        t.skip("only root can mount a tmpfs")
    rng = random.Random(args.seed)
    v = t.Vault()
    disk = os.path.join(v.dir, "disk")
    os.mkdir(disk)
    if t.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", disk], ok=None)[0]:
        t.skip("cannot mount a tmpfs here")
    v.vault = os.path.join(disk, "vault")
    try:
        v.init()
        v.mount()
        want = old_files(v, rng, 12)
        for number in range(args.rounds):
            one_round(v, want, rng, number)
        v.unmount()
    finally:
        v.detach()
        for proc in v.procs:
            proc.wait(30)
        t.run(["umount", "-l", disk], ok=None)


def one_round(v, want, rng, number):
    filler = os.path.join(v.mnt, "filler")
    synced, code = write_until_full(filler, rng, (1 << 20) if number % 2 == 0 else 30000)
    t.check(code == errno.ENOSPC, "a full disk gives %s" % os.strerror(code))
    t.check(synced > 8 << 20, "only %d bytes fitted" % synced)
    with open(filler, "rb") as f:
        t.check(len(f.read()) >= synced, "what was synced before ENOSPC is gone")
    intact(want, "after ENOSPC")
    refused = overwrite_when_full(want, rng)
    small, said = 0, None
    try:
        for small in range(6000):
            with open(os.path.join(v.mnt, "small%d" % small), "wb") as f:
                f.write(b"x" * 3000)
    except OSError as error:
        said = error.errno
    t.check(said == errno.ENOSPC, "small files on a full disk: %s" % (said and os.strerror(said)))
    intact(want, "after small files met the full disk")
    for i in range(small + 1):
        if os.path.lexists(os.path.join(v.mnt, "small%d" % i)):
            with open(os.path.join(v.mnt, "small%d" % i), "rb") as f:
                t.check(f.read() in (b"", b"x" * 3000) or i == small, "small%d holds something else" % i)
            os.unlink(os.path.join(v.mnt, "small%d" % i))
    v.unmount()
    v.mount()
    intact(want, "after ENOSPC and a remount")
    with open(filler, "rb") as f:
        t.check(len(f.read()) >= synced, "what was synced before ENOSPC is gone after a remount")
    os.unlink(filler)
    new = os.path.join(v.mnt, "new%d" % number)
    want[new] = [rng.randbytes(5 << 20)]
    with open(new, "wb") as f:
        f.write(want[new][0])
        f.flush()
        os.fsync(f.fileno())
    intact(want, "after space was made")
    v.unmount()
    v.mount()
    intact(want, "after space was made and a remount")
    os.unlink(new)
    del want[new]
    print("round %d: ENOSPC after %d KiB, %d overwrites refused, %d small files fitted; nothing lost" % (number + 1, synced >> 10, refused, small))


t.main(main)
