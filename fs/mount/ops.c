/*
 * The table of operations, and what they share.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "ops.h"
#include "session.h"
#include "vault/header.h"

const struct fuse_lowlevel_ops ops_table = {
	.init = session_init,
	.lookup = ops_lookup,
	.forget = ops_forget,
	.forget_multi = ops_forget_multi,
	.getattr = ops_getattr,
	.setattr = ops_setattr,
	.readlink = ops_readlink,
	.mknod = ops_mknod,
	.mkdir = ops_mkdir,
	.unlink = ops_unlink,
	.rmdir = ops_rmdir,
	.symlink = ops_symlink,
	.rename = ops_rename,
	.link = ops_link,
	.create = ops_create,
	.open = ops_open,
	.read = ops_read,
	.write = ops_write,
	.release = ops_release,
	.fsync = ops_fsync,
	.fallocate = ops_fallocate,
	.lseek = ops_lseek,
	.opendir = ops_opendir,
	.readdir = ops_readdir,
	.readdirplus = ops_readdirplus,
	.releasedir = ops_releasedir,
	.fsyncdir = ops_fsyncdir,
	.statfs = ops_statfs,
	.setxattr = ops_setxattr,
	.getxattr = ops_getxattr,
	.listxattr = ops_listxattr,
	.removexattr = ops_removexattr,
};

struct mount *ops_mount(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

struct kms_caller ops_caller(fuse_req_t req)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);

	return (struct kms_caller){ .uid = ctx->uid, .gid = ctx->gid, .pid = ctx->pid, .via = KMS_VIA_FUSE };
}

int ops_errno(struct mount *m, uint64_t subject, int err)
{
	struct kms_caller self;
	struct kms_subject about = { .purpose = KMS_PURPOSE_VAULT };

	if (err != -EBADMSG)
		return err;
	self = kms_caller_self(KMS_VIA_SERVICE);
	memcpy(about.vault_id, vault_id(m->vault), BASE_ID_SIZE);
	memcpy(about.file_id, vault_id(m->vault), BASE_ID_SIZE);
	base_log(LOG_ERR, "%s: backing inode %llu: a name, record or header does not authenticate; restore it from a backup", vault_path(m->vault),
		 (unsigned long long)subject);
	kms_audit_write(m->core, &self, "integrity", &about, EIO, "a name, record or header does not authenticate");
	return -EIO;
}

void ops_reply(fuse_req_t req, uint64_t subject, int err)
{
	fuse_reply_err(req, -ops_errno(ops_mount(req), subject, err));
}

/* A group that the caller chose to work under (newgrp), which a service without privileges can give when it is one of its own. */
static gid_t own_group(const struct fuse_ctx *ctx)
{
	gid_t groups[256];
	int i, n;

	if (ctx->uid != geteuid() || ctx->gid == getegid())
		return (gid_t)-1;
	n = getgroups(256, groups);
	for (i = 0; i < n; i++)
		if (groups[i] == ctx->gid)
			return ctx->gid;
	return (gid_t)-1;
}

int ops_prepare(fuse_req_t req, struct mount *m, const struct resolve_dir *dir, mode_t mode, struct ops_new *ret)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);
	struct stat st;

	*ret = (struct ops_new){ mode, (uid_t)-1, (gid_t)-1, m->acl && vault_dir_inherits(dir->fd) };
	if (fstat(dir->fd, &st) < 0)
		return -errno;
	if (!ret->inherits) /* the kernel has done so already, when it does not leave this to us */
		ret->mode &= ~(ctx->umask & 0777);
	if ((st.st_mode & S_ISGID) && S_ISDIR(mode))
		ret->mode |= S_ISGID;
	if (m->root) {
		ret->uid = ctx->uid;
		ret->gid = st.st_mode & S_ISGID ? st.st_gid : ctx->gid;
	} else if (!(st.st_mode & S_ISGID)) {
		ret->gid = own_group(ctx);
	}
	return 0;
}

void ops_attr(struct mount *m, struct inode *inode, struct stat *st)
{
	uint64_t size;

	if (S_ISLNK(st->st_mode)) {
		st->st_size = vault_link_size(st->st_size);
	} else if (S_ISREG(st->st_mode)) {
		if (!content_size(m, inode, &size) && vault_plain_size((uint64_t)st->st_size, &size) < 0)
			size = 0; /* opening it says EIO; it can still be looked at and removed */
		st->st_size = (off_t)size;
	}
	st->st_blksize = VAULT_PAGE;
}

void ops_entry(struct mount *m, struct inode *inode, const struct stat *st, struct fuse_entry_param *ret)
{
	memset(ret, 0, sizeof *ret);
	ret->ino = inode->nodeid;
	ret->attr = *st;
	ops_attr(m, inode, &ret->attr);
	ret->attr_timeout = m->timeout;
	ret->entry_timeout = m->timeout;
}

void ops_reply_entry(fuse_req_t req, struct inode *inode, const struct fuse_entry_param *entry)
{
	struct mount *m = ops_mount(req);

	if (fuse_reply_entry(req, entry) < 0)
		inode_forget(&m->table, entry->ino, 1);
	inode_put(&m->table, inode);
}

/* The record of a subdirectory, known or read now; then *fd is the directory, open. */
static int directory_record(struct mount *m, struct resolve_entry *e, const char *name, struct stat *st, struct vault_dir *rec, int *fd)
{
	int r;

	if (!m->options.shared && inode_known(&m->table, e->dir.inode, name, st, rec))
		return 0;
	*fd = resolve_subdir(&e->dir, e->name.entry);
	if (*fd < 0)
		return *fd;
	r = fstat(*fd, st) < 0 ? -errno : vault_dir_read(m->vault, *fd, e->dir.rec.id, rec);
	if (r < 0) {
		close(*fd);
		*fd = -1;
	}
	return r;
}

int ops_find(struct mount *m, struct resolve_entry *e, const char *name, struct inode **ret, struct fuse_entry_param *entry)
{
	struct vault_dir rec;
	struct stat st;
	int fd = -1, r;

	if (fstatat(e->dir.fd, e->name.entry, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (S_ISDIR(st.st_mode)) {
		r = directory_record(m, e, name, &st, &rec, &fd);
		if (r < 0)
			return ops_errno(m, st.st_ino, r);
	}
	*ret = inode_enter(&m->table, e->dir.inode, name, &st, &rec, fd);
	if (!*ret)
		return -ENOMEM;
	ops_entry(m, *ret, &st, entry);
	return 0;
}

/* With the groups of the calling thread, as the kernel has them; when they cannot be read it is in none. */
static bool in_group(fuse_req_t req, gid_t gid)
{
	gid_t groups[256];
	int n;

	if (fuse_req_ctx(req)->gid == gid)
		return true;
	n = fuse_req_getgroups(req, 256, groups);
	for (int i = 0; i < n && i < 256; i++)
		if (groups[i] == gid)
			return true;
	return false;
}

bool ops_sgid_foreign(fuse_req_t req, int fd, mode_t *ret)
{
	struct stat st;

	if (fuse_req_ctx(req)->uid == 0 || fstat(fd, &st) < 0 || S_ISDIR(st.st_mode) || (st.st_mode & (S_ISGID | S_IXGRP)) != S_ISGID)
		return false;
	*ret = st.st_mode & 07777 & ~(mode_t)(S_ISUID | S_ISGID);
	return !in_group(req, st.st_gid);
}

void ops_kill(fuse_req_t req, fuse_ino_t ino, int fd)
{
	struct vault *v = ops_mount(req)->vault;
	struct stat st;
	mode_t mode;
	bool member;
	int r;

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || !(st.st_mode & (S_ISUID | S_ISGID)))
		return;
	member = !(st.st_mode & S_ISGID) || in_group(req, st.st_gid);
	vault_header_lock(v, st.st_ino);
	r = fstat(fd, &st) < 0 ? -errno : 0; /* a chmod that came between counts */
	mode = st.st_mode & ~(mode_t)S_ISUID;
	if ((mode & S_ISGID) && ((mode & S_IXGRP) || !member))
		mode &= ~(mode_t)S_ISGID;
	if (r == 0 && mode != st.st_mode && fchmod(fd, mode & 07777) < 0)
		r = -errno;
	vault_header_unlock(v, st.st_ino);
	if (r < 0)
		base_log(LOG_WARNING, "backing inode %llu: cannot clear its set-uid bits: %s", (unsigned long long)st.st_ino, strerror(-r));
	else if (mode != st.st_mode)
		session_forget_attr(ops_mount(req), ino);
}

int ops_file_times(struct mount *m, struct inode *inode, int fd, const struct timespec ts[2])
{
	int r;

	vault_header_lock(m->vault, inode->back.ino);
	r = futimens(fd, ts) < 0 ? -errno : 0;
	vault_header_unlock(m->vault, inode->back.ino);
	return r;
}
