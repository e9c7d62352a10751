/*
 * getattr, setattr, statfs.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "creds.h"
#include "ops.h"
#include "raw.h"

void ops_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct mount *m = ops_mount(req);
	struct inode *inode = inode_get(&m->table, ino);
	struct stat st;
	int r = -ESTALE;

	if (inode && fi)
		r = fstat(vault_file_fd(content_file(ops_content(fi))), &st) < 0 ? -errno : 0;
	else if (inode)
		r = resolve_stat(m, inode, &st);
	if (r == 0)
		ops_attr(m, inode, &st);
	inode_put(&m->table, inode);
	if (r < 0)
		fuse_reply_err(req, -r);
	else
		fuse_reply_attr(req, &st, m->timeout);
}

/* What a setattr works on: the open file when there is one, or a temporary open for a new size, else a path descriptor. */
struct target {
	struct inode *inode;
	struct content *content;
	int fd;
	bool path;   /* fd is O_PATH and ours */
	bool opened; /* content was opened here */
};

static int target_open(fuse_req_t req, struct inode *inode, int to_set, struct fuse_file_info *fi, struct target *ret)
{
	struct mount *m = ops_mount(req);
	struct kms_caller caller = ops_caller(req);
	int r;

	memset(ret, 0, sizeof *ret);
	ret->inode = inode;
	if (fi) {
		ret->content = ops_content(fi);
	} else if (to_set & FUSE_SET_ATTR_SIZE) {
		if (inode->dir)
			return -EISDIR;
		r = content_open(m, inode, &caller, true, &ret->content);
		if (r < 0)
			return r;
		ret->opened = true;
	} else {
		ret->fd = resolve_open(m, inode, O_PATH);
		ret->path = true;
		return ret->fd < 0 ? ret->fd : 0;
	}
	ret->fd = vault_file_fd(content_file(ret->content));
	return 0;
}

static void target_close(struct mount *m, struct target *t)
{
	if (t->path && t->fd >= 0)
		close(t->fd);
	if (t->opened)
		content_close(m, t->content, true);
}

static int set_mode(struct mount *m, const struct target *t, mode_t mode)
{
	char proc[RESOLVE_PROC];
	int r;

	vault_header_lock(m->vault, t->inode->back.ino); /* a write of the header puts back the mode that it has found */
	r = t->path ? chmod(resolve_proc(t->fd, proc), mode & 07777) : fchmod(t->fd, mode & 07777);
	r = r < 0 ? -errno : 0;
	vault_header_unlock(m->vault, t->inode->back.ino);
	return r;
}

static int set_owner(struct mount *m, const struct target *t, int to_set, const struct stat *attr, bool privileged)
{
	uid_t uid = to_set & FUSE_SET_ATTR_UID ? attr->st_uid : (uid_t)-1;
	gid_t gid = to_set & FUSE_SET_ATTR_GID ? attr->st_gid : (gid_t)-1;

	int r;

	if (privileged) /* quotas do not bind whoever may give files away */
		creds_limited(false);
	vault_header_lock(m->vault, t->inode->back.ino); /* it takes set-id bits away, as in set_mode */
	r = fchownat(t->fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
	vault_header_unlock(m->vault, t->inode->back.ino);
	if (privileged)
		creds_limited(true);
	return r;
}

static struct timespec stamp(int to_set, int set, int now, const struct timespec *given)
{
	if (to_set & now)
		return (struct timespec){ 0, UTIME_NOW };
	if (to_set & set)
		return *given;
	return (struct timespec){ 0, UTIME_OMIT };
}

static int set_times(struct mount *m, const struct target *t, int to_set, const struct stat *attr)
{
	char proc[RESOLVE_PROC];
	struct timespec ts[2];
	int r;

	ts[0] = stamp(to_set, FUSE_SET_ATTR_ATIME, FUSE_SET_ATTR_ATIME_NOW, &attr->st_atim);
	ts[1] = stamp(to_set, FUSE_SET_ATTR_MTIME, FUSE_SET_ATTR_MTIME_NOW, &attr->st_mtim);
	if ((to_set & FUSE_SET_ATTR_SIZE) && !(to_set & FUSE_SET_ATTR_MTIME))
		ts[1].tv_nsec = UTIME_NOW;
	if (ts[1].tv_nsec != UTIME_OMIT && m->writeback)
		content_mtime(m, t->inode, ts[1].tv_nsec == UTIME_NOW ? NULL : &ts[1]);
	if (!t->path)
		return ops_file_times(m, t->inode, t->fd, ts);
	vault_header_lock(m->vault, t->inode->back.ino);
	r = utimensat(t->fd, "", ts, AT_EMPTY_PATH);
	if (r < 0 && errno == EINVAL) /* before Linux 5.8 */
		r = utimensat(AT_FDCWD, resolve_proc(t->fd, proc), ts, 0);
	r = r < 0 ? -errno : 0;
	vault_header_unlock(m->vault, t->inode->back.ino);
	return r;
}

static int apply(fuse_req_t req, const struct target *t, const struct stat *attr, int to_set, bool kill)
{
	const int times = FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_ATIME_NOW | FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_MTIME_NOW | FUSE_SET_ATTR_SIZE;
	struct mount *m = ops_mount(req);
	int r = 0;

	if (to_set & FUSE_SET_ATTR_MODE)
		r = set_mode(m, t, attr->st_mode);
	if (r == 0 && (to_set & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID))) {
		mode_t mode;
		bool foreign = ops_sgid_foreign(req, t->fd, &mode); /* by the group that it has before */

		r = set_owner(m, t, to_set, attr, fuse_req_ctx(req)->uid == 0);
		if (r == 0 && foreign)
			r = set_mode(m, t, mode);
	}
	if (r == 0 && (to_set & FUSE_SET_ATTR_SIZE)) {
		r = attr->st_size < 0 ? -EINVAL : vault_file_truncate(content_file(t->content), (uint64_t)attr->st_size);
		if (r == 0 && kill)
			ops_kill(req, t->inode->nodeid, t->fd);
	}
	if (r == 0 && (to_set & times))
		r = set_times(m, t, to_set, attr);
	return r;
}

void ops_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi)
{
	struct mount *m = ops_mount(req);
	struct inode *inode = inode_get(&m->table, ino);
	struct target t;
	struct stat st;
	int r = inode ? target_open(req, inode, to_set, fi, &t) : -ESTALE;

	if (r == 0) {
		r = apply(req, &t, attr, to_set, raw_kill());
		if (r == 0 && fstat(t.fd, &st) < 0)
			r = -errno;
		if (r == 0)
			ops_attr(m, inode, &st);
		target_close(m, &t);
	}
	inode_put(&m->table, inode);
	if (r < 0)
		ops_reply(req, 0, r);
	else
		fuse_reply_attr(req, &st, m->timeout);
}

void ops_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct statvfs st;

	if (fstatvfs(vault_root_fd(ops_mount(req)->vault), &st) < 0) {
		fuse_reply_err(req, errno);
		return;
	}
	st.f_namemax = VAULT_NAME_MAX;
	fuse_reply_statfs(req, &st);
}
