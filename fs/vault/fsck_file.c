/* Regular files: headers, keys, zones, xattrs. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fsck.h"
#include "object.h"
#include "verify.h"
#include "vault/path.h"

#define TRIES 2000 /* of 10 ms, to find a file either open or not */

/* A finding that --quarantine may act on. */
static int bad(struct fsck_found *found)
{
	if (found)
		found->aside = true;
	return found ? 0 : -ENOMEM;
}

static int check_xattrs(struct fsck *j, struct vault_file *f, int fd, const struct fsck_name *name)
{
	struct vault_xattr x;
	char first[256];
	int n = vault_file_xattr(f, &x);

	if (n == 0)
		n = vault_xattr_check(&x, fd, first, sizeof(first));
	if (n <= 0)
		return n == -ENOMEM ? n : 0;
	return vault_fsck_found(j, name, "xattr-damaged", "%d extended attributes do not authenticate; setfattr -x %s on the backing file removes the first",
				n, first) ? 0 : -ENOMEM;
}

/* Not a file that is on its way into another zone, or has gone there. */
static bool at_rest(struct fsck *j, int fd, const struct fsck_name *name)
{
	struct vault *v = j->check.at.v;
	struct stat st;
	bool rest;

	vault_header_lock(v, name->object.ino);
	rest = vault_header_read(fd, VAULT_MAGIC_FILE, KMS_PURPOSE_FILE, &j->header) == 0 && !vault_live_moving(v, name->object.ino);
	vault_header_unlock(v, name->object.ino);
	return rest && fstatat(j->fd, name->entry, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_ino == name->object.ino;
}

static int check_zone(struct fsck *j, int fd, const struct fsck_name *name)
{
	char key[KMS_NAME_MAX + 1], dir_key[KMS_NAME_MAX + 1];
	const uint8_t *zone = j->header.wrap.key_id;
	struct fsck_found *found;

	if (!j->known || !at_rest(j, fd, name) || memcmp(zone, j->rec.zone, BASE_ID_SIZE) == 0)
		return 0;
	if (kms_key_name(j->check.core, zone, key) < 0)
		base_hex(zone, BASE_ID_SIZE, key);
	if (kms_key_name(j->check.core, j->rec.zone, dir_key) < 0)
		base_hex(j->rec.zone, BASE_ID_SIZE, dir_key);
	found = vault_fsck_found(j, name, "other-key", "it hangs on the key %s and its directory on %s; `keepctl dir set-key DIR %s --rewrap` takes it along", key, dir_key, dir_key);
	if (found)
		found->f.note = true;
	j->notes++;
	return found ? 0 : -ENOMEM;
}

/* The wrap slot that a rewrap left. The live one has just been unwrapped. */
static int old_slot(struct fsck *j, int fd, const struct stat *st, const struct fsck_name *name)
{
	const struct timespec times[2] = { st->st_atim, st->st_mtim };
	struct vault *v = j->check.at.v;
	struct vault_header *h = &j->header;
	struct fsck_found *found;
	bool left;
	int code;

	/* A move into another zone has two wraps in the header while it is under way. */
	vault_header_lock(v, st->st_ino);
	left = vault_header_read(fd, VAULT_MAGIC_FILE, KMS_PURPOSE_FILE, h) == 0 && h->other_used && !vault_live_moving(v, st->st_ino);
	vault_header_unlock(v, st->st_ino);
	if (!left)
		return 0;
	found = vault_fsck_found(j, name, "header-slot", "a rewrap or a move left a second wrapped key in the header; --repair erases it");
	if (!found)
		return -ENOMEM;
	if (!j->repair || (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDWR)
		return 0;
	code = vault_fsck_audit(j, h->file_id, name, "an old wrap slot is erased");
	if (code == 0)
		code = kms_audit_barrier(j->check.core);
	if (code == 0 && fdatasync(fd) < 0)
		code = -errno;
	if (code < 0)
		return code;
	vault_header_lock(v, st->st_ino);
	if (!vault_live_moving(v, st->st_ino) && vault_header_read(fd, VAULT_MAGIC_FILE, KMS_PURPOSE_FILE, h) == 0 && vault_header_erase(fd, h) == 0 &&
	    futimens(fd, times) == 0)
		found->f.action = VAULT_FINDING_REPAIRED;
	vault_header_unlock(v, st->st_ino);
	return 0;
}

/* The parts of a header that need no key. 1: it can be used. */
static int check_page(struct fsck *j, int fd, const struct stat *st, const struct fsck_name *name)
{
	struct vault_header *h = &j->header;
	char text[400], key[KMS_NAME_MAX + 1];
	int code;

	if (st->st_size == 0)
		return bad(vault_fsck_found(j, name, "empty", "nothing of it reached the disk before a power cut, not even a header; delete it in the vault, or move it "
					    "away with --quarantine"));
	if (st->st_size < VAULT_PAGE)
		return bad(vault_fsck_found(j, name, "header-damaged", "it is shorter than its header; restore it from a backup"));
	code = vault_header_read(fd, VAULT_MAGIC_FILE, KMS_PURPOSE_FILE, h);
	if (code < 0 && code != -EBADMSG)
		return vault_fsck_found(j, name, "unreadable", "its header cannot be read: %s; look at the disk", strerror(-code)) ? 0 : -ENOMEM;
	if (code < 0) {
		vault_verify_page(h->page, VAULT_MAGIC_FILE, KMS_PURPOSE_FILE, vault_id(j->check.at.v), text, sizeof(text));
		return bad(vault_fsck_found(j, name, "header-damaged", "its header is none: %s; restore it from a backup", text));
	}
	if (memcmp(h->vault_id, vault_id(j->check.at.v), BASE_ID_SIZE) != 0)
		return bad(vault_fsck_found(j, name, "header-vault", "it belongs to another vault; move it back there, or away with --quarantine"));
	if (kms_key_name(j->check.core, h->wrap.key_id, key) == -ENOENT)
		return bad(vault_fsck_found(j, name, "header-key", "the key that its data key is wrapped by is not in this keystore; restore the keystore, or the file, "
					    "from a backup"));
	if (h->wrap.version == 0 || h->wrap.version > kms_key_current(j->check.core, h->wrap.key_id))
		return bad(vault_fsck_found(j, name, "header-key", "its data key is wrapped by version %u of key %s, which this keystore does not have; restore the newest "
					    "keystore", (unsigned)h->wrap.version, key));
	return 1;
}

/* Why the data key could not be had. What concerns all files ends the run. */
static int locked(struct fsck *j, const struct fsck_name *name, int code, const struct base_error *err)
{
	if (code == -EBADMSG && err->code == 0)
		return bad(vault_fsck_found(j, name, "header-commitment", "its header was changed: the key commitment does not match; restore it from a backup"));
	if (code == -EBADMSG)
		return bad(vault_fsck_found(j, name, "header-wrap", "its wrapped data key does not open (%s); restore it from a backup", err->text));
	if (code == -ENOKEY && err->exit != BASE_EXIT_UNREACHABLE)
		return bad(vault_fsck_found(j, name, "header-key", "%s; restore the file from a newer backup, or the keystore", err->text));
	if (code == -EACCES || code == -EKEYREVOKED)
		return vault_fsck_found(j, name, "denied", "not checked: %s", err->text) ? 0 : -ENOMEM;
	if (err->code)
		*j->err = *err;
	return code;
}

/* fd stays the caller's. */
static int check_closed(struct fsck *j, int fd, struct fsck_name *name)
{
	char *path = vault_fsck_path(j, name);
	struct base_error err = { 0 };
	struct vault_file *f;
	struct stat st;
	int own, code = fstat(fd, &st) < 0 ? -errno : check_page(j, fd, &st, name);

	if (code == 1) {
		own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		code = own < 0 ? -errno : vault_file_unlock(j->check.at.v, &j->check.request->caller, path, own, &j->header, &f, &err);
		if (own >= 0 && code < 0)
			code = locked(j, name, code, &err);
		else if (code == 0) {
			code = vault_file_load(f, &j->header);
			if (code == 0)
				code = vault_fsck_state(j, f, name);
			else if (code == -EBADMSG)
				code = bad(vault_fsck_found(j, name, "state-damaged", "its sealed state does not authenticate; restore it from a backup"));
			if (code == 0 && j->header.other_used)
				code = old_slot(j, fd, &st, name);
			if (code == 0)
				code = check_xattrs(j, f, fd, name);
			if (code == 0)
				code = check_zone(j, fd, name);
			vault_file_free(f);
		}
	}
	free(path);
	return code;
}

/* A file in use: only what an open session cannot be changing. */
static int check_open(struct fsck *j, struct vault_file *f, int fd, const struct fsck_name *name)
{
	struct vault_header *h = &j->header;
	struct vault_cipher *c;
	struct vault_state state;
	const char *what = NULL;
	int code;

	if (!f->ready)
		return 0;
	c = vault_cipher_get(f);
	if (!c)
		return -ENOMEM;
	pthread_rwlock_rdlock(&f->lock);
	code = f->adrift ? 0 : vault_header_read(fd, VAULT_MAGIC_FILE, KMS_PURPOSE_FILE, h);
	if (code == 0 && !f->adrift) {
		const struct base_siv *siv = vault_cipher_state(c, f);
		int opened = siv ? vault_state_open(siv, VAULT_MAGIC_FILE, f->id, h->page, &state) : -ENOMEM;

		if (memcmp(h->file_id, f->id, BASE_ID_SIZE) != 0 || memcmp(h->vault_id, vault_id(f->v), BASE_ID_SIZE) != 0 ||
		    memcmp(h->commitment, f->keys->commitment, sizeof(h->commitment)) != 0)
			what = "header-damaged";
		else if (opened == -EBADMSG || (opened == 0 && state.n != f->state.n))
			what = "state-damaged";
	} else if (code == -EBADMSG) {
		what = "header-damaged";
	}
	pthread_rwlock_unlock(&f->lock);
	vault_cipher_put(c);
	if (what && !vault_fsck_found(j, name, what, "its header was changed behind the back of the mount that has it open; copy the file from the mount before it "
				      "is closed"))
		return -ENOMEM;
	code = check_xattrs(j, f, fd, name);
	return code == 0 && !f->adrift && !what ? check_zone(j, fd, name) : code;
}

/* Second names of an inode: only their zone counts. 1: another name was looked at. */
static int check_linked(struct fsck *j, const struct fsck_name *name)
{
	struct fsck_linked *l;

	HASH_FIND(hh, j->linked, &name->object, sizeof(name->object), l);
	if (!l)
		return 0;
	if (l->has_zone && j->known && memcmp(l->zone, j->rec.zone, BASE_ID_SIZE) != 0 &&
	    !vault_fsck_found(j, name, "hard-links", "another name of it lies in a directory of another key; make a copy of one of the two"))
		return -ENOMEM;
	return 1;
}

/* Remembered once one of its names was found good: a damaged one is told, and moved, name by name. */
static int remember(struct fsck *j, const struct fsck_name *name)
{
	struct fsck_linked *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	l->key = name->object;
	l->has_zone = j->known;
	if (j->known)
		memcpy(l->zone, j->rec.zone, BASE_ID_SIZE);
	HASH_ADD(hh, j->linked, key, sizeof(l->key), l);
	return 0;
}

static int check(struct fsck *j, int fd, struct fsck_name *name)
{
	struct vault *v = j->check.at.v;
	struct vault_claim claim;
	struct vault_file *f;
	int code;

	for (int i = 0; i < TRIES; i++) {
		if (vault_live_claim(v, name->object.dev, name->object.ino, &claim) == 0) {
			code = check_closed(j, fd, name);
			vault_live_unclaim(&claim);
			return code;
		}
		f = vault_live_hold(v, name->object.dev, name->object.ino);
		if (f) {
			code = check_open(j, f, fd, name);
			vault_live_release(f);
			return code;
		}
		usleep(10000); /* another check has it */
	}
	return vault_fsck_found(j, name, "unreadable", "not checked: another check had it the whole time; run fsck again") ? 0 : -ENOMEM;
}

static int open_backing(struct fsck *j, const char *entry)
{
	int fd = j->repair || j->adopt || j->content ? vault_open_file(j->fd, entry, O_RDWR) : -EACCES;

	return fd == -EACCES || fd == -EROFS || fd == -EPERM || fd == -ETXTBSY ? vault_open_file(j->fd, entry, O_RDONLY) : fd;
}

int vault_fsck_file(struct fsck *j, struct fsck_name *name)
{
	int fd = open_backing(j, name->entry), code;
	uint64_t before = j->finds - j->notes + j->check.problems;
	struct stat st;

	if (fd == -ENOENT || fd == -ESTALE)
		return 0;
	if (fd < 0)
		return vault_fsck_found(j, name, "unreadable", "cannot be opened: %s; look at the disk, or run fsck as root", strerror(-fd)) ? 0 : -ENOMEM;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		close(fd);
		return 0;
	}
	name->object = (struct vault_file_key){ st.st_dev, st.st_ino };
	code = st.st_nlink > 1 ? check_linked(j, name) : 0;
	if (code == 0) {
		j->files++;
		j->check.done += !j->content;
		code = j->content ? j->content(j, fd, &st, name) : check(j, fd, name);
		if (code == 0 && st.st_nlink > 1 && before == j->finds - j->notes + j->check.problems)
			code = remember(j, name);
	}
	close(fd);
	return code < 0 ? code : 0;
}
