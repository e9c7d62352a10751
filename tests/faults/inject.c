/*
 * Makes chosen system calls of a process fail: LD_PRELOADed into keepfs by faults.py.
 *
 * KEEPFS_FAULTS names a file that both sides map: struct control. Calls that change (or, by class, read) something below `prefix` are counted; those
 * whose number lies in [from, to) fail with `error`, or, with `half`, write the first half of their whole pages and the rest fails.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define PAGE 4096

enum class { CLASS_SPACE = 1, CLASS_SYNC = 2, CLASS_READ = 4 };

struct control {
	_Atomic uint64_t count;
	_Atomic uint64_t from, to;
	_Atomic int32_t error;
	_Atomic uint32_t half;
	_Atomic uint32_t classes; /* 0: nothing is counted */
	_Atomic uint32_t hits;
	char call[64];            /* the last call that failed */
	char prefix[PATH_MAX];
};

static struct control *control;

__attribute__((constructor)) static void map_control(void)
{
	const char *path = getenv("KEEPFS_FAULTS");
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;

	if (fd < 0)
		return;
	control = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (control == MAP_FAILED)
		control = NULL;
	close(fd);
}

#define REAL(name) \
	static __typeof__(&name) real; \
	if (!real) \
		*(void **)&real = dlsym(RTLD_NEXT, #name)

static bool below(const char *path)
{
	size_t len = strlen(control->prefix);

	return strncmp(path, control->prefix, len) == 0 && (path[len] == '/' || path[len] == 0);
}

static bool concerns(int fd, const char *path)
{
	char link[64], target[PATH_MAX];
	ssize_t n;

	if (path && path[0] == '/' && strncmp(path, "/proc/self/fd/", 14) != 0)
		return below(path);
	if (path && path[0] == '/')
		snprintf(link, sizeof(link), "%s", path);
	else
		snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, target, sizeof(target) - 1);
	if (n < 0)
		return false;
	target[n] = 0;
	return below(target);
}

/* Count this call; its error when it is one that has to fail, else 0. */
static int fault(enum class class, const char *call, int fd, const char *path)
{
	uint64_t n;

	if (!control || !(atomic_load(&control->classes) & class))
		return 0;
	int saved = errno;
	bool ours = concerns(fd, path);

	errno = saved;
	if (!ours)
		return 0;
	n = atomic_fetch_add(&control->count, 1);
	if (n < atomic_load(&control->from) || n >= atomic_load(&control->to))
		return 0;
	atomic_fetch_add(&control->hits, 1);
	snprintf(control->call, sizeof(control->call), "%s #%llu", call, (unsigned long long)n);
	return atomic_load(&control->error);
}

/* Half of the whole pages that [off, off + len) reaches into; 0 when that is nothing. */
static size_t half_of(size_t len, off_t off)
{
	uint64_t end = (uint64_t)off + len / 2;

	end -= end % PAGE;
	return control->half && end > (uint64_t)off ? (size_t)(end - (uint64_t)off) : 0;
}

#define FAIL_IF(class, fd, path) \
	do { \
		int fails = fault(class, __func__, fd, path); \
		if (fails) { \
			errno = fails; \
			return -1; \
		} \
	} while (0)

EXPORT ssize_t pwrite64(int fd, const void *buf, size_t len, off64_t off)
{
	REAL(pwrite64);
	int e = fault(CLASS_SPACE, __func__, fd, NULL);

	if (!e)
		return real(fd, buf, len, off);
	size_t part = half_of(len, off);
	if (part)
		return real(fd, buf, part, off);
	errno = e;
	return -1;
}

EXPORT ssize_t pwritev64(int fd, const struct iovec *iov, int n, off64_t off)
{
	REAL(pwritev64);
	int e = fault(CLASS_SPACE, __func__, fd, NULL);
	size_t len = 0, part, done = 0;

	if (!e)
		return real(fd, iov, n, off);
	for (int i = 0; i < n; i++)
		len += iov[i].iov_len;
	part = half_of(len, off);
	for (int i = 0; i < n && done < part; i++) {
		struct iovec one = iov[i];

		if (one.iov_len > part - done)
			one.iov_len = part - done;
		ssize_t w = real(fd, &one, 1, off + (off64_t)done);
		if (w < 0)
			return -1;
		done += (size_t)w;
	}
	if (done)
		return (ssize_t)done;
	errno = e;
	return -1;
}

EXPORT ssize_t write(int fd, const void *buf, size_t len)
{
	REAL(write);
	FAIL_IF(CLASS_SPACE, fd, NULL);
	return real(fd, buf, len);
}

EXPORT ssize_t pread64(int fd, void *buf, size_t len, off64_t off)
{
	REAL(pread64);
	FAIL_IF(CLASS_READ, fd, NULL);
	return real(fd, buf, len, off);
}

EXPORT int ftruncate64(int fd, off64_t len)
{
	REAL(ftruncate64);
	FAIL_IF(CLASS_SPACE, fd, NULL);
	return real(fd, len);
}

EXPORT int fallocate64(int fd, int mode, off64_t off, off64_t len)
{
	REAL(fallocate64);
	FAIL_IF(CLASS_SPACE, fd, NULL);
	return real(fd, mode, off, len);
}

EXPORT int openat64(int dirfd, const char *path, int flags, ...)
{
	REAL(openat64);
	mode_t mode = 0;

	if (flags & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY))) {
		va_list ap;

		va_start(ap, flags);
		mode = va_arg(ap, mode_t);
		va_end(ap);
		FAIL_IF(CLASS_SPACE, dirfd, path);
	}
	return real(dirfd, path, flags, mode);
}

EXPORT int linkat(int olddir, const char *old, int dirfd, const char *path, int flags)
{
	REAL(linkat);
	FAIL_IF(CLASS_SPACE, dirfd, path);
	return real(olddir, old, dirfd, path, flags);
}

EXPORT int mkdirat(int dirfd, const char *path, mode_t mode)
{
	REAL(mkdirat);
	FAIL_IF(CLASS_SPACE, dirfd, path);
	return real(dirfd, path, mode);
}

EXPORT int mknodat(int dirfd, const char *path, mode_t mode, dev_t dev)
{
	REAL(mknodat);
	FAIL_IF(CLASS_SPACE, dirfd, path);
	return real(dirfd, path, mode, dev);
}

EXPORT int symlinkat(const char *target, int dirfd, const char *path)
{
	REAL(symlinkat);
	FAIL_IF(CLASS_SPACE, dirfd, path);
	return real(target, dirfd, path);
}

EXPORT int renameat(int olddir, const char *old, int dirfd, const char *path)
{
	REAL(renameat);
	FAIL_IF(CLASS_SPACE, dirfd, path);
	return real(olddir, old, dirfd, path);
}

EXPORT int renameat2(int olddir, const char *old, int dirfd, const char *path, unsigned flags)
{
	REAL(renameat2);
	FAIL_IF(CLASS_SPACE, dirfd, path);
	return real(olddir, old, dirfd, path, flags);
}

EXPORT int unlinkat(int dirfd, const char *path, int flags)
{
	REAL(unlinkat);
	/* Disks that are full still remove: only a broken one does not. */
	if (control && atomic_load(&control->error) == EIO)
		FAIL_IF(CLASS_SPACE, dirfd, path);
	return real(dirfd, path, flags);
}

EXPORT int fsetxattr(int fd, const char *name, const void *value, size_t size, int flags)
{
	REAL(fsetxattr);
	FAIL_IF(CLASS_SPACE, fd, NULL);
	return real(fd, name, value, size, flags);
}

EXPORT int fsync(int fd)
{
	REAL(fsync);
	FAIL_IF(CLASS_SYNC, fd, NULL);
	return real(fd);
}

EXPORT int fdatasync(int fd)
{
	REAL(fdatasync);
	FAIL_IF(CLASS_SYNC, fd, NULL);
	return real(fd);
}

EXPORT int syncfs(int fd)
{
	REAL(syncfs);
	FAIL_IF(CLASS_SYNC, fd, NULL);
	return real(fd);
}
