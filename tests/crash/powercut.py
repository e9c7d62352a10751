#!/usr/bin/python3
"""Power is cut at any moment, and what the disk holds is mounted again; what was synced must be there.

Programs work in a mount (create, append, overwrite, truncate, punch, rename, fsync, mkdir ...) while record.c writes down each change
that the service makes to the vault and to the keystore. From that log disks are made as a power cut can leave them (replay.py
says which). Each is mounted in a new boot and looked at:

- every directory can be listed, and holds what some moment not before the last sync had;
- what was synced reads as it was, or as it was written later. Without crash=strict a synced block that was overwritten, but not
  synced again, may be unreadable; what is appended never endangers what is there;
- of every fifth disk the power is cut again while it is recovered, or after that;
- a file that was never synced may be lost, but reads nothing wrong;
- the audit trail verifies, and fsck has nothing to say after its repair.

--states 1000 is the full size, --strict mounts with crash=strict. --seed repeats a run's choices (not the scheduler's).
"""
import argparse
import ctypes
import errno
import json
import os
import random
import shutil
import subprocess
import sys
import time
import uuid

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import keepfs_testlib as t
import replay

BLOCK = 4096
CAP = 140 * 1024
NAMES = "abcdefgh"
libc = ctypes.CDLL(None, use_errno=True)


def pattern(salt, off, size):
    """Bytes that tell where they belong; never zero."""
    unit = bytes((salt * 131 + i * 17) % 251 + 1 for i in range(253))
    at = off % 253
    return (unit * (size // 253 + 2))[at:at + size]


# -- the programs: each in a directory of its own ----------------------------------------------------------------------

class Worker:
    """One program. Everything that it does is noted with the length of the record log before and after."""

    def __init__(self, root, log, notes, seed, first_id):
        self.root, self.log, self.rng = root, log, random.Random(seed)
        self.notes = open(notes, "a")
        self.files, self.dirs, self.links = {}, [""], ()   # files: path: [id, size, fd or None]
        self.next_id = first_id

    def now(self):
        return os.stat(self.log).st_size

    def note(self, kind, start, **more):
        self.notes.write(json.dumps(dict(more, k=kind, s=start, e=self.now())) + "\n")
        self.notes.flush()

    def load(self, notes):
        """Go on where an earlier program of this directory ended."""
        names = Names()
        for n in notes:
            names.apply(n)
            self.next_id = max(self.next_id, n.get("id", 0) + 1)
        for path, what in names.now.items():
            if what[0] == "file":
                self.files[path] = [what[1], os.stat(self.path(path)).st_size, None]
            elif what[0] == "dir":
                self.dirs.append(path)
            else:
                self.links += (path,)

    def path(self, path):
        return os.path.join(self.root, path) if path else self.root

    def new_name(self, stem=""):
        d = self.rng.choice(self.dirs)
        name = stem + self.rng.choice(NAMES) + str(self.rng.randrange(30))
        if self.rng.random() < 0.08:
            name += "n" * 190
        path = os.path.join(d, name)
        return None if path in self.files or path in self.dirs or path in self.links else path

    def fd(self, f, path):
        if f[2] is None:
            f[2] = os.open(self.path(path), os.O_RDWR)
            held = [x for x in self.files.values() if x[2] is not None and x is not f]
            if len(held) > 3:
                self.close(self.rng.choice(held))
        return f[2]

    def close(self, f):
        if f[2] is not None:
            fd, f[2] = f[2], None
            os.close(fd)

    def write(self, f, path, off, size):
        salt = self.rng.randrange(1 << 20)
        start = self.now()
        os.pwrite(self.fd(f, path), pattern(salt, off, size), off)
        f[1] = max(f[1], off + size)
        self.note("W", start, id=f[0], off=off, len=size, salt=salt)

    def size(self):
        rng = self.rng
        return rng.choice((1 + rng.randrange(200), 1 + rng.randrange(5000), 1 + rng.randrange(5000), BLOCK, 1 + rng.randrange(30000)))

    def do_append(self, f, path):
        self.write(f, path, f[1], self.size())

    def do_overwrite(self, f, path):
        off = self.rng.randrange(f[1] + 1)
        if self.rng.random() < 0.5:
            off -= off % BLOCK
        self.write(f, path, off, min(self.size(), 9000))

    def do_sync(self, f, path):
        fd, full, start = self.fd(f, path), self.rng.random() < 0.6, self.now()
        (os.fsync if full else os.fdatasync)(fd)
        self.note("S", start, id=f[0], full=full)

    def do_flush(self, f, path):
        """What the kernel does by itself after some seconds."""
        libc.sync_file_range(self.fd(f, path), ctypes.c_long(0), ctypes.c_long(0), 7)

    def do_truncate(self, f, path):
        z = self.rng.choice((0, self.rng.randrange(f[1] + 1), self.rng.randrange(f[1] + 1), f[1] + self.rng.randrange(20000)))
        start = self.now()
        os.ftruncate(self.fd(f, path), z)
        f[1] = z
        self.note("T", start, id=f[0], off=z)

    def do_punch(self, f, path):
        off, size, start = self.rng.randrange(f[1] + 1), 1 + self.rng.randrange(20000), self.now()
        if libc.fallocate(self.fd(f, path), 3, ctypes.c_long(off), ctypes.c_long(size)) != 0:
            raise OSError(ctypes.get_errno(), "fallocate")
        self.note("P", start, id=f[0], off=off, len=size)

    def do_close(self, f, path):
        self.close(f)

    def create(self, path):
        start = self.now()
        fd = os.open(self.path(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        f = self.files[path] = [self.next_id, 0, fd]
        self.next_id += 1
        self.note("create", start, path=path, id=f[0])
        return f

    def do_create(self):
        path = self.new_name()
        if path and len(self.files) < 12:
            f = self.create(path)
            if self.rng.random() < 0.8:
                self.write(f, path, 0, self.size())
            if self.rng.random() < 0.5:
                self.do_sync(f, path)

    def rename(self, a, b):
        start = self.now()
        os.rename(self.path(a), self.path(b))
        old = self.files.pop(b, None)
        if old:
            self.close(old)
        self.files[b] = self.files.pop(a)
        self.note("rename", start, a=a, b=b)

    def do_replace(self):
        """The way editors save."""
        if not self.files:
            return
        path, tmp = self.rng.choice(sorted(self.files)), self.new_name("t")
        if tmp:
            f = self.create(tmp)
            self.write(f, tmp, 0, self.size())
            self.do_sync(f, tmp)
            self.rename(tmp, path)
            if self.rng.random() < 0.5:
                self.sync_dir(os.path.dirname(path))

    def do_rename(self):
        b = self.new_name()
        if self.files and b:
            self.rename(self.rng.choice(sorted(self.files)), b)

    def do_unlink(self):
        if len(self.files) > 4:
            path = self.rng.choice(sorted(self.files))
            start = self.now()
            os.unlink(self.path(path))
            self.close(self.files.pop(path))
            self.note("unlink", start, path=path)

    def do_symlink(self):
        path = self.new_name("l")
        if path and len(self.links) < 4:
            start = self.now()
            os.symlink("to/" + path, self.path(path))
            self.links = self.links + (path,)
            self.note("symlink", start, path=path, target="to/" + path)

    def do_mkdir(self):
        for _ in range(self.rng.choice((1, 1, 3))):
            path = self.new_name("d")
            if path and len(self.dirs) < 8:
                start = self.now()
                os.mkdir(self.path(path))
                self.dirs.append(path)
                self.note("mkdir", start, path=path)
                if self.rng.random() < 0.5:
                    self.sync_dir(os.path.dirname(path))

    def do_move_dir(self):
        a, b = self.rng.choice(self.dirs), self.new_name("d")
        if not a or not b or b.startswith(a + "/"):
            return
        start = self.now()
        os.rename(self.path(a), self.path(b))

        def moved(path):
            return b + path[len(a):] if path == a or path.startswith(a + "/") else path
        self.dirs = [moved(d) for d in self.dirs]
        self.files = {moved(k): v for k, v in self.files.items()}
        self.links = tuple(moved(k) for k in self.links)
        self.note("rename", start, a=a, b=b)

    def do_rmdir(self):
        for d in self.dirs[1:]:
            if not any(p.startswith(d + "/") for p in list(self.files) + self.dirs + list(self.links)):
                start = self.now()
                os.rmdir(self.path(d))
                self.dirs.remove(d)
                self.note("rmdir", start, path=d)
                return

    def sync_dir(self, path):
        fd = os.open(self.path(path), os.O_RDONLY | os.O_DIRECTORY)
        start = self.now()
        os.fsync(fd)
        self.note("D", start, path=path)
        os.close(fd)

    def do_sync_dir(self):
        self.sync_dir(self.rng.choice(self.dirs))

    def do_wait(self):
        """So long that idle files are sealed."""
        if self.waits:
            self.waits -= 1
            time.sleep(3.2)

    def run(self, operations):
        self.waits = 1
        of_file = {"append": 30, "overwrite": 16, "sync": 24, "flush": 14, "truncate": 5, "punch": 3, "close": 10}
        of_names = {"create": 14, "replace": 8, "rename": 4, "unlink": 3, "symlink": 1, "mkdir": 4, "move_dir": 3, "rmdir": 2, "sync_dir": 8, "wait": 1}
        for _ in range(operations):
            if self.files and self.rng.random() < 0.7:
                path = self.rng.choice(sorted(self.files))
                f = self.files[path]
                kind = self.rng.choices(list(of_file), of_file.values())[0]
                if f[1] < CAP or kind in ("sync", "close", "truncate"):
                    getattr(self, "do_" + kind)(f, path)
            else:
                getattr(self, "do_" + self.rng.choices(list(of_names), of_names.values())[0])()
        for f in self.files.values():
            self.close(f)


def read_notes(path):
    try:
        with open(path) as f:
            return [json.loads(line) for line in f]
    except FileNotFoundError:
        return []


def work(argv):
    root, log, notes, seed, operations = argv
    w = Worker(root, log, notes, int(seed), 1)
    w.load(read_notes(notes))
    w.run(int(operations))


# -- the judge ---------------------------------------------------------------------------------------------------------

class Names:
    """The names of one program's directory: {path: ("file", id), ("dir",) or ("link", target)}."""

    KINDS = ("create", "rename", "unlink", "symlink", "mkdir", "rmdir")

    def __init__(self):
        self.now = {}

    def apply(self, n):
        kind = n["k"]
        if kind == "create":
            self.now[n["path"]] = ("file", n["id"])
        elif kind == "mkdir":
            self.now[n["path"]] = ("dir",)
        elif kind == "symlink":
            self.now[n["path"]] = ("link", n["target"])
        elif kind in ("unlink", "rmdir"):
            del self.now[n["path"]]
        elif kind == "rename":
            a, b = n["a"], n["b"]
            self.now = {(b + p[len(a):] if p == a or p.startswith(a + "/") else p): what for p, what in self.now.items() if p != b}


def durable_names(notes, cut):
    """How many of the changes of names must be there, and how many can be."""
    made, least = 0, 0
    last_of = {}  # directory: number of its last change
    ids = {}      # file: number of its creation: an fsync of a file makes the name durable that it was made with
    for n in notes:
        if n["s"] >= cut:
            break
        if n["k"] in Names.KINDS:
            made += 1
            for p in (n.get("path"), n.get("a"), n.get("b")):
                if p is not None:
                    last_of[os.path.dirname(p)] = made
            if n["k"] == "create":
                ids[n["id"]] = made
        elif n["k"] == "D" and n["e"] <= cut:
            least = max(least, last_of.get(n["path"], 0))
        elif n["k"] == "S" and n["full"] and n["e"] <= cut:
            least = max(least, ids.get(n["id"], 0))
    return least, made


class File:
    """What a file may hold after a cut: its content at the last sync, and what each later operation made of it."""

    def __init__(self, notes, number, cut):
        ops = [n for n in notes if n.get("id") == number and n["s"] < cut and n["k"] in "WTPS"]
        last = max((i for i, n in enumerate(ops) if n["k"] == "S" and n["e"] <= cut), default=-1)
        self.synced = last >= 0
        content = bytearray()
        for n in ops[:last + 1]:
            self.apply(content, n)
        self.base = bytes(content)
        self.versions = [self.base]
        self.kinds = []      # per later version: (first byte, end, does it only add?, does it take all of that away?)
        for n in ops[last + 1:]:
            if n["k"] == "S":
                continue
            before = len(content)
            self.apply(content, n)
            if n["k"] == "W":
                span = (min(n["off"], before), n["off"] + n["len"])
                adds = n["off"] >= before
            elif n["k"] == "T":
                span = (min(n["off"], before), max(n["off"], before))
                adds = n["off"] >= before
            else:
                span, adds = (n["off"], n["off"] + n["len"]), False
            self.kinds.append((span[0], span[1], adds, n["k"] != "W" and not adds))
            self.versions.append(bytes(content))

    @staticmethod
    def apply(content, n):
        if n["k"] == "W":
            replay.apply(content, (0, replay.WRITE, n["off"], pattern(n["salt"], n["off"], n["len"])))
        elif n["k"] == "T":
            replay.apply(content, (0, replay.SIZE, n["off"], 0))
        elif n["k"] == "P":
            replay.apply(content, (0, replay.PUNCH_HOLE, n["off"], n["len"]))

    def judge(self, path, strict, counts):
        """Read the file; returns what is wrong, or None."""
        try:
            size, fd = os.lstat(path).st_size, os.open(path, os.O_RDONLY)
        except OSError as e:
            if self.synced:
                return "synced, but cannot be opened: %s" % e
            counts["lost"] = counts.get("lost", 0) + 1
            return None if e.errno == errno.EIO else "never synced, but its error is %s" % e
        try:
            size = os.fstat(fd).st_size
            low, high = min(map(len, self.versions)), max(map(len, self.versions))
            if self.synced and not low <= size <= high or not self.synced and size > high:
                return "has %d bytes, not %d to %d" % (size, low, high)
            for b in range((max(size, low if self.synced else 0) + BLOCK - 1) // BLOCK):
                wrong = self.block(fd, b, size, strict, counts)
                if wrong:
                    return "block %d of %d bytes: %s" % (b, size, wrong)
        finally:
            os.close(fd)
        return None

    def block(self, fd, b, size, strict, counts):
        lo, hi = b * BLOCK, (b + 1) * BLOCK
        later = [k for k in self.kinds if k[0] < hi and k[1] > lo]
        adds = all(k[2] for k in later)
        try:
            found = os.pread(fd, BLOCK, lo)
        except OSError as e:
            counts["unreadable"] = counts.get("unreadable", 0) + 1
            if e.errno != errno.EIO:
                return "the error is %s" % e
            if not self.synced or len(self.base) <= lo:
                return None                             # nothing of it was synced
            if not later:
                return "synced, not touched since, unreadable"
            if adds:
                return "synced, only appended to since, unreadable"
            if any(k[3] and k[0] <= lo and k[1] >= min(hi, len(self.base)) for k in later):
                return None                             # taken away, then something new was put there
            return "synced and overwritten, unreadable with crash=strict" if strict else None
        # What a truncate took reads as zeros only where the file was made longer again.
        allowed = [v[lo:hi] for i, v in enumerate(self.versions) if max(map(len, self.versions[i:])) >= min(hi, size)]
        if len(self.base) <= lo or not self.synced:
            allowed.append(b"")                         # a hole where nothing was synced
        end = max(0, min(size - lo, BLOCK))
        if any(v.ljust(BLOCK, b"\0")[:end] == found for v in allowed):
            return None
        return "holds %s..., which it never did after its last sync (%d versions: %s)" % (
            found[:24].hex(), len(allowed), ", ".join("%d %s" % (len(v), v[:24].hex()) for v in allowed[:6]))


def look(root):
    """{path: what it is} below root. Listing must work everywhere."""
    seen = {}

    def walk(path):
        try:
            entries = os.listdir(os.path.join(root, path))
        except OSError as e:
            raise t.Failure("the directory %r cannot be listed: %s" % (path, e))
        for name in entries:
            p = os.path.join(path, name)
            try:
                mode = os.lstat(os.path.join(root, p)).st_mode
            except OSError as e:
                if e.errno != errno.EIO:
                    raise t.Failure("lstat %r: %s" % (p, e))
                mode = 0o100000                         # a file whose first page never reached the disk
            if mode & 0o170000 == 0o040000:
                seen[p] = ("dir",)
                walk(p)
            elif mode & 0o170000 == 0o120000:
                seen[p] = ("link", os.readlink(os.path.join(root, p)))
            else:
                seen[p] = ("file",)
    walk("")
    return seen


def judge(root, notes, cut, strict, counts):
    """Fails when something is wrong. Returns the names of files that were never synced."""
    least, most = durable_names(notes, cut)
    found = look(root)
    names, number, wrong, candidates = Names(), 0, None, 0
    changes = [n for n in notes if n["k"] in Names.KINDS]
    for number in range(most + 1):
        if number:
            names.apply(changes[number - 1])
        if number < least:
            continue
        want = {p: what if what[0] == "link" else what[:1] for p, what in names.now.items()}
        if want != found:
            if wrong is None or candidates == 0:
                missing, extra = sorted(set(want) - set(found)), sorted(set(found) - set(want))
                wrong = "names of no moment since the last sync (%d to %d changes); after %d: missing %s, not expected %s" % (least, most, number, missing, extra)
            continue
        candidates += 1
        bad, unsynced = [], set()
        for p, what in names.now.items():
            if what[0] == "file":
                f = File(notes, what[1], cut)
                text = f.judge(os.path.join(root, p), strict, counts)
                if text:
                    bad.append("%s (file %d): %s" % (p, what[1], text))
                if not f.synced:
                    unsynced.add(p)
        if not bad:
            return unsynced
        wrong = "; ".join(bad)
    raise t.Failure(wrong)


# -- the driver --------------------------------------------------------------------------------------------------------

class Disk(t.Vault):
    """A vault and its keystore in one directory, `disk`: what the power cut leaves."""

    def __init__(self, args):
        super().__init__(base=args.base)
        self.disk = os.path.join(self.dir, "disk")
        self.keystore, self.vault = os.path.join(self.disk, "ks"), os.path.join(self.disk, "vault")
        self.env["KEEPFS_KEYSTORE"] = self.keystore
        self.record_log, self.boot = os.path.join(self.dir, "record.log"), os.path.join(self.dir, "boot_id")
        self.args = args
        self.options = "crash=strict" if args.strict else None
        os.mkdir(self.disk)

    def preload(self, **more):
        return dict(t.preloaded(self.args.record), KEEPFS_RECORD_ROOT=self.disk, **more)

    def record(self, rng):
        """Let programs work while everything is recorded."""
        self.init()
        self.start, self.root = replay.scan(self.disk)
        self.vault_ino = os.stat(self.vault).st_ino
        self.notes = [os.path.join(self.dir, "notes%d" % i) for i in range(self.args.programs)]
        for part in range(2):
            self.mount(self.options, env=self.preload(KEEPFS_RECORD_LOG=self.record_log))
            procs = []
            for i, notes in enumerate(self.notes):
                root = "%s/p%d" % (self.mnt, i)
                os.makedirs(root, exist_ok=True)
                procs.append(subprocess.Popen([sys.executable, os.path.abspath(__file__), "--work", root, self.record_log, notes,
                                               str(rng.getrandbits(32)), str(self.args.operations)]))
            for p in procs:
                t.check(p.wait(300) == 0, "a program failed; the service said:\n" + self.log_tail())
            self.unmount()
        self.records = replay.read_log(self.record_log)
        wrong = replay.same_as(replay.State(self.start, self.root, self.records, self.vault_ino), self.disk)
        t.check(not wrong, "the log does not make the disk that there is:\n" + "\n".join(wrong[:20]))
        self.worked = [read_notes(n) for n in self.notes]
        self.new_boot()
        self.env.update(self.preload(KEEPFS_RECORD_BOOT=self.boot))

    def choose_cut(self, rng):
        """Anywhere, just behind a sync, or while the keystore is opened."""
        if rng.random() < 0.05:
            return rng.randrange(min(80, len(self.records)))
        if rng.random() < 0.3:
            ends = [i for i, r in enumerate(self.records) if r.type == replay.SYNC_END]
            return min(rng.choice(ends) + rng.randrange(3), len(self.records) - 1)
        return rng.randrange(len(self.records))

    def try_state(self, cut, seed, counts):
        state = replay.State(self.start, self.root, self.records, self.vault_ino, cut, random.Random(seed))
        state.build(self.disk)
        at = self.records[cut].at
        if seed % 5 == 1:
            self.cut_again(random.Random(seed))
        if seed % 3 == 0:
            self.fsck(None, counts)
        self.mount(self.options)
        unsynced = set()
        for i, notes in enumerate(self.worked):
            root = "%s/p%d" % (self.mnt, i)
            if os.path.isdir(root):
                unsynced |= {"/p%d/%s" % (i, p) for p in judge(root, notes, at, self.args.strict, counts)}
            else:
                t.check(durable_names(notes, at)[0] == 0, "the directory of program %d is gone" % i)
        verdict = self.keepctl("audit", "verify", json=True)[-1]
        t.check(verdict["ok"] is True, "the audit trail: %s" % verdict)
        self.unmount()
        self.fsck(unsynced, counts)

    def new_boot(self):
        with open(self.boot, "w") as f:
            f.write(str(uuid.uuid4()) + "\n")

    def cut_again(self, rng):
        """Power is cut a second time, while the files are recovered or after that."""
        log = os.path.join(self.dir, "again.log")
        start, root = replay.scan(self.disk)
        vault_ino = os.stat(self.vault).st_ino
        self.mount(self.options, env={"KEEPFS_RECORD_LOG": log})
        for base, _, names in os.walk(self.mnt):
            for name in names:
                t.run(["cat", os.path.join(base, name)], ok=None)
        self.unmount()
        records = replay.read_log(log)
        os.unlink(log)
        wrong = replay.same_as(replay.State(start, root, records, vault_ino), self.disk)
        t.check(not wrong, "the log of the recovery does not make the disk that there is:\n" + "\n".join(wrong[:20]))
        replay.State(start, root, records, vault_ino, rng.randrange(len(records)), rng).build(self.disk)
        self.new_boot()

    def fsck(self, unsynced, counts):
        """The repair. With unsynced, after all was read: what is moved aside must be a file that was never synced, and then all is well."""
        aside = ["--quarantine", os.path.join(self.disk, "aside")] if unsynced is not None else []
        for line in self.keepctl("fsck", self.vault, "--repair", *aside, json=True, ok=(0, 6)):
            if "problem" in line:
                counts[line["problem"]] = counts.get(line["problem"], 0) + 1
                t.check(unsynced is None or line["action"] == "repaired" or (line["action"] == "quarantined" and line["path"] in unsynced),
                        "fsck --repair: %s" % line)
        if unsynced is not None:
            code, out, err = self.keepctl("fsck", self.vault, ok=None)
            t.check(code == 0, "fsck after the repair: exit %d\n%s%s" % (code, out, err))


def run(args):
    print("seed %d, %d states%s" % (args.seed, args.states, ", crash=strict" if args.strict else ""), flush=True)
    rng, done, start, counts, failures = random.Random(args.seed), 0, time.time(), {}, 0
    while done < args.states:
        disk = Disk(args)
        disk.record(rng)
        print("a workload of %d operations made %d records" % (sum(map(len, disk.worked)), len(disk.records)), flush=True)
        for _ in range(min(args.each, args.states - done)):
            cut, seed = disk.choose_cut(rng), rng.getrandbits(32)
            try:
                disk.try_state(cut, seed, counts)
            except t.Failure as failure:
                text = "state %d of seed %d, cut behind record %d of %d, choices %d: %s\nservice said:\n%s" % (
                    done, args.seed, cut, len(disk.records), seed, failure, disk.log_tail(1500))
                if not args.go_on:
                    raise t.Failure(text)
                failures += 1
                print("FAILED " + text, flush=True)
                disk.kill9()
            with open(disk.log, "w"):
                pass
            done += 1
            if done % 100 == 0:
                print("%d states, %.0f s; %s" % (done, time.time() - start, counts), flush=True)
        disk.cleanup()
    t.check(not failures, "%d of %d states failed" % (failures, done))
    print("%d states: everything synced was there; unsynced files lost, blocks unreadable, findings of fsck: %s" % (done, counts))


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--record", required=True, help="the module made of record.c")
    p.add_argument("--states", type=int, default=20)
    p.add_argument("--each", type=int, default=100, help="states per workload")
    p.add_argument("--programs", type=int, default=3)
    p.add_argument("--operations", type=int, default=120, help="per program, twice")
    p.add_argument("--strict", action="store_true", help="crash=strict")
    p.add_argument("--base", help="directory for the vault")
    p.add_argument("--go-on", action="store_true", help="do not stop at a failure")
    p.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    args = p.parse_args()
    t.need_fuse()
    run(args)


if len(sys.argv) > 1 and sys.argv[1] == "--work":
    work(sys.argv[2:])
else:
    t.main(main)
