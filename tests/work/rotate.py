#!/usr/bin/python3
"""Rotation, rewrap and destruction of a key version; the root keys in the token; the token gone and back.

Rotate, rewrap all files: every header names the new version, nothing beyond the wrap slots changed, the old version can be
destroyed and everything still reads. Destroying it earlier is refused with the count. A SIGKILL in the middle of a rewrap,
then the same command, ends with the same result. pkcs11-tool shows the root keys as AES, sensitive, never extractable, local.
With the token directory away an uncached open gives ENOKEY and status exits 5; moved back, all heals without a restart.
Full size: --files 7000.
"""
import argparse
import errno
import glob
import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import keepfs_testlib as t


def beyond_wraps(vault):
    """{backing path: hash of everything but the wrap slots, size, mtime} of all that has a header."""
    found = {}
    for path in t.backing_files(vault):
        h = hashlib.sha256()
        with open(path, "rb") as f:
            page = bytearray(f.read(t.PAGE))
            for at in t.WRAP_AT:
                page[at:at + t.WRAP_SIZE] = bytes(t.WRAP_SIZE)
            h.update(page)
            while True:
                chunk = f.read(1 << 20)
                if not chunk:
                    break
                h.update(chunk)
        st = os.stat(path)
        found[os.path.relpath(path, vault)] = (h.hexdigest(), st.st_size, st.st_mtime_ns)
    return found


def versions(v, key_id):
    """{version: how many headers} of the files under a key, read from the headers themselves."""
    count = {}
    for path in t.backing_files(v.vault):
        header = t.parse_header(path)
        if header["key_id"] == key_id:
            count[header["version"]] = count.get(header["version"], 0) + 1
    return count


def key(v):
    return v.keepctl("key", "show", "default", json=True)[-1]


def backings(v):
    """How many file headers there are (the config is not one of them)."""
    return len(t.backing_files(v.vault)) - 1


def rotate_and_rewrap(v, plain):
    files = backings(v)
    v.unmount()
    v.mount()
    before = beyond_wraps(v.vault)
    old = key(v)
    v.keepctl("key", "rotate", "default")
    new = key(v)
    t.check(new["current_version"] == old["current_version"] + 1, "rotate: version %s, then %s" % (old["current_version"], new["current_version"]))
    key_id = new["id"].replace("-", "")
    t.check(versions(v, key_id) == {old["current_version"]: files}, "a rotation alone touched headers: %s" % versions(v, key_id))
    code, out, err = v.keepctl("key", "destroy-version", "default", old["current_version"], "--yes", ok=None)
    t.check(code == 1 and re.search(r"\b%d\b" % files, out + err), "destroying version %d with %d files on it: exit %d: %s%s" %
            (old["current_version"], files, code, out, err))
    start = time.time()
    last = v.keepctl("rewrap", json=True, timeout=3600)[-1]
    seconds = time.time() - start
    t.check(last["failed"] == 0 and last["rewrapped"] >= files, "rewrap of %d files: %s" % (files, last))
    t.check(versions(v, key_id) == {new["current_version"]: files}, "headers after the rewrap: %s" % versions(v, key_id))
    after = beyond_wraps(v.vault)
    changed = [p for p in before if after.get(p) != before[p] and p != "keepfs.vault"]
    t.check(set(before) == set(after) and not changed, "bytes or times beyond the wrap slots changed in %d files: %s" % (len(changed), changed[:3]))
    print("rewrap of %d files: %.1f s; no other byte changed" % (files, seconds), flush=True)
    t.compare(plain, t.snapshot(v.mnt), "after the rewrap")
    again = v.keepctl("rewrap", json=True)[-1]
    t.check(again["rewrapped"] == 0 and again["failed"] == 0, "a second rewrap: %s" % again)
    destroy(v, old["current_version"], plain)


def destroy(v, version, plain):
    v.keepctl("key", "destroy-version", "default", version, "--yes")
    state = [x["state"] for x in key(v)["versions"] if x["version"] == version]
    t.check(state == ["destroyed"] or state == [], "version %d after its destruction: %s" % (version, state))
    v.unmount()
    v.mount()
    t.compare(plain, t.snapshot(v.mnt), "after the old version was destroyed")


def kill_in_rewrap(v, plain, rng):
    """SIGKILL in the middle, mount, the same command again."""
    old = key(v)["current_version"]
    key_id = key(v)["id"].replace("-", "")
    files = backings(v)
    paths = [p for p in t.backing_files(v.vault) if not p.endswith("keepfs.vault")]
    v.keepctl("key", "rotate", "default")
    for attempt in range(6):
        job = subprocess.Popen([t.KEEPCTL, "--json", "rewrap"], env=v.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        sample = rng.sample(paths, min(60, len(paths)))
        end = time.time() + 30
        while job.poll() is None and time.time() < end:
            if sum(t.parse_header(p)["version"] > old for p in sample) > attempt:
                break
        v.kill9()
        out, err = job.communicate(timeout=60)
        state = versions(v, key_id)
        v.mount()
        if state.get(old) and state.get(old + 1):
            t.check(job.returncode != 0, "keepctl rewrap exits 0 though the service was killed: %s" % out.decode())
            break
    t.check(sum(state.values()) == files, "after the kill %s headers, expected %d" % (state, files))
    if not (state.get(old) and state.get(old + 1)):
        print("the kill came before or after the rewrap: %s" % state)
    t.compare(plain, t.snapshot(v.mnt), "after a SIGKILL in the middle of the rewrap")
    last = v.keepctl("rewrap", json=True, timeout=3600)[-1]
    t.check(last["failed"] == 0, "rewrap after the kill: %s" % last)
    t.check(versions(v, key_id) == {old + 1: files}, "headers after the second rewrap: %s" % versions(v, key_id))
    t.check(all(t.parse_header(p)["slots"] == 1 for p in paths), "an old wrap slot was left behind")
    destroy(v, old, plain)
    print("killed at %s, finished by the same command" % state, flush=True)


def offline(v, plain):
    """The same without a service."""
    v.unmount()
    old = key(v)
    v.keepctl("key", "rotate", "default")
    last = v.keepctl("rewrap", v.vault, json=True, timeout=3600)[-1]
    t.check(last["failed"] == 0, "rewrap without a service: %s" % last)
    count = versions(v, old["id"].replace("-", ""))
    t.check(count == {old["current_version"] + 1: backings(v)}, "headers after a rewrap without a service: %s" % count)
    v.mount()
    t.compare(plain, t.snapshot(v.mnt), "after a rewrap without a service")


def softhsm(v):
    """(configuration file, module, token directory) of the keystore's token."""
    confs = glob.glob(v.keystore + "/**/softhsm2.conf", recursive=True)
    t.check(confs, "no softhsm2.conf in the keystore")
    with open(confs[0]) as f:
        tokens = re.search(r"directories\.tokendir\s*=\s*(\S+)", f.read()).group(1)
    modules = [m for m in ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
                           "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so") if os.path.exists(m)]
    return confs[0], modules[0], tokens


def root_keys(v):
    """pkcs11-tool's listing, with the service stopped (two processes must not log in to one SoftHSM token)."""
    if not shutil.which("pkcs11-tool"):
        print("no pkcs11-tool: the listing of the root keys is left out")
        return
    conf, module, _ = softhsm(v)
    with open(os.path.join(v.keystore, "pin")) as f:
        pin = f.read().strip()
    alive = sum(x["state"] != "destroyed" for k in v.keepctl("key", "list", json=True)
                for x in v.keepctl("key", "show", k["name"], json=True)[-1]["versions"])
    v.unmount()
    out = t.run(["pkcs11-tool", "--module", module, "--login", "--pin", "env:KEEPFS_TEST_PIN", "--list-objects", "--type", "secrkey"],
                env=dict(os.environ, SOFTHSM2_CONF=conf, KEEPFS_TEST_PIN=pin))[1]
    keys = out.split("Secret Key Object;")[1:]
    roots = [k for k in keys if not re.search(r"label:\s*keepfs audit", k)]
    t.check(len(roots) == alive, "%d key versions live, the token has %d keys:\n%s" % (alive, len(roots), out))
    for text in keys:
        access = re.search(r"Access:\s*(.*)", text)
        words = [w.strip() for w in access.group(1).split(",")] if access else []
        t.check(re.match(r"\s*AES length 32", text), "not an AES-256 key:\n" + text)
        for word in ("sensitive", "always sensitive", "never extractable", "local"):
            t.check(word in words, "a root key is not %s:\n%s" % (word, text))
        t.check("extractable" not in words, "a root key is extractable:\n" + text)
    v.mount()
    print("%d root keys: AES-256, sensitive, always sensitive, never extractable, local" % len(keys), flush=True)


def token_away(v, plain):
    """The token directory moved away and back under a running service."""
    _, _, tokens = softhsm(v)
    v.unmount()
    v.mount()  # nothing is cached now
    victims = [os.path.join(v.mnt, p) for p, what in sorted(plain.items()) if what[0] == "file" and what[2] > 0][:4]
    os.rename(tokens, tokens + ".away")
    try:
        try:
            os.close(os.open(victims[0], os.O_RDONLY))
            raise t.Failure("an uncached open works without the token")
        except OSError as error:
            t.check(error.errno == errno.ENOKEY, "an uncached open without the token gives %s, not ENOKEY" % error)
        code, out, err = v.keepctl("status", ok=None)
        t.check(code == 5, "keepctl status without the token: exit %d: %s%s" % (code, out, err))
        os.listdir(v.mnt)  # names need no HSM
    finally:
        os.rename(tokens + ".away", tokens)
    start = time.time()
    while True:
        try:
            for path in victims:
                with open(path, "rb") as f:
                    f.read()
            break
        except OSError as error:
            t.check(error.errno == errno.ENOKEY, "open after the token came back: %s" % error)
            t.check(time.time() < start + 10, "the token is back for 10 s and open still gives ENOKEY:\n%s" % v.log_tail())
            time.sleep(0.1)
    healed = time.time() - start
    v.keepctl("status")
    with open(os.path.join(v.mnt, "after-the-token-came-back"), "w") as f:
        f.write("works")
    os.unlink(os.path.join(v.mnt, "after-the-token-came-back"))
    t.compare(plain, t.snapshot(v.mnt), "after the token came back")
    print("without its token: ENOKEY and exit 5; healed %.1f s after it came back" % healed, flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--files", type=int, default=1000)
    p.add_argument("--base", help="directory for everything")
    p.add_argument("--seed", type=int, default=1)
    args = p.parse_args()
    t.need_fuse()
    v = t.Vault(base=args.base)
    v.init()
    v.mount()
    t.make_tree(os.path.join(v.mnt, "tree"), args.files, seed=args.seed)
    plain = t.snapshot(v.mnt)
    rotate_and_rewrap(v, plain)
    kill_in_rewrap(v, plain, random.Random(args.seed))
    offline(v, plain)
    root_keys(v)
    token_away(v, plain)
    v.unmount()
    verdict = v.keepctl("audit", "verify", json=True)[-1]
    t.check(verdict["ok"] is True, "audit verify: %s" % verdict)


t.main(main)
