/*
 * fs/vault/file.c: the life of an open file: create, link, open, grant, sync, release.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/secret.h"
#include "content.h"
#include "live.h"
#include "lock.h"

#define IDLE_NS 2000000000ULL
#define KEYS_LABEL "keepfs v1 file keys"

_Static_assert(sizeof(struct vault_file_keys) == 224, "fs/FORMAT.md cuts 224 bytes");

static void subject_of(const struct vault_file *f, const char *path, struct kms_subject *ret)
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
		subject_of(f, NULL, &subject);
		snprintf(reason, sizeof(reason), "block %jd: %s", (intmax_t)block, what);
		(void)kms_audit_write(vault_core(f->v), &self, "integrity", &subject, EIO, reason);
	}
	return -EIO;
}

static struct vault_file *file_new(struct vault *v, int fd)
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

static int derive(struct vault_file *f, const uint8_t *dek, const uint8_t *page)
{
	uint8_t info[sizeof(KEYS_LABEL) - 1 + 64];

	memcpy(info, KEYS_LABEL, sizeof(KEYS_LABEL) - 1);
	memcpy(info + sizeof(KEYS_LABEL) - 1, page, 64);
	return base_hkdf_expand(dek, KMS_DEK_SIZE, info, sizeof(info), (uint8_t *)f->keys, sizeof(*f->keys));
}

/* ---- create ---- */

/* A backing file without a name, or with a name that is no entry where the filesystem has no O_TMPFILE. */
static int open_nameless(int dirfd, mode_t mode, char temp[32])
{
	int fd, r;

	temp[0] = '\0';
	fd = openat(dirfd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, mode & 0777);
	if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL && errno != ENOENT))
		return fd >= 0 ? fd : -errno;
	if ((r = vault_name_temp(temp)) != 0)
		return r;
	fd = openat(dirfd, temp, O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW | O_CLOEXEC, mode & 0777);
	if (fd < 0) {
		r = -errno;
		temp[0] = '\0';
		return r;
	}
	return fd;
}

/* The same, listed as open before a check can see its name. */
static int new_nameless(struct vault *v, int dirfd, mode_t mode, struct vault_file **ret)
{
	struct vault_file *f;
	struct stat st;
	char temp[32];
	int fd;

	vault_half_begin(v);
	fd = open_nameless(dirfd, mode, temp);
	if (fd < 0) {
		vault_half_end(v);
		return fd;
	}
	f = file_new(v, fd);
	if (!f || fstat(fd, &st) != 0) {
		if (temp[0])
			unlinkat(dirfd, temp, 0);
		vault_half_end(v);
		if (!f)
			close(fd);
		vault_file_free(f);
		return -ENOMEM;
	}
	f->fd_writable = true;
	f->dev = st.st_dev;
	f->ino = st.st_ino;
	vault_live_add(f);
	vault_half_end(v);
	if (temp[0]) {
		memcpy(f->temp, temp, sizeof(temp));
		f->temp_dirfd = fcntl(dirfd, F_DUPFD_CLOEXEC, 0);
	}
	*ret = f;
	return 0;
}

static int write_header(struct vault_file *f, const struct kms_new_dek *new)
{
	uint8_t page[VAULT_PAGE];
	struct vault_cipher *c;
	int r;

	vault_header_build(page, VAULT_MAGIC_FILE, vault_id(f->v), new->file_id);
	if ((r = derive(f, new->dek, page)) != 0)
		return r;
	memcpy(page + 64, f->keys->commitment, 32);
	vault_wrap_encode(1, KMS_PURPOSE_FILE, &new->wrap, page + VAULT_HEADER_AREA(0));
	if (!(c = vault_cipher_get(f)))
		return -ENOMEM;
	f->next_seq = 1;
	f->state = (struct vault_state){ .n = 1, .flags = VAULT_STATE_DIRTY, .next_seq = 1 };
	memcpy(f->state.session, kms_session(vault_core(f->v)), BASE_ID_SIZE);
	const struct base_siv *siv = vault_cipher_state(c, f);
	r = siv ? vault_state_seal(siv, VAULT_MAGIC_FILE, f->id, &f->state, page + VAULT_HEADER_AREA(1) + VAULT_WRAP_SIZE) : -ENOMEM;
	vault_cipher_put(c);
	if (r == 0)
		r = vault_tags_init(f, page);
	if (r == 0)
		r = vault_pwrite_all(f->fd, page, sizeof(page), 0, NULL);
	return r;
}

/* Owner, then mode; below a default ACL what the backing filesystem has made of the mode counts. After the last write: it takes set-id bits away. */
static int own(int dirfd, int fd, mode_t mode, uid_t uid, gid_t gid)
{
	struct stat st;

	if ((uid != (uid_t)-1 || gid != (gid_t)-1) && fchown(fd, uid, gid) != 0)
		return -errno;
	if (fstat(fd, &st) != 0)
		return -errno;
	if (((st.st_mode ^ mode) & 0777) && vault_dir_inherits(dirfd))
		mode = (mode & 07000) | (st.st_mode & 0777);
	return ((st.st_mode ^ mode) & 07777) && fchmod(fd, mode & 07777) != 0 ? -errno : 0;
}

int vault_file_create(struct vault *v, const struct kms_caller *caller, const char *path, int dirfd, const struct vault_dir *dir, mode_t mode,
		      uid_t uid, gid_t gid, struct vault_file **ret)
{
	struct kms_subject subject = { .purpose = KMS_PURPOSE_FILE, .path = path };
	struct kms_new_dek new = { .dek = NULL };
	struct base_error err = { .code = 0 };
	struct vault_file *f;
	int r = new_nameless(v, dirfd, mode, &f);

	*ret = NULL;
	if (r != 0)
		return r;
	r = own(dirfd, f->fd, mode & ~(mode_t)07000, uid, gid);
	if (r == 0)
		r = vault_lock_file(f, true);
	memcpy(subject.vault_id, vault_id(v), BASE_ID_SIZE);
	if (r == 0)
		r = kms_dek_create(vault_core(v), caller, &subject, dir->zone, KMS_DEK_WRITE | KMS_DEK_DIRTY, &new, &err);
	if (r == 0) {
		f->lease = new.lease;
		f->has_lease = true;
		f->writers = 1;
		memcpy(f->id, new.file_id, BASE_ID_SIZE);
		memcpy(f->zone, new.wrap.key_id, BASE_ID_SIZE);
		r = write_header(f, &new);
		if (r == 0 && (mode & 07000))
			r = own(dirfd, f->fd, mode, (uid_t)-1, (gid_t)-1);
		if (r != 0)
			kms_dirty_close(vault_core(v), vault_id(v), f->id);
	} else if (r != -EACCES && err.text[0]) {
		base_log(LOG_WARNING, "create: %s", err.text);
	}
	base_secret_free(new.dek);
	if (r != 0) {
		f->writers = 0;
		vault_file_free(f);
		return r;
	}
	f->unsynced = f->fresh = true;
	f->last_write_ns = base_clock_mono_ns();
	f->ready = true;
	*ret = f;
	return 0;
}

static int give_name(struct vault_file *f, int dirfd, const char *entry)
{
	char proc[64];

	if (f->temp[0]) {
		if (linkat(f->temp_dirfd, f->temp, dirfd, entry, 0) != 0)
			return -errno;
		unlinkat(f->temp_dirfd, f->temp, 0);
		f->temp[0] = '\0';
		return 0;
	}
	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", f->fd);
	if (linkat(f->fd, "", dirfd, entry, AT_EMPTY_PATH) == 0 || (errno == ENOENT && linkat(AT_FDCWD, proc, dirfd, entry, AT_SYMLINK_FOLLOW) == 0))
		return 0;
	return -errno;
}

int vault_file_link(struct vault_file *f, int dirfd, const struct vault_name *name)
{
	int r;

	vault_half_begin(f->v);
	r = vault_name_side_write(dirfd, name);
	if (r == 0)
		r = give_name(f, dirfd, name->entry);
	if (r != 0 && r != -EEXIST)
		vault_name_side_drop(dirfd, name);
	vault_half_end(f->v);
	if (r == 0 && f->has_lease) {
		kms_dek_created(vault_core(f->v), f->lease);
		f->has_lease = false;
	}
	return r;
}

/* ---- open ---- */

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
	subject_of(f, path, &subject);
	r = kms_dek_open(vault_core(f->v), caller, &subject, &h->wrap, write ? KMS_DEK_READ | KMS_DEK_WRITE | KMS_DEK_DIRTY : KMS_DEK_READ, dek, err);
	if (r != 0)
		return r;
	if (write)
		f->writers = 1;
	if ((r = derive(f, dek, h->page)) != 0)
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
	struct vault_file *f = file_new(v, fd);
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
	struct vault_file *f = file_new(v, fd);
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
	subject_of(f, path, &subject);
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
