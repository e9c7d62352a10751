/*
 * Extended attributes: user.* is sealed; security.*, trusted.* and POSIX ACLs stay in clear, because the kernel reads them.
 *
 * Capabilities of a file have another name in the backing file where the daemon is root: every write to a file takes its capabilities away,
 * also the daemon's own, which come late (the page cache) or change nothing that anybody sees (a rewrap). The kernel above takes them
 * away when a caller writes.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/log.h"
#include "ops.h"
#include "raw.h"

#define ACL "system.posix_acl_"
#define ACCESS_ACL ACL "access"
#define CAPS "security.capability"
#define OURS "trusted.keepfs."
#define OUR_CAPS OURS "capability"

static bool sealed(const char *name)
{
	return !strncmp(name, "user.", 5);
}

static bool passed(const char *name)
{
	if (!strncmp(name, OURS, sizeof OURS - 1))
		return false;
	return !strncmp(name, "security.", 9) || !strncmp(name, "trusted.", 8) || !strncmp(name, ACL, sizeof ACL - 1);
}

static const char *backing_name(const struct mount *m, const char *name)
{
	return m->root && !strcmp(name, CAPS) ? OUR_CAPS : name;
}

void ops_kill_caps(const struct mount *m, int fd)
{
	if (m->root && fgetxattr(fd, OUR_CAPS, NULL, 0) >= 0 && fremovexattr(fd, OUR_CAPS) < 0)
		base_log(LOG_WARNING, "capabilities of a file that was written cannot be taken away: %s", strerror(errno));
}

/* Sealed xattrs of an inode, ready for use. */
struct access {
	struct vault_xattr x;
	int fd;
	struct resolve_dir dir;  /* directories */
	struct content *content; /* files */
	bool write;
};

static int access_file(fuse_req_t req, struct inode *inode, bool write, struct access *ret)
{
	struct mount *m = ops_mount(req);
	struct kms_caller caller = ops_caller(req);
	int fd, any, r;

	if (!write) { /* most files have none: no key is needed to say so */
		fd = resolve_open(m, inode, O_RDONLY);
		if (fd < 0)
			return fd;
		any = vault_xattr_any(fd);
		close(fd);
		if (any <= 0)
			return any < 0 ? any : -ENODATA;
	}
	r = content_open(m, inode, &caller, write, &ret->content);
	if (r < 0)
		return r;
	ret->write = write;
	ret->fd = vault_file_fd(content_file(ret->content));
	vault_file_xattr(content_file(ret->content), &ret->x);
	return 0;
}

static int access_open(fuse_req_t req, struct inode *inode, bool write, struct access *ret)
{
	struct mount *m = ops_mount(req);
	int r;

	memset(ret, 0, sizeof *ret);
	if (inode->type == S_IFREG)
		return access_file(req, inode, write, ret);
	if (!inode->dir)
		return write ? -EPERM : -ENODATA;
	r = resolve_dir(m, inode, &ret->dir);
	if (r < 0)
		return r;
	ret->fd = ret->dir.fd;
	vault_xattr_dir(m->vault, ret->dir.rec.id, &ret->x);
	return 0;
}

static void access_close(fuse_req_t req, struct access *a)
{
	if (a->content)
		content_close(ops_mount(req), a->content, a->write);
	else
		resolve_done(ops_mount(req), &a->dir);
}

static ssize_t get_passed(struct mount *m, struct inode *inode, const char *name, void *value, size_t size, uint64_t look)
{
	char proc[RESOLVE_PROC];
	int fd = resolve_open(m, inode, O_PATH);
	ssize_t n;

	if (fd < 0)
		return fd;
	n = getxattr(resolve_proc(fd, proc), backing_name(m, name), value, size);
	if (n < 0)
		n = -errno;
	if (n == -ENODATA && listxattr(proc, NULL, 0) == 0)
		inode_bare_set(&m->table, inode, look);
	close(fd);
	return n;
}

/* Programs ask each file for several attributes that hardly any has: one look answers all of them. */
static ssize_t get(fuse_req_t req, struct inode *inode, const char *name, void *value, size_t size)
{
	struct mount *m = ops_mount(req);
	struct access a;
	uint64_t look;
	ssize_t n;

	if ((!passed(name) && !sealed(name)) || (!m->acl && !strncmp(name, ACL, sizeof ACL - 1)))
		return -EOPNOTSUPP;
	if (inode_bare(&m->table, inode, &look) && !m->options.shared)
		return -ENODATA;
	if (passed(name))
		return get_passed(m, inode, name, value, size, look);
	n = access_open(req, inode, false, &a);
	if (n < 0)
		return n;
	n = vault_xattr_get(&a.x, a.fd, name, value, size);
	access_close(req, &a);
	return n;
}

/* Copies the names that pass from a raw list; sizes alone when ret is NULL. */
static size_t filter(const struct mount *m, const char *raw, size_t len, bool trusted, char *ret)
{
	const char *name;
	size_t i, n, used = 0;

	for (i = 0; i < len; i += strlen(raw + i) + 1) {
		name = m->root && !strcmp(raw + i, OUR_CAPS) ? CAPS : raw + i;
		if (!passed(name) || (!trusted && !strncmp(name, "trusted.", 8)) || strcmp(backing_name(m, name), raw + i))
			continue;
		n = strlen(name) + 1;
		if (ret)
			memcpy(ret + used, name, n);
		used += n;
	}
	return used;
}

static ssize_t list_passed(fuse_req_t req, struct inode *inode, char *list, size_t size)
{
	char proc[RESOLVE_PROC], *raw = malloc(XATTR_LIST_MAX);
	int fd = raw ? resolve_open(ops_mount(req), inode, O_PATH) : -ENOMEM;
	const struct mount *m = ops_mount(req);
	ssize_t n = fd;
	size_t used;

	if (fd >= 0) {
		n = listxattr(resolve_proc(fd, proc), raw, XATTR_LIST_MAX);
		n = n < 0 ? -errno : n;
		close(fd);
	}
	if (n >= 0) {
		bool trusted = fuse_req_ctx(req)->uid == 0;

		used = filter(m, raw, (size_t)n, trusted, NULL);
		if (size > 0 && used > size)
			n = -ERANGE;
		else
			n = (ssize_t)filter(m, raw, (size_t)n, trusted, size > 0 ? list : NULL);
	}
	free(raw);
	return n;
}

static ssize_t list(fuse_req_t req, struct inode *inode, char *names, size_t size)
{
	ssize_t clear = list_passed(req, inode, names, size), n;
	struct access a;

	if (clear < 0)
		return clear;
	n = access_open(req, inode, false, &a);
	if (n == -ENODATA)
		return clear;
	if (n < 0)
		return n;
	if (size > 0 && (size_t)clear == size)
		n = vault_xattr_list(&a.x, a.fd, NULL, 0) > 0 ? -ERANGE : 0;
	else
		n = vault_xattr_list(&a.x, a.fd, size ? names + clear : NULL, size ? size - (size_t)clear : 0);
	access_close(req, &a);
	return n < 0 ? n : clear + n;
}

static void reply_value(fuse_req_t req, const char *value, size_t size, ssize_t n)
{
	if (n < 0)
		ops_reply(req, 0, (int)n);
	else if (size == 0)
		fuse_reply_xattr(req, (size_t)n);
	else
		fuse_reply_buf(req, value, (size_t)n);
}

void ops_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	struct mount *m = ops_mount(req);
	struct inode *inode = inode_get(&m->table, ino);
	char *value = size ? malloc(size) : NULL;
	ssize_t n = !inode ? -ESTALE : size && !value ? -ENOMEM : get(req, inode, name, value, size);

	inode_put(&m->table, inode);
	reply_value(req, value, size, n);
	free(value);
}

void ops_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	struct mount *m = ops_mount(req);
	struct inode *inode = inode_get(&m->table, ino);
	char *names = size ? malloc(size) : NULL;
	ssize_t n = !inode ? -ESTALE : size && !names ? -ENOMEM : list(req, inode, names, size);

	inode_put(&m->table, inode);
	reply_value(req, names, size, n);
	free(names);
}

/* Who sets the ACL is not in the file's group: the daemon, which is, must not keep the bit for them. The kernel asks for the mode again by itself. */
static int kill_sgid(int fd, const char *proc)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (!(st.st_mode & S_ISGID))
		return 0;
	return chmod(proc, st.st_mode & 07777 & ~(mode_t)S_ISGID) < 0 ? -errno : 0;
}

/* set: value and flags; remove: value NULL and flags -1. */
static int change_passed(struct mount *m, struct inode *inode, const char *name, const char *value, size_t size, int flags)
{
	char proc[RESOLVE_PROC];
	int fd = resolve_open(m, inode, O_PATH), r;

	if (fd < 0)
		return fd;
	resolve_proc(fd, proc);
	vault_header_lock(m->vault, inode->back.ino); /* a write of the header puts back the mode and capabilities that it has found */
	r = flags < 0 ? removexattr(proc, backing_name(m, name)) : setxattr(proc, backing_name(m, name), value, size, flags);
	r = r < 0 ? -errno : 0;
	if (r == 0 && raw_kill() && !strcmp(name, ACCESS_ACL))
		r = kill_sgid(fd, proc);
	vault_header_unlock(m->vault, inode->back.ino);
	close(fd);
	return r;
}

static int change(fuse_req_t req, struct inode *inode, const char *name, const char *value, size_t size, int flags)
{
	struct access a;
	int r;

	inode_bare_end(&ops_mount(req)->table, inode);
	if (passed(name))
		return change_passed(ops_mount(req), inode, name, value, size, flags);
	if (!sealed(name))
		return -EOPNOTSUPP;
	r = access_open(req, inode, true, &a);
	if (r < 0)
		return r;
	r = flags < 0 ? vault_xattr_remove(&a.x, a.fd, name) : vault_xattr_set(&a.x, a.fd, name, value, size, flags);
	access_close(req, &a);
	return r;
}

void ops_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags)
{
	struct mount *m = ops_mount(req);
	struct inode *inode = inode_get(&m->table, ino);
	int r = inode ? change(req, inode, name, value, size, flags) : -ESTALE;

	if (inode)
		inode_bare_end(&m->table, inode);
	inode_put(&m->table, inode);
	ops_reply(req, 0, r);
}

void ops_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	struct mount *m = ops_mount(req);
	struct inode *inode = inode_get(&m->table, ino);
	int r = inode ? change(req, inode, name, NULL, 0, -1) : -ESTALE;

	inode_put(&m->table, inode);
	ops_reply(req, 0, r);
}
