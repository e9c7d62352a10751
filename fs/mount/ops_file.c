/*
 * Open files.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <string.h>
#include <unistd.h>

#include "ops.h"
#include "raw.h"
#include "session.h"
#include "vault/header.h"

static void set_handle(struct mount *m, struct fuse_file_info *fi, struct content *c, bool write)
{
	fi->fh = ops_handle(c, write);
	fi->direct_io = m->options.cache_none;
	fi->keep_cache = m->writeback;
}

/* O_TRUNC comes with the open. */
static int truncate_open(fuse_req_t req, struct inode *inode, struct content *c)
{
	const struct timespec now[2] = { { 0, UTIME_OMIT }, { 0, UTIME_NOW } };
	struct vault_file *file = content_file(c);
	int r = vault_file_truncate(file, 0);

	if (r < 0)
		return r;
	if (raw_kill())
		ops_kill(req, inode->nodeid, vault_file_fd(file));
	ops_kill_caps(ops_mount(req), vault_file_fd(file));
	return ops_file_times(ops_mount(req), inode, vault_file_fd(file), now);
}

void ops_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct mount *m = ops_mount(req);
	struct kms_caller caller = ops_caller(req);
	struct inode *inode = inode_get(&m->table, ino);
	bool write = ops_writes(fi->flags) || (fi->flags & O_TRUNC);
	struct content *c = NULL;
	int r = inode ? content_open(m, inode, &caller, write, &c) : -ESTALE;

	if (r == 0 && (fi->flags & O_TRUNC)) {
		r = truncate_open(req, inode, c);
		if (r < 0)
			content_close(m, c, write);
	}
	inode_put(&m->table, inode);
	if (r < 0) {
		ops_reply(req, 0, r);
		return;
	}
	set_handle(m, fi, c, write);
	if (fuse_reply_open(req, fi) < 0)
		content_close(m, c, write);
}

/* The inode exists before the name does, so that nobody who finds the name opens the file a second time. */
static int create_entered(fuse_req_t req, struct resolve_entry *e, const char *name, struct vault_file *file, struct inode **ret,
			  struct content **ret_content, struct fuse_entry_param *entry)
{
	struct mount *m = ops_mount(req);
	struct inode *inode = NULL;
	struct content *c = NULL;
	struct stat st;
	int r = fstat(vault_file_fd(file), &st) < 0 ? -errno : 0;

	if (r == 0) {
		inode = inode_enter(&m->table, e->dir.inode, name, &st, NULL, -1);
		r = inode ? 0 : -ENOMEM;
	}
	if (r < 0) {
		vault_file_release(file, true);
		vault_file_free(file);
		return r;
	}
	r = content_adopt(m, inode, file, &c);
	if (r == 0) {
		r = vault_file_link(file, e->dir.fd, &e->name);
		if (r == 0 && fstat(vault_file_fd(file), &st) == 0) {
			ops_entry(m, inode, &st, entry);
			*ret = inode;
			*ret_content = c;
			return 0;
		}
		content_close(m, c, true);
	}
	inode_alias_drop(&m->table, inode, e->dir.inode, name);
	inode_gone(&m->table, inode);
	inode_forget(&m->table, inode->nodeid, 1);
	inode_put(&m->table, inode);
	return r;
}

static int create(fuse_req_t req, struct resolve_entry *e, const char *name, mode_t mode, struct inode **ret, struct content **c,
		  struct fuse_entry_param *entry)
{
	struct mount *m = ops_mount(req);
	struct kms_caller caller = ops_caller(req);
	struct vault_file *file;
	char path[PATH_MAX];
	struct ops_new new;
	int r = ops_prepare(req, m, &e->dir, mode | S_IFREG, &new);

	if (r < 0)
		return r;
	inode_path(&m->table, e->dir.inode, name, path, sizeof path);
	r = vault_file_create(m->vault, &caller, path, e->dir.fd, &e->dir.rec, new.mode & 07777, new.uid, new.gid, &file);
	return r < 0 ? r : create_entered(req, e, name, file, ret, c, entry);
}

/* ---- O_TMPFILE: open without a name, until a link gives it one ---- */

#define NAMELESS "/" /* what the kernel calls it (raw.c) */

/* The pin is what operations reach it by. */
static int nameless_entered(struct mount *m, struct vault_file *file, struct inode **ret, struct content **c, struct fuse_entry_param *entry)
{
	char proc[RESOLVE_PROC];
	struct inode *inode;
	struct stat st;
	int fd, r;

	fd = open(resolve_proc(vault_file_fd(file), proc), O_PATH | O_CLOEXEC);
	r = fd < 0 || fstat(fd, &st) < 0 ? -errno : 0;
	inode = r == 0 ? inode_enter(&m->table, NULL, NULL, &st, NULL, -1) : NULL;
	if (!inode) {
		if (fd >= 0)
			close(fd);
		vault_file_release(file, true);
		vault_file_free(file);
		return r < 0 ? r : -ENOMEM;
	}
	inode_pin(&m->table, inode, fd);
	r = content_adopt(m, inode, file, c);
	if (r < 0) {
		inode_forget(&m->table, inode->nodeid, 1);
		inode_put(&m->table, inode);
		return r;
	}
	ops_entry(m, inode, &st, entry);
	*ret = inode;
	return 0;
}

static int create_nameless(fuse_req_t req, struct inode *parent, mode_t mode, struct inode **ret, struct content **c, struct fuse_entry_param *entry)
{
	struct mount *m = ops_mount(req);
	struct kms_caller caller = ops_caller(req);
	struct vault_file *file = NULL;
	struct resolve_dir dir;
	struct ops_new new;
	char path[PATH_MAX];
	int r = inode_pin_room(&m->table) ? resolve_dir(m, parent, &dir) : -ENFILE;

	if (r < 0)
		return r;
	inode_path(&m->table, parent, "(no name)", path, sizeof path);
	r = ops_prepare(req, m, &dir, mode | S_IFREG, &new);
	if (r == 0)
		r = vault_file_create(m->vault, &caller, path, dir.fd, &dir.rec, new.mode & 07777, new.uid, new.gid, &file);
	resolve_done(m, &dir);
	if (r < 0)
		return r;
	if (vault_file_nameless(file))
		return nameless_entered(m, file, ret, c, entry);
	vault_file_release(file, true); /* the backing filesystem has no such thing */
	vault_file_free(file);
	return -EOPNOTSUPP;
}

static int create_any(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct inode **ret, struct content **c,
		      struct fuse_entry_param *entry)
{
	struct mount *m = ops_mount(req);
	struct inode *dir = inode_get(&m->table, parent);
	struct resolve_entry e;
	int r;

	if (!dir)
		return -ESTALE;
	if (!strcmp(name, NAMELESS)) {
		r = create_nameless(req, dir, mode, ret, c, entry);
	} else {
		r = resolve_entry(m, dir, name, &e);
		if (r == 0) {
			r = create(req, &e, name, mode, ret, c, entry);
			resolve_done(m, &e.dir);
		}
	}
	inode_put(&m->table, dir);
	return r;
}

void ops_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	struct mount *m = ops_mount(req);
	struct fuse_entry_param entry;
	struct inode *inode = NULL;
	struct content *c = NULL;
	int r = create_any(req, parent, name, mode, &inode, &c, &entry);

	if (r < 0) {
		ops_reply(req, 0, r);
		return;
	}
	set_handle(m, fi, c, true); /* whoever creates counts as a writer, whatever the flags */
	if (fuse_reply_create(req, &entry, fi) < 0) {
		content_close(m, c, true);
		inode_forget(&m->table, entry.ino, 1);
	}
	inode_put(&m->table, inode);
}

void ops_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	char *buf = session_buffer(&size);
	ssize_t n = vault_file_read(content_file(ops_content(fi)), buf, size, (uint64_t)off);

	if (n < 0)
		ops_reply(req, 0, (int)n);
	else
		fuse_reply_buf(req, buf, (size_t)n);
}

void ops_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct vault_file *file = content_file(ops_content(fi));
	int r = vault_file_write(file, buf, size, (uint64_t)off);

	if (r < 0) {
		ops_reply(req, 0, r);
		return;
	}
	if (raw_kill())
		ops_kill(req, ino, vault_file_fd(file));
	if (!fi->writepage)
		ops_kill_caps(ops_mount(req), vault_file_fd(file));
	fuse_reply_write(req, size);
}

void ops_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	content_close(ops_mount(req), ops_content(fi), (fi->fh & 1) != 0);
	fuse_reply_err(req, 0);
}

void ops_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	ops_reply(req, 0, vault_file_sync(content_file(ops_content(fi)), datasync != 0));
}

/* Reserves the backing pages of a range, where the backing filesystem can. */
static int reserve(struct vault_file *file, uint64_t off, uint64_t len)
{
	uint64_t first = vault_page_of(off / VAULT_PAGE), last = vault_page_of((off + len - 1) / VAULT_PAGE);

	if (fallocate(vault_file_fd(file), FALLOC_FL_KEEP_SIZE, (off_t)(first * VAULT_PAGE), (off_t)((last - first + 1) * VAULT_PAGE)) == 0)
		return 0;
	return errno == EOPNOTSUPP ? 0 : -errno;
}

static int allocate(struct vault_file *file, int mode, uint64_t off, uint64_t len)
{
	uint64_t size = vault_file_size(file), end = off + len;
	int r = 0;

	if (len == 0 || end > VAULT_FILE_MAX)
		return len == 0 ? -EINVAL : -EFBIG;
	if (mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
		return -EOPNOTSUPP;
	if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) {
		if (off < size)
			r = vault_file_punch(file, off, (end < size ? end : size) - off);
	} else {
		r = reserve(file, off, len);
	}
	if (r == 0 && !(mode & FALLOC_FL_KEEP_SIZE) && end > size)
		r = vault_file_truncate(file, end);
	return r;
}

void ops_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len, struct fuse_file_info *fi)
{
	struct vault_file *file = content_file(ops_content(fi));
	int r = allocate(file, mode, (uint64_t)off, (uint64_t)len);

	if (r == 0 && fuse_req_ctx(req)->uid != 0) /* the kernel does not say whether the caller may keep set-uid bits */
		ops_kill(req, ino, vault_file_fd(file));
	ops_reply(req, 0, r);
}

static void reply_seek(fuse_req_t req, struct content *c, int64_t off, int whence)
{
	int64_t at = vault_file_seek(content_file(c), (uint64_t)off, whence == SEEK_DATA);

	if (at < 0)
		ops_reply(req, 0, (int)at);
	else
		fuse_reply_lseek(req, at);
}

static void seek_later(fuse_req_t req, uint64_t ino, int64_t off, int whence, struct content *c)
{
	session_flush(ops_mount(req), ino);
	reply_seek(req, c, off, whence);
}

/* Data that the kernel has not written yet would look like a hole, so a file that somebody writes is flushed first. Maps are cached in it
 * without the writeback cache too. */
void ops_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
	struct mount *m = ops_mount(req);
	struct content *c = ops_content(fi);
	int r;

	if (whence != SEEK_DATA && whence != SEEK_HOLE) {
		fuse_reply_err(req, EINVAL);
	} else if (m->options.cache_none || !content_written(c)) {
		reply_seek(req, c, off, whence);
	} else {
		r = session_later(m, seek_later, req, ino, off, whence, c);
		if (r < 0)
			fuse_reply_err(req, -r);
	}
}
