#!/usr/bin/python3
"""Real work inside a mount, then everything must compare equal after a remount, and the audit trail must tell who opened what.

A tree untarred, git clone of this repository, a meson build of it, SQLite with many transactions, rsync -aHX in and out, cp of
a big file. Then: every file of the tree has its records with uid, name, pid, program, key version and outcome; audit verify
passes, and after one edit in the database fails naming the record.
Full size: --files 7000 --transactions 1000 --big 4GiB --build keepfs (the default suite is smaller; where /usr/include has as many files as
asked for, it is the tree).
"""
import argparse
import os
import pwd
import shutil
import sqlite3
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import keepfs_testlib as t

SOURCE = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))


def size_of(text):
    for unit, factor in (("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)):
        if text.endswith(unit):
            return int(text[:-3]) * factor
    return int(text)


def step(text, start):
    print("%-34s %6.1f s" % (text, time.time() - start), flush=True)


def source_tree(v, files):
    """A tree outside the vault and its tar."""
    tree = os.path.join(v.dir, "source")
    if sum(len(f) for _, _, f in os.walk("/usr/include")) >= files >= 7000:
        t.run(["cp", "-a", "/usr/include", tree])
    else:
        t.make_tree(tree, files)
    count = 0
    for base, _, names in os.walk(tree):
        for name in names:
            path = os.path.join(base, name)
            if count % 50 == 0 and not os.path.islink(path):
                try:
                    os.setxattr(path, "user.comment", b"number %d" % count)
                except OSError:
                    pass
            count += 1
    t.run(["tar", "--xattrs", "-cf", tree + ".tar", "-C", tree, "."])
    return tree, count


def clone_and_build(v, what):
    """git clone of this repository inside the mount and a build of it there."""
    start = time.time()
    clone = os.path.join(v.mnt, "clone")
    origin = SOURCE if os.path.isdir(os.path.join(SOURCE, ".git")) else None
    if origin is None or not shutil.which("git"):
        origin = os.path.join(v.dir, "origin")
        shutil.copytree(os.path.join(SOURCE, "tests", "work"), origin)
        t.run(["git", "init", "-q", origin])
        t.run(["git", "-C", origin, "add", "."])
        t.run(["git", "-C", origin, "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-q", "-m", "start"])
    t.run(["git", "-c", "safe.directory=*", "clone", "-q", "--no-hardlinks", "file://" + origin, clone])
    t.run(["git", "-C", clone, "fsck", "--full"])
    t.check(not t.run(["git", "-C", clone, "status", "--porcelain"])[1], "the clone is not clean")
    step("git clone, fsck", start)
    start = time.time()
    if what == "keepfs":
        build, project = os.path.join(clone, "build"), clone
    else:  # a small project of the same kind
        project = os.path.join(v.mnt, "small")
        os.mkdir(project)
        shutil.copy(os.path.join(SOURCE, "tests", "bench", "loops.c"), project)
        with open(os.path.join(project, "meson.build"), "w") as f:
            f.write("project('small', 'c')\nadd_project_arguments('-D_GNU_SOURCE', language: 'c')\nexecutable('loops', 'loops.c')\n")
        build = os.path.join(project, "build")
    t.run(["meson", "setup", build, project], timeout=600)
    t.run(["ninja", "-C", build], timeout=1800)
    made = os.path.join(build, "fs/keepfs" if what == "keepfs" else "loops")
    code, out, err = t.run([made, "--version" if what == "keepfs" else "nothing"], ok=(0, 2))
    t.check(out or err, "%s, built inside the mount, says nothing" % made)
    step("meson build (%s)" % what, start)


def sqlite_work(v, transactions):
    start = time.time()
    path = os.path.join(v.mnt, "work.db")
    for mode in ("delete", "wal"):
        db = sqlite3.connect(path, isolation_level=None)
        db.execute("pragma journal_mode=%s" % mode)
        db.execute("pragma synchronous=full")
        db.execute("create table if not exists t (id integer primary key, mode text, v blob)")
        for i in range(transactions // 2):
            db.execute("begin immediate")
            db.execute("insert into t (mode, v) values (?, ?)", (mode, os.urandom(i % 3000)))
            db.execute("update t set mode = mode || '' where id = ?", (i // 2,))
            db.execute("commit")
        db.close()
    db = sqlite3.connect(path)
    t.check(db.execute("pragma integrity_check").fetchone()[0] == "ok", "the SQLite database is damaged")
    t.check(db.execute("select count(*) from t").fetchone()[0] == transactions // 2 * 2, "SQLite transactions are missing")
    db.close()
    step("sqlite, %d transactions" % transactions, start)


def big_file(v, size):
    """A file of random-looking bytes outside, copied in with cp; returns its digest."""
    start = time.time()
    path = os.path.join(v.dir, "big")
    seed = os.urandom(1 << 20)
    with open(path, "wb") as f:
        for i in range((size + (1 << 20) - 1) >> 20):
            block = i.to_bytes(8, "little") + seed[8:]
            f.write(block[:min(1 << 20, size - (i << 20))])
    want = t.digest(path)
    t.run(["cp", path, os.path.join(v.mnt, "big")], timeout=3600)
    os.unlink(path)
    step("cp of %d MiB (and its making)" % (size >> 20), start)
    return want


def audit_of_tree(v, rel_paths):
    """Every file has its records, with all that tells who, what and with which key version."""
    start = time.time()
    me, name = os.getuid(), pwd.getpwuid(os.getuid()).pw_name
    opened = {}
    for r in v.keepctl("audit", "list", json=True, timeout=1200):
        if r["action"] in ("create", "open-read", "open-write") and r["via"] == "fuse":
            for field in ("seq", "time", "uid", "user", "pid", "program", "key", "key_version", "file_id", "path", "outcome", "errno"):
                t.check(field in r, "audit record %s has no %s" % (r.get("seq"), field))
            opened.setdefault(r["path"].lstrip("/"), []).append(r)
    t.check(opened, "audit list has no record of an open")
    for rel in rel_paths:
        records = opened.get(rel)
        t.check(records, "no audit record of an open of %s" % rel)
        actions = set(r["action"] for r in records)
        t.check("create" in actions, "%s was made, but has only records of %s" % (rel, actions))
        for r in records:
            t.check(r["uid"] == me and r["user"] == name and r["pid"] > 0 and r["program"] and r["key"] and r["key_version"] >= 1 and
                    r["outcome"] == "allowed" and r["errno"] == 0 and len(r["file_id"]) == 32, "audit record of %s: %s" % (rel, r))
    programs = set(os.path.basename(r["program"]) for rs in opened.values() for r in rs)
    t.check({"tar", "rsync", "cp"} <= programs, "programs in the audit trail: %s" % programs)
    step("audit, %d files checked" % len(rel_paths), start)


def edit_is_found(v):
    """One edit in a copy of the database of a stopped service: verify fails and names the record."""
    verdict = v.keepctl("audit", "verify", json=True)[-1]
    t.check(verdict["ok"] is True and verdict["records"] > 0 and verdict["first_bad"] in (None, 0), "audit verify: %s" % verdict)
    db = sqlite3.connect(os.path.join(v.keystore, "keystore.db"))
    table, columns = audit_table(db)
    key = "seq" if "seq" in columns else "rowid"
    number = db.execute("select %s from %s order by %s limit 1 offset ?" % (key, table, key), (verdict["records"] // 2,)).fetchone()[0]
    column = next(c for c in ("uid", "pid", "errno", "action", "record", "body", "json") if c in columns)
    old = db.execute("select %s from %s where %s = ?" % (column, table, key), (number,)).fetchone()[0]
    if isinstance(old, int):
        new = old + 1
    else:
        new = old.replace("a", "b", 1) if isinstance(old, str) else bytes(old[:-1]) + bytes([old[-1] ^ 1])
    t.check(new != old, "the edit of %s.%s changes nothing" % (table, column))
    for trigger, in db.execute("select name from sqlite_master where type = 'trigger' and tbl_name = ?", (table,)).fetchall():
        db.execute("drop trigger %s" % trigger)
    db.execute("update %s set %s = ? where %s = ?" % (table, column, key), (new, number))
    db.commit()
    db.close()
    code, out, err = v.keepctl("audit", "verify", ok=None)
    bad = v.keepctl("audit", "verify", json=True, ok=None)
    t.check(code == 6, "audit verify after an edit of record %d: exit %d instead of 6\n%s%s" % (number, code, out, err))
    t.check(str(number) in out + err, "audit verify does not name record %d: %s%s" % (number, out, err))
    t.check(any(line.get("first_bad") == number for line in bad), "audit verify --json does not name record %d: %s" % (number, bad))
    print("an edit of %s.%s in record %d is found and named" % (table, column, number))


def audit_table(db):
    for table, in db.execute("select name from sqlite_master where type = 'table' and name like '%audit%'"):
        columns = [r[1] for r in db.execute("pragma table_info(%s)" % table)]
        if "prev" in " ".join(columns) or "hash" in " ".join(columns) or "mac" in columns or "chain" in columns:
            return table, columns
    raise t.Failure("no table of audit records in keystore.db")


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--files", type=int, default=1500)
    p.add_argument("--transactions", type=int, default=200)
    p.add_argument("--big", type=size_of, default="64MiB")
    p.add_argument("--build", choices=("small", "keepfs"), default="small")
    p.add_argument("--base", help="directory for everything")
    p.add_argument("--options", help="mount options")
    args = p.parse_args()
    t.need_fuse()
    v = t.Vault(base=args.base)
    tree, count = source_tree(v, args.files)
    v.init()
    v.mount(args.options)
    start = time.time()
    os.mkdir(v.mnt + "/tree")
    t.run(["tar", "--xattrs", "-xf", tree + ".tar", "-C", v.mnt + "/tree"])
    step("untar of %d files" % count, start)
    clone_and_build(v, args.build)
    sqlite_work(v, args.transactions)
    start = time.time()
    t.run(["rsync", "-aHX", tree + "/", v.mnt + "/rsynced"])
    t.run(["rsync", "-aHX", v.mnt + "/rsynced/", os.path.join(v.dir, "out")])
    again = t.run(["rsync", "-aHXin", "--delete", tree + "/", v.mnt + "/rsynced"])[1]
    t.check(not again, "rsync finds differences right after a copy:\n%s" % again[:1000])
    step("rsync -aHX in and out", start)
    big = big_file(v, args.big)
    start = time.time()
    before = t.snapshot(v.mnt)
    v.unmount()
    step("checksums, unmount", start)
    start = time.time()
    v.mount(args.options)
    t.compare(before, t.snapshot(v.mnt), "after unmount and mount")
    t.check(t.digest(v.mnt + "/big") == big, "the big file is another one")
    for copy in (v.mnt + "/tree", v.mnt + "/rsynced", os.path.join(v.dir, "out")):
        t.run(["diff", "-r", "--no-dereference", tree, copy])
        t.compare(t.snapshot(tree), t.snapshot(copy), copy)
        check_xattrs(tree, copy)
    step("mount, checksums, diff -r", start)
    files = [os.path.relpath(os.path.join(b, n), v.mnt) for b, _, ns in os.walk(v.mnt + "/rsynced") for n in ns]
    linked = set(f for f in files if os.lstat(os.path.join(v.mnt, f)).st_nlink > 1)
    audit_of_tree(v, ["tree/" + os.path.relpath(f, "rsynced") for f in files
                      if f not in linked and not os.path.islink(os.path.join(v.mnt, f))])
    v.unmount()
    edit_is_found(v)


def check_xattrs(tree, copy):
    for base, _, names in os.walk(tree):
        for name in names:
            path = os.path.join(base, name)
            for x in os.listxattr(path, follow_symlinks=False):
                if x.startswith("user."):
                    other = os.path.join(copy, os.path.relpath(path, tree))
                    t.check(os.getxattr(other, x) == os.getxattr(path, x), "xattr %s of %s differs" % (x, other))


t.main(main)
