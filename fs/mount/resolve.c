#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "mount.h"
#include "resolve.h"
#include "vault/path.h"

#define RETRIES 4 /* a name can go between its look-up and its use; another name or a pin is there then */

void resolve_rdlock(struct mount *m)
{
	pthread_rwlock_rdlock(&m->tree);
}

void resolve_wrlock(struct mount *m)
{
	pthread_rwlock_wrlock(&m->tree);
}

void resolve_unlock(struct mount *m)
{
	pthread_rwlock_unlock(&m->tree);
}

const char *resolve_proc(int fd, char ret[RESOLVE_PROC])
{
	snprintf(ret, RESOLVE_PROC, "/proc/self/fd/%d", fd);
	return ret;
}

static bool same(const struct inode *inode, const struct stat *st)
{
	return inode->back.dev == st->st_dev && inode->back.ino == st->st_ino && inode->type == (st->st_mode & S_IFMT);
}

/* O_PATH is enough for *at() calls, where we may enter a directory but not read it. */
static int open_dir(int dirfd, const char *entry)
{
	int fd = openat(dirfd, entry, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0 && errno == EACCES)
		fd = openat(dirfd, entry, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int resolve_subdir(const struct resolve_dir *dir, const char *entry)
{
	return open_dir(dir->fd, entry);
}

/* Opens one directory below its parent, which is in use as parent_fd. */
static int descend(struct mount *m, struct inode *parent, int parent_fd, struct inode *inode, const char *clear)
{
	struct vault_name name;
	struct vault_dir rec;
	struct stat st;
	int fd, r;

	inode_rec(&m->table, parent, &rec);
	r = vault_name_seal(m->vault, rec.id, clear, &name);
	if (r < 0)
		return r;
	fd = open_dir(parent_fd, name.entry);
	if (fd < 0)
		return fd == -ENOENT || fd == -ENOTDIR || fd == -ELOOP ? -ESTALE : fd;
	if (fstat(fd, &st) < 0 || !same(inode, &st)) {
		close(fd);
		return -ESTALE;
	}
	return inode_dir_give(&m->table, inode, fd);
}

/* The ancestors without an fd, deepest first; every one held. */
struct step {
	struct inode *inode;
	char name[VAULT_NAME_MAX + 1];
};

static int climb(struct mount *m, struct inode *inode, struct step **ret, size_t *ret_n, struct inode **top, int *top_fd)
{
	struct step *steps = NULL, *more;
	struct inode *parent;
	size_t n = 0;
	int r;

	*top = inode;
	while ((*top_fd = inode_dir_use(&m->table, *top)) < 0) {
		more = reallocarray(steps, n + 1, sizeof *steps);
		r = more ? 0 : -ENOMEM;
		if (more) {
			steps = more;
			steps[n].inode = *top;
			r = inode_alias_get(&m->table, *top, &parent, steps[n].name);
		}
		if (r < 0) {
			*ret = steps;
			*ret_n = n;
			return r;
		}
		n++;
		*top = parent;
	}
	*ret = steps;
	*ret_n = n;
	return 0;
}

/* Walks down again: each fd is used only until its child is open. Puts what climb held. */
static int walk(struct mount *m, struct inode *inode)
{
	struct step *steps = NULL;
	struct inode *top, *child;
	size_t n = 0;
	int fd = -1, next, r;

	r = climb(m, inode, &steps, &n, &top, &fd);
	while (r == 0 && n > 0) {
		child = steps[n - 1].inode;
		next = descend(m, top, fd, child, steps[n - 1].name);
		inode_dir_unuse(&m->table, top);
		inode_put(&m->table, top);
		top = child;
		fd = next;
		n--;
		if (next < 0)
			r = next;
	}
	if (r < 0) { /* what is still held: every step's inode but the first, which is the caller's, and top */
		while (n > 0) {
			if (steps[n - 1].inode != inode && steps[n - 1].inode != top)
				inode_put(&m->table, steps[n - 1].inode);
			n--;
		}
		if (top != inode)
			inode_put(&m->table, top);
	}
	free(steps);
	return r < 0 ? r : fd;
}

int resolve_dir_locked(struct mount *m, struct inode *inode, struct resolve_dir *ret)
{
	if (!inode->dir)
		return -ENOTDIR;
	ret->fd = inode_dir_use(&m->table, inode);
	if (ret->fd < 0)
		ret->fd = walk(m, inode);
	if (ret->fd < 0)
		return ret->fd;
	pthread_mutex_lock(&m->table.lock);
	inode->refs++;
	ret->rec = inode->dir->rec;
	pthread_mutex_unlock(&m->table.lock);
	ret->inode = inode;
	return 0;
}

int resolve_dir(struct mount *m, struct inode *inode, struct resolve_dir *ret)
{
	int r;

	resolve_rdlock(m);
	r = resolve_dir_locked(m, inode, ret);
	resolve_unlock(m);
	return r;
}

void resolve_done(struct mount *m, struct resolve_dir *dir)
{
	inode_dir_unuse(&m->table, dir->inode);
	inode_put(&m->table, dir->inode);
}

int resolve_entry(struct mount *m, struct inode *parent, const char *name, struct resolve_entry *ret)
{
	int r = resolve_dir(m, parent, &ret->dir);

	if (r < 0)
		return r;
	r = vault_name_seal(m->vault, ret->dir.rec.id, name, &ret->name);
	if (r < 0)
		resolve_done(m, &ret->dir);
	return r;
}

int resolve_node(struct mount *m, uint64_t parent, const char *name, struct resolve_entry *ret)
{
	struct inode *inode = inode_get(&m->table, parent);
	int r;

	if (!inode)
		return -ESTALE;
	r = resolve_entry(m, inode, name, ret);
	inode_put(&m->table, inode);
	return r;
}

/* One of the names of an inode, its directory in use. The tree lock is held. */
static int entry_of(struct mount *m, struct inode *inode, struct resolve_entry *ret)
{
	char clear[VAULT_NAME_MAX + 1];
	struct inode *parent;
	int r = inode_alias_get(&m->table, inode, &parent, clear);

	if (r < 0)
		return r;
	r = resolve_dir_locked(m, parent, &ret->dir);
	inode_put(&m->table, parent);
	if (r < 0)
		return r;
	r = vault_name_seal(m->vault, ret->dir.rec.id, clear, &ret->name);
	if (r < 0)
		resolve_done(m, &ret->dir);
	return r;
}

/* pin is ours. */
static int open_pin(int pin, int flags)
{
	char path[RESOLVE_PROC];
	int fd;

	if (flags & O_PATH)
		return pin;
	fd = open(resolve_proc(pin, path), (flags & ~O_NOFOLLOW) | O_CLOEXEC);
	if (fd < 0)
		fd = -errno;
	close(pin);
	return fd;
}

/* With -o shared a name can have gone, or be another object's, behind our back: the next try takes another one. */
static int lost_name(struct mount *m, struct inode *inode, int r)
{
	char clear[VAULT_NAME_MAX + 1];
	struct inode *parent;

	if (!m->options.shared || r != -ESTALE || inode_alias_get(&m->table, inode, &parent, clear) < 0)
		return r;
	inode_alias_drop(&m->table, inode, parent, clear);
	inode_put(&m->table, parent);
	return r;
}

/* A mount that keeps access times must not change the backing ones either; only owner and root may ask for that. */
static int open_quiet(const struct mount *m, int dirfd, const char *name, int flags)
{
	if ((m->options.flags & (MS_NOATIME | MS_RDONLY)) && !(flags & O_PATH)) {
		int fd = openat(dirfd, name, flags | O_NOATIME);

		if (fd >= 0 || errno != EPERM)
			return fd;
	}
	return openat(dirfd, name, flags);
}

static int open_once(struct mount *m, struct inode *inode, int flags)
{
	struct resolve_entry e;
	struct stat st;
	int fd, r, pin = inode_pin_dup(&m->table, inode);

	if (pin != -EBADF)
		return pin < 0 ? pin : open_pin(pin, flags);
	resolve_rdlock(m);
	r = entry_of(m, inode, &e);
	if (r < 0) {
		resolve_unlock(m);
		return r;
	}
	fd = open_quiet(m, e.dir.fd, e.name.entry, flags | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0 && errno == EACCES && !m->root) /* its mode is against the daemon, not against the caller: the kernel has let them pass */
		fd = r = vault_open_file(e.dir.fd, e.name.entry, flags);
	else
		r = fd < 0 ? -errno : fd;
	resolve_unlock(m);
	resolve_done(m, &e.dir);
	if (fd >= 0 && (fstat(fd, &st) < 0 || !same(inode, &st))) {
		close(fd);
		r = -ESTALE;
	}
	return lost_name(m, inode, r == -ENOENT || r == -ELOOP ? -ESTALE : r);
}

/* A directory's own fd in the cache serves for it; "." would need the right to search it. */
static int open_directory(struct mount *m, struct inode *inode, int flags)
{
	char proc[RESOLVE_PROC];
	struct resolve_dir dir;
	int fd, r = resolve_dir(m, inode, &dir);

	if (r < 0)
		return r;
	if (flags & O_PATH)
		fd = fcntl(dir.fd, F_DUPFD_CLOEXEC, 0);
	else
		fd = open_quiet(m, AT_FDCWD, resolve_proc(dir.fd, proc), (flags & ~O_ACCMODE) | O_DIRECTORY | O_CLOEXEC);
	r = fd < 0 ? -errno : fd;
	resolve_done(m, &dir);
	return r;
}

int resolve_open(struct mount *m, struct inode *inode, int flags)
{
	int i, fd = -ESTALE;

	if (inode->dir)
		return open_directory(m, inode, flags);
	for (i = 0; i < RETRIES && fd == -ESTALE; i++)
		fd = open_once(m, inode, flags);
	return fd;
}

static int stat_once(struct mount *m, struct inode *inode, struct stat *ret)
{
	struct resolve_entry e;
	int r, pin = inode_pin_dup(&m->table, inode);

	if (pin >= 0) {
		r = fstat(pin, ret) < 0 ? -errno : 0;
		close(pin);
		return r;
	}
	if (pin != -EBADF)
		return pin;
	resolve_rdlock(m);
	r = entry_of(m, inode, &e);
	if (r == 0) {
		r = fstatat(e.dir.fd, e.name.entry, ret, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
		resolve_done(m, &e.dir);
	}
	resolve_unlock(m);
	if (r == 0 && !same(inode, ret))
		r = -ESTALE;
	return lost_name(m, inode, r == -ENOENT ? -ESTALE : r);
}

int resolve_stat(struct mount *m, struct inode *inode, struct stat *ret)
{
	struct resolve_dir dir;
	int i, r = -ESTALE;

	if (inode->dir) {
		r = resolve_dir(m, inode, &dir);
		if (r < 0)
			return r;
		r = fstat(dir.fd, ret) < 0 ? -errno : 0;
		resolve_done(m, &dir);
		return r;
	}
	for (i = 0; i < RETRIES && r == -ESTALE; i++)
		r = stat_once(m, inode, ret);
	return r;
}
