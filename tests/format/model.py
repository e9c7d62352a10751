#!/usr/bin/python3
"""A model of the format's algorithms, driven through every crash.

Random scripts of writes, fsyncs, truncates, punches, opens, closes, failed writes, rewraps. Every step on the disk is a crash point. After each:
recovery; a crash at every step of that recovery, and recovery again; the rest of the script in the new session, with a crash at every step of
that. What has to hold is in `judge_kill`. Then power cuts: any mixture of page versions since the last sync, with what fs/FORMAT.md promises
then (`judge_power_cut`). At the end the algorithms are broken one by one; a model that does not notice is itself wrong. Full size: --scripts 1000.
"""
import argparse
import os
import random
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from engine import BACKING, UNITS, Disk, File, Full, Keys, Plain, Wrong, ZEROS, blocks_of, cut_pages, new_disk
from recovery import content, open_file

MAX = 10 * UNITS
BROKEN = {  # what is done wrong, and whether a power cut is needed to see it
    "take all": "recovery takes slots above the horizon without looking at their data",
    "intent forgotten": "recovery does not finish the intent",
    "clean first": "recovery seals CLEAN before it has zeroed what it drops",
    "sequence again": "recovery forgets the sequences that it zeroes",
    "edge before intent": "truncate shortens the block at the cut before it seals its intent",
    "no intent": "truncate and punch do not seal an intent",
    "two slots": "the newest slot at or below the horizon is overwritten",
    "data first": "data before tags",
    "no dirty seal": "a CLEAN file is written without a DIRTY seal",
    "erase first": "rewrap erases the old slot before it writes the new one",
    "no rule D": "durable blocks are overwritten without a sync in between (power cut)",
    "rule D once": "the durable slot is overwritten while the newer one is not durable (power cut)",
    "reopened": "what was synced before the file was opened does not count as durable (power cut)",
    "size after data": "the last block grows without the backing size being durable first (power cut)",
    "edge as any": "the block at the cut is written as any other (power cut)",
    "hole as any": "a promised hole's tag can be on the disk before its data (power cut)",
    "half durable": "what Rule D's own syncs made durable is overwritten as if nothing had (power cut)",
    "tags after pages": "with crash=strict pages are given back before their tags are gone (power cut)",
    "believe clean": "a file that was sealed CLEAN before a power cut is not looked at (power cut)",
    "drop both": "recovery drops two slots above the horizon that do not verify, one after the other (power cut)",
    "session of the recovery": "recovery makes a CLEAN file DIRTY under a session without a row (power cut)",
    "cut not ordered": "entries go before the intent is durable (power cut)",
    "size of the state": "recovery keeps a size that the backing file no longer has (power cut)",
    "erase unsynced": "rewrap erases the old slot before the new one is durable (power cut)",
    "row late": "the dirty set's row is not durable before the file is DIRTY (power cut)",
    "row first": "the dirty set's row goes before the seal is durable (power cut)",
}


def make_script(rng):
    script = []
    for _ in range(rng.randint(5, 12)):
        kind = rng.choices(("write", "sync", "truncate", "punch", "reopen", "idle", "settle", "rewrap", "fail"), (42, 14, 14, 8, 6, 4, 4, 3, 5))[0]
        if kind in ("write", "fail", "punch"):
            off = rng.choice((rng.randrange(MAX - 1), rng.randrange(3 * UNITS), -1, -2))  # -1: at the end, -2: in the last block
            script.append((kind, off, rng.choice((1, 2, 3, UNITS, rng.randint(1, 3 * UNITS), rng.randint(1, 7 * UNITS))), rng.randrange(1, 6)))
        elif kind == "truncate":
            script.append((kind, rng.choice((0, rng.randrange(MAX), rng.randrange(MAX), rng.randrange(2 * UNITS)))))
        else:
            script.append((kind,))
    return script


class Expect:
    """What the script has done: contents as a tuple of units, for SIGKILL the two of the operation under way, for a power cut all since the sync."""

    def __init__(self, units=()):
        self.old = self.new = units
        self.kind = "none"
        self.since, self.risky, self.cut = [units], frozenset(), frozenset()
        self.ever_synced = bool(units)

    def begin(self, kind, units):
        self.old, self.new, self.kind = self.new, units, kind
        self.since = self.since + [units]

    def done(self, units):
        self.new = self.old = units
        self.kind = "none"
        self.since = self.since + [units]

    def synced(self):
        self.since, self.risky, self.cut, self.ever_synced = [self.new], frozenset(), frozenset(), True

    def frozen(self):
        other = Expect()
        other.__dict__.update(self.__dict__)
        return other


def padded(units, size):
    return units[:size] + (0,) * (size - len(units))


def block_of(units, b, size):
    return padded(padded(units, size)[b * UNITS:(b + 1) * UNITS], UNITS)


class Point:
    """The moment after one step."""

    def __init__(self, run, disk):
        self.view = disk.steps[-1]
        self.steps, self.count = disk.steps, len(disk.steps)
        self.expect, self.op = run.expect.frozen(), run.op
        keys = run.keys
        self.rows, self.versions, self.session, self.boot = keys.rows, keys.versions, keys.session, keys.boot
        self.sure = keys.sure & keys.rows
        self.written = run.f.written if run.f else 0

    def keys(self, boot, rows=None):
        return Keys(self.rows if rows is None else rows, self.versions, self.session + 1, boot)


class Run:
    """A script from its operation `start` on, on an open file; its crash points go to `points`."""

    def __init__(self, model, script, start, f=None, keys=None, units=(), collect=True):
        self.model, self.script, self.op = model, script, start
        self.points = []
        self.expect = Expect(units)
        self.keys = keys
        self.f = f
        if f is None:
            self.keys = Keys(rows={(1, 1)})
            disk = Disk(new_disk(1), None)
            self.f = File(disk, self.keys, model.plain, model.strict, model.broken)
            self.f.fresh = True
            self.f.disk.steps = [disk.view()]
        self.f.disk.hook = self.hook if collect else None
        if collect:
            self.hook(self.f.disk)

    def hook(self, disk):
        self.points.append(Point(self, disk))

    def go(self):
        self.f.open_for_writing()
        for op in self.script[self.op:]:
            getattr(self, "do_" + op[0])(*op[1:])
            if content_units(self.f) != self.expect.new:
                raise Wrong("after %s: %s, expected %s" % (op, content_units(self.f), self.expect.new))
            self.op += 1
        return self

    # -- operations ----------------------------------------------------------------------------------------------

    def place(self, off, length):
        size = len(self.expect.new)
        off = size if off == -1 else max(0, (size - 1) // UNITS * UNITS) if off == -2 else off
        return off, min(length, MAX - off)

    def note_overwrite(self, first, end, size):
        """Blocks that may be unreadable after a power cut: what was cut away and written anew; without crash=strict what is
        not the last block or is full."""
        last = (size - 1) // UNITS if size else -1
        self.expect.risky |= {b for b in range(first, end) if b in self.expect.cut or not (self.model.strict or (b == last and size % UNITS))}

    def do_write(self, off, length, value, fail=None):
        off, length = self.place(off, length)
        if length <= 0:
            return
        old = self.expect.new
        new = padded(old, max(len(old), off + length))
        self.note_overwrite(off // UNITS, blocks_of(off + length), len(old))
        self.expect.begin("write", new[:off] + (value,) * length + new[off + length:])
        self.f.fail_at = fail
        try:
            self.f.write(off, length, value)
        except Full:
            got = content_units(self.f)
            judge_blocks(got, self.expect)
            self.expect.done(got)
        self.f.fail_at = None
        self.expect.done(self.expect.new)

    def do_fail(self, off, length, value):
        self.do_write(off, length, value, fail=(off + length + value) % 5)

    def do_punch(self, off, length, _):
        old = self.expect.new
        off, length = self.place(off, length)
        end = min(len(old), off + length)
        if end <= off:
            return
        self.expect.cut |= set(range(blocks_of(off), blocks_of(end)))
        if not self.model.strict:
            self.expect.risky |= set(range(off // UNITS, blocks_of(end)))
        self.expect.begin("write", old[:off] + (0,) * (end - off) + old[end:])
        self.f.punch(off, length)
        self.expect.done(self.expect.new)

    def do_truncate(self, size):
        gone = set(range(blocks_of(size), blocks_of(MAX)))
        self.expect.cut |= gone
        if not self.model.strict and size < len(self.expect.new):
            self.expect.risky |= gone
        self.expect.begin("truncate", padded(self.expect.new, size))
        self.f.truncate(size)
        self.expect.done(self.expect.new)

    def do_sync(self):
        self.f.sync()
        self.expect.synced()

    def do_reopen(self):
        self.f.seal_clean()
        self.again()

    def do_idle(self):
        self.f.seal_clean()

    def do_settle(self):
        self.f.seal_clean()
        self.f.settle(True)
        self.expect.synced()
        self.again()

    def again(self):
        """Closed; somebody opens it for writing again."""
        f = self.f
        steps = f.disk.steps
        self.f = open_file(f.disk.view(), self.keys, self.model.plain, f.disk.hook, self.model.strict, self.model.broken, f.written)
        self.f.disk.steps = steps
        self.f.open_for_writing()

    def do_rewrap(self):
        self.keys.versions += (max(self.keys.versions) + 1,)
        self.f.rewrap()
        self.f.destroy_old()


def content_units(f):
    out = ()
    for b, units in enumerate(content(f)):
        if units is None:
            raise Wrong("block %d does not authenticate" % b)
        out += units
    return out[:f.size]


def judge_blocks(got, expect):
    """Each block old or new; the size between only by whole written blocks."""
    old, new = expect.old, expect.new
    size = len(got)
    if size not in (len(old), len(new)) and not (len(old) < size < len(new) and size % UNITS == 0):
        raise Wrong("size %d, of old %d and new %d" % (size, len(old), len(new)))
    for b in range(blocks_of(size)):
        mine = block_of(got, b, size)
        if mine != block_of(old, b, size) and mine != block_of(new, b, size):
            raise Wrong("block %d is %s: neither old %s nor new %s" % (b, mine, block_of(old, b, size), block_of(new, b, size)))


def judge_kill(f, expect):
    got = content_units(f)
    if f.state[4]:
        raise Wrong("not CLEAN after its recovery")
    if f.next_seq <= f.written:
        raise Wrong("sequence %d would be used again: a slot with %d was written" % (f.next_seq, f.written))
    if got == expect.old or got == expect.new:
        return got
    if expect.kind != "write":
        raise Wrong("%s: %s, neither %s nor %s" % (expect.kind, got, expect.old, expect.new))
    judge_blocks(got, expect)
    return got


def anew(versions, b):
    """The block was not there, then it was: it may still be the hole between them."""
    was = [len(v) > b * UNITS for v in versions]
    return any(not one and any(was[i:]) for i, one in enumerate(was))


def judge_power_cut(f, expect):
    """Whatever can be read is a version since the last sync; what was synced can be read unless it was overwritten (not the last block)."""
    versions, floor = expect.since, expect.since[0]
    sizes = [len(v) for v in versions]
    if not min(sizes) <= f.size <= max(sizes):
        raise Wrong("size %d after a power cut; since the sync it was %s" % (f.size, sizes))
    for b, units in enumerate(content(f)):
        if units == ZEROS and anew(versions, b):
            continue
        if units is None:
            if b not in expect.risky and b * UNITS < len(floor):
                raise Wrong("synced block %d is lost" % b)
        elif not any(padded(units, UNITS)[:f.size - b * UNITS] == block_of(v, b, f.size)[:f.size - b * UNITS]
                     for v in versions if len(v) > b * UNITS):
            raise Wrong("block %d is %s after a power cut; size %d, versions %s" % (b, units, f.size, versions))


class Model:
    def __init__(self, seed, strict, broken=(), cuts=3):
        self.rng, self.strict, self.broken, self.cuts = random.Random(seed), strict, frozenset(broken), cuts
        self.plain = Plain()
        self.count = {"single": 0, "double": 0, "power cuts": 0}
        self.memo = {}

    def recover(self, view, point, boot, hook=None, rows=None):
        return open_file(view, point.keys(boot, rows), self.plain, hook, self.strict, self.broken,
                         point.written if boot == point.boot else 0)  # what a power cut took was never written

    def script(self, script, deep=True):
        run = Run(self, script, 0).go()
        for point in run.points:
            self.killed(point, deep)
            if self.cuts:
                self.power_cuts(point)

    def killed(self, point, deep):
        """SIGKILL here; in the recovery; after it, in the rest of the script."""
        views = []
        f = self.recover(point.view, point, point.boot, lambda disk: views.append(disk.steps[-1]))
        got = judge_kill(f, point.expect)
        self.count["single"] += 1
        for view in views:
            again = self.recover(view, point, point.boot)
            if judge_kill(again, point.expect) != got and point.expect.kind != "write":
                raise Wrong("two recoveries, two contents")
            self.count["double"] += 1
        if not deep:
            return
        f.written = max(f.written, point.written)
        rest = Run(self, self.script_now, min(point.op + 1, len(self.script_now)), f, f.keys, got).go()
        for second in rest.points:
            judge_kill(self.recover(second.view, second, second.boot), second.expect)
            self.count["double"] += 1

    # -- power cuts ------------------------------------------------------------------------------------------------

    def mixture(self, point):
        """Each page as it was at some moment since the sync; the size as at some moment; what a cut took is gone."""
        steps = point.steps[:point.count]
        rng, last = self.rng, len(steps) - 1
        mode = rng.randrange(4)
        at = rng.randint(0, last)
        pages = list(steps[at][0])
        for j in range(max(len(s[0]) for s in steps)):
            i = rng.randint(0, last) if mode == 0 else rng.choice((0, last)) if mode == 1 else 0 if mode == 2 else last
            if mode >= 2 and rng.random() < 0.25:
                i = rng.randint(0, last)
            i = self.not_beyond(steps, i, at, j)
            page = steps[i][0][j] if j < len(steps[i][0]) else None
            if j == 0:
                page = self.torn(page, steps[min(i + 1, last)][0][0])
            elif page is not None:
                one = [None] * j + [page]
                for k in range(i + 1, at + 1):
                    if steps[k][1] < steps[k - 1][1]:
                        cut_pages(one, steps[k][1])
                page = one[j]
            if j < len(pages):
                pages[j] = page
            else:
                pages.append(page)
        size = max(UNITS, steps[at][1])
        cut_pages(pages, size)
        return tuple(pages), size

    def not_beyond(self, steps, i, at, j):
        """A page that a truncate took keeps its old bytes for as long as the truncate is not on the disk."""
        for k in range(at + 1, i + 1):
            if j and steps[k][1] < steps[k - 1][1] and steps[k][1] <= j * UNITS:
                return k - 1
        return i

    def torn(self, page, after):
        """A wrap slot is longer than a sector."""
        if page[0] == after[0] or self.rng.random() < 0.5:
            return page
        return (tuple("torn" if a != b else a for a, b in zip(page[0], after[0])),) + page[1:]

    def power_cuts(self, point):
        for _ in range(self.cuts if point.count > 1 else 1):
            view = self.mixture(point)
            views, rows = [], point.rows
            if self.rng.random() < 0.5 and point.expect.ever_synced:  # else all of the file may be gone
                rows = point.sure
            f = self.recover(view, point, point.boot + 1, lambda disk: views.append(disk.steps[-1]), rows)
            judge_power_cut(f, point.expect)
            self.count["power cuts"] += 1
            if views:  # and a kill in the recovery
                judge_power_cut(self.recover(self.rng.choice(views), point, point.boot + 1, None, rows), point.expect)
                self.count["power cuts"] += 1


def one_script(seed, broken=(), deep=True, cuts=3, script=None):
    rng = random.Random(seed)
    model = Model(seed, rng.random() < 0.4, broken, cuts)
    model.script_now = script or make_script(rng)
    try:
        model.script(model.script_now, deep)
    except Wrong as wrong:
        wrong.args = ("seed %d, crash=%s, %s: %s" % (seed, "strict" if model.strict else "fast", model.script_now, wrong),)
        raise
    return model.count


W = "write"
WITNESSES = {  # what a random script rarely does; looked at first, with all seeds
    "session of the recovery": [(W, 0, 28, 1), ("truncate", 2), (W, -1, 3, 5), ("idle",), ("truncate", 23), ("idle",)],
    "row late": "the dirty set's row is not durable before the file is DIRTY (power cut)",
    "row first": [(W, 0, 4, 1), ("sync",), (W, 0, 4, 2), ("settle",)],
    "drop both": [(W, 0, 28, 1), ("settle",), (W, 12, 4, 5), ("idle",), (W, 12, 4, 2), ("reopen",)],
    "cut not ordered": [(W, 0, 28, 1), ("sync",), ("truncate", 16)],
    "hole as any": [("truncate", 30), ("sync",), (W, 0, 4, 1), ("idle",)],
    "half durable": [("truncate", 30), ("sync",), (W, 0, 4, 1), (W, 0, 4, 2), (W, 0, 4, 3)],
    "tags after pages": [(W, 0, 28, 1), ("sync",), ("punch", 0, 16, 1)],
    "believe clean": [(W, 0, 6, 3), ("sync",), (W, -1, 3, 3), ("idle",)],
    "row late": [(W, 0, 6, 3), ("settle",), (W, 0, 3, 3)],
    "two slots": [(W, 0, 4, 1), ("sync",), (W, 0, 4, 2), (W, 0, 4, 3)],
    "sequence again": [(W, 1, 12, 2), ("settle",), (W, 1, 12, 2)],
}


def mutations(seed, scripts):
    """Each broken algorithm must be noticed."""
    missed = []
    for name, what in BROKEN.items():
        found = None
        for i in range(scripts):
            try:
                one_script(seed + i, (name,), deep=name in ("two slots", "sequence again"), cuts=6 if "(power cut)" in what else 0,
                           script=WITNESSES.get(name))
            except Wrong as wrong:
                found = str(wrong)
                break
        print("broken: %-75s %s" % (what, "noticed in script %d" % (i + 1) if found else "NOT NOTICED"), flush=True)
        if os.environ.get("MODEL_SHOW") and found:
            print("    " + found)
        if not found:
            missed.append(name)
    return missed


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--scripts", type=int, default=40)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--mutations", type=int, default=400, help="scripts to look for each broken algorithm in")
    p.add_argument("--cuts", type=int, default=3, help="power cuts at each step")
    p.add_argument("--broken", default="", help="break this algorithm, to look at what comes of it")
    args = p.parse_args()
    start, total = time.time(), {}
    try:
        for i in range(args.scripts):
            for what, n in one_script(args.seed + i, [b for b in args.broken.split(",") if b], cuts=args.cuts).items():
                total[what] = total.get(what, 0) + n
    except Wrong as wrong:
        print("FAILED: %s" % wrong)
        sys.exit(1)
    print("%d scripts, %s; all as promised, %.1f s" % (args.scripts, ", ".join("%d %s" % (n, w) for w, n in total.items()), time.time() - start),
          flush=True)
    missed = mutations(args.seed, args.mutations) if args.mutations else []
    if missed:
        print("FAILED: the model does not notice: %s" % ", ".join(missed))
        sys.exit(1)
    print("ok, %.1f s" % (time.time() - start))


if __name__ == "__main__":
    main()
