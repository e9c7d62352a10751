/*
 * fs/vault/open.c: opening a file: rights, keys, state, and what a crash left of it (fs/FORMAT.md, "Open").
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "base/secret.h"
#include "content.h"
#include "live.h"
#include "lock.h"

/* What the state promises about an untouched file: its size, and for all but huge ones every live tag. */
static int check_clean(struct vault_file *f, struct vault_cipher *c)
{
	struct stat st;

	if (fstat(f->fd, &st) != 0)
		return -errno;
	if ((uint64_t)st.st_size != vault_backing_size(f->size))
		return -EBADMSG;
	if (f->size <= VERIFY_AT_OPEN || vault_verify(f->v) || (vault_holes(f->v) && (uint64_t)st.st_blocks * 512 <= VERIFY_AT_OPEN))
		return vault_tags_verify(f, c);
	return 0;
}

static int open_dirty(struct vault_file *f, struct vault_cipher *c)
{
	char id[BASE_ID_TEXT];
	bool same_boot;
	int r;

	if (kms_dirty_crashed(vault_core(f->v), vault_id(f->v), f->id, f->state.session, &same_boot) != 0 && vault_others(f->v)) {
		base_log(LOG_WARNING, "file %s (inode %ju) was copied here while another keepfs writes it: it can be opened when what that sealed has "
			 "arrived", base_hex(f->id, BASE_ID_SIZE, id), (uintmax_t)f->ino);
		return -EBUSY;
	}
	if (kms_dirty_crashed(vault_core(f->v), vault_id(f->v), f->id, f->state.session, &same_boot) != 0) {
		base_log(LOG_ERR, "file %s (inode %ju) is a dirty copy: it was copied while it was being written, or a session that this keystore "
			 "does not know wrote it; copy it again from a vault that is not mounted", base_hex(f->id, BASE_ID_SIZE, id), (uintmax_t)f->ino);
		return -EBADMSG;
	}
	r = vault_lock_file(f, true);
	if (r == 0)
		r = vault_recover(f, c, same_boot);
	if (r == 0 && f->writers == 0)
		r = vault_lock_file(f, false);
	return r;
}

static int check_state(struct vault_file *f, struct vault_cipher *c)
{
	struct kms_core *core = vault_core(f->v);
	bool same_boot, recovered = false;
	int r;

	if (f->state.flags & VAULT_STATE_DIRTY) {
		if ((r = open_dirty(f, c)) != 0)
			return r;
		recovered = true;
	}
	r = check_clean(f, c);
	/* After a power cut tags can be on the disk without their data: only who reads all of it knows. */
	if ((r == -EBADMSG || (r == 0 && f->fd_writable)) && !recovered && kms_dirty_crashed(core, vault_id(f->v), f->id, NULL, &same_boot) == 0 &&
	    !same_boot) {
		if ((r = vault_recover(f, c, false)) != 0)
			return r;
		recovered = true;
		r = check_clean(f, c);
	}
	if (recovered && r == 0)
		kms_dirty_recovered(core, vault_id(f->v), f->id);
	return r;
}

static int unlock_keys(struct vault_file *f, const struct kms_caller *caller, const char *path, const struct vault_header *h, bool write,
		       struct base_error *err)
{
	BASE_SECRET_AUTO uint8_t *dek = base_secret_alloc(KMS_DEK_SIZE);
	struct kms_subject subject;
	int r;

	if (!dek)
		return -ENOMEM;
	vault_file_subject(f, path, &subject);
	r = kms_dek_open(vault_core(f->v), caller, &subject, &h->wrap, write ? KMS_DEK_READ | KMS_DEK_WRITE | KMS_DEK_DIRTY : KMS_DEK_READ, dek, err);
	if (r != 0)
		return r;
	if (write)
		f->writers = 1;
	if ((r = vault_file_derive(f, dek, h->page)) != 0)
		return r;
	return base_secret_equal(f->keys->commitment, h->commitment, 32) ? 0 : -EBADMSG;
}

/* The state as it is sealed, and the tags of the header page. */
int vault_file_load(struct vault_file *f, const struct vault_header *h)
{
	struct vault_cipher *c = vault_cipher_get(f);
	const struct base_siv *siv = c ? vault_cipher_state(c, f) : NULL;
	int r = siv ? vault_state_open(siv, VAULT_MAGIC_FILE, f->id, h->page, &f->state) : -ENOMEM;

	vault_cipher_put(c);
	if (r != 0)
		return r;
	f->size = f->state.size;
	f->next_seq = f->state.horizon + 1;
	memcpy(f->acc, f->state.acc, sizeof(f->acc));
	return f->size <= VAULT_FILE_MAX ? vault_tags_init(f, h->page) : -EBADMSG;
}

static int load_state(struct vault_file *f, const struct vault_header *h, bool check)
{
	struct vault_cipher *c;
	int r = vault_file_load(f, h);

	if (r != 0 || !check)
		return r;
	c = vault_cipher_get(f);
	r = c ? check_state(f, c) : -ENOMEM;
	f->promised_seq = f->next_seq - 1;
	f->promised_size = f->size;
	vault_cipher_put(c);
	return r;
}

enum how { OPEN_READ, OPEN_WRITE, OPEN_APART, OPEN_LOOK }; /* the last two: not listed; the last: nothing is checked */

static int open_how(struct vault *v, const struct kms_caller *caller, const char *path, int fd, enum how how, struct vault_file **ret,
		    struct base_error *err)
{
	struct vault_file *f = vault_file_new(v, fd);
	struct vault_header *h = malloc(sizeof(*h));
	bool write = how == OPEN_WRITE;
	struct stat st;
	int r = 0;

	*ret = NULL;
	if (!f || !h || fstat(fd, &st) != 0) {
		r = f && h ? -errno : -ENOMEM;
		goto out;
	}
	f->dev = st.st_dev;
	f->ino = st.st_ino;
	if (how == OPEN_READ || write)
		vault_live_add(f);
	f->fd_writable = (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR;
	if (write && !f->fd_writable) {
		r = -EBADF;
		goto out;
	}
	r = vault_lock_file(f, write);
	if (r == 0)
		r = vault_header_read(fd, VAULT_MAGIC_FILE, KMS_PURPOSE_FILE, h);
	if (r == 0 && memcmp(h->vault_id, vault_id(v), BASE_ID_SIZE) != 0)
		r = -EBADMSG;
	if (r == 0) {
		memcpy(f->id, h->file_id, BASE_ID_SIZE);
		memcpy(f->zone, h->wrap.key_id, BASE_ID_SIZE);
		r = unlock_keys(f, caller, path, h, write, err);
	}
	if (r == 0)
		r = load_state(f, h, how != OPEN_LOOK);
	if (r == -EBADMSG && how != OPEN_LOOK)
		r = vault_broken(f, -1, "header, state or tags do not authenticate");
out:
	free(h);
	if (r == 0) {
		f->ready = true;
		*ret = f;
		return 0;
	}
	if (!f)
		close(fd);
	else if (f->writers)
		kms_dirty_close(vault_core(v), vault_id(v), f->id);
	if (f)
		f->writers = 0;
	vault_file_free(f);
	return r;
}

int vault_file_open(struct vault *v, const struct kms_caller *caller, const char *path, int fd, bool write, struct vault_file **ret)
{
	struct base_error err = { .code = 0 };
	int r = open_how(v, caller, path, fd, write ? OPEN_WRITE : OPEN_READ, ret, &err);

	if (r != 0 && r != -EACCES && err.text[0])
		base_log(LOG_WARNING, "open: %s", err.text);
	return r;
}

int vault_file_open_apart(struct vault *v, const struct kms_caller *caller, const char *path, int fd, bool check, struct vault_file **ret,
			  struct base_error *err)
{
	return open_how(v, caller, path, fd, check ? OPEN_APART : OPEN_LOOK, ret, err);
}

int vault_file_unlock(struct vault *v, const struct kms_caller *caller, const char *path, int fd, const struct vault_header *h, struct vault_file **ret,
		      struct base_error *err)
{
	struct vault_file *f = vault_file_new(v, fd);
	struct stat st;
	int r = 0;

	*ret = NULL;
	if (!f || fstat(fd, &st) != 0) {
		r = f ? -errno : -ENOMEM;
	} else {
		f->dev = st.st_dev;
		f->ino = st.st_ino;
		f->fd_writable = (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR;
		memcpy(f->id, h->file_id, BASE_ID_SIZE);
		memcpy(f->zone, h->wrap.key_id, BASE_ID_SIZE);
		r = unlock_keys(f, caller, path, h, false, err);
	}
	if (r == 0) {
		*ret = f;
		return 0;
	}
	if (!f)
		close(fd);
	vault_file_free(f);
	return r;
}

int vault_file_grant(struct vault_file *f, const struct kms_caller *caller, const char *path, bool write)
{
	struct base_error err = { .code = 0 };
	struct kms_subject subject;
	struct vault_header *h;
	int r;

	if (write && !f->fd_writable)
		return -EBADF;
	if (write && f->writers == 0 && (r = vault_lock_file(f, true)) != 0)
		return r;
	if (!(h = malloc(sizeof(*h))))
		return -ENOMEM;
	r = vault_header_read(f->fd, VAULT_MAGIC_FILE, KMS_PURPOSE_FILE, h);
	if (r == 0 && memcmp(h->file_id, f->id, BASE_ID_SIZE) != 0)
		r = -EBADMSG;
	if (r == -EBADMSG)
		r = vault_broken(f, -1, "the header was changed");
	vault_file_subject(f, path, &subject);
	if (r == 0)
		r = kms_dek_open(vault_core(f->v), caller, &subject, &h->wrap,
				 KMS_DEK_HAVE | (write ? KMS_DEK_READ | KMS_DEK_WRITE | KMS_DEK_DIRTY : KMS_DEK_READ), NULL, &err);
	free(h);
	if (r == 0 && write) {
		pthread_rwlock_wrlock(&f->lock);
		if (f->writers++ == 0)
			f->row_durable = false;
		pthread_rwlock_unlock(&f->lock);
	}
	if (r != 0 && f->writers == 0)
		(void)vault_lock_file(f, false);
	return r;
}
