#!/usr/bin/python3
"""Directories with keys of their own: files that move between them, and directories whose key changes.

A file that is renamed into another zone hangs on that zone's key, open or not, and only its wrap slots change; the trail has the move on
both keys; who lacks a right on either gets EACCES and nothing changes. Directories and files with several names get EXDEV. `dir set-key
--rewrap` takes a subtree along, also when it is killed in the middle and run again, and again, and leaves zones below alone. The old key's
version can be destroyed only when nothing hangs on it. --files N: size of the tree that is rewrapped. --kills N: rewraps that are killed.
"""
import argparse
import ctypes
import errno
import os
import random
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import keepfs_testlib as t

OTHER = 65534
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
libc = ctypes.CDLL(None, use_errno=True)


def renameat2(a, b, flags):
    if libc.renameat2(-100, os.fsencode(a), -100, os.fsencode(b), flags) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


def fails(code, function, *args):
    try:
        function(*args)
    except OSError as error:
        t.check(error.errno == code, "%s%r: %s, expected %s" % (function.__name__, args, error, errno.errorcode[code]))
        return
    raise t.Failure("%s%r worked, expected %s" % (function.__name__, args, errno.errorcode[code]))


def write(path, data):
    with open(path, "wb") as f:
        f.write(data)


def read(path):
    with open(path, "rb") as f:
        return f.read()


def key_of(v, path):
    return v.keepctl("file", "show", path, json=True)[0]["key"]


def expect_key(v, path, key):
    t.check(key_of(v, path) == key, "%s hangs on %s, expected %s" % (path, key_of(v, path), key))


def records(v, key, outcome="allowed"):
    return v.keepctl("audit", "list", "--key", key, "--action", "zone-move", "--outcome", outcome, json=True)


def zone(v, name, key, rewrap=False, ok=(0,)):
    return v.keepctl("dir", "set-key", os.path.join(v.mnt, name), key, *(["--rewrap"] if rewrap else []), ok=ok)


def beyond_wraps(path):
    page = bytearray(read(path))
    for at in t.WRAP_AT:
        page[at:at + t.WRAP_SIZE] = bytes(t.WRAP_SIZE)
    return bytes(page)


def backing(v, path):
    return v.keepctl("file", "show", path, json=True)[0]["backing_path"]


def moves(v):
    """One file there and back, closed and open, over another one, and what does not move."""
    a, b = os.path.join(v.mnt, "a"), os.path.join(v.mnt, "b")
    data = os.urandom(300000)
    write(a + "/file", data)
    os.utime(a + "/file", ns=(10**18, 10**18 + 5))
    os.sync()
    t.wait_for(lambda: t.parse_header(backing(v, a + "/file"))["slots"] == 1, 60, "one wrap slot")
    v.unmount()
    v.mount("allow_other" if os.geteuid() == 0 else None)
    before = beyond_wraps(backing(v, a + "/file"))
    os.rename(a + "/file", b + "/file")
    where = backing(v, b + "/file")
    expect_key(v, b + "/file", "kb")
    header = t.parse_header(where)
    t.check(header["sequence"] == 2 and header["slots"] == 1, "after a move the header has %r" % header)
    t.check(beyond_wraps(where) == before, "a move changed more than the wrap slots")
    t.check(os.stat(where).st_mtime_ns == 10**18 + 5, "a move changed the file's time")
    t.check(read(b + "/file") == data and not os.path.exists(a + "/file"), "the moved file is not what it was")
    for key in ("ka", "kb"):
        found = records(v, key)
        t.check(len(found) == 1, "%d records of the move on %s, expected 1" % (len(found), key))
        reason = found[0]["reason"] or ""
        t.check("ka version 1" in reason and "kb" in reason, "the record does not name both keys: %r" % found[0])
        t.check(found[0]["path"] == "/a/file", "the record has the path %r" % found[0]["path"])
    with open(b + "/file", "r+b") as f:  # open while it moves: written before, between and after
        f.seek(1000)
        f.write(b"one")
        f.flush()
        os.rename(b + "/file", a + "/over")
        expect_key(v, a + "/over", "ka")
        f.seek(2000)
        f.write(b"two")
        f.flush()
        os.fsync(f.fileno())
        with open(a + "/over", "r+b") as again:
            again.seek(3000)
            again.write(b"six")
    data = bytearray(data)
    data[1000:1003], data[2000:2003], data[3000:3003] = b"one", b"two", b"six"
    t.check(read(a + "/over") == data, "a file that was open while it moved is not what was written")
    write(b + "/target", b"old")
    fails(errno.EEXIST, renameat2, a + "/over", b + "/target", RENAME_NOREPLACE)
    expect_key(v, a + "/over", "ka")
    os.rename(a + "/over", b + "/target")
    t.check(read(b + "/target") == data, "a move over another file")
    write(a + "/x", b"x")
    fails(errno.EXDEV, renameat2, a + "/x", b + "/target", RENAME_EXCHANGE)
    os.link(a + "/x", a + "/y")
    fails(errno.EXDEV, os.rename, a + "/x", b + "/x")
    fails(errno.EXDEV, os.link, b + "/target", a + "/linked")
    os.unlink(a + "/y")
    os.rename(a + "/x", b + "/x")
    os.mkdir(a + "/dir")
    write(a + "/dir/in", b"in")
    fails(errno.EXDEV, os.rename, a + "/dir", b + "/dir")
    os.symlink("target", a + "/link")
    os.mkfifo(a + "/fifo")
    os.rename(a + "/link", b + "/link")
    os.rename(a + "/fifo", b + "/fifo")
    t.check(os.readlink(b + "/link") == "target", "a symlink that moved")
    t.run(["mv", a + "/dir", b + "/dir"])
    expect_key(v, b + "/dir/in", "kb")
    write(a + "/zero", b"")
    os.rename(a + "/zero", b + "/zero")
    write(a + "/ro", b"ro")
    os.chmod(a + "/ro", 0o444)
    os.rename(a + "/ro", b + "/ro")
    t.check(read(b + "/ro") == b"ro" and os.stat(b + "/ro").st_mode & 0o7777 == 0o444, "a read-only file that moved")
    write(a + "/" + "long" * 60, b"long")
    os.rename(a + "/" + "long" * 60, b + "/" + "name" * 62)
    t.check(read(b + "/" + "name" * 62) == b"long", "a long name that moved")


def as_other(program, *args):
    """Run Python as another user; returns its output."""
    done = subprocess.run([sys.executable, "-c", program] + list(args), user=OTHER, group=OTHER, extra_groups=[],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
    return done.stdout.decode(errors="replace").strip()


MOVER = """
import errno, os, sys
try:
    os.rename(sys.argv[1], sys.argv[2])
    print("done")
except OSError as error:
    print(errno.errorcode[error.errno])
"""


def rights(v):
    """Another user with a role on one key only, then on both."""
    if os.geteuid() != 0:
        print("not root: rights of another user are not tried")
        return
    import pwd
    user = pwd.getpwuid(OTHER).pw_name
    a, b = os.path.join(v.mnt, "a"), os.path.join(v.mnt, "b")
    for place in (v.mnt, a, b):
        os.chmod(place, 0o777)
    os.chmod(v.dir, 0o755)
    write(a + "/theirs", b"theirs")
    os.chown(a + "/theirs", OTHER, OTHER)
    header = read(backing(v, a + "/theirs"))[:t.PAGE]
    t.check(as_other(MOVER, a + "/theirs", b + "/theirs") == "EACCES", "a move without any right")
    t.check(len(records(v, "ka", "denied")) == 1, "the refusal is not in the trail, on the key that refused")
    v.keepctl("role", "assign", "user:%s" % user, "Reader", "--key", "ka")
    t.check(as_other(MOVER, a + "/theirs", b + "/theirs") == "EACCES", "a move without a right on the new key")
    found = records(v, "kb", "denied")
    t.check(len(found) == 1 and "ka" in found[0]["reason"] and "kb" in found[0]["reason"], "the refusal of the new key: %r" % found)
    t.check(read(backing(v, a + "/theirs"))[:t.PAGE] == header, "a refused move wrote into the header")
    v.keepctl("role", "remove", "user:%s" % user, "Reader", "--key", "ka")
    v.keepctl("role", "assign", "user:%s" % user, "Writer", "--key", "kb")
    t.check(as_other(MOVER, a + "/theirs", b + "/theirs") == "EACCES", "a move without a right on the old key")
    v.keepctl("role", "assign", "user:%s" % user, "Reader", "--key", "ka")
    t.check(as_other(MOVER, a + "/theirs", b + "/theirs") == "done", "a move with unwrap on the old and wrap on the new key")
    expect_key(v, b + "/theirs", "kb")
    t.check(as_other(MOVER, b + "/theirs", a + "/theirs") == "EACCES", "a move into a zone where the user only reads")


def whole_directories(v, files, kills):
    """set-key --rewrap over a tree, killed and run again; a zone below stays; then the old key is free."""
    top = os.path.join(v.mnt, "tree")
    os.mkdir(top)
    zone(v, "tree", "ka")
    os.mkdir(top + "/own")
    zone(v, "tree/own", "kc")
    write(top + "/own/kept", b"kept")
    os.mkdir(top + "/own/below")
    t.make_tree(top + "/sub", files, seed=7, big=0)
    write(top + "/one", b"one")
    os.link(top + "/one", top + "/sub/two")
    before = t.snapshot(top)
    code, _, err = zone(v, "tree", "kb", ok=None)
    t.check(code == 1 and "--rewrap" in err, "set-key of a full directory: exit %d: %s" % (code, err))
    rng = random.Random(3)
    done = 0
    for target in ["kb", "ka"] * kills:
        if done >= kills:
            break
        proc = subprocess.Popen([t.KEEPCTL, "dir", "set-key", top, target, "--rewrap"], env=v.env, stdin=subprocess.DEVNULL,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.02, 0.4))
        v.kill9()
        proc.wait(60)
        v.mount("allow_other" if os.geteuid() == 0 else None)
        for base, _, names in os.walk(top):
            for name in names[:3]:
                path = os.path.join(base, name)
                if os.path.isfile(path) and not os.path.islink(path):
                    read(path)
        done += 1
        zone(v, "tree", target, rewrap=True)
        # The file whose header was just written when the kill came has that moment as its time.
        t.compare(t.snapshot(top, times=False), {path: what[:4] + (0,) + what[5:] if what[0] == "file" else what for path, what in before.items()},
                  "after a kill and a second run")
    before = t.snapshot(top)
    last = v.keepctl("dir", "set-key", top, "kb", "--rewrap", json=True)[-1]
    t.check(last["failed"] == 0 and last["rewrapped"] + last["current"] > 0, "the last line is %r" % last)
    last = v.keepctl("dir", "set-key", top, "kb", "--rewrap", json=True)[-1]
    t.check(last["failed"] == 0 and last["rewrapped"] == 0, "a run with nothing to do: %r" % last)
    t.compare(before, t.snapshot(top), "the tree after it got another key")
    for path in t.backing_files(v.vault):
        t.check(t.parse_header(path)["slots"] == 1 or path.endswith("keepfs.vault"), "%s has two wraps" % path)
    expect_key(v, top + "/own/kept", "kc")
    expect_key(v, top + "/one", "kb")
    for place, key in (("", "kb"), ("/sub", "kb"), ("/own", "kc"), ("/own/below", "kc")):
        found = v.keepctl("dir", "show", top + place, json=True)[0]["key"]
        t.check(found == key, "directory %s has the key %s, expected %s" % (place or "/", found, key))
    write(top + "/sub/new", b"new")
    expect_key(v, top + "/sub/new", "kb")


SHUTTLE = """
import os, sys
a, b = sys.argv[1:3]
while True:
    for name in sorted(os.listdir(a)):
        if name.startswith("s"):
            os.rename(a + "/" + name, b + "/" + name)
    a, b = b, a
"""


def torn_moves(v, kills):
    """A SIGKILL while files go back and forth: every one is at one of its places, whole, under one of the two keys."""
    a, b = os.path.join(v.mnt, "a"), os.path.join(v.mnt, "b")
    for i in range(8):
        write("%s/s%d" % (a, i), b"shuttle %d" % i)
    rng = random.Random(11)
    for _ in range(kills):
        proc = subprocess.Popen([sys.executable, "-c", SHUTTLE, a, b], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.15, 0.6))
        v.kill9()
        proc.wait(60)
        v.mount("allow_other" if os.geteuid() == 0 else None)
        for i in range(8):
            found = [place for place in (a, b) if os.path.exists("%s/s%d" % (place, i))]
            t.check(len(found) == 1, "file %d is in %s after a kill" % (i, found))
            path = "%s/s%d" % (found[0], i)
            t.check(read(path) == b"shuttle %d" % i, "file %d after a kill" % i)
            t.check(key_of(v, path) in ("ka", "kb"), "file %d hangs on %s" % (i, key_of(v, path)))
    v.keepctl("rewrap")
    for path in t.backing_files(v.vault):
        t.check(t.parse_header(path)["slots"] == 1, "%s has two wraps after a rewrap" % path)
    for place, key in ((a, "ka"), (b, "kb")):
        v.keepctl("dir", "set-key", place, key, "--rewrap")
        for name in os.listdir(place):
            if os.path.isfile(os.path.join(place, name)):
                expect_key(v, os.path.join(place, name), key)


def other_name(v):
    """A file with a name outside of the directory keeps its key, and the verb says so."""
    top = os.path.join(v.mnt, "half")
    os.mkdir(top)
    os.mkdir(top + "/inner")
    write(top + "/inner/file", b"file")
    os.link(top + "/inner/file", top + "/outside")
    code, out, err = zone(v, "half/inner", "kb", rewrap=True, ok=None)
    t.check(code == 1 and "another name" in err, "exit %d: %s%s" % (code, out, err))
    expect_key(v, top + "/outside", "default")
    os.unlink(top + "/outside")
    zone(v, "half/inner", "kb", rewrap=True)
    expect_key(v, top + "/inner/file", "kb")


def free_key(v):
    """A version of the old key is destroyed only when the last file has left it."""
    place = os.path.join(v.mnt, "last")
    os.mkdir(place)
    zone(v, "last", "kd")
    write(place + "/file", b"last")
    v.keepctl("key", "rotate", "kd")
    code, out, err = v.keepctl("key", "destroy-version", "kd", 1, "--yes", ok=None)
    t.check(code == 1, "a version that a file hangs on was destroyed: %s%s" % (out, err))
    os.rename(place + "/file", os.path.join(v.mnt, "b", "last"))
    v.keepctl("key", "destroy-version", "kd", 1, "--yes")
    t.check(read(os.path.join(v.mnt, "b", "last")) == b"last", "a file that left its key before that was destroyed")


def main():
    words = argparse.ArgumentParser()
    words.add_argument("--files", type=int, default=250)
    words.add_argument("--kills", type=int, default=2)
    words = words.parse_args()
    t.need_fuse()
    v = t.Vault()
    v.init()
    for key in ("ka", "kb", "kc", "kd"):
        v.keepctl("key", "create", key)
    v.mount("allow_other" if os.geteuid() == 0 else None)
    for name in ("a", "b"):
        os.mkdir(os.path.join(v.mnt, name))
        zone(v, name, "k" + name)
    moves(v)
    rights(v)
    other_name(v)
    torn_moves(v, words.kills)
    whole_directories(v, words.files, words.kills)
    free_key(v)
    v.keepctl("audit", "verify")
    v.unmount()


t.main(main)
