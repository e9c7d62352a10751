#!/usr/bin/python3
"""Rules of the house that no compiler knows: house.py RULE SOURCE_ROOT BUILD_ROOT."""
import os
import re
import subprocess
import sys

RULE, TOP, BUILD = sys.argv[1:4]
bad = []

# Room: what it may include of ours. A header of another room is named by its public path only.
ROOMS = {
    "kms/base": ("base/",),
    "hsm": ("base/", "hsm/"),
    "kms": ("base/", "hsm/hsm.h", "kms/kms.h"),
    "fs/vault": ("base/", "kms/kms.h", "vault/"),
    "fs/mount": ("base/", "kms/kms.h", "vault/", "mount/"),
    "tools": ("base/", "kms/kms.h", "vault/"),
}
OURS = re.compile(r"^(base|hsm|kms|fs|vault|mount|tools)/")
FOREIGN = [
    ("libfuse", re.compile(r"^(fuse|fuse3/|fuse_)"), re.compile(r"^fs/mount/")),
    ("SQLite", re.compile(r"^sqlite3"), re.compile(r"^kms/store")),
    ("PKCS#11", re.compile(r"^(libp11|p11-kit/|pkcs11)"), re.compile(r"^hsm/")),
    ("the HTTP server", re.compile(r"^microhttpd"), re.compile(r"^kms/api")),
    ("libcurl", re.compile(r"^curl/"), re.compile(r"^kms/client")),
]


def sources(*suffixes):
    for room in sorted(ROOMS):
        for folder, _, names in os.walk(os.path.join(TOP, room)):
            path = os.path.relpath(folder, TOP)
            if room_of(path + "/x") != room:
                continue
            for name in sorted(names):
                if name.endswith(suffixes):
                    yield room, path + "/" + name


def room_of(path):
    return max((room for room in ROOMS if path.startswith(room + "/")), key=len, default=None)


def read(path):
    with open(os.path.join(TOP, path), encoding="utf-8") as file:
        return file.read()


def includes():
    seen = 0
    for room, path in sources(".c", ".h"):
        local = {name for _, name in sources(".h") if room_of(name) == room}
        for number, line in enumerate(read(path).splitlines(), 1):
            found = re.match(r'\s*#\s*include\s*[<"]([^>"]+)[>"]', line)
            if not found:
                continue
            seen += 1
            name, where = found.group(1), "%s:%d" % (path, number)
            if ".." in name.split("/"):
                bad.append("%s: %s leaves its room" % (where, name))
            if OURS.match(name) and not name.startswith(ROOMS[room]):
                bad.append("%s: %s is not for %s/" % (where, name, room))
            if '"' in line and "/" not in name and not any(os.path.basename(have) == name for have in local):
                bad.append("%s: there is no %s in %s/" % (where, name, room))
            for what, header, home in FOREIGN:
                if header.match(name) and not home.match(path):
                    bad.append("%s: %s has its own room (%s)" % (where, what, home.pattern))
    if seen < 50:
        bad.append("only %d includes found: this check looks in the wrong place" % seen)


# Object files: the room's prefix; in programs also that of one of the room's headers, and main.
PREFIX = {"kms/base": "base", "hsm": "hsm", "kms": "kms", "fs/vault": "vault", "fs/mount": "mount", "tools": "ctl"}
PROGRAMS = ("fs/mount", "tools")


def symbols():
    seen = 0
    for room, prefix in PREFIX.items():
        allowed = (prefix + "_",)
        if room in PROGRAMS:
            allowed += tuple(os.path.basename(path)[:-2] + "_" for have, path in sources(".h") if have == room)
        for folder, _, names in os.walk(os.path.join(BUILD, "fs" if room == "fs/mount" else room)):
            for name in sorted(names):
                path = os.path.join(folder, name)
                if not name.endswith(".c.o") or object_room(path, name) != room:
                    continue
                for line in subprocess.check_output(["nm", "-g", "--defined-only", path], text=True).splitlines():
                    symbol = line.split()[-1]
                    seen += 1
                    fine = symbol.startswith(allowed + ("__", "_Z")) or (room in PROGRAMS and symbol == "main")
                    if not fine:
                        bad.append("%s: exports %s" % (os.path.relpath(path, BUILD), symbol))
    if seen < 50:
        bad.append("only %d symbols found: is %s a build tree?" % (seen, BUILD))


def object_room(path, name):
    """The room whose source this object was made from; Meson names objects after the path below the meson.build."""
    folder = os.path.relpath(os.path.dirname(os.path.dirname(path)), BUILD)
    source = os.path.join(folder, name[:-2])
    if not os.path.exists(os.path.join(TOP, source)):
        source = os.path.join(folder, name[:-2].replace("_", "/", 1))
    return room_of(source) if os.path.exists(os.path.join(TOP, source)) else None


def verbs():
    keepctl = os.path.join(BUILD, "tools/keepctl")
    with open(os.path.join(TOP, "tools/keepctl.1")) as file:
        manual = file.read().replace("\\-", "-")
    lines = subprocess.check_output([keepctl, "--verbs"], text=True).splitlines()
    in_manual = [line[3:] for line in manual.splitlines() if line.startswith(".B ")]
    for line in lines:
        if line not in in_manual:
            bad.append("tools/keepctl.1 lacks the verb: %s" % line)
        words = re.split(r" [\[A-Z]", line)[0].split()
        done = subprocess.run([keepctl, *words, "--help"], stdout=subprocess.PIPE, text=True)
        if done.returncode != 0 or ("usage: keepctl " + line) not in done.stdout.splitlines()[0]:
            bad.append("keepctl %s --help says something else" % " ".join(words))
    for entry in in_manual:
        noun = entry.split()[0]
        if re.match(r"[a-z]", entry) and any(noun == line.split()[0] for line in lines) and entry not in lines:
            bad.append("tools/keepctl.1 has a verb that keepctl has not: %s" % entry)
    options = subprocess.check_output([keepctl, "--help"], text=True)
    for option in re.findall(r"^  --([a-z-]+)", options, re.M):
        if ("--" + option) not in manual:
            bad.append("tools/keepctl.1 lacks --%s" % option)
    script = subprocess.check_output([keepctl, "--completion"], text=True)
    if subprocess.run(["bash", "-n"], input=script, text=True).returncode != 0:
        bad.append("the bash completion is no bash")
    for line in lines:
        for option in re.findall(r"--[a-z-]+", line):
            if option not in script:
                bad.append("the completion lacks %s" % option)
    if len(lines) < 10:
        bad.append("only %d verbs" % len(lines))


# Put together here, so that this file does not hold what it looks for.
PLACES = re.compile("|".join([r"(?<![\w.])/wo" + "rk/", "/tmp/" + "helper", "/tmp/" + "build-", "py" + "env", "cla" + "ude",
                              "anth" + "ropic"]), re.I)
UNDONE = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK|st" + r"ub|not impl" + r"emented|for n" + r"ow|placeh" + r"older)\b")


def words():
    seen = 0
    for folder, folders, names in os.walk(TOP):
        folders[:] = [f for f in folders if f not in (".git", "__pycache__") and not f.startswith("build")]
        for name in names:
            if name == ".git":  # of a work tree: it says where the repository is
                continue
            path = os.path.relpath(os.path.join(folder, name), TOP)
            try:
                text = read(path)
            except (UnicodeDecodeError, OSError):
                continue
            seen += 1
            for number, line in enumerate(text.splitlines(), 1):
                for pattern in (PLACES, UNDONE):
                    found = pattern.search(line)
                    if found and (pattern is PLACES or path.endswith((".c", ".h", ".py", ".sh"))):
                        bad.append("%s:%d: '%s'" % (path, number, found.group(0)))
    if seen < 50:
        bad.append("only %d files read" % seen)


def sizes():
    for _, path in sources(".c", ".h"):
        lines = read(path).splitlines()
        if len(lines) > 700:
            bad.append("%s: %d lines; does it have two subjects?" % (path, len(lines)))
        start = None
        for number, line in enumerate(lines, 1):
            if line == "{" or (line.endswith(") {") and not line[0].isspace()):
                start = number
            elif line == "}" and start is not None:
                if number - start > 90:
                    bad.append("%s:%d: a function of %d lines" % (path, start, number - start))
                start = None


{"includes": includes, "symbols": symbols, "verbs": verbs, "words": words, "sizes": sizes}[RULE]()
for line in bad:
    print(line)
print("%s: %s" % (RULE, "%d found" % len(bad) if bad else "fine"))
sys.exit(1 if bad else 0)
