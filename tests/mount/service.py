"""The service: several mounts, what it refuses, other users, a full disk, signals."""
import errno
import os
import signal
import subprocess
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from keepfs_testlib import *  # noqa: E402,F401,F403


def refused(t, vault, mnt, text, *more, codes=(1,), env=None):
    code, _, err = run([KEEPFS, vault, mnt] + list(more), ok=None, env=env or t.env)
    check(code in codes, "mounting %s at %s %s: exit %d, expected %s: %s" % (vault, mnt, more, code, codes, err))
    check(text in err, "the refusal should say %r: %s" % (text, err))
    check(err.startswith("keepfs: ") and len(err.strip().split("\n")) == 1, "a refusal is one line: %r" % err)


def refusals(t):
    other, file, full = t.dir + "/m2", t.dir + "/file", t.dir + "/full"
    os.mkdir(other)
    os.mkdir(full)
    open(file, "w").close()
    open(full + "/x", "w").close()
    refused(t, t.vault, file, "ot a directory")
    refused(t, t.vault, full, "not empty")
    refused(t, t.vault, t.dir + "/none", "No such", codes=(4,))
    refused(t, t.dir + "/none", other, "No such", codes=(4,))
    refused(t, file, other, "ot a directory")
    refused(t, full, other, "vault", codes=(1, 4))
    refused(t, t.vault, other, "unknown mount option `shiny'".replace("'", "`"), "-o", "rw,shiny", codes=(2,))
    refused(t, t.vault, other, "unknown option", "--shiny", codes=(2,))
    refused(t, t.vault, other, "keystore", "--keystore", full, codes=(4,))
    t.mount()
    refused(t, t.vault, other, "mounted at " + t.mnt)
    refused(t, t.vault, t.mnt, "already")
    refused(t, t.vault, full, "not empty")
    run([KEEPFS, "--serve"], ok=(1,), env=t.env)
    stranger = Vault()
    stranger.init()
    refused(stranger, t.vault, other, "", codes=(1, 4))
    stranger.mount(vault=stranger.vault)
    refused(stranger, t.vault, other, "", codes=(1, 4))
    stranger.unmount()
    check(not is_mounted(other), "a refused mount leaves nothing mounted")
    check(os.listdir(t.mnt) == [], "the first mount still works")
    code, out, _ = run([KEEPFS, "--version"])
    check(out.startswith("keepfs "), "--version")
    check("usage:" in run([KEEPFS, "--help"])[1], "--help")
    t.unmount()
    t.mount(options="nonempty", mnt=full)
    check(not os.path.exists(full + "/x"), "-o nonempty mounts over")
    t.unmount(full)


def several(t):
    second, mnt2 = t.dir + "/vault2", t.dir + "/m3"
    t.init(vault=second)
    os.mkdir(mnt2)
    t.mount()
    run([KEEPFS, second, mnt2], env=t.env)
    check(is_mounted(mnt2), "the second mount")
    with open(t.mnt + "/a", "w") as f:
        f.write("one")
    with open(mnt2 + "/a", "w") as f:
        f.write("two")
    check(open(t.mnt + "/a").read() == "one" and open(mnt2 + "/a").read() == "two", "two mounts are two vaults")
    pid = t.pid()
    mounts = t.keepctl("mount", "list", json=True)
    check(sorted(m["mountpoint"] for m in mounts) == sorted([t.mnt, mnt2]), "mount list: %r" % mounts)
    run(["fusermount3", "-u", t.mnt])
    t.mounts.remove(t.mnt)
    wait_for(lambda: len(t.keepctl("mount", "list", json=True)) == 1, 60, "the first mount to end")
    check(alive(pid) and open(mnt2 + "/a").read() == "two", "the service goes on with its last mount")
    fails = []

    def remount():
        for _ in range(5):
            code, _, err = run([KEEPFS, t.vault, t.mnt], ok=None, env=t.env)
            if code != 0:
                fails.append(err)
                return
            run(["fusermount3", "-u", t.mnt])
    thread = threading.Thread(target=remount)
    thread.start()
    thread.join()
    check(not fails, "mounting again and again: %s" % fails)
    run(["fusermount3", "-u", mnt2])
    t.wait_end()


def quick_cycles(t):
    """A mount that meets the service of the one before, on its way out."""
    quick = Vault(foreground=False)
    quick.init()
    os.makedirs(quick.mnt, exist_ok=True)
    for i in range(10):
        run([KEEPFS, quick.vault, quick.mnt], env=quick.env)
        with open(quick.mnt + "/n", "w") as f:
            f.write(str(i))
        run(["fusermount3", "-u", quick.mnt])
    quick.mount()
    check(open(quick.mnt + "/n").read() == "9", "content after quick cycles")
    quick.unmount()


def signals(t):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        t.mount()
        with open(t.mnt + "/sig", "w") as f:
            f.write("written before %d" % number)
        t.proc.send_signal(number)
        t.mounts.remove(t.mnt)
        t.wait_end()
        check(not is_mounted(t.mnt), "a signal unmounts")
        t.mount()
        check(open(t.mnt + "/sig").read() == "written before %d" % number, "content after a signal")
        t.unmount()
    t.mount()
    held = open(t.mnt + "/held", "w")
    held.write("dirty")
    held.flush()
    t.proc.send_signal(signal.SIGTERM)
    t.mounts.remove(t.mnt)
    t.wait_end()
    check(not is_mounted(t.mnt), "a signal unmounts what is in use")
    try:
        held.close()
    except OSError:
        pass
    t.mount()
    check(open(t.mnt + "/held").read() == "dirty", "dirty data is pushed out before a forced end")
    t.unmount()


def read_only(t):
    t.mount()
    with open(t.mnt + "/ro", "w") as f:
        f.write("content")
    t.unmount()
    t.mount(options="ro")
    check(open(t.mnt + "/ro").read() == "content", "reading a read-only mount")
    try:
        open(t.mnt + "/ro", "w")
        raise Failure("a read-only mount was written")
    except OSError as e:
        check(e.errno == errno.EROFS, "writing a read-only mount: %s" % e)
    t.unmount()
    t.mount(options="cache=none,crash=strict")
    with open(t.mnt + "/none", "wb") as f:
        f.write(b"x" * 100000)
    with open(t.mnt + "/none", "ab") as f:
        f.write(b"y")
    with open(t.mnt + "/none", "rb") as f:
        check(f.read() == b"x" * 100000 + b"y", "content without a cache")
    t.unmount()


def as_nobody(code, *args):
    done = subprocess.run([sys.executable, "-c", "import os,sys\nos.setgroups([])\nos.setgid(65534)\nos.setuid(65534)\n" + code] + list(args),
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return done.returncode, done.stdout.decode() + done.stderr.decode()


def others(t):
    if os.getuid() != 0:
        print("  (needs root)")
        return
    os.chmod(t.dir, 0o755)
    t.mount(options="allow_other")
    os.chmod(t.mnt, 0o755)
    with open(t.mnt + "/public", "w") as f:
        f.write("for those with a role")
    os.chmod(t.mnt + "/public", 0o644)
    os.mkdir(t.mnt + "/open")
    os.chmod(t.mnt + "/open", 0o777)
    code, out = as_nobody("import errno\ntry:\n open(sys.argv[1])\nexcept OSError as e:\n print(errno.errorcode[e.errno])", t.mnt + "/public")
    check(out.strip() == "EACCES", "another user without a role reads: %s" % out)
    code, out = as_nobody("import errno\ntry:\n open(sys.argv[1]+'/f','w')\nexcept OSError as e:\n print(errno.errorcode[e.errno])", t.mnt + "/open")
    check(out.strip() == "EACCES", "another user without a role creates: %s" % out)
    check(os.listdir(t.mnt + "/open") == [], "a refused create leaves nothing")
    code, out = as_nobody("os.mkdir(sys.argv[1])\nprint(os.stat(sys.argv[1]).st_uid, os.listdir(sys.argv[2]))", t.mnt + "/open/d", t.mnt)
    check(code == 0 and out.startswith("65534 "), "names need no role: %s" % out)
    denied = [r for r in t.keepctl("audit", "list", json=True) if r["outcome"] == "denied" and r["uid"] == 65534]
    check(any(r["action"].startswith("open") for r in denied) and len(denied) >= 2, "denials are in the trail: %r" % denied)
    t.unmount()
    t.mount()
    code, out = as_nobody("import errno\ntry:\n os.listdir(sys.argv[1])\nexcept OSError as e:\n print(errno.errorcode[e.errno])", t.mnt)
    check(out.strip() == "EACCES", "without allow_other others do not enter: %s" % out)
    t.unmount()


def full_disk(t):
    if os.getuid() != 0:
        print("  (needs root)")
        return
    disk = t.dir + "/disk"
    os.mkdir(disk)
    run(["mount", "-t", "tmpfs", "-o", "size=20m", "keepfs-test", disk])
    try:
        vault = disk + "/vault"
        t.init(vault=vault)
        t.mount(vault=vault)
        old = os.urandom(1 << 20)
        with open(t.mnt + "/old", "wb") as f:
            f.write(old)
            os.fsync(f.fileno())
        code = None
        try:
            with open(t.mnt + "/big", "wb") as f:
                for _ in range(40):
                    f.write(os.urandom(1 << 20))
                f.flush()
                os.fsync(f.fileno())
        except OSError as e:
            code = e.errno
        check(code == errno.ENOSPC, "a full disk gives ENOSPC, not %s" % code)
        with open(t.mnt + "/old", "rb") as f:
            check(f.read() == old, "old data on a full disk")
        os.unlink(t.mnt + "/big")
        with open(t.mnt + "/new", "wb") as f:
            f.write(old)
            os.fsync(f.fileno())
        t.unmount()
        t.mount(vault=vault)
        with open(t.mnt + "/old", "rb") as f, open(t.mnt + "/new", "rb") as g:
            check(f.read() == old and g.read() == old, "old and new data after the disk was full")
        t.unmount()
    finally:
        run(["umount", "-l", disk])


def all_tests():
    need_fuse()
    t = Vault()
    t.init()
    for test in (refusals, several, quick_cycles, signals, read_only, others, full_disk):
        print(test.__name__, flush=True)
        test(t)
    check(t.sanitizer_report() is None, "%s" % t.sanitizer_report())


main(all_tests)
