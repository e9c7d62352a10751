#!/usr/bin/python3
"""-o shared: a vault whose directory others change.

Copies of the vault in three states are put over it by rsync, and by renames, while it is mounted: names that come, go and are replaced, new
contents, another tree of directories are followed within seconds; what was open goes on with what it had. A file that another process
has locked is EBUSY, a file that arrives as a copy made while it was written too, until the whole one has come. The lock of the vault lets others in
that share, and nobody else; who is refused is told which process has the vault.
"""
import errno
import fcntl
import os
import shutil
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import keepfs_testlib as t

F_OFD_SETLK = 37


def lock(fd, kind):
    """True when this process got (or gave back) the lock."""
    try:
        fcntl.fcntl(fd, F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0))
        return True
    except OSError as error:
        t.check(error.errno in (errno.EAGAIN, errno.EACCES), "OFD lock: %s" % error)
        return False


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


def sync(source, target):
    t.run(["rsync", "-aHAX", "--delete", source + "/", target + "/"])


def states(v):
    """Three states of one vault, each as a copy of its directory and a snapshot of what is in it."""
    made = []

    def keep(name):
        made.append((os.path.join(v.dir, name), t.snapshot(v.mnt)))
        v.unmount()
        shutil.copytree(v.vault, made[-1][0], symlinks=True)

    v.mount()
    for name in ("stays", "changes", "goes", "grows"):
        write(os.path.join(v.mnt, name), (name * 3000).encode())
    os.makedirs(os.path.join(v.mnt, "dir", "deep"))
    write(os.path.join(v.mnt, "dir", "deep", "file"), b"first")
    os.symlink("stays", os.path.join(v.mnt, "link"))
    keep("one")
    v.mount()
    write(os.path.join(v.mnt, "changes"), b"changed " * 2000)
    os.unlink(os.path.join(v.mnt, "goes"))
    with open(os.path.join(v.mnt, "grows"), "ab") as f:
        f.write(b"more" * 5000)
    os.rename(os.path.join(v.mnt, "dir"), os.path.join(v.mnt, "moved"))
    write(os.path.join(v.mnt, "moved", "deep", "file"), b"second, longer")
    write(os.path.join(v.mnt, "new"), b"new")
    os.unlink(os.path.join(v.mnt, "link"))
    os.symlink("new", os.path.join(v.mnt, "link"))
    keep("two")
    v.mount()
    shutil.rmtree(os.path.join(v.mnt, "moved"))
    os.unlink(os.path.join(v.mnt, "new"))
    os.mkdir(os.path.join(v.mnt, "new"))
    write(os.path.join(v.mnt, "new", "in"), b"a directory now")
    write(os.path.join(v.mnt, "goes"), b"back")
    keep("three")
    return made


def seen(v, wanted):
    try:
        return t.snapshot(v.mnt) == wanted
    except OSError:
        return False  # between two names, or between a name and its content


def followed(v, made):
    one, two, three = made
    sync(one[0], v.vault)
    v.mount("shared")
    t.compare(one[1], t.snapshot(v.mnt), "the first state")
    with open(os.path.join(v.mnt, "changes"), "rb") as f:
        t.check(f.read(7) == b"changes", "the first state's content")
        for state in (two, three, one, three, two, one):
            sync(state[0], v.vault)
            t.wait_for(lambda: seen(v, state[1]), 120, "what rsync has put there to show")
        f.seek(0)
        t.check(f.read() == b"changes" * 3000, "a file that was open when it was replaced is not what it was")
    write(os.path.join(v.mnt, "own"), b"written here")
    os.mkdir(os.path.join(v.mnt, "mine"))
    os.rename(os.path.join(v.mnt, "own"), os.path.join(v.mnt, "mine", "own"))
    with open(os.path.join(v.mnt, "mine", "own"), "ab") as f:
        f.write(b", and again")
    t.check(read(os.path.join(v.mnt, "mine", "own")) == b"written here, and again", "what is written in a shared mount")


def one_by_one(v):
    """Locks of files: readers together, or one writer."""
    path = os.path.join(v.mnt, "stays")
    backing = v.keepctl("file", "show", path, json=True)[0]["backing_path"]
    with open(backing, "r+b") as other:
        fd = other.fileno()
        t.check(lock(fd, fcntl.F_WRLCK), "a closed file is locked")
        fails(errno.EBUSY, open, path, "rb")
        fails(errno.EBUSY, open, path, "r+b")
        fails(errno.EBUSY, os.truncate, path, 5)
        t.check(lock(fd, fcntl.F_RDLCK) and len(read(path)) == 15000, "readers do not share")
        fails(errno.EBUSY, open, path, "r+b")
        lock(fd, fcntl.F_UNLCK)
        with open(path, "rb") as reader:
            t.check(reader.read(5) == b"stays" and not lock(fd, fcntl.F_WRLCK), "a writer gets in beside a reader of the mount")
            t.check(lock(fd, fcntl.F_RDLCK), "a reader does not get in beside a reader of the mount")
            fails(errno.EBUSY, open, path, "r+b")
            lock(fd, fcntl.F_UNLCK)
            with open(path, "r+b") as writer:
                writer.write(b"STAYS")
                writer.flush()
                t.check(not lock(fd, fcntl.F_RDLCK), "a reader gets in beside the mount's writer")
            t.wait_for(lambda: lock(fd, fcntl.F_RDLCK), 60, "the mount's writer to give its lock back")
            lock(fd, fcntl.F_UNLCK)
            t.check(read(path)[:5] == b"STAYS", "what the writer wrote")
        t.wait_for(lambda: lock(fd, fcntl.F_WRLCK), 60, "the mount's reader to give its lock back")
    path = os.path.join(v.mnt, "made")
    with open(path, "wb") as f:
        f.write(b"made")
        f.flush()
        with open(v.keepctl("file", "show", path, json=True)[0]["backing_path"], "r+b") as other:
            t.check(not lock(other.fileno(), fcntl.F_RDLCK), "a reader gets in beside the maker of a file")


def half_arrived(v):
    """A file as a synchroniser copies it while another host writes it."""
    path = os.path.join(v.mnt, "half")
    write(path, b"whole" * 4000)
    backing = v.keepctl("file", "show", path, json=True)[0]["backing_path"]
    aside, dirty = os.path.join(v.dir, "aside"), os.path.join(v.dir, "dirty")
    with open(path, "r+b") as f:
        f.write(b"later")
        f.flush()
        os.fsync(f.fileno())
        shutil.copy2(backing, dirty)
    t.wait_for(lambda: read(path)[:5] == b"later", 60, "the file to be sealed")
    shutil.copy2(backing, aside)
    os.replace(dirty, backing)
    t.wait_for(lambda: os.stat(path), 60, "the copy")

    def refused():
        try:
            read(path)
        except OSError as error:
            t.check(error.errno in (errno.EBUSY, errno.ESTALE), "a dirty copy: %s" % error)
            return error.errno == errno.EBUSY
        return False
    t.wait_for(refused, 60, "a dirty copy to be refused")
    os.replace(aside, backing)

    def whole():
        try:
            return read(path)[:10] == b"laterwhole"
        except OSError as error:
            t.check(error.errno in (errno.EBUSY, errno.ESTALE), "the whole file: %s" % error)
            return False
    t.wait_for(whole, 60, "the whole file to show")


def refused(v, options, pid):
    """Another keystore's service cannot have the vault, and is told who has it."""
    other = t.Vault()
    other.init()
    argv = [t.KEEPFS, v.vault, other.mnt] + (["-o", options] if options else [])
    code, _, err = t.run(argv, ok=None, env=other.env)
    t.check(code == 1 and "in use" in err and "process %d " % pid in err and "unmount it there" in err, "a second service: exit %d: %s" % (code, err))


def whole_vault(v):
    """The lock of the vault."""
    with open(os.path.join(v.vault, "keepfs.vault"), "r+b") as config:
        fd = config.fileno()
        t.check(not lock(fd, fcntl.F_WRLCK), "a shared vault can be taken by somebody alone")
        t.check(lock(fd, fcntl.F_RDLCK), "a shared vault cannot be shared")
        v.keepctl("rewrap")
        name = next(key["name"] for key in v.keepctl("key", "list", json=True) if key["kind"] == "vault")
        v.keepctl("key", "rotate", name)
        code, out, err = v.keepctl("rewrap", ok=None)
        t.check(code == 1 and "in use" in err, "the vault's key was rewrapped beside another holder: exit %d: %s%s" % (code, out, err))
        lock(fd, fcntl.F_UNLCK)
        v.keepctl("rewrap")
        refused(v, None, v.pid())
        v.unmount()
        v.mount()
        t.check(not lock(fd, fcntl.F_RDLCK), "a vault that is not shared can be shared")
        refused(v, None, v.pid())
        refused(v, "shared", v.pid())
        v.unmount()
        t.check(lock(fd, fcntl.F_RDLCK), "an unmounted vault is locked")
        code, _, err = t.run([t.KEEPFS, v.vault, v.mnt], ok=None, env=v.env)
        t.check(code == 1 and "in use" in err and "process %d " % os.getpid() in err, "a vault in use: exit %d: %s" % (code, err))
        v.mount("shared")
        v.unmount()


def main():
    t.need_fuse()
    if not shutil.which("rsync"):
        t.skip("no rsync here")
    v = t.Vault()
    v.init()
    made = states(v)
    followed(v, made)
    one_by_one(v)
    half_arrived(v)
    whole_vault(v)


t.main(main)
