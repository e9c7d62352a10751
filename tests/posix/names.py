#!/usr/bin/python3
"""Eight processes work on names in the same directories at once; then a remount, a walk and fsck.

Every process has entries of its own in shared directories, which it knows exactly: each operation on them must do what it must, with
the right errno. All also fight over a few names in one directory, where any outcome is fine that has a reason; a file seen there must hold
what its maker wrote. --seconds 60 is the full size. KEEPFS may name a build with sanitizers.
"""
import argparse
import ctypes
import errno
import os
import pickle
import random
import shutil
import stat
import sys
import time
import traceback

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import keepfs_testlib as t

NOREPLACE, EXCHANGE = 1, 2
SHARED = ("s0", "s1", "s2")
FOUGHT = "fought"
libc = ctypes.CDLL(None, use_errno=True)


def renameat2(old, new, flags):
    if libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), old)


def link_open(fd, new):
    """A name for an open file that has none."""
    if libc.linkat(-100, b"/proc/self/fd/%d" % fd, -100, os.fsencode(new), 0x400) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), new)


class Object:
    """A file, directory or symlink of one process. Hard links share it."""

    def __init__(self, kind, content=b"", mode=0o644):
        self.kind, self.content, self.mode, self.xattrs, self.mtime = kind, content, mode, {}, None


class Worker:
    """One process: `tree` is what it has, {path below the mount: Object}."""

    def __init__(self, root, number, seed):
        self.root, self.number, self.rng = root, number, random.Random(seed)
        self.tree, self.open, self.made, self.counts = {}, [], 0, {}
        self.tmpfile = True

    # -- helpers --------------------------------------------------------------------------------------------------

    def at(self, path):
        return os.path.join(self.root, path)

    def pick(self, *kinds):
        found = [p for p, o in self.tree.items() if o.kind in kinds]
        return self.rng.choice(found) if found else None

    def dirs(self):
        return list(SHARED) + [p for p, o in self.tree.items() if o.kind == "dir"]

    def name(self):
        self.made += 1
        tail = self.rng.choice(["", "", " größe", "l" * self.rng.randint(160, 240)])
        return ("p%d_%d" % (self.number, self.made) + tail)[:250]

    def new_path(self):
        parents = [d for d in self.dirs() if d.count("/") < 4]
        return os.path.join(self.rng.choice(parents), self.name())

    def fails(self, errors, what, function, *args):
        try:
            function(*args)
        except OSError as error:
            t.check(error.errno in errors, "%s: %s, expected %s" % (what, error, [errno.errorcode[e] for e in errors]))
            return
        raise t.Failure("%s: worked, expected %s" % (what, [errno.errorcode[e] for e in errors]))

    def names_of(self, obj):
        return [p for p, o in self.tree.items() if o is obj]

    def below(self, directory):
        return [p for p in self.tree if p.startswith(directory + "/")]

    def moved(self, old, new):
        """The tree after the entry old became new."""
        changes = {p: new + p[len(old):] for p in [old] + self.below(old)}
        objects = {changes[p]: self.tree.pop(p) for p in changes}
        self.tree.update(objects)

    def data(self):
        size = self.rng.choice([0, 1, 100, 4096, 5000, self.rng.randint(1, 20000), self.rng.randint(1, 120000)])
        return self.rng.randbytes(size)

    # -- own entries ----------------------------------------------------------------------------------------------

    def create(self):
        path, data = self.new_path(), self.data()
        fd = os.open(self.at(path), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        os.write(fd, data)
        if self.rng.random() < 0.1:
            os.fsync(fd)
        os.close(fd)
        self.tree[path] = Object("file", data)
        self.fails((errno.EEXIST,), "create " + path, os.open, self.at(path), os.O_CREAT | os.O_EXCL | os.O_WRONLY)

    def change(self):
        path = self.pick("file")
        if not path:
            return
        obj, data = self.tree[path], self.data()[:5000]
        at = self.rng.randint(0, len(obj.content))
        fd = os.open(self.at(path), os.O_RDWR)
        os.pwrite(fd, data, at)
        obj.content = obj.content[:at] + data + obj.content[at + len(data):]
        if self.rng.random() < 0.3:
            size = self.rng.randint(0, len(obj.content))
            os.ftruncate(fd, size)
            obj.content = obj.content[:size]
        if self.rng.random() < 0.3:  # it moves while it is open
            new = self.new_path()
            os.rename(self.at(path), self.at(new))
            self.moved(path, new)
            os.pwrite(fd, b"moved", len(obj.content))
            obj.content += b"moved"
        os.close(fd)
        obj.mtime = None

    def look(self):
        path = self.pick("file", "link", "dir")
        if path:
            self.verify(path)

    def verify(self, path):
        obj, st = self.tree[path], os.lstat(self.at(path))
        if obj.kind == "link":
            t.check(os.readlink(self.at(path)) == obj.content, "%s: another link target" % path)
            return
        t.check(stat.S_ISDIR(st.st_mode) == (obj.kind == "dir"), "%s: mode %o" % (path, st.st_mode))
        t.check(stat.S_IMODE(st.st_mode) == obj.mode, "%s: mode %o, expected %o" % (path, stat.S_IMODE(st.st_mode), obj.mode))
        found = {n: os.getxattr(self.at(path), n) for n in os.listxattr(self.at(path)) if n.startswith("user.")}
        t.check(found == obj.xattrs, "%s: xattrs %r, expected %r" % (path, found, obj.xattrs))
        t.check(obj.mtime in (None, st.st_mtime_ns), "%s: mtime %d, expected %s" % (path, st.st_mtime_ns, obj.mtime))
        if obj.kind == "file":
            links = len(self.names_of(obj))
            t.check(st.st_nlink == links, "%s: %d links, expected %d" % (path, st.st_nlink, links))
            t.check(st.st_size == len(obj.content), "%s: size %d, expected %d" % (path, st.st_size, len(obj.content)))
            with open(self.at(path), "rb") as f:
                t.check(f.read() == obj.content, "%s: other content than written" % path)

    def mkdir(self):
        path = self.new_path()
        os.mkdir(self.at(path), 0o755)
        self.tree[path] = Object("dir", mode=0o755)
        self.fails((errno.EEXIST,), "mkdir " + path, os.mkdir, self.at(path))

    def symlink(self):
        path, target = self.new_path(), self.rng.choice(["x", "../s0/" + self.name(), "t" * self.rng.randint(1, 1500)])
        os.symlink(target, self.at(path))
        self.tree[path] = Object("link", target)

    def link(self):
        path = self.pick("file")
        if path:
            new = self.new_path()
            os.link(self.at(path), self.at(new))
            self.tree[new] = self.tree[path]
            self.fails((errno.EEXIST,), "link", os.link, self.at(path), self.at(new))

    def unlink(self):
        path = self.pick("file", "link")
        if not path:
            return
        os.unlink(self.at(path))
        del self.tree[path]
        self.fails((errno.ENOENT,), "stat of removed " + path, os.lstat, self.at(path))
        self.fails((errno.ENOENT,), "unlink again of " + path, os.unlink, self.at(path))

    def rmdir(self):
        path = self.pick("dir")
        if path and self.below(path):
            self.fails((errno.ENOTEMPTY, errno.EEXIST), "rmdir " + path, os.rmdir, self.at(path))
        elif path:
            os.rmdir(self.at(path))
            del self.tree[path]
            self.fails((errno.ENOENT,), "stat of removed " + path, os.lstat, self.at(path))

    def rename(self):
        path, new = self.pick("file", "link", "dir"), self.new_path()
        if not path:
            return
        if new.startswith(path + "/"):
            self.fails((errno.EINVAL,), "rename of %s into itself" % path, os.rename, self.at(path), self.at(new))
            return
        if self.rng.random() < 0.3:
            self.fails((errno.ENOENT,), "exchange with nothing", renameat2, self.at(path), self.at(new), EXCHANGE)
        if self.rng.random() < 0.5:
            renameat2(self.at(path), self.at(new), NOREPLACE)
        else:
            os.rename(self.at(path), self.at(new))
        self.moved(path, new)
        self.fails((errno.ENOENT,), "stat of renamed " + path, os.lstat, self.at(path))
        self.verify(new)

    def pair(self):
        path, other = self.pick("file", "link", "dir"), self.pick("file", "link", "dir")
        if not path or path == other or path.startswith(other + "/") or other.startswith(path + "/"):
            return None, None
        return path, other

    def replace(self):
        path, other = self.pair()
        if not path:
            return
        what = "rename of %s over %s" % (path, other)
        if self.tree[path] is self.tree[other]:
            os.rename(self.at(path), self.at(other))  # two links of one file: nothing happens
            return
        self.fails((errno.EEXIST,), what, renameat2, self.at(path), self.at(other), NOREPLACE)
        one, two = self.tree[path].kind == "dir", self.tree[other].kind == "dir"
        if one != two:
            self.fails((errno.EISDIR if two else errno.ENOTDIR,), what, os.rename, self.at(path), self.at(other))
        elif two and self.below(other):
            self.fails((errno.ENOTEMPTY, errno.EEXIST), what, os.rename, self.at(path), self.at(other))
        else:
            os.rename(self.at(path), self.at(other))
            del self.tree[other]
            self.moved(path, other)
            self.verify(other)

    def exchange(self):
        path, other = self.pair()
        if not path:
            return
        renameat2(self.at(path), self.at(other), EXCHANGE)
        if self.tree[path] is not self.tree[other]:
            self.moved(path, "aside")
            self.moved(other, path)
            self.moved("aside", other)
        self.verify(path)
        self.verify(other)

    def xattr(self):
        path = self.pick("file", "dir")
        if not path:
            return
        obj, name = self.tree[path], "user." + self.rng.choice(["a", "b", "colour", "größe"])
        if name in obj.xattrs and self.rng.random() < 0.4:
            os.removexattr(self.at(path), name)
            del obj.xattrs[name]
        else:
            obj.xattrs[name] = self.rng.randbytes(self.rng.choice([0, 5, 300]))
            os.setxattr(self.at(path), name, obj.xattrs[name])

    def attributes(self):
        path = self.pick("file", "dir")
        if not path:
            return
        obj = self.tree[path]
        obj.mode = self.rng.choice([0o600, 0o644, 0o640]) if obj.kind == "file" else self.rng.choice([0o700, 0o755])
        os.chmod(self.at(path), obj.mode)
        if obj.kind == "file":
            obj.mtime = 10**18 + self.rng.randrange(10**17)
            os.utime(self.at(path), ns=(obj.mtime, obj.mtime))

    def listing(self):
        """Every own name exactly once, whatever others do in the directory meanwhile."""
        directory = self.rng.choice(self.dirs())
        names = os.listdir(self.at(directory))
        mine = sorted(n for n in names if n.startswith("p%d_" % self.number))
        must = sorted(os.path.basename(p) for p in self.tree if os.path.dirname(p) == directory)
        t.check(mine == must, "listing of %s: missing %r, too much %r, of %d" % (
            directory, sorted(set(must) - set(mine))[:3], (sorted(set(mine) - set(must)) or [n for n in mine if mine.count(n) > 1])[:3], len(names)))

    def unlinked(self):
        """Files that are open and have no name: made, changed and read, closed some operations later."""
        if len(self.open) > 3:
            fd, content = self.open.pop(self.rng.randrange(len(self.open)))
            t.check(os.pread(fd, len(content) + 1, 0) == content, "content of a file without a name")
            t.check(os.fstat(fd).st_nlink == 0, "links of a file without a name")
            os.close(fd)
            return
        content = self.data()[:30000]
        fd = None
        if self.tmpfile and self.rng.random() < 0.5:
            try:
                fd = os.open(self.at(self.rng.choice(self.dirs())), os.O_TMPFILE | os.O_RDWR, 0o644)
            except OSError as error:
                t.check(error.errno == errno.EOPNOTSUPP, "O_TMPFILE: %s" % error)
                self.tmpfile = False
        if fd is None:
            path = self.new_path()
            fd = os.open(self.at(path), os.O_CREAT | os.O_RDWR | os.O_EXCL, 0o644)
            if self.rng.random() < 0.5:
                os.unlink(self.at(path))
                os.write(fd, content)
            else:
                os.write(fd, content)
                os.unlink(self.at(path))
        else:
            os.write(fd, content)
            if self.rng.random() < 0.5:
                path = self.new_path()
                link_open(fd, self.at(path))
                self.tree[path] = Object("file", content)
                os.close(fd)
                self.verify(path)
                return
        if self.rng.random() < 0.3:
            os.fsync(fd)
        self.open.append((fd, content))

    # -- names that all fight over --------------------------------------------------------------------------------

    def fought(self):
        names = ["n%d" % i for i in range(8)] + ["m%d" % i + "m" * 200 for i in range(3)]
        depth = self.rng.choice([1, 1, 1, 2, 2, 3])
        return os.path.join(self.root, FOUGHT, *[self.rng.choice(names) for _ in range(depth)])

    def expect(self, errors, function, *args, **kw):
        """Any of these errors is fine, beside those that a path can always give. True when it worked."""
        usual = ("ENOENT", "ENOTDIR", "ELOOP", "ENAMETOOLONG")
        try:
            function(*args, **kw)
            return True
        except OSError as error:
            t.check(errno.errorcode[error.errno] in usual + errors, "%s %r: %s" % (getattr(function, "__name__", "?"), args, error))
            return False

    def put_whole(self, path, flags):
        body = random.Random(self.made).randbytes(self.rng.choice([0, 10, 5000, 70000]))
        head = b"%d %d %d\n" % (self.number, self.made, len(body))
        self.made += 1
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | flags, 0o644)
        os.write(fd, head + body)
        os.close(fd)

    def read_whole(self, path):
        """A file's content is a beginning of what its maker wrote."""
        fd = os.open(path, os.O_RDONLY)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return
            content = b""
            while True:
                part = os.read(fd, 1 << 17)
                if not part:
                    break
                content += part
        finally:
            os.close(fd)
        if b"\n" in content[:40]:
            head, body = content.split(b"\n", 1)
            _, made, size = (int(x) for x in head.split())
            t.check(len(body) <= size and random.Random(made).randbytes(size)[:len(body)] == body, "%s: not what its maker wrote" % path)
        else:
            t.check(len(content) < 40, "%s: not what its maker wrote" % path)

    def replaced_whole(self, path):
        temp = os.path.join(self.root, FOUGHT, self.name())
        self.put_whole(temp, 0)
        if not self.expect(("EISDIR", "ENOTEMPTY", "EEXIST"), os.rename, temp, path):
            os.unlink(temp)

    def fight(self):
        path, other = self.fought(), self.fought()
        what = self.rng.randrange(14)
        if what == 0:
            self.expect(("EEXIST",), self.put_whole, path, 0)
        elif what == 1:
            self.replaced_whole(path)
        elif what in (2, 3):
            self.expect(("EEXIST",), os.mkdir, path)
        elif what == 4:
            self.expect(("EISDIR", "ENOTEMPTY", "EEXIST", "EINVAL"), os.rename, path, other)
        elif what == 5:
            self.expect(("EEXIST", "EINVAL", "ENOTEMPTY"), renameat2, path, other, NOREPLACE)
        elif what == 6:
            self.expect(("EINVAL", "ENOTEMPTY"), renameat2, path, other, EXCHANGE)
        elif what == 7:
            self.expect(("EEXIST", "EPERM"), os.link, path, other, follow_symlinks=False)
        elif what == 8:
            self.expect(("EEXIST",), os.symlink, self.rng.choice(["n1", "../n2", ".", "n3/n4"]), path)
        elif what == 9:
            self.expect(("EISDIR", "EPERM"), os.unlink, path)
        elif what == 10:
            self.expect(("ENOTEMPTY", "EEXIST", "EBUSY"), os.rmdir, path)
        elif what == 11:
            self.expect((), self.read_whole, path)
        elif what == 12:
            self.expect((), os.listdir, path)
        else:
            self.expect(("ENODATA", "EEXIST"), self.rng.choice([os.stat, os.lstat, os.listxattr]), path)
            self.expect((), os.setxattr, path, "user.n", b"v%d" % self.number)

    OPERATIONS = ((fight, 40), (create, 10), (change, 12), (look, 15), (mkdir, 6), (symlink, 3), (link, 4), (unlink, 10), (rmdir, 4), (rename, 14),
                  (replace, 6), (exchange, 6), (xattr, 6), (attributes, 5), (listing, 4), (unlinked, 6))

    def run(self, until):
        operations, weights = zip(*self.OPERATIONS)
        while time.time() < until:
            operation = self.rng.choices(operations, weights)[0]
            if len(self.tree) > 80:
                operation = self.rng.choice([type(self).unlink, type(self).rmdir, operation])
            operation(self)
            self.counts[operation.__name__] = self.counts.get(operation.__name__, 0) + 1
        for path in self.tree:
            self.verify(path)
        for fd, content in self.open:
            t.check(os.pread(fd, len(content) + 1, 0) == content, "content of a file without a name")
            os.close(fd)


def walk(root):
    """{path: all that a walk can see}"""
    seen = {}

    def fail(error):
        raise t.Failure("cannot list %s: %s" % (error.filename, error.strerror))
    for base, dirs, names in os.walk(root, onerror=fail):
        for name in dirs + names:
            path = os.path.join(base, name)
            st = os.lstat(path)
            what = [stat.S_IFMT(st.st_mode), stat.S_IMODE(st.st_mode)]
            if stat.S_ISLNK(st.st_mode):
                what.append(os.readlink(path))
            else:
                what.append(sorted((n, os.getxattr(path, n)) for n in os.listxattr(path)))
            if stat.S_ISREG(st.st_mode):
                what += [st.st_size, st.st_nlink, st.st_mtime_ns, t.digest(path)]
            seen[os.path.relpath(path, root)] = what
    return seen


def start(root, number, seed, until, report):
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        worker = Worker(root, number, seed)
        try:
            worker.run(until)
            code = 0
        except t.Failure as failure:
            print("process %d: %s" % (number, failure), flush=True)
        except BaseException:
            print("process %d:\n%s" % (number, traceback.format_exc()), flush=True)
        with open(report, "wb") as f:
            pickle.dump((worker.counts, {p: o.kind for p, o in worker.tree.items()}, worker.tmpfile), f)
    finally:
        os._exit(code)


def together(v, args):
    """All processes; returns {path: kind} of what they own at the end."""
    until, pids, counts, own, tmpfile = time.time() + args.seconds, [], {}, {}, True
    for number in range(args.processes):
        pids.append(start(v.mnt, number, args.seed * 100 + number, until, os.path.join(v.dir, "report%d" % number)))
    bad = [number for number, pid in enumerate(pids) if os.waitpid(pid, 0)[1] != 0]
    t.check(not bad, "processes %s of seed %d failed; the service said:\n%s" % (bad, args.seed, v.log_tail()))
    for number in range(args.processes):
        with open(os.path.join(v.dir, "report%d" % number), "rb") as f:
            done, tree, can = pickle.load(f)
        own.update(tree)
        tmpfile = tmpfile and can
        for name, count in done.items():
            counts[name] = counts.get(name, 0) + count
    print("%d operations by %d processes%s: %s" % (sum(counts.values()), args.processes, "" if tmpfile else " (no O_TMPFILE)",
          ", ".join("%s %d" % x for x in sorted(counts.items()))), flush=True)
    return own


def check_own(seen, own):
    found = {p for p in seen if p.split("/")[0] in SHARED and p not in SHARED}
    t.check(found == set(own), "after all: missing %r, too much %r" % (sorted(set(own) - found)[:5], sorted(found - set(own))[:5]))
    for path, kind in own.items():
        t.check(seen[path][0] == {"file": stat.S_IFREG, "dir": stat.S_IFDIR, "link": stat.S_IFLNK}[kind], "%s is not a %s" % (path, kind))


def check_vault(v):
    code, out, err = v.keepctl("--json", "fsck", v.vault, ok=None)
    t.check(code == 0, "fsck: exit %d\n%s%s" % (code, out[-3000:], err[-3000:]))
    last = t.json_lines(out)[-1]
    t.check(last["problems"] == 0 and last["files"] > 0, "fsck: %s" % last)
    print("fsck: %d files, %d directories, no problem" % (last["files"], last["directories"]), flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--seconds", type=float, default=6)
    p.add_argument("--rounds", type=int, default=2, help="rounds, each with a remount and a walk")
    p.add_argument("--processes", type=int, default=8)
    p.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(24))
    p.add_argument("--options", help="mount options")
    p.add_argument("--base", help="directory for the vault")
    args = p.parse_args()
    print("seed %d" % args.seed, flush=True)
    t.need_fuse()
    v = t.Vault(base=args.base)
    v.init()
    v.env.setdefault("UBSAN_OPTIONS", "print_stacktrace=1")
    v.mount(args.options)
    for number in range(args.rounds):
        for name in SHARED + (FOUGHT,):
            os.mkdir(os.path.join(v.mnt, name))
        own = together(v, args)
        before = walk(v.mnt)
        check_own(before, own)
        v.unmount()
        v.mount(args.options)
        t.compare(before, walk(v.mnt), "after the remount")
        v.unmount()
        check_vault(v)
        v.mount(args.options)
        for name in os.listdir(v.mnt):
            shutil.rmtree(os.path.join(v.mnt, name))
        args.seed += 1
    v.unmount()
    left = [n for n in os.listdir(v.vault) if not n.startswith("keepfs.")]
    t.check(not left, "an emptied vault still holds %s" % left[:5])
    report = v.sanitizer_report()
    t.check(report is None, "a sanitizer said:\n%s" % report)


t.main(main)
