/* Small files, read and written whole. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "small.h"
#include "vault/name.h"

ssize_t vault_small_read(int dirfd, const char *name, void *buf, size_t cap)
{
	/* A FIFO under this name must not block us. */
	int fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	struct stat st;
	ssize_t n;

	if (fd < 0)
		return errno == ELOOP || errno == ENXIO ? -EBADMSG : -errno;
	if (fstat(fd, &st) < 0)
		n = -errno;
	else if (!S_ISREG(st.st_mode))
		n = -EBADMSG;
	else if ((size_t)st.st_size > cap)
		n = (ssize_t)cap + 1;
	else if ((n = pread(fd, buf, cap, 0)) < 0)
		n = -errno;
	close(fd);
	return n;
}

static int fill(int fd, const void *buf, size_t len, bool sync, uid_t uid, gid_t gid)
{
	ssize_t n = pwrite(fd, buf, len, 0);

	if (n < 0)
		return -errno;
	if ((size_t)n != len)
		return -ENOSPC;
	if ((uid != (uid_t)-1 || gid != (gid_t)-1) && fchown(fd, uid, gid) < 0)
		return -errno;
	return sync && fdatasync(fd) < 0 ? -errno : 0;
}

int vault_small_make(int dirfd, const char *name, const void *buf, size_t len, bool sync, uid_t uid, gid_t gid)
{
	int fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	int code;

	if (fd < 0)
		return -errno;
	code = fill(fd, buf, len, sync, uid, gid);
	if (close(fd) < 0 && code == 0)
		code = -errno;
	if (code < 0)
		unlinkat(dirfd, name, 0);
	return code;
}

int vault_small_replace(int dirfd, const char *name, const void *buf, size_t len, bool sync)
{
	uid_t uid = (uid_t)-1;
	gid_t gid = (gid_t)-1;
	char temp[32];
	struct stat st;
	int code = vault_name_temp(temp);

	if (code < 0)
		return code;
	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && (st.st_uid != geteuid() || st.st_gid != getegid())) {
		uid = st.st_uid;
		gid = st.st_gid;
	}
	code = vault_small_make(dirfd, temp, buf, len, sync, uid, gid);
	if (code < 0)
		return code;
	if (renameat(dirfd, temp, dirfd, name) < 0) {
		code = -errno;
		unlinkat(dirfd, temp, 0);
	}
	return code;
}
