/*
 * fs/vault/file.c: an open file: its object, its keys, sync and release. make.c and open.c begin its life.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "base/secret.h"
#include "content.h"
#include "live.h"
#include "lock.h"

#define IDLE_NS 2000000000ULL
#define KEYS_LABEL "keepfs v1 file keys"

_Static_assert(sizeof(struct vault_file_keys) == 224, "fs/FORMAT.md cuts 224 bytes");

void vault_file_subject(const struct vault_file *f, const char *path, struct kms_subject *ret)
{
	*ret = (struct kms_subject){ .purpose = KMS_PURPOSE_FILE, .path = path };
	memcpy(ret->vault_id, vault_id(f->v), BASE_ID_SIZE);
	memcpy(ret->file_id, f->id, BASE_ID_SIZE);
}

int vault_broken(struct vault_file *f, int64_t block, const char *what)
{
	struct kms_caller self = kms_caller_self(KMS_VIA_SERVICE);
	struct kms_subject subject;
	char id[BASE_ID_TEXT], reason[160];

	base_log(LOG_ERR, "file %s (inode %ju), block %jd: %s; the read is refused", base_hex(f->id, BASE_ID_SIZE, id), (uintmax_t)f->ino,
		 (intmax_t)block, what);
	if (!f->reported) {
		f->reported = true;
		vault_file_subject(f, NULL, &subject);
		snprintf(reason, sizeof(reason), "block %jd: %s", (intmax_t)block, what);
		(void)kms_audit_write(vault_core(f->v), &self, "integrity", &subject, EIO, reason);
	}
	return -EIO;
}

struct vault_file *vault_file_new(struct vault *v, int fd)
{
	static atomic_ullong serials;
	struct vault_file *f = calloc(1, sizeof(*f));

	if (!f)
		return NULL;
	f->v = v;
	f->fd = fd;
	f->temp_dirfd = -1;
	f->serial = atomic_fetch_add(&serials, 1) + 1;
	f->keys = base_secret_alloc(sizeof(*f->keys));
	pthread_rwlock_init(&f->lock, NULL);
	pthread_mutex_init(&f->tags_mutex, NULL);
	pthread_mutex_init(&f->xattr_mutex, NULL);
	if (!f->keys) {
		f->fd = -1;
		vault_file_free(f);
		return NULL;
	}
	return f;
}

void vault_file_free(struct vault_file *f)
{
	if (!f)
		return;
	while (f->writers > 0)
		vault_file_release(f, true);
	vault_live_drop(f);
	if (f->has_lease)
		kms_dek_created(vault_core(f->v), f->lease);
	if (f->temp[0])
		unlinkat(f->temp_dirfd, f->temp, 0);
	if (f->temp_dirfd >= 0)
		close(f->temp_dirfd);
	vault_cipher_forget(f->serial);
	base_siv_free(f->xattr);
	base_secret_free(f->keys);
	vault_tags_done(f);
	if (f->fd >= 0)
		close(f->fd);
	pthread_rwlock_destroy(&f->lock);
	pthread_mutex_destroy(&f->tags_mutex);
	pthread_mutex_destroy(&f->xattr_mutex);
	free(f);
}

int vault_file_derive(struct vault_file *f, const uint8_t *dek, const uint8_t *page)
{
	uint8_t info[sizeof(KEYS_LABEL) - 1 + 64];

	memcpy(info, KEYS_LABEL, sizeof(KEYS_LABEL) - 1);
	memcpy(info + sizeof(KEYS_LABEL) - 1, page, 64);
	return base_hkdf_expand(dek, KMS_DEK_SIZE, info, sizeof(info), (uint8_t *)f->keys, sizeof(*f->keys));
}

/* ---- sync, release ---- */

static int seal_clean_locked(struct vault_file *f)
{
	struct vault_cipher *c;
	int r;

	if (!f->adrift && !(f->state.flags & VAULT_STATE_DIRTY))
		return 0;
	if (!(c = vault_cipher_get(f)))
		return -ENOMEM;
	r = vault_mend(f, c);
	if (r == 0 && (f->state.flags & VAULT_STATE_DIRTY))
		r = vault_seal_quiet(f, c, 0);
	vault_cipher_put(c);
	if (r == 0 && f->left) {
		f->left = false;
		kms_dirty_recovered(vault_core(f->v), vault_id(f->v), f->id);
	}
	return r;
}

void vault_file_release(struct vault_file *f, bool write)
{
	int r = 0;

	if (!write)
		return;
	pthread_rwlock_wrlock(&f->lock);
	if (--f->writers == 0 && (r = seal_clean_locked(f)) != 0)
		f->left = true;
	pthread_rwlock_unlock(&f->lock);
	if (r == 0) {
		kms_dirty_close(vault_core(f->v), vault_id(f->v), f->id);
		if (f->writers == 0)
			(void)vault_lock_file(f, false);
		return;
	}
	base_log(LOG_ERR, "inode %ju could not be sealed: %s; it is recovered when it is used next", (uintmax_t)f->ino, strerror(-r));
	kms_dirty_left(vault_core(f->v), vault_id(f->v), f->id);
}

bool vault_file_idle(struct vault_file *f, uint64_t now_ns)
{
	bool clean;

	if (pthread_rwlock_trywrlock(&f->lock) != 0)
		return false;
	if ((f->adrift || (f->state.flags & VAULT_STATE_DIRTY)) && now_ns > f->last_write_ns + IDLE_NS)
		(void)seal_clean_locked(f);
	clean = !f->adrift && !(f->state.flags & VAULT_STATE_DIRTY);
	pthread_rwlock_unlock(&f->lock);
	return clean;
}

/* Seal what was written. From here on its slots count as promised, before they are durable: an overwrite during the sync must keep Rule D. */
static int sync_begin(struct vault_file *f, bool *need_row)
{
	struct vault_cipher *c = NULL;
	int r = 0;

	if (f->adrift || f->changed) {
		c = vault_cipher_get(f);
		r = c ? vault_mend(f, c) : -ENOMEM;
		if (r == 0 && f->changed)
			r = vault_seal_quiet(f, c, VAULT_STATE_DIRTY);
		vault_cipher_put(c);
	}
	f->promised_seq = f->next_seq - 1;
	f->promised_size = f->size;
	f->unsynced = f->fresh = false;
	*need_row = !f->row_durable && (f->state.flags & VAULT_STATE_DIRTY);
	return r;
}

int vault_file_sync(struct vault_file *f, bool datasync)
{
	bool need_row = false;
	uint64_t upto;
	int r = 0;

	pthread_rwlock_wrlock(&f->lock);
	if (f->fd_writable)
		r = sync_begin(f, &need_row);
	upto = f->promised_seq;
	pthread_rwlock_unlock(&f->lock);
	if (r == 0 && need_row)
		r = kms_audit_barrier(vault_core(f->v));
	if (r == 0 && (datasync ? fdatasync(f->fd) : fsync(f->fd)) != 0)
		r = -errno;
	pthread_rwlock_wrlock(&f->lock);
	if (r != 0)
		f->unsynced = true;
	else if (need_row)
		f->row_durable = true;
	if (r == 0 && upto > f->durable_seq)
		f->durable_seq = upto;
	pthread_rwlock_unlock(&f->lock);
	return r;
}

/* ---- what others ask ---- */

void vault_file_mtime(struct vault_file *f, const struct timespec *mtime)
{
	pthread_rwlock_wrlock(&f->lock);
	f->has_mtime = mtime != NULL;
	if (mtime)
		f->mtime = *mtime;
	pthread_rwlock_unlock(&f->lock);
}

bool vault_file_nameless(const struct vault_file *f)
{
	return !f->temp[0];
}

bool vault_file_resized(const struct vault_file *f)
{
	return f->resized;
}

int vault_file_fd(const struct vault_file *f)
{
	return f->fd;
}

uint64_t vault_file_size(struct vault_file *f)
{
	uint64_t size;

	pthread_rwlock_rdlock(&f->lock);
	size = f->size;
	pthread_rwlock_unlock(&f->lock);
	return size;
}

const uint8_t *vault_file_id(const struct vault_file *f)
{
	return f->id;
}

void vault_file_zone(const struct vault_file *f, uint8_t ret[BASE_ID_SIZE])
{
	memcpy(ret, f->zone, BASE_ID_SIZE);
}

int vault_file_xattr(struct vault_file *f, struct vault_xattr *ret)
{
	int r = 0;

	pthread_mutex_lock(&f->xattr_mutex);
	if (!f->xattr)
		r = base_siv_new(f->keys->xattr, &f->xattr);
	ret->siv = f->xattr;
	pthread_mutex_unlock(&f->xattr_mutex);
	memcpy(ret->id, f->id, BASE_ID_SIZE);
	return r;
}
