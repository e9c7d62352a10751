#include <errno.h>
#include <sys/xattr.h>

#include "keep.h"

#define CAPS "security.capability"

int vault_keep_save(int fd, struct vault_keep *ret)
{
	if (fstat(fd, &ret->st) != 0)
		return -errno;
	ret->caps_len = fgetxattr(fd, CAPS, ret->caps, sizeof(ret->caps));
	return 0;
}

int vault_keep_restore(int fd, const struct vault_keep *keep, const struct timespec *mtime)
{
	const struct timespec times[2] = { keep->st.st_atim, mtime ? *mtime : keep->st.st_mtim };
	int r = 0;

	if ((keep->st.st_mode & (S_ISUID | S_ISGID)) && fchmod(fd, keep->st.st_mode & 07777) != 0)
		r = -errno;
	if (keep->caps_len > 0 && fsetxattr(fd, CAPS, keep->caps, (size_t)keep->caps_len, 0) != 0 && errno != EPERM && r == 0)
		r = -errno;
	if (futimens(fd, times) != 0 && r == 0)
		r = -errno;
	return r;
}
