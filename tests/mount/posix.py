#!/usr/bin/python3
"""POSIX to the letter: the same scenarios in a plain directory and in a mount beside it; whatever a program can see must be equal.

O_TMPFILE, POSIX ACLs, other users (as root: allow_other), set-id bits, capabilities, times, special files, fallocate, long chains of directories.
"""
import ctypes
import errno
import json
import mmap
import os
import signal
import socket
import stat
import struct
import sys
import traceback
import zlib

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
from keepfs_testlib import Failure, Vault, check, drop_caches, main, need_fuse  # noqa: E402

ROOT = os.getuid() == 0
libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, AT_SYMLINK_FOLLOW, AT_EMPTY_PATH = -100, 0x400, 0x1000
ALICE, BOB, STAFF, CREW = 64001, 64002, 64100, 64101
ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"


def call(name, *args):
    if getattr(libc, name)(*args) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def acl(text):
    """'u::rwx u:64001:r-- m::rwx' as the kernel has it."""
    tags = {"u": (1, 2), "g": (4, 8), "m": (16, 16), "o": (32, 32)}
    entries = []
    for word in text.split():
        kind, who, bits = word.split(":")
        tag = tags[kind][1 if who else 0]
        entries.append((tag, int(who) if who else 0xffffffff, sum(4 >> i for i in range(3) if bits[i] != "-")))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, bits, who) for tag, who, bits in sorted(entries))


class Log:
    """What a scenario saw. An error is seen as its name."""

    def __init__(self):
        self.lines = []

    def __call__(self, label, function, *args, **named):
        try:
            value = function(*args, **named) if callable(function) else function
        except OSError as e:
            value = errno.errorcode.get(e.errno, str(e.errno))
        self.lines.append("%s: %s" % (label, value.hex() if isinstance(value, bytes) else value))
        return value


def put(path, data=b"", mode=0o666, flags=0):
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | flags, mode)
    os.write(fd, data)
    os.close(fd)


def get(path):
    with open(path, "rb") as f:
        return f.read()


def look(path):
    """Type, mode, owner, links and ACLs."""
    st = os.lstat(path)
    seen = [oct(st.st_mode), st.st_uid, st.st_gid, st.st_rdev]
    if not stat.S_ISDIR(st.st_mode):
        seen.append(st.st_nlink)
    for name in (ACCESS, DEFAULT):
        try:
            seen.append(os.getxattr(path, name, follow_symlinks=False).hex())
        except OSError as e:
            seen.append(errno.errorcode[e.errno])
    return seen


def proc_link(fd, path):
    call("linkat", AT_FDCWD, b"/proc/self/fd/%d" % fd, AT_FDCWD, path.encode(), AT_SYMLINK_FOLLOW)


def as_user(log, uid, gid, groups, function):
    """Runs function(log) in a child of another identity, in this directory."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            os.umask(0o022)
            own = Log()
            function(own)
            with os.fdopen(into, "w") as f:
                json.dump(own.lines, f)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(into)
    with os.fdopen(out) as f:
        text = f.read()
    check(os.waitpid(child, 0)[1] == 0, "a child of uid %d failed" % uid)
    log.lines += ["uid %d: %s" % (uid, line) for line in json.loads(text)]


# -- scenarios: each runs in an empty directory -------------------------------------------------------------------------

def nameless(log):
    log("read-only", os.open, ".", os.O_TMPFILE | os.O_RDONLY)
    fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o640)
    os.write(fd, b"hello")
    st = os.fstat(fd)
    log("new", (oct(st.st_mode), st.st_nlink, st.st_size, os.listdir(".")))
    again = os.open("/proc/self/fd/%d" % fd, os.O_RDWR)
    log("opened again", os.read, again, 10)
    os.close(again)
    os.fchmod(fd, 0o600)
    os.utime(fd, ns=(5, 7))
    os.ftruncate(fd, 3)
    os.fsync(fd)
    os.setxattr("/proc/self/fd/%d" % fd, "user.a", b"b")
    log("taken name", lambda: (put("taken"), proc_link(fd, "taken")))
    log("link", proc_link, fd, "one")
    log("links", os.fstat(fd).st_nlink)
    log("second link", os.link, "one", "two")
    log("linked", lambda: (look("one"), get("two"), os.getxattr("one", "user.a")))
    os.close(fd)
    drop_caches()
    log("later", lambda: (look("one"), get("two"), sorted(os.listdir("."))))
    os.mkdir("sub")
    fd = os.open("sub", os.O_TMPFILE | os.O_WRONLY, 0o666)
    os.write(fd, b"x" * 300000)
    long = "n" * 250
    log("by descriptor", call, "linkat", fd, b"", AT_FDCWD, long.encode(), AT_EMPTY_PATH) if ROOT else proc_link(fd, long)
    os.unlink(long)
    log("after its only name went", proc_link, fd, "back")
    os.close(fd)
    fd = os.open("sub", os.O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o666)
    log("exclusive", proc_link, fd, "never")
    os.close(fd)
    fds = [os.open("sub", os.O_TMPFILE | os.O_RDWR, 0o666) for _ in range(50)]
    for i, fd in enumerate(fds):
        os.pwrite(fd, b"%d" % i, 5000)
    log("many", all(os.pread(fd, 9, 5000) == b"%d" % i for i, fd in enumerate(fds)))
    for i, fd in enumerate(fds):
        if i % 2:
            proc_link(fd, "sub/%d" % i)
        os.close(fd)
    log("kept", lambda: [(n, len(get("sub/" + n))) for n in sorted(os.listdir("sub"))])


def inherit(log):
    os.mkdir("d", 0o755)
    log("set", os.setxattr, "d", DEFAULT, acl("u::rwx u:%d:rwx g::r-x m::rwx o::---" % ALICE))
    for mask in (0o022, 0o077):
        os.umask(mask)
        for mode in (0o666, 0o640, 0o777, 0o4711):
            name = "d/%o-%o-" % (mask, mode)
            put(name + "f", b"", mode)
            os.mkdir(name + "d", mode)
            os.mknod(name + "r", mode | stat.S_IFREG)
            os.mkfifo(name + "p", mode)
            fd = os.open("d", os.O_TMPFILE | os.O_RDWR, mode)
            proc_link(fd, name + "t")
            os.close(fd)
    os.umask(0o022)
    os.symlink("x", "d/link")
    drop_caches()
    for name in sorted(os.listdir("d")):
        log(name, look, "d/" + name)
    os.mkdir("min")
    os.setxattr("min", DEFAULT, acl("u::rwx g::r-- o::---"))
    put("min/f")
    os.mkdir("min/d")
    log("minimal", lambda: (look("min/f"), look("min/d"), sorted(os.listxattr("min"))))
    os.removexattr("min", DEFAULT)
    put("min/g")
    log("none left", look, "min/g")
    log("remove what is not there", os.removexattr, "min", DEFAULT)


def acl_and_mode(log):
    put("f", b"", 0o664)
    os.mkdir("d")
    for path in ("f", "d"):
        log("set", os.setxattr, path, ACCESS, acl("u::rw- u:%d:rwx g::r-- m::rwx o::---" % ALICE))
        log("mode follows", oct(os.stat(path).st_mode))
        log("listed", os.listxattr, path)
        os.chmod(path, 0o741)
        log("mask follows", look, path)
        log("equal to a mode", os.setxattr, path, ACCESS, acl("u::rwx g::r-x o::--x"))
        log("is a mode", look, path)
        log("again", os.setxattr, path, ACCESS, acl("u::rw- g::r-- g:%d:r-x m::r-- o::r--" % STAFF))
        log("removed", os.removexattr, path, ACCESS)
        log("gone", look, path)
        log("gone twice", os.removexattr, path, ACCESS)
        log("bad", os.setxattr, path, ACCESS, b"nonsense")
    log("default of a file", os.setxattr, "f", DEFAULT, acl("u::rw- g::r-- o::r--"))
    os.symlink("f", "l")
    log("of a symlink", os.setxattr, "l", ACCESS, acl("u::rw- g::r-- o::r--"), follow_symlinks=False)


def acl_access(log):
    """Who gets in, by name, by group, through the mask; ACLs that others set."""
    os.mkdir("d", 0o700)
    put("d/f", b"text", 0o600)
    os.setxattr("d", ACCESS, acl("u::rwx u:%d:--x g::--- m::rwx o::---" % ALICE))
    os.setxattr("d/f", ACCESS, acl("u::rw- u:%d:rw- g::--- g:%d:r-- m::rw- o::---" % (ALICE, STAFF)))

    def use(log):
        log("read", get, "d/f")
        log("write", put, "d/f", b"text")
        log("list", os.listdir, "d")
        log("access", lambda: [os.access("d/f", how) for how in (os.R_OK, os.W_OK, os.X_OK)])
        log("create", put, "d/new")
    as_user(log, ALICE, ALICE, [], use)
    as_user(log, BOB, BOB, [STAFF], use)
    os.setxattr("d", ACCESS, acl("u::rwx u:%d:--x g::--- g:%d:rwx m::rwx o::---" % (ALICE, STAFF)))
    as_user(log, BOB, BOB, [STAFF], use)
    os.chmod("d/f", 0o640)
    as_user(log, ALICE, ALICE, [], use)
    os.setxattr("d/f", ACCESS, acl("u::rw- u:%d:--- g::rw- m::rw- o::rw-" % ALICE))
    os.chmod("d", 0o777)
    as_user(log, ALICE, ALICE, [], use)
    put("sgid", b"")
    os.chown("sgid", ALICE, STAFF)
    os.mkdir("sgidd")
    os.chown("sgidd", ALICE, STAFF)

    def set_acl(log):
        for path in ("sgid", "sgidd"):
            log("set", os.setxattr, path, ACCESS, acl("u::rwx u:%d:r-- g::r-x m::r-x o::---" % BOB))
            log("then", look, path)
        log("not mine", os.setxattr, "d", ACCESS, acl("u::rwx g::rwx o::rwx"))
    for groups in ([STAFF], []):
        os.chmod("sgid", 0o2755)
        os.chmod("sgidd", 0o2755)
        as_user(log, ALICE, ALICE, groups, set_acl)


def owners(log):
    os.chmod(".", 0o777)
    os.mkdir("staff")
    os.chown("staff", 0, STAFF)
    os.chmod("staff", 0o2777)
    os.mkdir("sticky")
    os.chmod("sticky", 0o1777)
    put("sticky/roots", b"")

    def make(log):
        for top in (".", "staff", "sticky"):
            p = "%s/%d-%s" % (top, os.getuid(), "".join(map(str, os.getgroups())))
            for mode in (0o666, 0o2755, 0o6777, 0o2711):
                put(p + "f%o" % mode, b"", mode)
                log("file", look, p + "f%o" % mode)
            os.mkdir(p + "d", 0o2777)
            os.mkdir(p + "d/d")
            os.symlink("x", p + "l")
            os.mkfifo(p + "p", 0o2666)
            os.mknod(p + "r", stat.S_IFREG | 0o2777)
            fd = os.open(top, os.O_TMPFILE | os.O_RDWR, 0o2777)
            proc_link(fd, p + "t")
            os.close(fd)
            for what in "d", "d/d", "l", "p", "r", "t":
                log(what, look, p + what)
            for what in "d", "r":
                log("chmod", os.chmod, p + what, 0o6775)
                log("then", look, p + what)
            log("give away", os.chown, p + "r", BOB if os.getuid() == ALICE else ALICE, -1)
            log("to a group", os.chown, p + "r", -1, CREW)
            log("then", look, p + "r")
            log("touch others'", os.utime, "sticky/roots")
        log("remove others'", os.unlink, "sticky/roots")
        log("move others'", os.rename, "sticky/roots", "sticky/mine")
        log("move out", os.rename, p + "f666", "moved%d%d" % (os.getuid(), len(os.getgroups())))
        log("device", os.mknod, "dev", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        log("trusted", os.setxattr, p + "t", "trusted.a", b"b")
    as_user(log, ALICE, ALICE, [], make)
    as_user(log, ALICE, ALICE, [STAFF, CREW], make)
    as_user(log, BOB, STAFF, [CREW], make)

    def swap(log):
        for name in sorted(os.listdir("sticky")):
            log("unlink " + name, lambda: os.rmdir("sticky/" + name) if os.path.isdir("sticky/" + name) else os.unlink("sticky/" + name))
    as_user(log, BOB, BOB, [], swap)


CAP = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service


def set_ids(log):
    """What a change of content or owner leaves of set-id bits and capabilities."""
    os.chmod(".", 0o777)
    os.umask(0)

    def changes(log):
        def allocate():
            fd = os.open("f", os.O_RDWR)
            call("fallocate", fd, 0, ctypes.c_long(0), ctypes.c_long(9000))
            os.close(fd)
        for label, change in (("write", lambda: put("f", b"x", 0)), ("truncate", lambda: os.truncate("f", 1)), ("fallocate", allocate),
                              ("open", lambda: os.close(os.open("f", os.O_WRONLY | os.O_TRUNC)))):
            for mode in (0o6777, 0o2767, 0o4777):
                ask.send(b"%o" % mode)
                ask.recv(1)
                log("%s %o" % (label, mode), change)
                log("then", oct(os.stat("f").st_mode))
    ask, answer = socket.socketpair()
    helper = os.fork()
    if helper == 0:
        ask.close()
        while True:
            word = answer.recv(16)
            if not word:
                os._exit(0)
            put("f", b"content")
            os.chown("f", ALICE, ALICE)
            os.chmod("f", int(word, 8))
            answer.send(b".")
    answer.close()
    try:
        as_user(log, BOB, BOB, [], changes)
        changes(log)
    finally:
        ask.close()
        os.waitpid(helper, 0)
    for label, change in (("write", lambda: put("c", b"x", 0)), ("truncate", lambda: os.truncate("c", 1)), ("chown", lambda: os.chown("c", BOB, -1))):
        put("c", b"content")
        os.setxattr("c", "security.capability", CAP)
        log(label, change)
        log("capability", os.getxattr, "c", "security.capability")
    fd = os.open("k", os.O_CREAT | os.O_RDWR, 0o700)
    os.write(fd, b"content")
    os.fsync(fd)
    os.fchmod(fd, 0o6755)
    os.setxattr("k", "security.capability", CAP)
    os.close(fd)
    log("kept over a close", lambda: (look("k"), os.getxattr("k", "security.capability")))
    for mode in (0o6755, 0o2745, 0o4644, 0o1644):
        put("o")
        os.chmod("o", mode)
        os.chown("o", BOB, BOB)
        log("chown", look, "o")
        os.mkdir("od")
        os.chmod("od", mode)
        os.chown("od", BOB, BOB)
        log("chown", look, "od")
        os.rmdir("od")


def times(log):
    omit, now = (1 << 30) - 2, (1 << 30) - 1
    put("f")
    os.symlink("f", "l")
    os.mkdir("d")

    def are(path, flags):
        st = os.stat(path, follow_symlinks=flags == 0)
        return st.st_atime_ns, st.st_mtime_ns

    def utimens(path, a, m, flags=0):
        call("utimensat", AT_FDCWD, path.encode(), struct.pack("<qqqq", *a, *m), flags)
    for path, flags in (("f", 0), ("d", 0), ("l", 0x100), ("l", 0)):
        log("set", utimens, path, (1000000000, 1), (2000000000, 999999999), flags)
        log("are", are, path, flags)
        log("omit", utimens, path, (5, 6), (0, omit), flags)
        log("are", are, path, flags)
        log("both omitted", utimens, path, (0, omit), (0, omit), flags)
        log("old", utimens, path, (-5, 7), (0, omit), flags)
        log("are", are, path, flags)
        log("now", utimens, path, (0, omit), (0, now), flags)
        log("is", lambda: (are(path, flags)[0], are(path, flags)[1] > 1700000000 * 10**9))
        log("bad", utimens, path, (0, 10**9), (0, 0), flags)
    log("future", utimens, "f", (4000000000, 5), (10000000000, 3))
    drop_caches()
    log("are", lambda: (os.stat("f").st_atime_ns, os.stat("f").st_mtime_ns))


def special(log):
    os.umask(0o027)
    kinds = [("fifo", stat.S_IFIFO, 0), ("socket", stat.S_IFSOCK, 0), ("regular", stat.S_IFREG, 0)]
    if ROOT:
        kinds += [("char", stat.S_IFCHR, os.makedev(1, 3)), ("block", stat.S_IFBLK, os.makedev(259, 300000)), ("white", stat.S_IFCHR, 0)]
    for name, kind, rdev in kinds:
        log(name, os.mknod, name, kind | 0o666, rdev)
        log("again", os.mknod, name, kind | 0o666, rdev)
        log("is", look, name)
        os.link(name, name + "2")
        os.rename(name, name + "3")
        os.chmod(name + "2", 0o604)
        log("is", look, name + "3")
    s = socket.socket(socket.AF_UNIX)
    log("bind", s.bind, "sock")
    s.listen()
    c = socket.socket(socket.AF_UNIX)
    log("connect", c.connect, "sock")
    if ROOT:
        log("null", get, "char3")
    for label, args in (("nofollow", ("link", os.O_RDONLY | os.O_NOFOLLOW)), ("exclusive", ("link", os.O_CREAT | os.O_EXCL | os.O_RDWR)),
                        ("directory", ("regular3", os.O_RDONLY | os.O_DIRECTORY)), ("writing a directory", ("dir", os.O_WRONLY)),
                        ("creating a directory", ("dir", os.O_CREAT | os.O_RDWR)), ("trailing slash", ("new/", os.O_CREAT | os.O_RDWR)),
                        ("under a file", ("regular3/x", os.O_RDONLY)), ("socket", ("sock", os.O_RDONLY)),
                        ("nobody reads", ("fifo3", os.O_WRONLY | os.O_NONBLOCK))):
        if label == "nofollow":
            os.symlink("nowhere", "link")
            os.mkdir("dir")
        log(label, os.open, *args)


def content(log):
    def fallocate(fd, mode, off, size):
        try:
            call("fallocate", fd, mode, ctypes.c_long(off), ctypes.c_long(size))
        except OSError as e:
            if e.errno != errno.EOPNOTSUPP or not mode & 16:
                raise
            keep = os.fstat(fd).st_size if mode & 1 else off + size  # a plain file system without it: the same by hand
            os.pwrite(fd, bytes(size), off)
            os.ftruncate(fd, max(keep, 100000))
    fd = os.open("f", os.O_CREAT | os.O_RDWR, 0o600)
    for label, mode, off, size in (("zero", 16, 5000, 3000), ("zero beyond", 16, 90000, 20000), ("zero, size kept", 17, 100000, 50000),
                                   ("punch", 3, 1000, 9000), ("punch beyond", 3, 90000, 90000), ("punch, growing", 2, 0, 10),
                                   ("allocate", 0, 100000, 30000), ("allocate, size kept", 1, 100000, 90000), ("nothing", 0, 0, 0),
                                   ("negative", 0, -1, 10)):
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"abcdefgh" * 12500, 0)
        log(label, fallocate, fd, mode, off, size)
        data = get("f")
        log("size", len(data))
        log("crc", zlib.crc32(data))
    os.ftruncate(fd, 0)
    os.ftruncate(fd, 1 << 20)
    os.pwrite(fd, b"x" * 4096, 1 << 19)
    os.fsync(fd)
    log("seek", lambda: [os.lseek(fd, off, how) for off, how in ((0, os.SEEK_DATA), (0, os.SEEK_HOLE), (1 << 19, os.SEEK_HOLE))])
    log("no more data", os.lseek, fd, (1 << 19) + 4096, os.SEEK_DATA)
    log("beyond", os.lseek, fd, 2 << 20, os.SEEK_HOLE)
    put("from", bytes(range(256)) * 1000)
    src, dst = os.open("from", os.O_RDONLY), os.open("to", os.O_CREAT | os.O_RDWR)
    log("copy", os.copy_file_range, src, dst, 100000, 1234, 5678)
    log("copied", lambda: get("to")[5678:] == get("from")[1234:101234])
    log("copy onto itself", os.copy_file_range, dst, dst, 100, 5700, 5750)
    log("truncated by a reader", lambda: os.close(os.open("to", os.O_RDONLY | os.O_TRUNC)))
    log("size", os.stat("to").st_size)
    for flags in (os.O_SYNC, os.O_DSYNC, os.O_DIRECT):
        memory = mmap.mmap(-1, 8192)
        memory[:8192] = b"0123456789abcdef" * 512
        fd2 = os.open("sync", os.O_CREAT | os.O_RDWR | os.O_TRUNC | flags, 0o600)
        log("written", os.pwrite, fd2, memory, 4096)
        log("read", lambda: (os.preadv(fd2, [memory], 0), memory[4096:4200]))
        os.close(fd2)
    log("to a negative size", os.truncate, "f", -1)
    log("write at a distance", lambda: (os.pwrite(fd, b"end", 1 << 32), os.fstat(fd).st_size, os.pread(fd, 5, (1 << 32) - 2)))


def chains(log):
    """Deeper than a path can say."""
    here, top = os.open(".", os.O_RDONLY), os.open(".", os.O_RDONLY)
    for i in range(30):
        os.mkdir("c" * 200, dir_fd=here)
        sub = os.open("c" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = sub
    fd = os.open("bottom", os.O_CREAT | os.O_RDWR, 0o600, dir_fd=here)
    os.write(fd, b"deep")
    drop_caches()
    log("content", os.pread, fd, 10, 0)
    os.rename("bottom", "top", src_dir_fd=here, dst_dir_fd=top)
    os.link("top", "bottom", src_dir_fd=top, dst_dir_fd=here)
    log("links", os.fstat(fd).st_nlink)
    log("too long", os.stat, "/".join(["c" * 200] * 30))
    os.fchdir(here)
    while os.stat(here).st_ino != os.stat(top).st_ino:
        log("down", sorted(os.listdir(".")))
        os.chdir("..")
        os.close(here)
        here = os.open(".", os.O_RDONLY)


def gone(log):
    fd = os.open("f", os.O_CREAT | os.O_RDWR, 0o600)
    os.mkdir("d")
    d = os.open("d", os.O_RDONLY)
    os.unlink("f")
    os.rmdir("d")
    path = "/proc/self/fd/%d" % fd
    os.write(fd, b"text")
    log("link", proc_link, fd, "back")
    log("mode", lambda: (os.fchmod(fd, 0o644), oct(os.fstat(fd).st_mode)))
    log("xattr", lambda: (os.setxattr(path, "user.a", b"b"), os.getxattr(fd, "user.a"), os.listxattr(path), os.removexattr(path, "user.a")))
    log("acl", lambda: (os.setxattr(fd, ACCESS, acl("u::rw- u:%d:r-- g::r-- m::r-- o::---" % ALICE)), oct(os.fstat(fd).st_mode)))
    log("truncated", lambda: (os.ftruncate(fd, 2), os.pread(fd, 9, 0), os.truncate(path, 1), os.fstat(fd).st_size))
    log("synced", lambda: (os.fsync(fd), os.fdatasync(fd), os.fstat(fd).st_nlink))
    log("opened", lambda: os.read(os.open(path, os.O_RDONLY), 9))
    log("directory", lambda: (os.listdir(d), os.fstat(d).st_nlink, os.fchmod(d, 0o700)))
    for label, make in (("mkdir", os.mkdir), ("mkfifo", os.mkfifo), ("open", lambda n, dir_fd: os.open(n, os.O_CREAT | os.O_RDWR, dir_fd=dir_fd)),
                        ("symlink", lambda n, dir_fd: os.symlink("x", n, dir_fd=dir_fd))):
        log(label, make, "x", dir_fd=d)


def daemon_is_limited(t):
    """Quotas bind a thread without CAP_SYS_RESOURCE: no thread that answers requests may have it."""
    tasks = "/proc/%d/task" % t.pid()
    free = 0
    for task in os.listdir(tasks):
        with open("%s/%s/status" % (tasks, task)) as f:
            fields = dict(line.split(":", 1) for line in f)
        if int(fields["CapEff"], 16) >> 24 & 1:
            free += 1
    total = len(os.listdir(tasks))
    check(total - free >= 3, "%d of %d threads have CAP_SYS_RESOURCE" % (free, total))


def rewrapped(t):
    """A new key version is not the users' business: mode, times and capabilities stay."""
    path = t.mnt + "/rewrapped"
    put(path, b"content")
    os.chmod(path, 0o6755)
    os.utime(path, ns=(10**18 + 1, 10**18 + 2))
    if ROOT:
        os.setxattr(path, "security.capability", CAP)
    key = t.keepctl("key", "list", json=True)[0]["name"]

    def seen():
        st = os.stat(path)
        return oct(st.st_mode), st.st_mtime_ns, os.getxattr(path, "security.capability") if ROOT else b"", get(path)
    before = seen()
    t.keepctl("key", "rotate", key)
    t.keepctl("rewrap", t.vault)
    t.unmount()
    t.mount()
    check(seen() == before, "rewrap changed a file from %s to %s" % (before, seen()))


SCENARIOS = [nameless, inherit, acl_and_mode, times, special, content, chains, gone]
ROOT_SCENARIOS = [acl_access, owners, set_ids]


def in_child(place, scenario):
    """A scenario changes umask and directory: it has a process of its own. What it saw."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.mkdir(place)
            os.chdir(place)
            os.umask(0o022)
            log = Log()
            scenario(log)
            with os.fdopen(into, "w") as f:
                json.dump(log.lines, f)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(into)
    with os.fdopen(out) as f:
        text = f.read()
    check(os.waitpid(child, 0)[1] == 0, "%s failed in %s" % (scenario.__name__, place))
    return json.loads(text)


def all_tests():
    need_fuse()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    t = Vault()
    t.init()
    plain = os.path.join(t.dir, "plain")
    os.mkdir(plain)
    t.mount("allow_other,suid,dev" if ROOT else None)
    if ROOT:
        t.keepctl("role", "assign", "everyone", "Writer")
        daemon_is_limited(t)
    bad = []
    for scenario in SCENARIOS + (ROOT_SCENARIOS if ROOT else []):
        name = scenario.__name__
        expected, found = (in_child(os.path.join(top, name), scenario) for top in (plain, t.mnt))
        different = ["%s: plain %s | mount %s" % (name, a, b) for a, b in zip(expected, found) if a != b]
        if len(expected) != len(found):
            different.append("%s: %d lines and %d" % (name, len(expected), len(found)))
        print("%s: %d observations, %d different" % (name, len(expected), len(different)), flush=True)
        bad += different
    if bad:
        raise Failure("\n".join(bad[:60]))
    rewrapped(t)
    t.unmount()
    left = [n for _, _, names in os.walk(t.vault) for n in names if n.startswith("tmp.")]
    check(not left, "temporary entries left in the vault: %s" % left)
    check("authenticate" not in t.log_tail(), "the service complained:\n" + t.log_tail())
    check(t.sanitizer_report() is None, "%s" % t.sanitizer_report())


main(all_tests)
