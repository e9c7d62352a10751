#!/usr/bin/python3
"""Three users share a mount of root's: the same script of operations in a plain directory of ext4 and in the mount, compared
line by line: result or errno, then type, mode, owner, group, links, size and ACLs of what was touched.

users.py [--random N] [--seed N] [--print] [--plain]

Each user is a process with its own uid, primary and supplementary groups that carries out one operation after the other.
--random: so many operations of a seeded table follow those that stand here. --plain: the script in two plain directories
(the test of the test). --print: the lines.
"""
import argparse
import ctypes
import errno
import json
import os
import random
import stat
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from keepfs_testlib import *  # noqa: E402,F401,F403

STAFF, GUESTS = 42010, 42020
USERS = {  # name: uid, gid, supplementary groups
    "r": (0, 0, []),
    "a": (41001, 42001, [STAFF]),
    "b": (41002, 42002, [STAFF, GUESTS]),
    "c": (41003, 42003, []),
}
A, B, C = 41001, 41002, 41003
GA, GB, GC = 42001, 42002, 42003
ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"

# ---- ACLs ------------------------------------------------------------------------------------------------------------

TAGS = {"u": 1, "U": 2, "g": 4, "G": 8, "m": 16, "o": 32}


def acl_bytes(text):
    """"u:7,U41001:5,g:4,m:7,o:0" as the kernel takes it. Entries stand in the order of their tags."""
    out = struct.pack("<I", 2)
    for entry in text.split(","):
        who, perm = entry.split(":")
        out += struct.pack("<HHI", TAGS[who[0]], int(perm), int(who[1:]) if len(who) > 1 else 0xffffffff)
    return out


def acl_text(data):
    names = {value: key for key, value in TAGS.items()}
    out = []
    for at in range(4, len(data), 8):
        tag, perm, who = struct.unpack_from("<HHI", data, at)
        out.append("%s%s:%d" % (names.get(tag, "?"), "" if who == 0xffffffff else who, perm))
    return ",".join(out)


def acl_of(path, which):
    try:
        return acl_text(os.getxattr(path, which, follow_symlinks=False))
    except OSError as e:
        return "" if e.errno in (errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM) else errno.errorcode[e.errno]


# ---- operations: what the users' processes do ----------------------------------------------------------------------------

LIBC = ctypes.CDLL(None, use_errno=True)
HELD = {}
OPEN_FLAGS = {"r": os.O_RDONLY, "w": os.O_WRONLY, "rw": os.O_RDWR, "c": os.O_CREAT, "x": os.O_EXCL, "t": os.O_TRUNC, "a": os.O_APPEND,
              "d": os.O_DIRECTORY, "p": os.O_PATH, "nf": os.O_NOFOLLOW, "na": os.O_NOATIME}


def flags_of(text):
    value = os.O_NONBLOCK
    for word in text.split("+"):
        value |= OPEN_FLAGS[word]
    return value


def op_open(path, flags, mode=0o666, data=""):
    fd = os.open(path, flags_of(flags), mode)
    try:
        if data:
            os.write(fd, data.encode())
    finally:
        os.close(fd)


def op_read(path):
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(fd, 100).decode()
    finally:
        os.close(fd)


def op_tmpfile(folder, mode, link=None):
    fd = os.open(folder, os.O_TMPFILE | os.O_RDWR, mode)
    try:
        os.write(fd, b"unnamed")
        st = os.fstat(fd)
        if link:
            os.link("/proc/self/fd/%d" % fd, link, follow_symlinks=True)
        return "%o %d:%d" % (st.st_mode, st.st_uid, st.st_gid)
    finally:
        os.close(fd)


def op_exec(path):
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(os.open("/dev/null", os.O_WRONLY), 2)
            os.execv(path, [path])
        except OSError as e:
            os._exit(100 + min(e.errno, 99))
        os._exit(255)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return errno.errorcode[code - 100] if 100 <= code < 200 else str(code)


def op_chdir(path):
    """Into it, and what "." says there; then back to where every operation starts."""
    back = os.open(".", os.O_PATH)
    try:
        os.chdir(path)
        try:
            names = ",".join(sorted(os.listdir(".")))
        except OSError as e:
            names = errno.errorcode[e.errno]
        os.fchdir(back)
        return names
    finally:
        os.close(back)


def op_rename2(old, new, flags):
    if LIBC.renameat2(-100, old.encode(), -100, new.encode(), flags) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


def op_access(path):
    return "".join(c if os.access(path, bit) else "-" for c, bit in (("r", 4), ("w", 2), ("x", 1)))


def op_hold(name, path, flags, mode=0o666):
    HELD[name] = os.open(path, flags_of(flags), mode)


def op_tool(*argv):
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return "%d %s" % (done.returncode, done.stdout.decode().replace("\n", ";"))


OPS = {
    "mkdir": os.mkdir,
    "rmdir": os.rmdir,
    "open": op_open,
    "read": op_read,
    "chmod": os.chmod,
    "chown": lambda path, uid, gid: os.chown(path, uid, gid),
    "lchown": lambda path, uid, gid: os.chown(path, uid, gid, follow_symlinks=False),
    "setacl": lambda path, text: os.setxattr(path, ACCESS, acl_bytes(text)),
    "setdefault": lambda path, text: os.setxattr(path, DEFAULT, acl_bytes(text)),
    "getacl": lambda path: acl_text(os.getxattr(path, ACCESS)),
    "delacl": lambda path: os.removexattr(path, ACCESS),
    "deldefault": lambda path: os.removexattr(path, DEFAULT),
    "link": lambda old, new: os.link(old, new, follow_symlinks=False),
    "symlink": os.symlink,
    "readlink": os.readlink,
    "rename": os.rename,
    "rename2": op_rename2,
    "unlink": os.unlink,
    "truncate": os.truncate,
    "utime": lambda path, a, m: os.utime(path, (a, m)),
    "utimenow": os.utime,
    "access": op_access,
    "chdir": op_chdir,
    "list": lambda path: ",".join(sorted(os.listdir(path))),
    "stat": lambda path: "%o" % os.stat(path).st_mode,
    "mknod": lambda path, mode: os.mknod(path, mode, os.makedev(1, 3)),
    "setx": lambda path, name, value: os.setxattr(path, name, value.encode(), follow_symlinks=False),
    "getx": lambda path, name: os.getxattr(path, name, follow_symlinks=False).decode(),
    "delx": lambda path, name: os.removexattr(path, name, follow_symlinks=False),
    "tmpfile": op_tmpfile,
    "exec": op_exec,
    "hold": op_hold,
    "hwrite": lambda name, text: os.write(HELD[name], text.encode()),
    "hread": lambda name: os.pread(HELD[name], 100, 0).decode(),
    "hchmod": lambda name, mode: os.fchmod(HELD[name], mode),
    "hchown": lambda name, uid, gid: os.fchown(HELD[name], uid, gid),
    "htruncate": lambda name, size: os.ftruncate(HELD[name], size),
    "hstat": lambda name: "%o %d" % (os.fstat(HELD[name]).st_mode, os.fstat(HELD[name]).st_size),
    "drop": lambda name: os.close(HELD.pop(name)),
    "tool": op_tool,
}


def carry_out(op, args, umask):
    os.umask(umask)
    try:
        result = OPS[op](*args)
        return "ok" if result is None else "= %s" % result
    except OSError as e:
        return errno.errorcode.get(e.errno, str(e.errno))
    except KeyError:
        return "nothing held"


class User:
    """A process that is one of the users, with its working directory at the top of the tree."""

    def __init__(self, name, top):
        uid, gid, groups = USERS[name]
        to_child, self.requests = os.pipe()
        self.answers, from_child = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.requests)
            os.close(self.answers)
            try:
                os.chdir(top)
                os.setgroups(groups)
                os.setresgid(gid, gid, gid)
                os.setresuid(uid, uid, uid)
                with os.fdopen(to_child) as requests, os.fdopen(from_child, "w") as answers:
                    for line in requests:
                        if line == "end\n":
                            break
                        answers.write(json.dumps(carry_out(*json.loads(line))) + "\n")
                        answers.flush()
            finally:
                os._exit(0)
        os.close(to_child)
        os.close(from_child)
        self.requests, self.answers = os.fdopen(self.requests, "w"), os.fdopen(self.answers)

    def do(self, op, args, umask):
        self.requests.write(json.dumps([op, args, umask]) + "\n")
        self.requests.flush()
        line = self.answers.readline()
        check(line, "the user's process ended at %s %s" % (op, args))
        return json.loads(line)

    def done(self):
        """Told, because processes made after this one hold its pipe as well."""
        self.requests.write("end\n")
        self.requests.close()
        self.answers.close()
        os.waitpid(self.pid, 0)


# ---- the script ------------------------------------------------------------------------------------------------------

SCRIPT = """
# user op arguments [umask=0NNN]; ~ is nothing, numbers are octal when they begin with 0
r mkdir w 01777 umask=0
r mkdir w/root 0755
r open w/root/f c+w 0644 root-file
# creation under umasks
a mkdir w/a 0777 umask=022
a open w/a/f1 c+w 0666 one umask=022
a open w/a/f2 c+w 0666 two umask=077
a open w/a/f3 c+w 0777 three umask=002
a open w/a/f4 c+w 0644 four umask=0
a open w/a/f5 c+w 0 five umask=0
a open w/a/f6 c+w 06755 six umask=0
a mkdir w/a/d1 0777 umask=077
a mkdir w/a/d2 01777 umask=0
a mkdir w/a/d3 02777 umask=0
a mknod w/a/fifo 010666 umask=022
a mknod w/a/sock 0140666 umask=022
a mknod w/a/chr 020666 umask=0
a open w/a/f1 c+x+w 0666
a mkdir w/a 0777
# who may open what
b read w/a/f1
b open w/a/f1 w
b open w/a/f1 rw
b open w/a/f1 w+t
b read w/a/f2
b read w/a/f3
b open w/a/f3 w
b open w/a/f4 r
b read w/a/f5
a read w/a/f5
a open w/a/f5 w
r read w/a/f5
b open w/a/new c+w 0666 mine
b open w/a/f2 p
b open w/a/f1 r+na
a open w/a/f1 r+na
b list w/a
b list w/a/d1
b stat w/a/d1/x
a open w/a/d1/x c+w 0644 inner
b read w/a/d1/x
c read w/root/f
c open w/root/f a+w
c open w/root/new c+w
# group access, primary and supplementary
a chmod w/a/f1 0640
a chown w/a/f1 -1 42010
b read w/a/f1
c read w/a/f1
b open w/a/f1 w
a chmod w/a/f1 0660
b open w/a/f1 w+a 0 +b
b read w/a/f1
c open w/a/f1 w
a chmod w/a/f1 0604
b read w/a/f1
c read w/a/f1
a chmod w/a/f1 0064
a read w/a/f1
b read w/a/f1
c read w/a/f1
a chmod w/a/f1 0644
# chown and chmod: who may
a chown w/a/f1 41002 -1
a chown w/a/f1 41001 -1
a chown w/a/f1 -1 42020
a chown w/a/f1 -1 42001
b chown w/a/f1 41002 -1
b chown w/a/f1 -1 42010
b chmod w/a/f1 0777
c chmod w/root/f 0777
c utimenow w/root/f
a chown w/a/f1 -1 -1
r chown w/a/f4 41002 42002
b chmod w/a/f4 0600
a read w/a/f4
a chmod w/a/f4 0644
a unlink w/a/f4
# set-id bits
a open w/a/s c+w 0755 suid umask=022
a chmod w/a/s 04755
a chmod w/a/s 06755
a chown w/a/s -1 42010
a chmod w/a/s 06775
b open w/a/s w+a 0 x
a chmod w/a/s 06777
c open w/a/s w 0 y
a chmod w/a/s 06777
a open w/a/s w+a 0 z
a chmod w/a/s 06777
c truncate w/a/s 3
a chmod w/a/s 06777
r truncate w/a/s 2
a chmod w/a/s 06777
r open w/a/s w 0 rr
a chmod w/a/s 02777
c open w/a/s w+t
a chmod w/a/s 06777
a chown w/a/s -1 42001
a chmod w/a/s 06777
r chown w/a/s 41002 -1
b chmod w/a/s 06777
r chown w/a/s 41001 42020
a chmod w/a/s 02755
a chmod w/a/s 02777
a chmod w/a/s 02747
r chmod w/a/s 06747
c hold s w/a/s w
r chmod w/a/s 06767
c hwrite s 1
r chmod w/a/s 06777
c htruncate s 0
c drop s
r chmod w/a/s 02767
c open w/a/s w 0 k
r chmod w/a/s 02767
a chown w/a/s 41001 -1
r chown w/a/s -1 42010
r chmod w/a/s 06767
a chown w/a/s 41001 -1
r chmod w/a/s 06767
a chown w/a/s -1 42001
a unlink w/a/s
# set-gid directories
a mkdir w/sg 0775 umask=0
a chown w/sg -1 42010
a chmod w/sg 02775
a open w/sg/fa c+w 0664 fa umask=0
b open w/sg/fb c+w 0664 fb umask=022
b mkdir w/sg/db 0775 umask=022
b mkdir w/sg/db/deep 0700 umask=022
c mkdir w/sg/dc 0775
r chmod w/sg 02777
c mkdir w/sg/dc 0775 umask=0
c open w/sg/fc c+w 0664 fc umask=022
c open w/sg/fs c+w 02775 fs umask=0
c open w/sg/fs2 c+w 02755 fs umask=0
b open w/sg/fs3 c+w 02775 fs umask=0
c mknod w/sg/fifo 012666 umask=0
c symlink target w/sg/link
c open w/sg/dc/in c+w 0660 in umask=0
c chmod w/sg/dc 0775
c chmod w/sg/dc 02775
c chown w/sg/dc -1 42003
c chmod w/sg/dc 02775
b open w/sg/dc/new c+w 0660
a tmpfile w/sg 0666 w/sg/tmp umask=022
c tmpfile w/sg 02777 w/sg/tmp2 umask=0
b link w/sg/fa w/sg/fa2
# sticky directories
r mkdir w/st 01777 umask=0
a open w/st/a c+w 0666 a umask=0
b open w/st/b c+w 0666 b umask=0
b unlink w/st/a
b rename w/st/a w/st/x
b rename w/st/b w/st/a
a rename w/st/a w/st/a2
b rename2 w/st/b w/st/a2 2
b link w/st/a2 w/st/ln
c link w/st/b w/st/ln2
a mkdir w/st/da 0777 umask=0
b rmdir w/st/da
b open w/st/da/of-b c+w 0644 b
a unlink w/st/da/of-b
a rmdir w/st/da
r unlink w/st/b
c mkdir w/st/own 01777 umask=0
a open w/st/own/f c+w 0644 x
c unlink w/st/own/f
# ACLs: named users and groups, the mask
a open w/a/acl c+w 0640 acl umask=022
a setacl w/a/acl u:6,U41002:6,g:4,m:6,o:0
b read w/a/acl
b open w/a/acl w+a 0 +b
c read w/a/acl
b getacl w/a/acl
a chmod w/a/acl 0640
b open w/a/acl w
b read w/a/acl
a chmod w/a/acl 0600
b read w/a/acl
a chmod w/a/acl 0660
a setacl w/a/acl u:6,g:4,G42020:6,m:4,o:0
b open w/a/acl w
b read w/a/acl
a setacl w/a/acl u:6,g:0,G42010:2,G42020:4,m:6,o:7
b read w/a/acl
b open w/a/acl w
b open w/a/acl rw
c open w/a/acl rw
c access w/a/acl
b access w/a/acl
b setacl w/a/acl u:7,g:7,o:7
r setacl w/a/acl u:6,U41003:0,g:4,m:4,o:4
c read w/a/acl
b read w/a/acl
a setacl w/a/acl u:6,U41003:0,g:4,o:4
a setacl w/a/acl u:6,g:4
a setacl w/a/acl u:6,U41003:4,U41003:6,g:4,m:6,o:4
a setacl w/a/acl u:6,g:4,o:0
a getacl w/a/acl
a setdefault w/a/acl u:7,g:5,o:5
a setacl w/a/acl u:6,U41002:7,g:4,m:5,o:0
a delacl w/a/acl
a delacl w/a/acl
b setacl w/a/fifo u:7,g:7,o:7
a setacl w/a/fifo u:6,U41002:2,g:0,m:6,o:0
a chmod w/a/s 04777
a open w/a/g c+w 0755 g umask=0
a chown w/a/g -1 42010
a chmod w/a/g 06755
a setacl w/a/g u:7,U41003:7,g:5,m:7,o:5
c open w/a/g w 0 k
a chmod w/a/g 02755
r chown w/a/g -1 42020
a setacl w/a/g u:7,U41003:7,g:5,m:7,o:5
# default ACLs and what is made below
a mkdir w/da 0777 umask=022
a setdefault w/da u:7,U41002:7,g:5,m:7,o:0
a open w/da/f c+w 0666 f umask=077
a open w/da/g c+w 0640 g umask=0
a open w/da/x c+w 0777 x umask=022
a mkdir w/da/d 0777 umask=077
a mkdir w/da/d/e 0750 umask=0
a mknod w/da/fifo 010666 umask=077
a symlink f w/da/l
b open w/da/f w+a 0 +b
b open w/da/new c+w 0666 b
a setacl w/da u:7,U41002:7,g:5,m:7,o:1
b open w/da/new c+w 0666 b umask=077
b mkdir w/da/nd 0700 umask=0
c list w/da
c read w/da/f
a tmpfile w/da 0666 w/da/tmp umask=077
a tmpfile w/da 0600 w/da/tmp2 umask=0
b setdefault w/da u:7,g:7,o:7
b deldefault w/da
a setdefault w/da/d u:7,g:7,o:7
a open w/da/d/f c+w 0666 f umask=077
a mkdir w/da/d/n 0777 umask=077
a deldefault w/da/d
a open w/da/d/h c+w 0666 h umask=027
a deldefault w/da/d
r mkdir w/ds 0777 umask=0
r chown w/ds 41001 42010
a chmod w/ds 02775
a setdefault w/ds u:7,g:7,G42020:5,m:7,o:5
b open w/ds/fb c+w 0664 fb umask=077
b mkdir w/ds/db 0700 umask=077
c open w/ds/fc c+w 0664
b open w/ds/s c+w 02775 s umask=0
b rename w/ds/fb w/da/fb
b link w/ds/s w/da/s
# the tools
a tool setfacl -m u:41003:rw,g:42020:r w/a/f1
c tool getfacl -cn w/a/f1
a tool setfacl -d -m u:41003:rwx w/a/d2
c tool getfacl -cnp w/a/d2
c tool setfacl -m u:41003:rwx w/a/f2
a tool setfacl -b w/a/f1
a tool setfacl -k w/a/d2
# links, renames, unlinks
a link w/a/f1 w/a/hard
b link w/a/f2 w/sg/theirs
a link w/a w/a/dirlink
a symlink f1 w/a/sym
b readlink w/a/sym
b read w/a/sym
a lchown w/a/sym -1 42010
b lchown w/a/sym -1 42010
r lchown w/a/sym 41003 42003
a chmod w/a/sym 0600
a setx w/a/sym user.x 1
c unlink w/a/sym
a rename w/a/sym w/a/d1/sym
a unlink w/a/d1/sym
a rename w/a/hard w/sg/hard
b rename w/sg/hard w/a/back
b rename w/sg/hard w/sg/hard2
a rename w/a/d1 w/sg/d1
b rename w/sg/d1 w/d1
a rename w/sg/d1 w/d1
a mkdir w/a/moved 0755
a utime w/a/moved 1000000000 1100000000
a rename w/a/moved w/sg/moved
a mkdir w/a/back2 0755
a utime w/a/back2 1000000000 1200000000
a rename2 w/sg/moved w/a/back2 2
a rename w/sg/moved w/a/back2
a rmdir w/a/back2
a mkdir w/a/ro 0555
a open w/a/ro/f c+w
a chmod w/a/ro 0755
a mkdir w/a/ro/sub 0555
a rename w/a/ro/sub w/a/sub
a rename2 w/a/f1 w/a/f2 1
a rename2 w/a/f1 w/a/f2 2
b rename2 w/a/f1 w/a/f2 2
b rmdir w/a/sub
a rmdir w/a/sub
a rmdir w/a
# sizes and times
a open w/a/t c+w 0644 0123456789
b truncate w/a/t 3
a truncate w/a/t 3
a truncate w/a/t 5000
a chmod w/a/t 0444
a truncate w/a/t 1
a open w/a/t w
a open w/a/t2 c+x+rw 0 kept
a utime w/a/t 1000000000 1100000000
b utime w/a/t 1 2
b utimenow w/a/t
a chmod w/a/t 0646
c utimenow w/a/t
c utime w/a/t 1 2
a chmod w/a/t 0664
a chown w/a/t -1 42010
b utimenow w/a/t
b utime w/a/t 1 2
# descriptors that outlive a permission
b hold t w/a/t rw
a chmod w/a/t 0600
b hread t
b hwrite t B
b open w/a/t r
b hchmod t 0666
b hchown t -1 42010
b htruncate t 4
a unlink w/a/t
b hread t
b hstat t
b drop t
# access(2), search permission, chdir
a access w/a/f1
b access w/a/f1
r access w/a/f1
r access w/a/f5
a chmod w/a/f5 0100
r access w/a/f5
a chmod w/d1 0644
a chdir w/d1
a stat w/d1/x
a list w/d1
a chmod w/d1 0311
b chdir w/d1
b read w/d1/x
b list w/d1
a chmod w/d1 0300
b chdir w/d1
b read w/d1/x
r chdir w/d1
a open w/a/prog c+w 0755 #!/bin/sh\\nexit\\x207\\n umask=0
b exec w/a/prog
a chmod w/a/prog 0744
b exec w/a/prog
a chmod w/a/prog 0711
b exec w/a/prog
a chmod w/a/prog 0644
r exec w/a/prog
a setacl w/a/prog u:6,U41002:5,g:4,m:5,o:4
b exec w/a/prog
r exec w/a/prog
# extended attributes
a setx w/a/f1 user.x one
b getx w/a/f1 user.x
b setx w/a/f1 user.x two
b delx w/a/f1 user.x
c getx w/a/f2 user.x
a setx w/a/f1 trusted.x one
a setx w/a/f1 security.x one
a setx w/a/fifo user.x one
c setx w/st user.x one
r setx w/st user.x one
a delx w/a/f1 user.x
a delx w/a/f1 user.x
a setx w/a/f1 user. one
a setx w/a/f1 nothing.x one
# unnamed files
b tmpfile w/a 0666
a tmpfile w/a 0600 w/a/unnamed umask=0
b tmpfile w/sg 0660 w/a/unnamed2
b tmpfile w/st 0666 w/st/unnamed umask=027
c read w/st/unnamed
# root has all of it, but no role but its own
r chmod w/a 0700
b stat w/a/f1
r open w/a/r c+w 0600 r
r chown w/a/r 41002 42002
b read w/a/r
a chmod w/a 0755
b read w/a/r
b chmod w/a/r 0644
c read w/a/r
"""


def word_value(word):
    if word == "~":
        return None
    if word.lstrip("-").isdigit() and not word.startswith("0"):
        return int(word)
    if word == "0" or (word.startswith("0") and word.isdigit() and set(word) <= set("01234567")):
        return int(word, 8)
    return word.encode().decode("unicode_escape")


def parse(text):
    """(user, op, arguments, umask) for each line. Data that a file gets stays text."""
    script = []
    for line in text.strip().split("\n"):
        if line.startswith("# "):
            continue
        words, umask = line.split(), 0o022
        if words[-1].startswith("umask="):
            umask = int(words.pop()[6:], 8)
        user, op, args = words[0], words[1], [word_value(word) for word in words[2:]]
        if op == "open" and len(args) == 4:
            args[3] = words[5].encode().decode("unicode_escape")
        if op in ("setx", "hwrite"):
            args[-1] = words[-1]
        script.append((user, op, args, umask))
    return script


def table(rng, count):
    """Random operations in a few directories where permissions of all kinds meet."""
    made = parse("""
r mkdir z 01777 umask=0
a mkdir z/own 0755
b mkdir z/sg 0775 umask=0
b chown z/sg -1 42010
b chmod z/sg 02775
c mkdir z/st 01777 umask=0
a mkdir z/acl 0777 umask=0
a setdefault z/acl u:7,U41003:7,g:5,G42020:6,m:7,o:1
b mkdir z/private 0700
r mkdir z/sgall 02777 umask=0
r chown z/sgall 41001 42020
r chmod z/sgall 02777
""")
    dirs = ["z", "z/own", "z/sg", "z/st", "z/acl", "z/private", "z/sgall"]
    modes = [0o777, 0o755, 0o700, 0o644, 0o640, 0o664, 0o666, 0o600, 0o444, 0o000, 0o4755, 0o2755, 0o6775, 0o1777, 0o2775, 0o1755, 0o2644, 0o4644, 0o604]
    acls = ["u:7,g:5,o:5", "u:6,U41002:6,g:4,m:6,o:0", "u:7,U41003:5,g:7,G42020:7,m:5,o:0", "u:6,U41001:0,U41002:6,g:4,m:7,o:4",
            "u:7,g:0,G42010:7,m:3,o:5", "u:4,g:6,o:7", "u:7,U41003:7,g:7,m:7,o:7"]
    # Not -1 with -1: by a stranger on a set-id file the kernel refuses it for ext4, and answers itself, with 0, for FUSE.
    owners = [(u, g) for u in (-1, A, B, C, 0) for g in (-1, GA, GB, GC, STAFF, GUESTS, 0) if (u, g) != (-1, -1)]

    def path():
        return "%s/%s" % (rng.choice(dirs), rng.choice(["n0", "n1", "n2", "n3", "n4", "d0", "d1", "d0/n0", "d1/n1"]))

    def any_dir():
        return rng.choice(dirs + ["z/sg/d0", "z/acl/d0", "z/st/d1"])

    makers = [
        (10, lambda: ("open", [path(), "c+w", rng.choice(modes), "data"])),
        (4, lambda: ("open", [path(), rng.choice(["r", "w", "rw", "w+t", "w+a", "c+x+w", "r+nf"]), 0o644, ""])),
        (5, lambda: ("open", [path(), "w+a", 0, "more"])),
        (6, lambda: ("mkdir", ["%s/%s" % (rng.choice(dirs), rng.choice(["d0", "d1"])), rng.choice(modes)])),
        (3, lambda: ("read", [path()])),
        (9, lambda: ("chmod", [path(), rng.choice(modes)])),
        (7, lambda: ("chown", [path(), *rng.choice(owners)])),
        (6, lambda: ("setacl", [path(), rng.choice(acls)])),
        (3, lambda: ("setdefault", [any_dir(), rng.choice(acls)])),
        (1, lambda: ("delacl", [path()])),
        (1, lambda: ("deldefault", [any_dir()])),
        (4, lambda: ("link", [path(), path()])),
        (1, lambda: ("symlink", [rng.choice(["n0", "../n1", "d0"]), path()])),
        (6, lambda: ("rename", [path(), path()])),
        (2, lambda: ("rename2", [path(), path(), rng.choice([1, 2])])),
        (3, lambda: ("unlink", [path()])),
        (1, lambda: ("rmdir", [path()])),
        (4, lambda: ("truncate", [path(), rng.choice([0, 3, 9000])])),
        (2, lambda: ("utime", [path(), 1000000000, 1200000000])),
        (2, lambda: ("utimenow", [path()])),
        (4, lambda: ("access", [path()])),
        (2, lambda: ("chdir", [any_dir()])),
        (2, lambda: ("list", [any_dir()])),
        (2, lambda: ("setx", [path(), "user.k", "v"])),
        (2, lambda: ("getx", [path(), "user.k"])),
        (2, lambda: ("mknod", [path(), rng.choice([0o010666, 0o140777, 0o012644])])),
        (3, lambda: ("tmpfile", [any_dir(), rng.choice(modes), path()])),
        (2, lambda: ("hold", ["h%d" % rng.randrange(3), path(), rng.choice(["r", "w", "rw"])])),
        (2, lambda: ("hwrite", ["h%d" % rng.randrange(3), "held"])),
        (1, lambda: ("hchmod", ["h%d" % rng.randrange(3), rng.choice(modes)])),
        (1, lambda: ("drop", ["h%d" % rng.randrange(3)])),
    ]
    weights = [weight for weight, _ in makers]
    for _ in range(count):
        op, args = rng.choices(makers, weights)[0][1]()
        made.append((rng.choices("abcr", [5, 5, 5, 2])[0], op, args, rng.choice([0, 0o022, 0o027, 0o077, 0o002])))
    return made


# ---- running and comparing -------------------------------------------------------------------------------------------

def look(top, path):
    """What a path is, as root sees it."""
    path = os.path.join(top, path)
    try:
        st = os.lstat(path)
    except OSError as e:
        return errno.errorcode[e.errno]
    text = "%06o %d:%d %d" % (st.st_mode, st.st_uid, st.st_gid, st.st_nlink)
    if stat.S_ISREG(st.st_mode) or stat.S_ISLNK(st.st_mode):
        text += " %d" % st.st_size
    if 0 < st.st_mtime < 1300000000 and not stat.S_ISFIFO(st.st_mode):  # set by an operation; writing into a pipe is no write to a file
        text += " @%d" % st.st_mtime
    for name, which in (("acl", ACCESS), ("default", DEFAULT)):
        acl = "" if stat.S_ISLNK(st.st_mode) else acl_of(path, which)
        text += " %s=%s" % (name, acl) if acl else ""
    return text


def lines_of(script, top):
    os.makedirs(top)
    os.chmod(top, 0o755)
    users = {name: User(name, top) for name in USERS}
    out = []
    try:
        for number, (user, op, args, umask) in enumerate(script, 1):
            result = users[user].do(op, args, umask)
            shown = [arg for arg in args if isinstance(arg, str) and arg.startswith(("w/", "z/"))]
            if op in ("hwrite", "hchmod", "hchown", "htruncate"):
                shown = sorted({a[1] for u, o, a, _ in script[:number] if u == user and o == "hold" and a[0] == args[0]})
            words = " ".join("0%o" % arg if isinstance(arg, int) and arg > 7 and op in ("open", "mkdir", "chmod", "mknod", "tmpfile", "hchmod") else repr(arg)
                             for arg in args)
            out.append("%d %s umask %03o: %s %s -> %s | %s" % (number, user, umask, op, words, result, " | ".join(look(top, p) for p in shown)))
    finally:
        for user in users.values():
            user.done()
    return out


def everything(top):
    """The whole tree, once all is done."""
    out = []
    for base, folders, names in os.walk(top):
        folders.sort()
        for name in sorted(folders + names):
            path = os.path.relpath(os.path.join(base, name), top)
            out.append("%s: %s" % (path, look(top, path)))
    return out


def differences(plain, mounted, what):
    wrong = ["  ext4:   %s\n  keepfs: %s" % pair for pair in zip(plain, mounted) if pair[0] != pair[1]]
    if len(plain) != len(mounted):
        wrong.append("  %d lines and %d" % (len(plain), len(mounted)))
    check(not wrong, "%s: %d of %d lines differ\n%s" % (what, len(wrong), len(plain), "\n".join(wrong[:40])))


def fstype(path):
    return run(["stat", "-f", "-c", "%T", path])[1].strip()


def ext4_place(t):
    """A directory of ext4: where tests work anyway, or an image mounted there."""
    if fstype(t.dir) == "ext2/ext3":
        try:
            os.setxattr(t.dir, ACCESS, acl_bytes("u:7,U41001:1,g:5,m:5,o:5"))
            os.removexattr(t.dir, ACCESS)
            return t.dir
        except OSError:
            pass
    image, place = t.dir + "/image", t.dir + "/ext4"
    if not shutil.which("mkfs.ext4"):
        skip("%s is no ext4 with ACLs, and there is no mkfs.ext4 to make one" % t.dir)
    run(["truncate", "-s", "200M", image])
    run(["mkfs.ext4", "-q", "-F", image])
    os.mkdir(place)
    if run(["mount", "-o", "loop,acl", image, place], ok=None)[0] != 0:
        skip("%s is no ext4 with ACLs, and no image can be mounted here" % t.dir)
    atexit.register(run, ["umount", "-l", place], None)
    return place


def users_test():
    parser = argparse.ArgumentParser()
    parser.add_argument("--random", type=int, default=600)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--print", action="store_true")
    parser.add_argument("--plain", action="store_true")
    args = parser.parse_args()
    if os.getuid() != 0:
        skip("only root can be three users")
    need_fuse()
    script = parse(SCRIPT) + table(random.Random(args.seed), args.random)
    t = Vault()
    os.chmod(t.dir, 0o755)
    place = ext4_place(t)
    plain = lines_of(script, place + "/plain")
    if args.plain:
        mounted, after = lines_of(script, place + "/plain2"), None
    else:
        t.init()
        t.mount(options="allow_other")
        os.chmod(t.mnt, 0o755)
        t.keepctl("role", "assign", "everyone", "Writer")
        mounted = lines_of(script, t.mnt + "/tree")
        before = everything(t.mnt + "/tree")
        t.unmount()
        t.mount(options="allow_other")
        after = everything(t.mnt + "/tree")
        t.unmount()
    if args.print:
        print("\n".join(plain))
    users = {user: sum(1 for u, _, _, _ in script if u == user) for user in USERS}
    refused = sum(1 for line in plain if any("-> %s |" % code in line for code in ("EACCES", "EPERM")))
    print("%d operations (%s), %d of them refused with EACCES or EPERM" % (len(script), users, refused))
    differences(plain, mounted, "the script")
    if after is not None:
        differences(everything(place + "/plain"), before, "the tree at the end")
        differences(before, after, "the tree after a new mount")
        check(t.sanitizer_report() is None, "%s" % t.sanitizer_report())


if __name__ == "__main__":
    main(users_test)
