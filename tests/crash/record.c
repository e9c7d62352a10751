/*
 * A layer for LD_PRELOAD that writes down, in order, what a program changes below one directory (powercut.py replays it).
 *
 *   KEEPFS_RECORD_ROOT  the directory; everything below it lies on one filesystem
 *   KEEPFS_RECORD_LOG   where the records go: outside of that directory. Without it nothing is recorded
 *   KEEPFS_RECORD_BOOT  a file that is read in the place of the kernel's boot id: the machine was started again
 *
 * A change and its record are made under one lock, so that the log's order is the order of effect. Of a sync both ends are
 * recorded: what was in the log at its beginning is durable at its end. Times are not recorded.
 * SoftHSM writes through stdio, whose own writes cannot be seen: at each flush and close of such a file its whole content is recorded.
 */
/* Each symbol is defined here as the C library spells it. */
#undef _FILE_OFFSET_BITS
#undef _FORTIFY_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

#define SHOWN __attribute__((visibility("default")))
#define BOOT_ID "/proc/sys/kernel/random/boot_id"

enum {
	REC_CREATE = 1, /* node, name in parent; data: a link's target */
	REC_NAMELESS,   /* node */
	REC_WRITE,      /* node, off, data */
	REC_SIZE,       /* node, off: the new size */
	REC_ALLOCATE,   /* node, mode: flags, off, len */
	REC_LINK,       /* node gets name in parent */
	REC_RENAME,     /* name in parent becomes name2 in node; mode: flags */
	REC_UNLINK,     /* name in parent */
	REC_XATTR,      /* node, name, data */
	REC_NO_XATTR,   /* node, name */
	REC_ATTR,       /* node, mode, off: uid, len: gid */
	REC_SYNC_BEGIN, /* node, mode: a kind of sync, off: its number */
	REC_SYNC_END,   /* the same; len: 0 when it worked */
	REC_CONTENT,    /* node, data: the whole content */
};

enum { SYNC_DATA, SYNC_FILE, SYNC_FS };

struct record {
	uint32_t size, type;
	uint64_t parent, node;
	uint64_t off, len;
	uint32_t mode, name_len, name2_len, data_len;
};

/* Guards the log and the order of changes. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int log_fd = -1;
static char root[PATH_MAX];
static size_t root_len;
static uint64_t sync_number;

__attribute__((constructor)) static void record_start(void)
{
	const char *where = getenv("KEEPFS_RECORD_ROOT"), *log = getenv("KEEPFS_RECORD_LOG");

	if (!where || !log || strcmp(program_invocation_short_name, "keepfs") != 0 || !realpath(where, root))
		return;
	root_len = strlen(root);
	log_fd = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static _Noreturn void record_fail(const char *what)
{
	fprintf(stderr, "record: %s: %s\n", what, strerror(errno));
	abort();
}

/* The C library's own function, into a pointer to it. */
static void next(const char *symbol, void *ret)
{
	void *found = dlsym(RTLD_NEXT, symbol);

	if (!found)
		record_fail(symbol);
	memcpy(ret, &found, sizeof(found));
}

/* ---- the log; the lock is held ---- */

static void put(struct record rec, const char *name, const char *name2, const void *data, size_t len)
{
	rec.name_len = name ? (uint32_t)strlen(name) : 0;
	rec.name2_len = name2 ? (uint32_t)strlen(name2) : 0;
	rec.data_len = (uint32_t)len;
	rec.size = (uint32_t)(sizeof(rec) + rec.name_len + rec.name2_len + len);
	struct iovec iov[4] = { { &rec, sizeof(rec) }, { (char *)name, rec.name_len }, { (char *)name2, rec.name2_len }, { (void *)data, len } };
	if (syscall(SYS_writev, log_fd, iov, 4) != (long)rec.size)
		record_fail("the log");
}

static bool below(const char *path)
{
	return strncmp(path, root, root_len) == 0 && (path[root_len] == '/' || path[root_len] == '\0');
}

static bool fd_ours(int fd, struct stat *st)
{
	char link[64], path[PATH_MAX];
	ssize_t n;

	if (log_fd < 0 || fd < 0 || fstat(fd, st) != 0 || (!S_ISREG(st->st_mode) && !S_ISDIR(st->st_mode)))
		return false;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof(path) - 1);
	if (n < 0)
		return false;
	path[n] = '\0';
	return below(path);
}

/* Where a name is: its directory's inode and the last component, or false when it is not ours. */
static bool place(int dirfd, const char *path, uint64_t *parent, char name[NAME_MAX + 1])
{
	char dir[PATH_MAX];
	const char *slash = strrchr(path, '/');
	struct stat st;
	bool ours;
	int fd;

	if (log_fd < 0 || strlen(path) >= sizeof(dir) || strlen(slash ? slash + 1 : path) > NAME_MAX)
		return false;
	if (!slash) {
		strcpy(dir, ".");
	} else {
		memcpy(dir, path, (size_t)(slash - path) + 1);
		dir[slash - path + 1] = '\0';
	}
	strcpy(name, slash ? slash + 1 : path);
	fd = (int)syscall(SYS_openat, dirfd, dir, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
	if (fd < 0)
		return false;
	ours = fd_ours(fd, &st);
	syscall(SYS_close, fd);
	*parent = st.st_ino;
	return ours;
}

static void put_attr(const struct stat *st)
{
	put((struct record){ .type = REC_ATTR, .node = st->st_ino, .mode = st->st_mode, .off = st->st_uid, .len = st->st_gid }, NULL, NULL, NULL, 0);
}

static void put_new(uint64_t parent, const char *name, const struct stat *st, const char *target)
{
	put((struct record){ .type = REC_CREATE, .parent = parent, .node = st->st_ino, .mode = st->st_mode }, name, NULL, target, target ? strlen(target) : 0);
	put_attr(st);
}

/* ---- names ---- */

static int do_open(int dirfd, const char *path, int flags, mode_t mode)
{
	char name[NAME_MAX + 1];
	struct stat st;
	uint64_t parent;
	int fd, e;

	if (strcmp(path, BOOT_ID) == 0 && getenv("KEEPFS_RECORD_BOOT"))
		path = getenv("KEEPFS_RECORD_BOOT");
	if (log_fd < 0 || !(flags & (O_CREAT | O_TRUNC | (O_TMPFILE & ~O_DIRECTORY))))
		return (int)syscall(SYS_openat, dirfd, path, flags, mode);
	pthread_mutex_lock(&lock);
	bool nameless = (flags & O_TMPFILE) == O_TMPFILE;
	bool is_new = (flags & O_CREAT) && !nameless && fstatat(dirfd, path, &st, 0) != 0;
	fd = (int)syscall(SYS_openat, dirfd, path, flags, mode);
	e = errno;
	if (fd_ours(fd, &st)) {
		if (nameless) {
			put((struct record){ .type = REC_NAMELESS, .node = st.st_ino, .mode = st.st_mode }, NULL, NULL, NULL, 0);
			put_attr(&st);
		} else if (is_new && place(dirfd, path, &parent, name)) {
			put_new(parent, name, &st, NULL);
		} else if (flags & O_TRUNC) {
			put((struct record){ .type = REC_SIZE, .node = st.st_ino }, NULL, NULL, NULL, 0);
		}
	}
	pthread_mutex_unlock(&lock);
	errno = e;
	return fd;
}

static mode_t mode_of(int flags, va_list ap)
{
	return flags & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY)) ? va_arg(ap, mode_t) : 0;
}

SHOWN int openat(int dirfd, const char *path, int flags, ...)
{
	va_list ap;

	va_start(ap, flags);
	mode_t mode = mode_of(flags, ap);
	va_end(ap);
	return do_open(dirfd, path, flags, mode);
}

SHOWN int open(const char *path, int flags, ...)
{
	va_list ap;

	va_start(ap, flags);
	mode_t mode = mode_of(flags, ap);
	va_end(ap);
	return do_open(AT_FDCWD, path, flags, mode);
}

/* What code with _FORTIFY_SOURCE calls in their place. */
SHOWN int __openat_2(int dirfd, const char *path, int flags);
SHOWN int __open_2(const char *path, int flags);

int __openat_2(int dirfd, const char *path, int flags)
{
	return do_open(dirfd, path, flags, 0);
}

int __open_2(const char *path, int flags)
{
	return do_open(AT_FDCWD, path, flags, 0);
}

#define ALSO(symbol, name) SHOWN extern __typeof(symbol) name __attribute__((alias(#symbol)))
ALSO(open, open64);
ALSO(openat, openat64);
ALSO(__open_2, __open64_2);
ALSO(__openat_2, __openat64_2);

/* A change of a name: make it with the lock held, then say with the parent's number what it was. */
static int made(int r, uint64_t parent, const char *name, int dirfd, const char *path, bool ours, const char *target)
{
	struct stat st;
	int e = errno;

	if (r == 0 && ours && fstatat(dirfd, path, &st, AT_SYMLINK_NOFOLLOW) == 0)
		put_new(parent, name, &st, target);
	pthread_mutex_unlock(&lock);
	errno = e;
	return r;
}

SHOWN int mkdirat(int dirfd, const char *path, mode_t mode)
{
	char name[NAME_MAX + 1];
	uint64_t parent;

	pthread_mutex_lock(&lock);
	bool ours = place(dirfd, path, &parent, name);
	return made((int)syscall(SYS_mkdirat, dirfd, path, mode), parent, name, dirfd, path, ours, NULL);
}

SHOWN int mkdir(const char *path, mode_t mode)
{
	return mkdirat(AT_FDCWD, path, mode);
}

SHOWN int mknodat(int dirfd, const char *path, mode_t mode, dev_t dev)
{
	char name[NAME_MAX + 1];
	uint64_t parent;

	pthread_mutex_lock(&lock);
	bool ours = place(dirfd, path, &parent, name);
	return made((int)syscall(SYS_mknodat, dirfd, path, mode, dev), parent, name, dirfd, path, ours, NULL);
}

SHOWN int symlinkat(const char *target, int dirfd, const char *path)
{
	char name[NAME_MAX + 1];
	uint64_t parent;

	pthread_mutex_lock(&lock);
	bool ours = place(dirfd, path, &parent, name);
	return made((int)syscall(SYS_symlinkat, target, dirfd, path), parent, name, dirfd, path, ours, target);
}

SHOWN int bind(int fd, const struct sockaddr *addr, socklen_t len)
{
	const struct sockaddr_un *un = (const struct sockaddr_un *)addr;
	char name[NAME_MAX + 1];
	uint64_t parent = 0;

	pthread_mutex_lock(&lock);
	bool ours = addr->sa_family == AF_UNIX && un->sun_path[0] && place(AT_FDCWD, un->sun_path, &parent, name);
	return made((int)syscall(SYS_bind, fd, addr, len), parent, name, AT_FDCWD, un->sun_path, ours, NULL);
}

SHOWN int linkat(int fromfd, const char *from, int tofd, const char *to, int flags)
{
	char name[NAME_MAX + 1];
	uint64_t parent;
	struct stat st;
	int r, e;

	pthread_mutex_lock(&lock);
	bool ours = place(tofd, to, &parent, name);
	r = (int)syscall(SYS_linkat, fromfd, from, tofd, to, flags);
	e = errno;
	if (r == 0 && ours && fstatat(tofd, to, &st, AT_SYMLINK_NOFOLLOW) == 0)
		put((struct record){ .type = REC_LINK, .parent = parent, .node = st.st_ino }, name, NULL, NULL, 0);
	pthread_mutex_unlock(&lock);
	errno = e;
	return r;
}

SHOWN int link(const char *from, const char *to)
{
	return linkat(AT_FDCWD, from, AT_FDCWD, to, 0);
}

SHOWN int renameat2(int fromfd, const char *from, int tofd, const char *to, unsigned flags)
{
	char name[NAME_MAX + 1], name2[NAME_MAX + 1];
	uint64_t parent, parent2;
	int r, e;

	pthread_mutex_lock(&lock);
	bool ours = place(fromfd, from, &parent, name) && place(tofd, to, &parent2, name2);
	r = (int)syscall(SYS_renameat2, fromfd, from, tofd, to, flags);
	e = errno;
	if (r == 0 && ours)
		put((struct record){ .type = REC_RENAME, .parent = parent, .node = parent2, .mode = flags }, name, name2, NULL, 0);
	pthread_mutex_unlock(&lock);
	errno = e;
	return r;
}

SHOWN int renameat(int fromfd, const char *from, int tofd, const char *to)
{
	return renameat2(fromfd, from, tofd, to, 0);
}

SHOWN int rename(const char *from, const char *to)
{
	return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0);
}

SHOWN int unlinkat(int dirfd, const char *path, int flags)
{
	char name[NAME_MAX + 1];
	uint64_t parent;
	int r, e;

	pthread_mutex_lock(&lock);
	bool ours = place(dirfd, path, &parent, name);
	r = (int)syscall(SYS_unlinkat, dirfd, path, flags);
	e = errno;
	if (r == 0 && ours)
		put((struct record){ .type = REC_UNLINK, .parent = parent }, name, NULL, NULL, 0);
	pthread_mutex_unlock(&lock);
	errno = e;
	return r;
}

SHOWN int unlink(const char *path)
{
	return unlinkat(AT_FDCWD, path, 0);
}

SHOWN int rmdir(const char *path)
{
	return unlinkat(AT_FDCWD, path, AT_REMOVEDIR);
}

SHOWN int remove(const char *path)
{
	int r = unlinkat(AT_FDCWD, path, 0);

	return r != 0 && (errno == EISDIR || errno == EPERM) ? rmdir(path) : r;
}

/* ---- content ---- */

static ssize_t gather(int fd, const struct iovec *iov, int n, off_t off, bool at_cursor)
{
	struct stat st;
	ssize_t w;
	int e;

	if (!fd_ours(fd, &st) || !S_ISREG(st.st_mode))
		return at_cursor ? syscall(SYS_writev, fd, iov, n) : syscall(SYS_pwritev, fd, iov, n, off, 0);
	pthread_mutex_lock(&lock);
	if (at_cursor)
		off = fcntl(fd, F_GETFL) & O_APPEND ? fstat(fd, &st), st.st_size : lseek(fd, 0, SEEK_CUR);
	w = at_cursor ? syscall(SYS_writev, fd, iov, n) : syscall(SYS_pwritev, fd, iov, n, off, 0);
	e = errno;
	for (ssize_t left = w; left > 0; iov++) {
		size_t part = iov->iov_len < (size_t)left ? iov->iov_len : (size_t)left;

		if (part)
			put((struct record){ .type = REC_WRITE, .node = st.st_ino, .off = (uint64_t)off }, NULL, NULL, iov->iov_base, part);
		off += (off_t)part;
		left -= (ssize_t)part;
	}
	pthread_mutex_unlock(&lock);
	errno = e;
	return w;
}

SHOWN ssize_t write(int fd, const void *buf, size_t len)
{
	struct stat st;

	if (!fd_ours(fd, &st))
		return syscall(SYS_write, fd, buf, len);
	return gather(fd, &(struct iovec){ (void *)buf, len }, 1, 0, true);
}

SHOWN ssize_t writev(int fd, const struct iovec *iov, int n)
{
	return gather(fd, iov, n, 0, true);
}

SHOWN ssize_t pwrite(int fd, const void *buf, size_t len, off_t off)
{
	return gather(fd, &(struct iovec){ (void *)buf, len }, 1, off, false);
}

SHOWN ssize_t pwritev(int fd, const struct iovec *iov, int n, off_t off)
{
	return gather(fd, iov, n, off, false);
}

ALSO(pwrite, pwrite64);
ALSO(pwritev, pwritev64);

/* A call on an open file that answers 0, and its record. */
static int changed(int fd, struct record rec, const char *name, const void *data, size_t len, long r)
{
	struct stat st;
	int e = errno;

	if (r == 0 && fd_ours(fd, &st)) {
		rec.node = st.st_ino;
		put(rec, name, NULL, data, len);
	}
	pthread_mutex_unlock(&lock);
	errno = e;
	return (int)r;
}

SHOWN int ftruncate(int fd, off_t size)
{
	pthread_mutex_lock(&lock);
	return changed(fd, (struct record){ .type = REC_SIZE, .off = (uint64_t)size }, NULL, NULL, 0, syscall(SYS_ftruncate, fd, size));
}

ALSO(ftruncate, ftruncate64);

SHOWN int fallocate(int fd, int mode, off_t off, off_t len)
{
	pthread_mutex_lock(&lock);
	return changed(fd, (struct record){ .type = REC_ALLOCATE, .mode = (uint32_t)mode, .off = (uint64_t)off, .len = (uint64_t)len }, NULL, NULL, 0,
		       syscall(SYS_fallocate, fd, mode, off, len));
}

ALSO(fallocate, fallocate64);

/* ---- attributes ---- */

static int dressed(int r, int dirfd, const char *path, int flags)
{
	char name[NAME_MAX + 1];
	struct stat st;
	uint64_t parent;
	int e = errno;

	if (r == 0 && path[0] && place(dirfd, path, &parent, name) && fstatat(dirfd, path, &st, flags) == 0)
		put_attr(&st);
	else if (r == 0 && !path[0] && fd_ours(dirfd, &st))
		put_attr(&st);
	pthread_mutex_unlock(&lock);
	errno = e;
	return r;
}

/* A path like /proc/self/fd/5 leads to a file that is ours. */
static int dressed_behind(int r, const char *path)
{
	struct stat st;
	int fd = -1;

	if (r == 0 && strncmp(path, "/proc/", 6) == 0 && (fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_PATH | O_CLOEXEC, 0)) >= 0 && fd_ours(fd, &st))
		put_attr(&st);
	if (fd >= 0) {
		syscall(SYS_close, fd);
		pthread_mutex_unlock(&lock);
		return r;
	}
	return dressed(r, AT_FDCWD, path, 0);
}

SHOWN int fchmod(int fd, mode_t mode)
{
	pthread_mutex_lock(&lock);
	return dressed((int)syscall(SYS_fchmod, fd, mode), fd, "", 0);
}

SHOWN int chmod(const char *path, mode_t mode)
{
	pthread_mutex_lock(&lock);
	return dressed_behind((int)syscall(SYS_fchmodat, AT_FDCWD, path, mode), path);
}

SHOWN int fchmodat(int dirfd, const char *path, mode_t mode, int flags)
{
	int (*real)(int, const char *, mode_t, int);

	next("fchmodat", &real);
	pthread_mutex_lock(&lock);
	return dressed(real(dirfd, path, mode, flags), dirfd, path, flags);
}

SHOWN int fchown(int fd, uid_t uid, gid_t gid)
{
	pthread_mutex_lock(&lock);
	return dressed((int)syscall(SYS_fchown, fd, uid, gid), fd, "", 0);
}

SHOWN int fchownat(int dirfd, const char *path, uid_t uid, gid_t gid, int flags)
{
	pthread_mutex_lock(&lock);
	return dressed((int)syscall(SYS_fchownat, dirfd, path, uid, gid, flags), dirfd, path, flags & AT_SYMLINK_NOFOLLOW);
}

SHOWN int fsetxattr(int fd, const char *name, const void *value, size_t len, int flags)
{
	pthread_mutex_lock(&lock);
	return changed(fd, (struct record){ .type = REC_XATTR }, name, value, len, syscall(SYS_fsetxattr, fd, name, value, len, flags));
}

SHOWN int fremovexattr(int fd, const char *name)
{
	pthread_mutex_lock(&lock);
	return changed(fd, (struct record){ .type = REC_NO_XATTR }, name, NULL, 0, syscall(SYS_fremovexattr, fd, name));
}

static int changed_behind(const char *path, struct record rec, const char *name, const void *data, size_t len, long r)
{
	int e = errno, fd = r == 0 ? (int)syscall(SYS_openat, AT_FDCWD, path, O_PATH | O_CLOEXEC, 0) : -1;

	errno = e;
	r = changed(fd, rec, name, data, len, r);
	if (fd >= 0)
		syscall(SYS_close, fd);
	return (int)r;
}

SHOWN int setxattr(const char *path, const char *name, const void *value, size_t len, int flags)
{
	pthread_mutex_lock(&lock);
	return changed_behind(path, (struct record){ .type = REC_XATTR }, name, value, len, syscall(SYS_setxattr, path, name, value, len, flags));
}

SHOWN int removexattr(const char *path, const char *name)
{
	pthread_mutex_lock(&lock);
	return changed_behind(path, (struct record){ .type = REC_NO_XATTR }, name, NULL, 0, syscall(SYS_removexattr, path, name));
}

/* ---- syncs: others go on meanwhile ---- */

static int synced(int fd, long number, uint32_t kind)
{
	struct record rec = { .type = REC_SYNC_BEGIN, .mode = kind };
	struct stat st;
	bool ours;
	int r, e;

	pthread_mutex_lock(&lock);
	ours = fd_ours(fd, &st);
	if (ours) {
		rec.node = st.st_ino;
		rec.off = ++sync_number;
		put(rec, NULL, NULL, NULL, 0);
	}
	pthread_mutex_unlock(&lock);
	r = (int)syscall(number, fd);
	e = errno;
	if (ours) {
		usleep(300); /* on tmpfs a sync takes no time; a disk lets other threads in */
		pthread_mutex_lock(&lock);
		rec.type = REC_SYNC_END;
		rec.len = r != 0;
		put(rec, NULL, NULL, NULL, 0);
		pthread_mutex_unlock(&lock);
	}
	errno = e;
	return r;
}

SHOWN int fsync(int fd)
{
	return synced(fd, SYS_fsync, SYNC_FILE);
}

SHOWN int fdatasync(int fd)
{
	return synced(fd, SYS_fdatasync, SYNC_DATA);
}

SHOWN int syncfs(int fd)
{
	return synced(fd, SYS_syncfs, SYNC_FS);
}

/* ---- stdio ---- */

static void content(FILE *file)
{
	struct stat st;
	int fd = fileno(file);

	if (!fd_ours(fd, &st) || !S_ISREG(st.st_mode) || (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY)
		return;
	uint8_t *bytes = malloc((size_t)st.st_size + 1);
	char link[64];

	/* Its own descriptor may be for writing only. */
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	fd = (int)syscall(SYS_openat, AT_FDCWD, link, O_RDONLY | O_CLOEXEC, 0);
	if (!bytes || fd < 0 || pread(fd, bytes, (size_t)st.st_size, 0) != (ssize_t)st.st_size)
		record_fail("the content of a file that was flushed");
	put((struct record){ .type = REC_CONTENT, .node = st.st_ino }, NULL, NULL, bytes, (size_t)st.st_size);
	syscall(SYS_close, fd);
	free(bytes);
}

SHOWN int fflush(FILE *file)
{
	int (*real)(FILE *), r;

	next("fflush", &real);
	if (!file || log_fd < 0)
		return real(file);
	pthread_mutex_lock(&lock);
	r = real(file);
	content(file);
	pthread_mutex_unlock(&lock);
	return r;
}

SHOWN int fclose(FILE *file)
{
	int (*real)(FILE *), (*flush)(FILE *), r;

	next("fclose", &real);
	next("fflush", &flush);
	if (log_fd < 0 || fileno(file) < 0)
		return real(file);
	pthread_mutex_lock(&lock);
	flush(file);
	content(file);
	r = real(file);
	pthread_mutex_unlock(&lock);
	return r;
}

SHOWN FILE *fopen(const char *path, const char *mode)
{
	FILE *(*real)(const char *, const char *), *file;
	char name[NAME_MAX + 1];
	uint64_t parent;
	struct stat st;

	next("fopen", &real);
	if (log_fd < 0 || (mode[0] != 'w' && mode[0] != 'a'))
		return real(path, mode);
	pthread_mutex_lock(&lock);
	bool is_new = stat(path, &st) != 0;
	file = real(path, mode);
	if (file && fd_ours(fileno(file), &st)) {
		if (is_new && place(AT_FDCWD, path, &parent, name))
			put_new(parent, name, &st, NULL);
		else if (mode[0] == 'w')
			put((struct record){ .type = REC_SIZE, .node = st.st_ino }, NULL, NULL, NULL, 0);
	}
	pthread_mutex_unlock(&lock);
	return file;
}
ALSO(fopen, fopen64);
