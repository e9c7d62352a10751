#!/usr/bin/python3
"""A reader of vaults written from fs/FORMAT.md alone: nothing of keepfs but the data keys, which only the HSM can unwrap.

    reader.py VAULT KEYS MANIFEST      KEYS: output of tests/evil/unwrap for the vault's backing files
Reads every entry of a cleanly unmounted vault (with all checks that the page asks for) and compares with the manifest.
"""
import base64
import hashlib
import json
import os
import stat
import struct
import sys

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

PAGE = 4096


class Bad(Exception):
    pass


def must(condition, text):
    if not condition:
        raise Bad(text)


def expand(key, info, size):
    return HKDFExpand(algorithm=hashes.SHA256(), length=size, info=info).derive(key)


def siv_open(key, aad, sealed, what):
    try:
        return AESSIV(key).decrypt(sealed, [aad])
    except InvalidTag:
        raise Bad(what + " does not authenticate")


def b64(text, what):
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    must(base64.urlsafe_b64encode(raw).rstrip(b"=").decode() == text, what + " is not canonical base64url")
    return raw


def cut(data, sizes):
    parts, at = [], 0
    for size in sizes:
        parts.append(data[at:at + size])
        at += size
    return parts


class Header:
    """Page 0 of a file or the config."""

    def __init__(self, page, magic, purpose):
        must(len(page) == PAGE and page[:8] == magic, "wrong magic")
        must(struct.unpack_from("<HHI", page, 8) == (1, 1, 0), "wrong format, suite or flags")
        must(not any(page[48:64]) and not any(page[96:512]) and not any(page[4072:]), "reserved bytes are not zero")
        self.page, self.magic = page, magic
        self.vault_id, self.file_id, self.commitment = page[16:32], page[32:48], page[64:96]
        live = None
        for at in (512, 1536):
            slot = page[at:at + 768]
            if not any(slot):
                continue
            if hashlib.sha256(slot[:760]).digest()[:8] != slot[760:]:
                continue
            sequence, key_id, version, mechanism, hash_id, iv_mode, slot_purpose, length, zero = struct.unpack_from("<Q16sIBBBBHH", slot)
            must(slot_purpose == purpose and 1 <= length <= 720 and zero == 0 and mechanism == 1, "a wrap slot makes no sense")
            must(not any(slot[36 + length:760]), "reserved bytes of a wrap slot are not zero")
            must(sequence > 0 and (live is None or sequence != live[0]), "two wrap slots of one sequence")
            if live is None or sequence > live[0]:
                live = (sequence, key_id, version)
        must(live, "no valid wrap slot")
        self.wrap = live

    def keys(self, dek):
        vault = self.magic == b"KEEPFSV1"
        label = b"keepfs v1 vault keys" if vault else b"keepfs v1 file keys"
        keys = expand(dek, label + self.page[:64], 416 if vault else 224)
        parts = cut(keys, (32, 64, 64, 64, 64, 64) if vault else (32, 64, 64, 32, 32))
        must(parts[0] == self.commitment, "the key commitment does not match")
        return parts[1:]

    def state(self, siv_key):
        best = None
        for at in (1280, 2304):
            slot = self.page[at:at + 256]
            n = struct.unpack_from("<Q", slot)[0]
            if n == 0 or (best and best[0] > n):
                continue
            if n & 1 != (at == 2304) or any(slot[152:]):
                continue
            try:
                best = (n, siv_open(siv_key, b"keepfs v1 state" + self.magic + self.file_id + struct.pack("<Q", n), slot[8:152], "a state slot"))
            except Bad:
                continue
        must(best, "no state slot authenticates")
        s, size, acc, flags, zero, session, first, end, following = struct.unpack_from("<QQ16sII16sQQQ", best[1])
        must(zero == 0 and not any(best[1][80:]), "reserved bytes of the state are not zero")
        return {"horizon": s, "size": size, "acc": acc, "flags": flags, "session": session, "next": following}


def map_size(z):
    return PAGE if z == 0 else PAGE * page_of((z - 1) // PAGE) + (z - 1) % PAGE + 1


def page_of(block):
    return 1 + block if block < 21 else 22 + 912 * ((block - 21) // 896) + 16 + (block - 21) % 896


def entry_at(block):
    if block < 21:
        return 2560 + 72 * block
    n = (block - 21) % 896
    return (22 + 912 * ((block - 21) // 896) + n // 56) * PAGE + 72 * (n % 56)


class File:
    def __init__(self, path, dek, vault_id):
        with open(path, "rb") as f:
            self.raw = f.read()
        self.header = Header(self.raw[:PAGE], b"KEEPFSF1", 1)
        must(self.header.vault_id == vault_id, "a file of another vault")
        self.siv, self.xattr_key, self.master, self.acc_key = self.header.keys(dek)
        self.state = self.header.state(self.siv)
        must(self.state["flags"] == 0 and not any(self.state["session"]), "the file is not clean")
        must(len(self.raw) == map_size(self.state["size"]), "backing size %d does not belong to size %d" % (len(self.raw), self.state["size"]))

    def slots(self, block):
        at = entry_at(block)
        entry = self.raw[at:at + 72].ljust(72, b"\0")
        found = []
        for i in (0, 36):
            slot = entry[i:i + 36]
            if any(slot):
                meta = struct.unpack_from("<Q", slot, 28)[0]
                must(meta >> 61 == 0, "flags of a tag slot are not zero")
                must(0 < meta & (1 << 48) - 1 <= self.state["horizon"], "a slot without a sequence, or above the horizon")
                must(1 <= meta >> 48 <= PAGE, "a slot of length %d" % (meta >> 48))
                found.append((meta & (1 << 48) - 1, meta >> 48 & 8191, slot[:12], slot[12:28], meta))
        if len(found) == 2:
            must(found[0][0] != found[1][0], "two slots with one sequence")
        return max(found) if found else None

    def blocks(self):
        """Entries past the size may be there and are empty; look at every entry that the backing file has room for."""
        n = 0
        while n < 21 or (entry_at(n) + 72 <= len(self.raw)):
            yield n
            n += 1

    def tag_pages(self):
        """The end of every tag page is zero."""
        run = 22 * PAGE
        while run < len(self.raw):
            for page in range(run, min(run + 16 * PAGE, len(self.raw)), PAGE):
                must(not any(self.raw[page + 56 * 72:page + PAGE]), "reserved bytes of a tag page are not zero")
            run += 912 * PAGE

    def content(self):
        self.tag_pages()
        keys, size, acc, out = {}, self.state["size"], 0, bytearray(self.state["size"])
        ecb = Cipher(algorithms.AES(self.acc_key), modes.ECB()).encryptor()
        for block in self.blocks():
            live = self.slots(block)
            if live is None:
                continue
            seq, length, nonce, tag, meta = live
            must(block * PAGE + length <= size, "block %d of length %d in a file of %d bytes" % (block, length, size))
            inner = ecb.update(struct.pack("<QQ", block, meta))
            acc ^= int.from_bytes(ecb.update(bytes(x ^ y for x, y in zip(inner, tag))), "little")
            epoch = seq >> 31
            if epoch not in keys:
                keys[epoch] = expand(self.master, b"keepfs v1 content" + struct.pack("<Q", epoch), 32)
            at = page_of(block) * PAGE
            data = self.raw[at:at + length].ljust(length, b"\0")
            plain = AESGCM(keys[epoch]).decrypt(nonce, data + tag, b"keepfs v1 block" + self.header.file_id + struct.pack("<QQ", block, meta))
            out[block * PAGE:block * PAGE + length] = plain
        must(acc.to_bytes(16, "little") == self.state["acc"], "the accumulator does not match")
        must(len(out) >= size, "content is short")
        return bytes(out[:size])


def xattrs(path, key, owner):
    found = {}
    for name in os.listxattr(path, follow_symlinks=False):
        if not name.startswith("user.keepfs."):
            must(not name.startswith("user."), "a foreign user xattr")
            continue
        clear = siv_open(key, b"keepfs v1 xname" + owner, b64(name[len("user.keepfs."):], "an xattr name"), "an xattr name")
        value = os.getxattr(path, name, follow_symlinks=False)
        plain = siv_open(key, b"keepfs v1 xvalue" + owner + value[:12] + clear, value[12:], "an xattr value")
        must(plain[:1] == b"\0", "an xattr value without its zero")
        found["user." + clear.decode()] = plain[1:].hex()
    return found


class Vault:
    def __init__(self, path, deks):
        self.path, self.deks = path, deks
        config = os.path.join(path, "keepfs.vault")
        with open(config, "rb") as f:
            self.header = Header(f.read(), b"KEEPFSV1", 2)
        must(self.header.vault_id == self.header.file_id and not any(self.header.page[2560:]), "a bad config page")
        state_key, self.name_key, self.dir_key, self.link_key, self.xattr_key = self.header.keys(deks[os.stat(config).st_ino])[:5]
        state = self.header.state(state_key)
        self.root_id, self.found = state["session"], {}

    def record(self, path, parent):
        with open(os.path.join(path, "keepfs.dir"), "rb") as f:
            raw = f.read()
        must(len(raw) == 160 and raw[:8] == b"KEEPFSD1" and raw[8:16] == b"\1" + bytes(7), "a bad directory record")
        plain = siv_open(self.dir_key, b"keepfs v1 dir" + self.header.vault_id, raw[16:], "a directory record")
        _, own, _, up, second = struct.unpack_from("<Q16s16s16s16s", plain)
        must(parent in (up, second) and not any(plain[72:]), "a directory record that names another parent")
        return own

    def clear_name(self, path, name, directory):
        if name.startswith("L."):
            with open(os.path.join(path, "N." + name[2:]), "rb") as f:
                sealed = f.read()
            must(b64(name[2:], "a long name") == hashlib.sha256(sealed).digest(), "a long name's record is another one")
        else:
            sealed = b64(name, "a name")
        clear = siv_open(self.name_key, b"keepfs v1 name" + directory, sealed, "a name")
        must(name.startswith("L.") == (len(clear) > 175), "a name of the wrong kind")
        return os.fsdecode(clear)

    def walk(self, path, rel, parent):
        own = self.record(path, parent)
        must(rel or own == self.root_id, "the root record is not the config's")
        if rel:
            self.found[rel]["xattrs"] = xattrs(path, self.xattr_key, own)
        for name in sorted(os.listdir(path)):
            if name.startswith(("keepfs.", "tmp.", "N.")):
                continue
            self.entry(os.path.join(path, name), os.path.join(rel, self.clear_name(path, name, own)), own)

    def entry(self, path, rel, parent):
        st = os.lstat(path)
        self.found[rel] = entry = {"mode": "%o" % st.st_mode}
        if stat.S_ISDIR(st.st_mode):
            self.walk(path, rel, parent)
        elif stat.S_ISLNK(st.st_mode):
            raw = b64(os.readlink(path), "a link")
            entry["target"] = os.fsdecode(siv_open(self.link_key, b"keepfs v1 link" + raw[:12], raw[12:], "a link"))
        elif not stat.S_ISREG(st.st_mode):
            entry["xattrs"] = {}
        else:
            file = File(path, self.deks[st.st_ino], self.header.vault_id)
            content = file.content()
            entry.update(size=len(content), sha256=hashlib.sha256(content).hexdigest(), nlink=st.st_nlink,
                         xattrs=xattrs(path, file.xattr_key, file.header.file_id))


def read_vault(path, keys):
    """{clear path: what is there} of a vault, given {backing inode: DEK}."""
    vault = Vault(path, keys)
    vault.walk(path, "", bytes(16))
    return vault.found


def parse_keys(text):
    found = {}
    for line in text.splitlines():
        words = line.split(" ")
        found[os.stat(words[0]).st_ino] = bytes.fromhex(next(w for w in words if w.startswith("dek="))[4:])
    return found


if __name__ == "__main__":
    with open(sys.argv[2]) as keys_file, open(sys.argv[3]) as manifest_file:
        result, wanted = read_vault(os.path.abspath(sys.argv[1]), parse_keys(keys_file.read())), json.load(manifest_file)
    wrong = [p for p in set(result) | set(wanted) if result.get(p) != wanted.get(p)]
    print("\n".join("%s: expected %s, read %s" % (p, wanted.get(p), result.get(p)) for p in wrong) or "%d entries equal" % len(result))
    sys.exit(bool(wrong))
