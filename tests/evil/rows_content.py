"""Rows 1 to 6 of the table: contents, tags, headers. Imported by rows.py, which tells what the phases are."""
import errno
import os

PAGE = 4096
SMALL, MIDDLE = 50000, 300000
HUGE = 66 << 20
VARIANTS = []


def row(number, who, what):
    def add(function):
        VARIANTS.append((number, who, what, function))
        return function
    return add


def page_of(block):
    return 1 + block if block < 21 else 22 + 912 * ((block - 21) // 896) + 16 + (block - 21) % 896


def entry_of(block):
    if block < 21:
        return 2560 + 72 * block
    n = (block - 21) % 896
    return (22 + 912 * ((block - 21) // 896) + n // 56) * PAGE + 72 * (n % 56)


def at_page(block):
    return page_of(block) * PAGE


def offline(number, what, size, edit, judge=None, who="B"):
    """A variant with one file `f`, edited while it is offline. judge None: it must not open."""
    def run(c):
        good = c.put("f", os.urandom(size))
        yield
        yield
        yield
        edit(c)
        yield
        (judge or (lambda c, good: c.refused("f")))(c, good)
        yield
        (judge or (lambda c, good: c.refused("f")))(c, good)
    VARIANTS.append((number, who, what, run))


def read_fails(c, good):
    c.not_other("f", good)


# -- row 1: bits -----------------------------------------------------------------------------------------------------

offline(1, "a bit of the data of the first block", SMALL, lambda c: c.flip("f", at_page(0) + 77), read_fails)
offline(1, "a bit of the data of a block behind tag pages", MIDDLE, lambda c: c.flip("f", at_page(40) + 4095, 7), read_fails)
offline(1, "the last byte of the data", SMALL, lambda c: c.flip("f", os.path.getsize(c.back("f")) - 1), read_fails)
offline(1, "a bit of a tag in page 0", SMALL, lambda c: c.flip("f", entry_of(3) + 14))
offline(1, "a bit of a nonce in page 0", SMALL, lambda c: c.flip("f", entry_of(3) + 2), read_fails)
offline(1, "a bit of a tag in a tag page", MIDDLE, lambda c: c.flip("f", entry_of(30) + 20))
offline(1, "a length in a tag entry", SMALL, lambda c: c.flip("f", entry_of(5) + 28 + 6, 3))
offline(1, "a sequence in a tag entry", SMALL, lambda c: c.flip("f", entry_of(5) + 28, 1))
offline(1, "a reserved byte of page 0", SMALL, lambda c: c.flip("f", 200))
offline(1, "a reserved byte of a tag page", MIDDLE, lambda c: c.flip("f", 22 * PAGE + 4090))
offline(1, "the file id", SMALL, lambda c: c.flip("f", 33))
offline(1, "the state", SMALL, lambda c: [c.flip("f", 1280 + 60), c.flip("f", 2304 + 60)])
offline(1, "the blob of the wrap slot", SMALL, lambda c: c.flip("f", 512 + 60))


@row(1, "B", "a bit of an xattr's value")
def xattr_value(c):
    c.put("f", b"content")
    os.setxattr(c.path("f"), "user.note", b"the value")
    yield
    yield
    yield
    name = next(x for x in os.listxattr(c.back("f")) if x.startswith("user."))
    value = os.getxattr(c.back("f"), name)
    os.setxattr(c.back("f"), name, value[:-1] + bytes([value[-1] ^ 4]))
    yield
    c.fails("getxattr", errno.EIO, os.getxattr, c.path("f"), "user.note")


@row(1, "B", "a directory record")
def record(c):
    c.mkdir("d")
    c.put("d/f", b"content")
    yield
    yield
    yield
    with open(c.back("d") + "/keepfs.dir", "r+b") as f:
        f.seek(90)
        byte = f.read(1)
        f.seek(90)
        f.write(bytes([byte[0] ^ 1]))
    yield
    c.fails("lookup", errno.EIO, os.listdir, c.path("d"))
    c.fails("open below", errno.EIO, os.open, c.path("d/f"), os.O_RDONLY)


@row(1, "B", "a character of a link's target")
def link(c):
    os.symlink("target", c.path("l"))
    c.note("l")
    yield
    yield
    yield
    path = c.back("l")
    target = os.readlink(path)
    os.unlink(path)
    os.symlink(target[:20] + ("A" if target[20] != "A" else "B") + target[21:], path)
    yield
    c.fails("readlink", errno.EIO, os.readlink, c.path("l"))


@row(1, "C", "a bit of the data, while the file is open")
def open_data(c):
    good = c.put("f", os.urandom(MIDDLE))
    yield
    yield
    yield
    yield
    fd = os.open(c.path("f"), os.O_RDONLY)
    c.flip("f", at_page(60) + 5)
    try:
        c.blocks(fd, good)
    finally:
        os.close(fd)


@row(1, "C", "a tag, while it is mounted and closed")
def mounted_tag(c):
    c.put("f", os.urandom(MIDDLE))
    yield
    yield
    yield
    yield
    c.flip("f", entry_of(60) + 20)
    c.refused("f")


# -- row 2: blocks copied or moved --------------------------------------------------------------------------------------

def copy(c, block, source, source_block, data=True, entry=True):
    if data:
        c.write("f", at_page(block), c.bytes(source, at_page(source_block), PAGE))
    if entry:
        c.write("f", entry_of(block), c.bytes(source, entry_of(source_block), 72))


def two_files(what, edit, judge=None, who="B"):
    def run(c):
        good = c.put("f", os.urandom(MIDDLE))
        c.put("g", os.urandom(MIDDLE))
        yield
        yield
        yield
        if who == "B":
            edit(c)
        yield
        if who == "C":
            edit(c)
        (judge or (lambda c, good: c.refused("f")))(c, good)
    VARIANTS.append((2, who, what, run))


two_files("a block and its tag from another file", lambda c: copy(c, 5, "g", 5))
two_files("a block from another file without its tag", lambda c: copy(c, 5, "g", 5, entry=False), read_fails)
two_files("a tag from another file without its block", lambda c: copy(c, 30, "g", 30, data=False))
two_files("a block and its tag to another place in the file", lambda c: copy(c, 5, "f", 6))
two_files("the data of a block to another place in the file", lambda c: copy(c, 45, "f", 46, entry=False), read_fails)
two_files("a tag page and its blocks from another file", lambda c: c.write("f", 22 * PAGE, c.bytes("g", 22 * PAGE)))
two_files("a block and its tag from another file, while it is mounted", lambda c: copy(c, 40, "g", 40), who="C")


@row(2, "B", "two blocks of the file exchanged, with their tags")
def exchanged(c):
    c.put("f", os.urandom(MIDDLE))
    yield
    yield
    yield
    one, two = [(c.bytes("f", at_page(b), PAGE), c.bytes("f", entry_of(b), 72)) for b in (7, 8)]
    for b, (data, entry) in ((7, two), (8, one)):
        c.write("f", at_page(b), data)
        c.write("f", entry_of(b), entry)
    yield
    c.refused("f")


@row(2, "C", "a block from another file, while the file is open")
def copied_open(c):
    good = c.put("f", os.urandom(MIDDLE))
    c.put("g", os.urandom(MIDDLE))
    yield
    yield
    yield
    yield
    fd = os.open(c.path("f"), os.O_RDONLY)
    copy(c, 50, "g", 50)
    try:
        c.blocks(fd, good)
    finally:
        os.close(fd)


# -- row 3: older ciphertext --------------------------------------------------------------------------------------------

def older(number, what, edit, size=MIDDLE, judge=None, who="A, B", verify=None, dense=False):
    """The file is written, kept, written again; then parts of the old one come back."""
    def run(c):
        c.put("f", os.urandom(size if dense else min(size, MIDDLE)))
        if size > MIDDLE:
            os.truncate(c.path("f"), size)
            c.put("f", os.urandom(PAGE), at=size - PAGE)
        yield
        c.keep("f")
        yield
        new = os.urandom(min(size, MIDDLE))
        c.put("f", new, at=0)
        yield
        edit(c)
        yield
        (judge or (lambda c, new: c.refused("f")))(c, new)
        yield
        if verify:
            verify(c)
    VARIANTS.append((number, who, what, run))


def put_back(c, at, size):
    c.write("f", at, c.kept["f"][at:at + size])


def block_back(c, block):
    put_back(c, at_page(block), PAGE)
    put_back(c, entry_of(block), 72)


def by_the_end(c, new):
    """Above 64 MiB: at the latest when the last tag page has been seen; at once where that is cheap, because the file is mostly holes."""
    c.scrubbed = "f"
    c.fails("read through", errno.EIO, read_through, c.path("f"))


def read_through(path):
    with open(path, "rb", buffering=0) as f:
        while f.read(1 << 20):
            pass
    return "everything"


older(3, "a block with its tag", lambda c: block_back(c, 3))
older(3, "a block with its tag behind tag pages", lambda c: block_back(c, 60))
older(3, "only the tag", lambda c: put_back(c, entry_of(3), 72))
older(3, "only the data", lambda c: put_back(c, at_page(3), PAGE), judge=lambda c, new: c.not_other("f", new))
older(3, "a tag page and its blocks", lambda c: [put_back(c, 22 * PAGE, 16 * PAGE)] + [put_back(c, at_page(b), PAGE) for b in range(21, 73)])
older(3, "everything but the header page", lambda c: put_back(c, PAGE, 1 << 30))
older(3, "the state slots only", lambda c: [put_back(c, 1280, 256), put_back(c, 2304, 256)])
older(3, "the header page only", lambda c: put_back(c, 0, PAGE))
older(3, "the newer state slot zeroed, so that the older counts", lambda c: zero_newer(c))
older(3, "a block with its tag, in a file of 66 MiB", lambda c: block_back(c, 60), HUGE, by_the_end, verify=lambda c: c.refused("f"), dense=True)
older(3, "a tag page and its blocks, in a file of 66 MiB with holes", lambda c: [put_back(c, 22 * PAGE, PAGE)] + [put_back(c, at_page(b), PAGE) for b in range(21, 73)],
      HUGE, by_the_end, verify=lambda c: c.refused("f"))


def zero_newer(c):
    newer = max((1280, 2304), key=lambda at: int.from_bytes(c.bytes("f", at, 8), "little"))
    c.write("f", newer, bytes(256))


@row(3, "A, C", "a block with its tag, while it is mounted and closed")
def older_mounted(c):
    c.put("f", os.urandom(MIDDLE))
    yield
    c.keep("f")
    yield
    c.put("f", os.urandom(MIDDLE), at=0)
    yield
    yield
    block_back(c, 60)
    c.refused("f")


@row(3, "A, C", "a block with its tag, while the file is open")
def older_open(c):
    c.put("f", os.urandom(MIDDLE))
    yield
    c.keep("f")
    yield
    new = c.put("f", os.urandom(MIDDLE), at=0)
    yield
    yield
    fd = os.open(c.path("f"), os.O_RDONLY)
    block_back(c, 60)
    try:
        c.blocks(fd, new)
    finally:
        os.close(fd)


# -- row 4: sizes ---------------------------------------------------------------------------------------------------------

def resized(by, absolute=None):
    return lambda c: os.truncate(c.back("f"), absolute if absolute is not None else os.path.getsize(c.back("f")) + by)


for text, by, absolute in (("cut by a byte", -1, None), ("cut by a page", -PAGE, None), ("cut to its header", 0, PAGE), ("cut into its header", 0, 3000),
                           ("emptied", 0, 0), ("grown by a byte", 1, None), ("grown by a page", PAGE, None), ("grown by a run", 912 * PAGE, None)):
    offline(4, "a file " + text, MIDDLE, resized(by, absolute))
offline(4, "cut, and the state of another size put in", MIDDLE, lambda c: [os.truncate(c.back("f"), 2 * PAGE), c.write("f", 1280 + 8, bytes(8))])


@row(4, "C", "cut while it is mounted and closed")
def cut_mounted(c):
    c.put("f", os.urandom(MIDDLE))
    yield
    yield
    yield
    yield
    os.stat(c.path("f"))
    resized(-PAGE)(c)
    c.refused("f", (errno.EIO, errno.ESTALE))


@row(4, "C", "cut while the file is open")
def cut_open(c):
    good = c.put("f", os.urandom(MIDDLE))
    yield
    yield
    yield
    yield
    fd = os.open(c.path("f"), os.O_RDONLY)
    os.truncate(c.back("f"), at_page(30))
    try:
        c.blocks(fd, good)
    finally:
        os.close(fd)


@row(4, "A, B", "cut to the size that it had before, entries and all, without its state")
def cut_back(c):
    c.put("f", os.urandom(SMALL))
    yield
    c.keep("f")
    yield
    c.put("f", os.urandom(SMALL), at=SMALL)
    yield
    os.truncate(c.back("f"), len(c.kept["f"]))
    c.write("f", 2560, c.kept["f"][2560:])
    yield
    c.refused("f")


# -- row 5: holes ---------------------------------------------------------------------------------------------------------

def punched(at, size):
    def edit(c):
        with open(c.back("f"), "r+b") as f:
            f.seek(at)
            f.write(bytes(size))
    return edit


offline(5, "a data page zeroed", MIDDLE, punched(at_page(3), PAGE), read_fails)
offline(5, "a tag entry zeroed", MIDDLE, punched(entry_of(3), 72))
offline(5, "a tag entry and its data zeroed", MIDDLE, lambda c: [punched(entry_of(30), 72)(c), punched(at_page(30), PAGE)(c)])
offline(5, "one slot of an entry zeroed", MIDDLE, punched(entry_of(30), 36))
offline(5, "a whole tag page zeroed", MIDDLE, punched(22 * PAGE, PAGE))
offline(5, "all entries and data zeroed", SMALL, punched(2560, 60000 - 2560))
offline(5, "the entry of the last block zeroed", SMALL, punched(entry_of(SMALL // PAGE), 72))
offline(5, "an empty entry filled with an older slot of another block", MIDDLE, lambda c: c.write("f", entry_of(3) + 36, c.bytes("f", entry_of(4), 36)))


@row(5, "B", "a hole filled with a block of the file")
def filled(c):
    with open(c.path("f"), "wb") as f:
        f.write(os.urandom(20000))
        f.seek(100000)
        f.write(os.urandom(5000))
    c.note("f")
    yield
    yield
    yield
    copy(c, 10, "f", 2)
    yield
    c.refused("f")


@row(5, "B", "a tag entry and its data zeroed in a file of 66 MiB")
def huge_hole(c):
    c.put("f", os.urandom(HUGE))
    yield
    yield
    yield
    punched(entry_of(60), 72)(c)
    punched(at_page(60), PAGE)(c)
    yield
    by_the_end(c, None)
    yield
    c.refused("f")


@row(5, "C", "a data page zeroed while the file is open")
def hole_open(c):
    good = c.put("f", os.urandom(MIDDLE))
    yield
    yield
    yield
    yield
    fd = os.open(c.path("f"), os.O_RDONLY)
    punched(at_page(50), PAGE)(c)
    try:
        c.blocks(fd, good)
    finally:
        os.close(fd)


# -- row 6: headers ---------------------------------------------------------------------------------------------------------

def swapped(what, *pieces, other=SMALL, who="B", opens=False):
    """Pieces (offset, size) of the header of g put into f. opens: header and state are whole, so no block can be read."""
    def run(c):
        c.put("f", os.urandom(SMALL))
        c.put("g", os.urandom(other))
        yield
        yield
        yield
        if who == "B":
            c.write("f", 0, header_of(c, pieces))
        yield
        if who == "C":
            c.write("f", 0, header_of(c, pieces))
        if opens:
            no_block(c)
        else:
            c.refused("f")
    VARIANTS.append((6, who, what, run))


def header_of(c, pieces):
    page, other = bytearray(c.bytes("f", 0, PAGE)), c.bytes("g", 0, PAGE)
    for at, size in pieces or ((0, PAGE),):
        page[at:at + size] = other[at:at + size]
    return bytes(page)


def no_block(c):
    fd = os.open(c.path("f"), os.O_RDONLY)
    try:
        for at in range(0, SMALL, PAGE):
            c.fails("read", errno.EIO, os.pread, fd, PAGE, at)
        c.said[:] = ["read EIO in every block"]
    finally:
        os.close(fd)


swapped("the header page of a file of the same size", opens=True)
swapped("the header page of a file of the same size, while it is mounted", who="C", opens=True)
swapped("the header page of a longer file", other=MIDDLE)
swapped("the ids and the commitment", (0, 96))
swapped("everything but the tags", (0, 2560))
swapped("the state slots", (1280, 256), (2304, 256))
swapped("the tags", (2560, 1512))
swapped("the wrap slots", (512, 768), (1536, 768))


@row(6, "C", "the header page zeroed, while the file is open: the next open")
def header_open(c):
    c.put("f", os.urandom(SMALL))
    yield
    yield
    yield
    yield
    fd = os.open(c.path("f"), os.O_RDONLY)
    try:
        c.write("f", 0, bytes(PAGE))
        c.refused("f")
    finally:
        os.close(fd)
