#!/usr/bin/python3
"""keepctl as a user meets it: verbs, JSON fields, exit codes, bad input. Without a service, and over `keepfs --serve`.

cli.py offline | service       KEEPCTL and KEEPFS name the programs.
"""
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from keepfs_testlib import public_copy

KEEPCTL = os.environ["KEEPCTL"]
KEEPFS = os.environ["KEEPFS"]
OK, FAILED, USAGE, PIN, NOT_FOUND, UNREACHABLE, INTEGRITY, UNCONFIRMED, DENIED = range(9)
HEX32 = re.compile(r"^[0-9a-f]{32}$")


class Failure(Exception):
    pass


def check(condition, text):
    if not condition:
        raise Failure(text)


class Place:
    """A directory with a keystore and a vault of its own."""

    def __init__(self, init=True, options=()):
        self.top = tempfile.mkdtemp(prefix="keepfs-cli-")
        self.keystore, self.vault = self.top + "/keystore", self.top + "/vault"
        self.service = None
        self.made = self.ctl("init", self.vault, *options) if init else None

    def env(self):
        env = {k: v for k, v in os.environ.items() if k not in ("XDG_DATA_HOME", "SOFTHSM2_CONF")}
        env.update(KEEPFS_KEYSTORE=self.keystore, LC_ALL="C.UTF-8", TZ="UTC")
        return env

    def raw(self, *args, expect=OK, uid=None, env=None):
        done = subprocess.run([public_copy(KEEPCTL) if uid else KEEPCTL, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              env=env or self.env(), timeout=120, start_new_session=True, user=uid, group=uid,
                              extra_groups=[] if uid else None)
        check(done.returncode == expect, "keepctl %s: exit %d, not %d\n%s%s" % (
            " ".join(args), done.returncode, expect, done.stdout, done.stderr))
        if expect != OK:
            check(done.stderr.startswith("keepctl: "), "keepctl %s says nothing of its failure" % " ".join(args))
        return done

    def ctl(self, *args, **more):
        return self.raw(*args, **more).stdout

    def lines(self, *args, **more):
        return [json.loads(line) for line in self.ctl(*args, "--json", **more).splitlines()]

    def one(self, *args, **more):
        lines = self.lines(*args, **more)
        check(len(lines) == 1, "%s gave %d lines" % (args, len(lines)))
        return lines[0]

    def refused(self, expect, says, *args, **more):
        text = self.raw(*args, expect=expect, **more).stderr
        check(re.search(says, text), "keepctl %s: '%s' does not say '%s'" % (" ".join(args), text.strip(), says))

    def serve(self):
        self.service = subprocess.Popen([KEEPFS, "--serve", "-f"], stdin=subprocess.DEVNULL, env=self.env(),
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
        end = time.time() + 120
        while not self.answers():
            if self.service.poll() is not None:
                raise Failure("keepfs --serve ended: %s" % self.service.stderr.read().decode())
            check(time.time() < end, "no control socket after 120 s")
            time.sleep(0.05)
        os.chmod(self.top, 0o755)

    def answers(self):
        """A killed service leaves its socket behind: that it is there says nothing."""
        with socket.socket(socket.AF_UNIX) as s:
            return s.connect_ex(self.keystore + "/control.sock") == 0

    def stop(self):
        if self.service:
            self.service.terminate()
            code = self.service.wait(30)
            self.service.stderr.close()
            self.service = None
            check(code in (0, -signal.SIGTERM), "the service ended with %d" % code)

    def done(self):
        if self.service:
            self.service.kill()
            self.service.wait()
        shutil.rmtree(self.top, ignore_errors=True)


def terminals():
    """Whether this machine gives pseudo-terminals; a chroot without /dev/pts does not."""
    try:
        for fd in pty.openpty():
            os.close(fd)
        return True
    except OSError:
        print("SKIP: no pseudo-terminals here, so nothing is asked on one")
        return False


def fields(line, *names):
    missing = [name for name in names if name not in line]
    check(not missing, "fields %s are missing in %s" % (missing, line))


def on_terminal(place, answers, *args, expect):
    """Run keepctl on a terminal of its own and type each answer when its question has come."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execve(KEEPCTL, [KEEPCTL, *args], place.env())
    seen, left = b"", list(answers)
    while True:
        ready, _, _ = select.select([fd], [], [], 20)
        if not ready:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(fd)
            raise Failure("on a terminal: keepctl %s waits: %r, unanswered: %s" % (" ".join(args), seen, left))
        try:
            data = os.read(fd, 4096)
        except OSError:  # the last one who had the terminal is gone
            break
        if not data:
            break
        seen += data
        if left and re.search(left[0][0], seen.split(b"\x00")[-1]):
            time.sleep(0.1)
            os.write(fd, left.pop(0)[1] + b"\n")
            seen += b"\x00"
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(fd)
    check(code == expect, "on a terminal: keepctl %s: exit %d, not %d\n%s" % (" ".join(args), code, expect, seen.decode()))
    check(not left, "never asked: %s" % left)
    return seen


# ---- what works the same with and without a service ----------------------------------------------------------------------

def verbs(place):
    status = place.one("status")
    fields(status, "pid", "keystore", "hsm", "mounts", "vaults", "keys", "audit")
    check(status["keystore"] == place.keystore and status["mounts"] == [], "status: %s" % status)
    check(status["hsm"]["available"] is True, "status: the HSM is not available")

    key = place.one("key", "create", "project", "--description", "for the tests: ä")
    fields(key, "name", "id", "ring", "state", "origin", "current_version", "versions", "rotate_every")
    check(key["name"] == "project" and HEX32.match(key["id"]) and key["state"] == "active", "key create: %s" % key)
    check(key["current_version"] == 1 and key["origin"] == "hsm" and key["ring"] == "default", "key create: %s" % key)
    place.refused(FAILED, "project", "key", "create", "project")

    names = [line["name"] for line in place.lines("key", "list")]
    check({"default", "project"} <= set(names) and any(name.startswith("vault:") for name in names), "key list: %s" % names)

    rotated = place.one("key", "rotate", "project")
    check(rotated["name"] == "project" and rotated["version"] == 2, "key rotate: %s" % rotated)
    shown = place.one("key", "show", "project")
    check(shown["current_version"] == 2 and len(shown["versions"]) == 2, "key show after rotate: %s" % shown)
    for version in shown["versions"]:
        fields(version, "version", "state", "created", "files")
    versions = place.lines("key", "versions", "project")
    check([v["version"] for v in versions] == [1, 2], "key versions: %s" % versions)

    vault = place.one("vault", "list")
    fields(vault, "id", "path", "generation", "key")
    check(vault["path"] == place.vault and HEX32.match(vault["id"]), "vault list: %s" % vault)
    check(place.lines("mount", "list") == [], "mount list is not empty")

    shown = place.one("dir", "show", place.vault)
    fields(shown, "path", "key", "key_id", "directory_id")
    check(shown["key"] == "default", "dir show: %s" % shown)

    last = place.lines("rewrap")[-1]
    fields(last, "rewrapped", "current", "failed")
    check(last["failed"] == 0, "rewrap: %s" % last)
    place.one("key", "rotate", vault["key"] if vault["key"].startswith("vault:") else "vault:" + vault["id"])
    last = place.lines("rewrap", place.vault)[-1]
    check(last["rewrapped"] == 1 and last["failed"] == 0, "rewrap of the vault's config: %s" % last)

    trail = place.lines("audit", "list")
    for line in trail:
        fields(line, "seq", "time", "uid", "user", "pid", "program", "via", "action", "key", "key_version", "file_id", "path",
               "outcome", "errno", "reason")
    check([line["seq"] for line in trail] == sorted(line["seq"] for line in trail), "audit list is not in order")
    ours = [line for line in place.lines("audit", "list", "--key", "project")]
    check(ours and all(line["key"] == "project" for line in ours), "audit list --key: %s" % ours[:2])
    check(place.lines("audit", "list", "--since", "2200-01-01") == [], "audit list --since the future")
    check(place.lines("audit", "list", "--until", "2000-01-01") == [], "audit list --until the past")
    check(place.lines("audit", "list", "--since", "1h"), "audit list --since 1h")
    verdict = place.one("audit", "verify")
    fields(verdict, "ok", "records", "checkpoints", "first_bad", "reason")
    check(verdict["ok"] is True and verdict["records"] >= len(trail), "audit verify: %s" % verdict)

    for args in (["status"], ["key", "list"], ["key", "show", "project"], ["key", "versions", "project"], ["vault", "list"],
                 ["audit", "list"], ["audit", "verify"], ["config", "check"], ["dir", "show", place.vault]):
        check(place.ctl(*args).strip(), "keepctl %s prints nothing" % " ".join(args))
    place.ctl("seal")


def roles(place):
    place.one("key", "create", "papers")
    given = place.one("role", "assign", "everyone", "Writer")
    fields(given, "principal", "role", "scope", "key", "changed")
    check(given["changed"] is True and given["scope"] == "service" and given["key"] is None, "role assign: %s" % given)
    check(place.one("role", "assign", "everyone", "writer")["changed"] is False, "a role that is there was given again")
    check(place.one("role", "assign", "user:54321", "Reader", "--key", "papers")["key"] == "papers", "role assign --key")
    place.ctl("role", "assign", "group:54321", "Auditor")
    rows = place.lines("role", "list")
    for row in rows:
        fields(row, "principal", "role", "scope", "key", "key_id", "uid", "gid", "created")
    mine = {(row["principal"], row["role"], row["key"]) for row in rows if row["uid"] != os.getuid()}
    check(mine == {("everyone", "Writer", None), ("user:54321", "Reader", "papers"), ("group:54321", "Auditor", None)}, "role list: %s" % rows)
    check([row["role"] for row in rows if row["uid"] == os.getuid()] == ["Manager", "Auditor"], "init's roles: %s" % rows)
    text = place.ctl("role", "list")
    check("PRINCIPAL" in text and "group:54321" in text, "role list for people:\n%s" % text)
    place.refused(FAILED, "last Manager", "role", "remove", "user:%d" % os.getuid(), "Manager")
    place.refused(NOT_FOUND, "does not have", "role", "remove", "user:54321", "Reader")
    place.refused(NOT_FOUND, "no account", "role", "assign", "user:no-such-account", "Reader")
    place.refused(NOT_FOUND, "nosuch", "role", "assign", "everyone", "Reader", "--key", "nosuch")
    place.refused(USAGE, "principal", "role", "assign", "somebody", "Reader")
    place.refused(USAGE, "ReaderPlus", "role", "assign", "everyone", "King")
    place.refused(USAGE, "--ring", "role", "assign", "everyone", "Reader", "--ring", "default")
    place.refused(USAGE, "usage", "role", "assign", "everyone")
    check(place.one("role", "remove", "user:54321", "Reader", "--key", "papers")["changed"] is True, "role remove --key")
    place.ctl("role", "remove", "everyone", "Writer")
    place.ctl("role", "remove", "group:54321", "Auditor")
    check(len(place.lines("role", "list")) == 2, "roles are left: %s" % place.lines("role", "list"))
    trail = place.lines("audit", "list", "--action", "role-assign")
    check([line["reason"] for line in trail] == ["Writer to everyone in the service", 'Reader to user:54321 on key "papers"',
                                                 "Auditor to group:54321 in the service"], "audit of role assign: %s" % trail)
    check(trail[1]["key"] == "papers", "the key of a role: %s" % trail[1])
    trail = place.lines("audit", "list", "--action", "role-remove")
    check([line["outcome"] for line in trail] == ["failed", "failed", "allowed", "allowed", "allowed"], "audit of role remove: %s" % trail)


def destroying(place):
    # Version 1 of default carries no file in an empty vault; its root directory hangs on no version.
    place.one("key", "create", "old")
    place.one("key", "rotate", "old")
    place.refused(UNCONFIRMED, "--yes", "key", "destroy-version", "old", "1")
    asked = terminals()
    if asked:
        seen = on_terminal(place, [(b"Type yes", b"no")], "key", "destroy-version", "old", "1", expect=UNCONFIRMED)
        check(b"older copies" in seen.lower(), "no warning about older copies: %s" % seen)
    check(len([v for v in place.lines("key", "versions", "old") if v["state"] != "destroyed"]) == 2, "destroyed without a yes")
    place.refused(FAILED, "current", "key", "destroy-version", "old", "2", "--yes")
    place.refused(NOT_FOUND, "version", "key", "destroy-version", "old", "9", "--yes")
    vault = place.one("vault", "list")
    own = "vault:" + vault["id"]
    versions = place.lines("key", "versions", own)
    place.one("key", "rotate", own)
    place.refused(FAILED, r"\b1\b", "key", "destroy-version", own, str(versions[-1]["version"]), "--yes")
    if asked:
        on_terminal(place, [(b"Type yes", b"yes")], "key", "destroy-version", "old", "1", expect=OK)
    else:
        place.ctl("key", "destroy-version", "old", "1", "--yes")
    check([v["state"] for v in place.lines("key", "versions", "old") if v["version"] == 1] in ([], ["destroyed"]),
          "version 1 of old is still there")
    check(place.one("audit", "verify")["ok"], "audit verify after destroy-version")


def bad_names(place):
    place.refused(NOT_FOUND, "nosuch", "key", "show", "nosuch")
    place.refused(NOT_FOUND, "nosuch", "key", "rotate", "nosuch")
    place.refused(USAGE, "name", "key", "show", "a/b")
    place.refused(USAGE, "name", "key", "show", "")
    place.refused(USAGE, ".", "key", "create", "x" * 256)
    place.refused(USAGE, ".", "key", "create", "a\nb")
    place.one("key", "create", "..")
    place.one("key", "create", "käse & 100% +?#")
    check(place.one("key", "show", "käse & 100% +?#")["name"] == "käse & 100% +?#", "a name of odd characters")
    check(place.one("key", "show", "..")["name"] == "..", "the name ..")
    place.refused(NOT_FOUND, "/nonexistent", "file", "show", "/nonexistent/file")
    place.refused(USAGE, "version", "key", "destroy-version", "--yes", "default", "--", "-1")
    place.refused(USAGE, "version", "key", "destroy-version", "default", "1x", "--yes")


# ---- without a service -----------------------------------------------------------------------------------------------------

def usage():
    place = Place(init=False)
    try:
        for args in ([], ["nosuch"], ["key"], ["key", "nosuch"], ["key", "show"], ["key", "show", "a", "b"], ["--nosuch"],
                     ["key", "list", "--nosuch"], ["key", "list", "--json=1"], ["status", "--keystore"], ["-x"],
                     ["audit", "list", "--since", "soon"], ["audit", "list", "--outcome", "perhaps"],
                     ["audit", "list", "--user", "a", "--user", "b"], ["init"], ["rewrap", "a", "b"]):
            place.raw(*args, expect=USAGE)
        place.refused(USAGE, "did you mean `rotate`", "key", "rotat", "default")
        check(place.ctl("--version").startswith("keepctl "), "--version")
        check("key rotate NAME" in place.ctl("--help"), "--help")
        check("audit list" in place.ctl("audit", "--help") and "key create" not in place.ctl("audit", "--help"), "help of a noun")
        check("--description" in place.ctl("key", "create", "--help"), "help of a verb")
        place.refused(NOT_FOUND, "init", "status")
        place.refused(NOT_FOUND, "init", "config", "check")
        check(not os.path.exists(place.keystore), "a question made a keystore")
    finally:
        place.done()


def modes():
    place = Place()
    try:
        for word in (place.vault, place.keystore):
            check(word in place.made, "init does not name %s:\n%s" % (word, place.made))
        check(os.stat(place.keystore).st_mode & 0o777 == 0o711, "mode of the keystore")
        for folder, folders, names in os.walk(place.keystore):
            for name in folders + names:
                mode = os.lstat(os.path.join(folder, name)).st_mode & 0o777
                check(mode & 0o077 == 0 or name == "control.sock", "%s/%s has mode %o" % (folder, name, mode))
        check("no service" in place.ctl("status"), "status does not say that no service runs")
    finally:
        place.done()


def init_refusals():
    place = Place(init=False)
    try:
        os.mkdir(place.vault)
        with open(place.vault + "/mine", "w") as file:
            file.write("keep me")
        place.refused(FAILED, "not empty", "init", place.vault)
        check(os.listdir(place.vault) == ["mine"] and not os.path.exists(place.keystore), "a refused init left something")
        place.refused(USAGE, "--token", "init", place.top + "/v", "--module", "/nonexistent.so")
        with open(place.top + "/pin", "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write("1234")
        place.refused(NOT_FOUND, "/nonexistent.so", "init", place.top + "/v", "--module", "/nonexistent.so", "--token", "t",
                      "--pin-source", "file:" + place.top + "/pin")
        check(not os.path.exists(place.keystore + "/keystore.conf"), "a failed init left a keystore")
        long = place.top + "/" + "d" * 90
        place.refused(USAGE, "long", "init", place.top + "/v", "--keystore", long)
        warned = place.raw("init", place.top + "/v").stderr
        check("stolen disk" in warned, "init does not warn about the default PIN: %s" % warned)
        place.refused(USAGE, "exists", "init", place.top + "/w", "--pin-source", "prompt")
        place.refused(NOT_FOUND, "nosuch", "init", place.top + "/w", "--key", "nosuch")
        check(not os.path.exists(place.top + "/w/keepfs.vault"), "a vault without its key")
        place.ctl("init", place.top + "/w")
        check(len(place.lines("vault", "list")) == 2, "two vaults in one keystore")
        place.refused(FAILED, "not empty", "init", place.top + "/w")
    finally:
        place.done()
    place = Place(options=("--key", "own"))
    try:
        check(place.one("dir", "show", place.vault)["key"] == "own", "init --key")
    finally:
        place.done()


def configuration():
    place = Place()
    try:
        conf = place.keystore + "/keystore.conf"
        place.ctl("config", "check")
        with open(conf) as file:
            good = re.sub(r"^pool-size.*\n", "", file.read(), flags=re.M)
        count = good.count("\n")
        for text, line, says in ((good + "[kms]\nnosuch = 1\n", count + 2, "nosuch"),
                                 (good + "[nosuch]\n", count + 1, "nosuch"),
                                 (good + "[kms]\npool-size = 1\npool-size = 2\n", count + 3, "pool-size"),
                                 (good + "[kms]\npool-size = many\n", count + 2, "pool-size"),
                                 (good + "[hsm]\npin-value = 1234\n", count + 2, "pin-value")):
            with open(conf, "w") as file:
                file.write(text)
            for args in (["config", "check"], ["status"]):
                place.refused(FAILED, r"keystore\.conf:%d: .*%s" % (line, says), *args)
        os.unlink(conf)
        place.refused(NOT_FOUND, "init", "status")
    finally:
        place.done()


def wrong_pin():
    place = Place()
    try:
        with open(place.keystore + "/pin") as file:
            right = file.read()
        with open(place.keystore + "/pin", "w") as file:
            file.write("0" * len(right.strip()) + "\n")
        start = time.time()
        place.refused(PIN, "PIN", "key", "list")
        check(time.time() - start < 120, "a refused PIN was tried again")
        check(right.strip() not in place.raw("key", "list", expect=PIN).stderr, "the PIN is in a message")
        with open(place.keystore + "/pin", "w") as file:
            file.write(right)
        place.ctl("key", "list")
    finally:
        place.done()


def prompted_pin():
    if not terminals():
        return
    place = Place(init=False)
    try:
        on_terminal(place, [(b": $", b"correct horse 7"), (b"[Aa]gain.*: $", b"something else")],
                    "init", place.vault, "--pin-source", "prompt", expect=PIN)
        check(not os.path.exists(place.keystore + "/keystore.conf"), "a keystore with a PIN that was mistyped")
        seen = on_terminal(place, [(b": $", b"correct horse 7"), (b"[Aa]gain.*: $", b"correct horse 7")],
                           "init", place.vault, "--pin-source", "prompt", expect=OK)
        check(b"correct horse" not in seen, "the PIN was echoed")
        on_terminal(place, [(b": $", b"correct horse 7")], "key", "list", expect=OK)
        on_terminal(place, [(b": $", b"wrong horse 7")], "key", "list", expect=PIN)
        place.refused(PIN, "terminal|PIN", "key", "list")
    finally:
        place.done()


def damaged():
    place = Place()
    try:
        database = place.keystore + "/keystore.db"
        for name in os.listdir(place.keystore):
            if name.startswith("keystore.db-"):
                os.unlink(place.keystore + "/" + name)
        garbage = os.urandom(65536)
        with open(database, "wb") as file:
            file.write(garbage)
        place.refused(INTEGRITY, "keystore.db|database", "key", "list")
        with open(database, "rb") as file:
            check(file.read() == garbage, "the damaged database was changed")
    finally:
        place.done()


def unreachable():
    place = Place()
    try:
        tokens = [name for name in os.listdir(place.keystore) if os.path.isdir(place.keystore + "/" + name)]
        check(tokens, "no token directory in %s" % os.listdir(place.keystore))
        os.rename(place.keystore + "/" + tokens[0], place.top + "/away")
        status = place.one("status", expect=UNREACHABLE)
        check(status["hsm"]["available"] is False and status["hsm"]["reason"], "status: %s" % status["hsm"])
        place.raw("key", "rotate", "default", expect=UNREACHABLE)
        shutil.rmtree(place.keystore + "/" + tokens[0], ignore_errors=True)
        os.rename(place.top + "/away", place.keystore + "/" + tokens[0])
        check(place.one("status")["hsm"]["available"] is True, "the HSM does not come back")
    finally:
        place.done()


def strangers():
    """Another user without a service: exit 5, and nothing of the keystore is readable."""
    if os.getuid() != 0:
        return
    place = Place()
    try:
        os.chmod(place.top, 0o755)
        place.refused(UNREACHABLE, "no service", "status", uid=65534)
    finally:
        place.done()


def parallel():
    """Several at once without a service: they wait for each other."""
    place = Place()
    try:
        running = [subprocess.Popen([KEEPCTL, "key", "create", "k%d" % i], env=place.env(), stdin=subprocess.DEVNULL,
                                    stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for i in range(6)]
        for process in running:
            _, text = process.communicate(timeout=60)
            check(process.returncode == 0, "one of several: exit %d %s" % (process.returncode, text.decode()))
        names = {line["name"] for line in place.lines("key", "list")}
        check({"k%d" % i for i in range(6)} <= names, "keys are missing: %s" % names)
    finally:
        place.done()


def with_place(function):
    def run():
        place = Place()
        try:
            function(place)
        finally:
            place.done()
    run.__name__ = function.__name__
    return run


# ---- over `keepfs --serve` ---------------------------------------------------------------------------------------------------

def with_service(function):
    def run():
        place = Place()
        try:
            place.serve()
            function(place)
            place.stop()
        finally:
            place.done()
    run.__name__ = function.__name__ + " over the socket"
    return run


def service_itself(place):
    status = place.one("status")
    check(status["pid"] == place.service.pid, "status names pid %s, not %s" % (status["pid"], place.service.pid))
    check(os.stat(place.keystore + "/control.sock").st_mode & 0o777 == 0o666, "mode of the socket")
    done = subprocess.run([KEEPFS, "--serve", "-f"], env=place.env(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=60)
    check(done.returncode != 0 and done.stderr, "a second service started")
    check(place.one("status")["pid"] == place.service.pid, "the service did not survive a second one")


def service_raw(place):
    """HTTP as others would speak it."""
    def curl(*args):
        out = subprocess.check_output(["curl", "-s", "-i", "--unix-socket", place.keystore + "/control.sock", *args], text=True)
        head, _, body = out.partition("\n\n") if "\r\n" not in out else out.partition("\r\n\r\n")
        return int(head.split()[1]), head.lower(), body
    code, head, body = curl("http://keepfs/v1/keys")
    check(code == 200 and "application/x-ndjson" in head, "GET /v1/keys: %d %s" % (code, head))
    check(all("name" in json.loads(line) for line in body.splitlines()), "GET /v1/keys: %s" % body)
    for url, more, want in (("/v1/keys/nosuch", [], 404), ("/v1/nosuch", [], 404), ("/v1/keys/%00", [], 400), ("/v1/keys/%zz", [], 400),
                            ("/v1/keys", ["-d", "[1]"], 400), ("/v1/keys", ["-d", '{"name":"a","name":"b"}'], 400),
                            ("/v1/keys", ["-d", '{"name":"default"}'], 409), ("/v1/keys", ["-d", "x" * 70000], 413)):
        code, head, body = curl("http://keepfs" + url, *more)
        check(code == want and "application/problem+json" in head, "%s %s: status %d, not %d" % (url, more[:1], code, want))
        problem = json.loads(body)
        fields(problem, "type", "title", "status", "detail", "errno", "exit")
        check(problem["status"] == want and problem["errno"] > 0 and problem["exit"] > 0, "%s: %s" % (url, problem))


def service_strangers(place):
    if os.getuid() != 0:
        return
    for args in (["key", "create", "theirs"], ["key", "rotate", "default"], ["key", "destroy-version", "default", "1", "--yes"],
                 ["audit", "verify"], ["seal"], ["rewrap"], ["init", place.top + "/theirs"]):
        place.raw(*args, expect=DENIED, uid=65534)
    check(place.raw("key", "list", expect=DENIED, uid=65534).stdout == "", "a stranger sees keys")
    denied = place.lines("audit", "list", "--outcome", "denied")
    check(denied and all(line["uid"] == 65534 and line["outcome"] == "denied" for line in denied), "denials: %s" % denied[:3])
    check(not os.path.exists(place.top + "/theirs"), "a stranger made a vault")
    place.raw("role", "assign", "user:65534", "Manager", expect=DENIED, uid=65534)
    place.raw("role", "list", expect=DENIED, uid=65534)
    place.ctl("role", "assign", "group:65534", "Reader", "--key", "default")
    check([line["name"] for line in place.lines("key", "list", uid=65534)] == ["default"], "what a Reader of one key sees")
    check([line["principal"] for line in place.lines("role", "list", uid=65534)] == [place.lines("role", "list")[-1]["principal"]],
          "a Reader sees the roles of others")
    place.raw("key", "rotate", "default", expect=DENIED, uid=65534)
    place.ctl("role", "assign", "group:65534", "Writer", "--key", "default")
    place.ctl("key", "rotate", "default", uid=65534)
    place.raw("key", "create", "theirs", expect=DENIED, uid=65534)
    place.raw("role", "assign", "everyone", "Reader", "--key", "default", expect=DENIED, uid=65534)
    place.ctl("role", "remove", "group:65534", "Writer", "--key", "default")
    place.raw("key", "rotate", "default", expect=DENIED, uid=65534)


def service_killed():
    """SIGKILL of the service: what was acknowledged is there, and the next command works without it."""
    place = Place()
    try:
        place.serve()
        place.one("key", "create", "acknowledged")
        place.service.kill()
        place.service.wait()
        place.service.stderr.close()
        place.service = None
        check("acknowledged" in [line["name"] for line in place.lines("key", "list")], "a key was lost")
        check(place.one("audit", "verify")["ok"], "audit verify after SIGKILL")
        place.serve()
        check(place.one("status")["pid"] == place.service.pid, "no service after SIGKILL")
        place.stop()
        place.ctl("status")
    finally:
        place.done()


def service_leaving():
    """Commands while the service stops: each is answered, by the service or without it."""
    place = Place()
    try:
        place.serve()
        running = [subprocess.Popen([KEEPCTL, "key", "create", "k%d" % i], env=place.env(), stdin=subprocess.DEVNULL,
                                    stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for i in range(5)]
        place.service.terminate()
        for process in running:
            _, text = process.communicate(timeout=90)
            check(process.returncode == 0, "while the service leaves: exit %d %s" % (process.returncode, text.decode()))
        place.stop()
        names = {line["name"] for line in place.lines("key", "list")}
        check({"k%d" % i for i in range(5)} <= names, "keys are missing: %s" % names)
    finally:
        place.done()


OFFLINE = [usage, modes, init_refusals, configuration, wrong_pin, prompted_pin, damaged, unreachable, strangers, parallel,
           with_place(verbs), with_place(roles), with_place(destroying), with_place(bad_names)]
SERVICE = [with_service(service_itself), with_service(service_raw), with_service(service_strangers), service_killed, service_leaving,
           with_service(verbs), with_service(roles), with_service(destroying), with_service(bad_names)]


def main():
    chosen = {"offline": OFFLINE, "service": SERVICE}[sys.argv[1]]
    if sys.argv[2:]:
        chosen = [function for function in chosen if any(word in function.__name__ for word in sys.argv[2:])]
    failed = 0
    for function in chosen:
        start = time.time()
        try:
            function()
            print("ok    %-40s %5.1f s" % (function.__name__, time.time() - start), flush=True)
        except Exception as problem:  # one broken part must not hide the others
            failed += 1
            print("FAIL  %s: %s" % (function.__name__, problem), flush=True)
            if not isinstance(problem, Failure):
                traceback.print_exc(file=sys.stdout)
    print("%d of %d failed" % (failed, len(chosen)))
    return 1 if failed or not chosen else 0


sys.exit(main())
