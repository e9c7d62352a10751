"""Rows 9, 10, 11 of the table, and the names of row 1. Imported by rows.py, which tells what the phases are."""
import base64
import errno
import hashlib
import os
import shutil

VARIANTS = []
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def row(number, who, what):
    def add(function):
        VARIANTS.append((number, who, what, function))
        return function
    return add


def rename(c, name, new):
    """Give the backing entry of a name another backing name."""
    path = c.back(name)
    os.rename(path, os.path.join(os.path.dirname(path), new))


def entry(c, name):
    return os.path.basename(c.back(name))


# -- row 1: names ----------------------------------------------------------------------------------------------------------

def renamed(number, what, change, name="name", listed=()):
    def run(c):
        c.mkdir("d")
        c.put("d/" + name, b"content")
        yield
        yield
        yield
        change(c, "d/" + name)
        yield
        c.absent("d/" + name, listed=listed)
    VARIANTS.append((number, "B", what, run))


def other_character(text, at):
    return text[:at] + ALPHABET[(ALPHABET.index(text[at]) + 1) % 64] + text[at + 1:]


renamed(1, "a character of a name", lambda c, n: rename(c, n, other_character(entry(c, n), 3)))
renamed(1, "a character of the hash of a long name", lambda c, n: rename(c, n, "L." + other_character(entry(c, n)[2:], 3)), "n" * 200)


@row(1, "B", "a byte of a long name's record")
def side(c):
    name = "d/" + "n" * 200
    c.mkdir("d")
    c.put(name, b"content")
    yield
    yield
    yield
    path = os.path.join(os.path.dirname(c.back(name)), "N." + entry(c, name)[2:])
    with open(path, "r+b") as f:
        f.seek(30)
        byte = f.read(1)
        f.seek(30)
        f.write(bytes([byte[0] ^ 1]))
    yield
    c.fails("list", errno.EIO, list_of, c, "d", [])


def list_of(c, name, good):
    """The listing, where anything but `good` is a failure of its own; one that leaves the entry out counts as refusing it."""
    found = sorted(os.listdir(c.path(name)))
    if found == good:
        raise OSError(errno.EIO, "left out")
    return found


# -- row 9: directories ------------------------------------------------------------------------------------------------------

def moved(what, edit, who="B", paths=("a/sub",)):
    def run(c):
        for d in ("a", "b", "a/sub", "b/sub2", "a/sub/deep"):
            c.mkdir(d)
        c.put("a/sub/f", b"content")
        yield
        yield
        yield
        if who == "B":
            edit(c)
        yield
        if who == "C":
            edit(c)
        for path in paths:
            c.fails("list " + path, (errno.EIO, errno.ENOENT, errno.ESTALE), os.listdir, c.path(path))
        for base, dirs, names in os.walk(c.path("b")):  # and nowhere else
            if "f" in names:
                raise OSError(errno.EINVAL, "the moved file is in %s" % base)
    VARIANTS.append((9, who, what, run))


def move(c, name, to):
    os.rename(c.back(name), os.path.join(c.back(to), entry(c, name)))


moved("moved under another parent", lambda c: move(c, "a/sub", "b"))
moved("moved to the root of the vault", lambda c: os.rename(c.back("a/sub"), os.path.join(c.v.vault, entry(c, "a/sub"))))
moved("moved over a directory of the other parent, with its name", lambda c: swap_in(c))
moved("its content moved into another directory", lambda c: [shutil.copy(c.back("b/sub2") + "/keepfs.dir", c.back("a/sub") + "/keepfs.dir")])
moved("the record of its parent put into it", lambda c: shutil.copy(c.back("a") + "/keepfs.dir", c.back("a/sub") + "/keepfs.dir"))
moved("its record deleted", lambda c: os.unlink(c.back("a/sub") + "/keepfs.dir"))
moved("a copy of it under another parent, the first one deleted", lambda c: copied(c))
moved("a deeper one moved up", lambda c: os.rename(c.back("a/sub/deep"), os.path.join(c.back("a"), entry(c, "a/sub/deep"))), paths=("a/sub/deep", "a/deep"))
moved("moved while it is mounted, before anybody looked", lambda c: move(c, "a/sub", "b"), who="C")


def swap_in(c):
    target = c.back("b/sub2")
    shutil.rmtree(target)
    os.rename(c.back("a/sub"), target)


def copied(c):
    t = os.path.join(c.back("b"), entry(c, "a/sub"))
    shutil.copytree(c.back("a/sub"), t)
    shutil.rmtree(c.back("a/sub"))


@row(9, "B", "its name of the other parent given to it, under that parent")
def taken_name(c):
    """What the adversary has of names: those of the other directory's own entries."""
    for d in ("a", "b", "a/sub", "b/sub"):
        c.mkdir(d)
    c.put("a/sub/f", b"of a")
    c.put("b/sub/g", b"of b")
    yield
    yield
    yield
    one, two = c.back("a/sub"), c.back("b/sub")
    os.rename(one, one + ".x")
    os.rename(two, one)
    os.rename(one + ".x", two)
    yield
    for d in ("a/sub", "b/sub"):
        c.fails("list " + d, errno.EIO, os.listdir, c.path(d))


# -- row 10: xattrs -----------------------------------------------------------------------------------------------------------

def stored(path):
    return {x: os.getxattr(path, x) for x in os.listxattr(path) if x.startswith("user.keepfs.")}


def exchanged(what, edit, dirs=False, who="B", same_file=False):
    def run(c):
        for name in ("f", "g"):
            if dirs:
                c.mkdir(name)
            else:
                c.put(name, b"content of " + name.encode())
            os.setxattr(c.path(name), "user.note", b"note of " + name.encode())
        if same_file:
            os.setxattr(c.path("f"), "user.other", b"another one")
        c.mkdir("dir")
        os.setxattr(c.path("dir"), "user.note", b"note of a directory")
        yield
        yield
        yield
        if who == "B":
            edit(c)
        yield
        if who == "C":
            edit(c)
        c.fails("getxattr", (errno.EIO, errno.ENODATA), os.getxattr, c.path("f"), "user.note")
        try:
            found = os.listxattr(c.path("f"))
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            found = []
        for name in found:  # whatever is listed reads as it was set, or not at all
            try:
                value = os.getxattr(c.path("f"), name)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                continue
            if (name, value) not in (("user.other", b"another one"),):
                raise OSError(errno.EINVAL, "%s reads %r" % (name, value))
    VARIANTS.append((10, who, what, run))


def take(c, target, source):
    for x in stored(c.back(target)):
        os.removexattr(c.back(target), x)
    for x, value in stored(c.back(source)).items():
        os.setxattr(c.back(target), x, value)


def value_of(c, target, source):
    (x, _), (_, value) = list(stored(c.back(target)).items())[0], list(stored(c.back(source)).items())[0]
    os.setxattr(c.back(target), x, value)


def own_values(c):
    (x, one), (y, two) = stored(c.back("f")).items()
    os.setxattr(c.back("f"), x, two)
    os.setxattr(c.back("f"), y, one)


exchanged("name and value from another file", lambda c: take(c, "f", "g"))
exchanged("the value of another file's xattr under the file's own name", lambda c: value_of(c, "f", "g"))
exchanged("two values of one file exchanged", own_values, same_file=True)
exchanged("name and value from a directory", lambda c: take(c, "f", "dir"))
exchanged("name and value of another directory, on a directory", lambda c: take(c, "f", "g"), dirs=True)
exchanged("the value of another directory's xattr", lambda c: value_of(c, "f", "g"), dirs=True)
exchanged("name and value from another file, while it is mounted", lambda c: take(c, "f", "g"), who="C")


@row(10, "A, B", "an xattr of the file that had the name before")
def older_file(c):
    c.put("f", b"first")
    os.setxattr(c.path("f"), "user.note", b"of the first")
    yield
    c.kept["x"] = stored(c.back("f"))
    yield
    os.unlink(c.path("f"))
    c.put("f", b"second")
    yield
    for x, value in c.kept["x"].items():
        os.setxattr(c.back("f"), x, value)
    yield
    c.fails("getxattr", (errno.EIO, errno.ENODATA), os.getxattr, c.path("f"), "user.note")
    c.fails("listxattr", errno.EIO, os.listxattr, c.path("f"))


# -- row 11: names that are not canonical ------------------------------------------------------------------------------------------

def loose_bits(text):
    """The last character with its unused bits set; None where the length has none."""
    unused = {2: 4, 3: 2}.get(len(text) % 4)
    return text[:-1] + ALPHABET[ALPHABET.index(text[-1]) | ((1 << unused) - 1)] if unused else None


renamed(11, "unused bits of the last character set", lambda c, n: rename(c, n, loose_bits(entry(c, n))), "abc")
renamed(11, "unused bits set, two of them", lambda c, n: rename(c, n, loose_bits(entry(c, n))), "a")
renamed(11, "padding characters appended", lambda c, n: rename(c, n, entry(c, n) + "="), "a")
renamed(11, "two padding characters appended", lambda c, n: rename(c, n, entry(c, n) + "=="), "abc")
renamed(11, "the other alphabet", lambda c, n: rename(c, n, entry(c, n).replace("-", "+").replace("_", ",") + "+"), "abc")
renamed(11, "another case", lambda c, n: rename(c, n, entry(c, n).swapcase()), "abcdef")
renamed(11, "a newline appended", lambda c, n: rename(c, n, entry(c, n) + "\n"), "abc")
renamed(11, "a blank in front", lambda c, n: rename(c, n, " " + entry(c, n)), "abc")
renamed(11, "a character too many", lambda c, n: rename(c, n, entry(c, n) + "A"), "abc")
renamed(11, "a character too few", lambda c, n: rename(c, n, entry(c, n)[:-1]), "abc")
renamed(11, "a dot in the name", lambda c, n: rename(c, n, entry(c, n)[:5] + "." + entry(c, n)[5:]), "abc")
renamed(11, "unused bits set in the hash of a long name", lambda c, n: [rename(c, n, "L." + loose_bits(entry(c, n)[2:])), side_too(c, n)], "n" * 180)


def side_too(c, name):
    folder, old = os.path.dirname(c.back(name)), entry(c, name)
    shutil.copy(os.path.join(folder, "N." + old[2:]), os.path.join(folder, "N." + loose_bits(old[2:])))


@row(11, "B", "a short name as a long one, with a record that fits")
def short_as_long(c):
    c.mkdir("d")
    c.put("d/short", b"content")
    yield
    yield
    yield
    text = entry(c, "d/short")
    sealed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    long = base64.urlsafe_b64encode(hashlib.sha256(sealed).digest()).rstrip(b"=").decode()
    with open(os.path.join(os.path.dirname(c.back("d/short")), "N." + long), "wb") as f:
        f.write(sealed)
    rename(c, "d/short", "L." + long)
    yield
    c.absent("d/short")


@row(11, "B", "a name of another directory")
def of_another(c):
    c.mkdir("d")
    c.mkdir("e")
    c.put("d/name", b"content")
    c.put("e/name", b"another")
    yield
    yield
    yield
    os.rename(c.back("d/name"), os.path.join(c.back("d"), entry(c, "e/name")))
    yield
    c.absent("d/name")


@row(11, "B", "both, the canonical name and another spelling of it")
def both(c):
    c.mkdir("d")
    good = c.put("d/abc", b"content")
    c.put("other", b"what the adversary offers instead")
    yield
    yield
    yield
    shutil.copy(c.back("other"), os.path.join(os.path.dirname(c.back("d/abc")), loose_bits(entry(c, "d/abc"))))
    yield
    if os.listdir(c.path("d")) != ["abc"]:
        raise OSError(errno.EINVAL, "listed are %s" % os.listdir(c.path("d")))
    with open(c.path("d/abc"), "rb") as f:
        if f.read() != good:
            raise OSError(errno.EINVAL, "other bytes")
    c.said.append("only the canonical one is there")
