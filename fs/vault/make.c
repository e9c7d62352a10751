/*
 * fs/vault/make.c: a new file, and its first name (fs/FORMAT.md, "Create").
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/secret.h"
#include "content.h"
#include "live.h"
#include "lock.h"

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
	int fd, r;

	*ret = NULL;
	vault_half_begin(v);
	fd = open_nameless(dirfd, mode, temp);
	if (fd < 0) {
		vault_half_end(v);
		return fd;
	}
	f = vault_file_new(v, fd);
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
	if (temp[0] && (f->temp_dirfd = fcntl(dirfd, F_DUPFD_CLOEXEC, 0)) < 0) {
		r = -errno;
		unlinkat(dirfd, temp, 0);
		vault_half_end(v);
		vault_file_free(f);
		return r;
	}
	if (temp[0])
		memcpy(f->temp, temp, sizeof(temp));
	vault_live_add(f);
	vault_half_end(v);
	*ret = f;
	return 0;
}

static int write_header(struct vault_file *f, const struct kms_new_dek *new)
{
	uint8_t page[VAULT_PAGE];
	struct vault_cipher *c;
	int r;

	vault_header_build(page, VAULT_MAGIC_FILE, vault_id(f->v), new->file_id);
	if ((r = vault_file_derive(f, new->dek, page)) != 0)
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
