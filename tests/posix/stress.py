#!/usr/bin/python3
"""Every file system stressor of stress-ng, one after the other, on a plain directory and inside a mount.

A stressor that fails in the mount and not in the plain directory is a failure; so is a mount that does not answer, or is not empty, after it.
The full size is 10 seconds each, the default here. --only NAME,NAME for some of them.
"""
import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import keepfs_testlib as t

# Those that never touch the directory given to them.
ELSEWHERE = {
    "binderfs": "mounts Android's binderfs",
    "bind-mount": "mounts / again and again in a namespace of its own",
    "procfs": "reads /proc",
}
# They would fill the disk, or take minutes to clean up.
SIZES = {
    "copy-file": ["--copy-file-bytes", "128M"],
    "dirdeep": ["--dirdeep-inodes", "20000"],
    "fallocate": ["--fallocate-bytes", "128M"],
    "fiemap": ["--fiemap-bytes", "32M"],
    "hdd": ["--hdd-bytes", "128M"],
    "iomix": ["--iomix-bytes", "64M"],
    "sync-file": ["--sync-file-bytes", "64M"],
}
NOT_HERE = (3, 4)  # no resources; not for this file system


def stressors():
    _, out, err = t.run(["stress-ng", "--class", "filesystem?"], ok=None)
    found = re.search(r"class 'filesystem' stressors: (.*)", out + err)
    t.check(found, "stress-ng does not list its stressors:\n" + out + err)
    return found.group(1).split()


def one(name, directory, args):
    """("passed" | "skipped" | "failed", what it said) for one stressor in one directory."""
    argv = ["stress-ng", "--" + name, str(args.instances), "--timeout", "%ds" % args.seconds, "--verify", "--temp-path", directory, "--oomable"]
    argv += SIZES.get(name, [])
    proc = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=directory, start_new_session=True)
    try:
        out = proc.communicate(timeout=args.seconds + 300)[0].decode(errors="replace")
    except subprocess.TimeoutExpired:
        os.killpg(proc.pid, signal.SIGKILL)
        return "failed", "did not end within %d s after its time" % 300
    t.check(proc.returncode != 1, "%s: stress-ng does not take its options:\n%s" % (name, out))
    said = [line for line in out.splitlines() if not re.search(r"\] (setting to|dispatching|successful|skipped: 0|passed|failed: 0|metrics|defaulting)", line)]
    if proc.returncode in NOT_HERE or (proc.returncode == 0 and re.search(r"skipping|not supported", "\n".join(said))):
        verdict = "skipped"
    else:
        verdict = "passed" if proc.returncode == 0 and not any("fail:" in line for line in said) else "failed"
    return verdict, "exit %d\n" % proc.returncode + "\n".join(line.replace("stress-ng: ", "") for line in said[:8])


def compare(v, plain, name, args):
    """One stressor in both; returns the failure or None."""
    here = os.path.join(v.mnt, "stress")
    os.mkdir(here)
    there, _ = one(name, plain, args)
    begin = time.time()
    verdict, said = one(name, here, args)
    print("%-12s plain %-8s mount %-8s %5.1f s" % (name, there, verdict, time.time() - begin), flush=True)
    if verdict != "passed" or there != "passed":
        print("".join("    %s\n" % line for line in said.splitlines()), end="", flush=True)
    if v.proc.poll() is not None or not t.is_mounted(v.mnt):
        return "%s: the mount is gone:\n%s" % (name, v.log_tail())
    left = os.listdir(here)
    shutil.rmtree(here)
    shutil.rmtree(plain)
    os.mkdir(plain)
    if verdict == "failed" and there != "failed":
        return "%s fails in the mount, not in a plain directory:\n%s" % (name, said)
    return "%s leaves %s" % (name, left[:3]) if left and verdict == "passed" and there == "passed" else None


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--seconds", type=int, default=10, help="for each stressor and place")
    p.add_argument("--instances", type=int, default=2)
    p.add_argument("--only", help="names of stressors, with commas")
    p.add_argument("--options", help="mount options")
    p.add_argument("--base", help="directory for the vault and the plain directory")
    args = p.parse_args()
    t.need_fuse()
    if not shutil.which("stress-ng"):
        t.skip("no stress-ng here")
    v = t.Vault(base=args.base)
    v.init()
    v.env.setdefault("UBSAN_OPTIONS", "print_stacktrace=1")
    v.mount(args.options)
    plain = os.path.join(v.dir, "plain")
    os.mkdir(plain)
    failures, names = [], args.only.split(",") if args.only else stressors()
    for name in names:
        if name in ELSEWHERE:
            print("%-12s left out: %s" % (name, ELSEWHERE[name]))
            continue
        failure = compare(v, plain, name, args)
        if failure:
            failures.append(failure)
            print("FAILURE: " + failure, flush=True)
    v.unmount()
    report = v.sanitizer_report()
    t.check(report is None, "a sanitizer said:\n%s" % report)
    t.check(not failures, "%d of %d: %s" % (len(failures), len(names), "; ".join(f.splitlines()[0] for f in failures)))


t.main(main)
