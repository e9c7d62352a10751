/* mkdir and rmdir (fs/FORMAT.md, "Directories"): whatever a crash leaves is the old state, or that and a `tmp.` directory beside it. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "internal.h"
#include "mkdir.h"
#include "small.h"
#include "vault/path.h"

#define DEFAULT_ACL "system.posix_acl_default"

static DIR *list_dir(int dirfd)
{
	int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;

	if (!dir && fd >= 0)
		close(fd);
	return dir;
}

static bool is_leftover(const char *name)
{
	enum vault_name_kind kind = vault_name_kind(name);

	return kind == VAULT_NAME_TEMP || kind == VAULT_NAME_SIDE;
}

static bool is_dots(const char *name)
{
	return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

int vault_dir_empty(int dirfd)
{
	DIR *dir = list_dir(dirfd);
	struct dirent *e;
	int code = 0;

	if (!dir)
		return -errno;
	while (code == 0 && (errno = 0, e = readdir(dir)))
		if (!is_dots(e->d_name) && strcmp(e->d_name, VAULT_RECORD_NAME) != 0 && !is_leftover(e->d_name))
			code = -ENOTEMPTY;
	if (code == 0 && errno)
		code = -errno;
	closedir(dir);
	return code;
}

/* Unlink leftovers of dirfd, and -ENOTEMPTY when there is more; `tmp.` directories only as deep as mkdir makes them (nested), record and all. */
static int purge(int dirfd, bool nested)
{
	DIR *dir = list_dir(dirfd);
	struct dirent *e;
	int code = 0;

	if (!dir)
		return -errno;
	while (code == 0 && (errno = 0, e = readdir(dir))) {
		bool record = strcmp(e->d_name, VAULT_RECORD_NAME) == 0;

		if (is_dots(e->d_name) || (record && !nested))
			continue;
		if (!record && !is_leftover(e->d_name))
			code = -ENOTEMPTY;
		else if (unlinkat(dirfd, e->d_name, 0) == 0 || errno == ENOENT)
			continue;
		else if ((errno == EISDIR || errno == EPERM) && !nested)
			code = vault_temp_remove(dirfd, e->d_name);
		else
			code = -errno;
	}
	closedir(dir);
	return code;
}

int vault_temp_remove(int parentfd, const char *temp)
{
	const int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
	int fd = openat(parentfd, temp, flags), code;

	/* Its mode may be final already, and keep us out. */
	if (fd < 0 && errno == EACCES && fchmodat(parentfd, temp, 0700, AT_SYMLINK_NOFOLLOW) == 0)
		fd = openat(parentfd, temp, flags);
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	code = purge(fd, true);
	close(fd);
	if (code == 0 && unlinkat(parentfd, temp, AT_REMOVEDIR) < 0)
		code = -errno;
	return code;
}

int vault_rename_new(int fromfd, const char *from, int tofd, const char *to)
{
	struct stat st;

	if (renameat2(fromfd, from, tofd, to, RENAME_NOREPLACE) == 0)
		return 0;
	if (errno != EINVAL && errno != ENOSYS)
		return -errno;
	if (fstatat(tofd, to, &st, AT_SYMLINK_NOFOLLOW) == 0)
		return -EEXIST;
	return renameat(fromfd, from, tofd, to) < 0 ? -errno : 0;
}

bool vault_dir_inherits(int dirfd)
{
	char proc[64];

	if (fgetxattr(dirfd, DEFAULT_ACL, NULL, 0) > 0)
		return true;
	if (errno != EBADF)
		return false;
	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", dirfd);
	return getxattr(proc, DEFAULT_ACL, NULL, 0) > 0;
}

/* Owner, then mode: exactly what was asked, but for what a default ACL of the parent took away, and with the inherited setgid bit. */
static int dress(int parentfd, int fd, mode_t mode, uid_t uid, gid_t gid)
{
	struct stat st, parent;

	if ((uid != (uid_t)-1 || gid != (gid_t)-1) && fchown(fd, uid, gid) < 0)
		return -errno;
	if (fstat(fd, &st) < 0 || fstat(parentfd, &parent) < 0)
		return -errno;
	mode &= 07777;
	if (vault_dir_inherits(fd))
		mode &= st.st_mode | 07000;
	if (parent.st_mode & S_ISGID)
		mode |= S_ISGID;
	if ((st.st_mode & 07777) != mode && fchmod(fd, mode) < 0)
		return -errno;
	return 0;
}

static int build(struct vault *v, int parentfd, const struct vault_dir *parent, const char *temp, mode_t mode, uid_t uid, gid_t gid,
		 struct vault_dir *ret, int *ret_fd)
{
	int fd, code;

	memset(ret, 0, sizeof(*ret));
	memcpy(ret->zone, parent->zone, BASE_ID_SIZE);
	memcpy(ret->parent, parent->id, BASE_ID_SIZE);
	code = base_random(ret->id, BASE_ID_SIZE);
	if (code < 0)
		return code;
	if (mkdirat(parentfd, temp, (mode & 0777) | 0700) < 0)
		return -errno;
	fd = openat(parentfd, temp, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	/* The record first: the final mode may keep us out. */
	code = vault_dir_record_new(v, fd, ret, uid, gid);
	if (code == 0)
		code = dress(parentfd, fd, mode, uid, gid);
	if (code < 0)
		close(fd);
	else
		*ret_fd = fd;
	return code;
}

static int make(struct vault *v, int parentfd, const struct vault_dir *parent, const struct vault_name *name, mode_t mode, uid_t uid, gid_t gid,
		struct vault_dir *ret, int *ret_fd)
{
	char temp[32];
	struct stat st;
	int fd = -1, code;

	if (fstatat(parentfd, name->entry, &st, AT_SYMLINK_NOFOLLOW) == 0)
		return -EEXIST;
	code = vault_name_temp(temp);
	if (code < 0)
		return code;
	code = build(v, parentfd, parent, temp, mode, uid, gid, ret, &fd);
	if (code == 0)
		code = vault_name_side_write(parentfd, name);
	if (code == 0) {
		code = vault_rename_new(parentfd, temp, parentfd, name->entry);
		/* An entry that was faster owns the side record now. */
		if (code < 0 && code != -EEXIST)
			vault_name_side_drop(parentfd, name);
	}
	if (code < 0) {
		if (fd >= 0)
			close(fd);
		vault_temp_remove(parentfd, temp);
		return code;
	}
	if (ret_fd)
		*ret_fd = fd;
	else
		close(fd);
	return 0;
}

int vault_dir_make(struct vault *v, int parentfd, const struct vault_dir *parent, const struct vault_name *name, mode_t mode, uid_t uid,
		   gid_t gid, struct vault_dir *ret, int *ret_fd)
{
	int code;

	vault_half_begin(v);
	code = make(v, parentfd, parent, name, mode, uid, gid, ret, ret_fd);
	vault_half_end(v);
	return code;
}

/* A directory that its owner may not read can still be removed. ret_mode: what to give back, or (mode_t)-1. */
static int open_for_removal(int parentfd, const char *entry, mode_t *ret_mode)
{
	const int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
	int fd = openat(parentfd, entry, flags);
	struct stat st;

	*ret_mode = (mode_t)-1;
	if (fd >= 0)
		/* Searching and writing need more than reading. */
		if (faccessat(fd, ".", R_OK | W_OK | X_OK, AT_EACCESS) == 0 || errno != EACCES)
			return fd;
	if (fd < 0 && errno != EACCES)
		return -errno;
	if (fd >= 0)
		close(fd);
	if (fstatat(parentfd, entry, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (!S_ISDIR(st.st_mode))
		return -ENOTDIR;
	if (fchmodat(parentfd, entry, (st.st_mode & 07777) | 0700, AT_SYMLINK_NOFOLLOW) < 0)
		return -EACCES;
	*ret_mode = st.st_mode & 07777;
	fd = openat(parentfd, entry, flags);
	return fd < 0 ? -errno : fd;
}

/* The directory is aside: empty it. record: its bytes, put back when something turns up that is not ours to delete. */
static int dissolve(int parentfd, const char *temp, int fd, const uint8_t *record, ssize_t record_len)
{
	int code = purge(fd, false);

	if (code < 0)
		return code;
	if (unlinkat(fd, VAULT_RECORD_NAME, 0) < 0 && errno != ENOENT)
		return -errno;
	if (unlinkat(parentfd, temp, AT_REMOVEDIR) == 0)
		return 0;
	code = -errno;
	if (record_len > 0)
		vault_small_make(fd, VAULT_RECORD_NAME, record, (size_t)record_len, true, (uid_t)-1, (gid_t)-1);
	return code;
}

int vault_dir_remove(struct vault *v, int parentfd, const struct vault_name *name)
{
	uint8_t record[256];
	ssize_t record_len;
	char temp[32];
	mode_t mode;
	int code, fd = open_for_removal(parentfd, name->entry, &mode);

	if (fd < 0)
		return fd;
	vault_half_begin(v);
	record_len = vault_small_read(fd, VAULT_RECORD_NAME, record, sizeof(record));
	if (record_len > (ssize_t)sizeof(record))
		record_len = 0;
	code = vault_dir_empty(fd);
	if (code == 0)
		code = vault_name_temp(temp);
	if (code == 0 && renameat(parentfd, name->entry, parentfd, temp) < 0)
		code = -errno;
	else if (code == 0) {
		code = dissolve(parentfd, temp, fd, record, record_len);
		if (code == 0)
			vault_name_side_drop(parentfd, name);
		else
			vault_rename_new(parentfd, temp, parentfd, name->entry);
	}
	vault_half_end(v);
	if (code < 0 && mode != (mode_t)-1 && fchmod(fd, mode) < 0)
		code = -errno;
	close(fd);
	return code;
}
