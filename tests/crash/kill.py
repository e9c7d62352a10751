#!/usr/bin/python3
"""The daemon is killed again and again while programs write; what was synced must be there after each remount.

Writers append, overwrite, truncate, replace and fsync; one process makes, renames and removes directories. The service is
killed with SIGKILL at a random moment, sometimes again while the files are being recovered. After each remount writer verify
compares every file with what was synced, every entry of the churned directory must be readable, and now and then the whole
directory must be removable. Sometimes fsck repairs the vault before it is mounted again; at the end it must have nothing to say.
--kills 2000 --parallel 2 is the full size. --seed repeats a run's choices (not the scheduler's).
"""
import argparse
import os
import random
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import keepfs_testlib as t

GONE = (0, 5, 103, 107, 108, 111)  # a short write, EIO, ECONNABORTED, ENOTCONN, ESHUTDOWN, ECONNREFUSED: what a killed mount answers


def readable(root):
    """Look at and read every entry; returns how many, fails at the first error."""
    count = 0

    def fail(error):
        raise t.Failure("cannot list %s: %s" % (error.filename, error.strerror))
    for base, dirs, names in os.walk(root, onerror=fail):
        for name in dirs + names:
            path = os.path.join(base, name)
            count += 1
            try:
                if os.path.islink(path):
                    os.readlink(path)
                elif not os.path.isdir(path):
                    os.lstat(path)
                    with open(path, "rb") as f:
                        while f.read(1 << 20):
                            pass
                else:
                    os.lstat(path)
            except OSError as error:
                raise t.Failure("%s: %s" % (path, error))
    return count


def fsck(v):
    """After a repair nothing may be left to say."""
    for options in (["--repair"], []):
        code, out, err = v.keepctl("fsck", v.vault, *options, ok=None)
        t.check(code == 0, "fsck %s: exit %d\n%s%s" % (" ".join(options), code, out, err))


class Round:
    def __init__(self, args, rng, vault, state):
        self.args, self.rng, self.v, self.state = args, rng, vault, state
        self.double, self.entries = 0, 0

    def start_writers(self):
        work = [[self.args.writer, "run", self.v.mnt + "/files", self.state, str(i), str(self.rng.getrandbits(40))]
                for i in range(self.args.writers)]
        work += [[self.args.writer, "churn", self.v.mnt + "/churn", str(self.rng.getrandbits(40))]]
        return [subprocess.Popen(w, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for w in work]

    def kill(self):
        when = time.clock_gettime(time.CLOCK_MONOTONIC)
        self.v.kill9()
        return when

    def end_writers(self, procs, killed_at):
        for proc in procs:
            out, err = proc.communicate(timeout=60)
            text = out.decode().strip()
            t.check(proc.returncode == 0 and text, "%s ended with %d: %s %s" % (proc.args[1], proc.returncode, text, err.decode()))
            at, code, what = text.split(None, 2)
            t.check(float(at) >= killed_at - 0.05, "%s failed %.3f s before the kill: %s: %s\n%s" %
                    (proc.args[1], killed_at - float(at), what, os.strerror(int(code)), self.v.log_tail()))
            t.check(int(code) in GONE, "%s: after the kill %s gave %s" % (proc.args[1], what, os.strerror(int(code))))

    def verify(self):
        for i in range(self.args.writers):
            code, out, err = t.run([self.args.writer, "verify", self.v.mnt + "/files", self.state, i], ok=None)
            t.check(code == 0, "after the kill:\n%s%s\nservice said:\n%s" % (out, err, self.v.log_tail(1500)))
        readable(self.v.mnt + "/files")
        self.entries = readable(self.v.mnt + "/churn")

    def verify_killed(self):
        """Start to read everything, and kill in the middle of the recovery."""
        self.double += 1
        reader = subprocess.Popen(["cat"] + [os.path.join(self.v.mnt, "files", n) for n in sorted(os.listdir(self.v.mnt + "/files"))],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(self.rng.random() ** 2 * 0.15)
        self.kill()
        reader.wait(60)
        self.v.mount(self.args.options)

    def go(self, number):
        procs = self.start_writers()
        time.sleep(self.rng.random() ** 2 * self.args.longest)
        killed_at = self.kill()
        self.end_writers(procs, killed_at)
        if number % 20 == 5:
            fsck(self.v)
        self.v.mount(self.args.options)
        if self.rng.random() < self.args.again:
            self.verify_killed()
        self.verify()
        if number % 10 == 9:
            shutil.rmtree(self.v.mnt + "/churn")
            os.mkdir(self.v.mnt + "/churn")


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--writer", required=True, help="the writer program")
    p.add_argument("--kills", type=int, default=15)
    p.add_argument("--writers", type=int, default=4)
    p.add_argument("--again", type=float, default=0.2, help="how many of the kills are followed by one during the recovery")
    p.add_argument("--parallel", type=int, default=1, help="so many vaults at a time, each with its share of the kills")
    p.add_argument("--longest", type=float, default=1.2, help="longest time of a round, in seconds")
    p.add_argument("--options", help="mount options")
    p.add_argument("--base", help="directory for the vault")
    p.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    args = p.parse_args()
    t.need_fuse()
    if args.parallel > 1:
        side_by_side(args)
    else:
        one_vault(args)


def side_by_side(args):
    """Processes of this program, one per vault."""
    skip, rest, procs = 0, [], []
    for a in sys.argv[1:]:
        if skip or a in ("--kills", "--parallel", "--seed"):
            skip = 0 if skip else 1
        elif not a.startswith(("--kills=", "--parallel=", "--seed=")):
            rest.append(a)
    for i in range(args.parallel):
        share = args.kills // args.parallel + (i < args.kills % args.parallel)
        procs.append(subprocess.Popen([sys.executable, os.path.abspath(__file__)] + rest +
                                      ["--kills", str(share), "--seed", str(args.seed + i)]))
    failed = [p.args[-1] for p in procs if p.wait() != 0]
    t.check(not failed, "with the seeds %s" % ", ".join(failed))


def one_vault(args):
    print("seed %d, %d kills" % (args.seed, args.kills), flush=True)
    v = t.Vault(base=args.base)
    state = os.path.join(v.dir, "state")
    os.mkdir(state)
    v.init()
    v.mount(args.options)
    os.mkdir(v.mnt + "/files")
    os.mkdir(v.mnt + "/churn")
    r = Round(args, random.Random(args.seed), v, state)
    start = time.time()
    for number in range(args.kills):
        try:
            r.go(number)
        except t.Failure as failure:
            raise t.Failure("kill %d of seed %d: %s" % (number + 1, args.seed, failure))
        if number % 25 == 24:
            print("%d kills (%d more in recovery), %d entries churned, %.0f s" % (number + 1, r.double, r.entries, time.time() - start), flush=True)
    before = t.snapshot(v.mnt)
    shutil.rmtree(v.mnt + "/churn")
    v.unmount()
    v.mount(args.options)
    t.compare({k: x for k, x in before.items() if not k.startswith("churn")}, t.snapshot(v.mnt), "after a clean unmount")
    verdict = v.keepctl("audit", "verify", json=True)[-1]
    t.check(verdict["ok"] is True, "the audit trail after %d kills: %s" % (args.kills, verdict))
    v.unmount()
    fsck(v)
    v.mount(args.options)
    shutil.rmtree(v.mnt + "/files")
    v.unmount()
    left = [n for n in os.listdir(v.vault) if not n.startswith(("keepfs.", "tmp.", "N."))]  # half-made things are allowed
    t.check(not left, "an empty vault still holds %s" % left[:5])
    print("%d kills and %d in recovery: everything synced was there; %d audit records verify" % (args.kills, r.double, verdict["records"]))


t.main(main)
