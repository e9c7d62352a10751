"""Ways to mount and their options: mount(8), fstab, read-only and the other flags, and a user's own mount without root."""
import errno
import os
import pwd
import shutil
import stat
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from keepfs_testlib import *  # noqa: E402,F401,F403

USER = 41001


def flags_of(mnt):
    """Options of the mount itself, as the kernel has them."""
    with open("/proc/self/mountinfo") as table:
        for line in table:
            words = line.split()
            if words[4] == mnt:
                return set(words[5].split(",")), words[words.index("-") + 1], words[words.index("-") + 2]
    raise Failure("nothing is mounted at " + mnt)


def refusal(function, *args):
    try:
        function(*args)
    except OSError as e:
        return errno.errorcode[e.errno]
    return "done"


def install():
    """In a mount namespace of our own: keepfs is where mount(8) looks for it, as after an installation."""
    run(["mount", "-t", "tmpfs", "none", "/usr/local/bin"])
    os.symlink(shutil.which(KEEPFS), "/usr/local/bin/keepfs")


def mount8(t):
    """mount -t fuse.keepfs, with and without options; umount ends it."""
    env = {name: value for name, value in t.env.items() if name != "KEEPFS_KEYSTORE"}
    for options, has, lacks in (("", {"nosuid", "nodev", "rw"}, {"noexec"}), (",ro,noexec", {"ro", "noexec", "nosuid"}, set()),
                                (",suid,dev,noatime", {"noatime", "rw"}, {"noexec", "ro"})):
        run(["mount", "-t", "fuse.keepfs", t.vault, t.mnt, "-o", "keystore=%s%s" % (t.keystore, options)], env=env)
        t.mounts.append(t.mnt)
        t.pids.append(t.service_pid())
        flags, kind, source = flags_of(t.mnt)
        check(kind == "fuse.keepfs" and source == t.vault, "the mount table says %s from %s" % (kind, source))
        check(has <= flags and not lacks & flags, "mount -o %s: %s" % (options, flags))
        run(["umount", t.mnt])
        t.mounts.remove(t.mnt)
        t.wait_end()
    code, _, err = run(["mount", "-t", "fuse.keepfs", t.vault, t.mnt, "-o", "shiny,keystore=" + t.keystore], ok=None, env=env)
    check(code != 0 and "shiny" in err and not is_mounted(t.mnt), "mount with an unknown option: %d %s" % (code, err))


def fstab(t):
    """A line in fstab, mounted by `mount -a` and by its mountpoint."""
    table = t.dir + "/fstab"
    with open(table, "w") as f:
        f.write("# a comment\n%s %s fuse.keepfs keystore=%s,allow_other,nofail,x-systemd.automount,_netdev,noatime 0 0\n"
                "%s/none %s/none fuse.keepfs noauto,keystore=%s 0 0\n" % (t.vault, t.mnt, t.keystore, t.dir, t.dir, t.keystore))
    env = {name: value for name, value in t.env.items() if name != "KEEPFS_KEYSTORE"}
    for words in (["-a"], [t.mnt]):
        run(["mount", "-T", table, *words], env=env)
        t.mounts.append(t.mnt)
        t.pids.append(t.service_pid())
        check("noatime" in flags_of(t.mnt)[0], "mount %s: %s" % (words, flags_of(t.mnt)))
        with open(t.mnt + "/by-fstab", "a") as f:
            f.write("x")
        run(["umount", t.mnt])
        t.mounts.remove(t.mnt)
        t.wait_end()
    t.mount(options="ro")
    check(os.path.getsize(t.mnt + "/by-fstab") == 2, "what was written through fstab's mounts")
    t.unmount()


def read_only(t):
    t.mount()
    with open(t.mnt + "/f", "w") as f:
        f.write("content")
    os.mkdir(t.mnt + "/d")
    os.setxattr(t.mnt + "/f", "user.x", b"1")
    t.unmount()
    before = {name: (os.stat(t.vault + "/" + name).st_mtime_ns, os.stat(t.vault + "/" + name).st_size) for name in os.listdir(t.vault)}
    t.mount(options="ro")
    f, d = t.mnt + "/f", t.mnt + "/d"
    check(open(f).read() == "content" and os.getxattr(f, "user.x") == b"1", "reading a read-only mount")
    for what, function, *args in (("open", os.open, f, os.O_WRONLY), ("create", os.open, d + "/x", os.O_CREAT | os.O_WRONLY), ("mkdir", os.mkdir, d + "/x"),
                                  ("unlink", os.unlink, f), ("rmdir", os.rmdir, d), ("rename", os.rename, f, d + "/f"), ("chmod", os.chmod, f, 0o600),
                                  ("chown", os.chown, f, 1, 1), ("truncate", os.truncate, f, 0), ("link", os.link, f, d + "/l"), ("symlink", os.symlink, "x", d + "/s"),
                                  ("setxattr", os.setxattr, f, "user.x", b"2"), ("removexattr", os.removexattr, f, "user.x"), ("utime", os.utime, f),
                                  ("mknod", os.mknod, d + "/n", stat.S_IFIFO | 0o600)):
        check(refusal(function, *args) == "EROFS", "%s in a read-only mount: %s" % (what, refusal(function, *args)))
    check("ro" in flags_of(t.mnt)[0], "flags of a read-only mount")
    t.unmount()
    after = {name: (os.stat(t.vault + "/" + name).st_mtime_ns, os.stat(t.vault + "/" + name).st_size) for name in os.listdir(t.vault)}
    check(before == after, "a read-only mount changed the vault: %s" % [name for name in before if before[name] != after.get(name)])


def atime_of(path):
    with open(path, "rb") as f:
        f.read()
    return os.stat(path).st_atime_ns


def flags(t):
    """What the flags forbid, and that it works without them."""
    t.mount(options="allow_other,suid,dev")
    os.chmod(t.mnt, 0o755)
    shutil.copyfile(shutil.which("id"), t.mnt + "/id")
    os.chmod(t.mnt + "/id", 0o4755)
    if os.getuid() == 0:
        os.mknod(t.mnt + "/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.chmod(t.mnt + "/null", 0o666)
    os.utime(t.mnt + "/f", ns=(10 ** 18, 10 ** 18))
    t.unmount()
    for options, suid, dev, runs in (("allow_other,suid,dev", True, True, True), ("allow_other", False, False, True), ("allow_other,suid", True, False, True),
                                     ("allow_other,dev,nosuid", False, True, True), ("allow_other,noexec,suid,dev", False, True, False)):
        t.mount(options=options)
        t.keepctl("role", "assign", "user:%d" % USER, "Reader")
        if os.getuid() == 0:
            code, out = as_user(t.mnt + "/id")
            check((code == 0) == runs, "-o %s: running a program: exit %d %s" % (options, code, out))
            check(not runs or ("euid=0" in out) == suid, "-o %s: a set-uid program: %s" % (options, out))
            check((refusal(lambda: os.close(os.open(t.mnt + "/null", os.O_WRONLY))) == "done") == dev, "-o %s: a device" % options)
        check(("nosuid" not in flags_of(t.mnt)[0]) == (options.find("nosuid") < 0 and "suid" in options), "-o %s: %s" % (options, flags_of(t.mnt)))
        t.unmount()
    for options in ("noatime", "relatime", "strictatime"):
        t.mount(options=options)
        check(options == "strictatime" or options in flags_of(t.mnt)[0], "-o %s: %s" % (options, flags_of(t.mnt)))
        seen = atime_of(t.mnt + "/f")
        check(options != "noatime" or seen == 10 ** 18, "-o noatime: reading changes atime")
        t.unmount()


def as_user(*argv, env=None, user=USER):
    try:
        done = subprocess.run(list(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, user=user, group=user,
                              extra_groups=[], env=env, timeout=120)
    except OSError as e:
        return 126, e.strerror
    return done.returncode, done.stdout


def own_mount(t):
    """A user without root: keystore and vault in the own home, mounted with fusermount3."""
    helper = shutil.which("fusermount3")
    if os.getuid() != 0 or not helper or not os.stat(helper).st_mode & stat.S_ISUID:
        print("  (needs root to become another user, and a set-uid fusermount3)")
        return
    user = pwd.getpwnam("nobody").pw_uid  # fusermount3 asks for an account
    home = t.dir + "/home"
    os.mkdir(home, 0o700)
    os.chown(home, user, user)
    keepfs, keepctl = public_copy(KEEPFS), public_copy(KEEPCTL)
    env = {"HOME": home, "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    clear, mode = home + "/clear", stat.S_IMODE(os.stat("/dev/fuse").st_mode)

    def must(*argv):
        code, out = as_user(*argv, env=env, user=user)
        check(code == 0, "%s as uid %d: exit %d %s" % (" ".join(argv), user, code, out))
        return out
    os.chmod("/dev/fuse", 0o666)
    try:
        must(keepctl, "init", home + "/vault")
        check(os.path.exists(home + "/.local/share/keepfs/default/keystore.conf"), "the keystore is not in the user's home")
        must("mkdir", clear)
        must(keepfs, home + "/vault", clear)
        t.mounts.append(clear)
        t.pids.append(json.loads(must(keepctl, "--json", "status"))["pid"])
        must("sh", "-c", "umask 027; echo mine > %s/f && mkdir %s/d && mv %s/f %s/d/g && cp /usr/bin/id %s/id && chmod 4755 %s/id" % ((clear,) * 6))
        check(must("stat", "-c", "%u:%g %a", clear + "/d/g").strip() == "%d:%d 640" % (user, user), "owner and mode: " + must("stat", clear + "/d/g"))
        check("euid" not in must(clear + "/id"), "a set-uid program in a user's own mount")
        check({"nosuid", "nodev"} <= flags_of(clear)[0], "flags of a user's mount: %s" % flags_of(clear)[0])
        check(refusal(os.listdir, clear) == "EACCES", "root enters a user's mount: " + refusal(os.listdir, clear))
        must(keepctl, "role", "assign", "everyone", "Reader")
        check("everyone" in must(keepctl, "role", "list"), "role list of a user's own keystore")
        check(as_user(keepctl, "--keystore", home + "/.local/share/keepfs/default", "key", "list", env=env, user=user)[0] == 0, "key list")
        must("fusermount3", "-u", clear)
        t.mounts.remove(clear)
        t.wait_end()
        # What only root may ask for is refused with its reason, and nothing stays mounted.
        code, out = as_user(keepfs, home + "/vault", clear, "-o", "allow_other", env=env, user=user)
        allowed = any(line.strip() == "user_allow_other" for line in open("/etc/fuse.conf")) if os.path.exists("/etc/fuse.conf") else False
        check(allowed or (code != 0 and "user_allow_other" in out and not is_mounted(clear)), "-o allow_other by a user: %d %s" % (code, out))
        if is_mounted(clear):
            must("fusermount3", "-u", clear)
        must(keepfs, home + "/vault", clear, "-o", "ro,suid,dev")
        t.mounts.append(clear)
        t.pids.append(json.loads(must(keepctl, "--json", "status"))["pid"])
        check(must("cat", clear + "/d/g") == "mine\n", "content after a new mount")
        check({"ro", "nosuid", "nodev"} <= flags_of(clear)[0], "a user asks for suid and dev: %s" % flags_of(clear)[0])
        must("fusermount3", "-u", clear)
        t.mounts.remove(clear)
        t.wait_end()
    finally:
        os.chmod("/dev/fuse", mode)


def all_tests():
    need_fuse()
    inside = sys.argv[1:] == ["--inside"]
    if inside:
        install()
    elif os.getuid() == 0 and shutil.which("mount.fuse", path="/usr/sbin:/sbin"):
        print(run(["unshare", "-m", "--propagation", "private", sys.executable, os.path.abspath(__file__), "--inside"])[1], flush=True)
    else:
        print("  (mount -t fuse.keepfs needs root and mount.fuse)")
    t = Vault()
    os.chmod(t.dir, 0o755)
    t.init()
    for test in (mount8, fstab) if inside else (read_only, flags, own_mount):
        print(test.__name__, flush=True)
        test(t)
    check(t.sanitizer_report() is None, "%s" % t.sanitizer_report())


main(all_tests)
