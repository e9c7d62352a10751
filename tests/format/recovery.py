"""Opening a file of the model: fs/vault/file.c check_state and fs/vault/recover.c."""
from engine import (BACKING, DIRTY, EMPTY, GROUP_PAGE, INTENT, PLAIN, TO_THE_END, UNITS, ZEROS, Disk, File, Wrong, blocks_of, group_count,
                    group_first, groups_of, live_of, mix, wrap_live)


def groups_on_disk(f, backing):
    group = 0
    while group == 0 or GROUP_PAGE[group] * UNITS < backing:
        yield group
        group += 1


def in_intent(state, block):
    return state[4] & INTENT and state[6] <= block < state[7]


def check_horizon(f, backing):
    acc, state = 0, f.state
    for group in groups_on_disk(f, backing):
        for i, entry in enumerate(f.entries(group)):
            if entry == EMPTY or in_intent(state, group_first(group) + i):
                continue
            bases = [s for s in entry if s and s[0] <= state[1]]
            if bases:
                acc ^= mix(group_first(group) + i, max(bases))
    if acc != state[3]:
        raise Wrong("false alarm: the accumulator over the bases is not the sealed one")


class Settling:
    def __init__(self, f, same_boot, backing):
        self.f, self.same_boot, self.size, self.top = f, same_boot, f.state[2], 0
        self.as_sealed = same_boot or "size of the state" in f.broken
        if not self.as_sealed:
            self.size = min(self.size, PLAIN[backing])
        self.limit = self.size

    def take(self, block, slot):
        if slot[0] > self.f.state[1]:
            self.size = max(self.size, (block * UNITS) + slot[1])

    def verifies(self, block, slot):
        return slot is not None and self.f.read(block, slot) is not None

    def killed(self, block, entry):
        while entry != EMPTY:
            i = live_of(entry)
            slot = entry[i]
            if slot[0] <= self.f.state[1]:
                break
            if "take all" in self.f.broken or self.verifies(block, slot):
                self.take(block, slot)
                break
            entry = (None, entry[1]) if i == 0 else (entry[0], None)
        return entry

    def drop_dead(self, block, entry):
        """Without the slots of blocks that the sealed state no longer has."""
        if self.as_sealed or not (in_intent(self.f.state, block) or block * UNITS >= self.limit):
            return entry
        return tuple(s if s and s[0] > self.f.state[1] else None for s in entry)

    def keep_lost(self, block, entry):
        """No slot authenticates."""
        horizon = self.f.state[1]
        replaced = all(s and s[0] > horizon for s in entry) and block * UNITS < self.limit and not in_intent(self.f.state, block)
        if not replaced or "drop both" in self.f.broken:
            entry = tuple(s if s and s[0] <= horizon else None for s in entry)
        if entry != EMPTY and not self.as_sealed:
            self.size = max(self.size, block * UNITS + entry[live_of(entry)][1])
        return entry

    def power_cut(self, block, entry):
        entry = self.drop_dead(block, entry)
        if entry == EMPTY:
            return entry
        i = live_of(entry)
        high, low = entry[i], entry[1 - i]
        if self.verifies(block, high):
            self.take(block, high)
            return entry
        if self.verifies(block, low):
            self.take(block, low)
            return (None, low) if i == 0 else (low, None)
        return self.keep_lost(block, entry)

    def group(self, group):
        f, out = self.f, []
        for i, entry in enumerate(f.entries(group)):
            block = group_first(group) + i
            for slot in entry:
                if slot and slot[0] > self.top:
                    self.top = slot[0]
            if not self.same_boot:
                entry = self.power_cut(block, entry)
            elif in_intent(f.state, block) and "intent forgotten" not in f.broken:
                entry = EMPTY
            else:
                entry = self.killed(block, entry)
            out.append(entry)
        return tuple(out)


def highest(f, backing):
    return max((s[0] for g in groups_on_disk(f, backing) for entry in f.entries(g) for s in entry if s), default=0)


def recover(f, same_boot):
    backing = f.disk.size
    if same_boot:
        check_horizon(f, backing)
    top = highest(f, backing)
    if top >= f.state[8] and "sequence again" not in f.broken:
        f.put_state((f.state[0] + 1,) + f.state[1:8] + (top + 1,))
    if "clean first" in f.broken:
        f.put_state((f.state[0] + 1, top, f.state[2], f.state[3], 0, 0, 0, 0, top + 1))
    what = Settling(f, same_boot, backing)
    f.acc = 0
    for g in list(groups_on_disk(f, backing)):
        entries = what.group(g)
        if entries != f.entries(g):
            f.put_entries(g, entries)
        for i, entry in enumerate(entries):
            if entry != EMPTY:
                f.acc ^= mix(group_first(g) + i, entry[live_of(entry)])
    f.size = what.size
    f.next_seq = max(what.top + 1, f.state[8])
    if ((f.state[4] & INTENT and f.state[7] == TO_THE_END) or not what.as_sealed) and f.size % UNITS:
        f.recovering = "session of the recovery" not in f.broken
        if f.shorten(f.size // UNITS, f.size % UNITS) and not same_boot:
            f.disk.sync()
        f.recovering = False
    if BACKING[f.size] != backing:
        f.disk.truncate(BACKING[f.size])
    f.seal(0)


def check_clean(f):
    """None, or what is wrong."""
    if f.disk.size != BACKING[f.size]:
        return "backing size %d for %d" % (f.disk.size, f.size)
    acc = 0
    for group in range(groups_of(blocks_of(f.size))):
        for i, entry in enumerate(f.entries(group)):
            if entry == EMPTY:
                continue
            at = (group_first(group) + i) * UNITS
            if any(s and s[0] >= f.next_seq for s in entry):
                return "a slot above the horizon"
            slot = entry[live_of(entry)]
            if at >= f.size or slot[1] > f.size - at or (entry[0] and entry[1] and entry[0][0] == entry[1][0]):
                return "an entry that cannot be, block %d" % (group_first(group) + i)
            acc ^= mix(group_first(group) + i, slot)
    return None if acc == f.acc else "false alarm: the accumulator does not match"


def open_file(view, keys, plain, hook=None, strict=False, broken=frozenset(), written=0, steps=None):
    """The open file, or Wrong. keys is that of the new session."""
    disk = Disk(view, hook)
    f = File(disk, keys, plain, strict, broken)
    f.written = written
    wraps = view[0][0][0]
    if wraps[wrap_live(wraps)][1] not in keys.versions:
        raise Wrong("no key unwraps the DEK: the live slot names version %d, there are %s" % (wraps[wrap_live(wraps)][1], keys.versions))
    old = [r for r in keys.rows if r[0] != keys.session]
    if f.state[4] & DIRTY:
        rows = [r for r in old if r[0] == f.state[5]]
        if not rows:
            raise Wrong("dirty copy: the keystore does not know the session that the file is dirty from")
        recover(f, all(r[1] == keys.boot for r in rows))
        f.recovered = True
    bad = check_clean(f) if "believe clean" in broken and not f.recovered else None
    if not f.recovered and old and not all(r[1] == keys.boot for r in old) and (bad or "believe clean" not in broken):
        recover(f, False)
        f.recovered = True
    bad = check_clean(f)
    if bad:
        raise Wrong("refused at open: " + bad)
    if "reopened" not in broken:
        f.promised_seq, f.promised_size = f.next_seq - 1, f.size
    keys.recovered = keys.recovered or f.recovered
    return f


def content(f):
    """[(units of each block) or None for EIO], by what a reader does."""
    out = []
    for b in range(blocks_of(f.size)):
        slot = f.live(b)
        out.append(ZEROS if slot is None else f.read(b, slot))
    return out
