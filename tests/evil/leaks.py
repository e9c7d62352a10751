#!/usr/bin/python3
"""No plaintext and no key where it must not be.

A random marker goes into contents, names, links and xattrs: it must not be found in the vault, the keystore or the service's
messages. The memory of the service that is not locked (what a core or swap could get) is searched, while it works, for the PIN,
the vault key, DEKs and what is derived from them; the same keys are searched for in all files. The service cannot be dumped
and has no PIN on its command line or in its environment. --files sets how many files the work has.
"""
import argparse
import base64
import glob
import os
import re
import stat
import subprocess
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import keepfs_testlib as t


def all_bytes(root):
    """(path, content) of every file, name, link target and xattr below root."""
    for base, dirs, names in os.walk(root):
        for name in dirs + names:
            path = os.path.join(base, name)
            extra = os.fsencode(path)
            st = os.lstat(path)
            for x in os.listxattr(path, follow_symlinks=False):
                extra += b"\0" + os.fsencode(x) + b"\0" + os.getxattr(path, x, follow_symlinks=False)
            if stat.S_ISLNK(st.st_mode):
                extra += b"\0" + os.fsencode(os.readlink(path))
            yield path + " (name, link, xattrs)", extra
            if stat.S_ISREG(st.st_mode):
                with open(path, "rb") as f:
                    yield path, f.read()


def forms(secret):
    """A secret as bytes, hexadecimal and base64 (where it could start anywhere, the inner part of each alignment)."""
    found = [secret, secret.hex().encode(), secret.hex().upper().encode()]
    for shift in range(3):
        for coder in (base64.b64encode, base64.urlsafe_b64encode):
            found.append(coder(bytes(shift) + secret)[4:-4])
    return found


def none_in(places, named, allowed=()):
    """No form of any of the named secrets in any of the places."""
    wanted = [(name, form) for name, secret in named for form in forms(secret)]
    for where, content in places:
        if where in allowed:
            continue
        for name, form in wanted:
            at = content.find(form)
            t.check(at < 0, "%s is in %s at %d" % (name, where, at))


def plant(v, marker, files):
    """The marker in every place that is to be secret."""
    text = marker.hex()[:40]
    short = marker.hex()[:30]
    os.mkdir(v.mnt + "/dir-" + text)
    for i in range(files):
        path = v.mnt + "/dir-%s/%s-%d%s" % (text, short, i, "-" + text * 4 if i % 7 == 0 else "")
        with open(path, "wb") as f:
            f.write(marker * (1 + i % 300) + b"tail" + marker)
            if i % 5 == 0:
                f.flush()
                os.fsync(f.fileno())
        if i % 4 == 0:
            os.setxattr(path, "user." + short, marker + b"value")
            os.symlink(text + "/target/" + text, path + ".link" if i % 7 else path[:120] + ".link")
            os.rename(path, path[:150] + "-renamed")
    os.setxattr(v.mnt + "/dir-" + text, "user." + short, marker)
    try:  # errors are told: not with names or contents
        open(v.mnt + "/none-" + text)
    except OSError:
        pass


def keep_working(v, stop):
    """Reads, writes and new files while memory is looked at."""
    i = 0
    while not stop.is_set():
        for base, _, names in os.walk(v.mnt):
            for name in names[:20]:
                path = os.path.join(base, name)
                if not os.path.islink(path):
                    with open(path, "rb") as f:
                        f.read()
        with open(v.mnt + "/busy%d" % (i % 30), "wb") as f:
            f.write(os.urandom(50000))
            f.flush()
            os.fsync(f.fileno())
        i += 1


def memory(pid):
    """[(mapping, bytes)] of the mappings that are not locked, and of those that are."""
    maps, found = [], []
    with open("/proc/%d/smaps" % pid) as f:
        for line in f:
            head = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \S+\s*(.*)", line)
            if head:
                maps.append([int(head[1], 16), int(head[2], 16), head[3], head[4], ""])
            elif line.startswith("VmFlags:"):
                maps[-1][4] = line.split(":")[1].split()
    locked = []
    with open("/proc/%d/mem" % pid, "rb", buffering=0) as mem:
        for start, end, mode, name, flags in maps:
            if "r" not in mode or name in ("[vvar]", "[vsyscall]", "[vvar_vclock]"):
                continue
            try:
                mem.seek(start)
                content = b""
                while len(content) < end - start:
                    chunk = mem.read(min(1 << 24, end - start - len(content)))
                    if not chunk:
                        break
                    content += chunk
            except OSError:
                continue
            (locked if "lo" in flags else found).append(("memory %x-%x %s" % (start, end, name), content))
    return found, locked


def undumpable(v, pid):
    with open("/proc/%d/limits" % pid) as f:
        core = next(line for line in f if line.startswith("Max core file size")).split()[4:6]
    t.check(core == ["0", "0"], "RLIMIT_CORE of the service is %s" % core)
    for what in ("cmdline", "environ"):
        with open("/proc/%d/%s" % (pid, what), "rb") as f:
            yield "/proc/PID/" + what, f.read()


def keys_of(v, unwrap):
    """[(name, key)] of the vault and its files, from the headers; the service is stopped."""
    files = [f for f in t.backing_files(v.vault) if not f.endswith("keepfs.vault")]
    out = t.run([unwrap, v.keystore, os.path.join(v.vault, "keepfs.vault")] + files[::max(1, len(files) // 12)], env=v.env)[1]
    found = []
    for line in out.splitlines():
        words = line.split(" ")
        for word in words[1:]:
            name, _, text = word.partition("=")
            key = bytes.fromhex(text)
            if name == "commitment":
                continue
            for part in range(0, len(key), 32):
                found.append(("%s of %s" % (name, os.path.basename(words[0])), key[part:part + 32]))
    t.check(len(found) > 20, "unwrap gave %d keys" % len(found))
    return found


def as_nobody():
    """PR_SET_DUMPABLE, seen from outside: what belongs to a process that cannot be dumped belongs to root in /proc."""
    t.KEEPFS, t.KEEPCTL = t.public_copy(t.KEEPFS), t.public_copy(t.KEEPCTL)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os.environ["HOME"] = "/tmp"
            v = t.Vault()
            v.init()
            v.procs.append(subprocess.Popen([t.KEEPFS, "--serve", "-f"], env=v.env, stdin=subprocess.DEVNULL))
            t.wait_for(lambda: os.path.exists(v.keystore + "/control.sock"), 30, "the service")
            owner = os.stat("/proc/%d/environ" % v.procs[0].pid).st_uid
            v.procs[0].terminate()
            v.wait_end()
            v.cleanup()
            code = 0 if owner == 0 else 3
        except t.Failure as failure:
            print(failure, flush=True)
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    t.check(code != 3, "the service of another user can be dumped (PR_SET_DUMPABLE)")
    t.check(code == 0, "init and --serve as nobody failed")


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--unwrap", required=True, help="the unwrap program")
    p.add_argument("--files", type=int, default=60)
    p.add_argument("--looks", type=int, default=4, help="how often memory is looked at")
    args = p.parse_args()
    t.need_fuse()
    v = t.Vault()
    marker = os.urandom(32)
    v.init()
    v.mount()
    plant(v, marker, args.files)
    v.keepctl("audit", "list", json=True)
    v.keepctl("key", "rotate", "default")
    v.keepctl("rewrap")
    with open(glob.glob(v.keystore + "/pin")[0], "rb") as f:
        pin = f.read().strip()
    t.check(len(pin) >= 16, "the PIN has only %d characters" % len(pin))
    root = os.geteuid() == 0
    dumps, stop = [], threading.Event()
    worker = threading.Thread(target=keep_working, args=(v, stop), daemon=True)
    worker.start()
    for look in range(args.looks if root else 0):
        stop.wait(0.4)
        dump, locked = memory(v.pid())
        dumps.append(dump)
    stop.set()
    worker.join(60)
    t.check(not worker.is_alive(), "the work inside the mount hangs")
    none_in(undumpable(v, v.pid()), [("the PIN", pin)])
    dumps.append(memory(v.pid())[0] if root else [])
    v.unmount()
    keys = keys_of(v, args.unwrap)
    nowhere = [("the marker", marker), ("the marker's text", marker.hex()[:40].encode()), ("the marker's short text", marker.hex()[:30].encode())]
    disk = list(all_bytes(v.vault)) + list(all_bytes(v.keystore)) + [(v.log, open(v.log, "rb").read())]
    none_in(disk, nowhere)
    none_in(disk, keys)
    none_in(disk, [("the PIN", pin)], allowed=(v.keystore + "/pin",))
    if root:  # the search finds what is there: the vault's keys are in locked memory
        t.check(any(key in content for name, key in keys if name.startswith("name of keepfs.vault") for _, content in locked),
                "the vault's name key is not in locked memory either: this search proves nothing")
    leaks = []
    for dump in dumps:
        for name, secret in [("the PIN", pin)] + keys:
            for where, content in dump:
                at = content.find(secret)
                if at >= 0:
                    leaks.append("%s in %s at %#x" % (name, where, at))
    t.check(not leaks, "%d secrets in memory that is not locked:\n%s" % (len(leaks), "\n".join(sorted(set(leaks))[:20])))
    print("%d keys, the PIN and the marker: in no file (%d looked at), not in %d looks at unlocked memory (%.0f MiB)" %
          (len(keys), len(disk), len(dumps) if root else 0, sum(len(c) for d in dumps for _, c in d) / 1048576))
    if root:
        as_nobody()
        print("cannot be dumped, no core, no PIN in arguments or environment")


t.main(main)
