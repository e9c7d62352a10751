"""The algorithms of fs/FORMAT.md on a disk that remembers every step. What authenticates is modelled as what is the same encryption.

Small on purpose: 4 units to a page (sizes are in units), 3 blocks in page 0, tag pages of 2 entries, runs of 2 tag pages and 4 blocks, 5 blocks
to a write. The names are those of fs/vault/{write,cut,seal,recover,rewrap}.c. A mutation is a name in File.broken: the algorithm done wrong.
"""
UNITS, HEAD, GROUP, RUN_TAGS = 4, 3, 2, 2
RUN = GROUP * RUN_TAGS
CHUNK = 5
DIRTY, INTENT = 1, 2
TO_THE_END = 1 << 60
EMPTY = (None, None)
ZEROS = (0,) * UNITS


class Wrong(Exception):
    """A promise is broken."""


class Full(Exception):
    """The injected ENOSPC."""


def page_of(block):
    if block < HEAD:
        return 1 + block
    return 1 + HEAD + (RUN_TAGS + RUN) * ((block - HEAD) // RUN) + RUN_TAGS + (block - HEAD) % RUN


def group_of(block):
    return 0 if block < HEAD else 1 + (block - HEAD) // GROUP


def group_first(group):
    return 0 if group == 0 else HEAD + (group - 1) * GROUP


def group_count(group):
    return HEAD if group == 0 else GROUP


def group_page(group):
    return 0 if group == 0 else 1 + HEAD + (group - 1) // RUN_TAGS * (RUN_TAGS + RUN) + (group - 1) % RUN_TAGS


def run_end(block):
    return HEAD if block < HEAD else HEAD + ((block - HEAD) // RUN + 1) * RUN


def blocks_of(size):
    return (size + UNITS - 1) // UNITS


def groups_of(blocks):
    return 1 if blocks <= HEAD else 1 + (blocks - HEAD + GROUP - 1) // GROUP


def backing_size(size):
    return UNITS if size == 0 else UNITS * page_of((size - 1) // UNITS) + (size - 1) % UNITS + 1


def plain_size(backing):
    """The largest plaintext size whose backing size is not beyond this."""
    size = 0
    while backing_size(size + 1) <= backing:
        size += 1
    return size


PAGE_OF = [page_of(b) for b in range(64)]
GROUP_PAGE = [group_page(g) for g in range(64)]
BACKING = {}
for _z in range(200):
    BACKING[_z] = backing_size(_z)
PLAIN = [plain_size(b) for b in range(400)]


def live_of(entry):
    a, b = entry
    if a is None and b is None:
        return -1
    if a is None:
        return 1
    return int(b is not None and b[0] > a[0])


def mix(block, slot):
    """F(b, slot) of the accumulator."""
    return hash((block, slot, 7))


class Disk:
    """The backing file. Page 0 is (wrap slots, state slots, entries); a tag page its entries; a data page the encryption that each unit
    belongs to. Every step appends a view of all pages to `steps`; a sync forgets the older ones: what is left is what a power cut can mix."""

    def __init__(self, view, hook):
        self.pages, self.size = list(view[0]), view[1]
        self.hook = hook
        self.steps = [view]

    def view(self):
        return tuple(self.pages), self.size

    def mark(self):
        self.steps.append((tuple(self.pages), self.size))
        if self.hook:
            self.hook(self)

    def put(self, page, value, end):
        pages = self.pages
        while len(pages) <= page:
            pages.append(None)
        pages[page] = value
        if page * UNITS + end > self.size:
            self.size = page * UNITS + end
        self.mark()

    def get(self, page):
        return self.pages[page] if page < len(self.pages) else None

    def truncate(self, size):
        if size != self.size:
            cut_pages(self.pages, size)
            self.size = size
        self.mark()

    def sync(self):
        self.steps = [(tuple(self.pages), self.size)]
        if self.hook:
            self.hook(self)


def cut_pages(pages, size):
    for i in range(size // UNITS, len(pages)):
        page = pages[i]
        if i == 0 or page is None:
            continue
        keep = max(0, size - i * UNITS)
        if keep == 0:
            pages[i] = None
        elif len(page) == UNITS and not isinstance(page[0], tuple):
            pages[i] = page[:keep] + ZEROS[keep:]


class Keys:
    """What the keystore knows: rows of the dirty set as (session, boot), those of them that a power cut cannot take, versions of the key."""

    def __init__(self, rows=(), versions=(1,), session=1, boot=1):
        self.sure = frozenset()
        self.rows, self.versions, self.session, self.boot = frozenset(rows), tuple(versions), session, boot
        self.recovered = self.recovering = self.fresh = False

    def restart(self, boot):
        return Keys(self.rows, self.versions, self.session + 1, boot)


class Plain:
    """What was encrypted, by number; numbers are never used twice."""

    def __init__(self):
        self.of = [None]

    def seal(self, block, seq, length, units):
        self.of.append((block, seq, length, units))
        return len(self.of) - 1


def new_disk(session):
    """A file that was just created for writing (vault_file_create)."""
    state = (1, 0, 0, 0, DIRTY, session, 0, 0, 1)
    return (((((1, 1), None), (None, state), (EMPTY,) * HEAD),), UNITS)


class File:
    def __init__(self, disk, keys, plain, strict=False, broken=frozenset()):
        self.disk, self.keys, self.plain, self.strict, self.broken = disk, keys, plain, strict, broken
        self.promised_seq = self.promised_size = self.durable_seq = self.written = 0
        self.changed, self.fail_at = False, None
        states = disk.pages[0][1]
        self.state = max((s for s in states if s), key=lambda s: s[0])
        self.size, self.acc = self.state[2], self.state[3]
        self.next_seq = self.state[1] + 1
        self.recovered = self.recovering = self.fresh = False

    # -- pieces ------------------------------------------------------------------------------------------------

    def entries(self, group):
        if group == 0:
            return self.disk.pages[0][2]
        page = GROUP_PAGE[group]
        if page * UNITS >= self.disk.size:
            return (EMPTY,) * GROUP
        return self.disk.get(page) or (EMPTY,) * GROUP

    def entry(self, block):
        return self.entries(group_of(block))[block - group_first(group_of(block))]

    def live(self, block):
        entry = self.entry(block)
        return entry[live_of(entry)] if entry != EMPTY else None

    def put_entries(self, group, entries):
        if group == 0:
            wraps, states, _ = self.disk.pages[0]
            self.disk.put(0, (wraps, states, tuple(entries)), UNITS)
        else:
            self.disk.put(GROUP_PAGE[group], tuple(entries), 1)

    def read(self, block, slot):
        """The plaintext that a slot stands for, or None where the data page does not authenticate under it."""
        page = self.disk.get(PAGE_OF[block])
        if page is None or page[:slot[1]] != (slot[2],) * slot[1]:
            return None
        was = self.plain.of[slot[2]]
        return was[3] if was[:3] == (block, slot[0], slot[1]) else None

    def put_state(self, state):
        wraps, states, entries = self.disk.pages[0]
        n = state[0]
        states = (state, states[1]) if n & 1 == 0 else (states[0], state)
        self.state = state
        self.disk.put(0, (wraps, states, entries), UNITS)

    def seal(self, flags, first=0, end=0):
        if flags and not self.state[4] and not self.fresh:
            self.barrier()
        self.step()
        self.changed = False
        self.put_state((self.state[0] + 1, self.next_seq - 1, self.size, self.acc, flags, self.keys.session if flags else 0, first, end,
                        self.next_seq))

    def barrier(self):
        """kms_audit_barrier: without its row a DIRTY file is a copy."""
        if "row late" not in self.broken:
            self.keys.sure = self.keys.rows

    def seal_begin(self):
        if not self.state[4] & DIRTY and "no dirty seal" not in self.broken:
            self.seal(DIRTY)

    def step(self):
        """One call that needs space: the injected failure counts them."""
        if self.fail_at is not None:
            self.fail_at -= 1
            if self.fail_at < 0:
                self.fail_at = None
                raise Full

    # -- write.c ------------------------------------------------------------------------------------------------

    def write(self, off, length, value):
        end = off + length
        while off < end:
            block = off // UNITS
            n = min(blocks_of(end) - block, CHUNK, run_end(block) - block)
            part = min(end, (block + n) * UNITS)
            self.chunk(block, self.chunk_plain(block, n, off, part, value))
            off = part

    def chunk_plain(self, block, n, off, end, value):
        """[(length, units)]: whole blocks, or what is there with the written part over it."""
        out = []
        for b in range(block, block + n):
            slot = self.live(b)
            old = ZEROS
            if slot:
                old = self.read(b, slot)
                if old is None:
                    raise Wrong("block %d cannot be read for a partial write" % b)
            lo, hi = max(0, off - b * UNITS), min(UNITS, end - b * UNITS)
            length = max(hi, slot[1] if slot else 0)
            out.append((length, (old[:lo] + (value,) * (hi - lo) + old[hi:])[:length] + ZEROS[length:]))
        return out

    def chunk(self, block, plain, cut=False):
        n = len(plain)
        blocks = range(block, block + n)
        slots = [self.live(b) for b in blocks]
        self.chunk_horizon(slots)
        self.changed = True
        if self.next_seq <= self.written:
            raise Wrong("sequence %d is used again: a slot with %d was written" % (self.next_seq, self.written))
        new = []
        for b, (length, units) in zip(blocks, plain):
            new.append((self.next_seq, length, self.plain.seal(b, self.next_seq, length, units)))
            self.next_seq += 1
        good = 0
        try:
            first, between = self.rule_d(blocks, slots, cut)
            if first:
                self.first(block, new, slots)
            if "data first" in self.broken:
                for i in range(n):
                    self.put_data(block + i, new[i], i == n - 1)
            self.put_tags(block, new)
            if between:
                self.sync_sized(block, new)
            for i in range(n):
                self.step()
                self.put_data(block + i, new[i], i == n - 1)
                good = i + 1
        except Full:
            self.undo(block, new, good)
            raise
        finally:
            for b, old, slot in list(zip(blocks, slots, new))[:good]:
                self.acc ^= mix(b, slot) ^ (mix(b, old) if old else 0)
                self.size = max(self.size, b * UNITS + slot[1])
            if good < n:
                self.disk.truncate(BACKING[self.size])

    def chunk_horizon(self, slots):
        if self.recovering and not self.state[4] & DIRTY:
            return  # the recovery of a CLEAN file goes by what authenticates; the keystore's row is another session's
        if any(s and s[0] > self.state[1] for s in slots) and "two slots" not in self.broken:
            self.seal(DIRTY)
        else:
            self.seal_begin()

    def hole_counts(self, block):
        at = block * UNITS
        return at < self.promised_size and (self.strict or self.promised_size - at < UNITS) and "hole as any" not in self.broken

    def promised_hole(self, block, live):
        return live is None and self.hole_counts(block)

    def rule_d(self, blocks, slots, cut):
        """(what has to be durable before the tags, the tags before the data)"""
        first = between = guarded = False
        if "no rule D" in self.broken:
            return False, False
        for b, live in zip(blocks, slots):
            first = first or self.promised_hole(b, live)
            entry = self.entry(b)
            gone = entry[1 - live_of(entry)] if live else None
            short = live and (live[1] < UNITS or (gone and gone[1] < UNITS))
            if not live or not (self.strict or (cut and "edge as any" not in self.broken) or short or self.hole_counts(b)):
                continue
            guarded = True
            if gone and gone[0] <= self.promised_seq and live[0] > self.durable_seq and "rule D once" not in self.broken:
                first = True
            if live[0] <= self.promised_seq or (not gone and self.hole_counts(b)):
                between = True
        return first, between or (first and guarded)

    def sync_sized(self, block, new):
        """With the backing file's new size."""
        end = (block + len(new) - 1) * UNITS + new[-1][1]
        if end > self.size and "size after data" not in self.broken:
            self.disk.truncate(BACKING[end])
        self.disk.sync()
        if "half durable" not in self.broken:
            self.promised_seq = self.durable_seq = new[0][0] - 1

    def first(self, block, new, slots):
        for i, slot in enumerate(new):
            if self.promised_hole(block + i, slots[i]):
                self.step()
                self.put_data(block + i, slot, True)
        self.sync_sized(block, new)

    def put_tags(self, block, new):
        i = 0
        while i < len(new):
            group = group_of(block + i)
            first, entries = group_first(group), list(self.entries(group))
            while i < len(new) and block + i < first + group_count(group):
                entry = entries[block + i - first]
                which = 1 if live_of(entry) == 0 else 0
                entries[block + i - first] = (new[i], entry[1]) if which == 0 else (entry[0], new[i])
                i += 1
            self.step()
            self.written = max(self.written, new[i - 1][0])
            self.put_entries(group, entries)

    def put_data(self, block, slot, last):
        page = PAGE_OF[block]
        old = self.disk.get(page) or ZEROS
        length = slot[1]
        self.disk.put(page, (slot[2],) * length + (old[length:] if last else ZEROS[length:]), length if last else UNITS)

    def undo(self, block, new, good):
        """chunk_undo: the new slots of blocks that were not written are zeroed again, after the state says that their sequences are used."""
        if "sequence again" not in self.broken:
            self.put_state((self.state[0] + 1,) + self.state[1:8] + (self.next_seq,))
        for group in range(group_of(block + good), group_of(block + len(new) - 1) + 1):
            first, entries = group_first(group), list(self.entries(group))
            for i in range(len(entries)):
                at = first + i - block
                if good <= at < len(new):
                    entries[i] = tuple(None if s == new[at] else s for s in entries[i])
            if tuple(entries) != tuple(self.entries(group)):
                self.put_entries(group, entries)

    # -- cut.c ---------------------------------------------------------------------------------------------------

    def range_sum(self, first, end):
        acc = 0
        for b in range(first, min(end, blocks_of(self.size))):
            slot = self.live(b)
            if slot:
                acc ^= mix(b, slot)
        return acc

    def range_clear(self, first, end, backing):
        for group in range(group_of(first), groups_of(blocks_of(self.size))):
            at, entries = group_first(group), list(self.entries(group))
            if at >= end:
                break
            for i in range(len(entries)):
                if first <= at + i < end and entries[i] != EMPTY:
                    slot = entries[i][live_of(entries[i])]
                    self.acc ^= mix(at + i, slot)
                    entries[i] = EMPTY
            if group == 0 or GROUP_PAGE[group] * UNITS < backing:
                self.put_entries(group, entries)

    def seal_intent(self, gone, first, end):
        self.acc ^= gone
        self.seal(DIRTY | INTENT, first, end)
        self.acc ^= gone

    def truncate(self, size):
        if size < self.size:
            self.shrink(size)
        elif size > self.size:
            self.size = size
            self.seal(DIRTY)
            self.disk.truncate(BACKING[size])

    def shorten(self, block, length):
        slot = self.live(block)
        if slot and slot[1] > length:
            units = self.read(block, slot)
            if units is None:
                return False
            self.chunk(block, [(length, units[:length] + ZEROS[length:])], cut=True)
            return True
        return False

    def shrink(self, size):
        keep, old, backing = blocks_of(size), self.size, BACKING[size]
        gone = self.acc if size == 0 else self.range_sum(keep, TO_THE_END)
        if "edge before intent" in self.broken and size % UNITS:
            self.shorten(size // UNITS, size % UNITS)
        self.size = size
        if "no intent" not in self.broken:
            self.seal_intent(gone, keep, TO_THE_END)
        self.size = old
        edge = self.live(size // UNITS) if size % UNITS else None
        if edge and self.shorten(size // UNITS, size % UNITS) and edge[0] <= self.promised_seq:
            self.disk.sync()
        if keep > 0 and groups_of(blocks_of(old)) > 1 and self.promised_seq and "cut not ordered" not in self.broken:
            self.disk.sync()
        if keep == 0:
            self.acc = 0
            self.put_entries(0, (EMPTY,) * HEAD)
        else:
            self.range_clear(keep, TO_THE_END, backing)
        self.size = size
        self.promised_size = min(self.promised_size, size)
        self.cut_settle()
        self.disk.truncate(backing)
        self.seal(DIRTY)

    def cut_settle(self):
        if self.strict and self.promised_seq and "tags after pages" not in self.broken:
            self.disk.sync()

    def punch(self, off, length):
        if off >= self.size or length <= 0:
            return
        end = min(off + length, self.size)
        first, last = blocks_of(off), blocks_of(end) if end == self.size else end // UNITS
        if first > last:
            self.punch_edge(off, end)
            return
        if off % UNITS:
            self.punch_edge(off, min(first * UNITS, end))
        if last * UNITS < end:
            self.punch_edge(last * UNITS, end)
        if first < last:
            self.punch_blocks(first, last)

    def punch_edge(self, off, end):
        if self.live(off // UNITS):
            self.write(off, end - off, 0)

    def punch_blocks(self, first, end):
        gone = self.range_sum(first, end)
        if "no intent" not in self.broken:
            self.seal_intent(gone, first, end)
        self.range_clear(first, end, BACKING[self.size])
        self.cut_settle()
        for b in range(first, end):
            page = PAGE_OF[b]
            if page < len(self.disk.pages):
                self.disk.pages[page] = None
        self.disk.mark()
        self.seal(DIRTY)

    # -- file.c -------------------------------------------------------------------------------------------------

    def sync(self):
        if self.changed:
            self.seal(DIRTY)
        self.promised_seq, self.promised_size, self.fresh = self.next_seq - 1, self.size, False
        if self.state[4]:
            self.barrier()
        self.disk.sync()
        self.durable_seq = self.promised_seq

    def seal_clean(self):
        if self.state[4] & DIRTY:
            self.seal(0)

    def settle(self, closed):
        """The timer's syncfs, then the rows of closed and of recovered files."""
        if "row first" in self.broken and closed:
            self.keys.rows = frozenset()
            self.disk.mark()
        self.disk.sync()
        keep = set() if closed else {r for r in self.keys.rows if r[0] == self.keys.session}
        if not self.keys.recovered:
            keep |= {r for r in self.keys.rows if r[0] != self.keys.session}
        self.keys.rows = frozenset(keep)
        self.disk.mark()

    def open_for_writing(self):
        self.keys.rows |= {(self.keys.session, self.keys.boot)}
        self.disk.mark()

    # -- rewrap.c ------------------------------------------------------------------------------------------------

    def put_wraps(self, wraps):
        _, states, entries = self.disk.pages[0]
        self.disk.put(0, (wraps, states, entries), UNITS)

    def rewrap(self):
        wraps = self.disk.pages[0][0]
        live, current = wrap_live(wraps), max(self.keys.versions)
        if "erase first" in self.broken and wraps[live][1] != current:
            sequence = wraps[live][0] + 1
            self.put_wraps((None, None))
            self.put_wraps(((sequence, current), None))
            return
        if wraps[live][1] != current:
            new = (wraps[live][0] + 1, current)
            wraps = (new, wraps[1]) if live == 1 else (wraps[0], new)
            live = 1 - live
            self.put_wraps(wraps)
        if wraps[1 - live] is None:
            return
        if "erase unsynced" not in self.broken:
            self.disk.sync()
        self.put_wraps((wraps[0], None) if live == 0 else (None, wraps[1]))

    def destroy_old(self):
        """Every version but the current one that no wrap slot names (the census)."""
        used = {w[1] for w in self.disk.pages[0][0] if w and w != "torn"}
        self.keys.versions = tuple(v for v in self.keys.versions if v in used or v == max(self.keys.versions))
        self.disk.mark()


def wrap_live(wraps):
    valid = [i for i in (0, 1) if wraps[i] and wraps[i] != "torn"]
    if not valid:
        raise Wrong("no wrap slot is left")
    return max(valid, key=lambda i: wraps[i][0])
