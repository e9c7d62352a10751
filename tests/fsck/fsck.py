#!/usr/bin/python3
"""keepctl fsck: every kind of damage, made by hand in the backing directory, is named exactly, and nothing else is; repair,
quarantine and adoption do what they say; a mount under load gives no finding that is none.

--seconds: how long the load lasts. --copies: how many copies of a vault at work are adopted.
"""
import argparse
import hashlib
import os
import random
import shutil
import stat
import struct
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import keepfs_testlib as t

LONG = "a long name " * 17
FIELDS = ["files", "directories", "links", "others", "recoverable", "problems", "repaired", "quarantined", "adopted", "remaining"]
ARGS = None


def fsck(v, *args, path=None, code=None, user=None):
    """(exit code, findings as {(problem, path or backing path): action}, last line, all finding lines)."""
    argv = [t.KEEPCTL, "--json", "fsck", path or v.vault] + list(args)
    done = subprocess.run(argv, env=v.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=900)
    lines = [x for x in t.json_lines(done.stdout.decode()) if "progress" not in x]
    t.check(done.returncode in (0, 6), "fsck %s: exit %d: %s" % (args, done.returncode, done.stderr.decode()))
    t.check(lines and list(lines[-1]) == FIELDS, "last line of fsck: %s %s" % (lines[-1:], done.stderr.decode()))
    last = lines.pop()
    seen = {}
    for line in lines:
        t.check([k for k in line if k != "note"] == ["path", "backing_path", "problem", "detail", "action"], "fields of %s" % line)
        t.check(len(line["detail"]) > 20, "a detail: %s" % line)
        key = (line["problem"], line["path"] or line["backing_path"])
        t.check(key not in seen, "told twice: %s" % line)
        seen[key] = line["action"]
    problems = [x for x in lines if "note" not in x]
    t.check(last["problems"] == len(problems), "problems %s of %s" % (last, problems))
    for action, count in (("repaired", "repaired"), ("quarantined", "quarantined"), ("adopted", "adopted"), ("none", "remaining")):
        t.check(last[count] == sum(x["action"] == action for x in problems), "%s of %s: %s" % (count, problems, last))
    t.check(done.returncode == (6 if last["remaining"] else 0), "exit %d with %s" % (done.returncode, last))
    if code is not None:
        t.check(done.returncode == code, "exit %d, expected %d: %s" % (done.returncode, code, lines))
    return done.returncode, seen, last, lines


def expect(found, wanted, what):
    if found != wanted:
        raise t.Failure("%s:\n  too much: %s\n  missing: %s" % (what, sorted(set(found.items()) - set(wanted.items())),
                                                              sorted(set(wanted.items()) - set(found.items()))))


def make(v, *args):
    return t.run([ARGS.make, v.keystore, v.vault] + list(args))[1].strip()


def build(v):
    """The vault that is damaged. {clear path: backing path below the vault}."""
    m = v.mnt
    for d in ("/d", "/d/sub", "/gone", "/p1", "/p1/moved", "/p2", "/rec", "/rec/in", "/norec", "/norec/in", "/other", "/x", "/par", "/par/deep"):
        os.mkdir(m + d)
    for name in ("commit", "vaultid", "key", "wrap", "state", "cut", "grown", "empty", "short", "slot", "torn", "xattr", "tags", "magic", "good",
                 "renamed", "version", "linked"):
        with open(m + "/d/" + name, "wb") as f:
            f.write(name.encode() * 3000)
    for name in ("side", "sidebad"):
        with open(m + "/d/" + name + LONG, "wb") as f:
            f.write(b"long")
    with open(m + "/rec/in/file", "wb") as f:
        f.write(b"below a damaged record")
    os.symlink("somewhere", m + "/d/link")
    os.symlink("elsewhere", m + "/d/goodlink")
    os.mkfifo(m + "/d/fifo")
    os.setxattr(m + "/d/xattr", "user.one", b"1")
    os.setxattr(m + "/d/good", "user.one", b"1")
    os.setxattr(m + "/x", "user.dir", b"1")
    os.link(m + "/d/linked", m + "/d/linked2")
    v.keepctl("key", "create", "second")
    v.keepctl("dir", "set-key", m + "/other", "second")
    with open(m + "/other/second", "wb") as f:
        f.write(b"under the second key")
    by_inode = {}
    for base, dirs, names in os.walk(v.vault):
        for name in dirs + names:
            by_inode.setdefault(os.lstat(os.path.join(base, name)).st_ino, os.path.relpath(os.path.join(base, name), v.vault))
    backing = {}
    for base, dirs, names in os.walk(m):
        for name in dirs + names:
            path = os.path.join(base, name)
            backing[path[len(m):]] = by_inode[os.lstat(path).st_ino]
    return backing


def ciphertext(root):
    """What a backing directory is, to the byte."""
    seen = {}
    for base, dirs, names in os.walk(root):
        for name in dirs + names:
            path = os.path.join(base, name)
            st = os.lstat(path)
            content = t.digest(path) if stat.S_ISREG(st.st_mode) else os.readlink(path) if stat.S_ISLNK(st.st_mode) else None
            seen[os.path.relpath(path, root)] = (st.st_mode, st.st_ino, st.st_mtime_ns, content)
    return seen


def patch(path, offset, data):
    with open(path, "r+b") as f:
        f.seek(offset)
        f.write(data)


def reseal_slot(path, area, change):
    """Change a wrap slot (a bytearray of 768) and give it its checksum again."""
    at = t.WRAP_AT[area]
    with open(path, "r+b") as f:
        f.seek(at)
        slot = bytearray(f.read(t.WRAP_SIZE))
        change(slot)
        slot[760:] = hashlib.sha256(slot[:760]).digest()[:8]
        f.seek(at)
        f.write(slot)


def second_slot(path, torn=False):
    """The live slot again in the other area, with a higher sequence: what a rewrap that was killed leaves."""
    with open(path, "r+b") as f:
        page = f.read(t.PAGE)
        slot = bytearray(page[t.WRAP_AT[0]:t.WRAP_AT[0] + t.WRAP_SIZE])
        slot[:8] = struct.pack("<Q", struct.unpack("<Q", bytes(slot[:8]))[0] + 1)
        slot[760:] = hashlib.sha256(slot[:760]).digest()[:8]
        if torn:
            slot[300:] = bytes(468)
        f.seek(t.WRAP_AT[1])
        f.write(slot)


def flip(data, at):
    data[at] ^= 1


def damage(v, b):
    """Every kind of problem. Returns {(problem, path): what --repair does}."""
    root = v.vault
    at = lambda clear: os.path.join(root, b[clear])
    d, want = b["/d"], {}

    def problem(code, path, action="none"):
        want[(code, path)] = action

    # headers
    patch(at("/d/magic"), 0, b"X")
    problem("header-damaged", "/d/magic")
    with open(at("/d/commit"), "r+b") as f:
        f.seek(64)
        byte = f.read(1)[0]
    patch(at("/d/commit"), 64, bytes([byte ^ 1]))
    problem("header-commitment", "/d/commit")
    patch(at("/d/vaultid"), 16, os.urandom(16))
    problem("header-vault", "/d/vaultid")
    reseal_slot(at("/d/key"), 0, lambda s: s.__setitem__(slice(8, 24), os.urandom(16)))
    problem("header-key", "/d/key")
    reseal_slot(at("/d/version"), 0, lambda s: s.__setitem__(slice(24, 28), struct.pack("<I", 77)))
    problem("header-key", "/d/version")
    reseal_slot(at("/d/wrap"), 0, lambda s: flip(s, 60))
    problem("header-wrap", "/d/wrap")
    for area in t.WRAP_AT:
        patch(at("/d/state"), area + t.WRAP_SIZE + 40, os.urandom(8))
    problem("state-damaged", "/d/state")
    os.truncate(at("/d/cut"), os.path.getsize(at("/d/cut")) - 100)
    problem("size", "/d/cut")
    with open(at("/d/grown"), "ab") as f:
        f.write(b"more")
    problem("size", "/d/grown")
    os.truncate(at("/d/empty"), 0)
    problem("empty", "/d/empty")
    os.truncate(at("/d/short"), 1000)
    problem("header-damaged", "/d/short")
    second_slot(at("/d/slot"))
    problem("header-slot", "/d/slot", "repaired")
    second_slot(at("/d/torn"), torn=True)
    problem("header-slot", "/d/torn", "repaired")
    with open(at("/d/tags"), "r+b") as f:
        f.seek(2560)
        entry = bytearray(f.read(72))
        entry[20 if any(entry[:36]) else 56] ^= 1
        f.seek(2560)
        f.write(entry)
    problem("tags-damaged", "/d/tags")
    # xattrs
    for clear in ("/d/xattr", "/x"):
        name = os.listxattr(at(clear))[0]
        value = bytearray(os.getxattr(at(clear), name))
        value[-1] ^= 1
        os.setxattr(at(clear), name, bytes(value))
        problem("xattr-damaged", clear)
    # names
    os.rename(at("/d/renamed"), os.path.join(root, d, "QUJD" * 8))
    problem("name-damaged", d + "/" + "QUJD" * 8)
    side = os.path.basename(at("/d/side" + LONG))
    os.unlink(os.path.join(root, d, "N" + side[1:]))
    problem("side-missing", d + "/" + side)
    side = os.path.basename(at("/d/sidebad" + LONG))
    patch(os.path.join(root, d, "N" + side[1:]), 5, b"\0\0\0")
    problem("side-damaged", d + "/" + side)
    orphan = "N." + "A" * 43
    shutil.copy(os.path.join(root, d, "N" + side[1:]), os.path.join(root, d, orphan))
    problem("side-orphaned", d + "/" + orphan, "repaired")
    form = make(v, "longform", d, "short one")
    shutil.copy(at("/d/good"), os.path.join(root, d, form))
    problem("name-form", d + "/" + form)
    with open(os.path.join(root, d, "not.ours"), "w") as f:
        f.write("foreign")
    problem("foreign", d + "/not.ours")
    os.makedirs(os.path.join(root, d, ".git", "objects"))
    problem("foreign", d + "/.git")
    shutil.copy(os.path.join(root, "keepfs.vault"), os.path.join(root, b["/x"], "keepfs.vault"))
    problem("foreign", b["/x"] + "/keepfs.vault")
    # half made, half removed
    for name, inside in (("tmp.0123456789abcdef", None), ("tmp.1111111111111111", []), ("tmp.2222222222222222", ["keepfs.dir", "tmp.5", "N." + "A" * 42 + "E"])):
        path = os.path.join(root, d, name)
        if inside is None:
            open(path, "w").close()
        else:
            os.mkdir(path)
            for x in inside:
                open(os.path.join(path, x), "w").close()
        problem("leftover", d + "/" + name, "repaired")
    full = os.path.join(root, d, "tmp.3333333333333333")
    os.mkdir(full)
    shutil.copy(at("/d/good"), os.path.join(full, "QUJD" * 8))
    problem("leftover", d + "/tmp.3333333333333333")
    # directories
    os.unlink(at("/norec") + "/keepfs.dir")
    problem("record-missing", "/norec")
    patch(at("/rec") + "/keepfs.dir", 100, b"\0\0\0\0")
    problem("record-damaged", "/rec")
    make(v, "rename", b["/p1/moved"], b["/p2"])
    problem("record-rename", "/p1/moved", "repaired")
    name = make(v, "name", b["/p2"], "deep")
    os.rename(at("/par/deep"), os.path.join(root, b["/p2"], name))
    problem("record-parent", "/p2/deep")
    # links
    target = bytearray(os.fsencode(os.readlink(at("/d/link"))))
    target[20] = ord("A") if target[20] != ord("A") else ord("B")
    os.unlink(at("/d/link"))
    os.symlink(bytes(target), at("/d/link"))
    problem("symlink-damaged", "/d/link")
    os.rename(at("/other/second"), os.path.join(root, d, make(v, "name", d, "from other")))
    os.link(at("/d/linked"), os.path.join(root, b["/other"], make(v, "name", b["/other"], "in other")))
    second_slot(os.path.join(root, "keepfs.vault"))
    problem("config-slot", "keepfs.vault", "repaired")
    return want


def hard_links(found):
    """Which of the three names comes first is the disk's choice: taken out of the findings."""
    names = [key for key in found if key[0] == "hard-links"]
    t.check(names and all(p.startswith(("/d/linked", "/other/in other")) for _, p in names), "hard links: %s" % names)
    found.pop(("other-key", "/other/in other"), None)
    for key in names:
        t.check(found.pop(key) == "none", "a hard link is only told")
    return names


def kinds(args):
    """Every kind of damage; then repair; then quarantine."""
    v = t.Vault()
    v.init()
    v.mount()
    b = build(v)
    _, seen, last, _ = fsck(v, path=v.mnt, code=0)
    expect(seen, {}, "before any damage, mounted")
    v.unmount()
    _, seen, again, _ = fsck(v, code=0)
    expect(seen, {}, "before any damage")
    t.check(last == again and last["links"] == 2 and last["others"] == 1 and last["directories"] == 15 and last["files"] == 22, "counts %s" % last)
    want = damage(v, b)
    note = {("other-key", "/d/from other"): "none"}
    before = ciphertext(v.vault)

    code, seen, last, lines = fsck(v, code=6)
    links = hard_links(seen)
    expect(seen, {**{k: "none" for k in want}, **note}, "every kind of damage")
    t.compare(before, ciphertext(v.vault), "fsck without an option")
    code, out, err = v.keepctl("fsck", v.vault, ok=(6,))
    t.check(len(out.splitlines()) == len(lines) + 2 and "/d/commit: header-commitment: " in out, "output for people:\n%s%s" % (out, err))

    _, seen, sub, _ = fsck(v, path=os.path.join(v.vault, b["/p1"]), code=6)
    expect(seen, {("record-rename", "/p1/moved"): "none"}, "of a subtree")
    _, seen, sub, _ = fsck(v, path=os.path.join(v.vault, b["/d/cut"]), code=6)
    expect(seen, {("size", "/d/cut"): "none"}, "of one file")
    t.check(sub["files"] == 1 and sub["directories"] == 0, "counts of one file: %s" % sub)

    _, seen, last, _ = fsck(v, "--repair", code=6)
    hard_links(seen)
    expect(seen, {**want, **note}, "repair")
    rest = {k: "none" for k, action in want.items() if action == "none"}
    _, seen, last, _ = fsck(v, "--repair", code=6)
    hard_links(seen)
    expect(seen, {**rest, **note}, "a second repair")
    records = [x for x in v.keepctl("audit", "list", "--action", "fsck", json=True)]
    t.check(len(records) >= sum(action == "repaired" for action in want.values()), "audit records of repairs: %s" % records)

    aside = os.path.join(v.dir, "aside")
    _, seen, last, lines = fsck(v, "--quarantine", aside, code=6)
    hard_links(seen)
    stays = {k: "none" for k in rest if k[0] in ("xattr-damaged",)}
    expect(seen, {**{k: stays.get(k, "quarantined") for k in rest}, **note}, "quarantine")
    t.check(stat.S_IMODE(os.stat(aside).st_mode) == 0o700, "mode of the quarantine")
    with open(os.path.join(aside, "quarantine.jsonl")) as f:
        log = t.json_lines(f.read())
    moved = [x["backing_path"] for x in lines if x["action"] == "quarantined"]
    t.check(set(moved) <= {x["backing_path"] for x in log} and len(log) >= len(moved), "log of the quarantine: %s" % log)
    for entry in log:
        t.check(os.path.lexists(os.path.join(aside, entry["object"])), "in the quarantine: %s" % entry)
        t.check(not os.path.lexists(os.path.join(v.vault, entry["backing_path"])), "still in the vault: %s" % entry)
        t.check(entry["vault"] == v.vault and entry["time"].endswith("Z"), "a line of the log: %s" % entry)
    t.check(len(os.listdir(aside)) == len(log) + 1, "objects in the quarantine: %s" % os.listdir(aside))
    _, seen, last, _ = fsck(v, "--repair", code=6)
    hard_links(seen)
    expect({k: a for k, a in seen.items() if k[0] != "side-orphaned"}, {**stays, **note}, "after quarantine")
    v.mount()
    for name in ("good", "slot", "torn", "linked2"):
        with open(v.mnt + "/d/" + name, "rb") as f:
            t.check(f.read() == name.rstrip("2").encode() * 3000, "content of %s" % name)
    t.check(sorted(os.listdir(v.mnt + "/p1")) == ["moved"], "a directory whose rename was ended")
    code, _, err = v.keepctl("fsck", v.mnt, "--quarantine", os.path.join(v.mnt, "q"), ok=(2,))
    v.unmount()
    v.keepctl("fsck", v.vault, "--quarantine", os.path.join(v.vault, "q"), ok=(2,))
    t.check(not os.path.exists(os.path.join(v.vault, "q")), "a quarantine in the vault was made")
    if os.path.ismount("/dev/shm") and os.stat("/dev/shm").st_dev != os.stat(v.vault).st_dev:
        v.keepctl("fsck", v.vault, "--quarantine", "/dev/shm/%s" % os.path.basename(v.dir), ok=(1,))
        t.check(not os.path.exists("/dev/shm/" + os.path.basename(v.dir)), "a quarantine on another filesystem stays")
    v.cleanup()
    print("kinds of damage: %d findings, each named, repaired or moved as it should" % (len(want) + len(links)), flush=True)


def config(args):
    """The config and the root's record: the vault does not open, which is a finding."""
    v = t.Vault()
    v.init()
    conf, record = v.vault + "/keepfs.vault", v.vault + "/keepfs.dir"
    for path, offset in ((conf, 0), (conf, 70), (conf, 3000), (conf, 512 + 768 + 1024 + 30), (record, 50)):
        with open(path, "rb") as f:
            old = f.read()
        patch(path, offset, bytes([old[offset] ^ 1]))
        _, seen, last, _ = fsck(v, code=6)
        expect(seen, {("config-damaged", "keepfs.vault"): "none"}, "%s, byte %d" % (path, offset))
        with open(path, "wb") as f:
            f.write(old)
    fsck(v, code=0)
    shutil.copy(conf, v.dir + "/old")
    v.keepctl("key", "rotate", "vault:" + v.keepctl("vault", "list", json=True)[0]["id"])
    v.keepctl("rewrap")
    fsck(v, code=0)
    v.mount()
    with open(conf, "rb") as f:
        new = f.read()
    with open(v.dir + "/old", "rb") as f:
        patch(conf, 0, f.read())
    _, seen, last, _ = fsck(v, path=v.mnt, code=6)
    expect(seen, {("config-damaged", "keepfs.vault"): "none"}, "a config that was rolled back below a mount")
    patch(conf, 0, new)
    fsck(v, path=v.mnt, code=0)
    v.unmount()
    v.cleanup()
    print("config: damage, and a roll-back below a mount, are findings", flush=True)


def rights(args):
    """Another user without a role, and one who may read only; what they ask for is not done."""
    if os.getuid() != 0:
        print("rights: needs root", flush=True)
        return
    v = t.Vault()
    keepctl = t.public_copy(t.KEEPCTL)
    os.chmod(v.dir, 0o755)
    v.init()
    v.mount("allow_other")
    os.chmod(v.mnt, 0o755)
    with open(v.mnt + "/f", "w") as f:
        f.write("x")

    def other(*more):
        done = subprocess.run([keepctl, "--json", "fsck", v.mnt] + list(more), env=v.env, user=65534, group=65534, extra_groups=[],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/", timeout=300)
        return done.returncode, done.stdout.decode() + done.stderr.decode()
    code, out = other()
    t.check(code == 8 and "files" not in out, "fsck without a role: %d %s" % (code, out))
    v.keepctl("role", "assign", "user:65534", "Reader")
    code, out = other()
    t.check(code == 0, "fsck by a reader: %d %s" % (code, out))
    for option in (["--repair"], ["--adopt"], ["--quarantine", "/tmp/nobody-may"]):
        code, out = other(*option)
        t.check(code == 8 and not os.path.exists("/tmp/nobody-may"), "fsck %s by a reader: %d %s" % (option, code, out))
    v.unmount()
    v.cleanup()
    print("rights: exit 8 without a role; a reader may look, and no more", flush=True)


def crashed(args):
    """Files that a crash left open: counted, recovered by --repair, never a problem."""
    v = t.Vault()
    v.init()
    v.mount()
    files = []
    for i in range(5):
        f = open(v.mnt + "/f%d" % i, "wb", buffering=0)
        f.write(b"%d" % i * 50000)
        os.fsync(f.fileno())
        files.append(f)
    _, seen, last, _ = fsck(v, path=v.mnt, code=0)
    t.check(not seen and last["recoverable"] == 0, "files open in the mount: %s %s" % (seen, last))
    v.kill9()
    for f in files:
        try:
            f.close()
        except OSError:
            pass
    _, seen, last, _ = fsck(v, code=0)
    t.check(not seen and last["recoverable"] == 5, "after a kill: %s %s" % (seen, last))
    v.mount()
    _, seen, last, _ = fsck(v, "--repair", path=v.mnt, code=0)
    t.check(not seen and last["recoverable"] == 5, "mounted after a kill: %s %s" % (seen, last))
    with open(v.mnt + "/f0", "rb") as f:
        t.check(f.read() == b"0" * 50000, "a recovered file")
    v.unmount()
    _, seen, last, _ = fsck(v, "--repair", code=0)
    expect(seen, {("recoverable", "/f%d" % i): "repaired" for i in range(1, 5)}, "recovery")
    _, seen, last, _ = fsck(v, code=0)
    t.check(not seen and last["recoverable"] == 0, "after the recovery: %s %s" % (seen, last))
    v.mount()
    for i in range(5):
        with open(v.mnt + "/f%d" % i, "rb") as f:
            t.check(f.read() == b"%d" % i * 50000, "content after the recovery")
    v.unmount()
    v.cleanup()
    print("crashed: 5 files counted, then recovered", flush=True)


class Writer(threading.Thread):
    """Appends lines, and syncs, and now and then writes a block again; knows what every sync has promised."""

    def __init__(self, path, seed, rewrite):
        super().__init__()
        self.path, self.rng, self.rewrite = path, random.Random(seed), rewrite
        self.stop, self.states, self.error = False, [], None

    def run(self):
        try:
            data = bytearray()
            with open(self.path, "w+b", buffering=0) as f:
                while not self.stop:
                    if self.rewrite and data and self.rng.random() < 0.3:
                        at = self.rng.randrange(len(data))
                        new = self.rng.randbytes(min(2000, len(data) - at))
                        os.pwrite(f.fileno(), new, at)
                        data[at:at + len(new)] = new
                    else:
                        new = self.rng.randbytes(self.rng.randrange(1, 30000))
                        os.pwrite(f.fileno(), new, len(data))
                        data += new
                    self.states.append((None, bytes(data)))
                    os.fsync(f.fileno())
                    self.states.append((time.monotonic(), bytes(data)))
                    if len(data) > 1 << 21:
                        data.clear()
                        os.ftruncate(f.fileno(), 0)
                        self.states = [(None, b"")]
                        os.fsync(f.fileno())
        except Exception as error:
            self.error = error

    def may_be(self, content):
        return any(content == data for _, data in self.states)


def copies(args):
    """Copies of a vault at work: what is adopted reads as the file once was; what is not is refused."""
    adopted = refused = clean = 0
    for n in range(args.copies):
        v = t.Vault()
        v.init()
        v.mount()
        writers = [Writer(v.mnt + "/w%d" % i, n * 10 + i, i % 2 == 1) for i in range(6)]
        with open(v.mnt + "/still", "wb") as f:
            f.write(b"still" * 10000)
        for w in writers:
            w.start()
        time.sleep(0.3 + n % 5 * 0.1)
        begun = time.monotonic()
        copy = os.path.join(v.dir, "copy")
        t.run(["rsync", "-aHX", v.vault + "/", copy + "/"], ok=(0, 24))
        for w in writers:
            w.stop = True
        for w in writers:
            w.join(120)
            t.check(not w.error and not w.is_alive(), "a writer: %s" % w.error)
        code, _, err = v.keepctl("fsck", copy, "--adopt", ok=(1,))
        t.check("copy" in err, "a copy of an open vault: %s" % err)
        v.unmount()
        _, seen, last, lines = fsck(v, path=copy)
        t.check(all(k[0] in ("dirty-copy", "size", "tags-damaged", "leftover") for k in seen), "of a copy: %s" % seen)
        dirty = {k[1]: k for k in seen}
        _, seen, last, lines = fsck(v, "--adopt", path=copy)
        fate = {k[1]: a for k, a in seen.items()}
        t.check(set(fate) == set(dirty), "adopt found others: %s %s" % (fate, dirty))
        where = v.keepctl("vault", "list", json=True)[0]["path"]
        t.check(where == v.vault, "the keystore looks for the vault at %s" % where)
        v.mount(vault=copy)
        with open(v.mnt + "/still", "rb") as f:
            t.check(f.read() == b"still" * 10000, "a file that was not written")
        for i, w in enumerate(writers):
            try:
                with open(v.mnt + "/w%d" % i, "rb") as f:
                    content = f.read()
            except OSError as error:
                t.check(fate.get("/w%d" % i) == "none", "w%d: %s, and fsck said %s" % (i, error, fate.get("/w%d" % i)))
                refused += 1
                continue
            t.check(fate.get("/w%d" % i) != "none", "w%d was refused and reads" % i)
            adopted += fate.get("/w%d" % i) == "adopted"
            clean += fate.get("/w%d" % i) is None
            t.check(w.may_be(content), "w%d (%s, rewriting %s): %d bytes that it never held: %s" %
                    (i, fate.get("/w%d" % i), w.rewrite, len(content), [len(d) for _, d in w.states[-6:]]))
            synced = [data for at, data in w.states if at and at < begun]
            t.check(not synced or w.rewrite or len(content) >= len(synced[-1]), "w%d lost what was synced before the copy" % i)
        v.unmount()
        v.cleanup()
    t.check(adopted + clean > 0, "nothing of %d copies could be read" % args.copies)
    print("copies: of %d files that were being written %d adopted, %d refused, %d clean" % (adopted + refused + clean, adopted, refused, clean), flush=True)


LOAD = r"""
import os, random, sys
root, seed = sys.argv[1], int(sys.argv[2])
rng = random.Random(seed)
dirs = [root + "/a%d" % seed, root + "/b%d" % seed]
for d in dirs:
    os.makedirs(d, exist_ok=True)
n = 0
while True:
    n += 1
    d, e = rng.choice(dirs), rng.choice(dirs)
    x = d + "/" + ("long" * 50 if n % 3 == 0 else "") + str(n)
    y = e + "/" + ("name" * 50 if n % 4 == 0 else "") + "m%d" % n
    os.mkdir(x)
    os.rename(x, y)
    with open(y + "/f", "w") as f:
        f.write("x" * rng.randrange(20000))
    os.rename(y + "/f", d + "/" + ("file" * 45 if n % 2 else "") + "f")
    os.symlink("t", y + "/" + "s" * 190)
    os.setxattr(y, "user.x", b"1")
    os.rename(y, x)
    os.unlink(x + "/" + "s" * 190)
    os.rmdir(x)
    try:
        os.link(d + "/f", e + "/" + "hard" * 46)
        os.unlink(e + "/" + "hard" * 46)
    except OSError:
        pass
"""


def load(args):
    """Checks one after the other in a mount where names are made, moved and removed all the time."""
    v = t.Vault()
    v.init()
    v.mount()
    os.mkdir(v.mnt + "/zone")
    v.keepctl("key", "create", "second")
    v.keepctl("dir", "set-key", v.mnt + "/zone", "second")
    procs = [subprocess.Popen([sys.executable, "-c", LOAD, v.mnt, str(i)]) for i in range(3)]
    procs.append(subprocess.Popen([sys.executable, "-c", "import os, sys\nm = sys.argv[1]\nopen(m + '/cross', 'w').write('x')\nwhile True:\n"
                                   " os.rename(m + '/cross', m + '/zone/cross')\n os.rename(m + '/zone/cross', m + '/cross')\n", v.mnt]))
    t.wait_for(lambda: len(os.listdir(v.mnt)) >= 7, 60, "the load")
    runs = 0
    try:
        end = time.monotonic() + args.seconds
        while time.monotonic() < end or runs < 3:
            _, seen, last, lines = fsck(v, *(["--repair"] if runs % 2 else []), path=v.mnt)
            t.check(not seen, "in a busy mount: %s" % lines)
            t.check(last["files"] > 0 and last["directories"] > 6, "counts in a busy mount: %s" % last)
            runs += 1
            for p in procs:
                t.check(p.poll() is None, "the load ended: %s" % p.args[3:])
    finally:
        for p in procs:
            p.kill()
            p.wait()
    v.unmount()
    _, seen, last, _ = fsck(v, code=0)
    t.check(not seen, "after the load: %s" % seen)
    v.cleanup()
    print("load: %d checks in %d s, no finding" % (runs, args.seconds), flush=True)


def live_quarantine(args):
    """In a mount: what is open stays, what is not open goes."""
    v = t.Vault()
    v.init()
    v.mount()
    for name in ("open", "closed"):
        with open(v.mnt + "/" + name, "wb") as f:
            f.write(b"x" * 9000)
    held = open(v.mnt + "/open", "rb")
    held.read(1)
    backing = {os.stat(os.path.join(v.vault, n)).st_ino: os.path.join(v.vault, n) for n in os.listdir(v.vault)}
    for name in ("open", "closed"):
        patch(backing[os.stat(v.mnt + "/" + name).st_ino], 64, b"\0\0\0\0")
    _, seen, last, _ = fsck(v, "--quarantine", v.dir + "/aside", path=v.mnt, code=6)
    expect(seen, {("header-damaged", "/open"): "none", ("header-commitment", "/closed"): "quarantined"}, "quarantine in a mount")
    t.check(os.listdir(v.mnt) == ["open"], "what stays: %s" % os.listdir(v.mnt))
    held.close()
    v.unmount()
    v.cleanup()
    print("quarantine beside a mount: what is open stays", flush=True)


def main():
    global ARGS
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--make", required=True, help="the program make")
    p.add_argument("--seconds", type=float, default=6)
    p.add_argument("--copies", type=int, default=2)
    p.add_argument("--only", help="one of the parts")
    ARGS = p.parse_args()
    t.need_fuse()
    for part in (kinds, config, rights, crashed, live_quarantine, copies, load):
        if not ARGS.only or ARGS.only == part.__name__:
            part(ARGS)


t.main(main)
