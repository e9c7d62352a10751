/*
 * Operations on names: lookup, forget, links, special files. Renames have their own file.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ops.h"

void ops_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct mount *m = ops_mount(req);
	struct fuse_entry_param entry;
	struct resolve_entry e;
	struct inode *inode;
	int r;

	r = resolve_node(m, parent, name, &e);
	if (r == 0) {
		r = ops_find(m, &e, name, &inode, &entry);
		resolve_done(m, &e.dir);
	}
	if (r == 0) {
		ops_reply_entry(req, inode, &entry);
	} else if (r == -ENOENT) { /* remembered as absent */
		memset(&entry, 0, sizeof entry);
		entry.entry_timeout = m->absent_timeout;
		fuse_reply_entry(req, &entry);
	} else {
		fuse_reply_err(req, -r);
	}
}

void ops_forget(fuse_req_t req, fuse_ino_t ino, uint64_t n)
{
	inode_forget(&ops_mount(req)->table, ino, n);
	fuse_reply_none(req);
}

void ops_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	size_t i;

	for (i = 0; i < count; i++)
		inode_forget(&ops_mount(req)->table, forgets[i].ino, forgets[i].nlookup);
	fuse_reply_none(req);
}

void ops_readlink(fuse_req_t req, fuse_ino_t ino)
{
	struct mount *m = ops_mount(req);
	struct inode *inode = inode_get(&m->table, ino);
	char sealed[PATH_MAX + 1], target[PATH_MAX];
	int fd, r = -ESTALE;
	ssize_t n;

	if (inode) {
		fd = resolve_open(m, inode, O_PATH);
		r = fd;
		if (fd >= 0) {
			n = readlinkat(fd, "", sealed, sizeof sealed - 1);
			r = n < 0 ? -errno : 0;
			close(fd);
			if (n >= 0) {
				sealed[n] = '\0';
				r = ops_errno(m, inode->back.ino, vault_link_open(m->vault, sealed, target, sizeof target));
			}
		}
		inode_put(&m->table, inode);
	}
	if (r < 0)
		fuse_reply_err(req, -r);
	else
		fuse_reply_readlink(req, target);
}

/* Replies to an operation that made the entry e: it is looked up as any other. Ends the use of e. */
static void reply_made(fuse_req_t req, struct resolve_entry *e, const char *name, int r)
{
	struct mount *m = ops_mount(req);
	struct fuse_entry_param entry;
	struct inode *inode;

	if (r == 0)
		r = ops_find(m, e, name, &inode, &entry);
	resolve_done(m, &e->dir);
	if (r == 0)
		ops_reply_entry(req, inode, &entry);
	else
		ops_reply(req, 0, r);
}

/* A regular file made by mknod: created like any, and closed at once. */
static int make_regular(fuse_req_t req, struct resolve_entry *e, const char *name, const struct ops_new *new)
{
	struct mount *m = ops_mount(req);
	struct kms_caller caller = ops_caller(req);
	struct vault_file *file;
	char path[PATH_MAX];
	int r;

	inode_path(&m->table, e->dir.inode, name, path, sizeof path);
	r = vault_file_create(m->vault, &caller, path, e->dir.fd, &e->dir.rec, new->mode & 07777, new->uid, new->gid, &file);
	if (r < 0)
		return r;
	r = vault_file_link(file, e->dir.fd, &e->name);
	vault_file_release(file, true);
	vault_file_free(file);
	return r;
}

/* Owner and mode of a special file or symlink that was just made; it goes again when they cannot be given. */
static int give(struct resolve_entry *e, const struct ops_new *new)
{
	mode_t mode = new->mode & 07777;
	struct stat st;
	int r = 0;

	if ((new->uid != (uid_t)-1 || new->gid != (gid_t)-1) && fchownat(e->dir.fd, e->name.entry, new->uid, new->gid, AT_SYMLINK_NOFOLLOW) < 0)
		r = -errno;
	if (r == 0 && fstatat(e->dir.fd, e->name.entry, &st, AT_SYMLINK_NOFOLLOW) < 0)
		r = -errno;
	if (r == 0 && new->inherits)
		mode = (mode & 07000) | (st.st_mode & 0777);
	if (r == 0 && !S_ISLNK(st.st_mode) && ((st.st_mode ^ mode) & 07777) && fchmodat(e->dir.fd, e->name.entry, mode, 0) < 0)
		r = -errno;
	if (r < 0)
		unlinkat(e->dir.fd, e->name.entry, 0);
	return r;
}

static int make_special(struct mount *m, struct resolve_entry *e, const struct ops_new *new, dev_t rdev, const char *sealed)
{
	int r;

	vault_half_begin(m->vault);
	r = vault_name_side_write(e->dir.fd, &e->name);
	if (r < 0) {
		vault_half_end(m->vault);
		return r;
	}
	if (S_ISLNK(new->mode))
		r = symlinkat(sealed, e->dir.fd, e->name.entry) < 0 ? -errno : 0;
	else
		r = mknodat(e->dir.fd, e->name.entry, new->mode & (S_IFMT | 0777), rdev) < 0 ? -errno : 0;
	if (r == 0)
		r = give(e, new);
	if (r < 0 && r != -EEXIST)
		vault_name_side_drop(e->dir.fd, &e->name);
	vault_half_end(m->vault);
	return r;
}

void ops_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	struct mount *m = ops_mount(req);
	struct resolve_entry e;
	struct ops_new new;
	int r = resolve_node(m, parent, name, &e);

	if (r < 0) {
		ops_reply(req, 0, r);
		return;
	}
	r = ops_prepare(req, m, &e.dir, mode, &new);
	if (r == 0 && S_ISREG(mode))
		r = make_regular(req, &e, name, &new);
	else if (r == 0)
		r = make_special(m, &e, &new, rdev, NULL);
	reply_made(req, &e, name, r);
}

void ops_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	struct mount *m = ops_mount(req);
	struct resolve_entry e;
	char sealed[PATH_MAX];
	struct ops_new new;
	int r = resolve_node(m, parent, name, &e);

	if (r < 0) {
		ops_reply(req, 0, r);
		return;
	}
	r = ops_prepare(req, m, &e.dir, S_IFLNK | 0777, &new);
	if (r == 0)
		r = vault_link_seal(m->vault, target, sealed);
	if (r == 0)
		r = make_special(m, &e, &new, 0, sealed);
	reply_made(req, &e, name, r);
}

void ops_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	struct mount *m = ops_mount(req);
	struct fuse_entry_param entry;
	struct inode *inode = NULL;
	struct resolve_entry e;
	struct vault_dir rec;
	struct ops_new new;
	struct stat st;
	int fd = -1, r = resolve_node(m, parent, name, &e);

	if (r < 0) {
		ops_reply(req, 0, r);
		return;
	}
	r = ops_prepare(req, m, &e.dir, mode | S_IFDIR, &new);
	if (r == 0)
		r = vault_dir_make(m->vault, e.dir.fd, &e.dir.rec, &e.name, new.mode & 07777, new.uid, new.gid, &rec, &fd);
	if (r == 0 && fstat(fd, &st) < 0) {
		r = -errno;
		close(fd);
	} else if (r == 0) {
		inode = inode_enter(&m->table, e.dir.inode, name, &st, &rec, fd);
		r = inode ? 0 : -ENOMEM;
	}
	resolve_done(m, &e.dir);
	if (r < 0) {
		ops_reply(req, 0, r);
		return;
	}
	ops_entry(m, inode, &st, &entry);
	ops_reply_entry(req, inode, &entry);
}

/* Before a name goes: the inode that has it is held; when this is its only known name, an O_PATH fd keeps the object reachable. */
static struct inode *before_removal(struct mount *m, struct resolve_entry *e, const struct stat *st)
{
	struct inode *inode = inode_find(&m->table, st);
	struct stat now;
	int fd;

	if (!inode || inode->dir || inode_alias_count(&m->table, inode) != 1 || !inode_pin_room(&m->table))
		return inode;
	fd = openat(e->dir.fd, e->name.entry, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd >= 0 && fstat(fd, &now) == 0 && now.st_ino == st->st_ino && now.st_dev == st->st_dev)
		inode_pin(&m->table, inode, fd);
	else if (fd >= 0)
		close(fd);
	return inode;
}

static int unlink_entry(struct mount *m, struct resolve_entry *e, const char *name)
{
	struct inode *inode;
	struct stat st;
	bool had = false;
	int r = 0;

	if (fstatat(e->dir.fd, e->name.entry, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (S_ISDIR(st.st_mode))
		return -EISDIR;
	inode = before_removal(m, e, &st);
	if (inode)
		had = inode_alias_drop(&m->table, inode, e->dir.inode, name);
	vault_half_begin(m->vault);
	if (unlinkat(e->dir.fd, e->name.entry, 0) < 0)
		r = -errno;
	if (r == 0)
		vault_name_side_drop(e->dir.fd, &e->name);
	vault_half_end(m->vault);
	if (inode && r == 0 && st.st_nlink <= 1)
		inode_gone(&m->table, inode);
	else if (r < 0 && had)
		inode_alias_add(&m->table, inode, e->dir.inode, name);
	inode_put(&m->table, inode);
	return r;
}

void ops_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct mount *m = ops_mount(req);
	struct resolve_entry e;
	int r = resolve_node(m, parent, name, &e);

	if (r == 0) {
		r = unlink_entry(m, &e, name);
		resolve_done(m, &e.dir);
	}
	ops_reply(req, 0, r);
}

void ops_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct mount *m = ops_mount(req);
	struct inode *inode = NULL;
	struct resolve_entry e;
	struct stat st = { 0 };
	int r = resolve_node(m, parent, name, &e);

	if (r < 0) {
		ops_reply(req, 0, r);
		return;
	}
	if (fstatat(e.dir.fd, e.name.entry, &st, AT_SYMLINK_NOFOLLOW) < 0)
		r = -errno;
	if (r == 0) {
		inode = inode_find(&m->table, &st);
		r = vault_dir_remove(m->vault, e.dir.fd, &e.name);
	}
	if (r == 0 && inode) {
		inode_gone(&m->table, inode);
		inode_alias_drop(&m->table, inode, e.dir.inode, name);
	}
	inode_put(&m->table, inode);
	resolve_done(m, &e.dir);
	ops_reply(req, st.st_ino, r);
}

/* The first name of an O_TMPFILE file. While it is open it holds the lease on its key version, so a census need not see it. */
static int link_nameless(struct mount *m, struct inode *inode, struct resolve_entry *e, const char *name)
{
	int r = content_link(m, inode, e->dir.fd, &e->dir.rec, &e->name);

	if (r < 0)
		return r;
	r = inode_alias_add(&m->table, inode, e->dir.inode, name);
	if (r == 0)
		inode_unpin(&m->table, inode);
	return 0;
}

void ops_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t newparent, const char *newname)
{
	struct mount *m = ops_mount(req);
	struct inode *inode = inode_get(&m->table, ino), *parent = NULL;
	char clear[VAULT_NAME_MAX + 1], proc[RESOLVE_PROC];
	struct resolve_entry e;
	struct vault_dir from;
	int fd, r = inode ? resolve_node(m, newparent, newname, &e) : -ESTALE;

	if (r < 0) {
		inode_put(&m->table, inode);
		ops_reply(req, 0, r);
		return;
	}
	if (inode_alias_count(&m->table, inode) == 0) { /* or its last name went: then it cannot come back, which the kernel knows */
		r = link_nameless(m, inode, &e, newname);
		inode_put(&m->table, inode);
		reply_made(req, &e, newname, r);
		return;
	}
	vault_names_rdlock(m->vault);
	fd = resolve_open(m, inode, O_PATH);
	resolve_rdlock(m); /* no rename into another zone meanwhile */
	r = fd < 0 ? fd : inode_alias_get(&m->table, inode, &parent, clear);
	if (r == -ESTALE)
		r = -ENOENT; /* its last name went: it cannot come back */
	if (r == 0) {
		inode_rec(&m->table, parent, &from);
		r = memcmp(from.zone, e.dir.rec.zone, BASE_ID_SIZE) ? -EXDEV : vault_name_side_write(e.dir.fd, &e.name);
	}
	if (r == 0) {
		r = linkat(AT_FDCWD, resolve_proc(fd, proc), e.dir.fd, e.name.entry, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
		if (r < 0 && r != -EEXIST)
			vault_name_side_drop(e.dir.fd, &e.name);
	}
	resolve_unlock(m);
	vault_names_unlock(m->vault);
	if (fd >= 0)
		close(fd);
	inode_put(&m->table, parent);
	inode_put(&m->table, inode);
	reply_made(req, &e, newname, r);
}
