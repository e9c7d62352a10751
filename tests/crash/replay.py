"""What a disk can hold after a power cut, made from the log of record.c.

The model is that of a journalling filesystem (ext4, xfs), harder where it costs nothing:

- The machine stops at any record of the log. Nothing that comes later was ever there.
- Changes of names, attributes, xattrs, links, explicit sizes and given-back pages go through one journal: they are on the disk up to
  some point, in their order. That point is not before the last one that a sync has committed: an fsync commits what its own inode (or,
  for a directory, its entries) went through; an fdatasync its creation and size; a syncfs everything.
- Data goes page by page (4096 bytes), in any order: of each page that was written since its file's last sync, the disk holds any state that the
  page went through since then. Pages with headers and tags, and everything in the keystore, can be torn as well: each sector
  of 512 bytes is that of one of two such states. Data pages of the vault are written whole, as fs/FORMAT.md demands of a disk.
- A size that a write made larger is on the disk with the data (ordered), or before it, with zeros in its place.
- What was written after a truncation or a punched hole that is not in the journal is not there either, and the other way round.
"""
import os
import shutil
import stat
import struct

PAGE, SECTOR = 4096, 512
HEAD = struct.Struct("<IIQQQQIIII")
(CREATE, NAMELESS, WRITE, SIZE, ALLOCATE, LINK, RENAME, UNLINK, XATTR, NO_XATTR, ATTR, SYNC_BEGIN, SYNC_END, CONTENT) = range(1, 15)
SYNC_DATA, SYNC_FILE, SYNC_FS = range(3)
KEEP_SIZE, PUNCH_HOLE, EXCHANGE = 1, 2, 2


class Record:
    __slots__ = ("at", "type", "parent", "node", "off", "len", "mode", "name", "name2", "data")


def read_log(path):
    """The records, each with the log's length after it."""
    with open(path, "rb") as f:
        log = f.read()
    records, at = [], 0
    while at + HEAD.size <= len(log):
        r = Record()
        size, r.type, r.parent, r.node, r.off, r.len, r.mode, n1, n2, n3 = HEAD.unpack_from(log, at)
        if at + size > len(log):
            break
        body = at + HEAD.size
        r.name, r.name2, r.data = log[body:body + n1], log[body + n1:body + n1 + n2], log[body + n1 + n2:body + n1 + n2 + n3]
        at += size
        r.at = at
        records.append(r)
    return records


class Node:
    def __init__(self, mode, uid=0, gid=0):
        self.mode, self.uid, self.gid = mode, uid, gid
        self.xattrs, self.entries, self.target = {}, {}, None
        self.base = b""          # content before the log begins
        self.changes = []        # (index, WRITE|SIZE|PUNCH_HOLE, offset, data or length)
        self.data_min = -1       # index: everything up to it is durable

    def copy(self):
        n = Node(self.mode, self.uid, self.gid)
        n.xattrs, n.entries, n.target = dict(self.xattrs), dict(self.entries), self.target
        n.base, n.changes = self.base, self.changes
        return n


def scan(root):
    """The nodes below root by inode number, and root's."""
    nodes = {}

    def look(path):
        st = os.lstat(path)
        if st.st_ino in nodes:
            return st.st_ino
        n = nodes[st.st_ino] = Node(st.st_mode, st.st_uid, st.st_gid)
        if stat.S_ISLNK(st.st_mode):
            n.target = os.readlink(os.fsencode(path))
            return st.st_ino
        n.xattrs = {os.fsencode(x): os.getxattr(path, x) for x in os.listxattr(path) if x.startswith("user.")}
        if stat.S_ISDIR(st.st_mode):
            for name in os.listdir(path):
                n.entries[os.fsencode(name)] = look(os.path.join(path, name))
        elif stat.S_ISREG(st.st_mode):
            with open(path, "rb") as f:
                n.base = f.read()
        return st.st_ino
    return nodes, look(root)


def apply(content, change):
    _, kind, off, what = change
    if kind == WRITE:
        if off > len(content):
            content.extend(bytes(off - len(content)))
        content[off:off + len(what)] = what
    elif kind == SIZE:
        if off < len(content):
            del content[off:]
        else:
            content.extend(bytes(off - len(content)))
    else:
        end = min(off + what, len(content))
        if off < end:
            content[off:end] = bytes(end - off)


def torn_page(in_vault, page):
    """May this page be torn? Not the data pages of a vault's files."""
    return not in_vault or page == 0 or (page >= 22 and (page - 22) % 912 < 16)


class Journal:
    """The names and attributes as of some record, and each node's changes of content so far."""

    def __init__(self, start, records):
        self.nodes = {ino: n.copy() for ino, n in start.items()}
        self.records = records
        self.contents = {ino: [] for ino in start}  # of every node that ever was, also those the journal does not know yet

    def names(self, r):
        nodes = self.nodes
        if r.type in (CREATE, NAMELESS):
            n = nodes[r.node] = Node(r.mode)
            if r.type == CREATE:
                n.target = r.data if stat.S_ISLNK(r.mode) else None
                nodes[r.parent].entries[r.name] = r.node
        elif r.type == LINK:
            nodes[r.parent].entries[r.name] = r.node
        elif r.type == UNLINK:
            del nodes[r.parent].entries[r.name]
        elif r.type == RENAME:
            a, b = nodes[r.parent].entries, nodes[r.node].entries
            if r.mode & EXCHANGE:
                a[r.name], b[r.name2] = b[r.name2], a[r.name]
            else:
                b[r.name2] = a.pop(r.name)
        elif r.type == XATTR:
            nodes[r.node].xattrs[r.name] = r.data
        elif r.type == NO_XATTR:
            nodes[r.node].xattrs.pop(r.name, None)
        elif r.type == ATTR:
            n = nodes[r.node]
            n.mode, n.uid, n.gid = r.mode, r.off, r.len


def content_changes(i, r):
    if r.type == WRITE:
        return [(i, WRITE, r.off, r.data)]
    if r.type == SIZE:
        return [(i, SIZE, r.off, 0)]
    if r.type == ALLOCATE and r.mode & PUNCH_HOLE:
        return [(i, PUNCH_HOLE, r.off, r.len)]
    if r.type == ALLOCATE and not r.mode & KEEP_SIZE:
        raise ValueError("an allocation that changes the size is not in the model")
    if r.type == CONTENT:
        return [(i, WRITE, 0, r.data), (i, SIZE, len(r.data), 0)]
    return []


class Commits:
    """Which syncs are complete at a record, and what they have made durable."""

    def __init__(self, start):
        self.journal = -1       # everything up to this index
        self.data = {}          # node: index
        self.fs = -1            # data of every node
        self.open = {}          # syncs under way: number: what they will have done
        self.touched = {}       # node: last change of its own
        self.sized = {}         # node: its creation, or last change of its size
        self.length = {ino: len(n.base) for ino, n in start.items()}

    def follow(self, i, r):
        if r.type == SYNC_BEGIN:
            upto = i if r.mode == SYNC_FS else (self.touched if r.mode == SYNC_FILE else self.sized).get(r.node, -1)
            self.open[r.off] = (r.mode, r.node, i, upto)
        elif r.type == SYNC_END:
            mode, node, begin, upto = self.open.pop(r.off)
            if r.len == 0:
                self.journal = max(self.journal, upto)
                if mode == SYNC_FS:
                    self.fs = max(self.fs, begin)
                else:
                    self.data[node] = max(self.data.get(node, -1), begin)
        elif r.type in (CREATE, LINK, UNLINK):
            self.touched[r.parent] = i
            if r.type != UNLINK:
                self.touched[r.node] = i
            if r.type == CREATE:
                self.sized[r.node], self.length[r.node] = i, 0
        elif r.type == RENAME:
            self.touched[r.parent] = self.touched[r.node] = i
        else:
            self.touched[r.node] = i
            if r.type in (NAMELESS, SIZE, CONTENT, ALLOCATE):
                self.sized[r.node] = i
            elif r.type == WRITE and r.off + len(r.data) > self.length.get(r.node, 0):
                self.sized[r.node] = i
                self.length[r.node] = r.off + len(r.data)
            if r.type in (NAMELESS, SIZE):
                self.length[r.node] = r.off


class State:
    """One disk after a cut behind record number `cut` (None: the end, nothing lost)."""

    def __init__(self, start, root, records, vault_ino, cut=None, rng=None):
        self.root, self.vault = root, vault_ino
        self.cut = len(records) - 1 if cut is None else cut
        commits = Commits(start)
        for i in range(self.cut + 1):
            commits.follow(i, records[i])
        self.commits, self.rng = commits, rng
        self.journal = self.cut if not rng else self.choose(commits.journal, self.cut)
        self.ordered = not rng or rng.random() < 0.6
        self.style = rng.choice(("old", "new", "mixed", "mixed")) if rng else "new"
        j = Journal(start, records)
        changes, born = {}, {}
        for i in range(self.cut + 1):
            r = records[i]
            if r.type in (CREATE, NAMELESS):
                if i <= self.journal:
                    changes.pop(r.node, None)   # an inode number that is used again
                else:
                    born[r.node] = i
            if i <= self.journal:
                j.names(r)
            if r.node not in born:
                changes.setdefault(r.node, []).extend(content_changes(i, r))
        self.nodes = j.nodes
        for ino, list_ in changes.items():
            if list_ and ino in self.nodes:
                self.nodes[ino].changes = list_

    def choose(self, low, high):
        kind = self.rng.random()
        if kind < 0.3:
            return low
        if kind < 0.6:
            return high
        return self.rng.randint(low, high)

    def reach(self):
        """The files that have a name."""
        self.in_vault, seen, todo = set(), set(), [(self.root, False)]
        while todo:
            ino, inside = todo.pop()
            inside = inside or ino == self.vault
            seen.add(ino)
            if inside:
                self.in_vault.add(ino)
            todo += [(e, inside) for e in self.nodes[ino].entries.values() if e not in seen]
        return seen

    def pick(self, versions):
        """One of a page's states, or a page torn between two of them."""
        if len(versions) == 1:
            return 0
        kind = self.rng.random()
        if self.style == "old" and kind < 0.85:
            return 0
        if self.style == "new" and kind < 0.85:
            return len(versions) - 1
        return self.rng.randrange(len(versions))

    def content(self, ino):
        n = self.nodes[ino]
        durable = max(self.commits.data.get(ino, -1), self.commits.fs)
        content = bytearray(n.base)
        if not self.rng:
            for c in n.changes:
                apply(content, c)
            return bytes(content)
        later = []
        for c in n.changes:
            if c[0] <= durable:
                apply(content, c)
            else:
                later.append(c)
        if not later:
            return bytes(content)
        return self.crashed(content, later, ino in self.in_vault)

    def crashed(self, content, later, in_vault):
        """content as of the last sync, and what came later."""
        rng = self.rng
        first = bytes(content)
        sizes = [len(first)]
        pages = {}       # page: list of (must, bytes): states that the disk can have
        least = {}       # page: number of the state that an ordered size brings with it
        stopped = False  # a change of the size that is not in the journal

        def now(p):
            return bytes(content[p * PAGE:(p + 1) * PAGE]).ljust(PAGE, b"\0")

        def then(p):
            return first[p * PAGE:(p + 1) * PAGE].ljust(PAGE, b"\0")
        dead = set()     # pages whose later states need something that is not in the journal
        for c in later:
            before = len(content)
            index, kind, off, what = c
            if kind == SIZE and off == before:
                continue
            apply(content, c)
            committed = index <= self.journal
            if kind == WRITE:
                touched = range(off // PAGE, (off + len(what) - 1) // PAGE + 1)
            elif kind == SIZE:
                touched = range(min(off, before) // PAGE, (max(off, before) + PAGE - 1) // PAGE)
                if off > before:
                    touched = range(0)
            else:
                touched = range(off // PAGE, (off + what + PAGE - 1) // PAGE)
            for p in touched:
                states = pages.setdefault(p, [then(p)])
                if p in dead:
                    continue
                whole = kind == SIZE and p * PAGE >= off or kind == PUNCH_HOLE and p * PAGE >= off and (p + 1) * PAGE <= off + what
                if kind != WRITE and not committed:
                    if whole:
                        dead.add(p)
                        continue
                if kind != WRITE and committed:
                    states.clear()
                    least.pop(p, None)
                states.append(now(p))
                if kind == WRITE and len(content) > before and (p + 1) * PAGE > before and not stopped:
                    least[p] = len(states) - 1
            if kind == SIZE:
                if committed:
                    sizes = [len(content)]
                else:
                    stopped = True
            elif not stopped and len(content) != sizes[-1]:
                sizes.append(len(content))
        size = sizes[self.pick(sizes)]
        out = bytearray(first[:size].ljust(size, b"\0"))
        for p, states in pages.items():
            if p * PAGE >= size:
                continue
            low = least.get(p, 0) if self.ordered else 0
            # An ordered size brings the data of the writes that made it; later ones may be missing.
            if low and size <= sizes[0]:
                low = 0
            a = low + self.pick(states[low:])
            page = states[a]
            if torn_page(in_vault, p) and a + 1 < len(states) and rng.random() < 0.3:
                b = rng.randrange(a + 1, len(states))
                page = b"".join((states[b] if rng.random() < 0.5 else page)[s:s + SECTOR] for s in range(0, PAGE, SECTOR))
            part = page[:min(PAGE, size - p * PAGE)]
            out[p * PAGE:p * PAGE + len(part)] = part
        return bytes(out)

    def tree(self):
        """{path: what it is}, for comparison and to build."""
        self.reach()
        out, contents = {}, {}

        def walk(ino, path):
            n = self.nodes[ino]
            if stat.S_ISDIR(n.mode):
                out[path] = ("dir", ino, n)
                for name, child in n.entries.items():
                    walk(child, os.path.join(path, name))
            elif stat.S_ISLNK(n.mode):
                out[path] = ("link", ino, n)
            elif stat.S_ISREG(n.mode):
                if ino not in contents:
                    contents[ino] = self.content(ino)
                out[path] = ("file", ino, n, contents[ino])
        walk(self.root, b"")
        return out

    def build(self, where):
        """Make the tree below the directory `where`, which is emptied."""
        where = os.fsencode(where)
        for name in os.listdir(where):
            path = os.path.join(where, name)
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            else:
                os.unlink(path)
        made, dirs = {}, []
        for path, (kind, ino, n, *rest) in self.tree().items():
            full = os.path.join(where, path)
            if kind == "link":
                os.symlink(n.target, full)
                os.lchown(full, n.uid, n.gid)
                continue
            if ino in made:
                os.link(made[ino], full)
                continue
            made[ino] = full
            if kind == "dir":
                if path:
                    os.mkdir(full)
                dirs.append((full, n))
            else:
                with open(full, "wb") as f:
                    f.write(rest[0])
                self.dress(full, n)
        for full, n in reversed(dirs):
            self.dress(full, n)

    @staticmethod
    def dress(full, n):
        for x, value in n.xattrs.items():
            os.setxattr(full, x, value)
        if os.geteuid() == 0:
            os.chown(full, n.uid, n.gid)
        os.chmod(full, stat.S_IMODE(n.mode))


def same_as(state, root):
    """Where the tree of a full replay differs from the directory: a list of texts."""
    nodes, top = scan(root)
    real = {}

    def walk(ino, path):
        n = nodes[ino]
        if not stat.S_ISSOCK(n.mode):
            real[path] = n
        for name, child in n.entries.items():
            walk(child, os.path.join(path, name))
    walk(top, b"")
    told, wrong = state.tree(), []
    for path in sorted(set(real) | set(told)):
        a, b = real.get(path), told.get(path)
        if a is None or b is None:
            wrong.append("%r: %s" % (path, "only in the log" if a is None else "not in the log"))
        elif (a.mode, a.uid, a.gid, a.xattrs, a.target) != (b[2].mode, b[2].uid, b[2].gid, b[2].xattrs, b[2].target):
            wrong.append("%r: other attributes: %r %r" % (path, (oct(a.mode), a.uid, a.gid, a.xattrs), (oct(b[2].mode), b[2].uid, b[2].gid, b[2].xattrs)))
        elif b[0] == "file" and a.base != b[3]:
            wrong.append("%r: other content (%d bytes, %d in the log)" % (path, len(a.base), len(b[3])))
    return wrong
