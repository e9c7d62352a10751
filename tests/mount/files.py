"""Files and names through a real mount: what a POSIX filesystem does."""
import ctypes
import errno
import fcntl
import mmap
import os
import random
import stat
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from keepfs_testlib import *  # noqa: E402,F401,F403

libc = ctypes.CDLL(None, use_errno=True)
NOREPLACE, EXCHANGE = 1, 2
MiB = 1 << 20


def fails(code, function, *args, **more):
    """The call must fail with this errno."""
    try:
        function(*args, **more)
    except OSError as e:
        check(e.errno == code, "%s%r: expected %s, got %s" % (function.__name__, args, errno.errorcode[code], e))
        return
    raise Failure("%s%r: expected %s, but it worked" % (function.__name__, args, errno.errorcode[code]))


def put(path, data):
    with open(path, "wb") as f:
        f.write(data)


def get(path):
    with open(path, "rb") as f:
        return f.read()


def equal(found, expected, what):
    if found != expected:
        raise Failure("%s: expected %r, found %r" % (what, expected if len(repr(expected)) < 300 else "...", found if len(repr(found)) < 300 else "..."))


def renameat2(old, new, flags):
    if libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), old)


def basic_files(m):
    for size in (0, 1, 4095, 4096, 4097, 21 * 4096, 21 * 4096 + 1, 5 * MiB + 7):
        data = random.Random(size).randbytes(size)
        put(m + "/f", data)
        equal(os.stat(m + "/f").st_size, size, "size")
        check(get(m + "/f") == data, "content of %d bytes" % size)
    with open(m + "/f", "r+b") as f:
        f.seek(4090)
        f.write(b"across a block")
        f.seek(0, 2)
        f.write(b"end")
    data = data[:4090] + b"across a block" + data[4104:] + b"end"
    check(get(m + "/f") == data, "overwritten and appended content")
    for size in (100, 4096, 10000, 0, 3 * MiB, 5):
        os.truncate(m + "/f", size)
        data = (data + bytes(size))[:size]
        check(get(m + "/f") == data, "content after truncate to %d" % size)
    with open(m + "/f", "wb") as f:
        f.seek(40 * MiB)
        f.write(b"x")
    equal(get(m + "/f"), bytes(40 * MiB) + b"x", "sparse file")
    check(os.stat(m + "/f").st_blocks * 512 < 2 * MiB, "a sparse file takes the space of its data")
    fails(errno.EEXIST, os.open, m + "/f", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    fails(errno.ENOENT, os.open, m + "/none", os.O_RDONLY)
    fails(errno.EISDIR, os.open, m, os.O_WRONLY)
    os.unlink(m + "/f")
    fails(errno.ENOENT, os.stat, m + "/f")


def holes(m):
    path = m + "/holes"
    data = bytearray(random.Random(3).randbytes(2 * MiB))
    put(path, data)
    fd = os.open(path, os.O_RDWR)
    PUNCH, KEEP, ZERO = 2, 1, 16
    fallocate = lambda mode, off, n: libc.fallocate(fd, mode, ctypes.c_long(off), ctypes.c_long(n))
    for off, n in ((4096, 8192), (100, 50), (500000, 123456), (2 * MiB - 10, 100)):
        equal(fallocate(PUNCH | KEEP, off, n), 0, "punch")
        end = min(off + n, len(data))
        data[off:end] = bytes(end - off)
    check(get(path) == data, "content after punching")
    equal(fallocate(ZERO, 2 * MiB - 5, 1000), 0, "zero range")
    data[2 * MiB - 5:] = bytes(1000)
    check(get(path) == data, "content after zeroing beyond the end")
    equal(fallocate(0, 0, 3 * MiB), 0, "allocate")
    data += bytes(3 * MiB - len(data))
    check(get(path) == data, "content after allocating")
    equal(fallocate(KEEP, 0, 4 * MiB), 0, "allocate beyond the end")
    equal(os.fstat(fd).st_size, 3 * MiB, "size after KEEP_SIZE")
    equal(fallocate(8, 0, 4096), -1, "collapse")
    equal(ctypes.get_errno(), errno.EOPNOTSUPP, "collapse is refused with")
    os.close(fd)
    with open(m + "/seek", "wb") as f:
        f.seek(MiB)
        f.write(b"data")
        f.truncate(3 * MiB)
        f.flush()
        os.fsync(f.fileno())
        check(os.lseek(f.fileno(), 0, os.SEEK_DATA) == MiB, "SEEK_DATA finds the data")
        check(os.lseek(f.fileno(), MiB, os.SEEK_HOLE) == MiB + 4096, "SEEK_HOLE finds its end")
        fails(errno.ENXIO, os.lseek, f.fileno(), 2 * MiB, os.SEEK_DATA)
    put(m + "/fresh", b"d" * 300000)
    with open(m + "/fresh", "r+b") as f:
        f.seek(200000)
        f.write(b"e" * 200000)
        f.flush()
        equal(os.lseek(f.fileno(), 0, os.SEEK_HOLE), 400000, "unwritten cached data is no hole")
    os.unlink(path)


def names(m):
    d = m + "/names"
    os.mkdir(d)
    made = set()
    for n in (1, 174, 175, 176, 177, 254, 255):
        for kind in ("f", "d", "l"):
            name = kind.encode() + b"n" * (n - 1)
            path = os.fsencode(d) + b"/" + name
            if kind == "d":
                os.mkdir(path)
            elif kind == "l":
                os.symlink("target", path)
            else:
                put(path, b"%d" % n)
            made.add(name)
    rng = random.Random(5)
    for i in range(300):
        name = bytes(rng.choice([c for c in range(1, 256) if c != 47]) for _ in range(rng.choice([1, 2, 5, 40, 200])))
        if name in (b".", b"..") or name in made:
            continue
        put(os.fsencode(d) + b"/" + name, name)
        made.add(name)
    for name in (b"...", b"keepfs.dir", b"keepfs.vault", b"tmp.0123456789abcdef", b" ", b"\n"):
        put(os.fsencode(d) + b"/" + name, name)
        made.add(name)
    equal(set(os.listdir(os.fsencode(d))), made, "listed names")
    fails(errno.ENAMETOOLONG, put, d + "/" + "x" * 256, b"")
    for name in made:
        path = os.fsencode(d) + b"/" + name
        if stat.S_ISDIR(os.lstat(path).st_mode):
            os.rmdir(path)
        else:
            os.unlink(path)
    equal(os.listdir(d), [], "names after removing all")
    os.rmdir(d)
    here = os.open(m, os.O_RDONLY)
    for i in range(200):
        os.mkdir("deep%d" % (i % 7) + "y" * 30, dir_fd=here)
        sub = os.open("deep%d" % (i % 7) + "y" * 30, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = sub
    fd = os.open("bottom", os.O_CREAT | os.O_RDWR, dir_fd=here)
    os.write(fd, b"deep")
    os.close(fd)
    drop_caches()
    fd = os.open("bottom", os.O_RDONLY, dir_fd=here)
    equal(os.read(fd, 10), b"deep", "content at depth 200")
    os.close(fd)
    os.close(here)
    run(["rm", "-rf"] + [os.path.join(m, n) for n in os.listdir(m) if n.startswith("deep")])


def renames(m):
    d = m + "/ren"
    os.mkdir(d)
    os.mkdir(d + "/x")
    os.mkdir(d + "/y")
    long1, long2 = "L" * 200, "M" * 230
    spots = ("a", "x/a", long1, "y/" + long2)
    for src in spots:
        for dst in spots:
            for target in ("none", "file"):
                if src == dst:
                    continue
                put(d + "/" + src, src.encode())
                if target == "file":
                    put(d + "/" + dst, b"old")
                os.rename(d + "/" + src, d + "/" + dst)
                equal(get(d + "/" + dst), src.encode(), "renamed %s to %s" % (src, dst))
                fails(errno.ENOENT, os.stat, d + "/" + src)
                os.unlink(d + "/" + dst)
    for src in spots:
        for dst in spots:
            for target in ("none", "empty", "full"):
                if src == dst:
                    continue
                os.mkdir(d + "/" + src)
                put(d + "/" + src + "/in", b"inside")
                if target != "none":
                    os.mkdir(d + "/" + dst)
                if target == "full":
                    put(d + "/" + dst + "/in2", b"")
                    fails(errno.ENOTEMPTY, os.rename, d + "/" + src, d + "/" + dst)
                    os.unlink(d + "/" + dst + "/in2")
                os.rename(d + "/" + src, d + "/" + dst)
                drop_caches()
                equal(get(d + "/" + dst + "/in"), b"inside", "file in a renamed directory")
                os.unlink(d + "/" + dst + "/in")
                fails(errno.ENOENT, os.rmdir, d + "/" + src)
                os.rmdir(d + "/" + dst)
    os.mkdir(d + "/dir")
    put(d + "/file", b"1")
    put(d + "/file2", b"2")
    fails(errno.ENOTDIR, os.rename, d + "/dir", d + "/file")
    fails(errno.EISDIR, os.rename, d + "/file", d + "/dir")
    fails(errno.EINVAL, os.rename, d, d + "/x/sub")
    fails(errno.EEXIST, renameat2, d + "/file", d + "/file2", NOREPLACE)
    renameat2(d + "/file", d + "/x/file3", NOREPLACE)
    renameat2(d + "/x/file3", d + "/file2", EXCHANGE)
    equal((get(d + "/x/file3"), get(d + "/file2")), (b"2", b"1"), "exchanged files")
    renameat2(d + "/dir", d + "/x/file3", EXCHANGE)
    check(os.path.isdir(d + "/x/file3") and get(d + "/dir") == b"2", "exchanged file and directory")
    put(d + "/x/file3/deep", b"d")
    renameat2(d + "/x", d + "/y", EXCHANGE)
    drop_caches()
    equal(get(d + "/y/file3/deep"), b"d", "file below exchanged directories")
    with open(d + "/open", "w+b") as f:
        f.write(b"kept")
        f.flush()
        put(d + "/new", b"new")
        os.rename(d + "/new", d + "/open")
        f.seek(0)
        equal(f.read(), b"kept", "replaced but open file")
        equal(os.fstat(f.fileno()).st_nlink, 0, "links of a replaced file")
    equal(get(d + "/open"), b"new", "file after replacing an open one")
    run(["rm", "-rf", d])


def links(m):
    put(m + "/one", b"shared")
    os.link(m + "/one", m + "/two")
    os.mkdir(m + "/sub")
    os.link(m + "/two", m + "/sub/" + "z" * 220)
    equal(os.stat(m + "/one").st_nlink, 3, "link count")
    check(os.path.samefile(m + "/one", m + "/sub/" + "z" * 220), "links are one file")
    with open(m + "/two", "ab") as f:
        f.write(b" by all")
    equal(get(m + "/one"), b"shared by all", "content through another link")
    fails(errno.EEXIST, os.link, m + "/one", m + "/two")
    fails(errno.EPERM, os.link, m + "/sub", m + "/sub2")
    os.unlink(m + "/one")
    equal(get(m + "/two"), b"shared by all", "content after its first name went")
    os.chmod(m + "/sub/" + "z" * 220, 0o600)
    equal(stat.S_IMODE(os.stat(m + "/two").st_mode), 0o600, "mode through another link")
    run(["rm", "-rf", m + "/two", m + "/sub"])
    for target in ("x", "/etc/passwd", "a/" * 500, "t" * 3043):
        os.symlink(target, m + "/link")
        equal(os.readlink(m + "/link"), target, "link target")
        equal(os.lstat(m + "/link").st_size, len(target), "link size")
        os.unlink(m + "/link")
    fails(errno.ENAMETOOLONG, os.symlink, "t" * 3044, m + "/link")
    fails(errno.ENOENT, os.lstat, m + "/link")
    os.mkfifo(m + "/fifo", 0o640)
    check(stat.S_ISFIFO(os.stat(m + "/fifo").st_mode) and stat.S_IMODE(os.stat(m + "/fifo").st_mode) == 0o640, "a FIFO")
    os.unlink(m + "/fifo")
    os.mknod(m + "/reg", 0o600 | stat.S_IFREG)
    equal(get(m + "/reg"), b"", "a file made by mknod")
    os.unlink(m + "/reg")


def unlinked(m):
    fd = os.open(m + "/gone", os.O_CREAT | os.O_RDWR, 0o644)
    os.write(fd, b"before")
    os.unlink(m + "/gone")
    os.write(fd, b" and after")
    os.fsync(fd)
    equal(os.pread(fd, 100, 0), b"before and after", "unlinked but open content")
    st = os.fstat(fd)
    equal((st.st_nlink, st.st_size), (0, 16), "links and size of an unlinked file")
    os.fchmod(fd, 0o600)
    os.ftruncate(fd, 3)
    os.utime(fd, ns=(5, 7))
    drop_caches()
    st = os.fstat(fd)
    equal((stat.S_IMODE(st.st_mode), st.st_size, st.st_mtime_ns), (0o600, 3, 7), "attributes of an unlinked file")
    again = os.open("/proc/self/fd/%d" % fd, os.O_RDWR)
    equal(os.read(again, 10), b"bef", "an unlinked file opened again")
    os.close(again)
    put(m + "/gone", b"another")
    equal(os.pread(fd, 100, 0), b"bef", "unlinked content beside a new file of its name")
    os.close(fd)
    equal(get(m + "/gone"), b"another", "the new file")
    os.unlink(m + "/gone")
    os.mkdir(m + "/gonedir")
    fd = os.open(m + "/gonedir", os.O_RDONLY)
    os.rmdir(m + "/gonedir")
    equal(os.listdir(fd), [], "a removed directory that is open")
    fails(errno.ENOENT, os.open, "x", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
    os.fstat(fd)
    os.close(fd)


def many_entries(m):
    d = m + "/many"
    os.mkdir(d)
    for i in range(10000):
        os.close(os.open(d + "/e%05d" % i, os.O_CREAT | os.O_WRONLY))
    equal(len(set(os.listdir(d))), 10000, "listed entries")
    drop_caches()
    seen = set()
    with os.scandir(d) as entries:
        for e in entries:
            check(e.name not in seen, "an entry came twice: " + e.name)
            seen.add(e.name)
            os.unlink(d + "/" + e.name)
    left = os.listdir(d)
    equal(left, [], "entries left after unlinking while reading (%d seen)" % len(seen))
    os.rmdir(d)


def mapped(m):
    path = m + "/map"
    put(path, bytes(100000))
    with open(path, "r+b") as f:
        with mmap.mmap(f.fileno(), 0) as view:
            view[50000:50004] = b"mmap"
            view[99990:100000] = b"0123456789"
            view.flush()
            with mmap.mmap(f.fileno(), 0) as second:
                equal(bytes(second[50000:50004]), b"mmap", "a second map")
    data = get(path)
    equal((data[50000:50004], data[-10:]), (b"mmap", b"0123456789"), "content written by mmap")
    os.unlink(path)
    code = "import os,sys\nfd=os.open(sys.argv[1],os.O_WRONLY|os.O_APPEND|os.O_CREAT)\nfor i in range(300): os.write(fd,(sys.argv[2]*79+'\\n').encode())"
    procs = [subprocess.Popen([sys.executable, "-c", code, m + "/log", c]) for c in "abcd"]
    check(all(p.wait() == 0 for p in procs), "appending processes")
    lines = get(m + "/log").decode().split("\n")
    equal(len(lines), 1201, "appended lines")
    check(all(len(set(line)) == 1 and len(line) == 79 for line in lines[:-1]), "no appended line is torn")
    equal(sorted(set(line[0] for line in lines[:-1])), list("abcd"), "writers")
    os.unlink(m + "/log")


def xattrs(m):
    put(m + "/x", b"data")
    os.mkdir(m + "/xd")
    for path in (m + "/x", m + "/xd"):
        os.setxattr(path, "user.colour", b"green")
        os.setxattr(path, "user.empty", b"")
        os.setxattr(path, "user.big", b"v" * 2000)
        equal(os.getxattr(path, "user.colour"), b"green", "xattr")
        equal(os.getxattr(path, "user.empty"), b"", "empty xattr")
        equal(sorted(n for n in os.listxattr(path) if n.startswith("user.")), ["user.big", "user.colour", "user.empty"], "xattr list")
        fails(errno.EEXIST, os.setxattr, path, "user.colour", b"x", os.XATTR_CREATE)
        fails(errno.ENODATA, os.setxattr, path, "user.none", b"x", os.XATTR_REPLACE)
        fails(errno.ENODATA, os.getxattr, path, "user.none")
        os.removexattr(path, "user.big")
        fails(errno.ENODATA, os.getxattr, path, "user.big")
        if os.getuid() == 0:
            os.setxattr(path, "trusted.t", b"clear")
            equal(os.getxattr(path, "trusted.t"), b"clear", "trusted xattr")
    os.symlink("x", m + "/xl")
    fails(errno.EPERM, os.setxattr, m + "/xl", "user.a", b"b", follow_symlinks=False)
    os.unlink(m + "/xl")


def attributes(m):
    path = m + "/attr"
    put(path, b"12345")
    os.chmod(path, 0o640)
    os.utime(path, ns=(1234567890123456789, 987654321987654321))
    st = os.stat(path)
    equal((stat.S_IMODE(st.st_mode), st.st_atime_ns, st.st_mtime_ns), (0o640, 1234567890123456789, 987654321987654321), "mode and times")
    drop_caches()
    equal(os.stat(path).st_mtime_ns, 987654321987654321, "mtime when it is read again")
    with open(path, "r+b") as f:
        f.write(b"x")
    check(os.stat(path).st_mtime_ns > 10**18, "a write changes mtime")
    old = os.umask(0o027)
    put(m + "/masked", b"")
    os.mkdir(m + "/maskeddir", 0o777)
    os.umask(old)
    equal((stat.S_IMODE(os.stat(m + "/masked").st_mode), stat.S_IMODE(os.stat(m + "/maskeddir").st_mode)), (0o640, 0o750), "umask")
    fs = os.statvfs(m)
    equal(fs.f_namemax, 255, "f_namemax")
    check(fs.f_blocks > 0 and fs.f_bsize > 0, "statvfs has sizes")
    with open(path) as a, open(path) as b:
        fcntl.flock(a, fcntl.LOCK_EX)
        fails(errno.EWOULDBLOCK, fcntl.flock, b, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if os.getuid() == 0:
        os.chmod(path, 0o4755)
        os.chown(path, 12, 34)
        st = os.stat(path)
        equal((st.st_uid, st.st_gid, st.st_mode & 0o4000), (12, 34, 0), "owner, and set-uid cleared by chown")
        if run(["sh", "-c", "command -v capsh"], ok=None)[0] == 0:
            for what in ("echo y >> %s", "truncate -s 1 %s", "echo y > %s"):
                os.chmod(path, 0o6777)
                run(["capsh", "--drop=cap_fsetid", "--", "-c", what % path])
                equal(stat.S_IMODE(os.stat(path).st_mode), 0o777, "mode after a write without CAP_FSETID (%s)" % what)
            os.chmod(path, 0o6777)
            with open(path, "a") as f:
                f.write("root")
            equal(stat.S_IMODE(os.stat(path).st_mode), 0o6777, "mode after a write with CAP_FSETID")
        os.mkdir(m + "/sgid")
        os.chown(m + "/sgid", 0, 77)
        os.chmod(m + "/sgid", 0o2775)
        os.mkdir(m + "/sgid/d")
        put(m + "/sgid/f", b"")
        equal((os.stat(m + "/sgid/d").st_gid, os.stat(m + "/sgid/d").st_mode & 0o2000, os.stat(m + "/sgid/f").st_gid), (77, 0o2000, 77),
              "what a set-gid directory gives")


def remount(t):
    make_tree(t.mnt + "/tree", 300)
    before = snapshot(t.mnt)
    attrs = os.listxattr(t.mnt + "/x"), os.getxattr(t.mnt + "/xd", "user.colour")
    t.unmount()
    t.mount()
    compare(before, snapshot(t.mnt), "tree after a remount")
    equal((os.listxattr(t.mnt + "/x"), os.getxattr(t.mnt + "/xd", "user.colour")), attrs, "xattrs after a remount")


def all_tests():
    need_fuse()
    t = Vault()
    t.init()
    t.mount()
    for test in (basic_files, holes, names, renames, links, unlinked, many_entries, mapped, xattrs, attributes):
        print(test.__name__, flush=True)
        test(t.mnt)
    print("remount", flush=True)
    remount(t)
    t.unmount()
    left = [n for _, _, names_ in os.walk(t.vault) for n in names_ if n.startswith("tmp.")]
    equal(left, [], "temporary entries left in the vault")
    check("authenticate" not in t.log_tail(), "the service complained:\n" + t.log_tail())
    check(t.sanitizer_report() is None, "%s" % t.sanitizer_report())


main(all_tests)
