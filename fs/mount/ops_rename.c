/*
 * rename. Under the vault's names lock (a census holds still) and the tree lock for writing: nobody walks names meanwhile.
 *
 * A directory that goes to another parent names both parents in its record while it is under way (fs/FORMAT.md), so that it authenticates on
 * either side of a crash. A rename over an empty directory exchanges the two, then removes the old one: there is no moment without the name.
 *
 * A file that goes into another zone has its DEK wrapped under that zone's key before the locks are taken, because that asks the HSM and waits
 * for the disk. Under the locks it is made sure that this is still the file and the zone; else the wrap is taken back and all begins again.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "ops.h"
#include "vault/move.h"
#include "vault/path.h"

#define TRIES 4

/* One side of a rename. */
struct side {
	struct resolve_entry e;
	const char *name;
	struct stat st;
	bool exists;
	struct inode *inode; /* held when the kernel knows it */
	struct resolve_dir sub; /* directories: itself, in use */
	bool is_dir;
};

/* A file on its way into another zone. */
struct crossing {
	int fd;                   /* the file, -1: none is needed */
	struct stat st;
	uint8_t zone[BASE_ID_SIZE];
	bool wrapped;             /* move is begun */
	struct vault_move move;
};

/* The target as far as it can be told without the locks, so that nothing is wrapped in vain. */
static int crossing_target(struct mount *m, struct inode *parent, const char *name, unsigned flags, struct crossing *c)
{
	struct resolve_entry e;
	struct stat st;
	int r = resolve_entry(m, parent, name, &e);

	if (r < 0)
		return r;
	memcpy(c->zone, e.dir.rec.zone, BASE_ID_SIZE);
	if (fstatat(e.dir.fd, e.name.entry, &st, AT_SYMLINK_NOFOLLOW) == 0)
		r = flags & RENAME_NOREPLACE ? -EEXIST : S_ISDIR(st.st_mode) ? -EISDIR : 0;
	resolve_done(m, &e.dir);
	return r;
}

static int crossing_wrap(fuse_req_t req, struct inode *parent, const char *name, struct crossing *c)
{
	struct mount *m = ops_mount(req);
	struct kms_caller caller = ops_caller(req);
	struct base_error err = { 0 };
	char path[PATH_MAX];
	int r;

	if (fstat(c->fd, &c->st) < 0)
		return -errno;
	if (c->st.st_nlink > 1)
		return -EXDEV; /* its other names stay in this zone */
	inode_path(&m->table, parent, name, path, sizeof path);
	r = vault_move_begin(m->vault, &caller, path, c->fd, c->zone, &c->move, &err);
	if (r < 0 && r != -EALREADY && r != -EACCES && err.text[0])
		base_log(LOG_WARNING, "rename: %s", err.text);
	c->wrapped = r == 0;
	return r == -EALREADY ? 0 : r;
}

/* 0 also when the rename needs none, or will be refused. */
static int crossing_begin(fuse_req_t req, struct inode *parent, const char *name, struct inode *newparent, const char *newname, unsigned flags,
			  struct crossing *c)
{
	struct mount *m = ops_mount(req);
	struct vault_dir from, to;
	struct resolve_entry e;
	struct stat st;
	int r;

	*c = (struct crossing){ .fd = -1 };
	if (!parent || !newparent || !parent->dir || !newparent->dir || (flags & RENAME_EXCHANGE))
		return 0;
	inode_rec(&m->table, parent, &from);
	inode_rec(&m->table, newparent, &to);
	if (!memcmp(from.zone, to.zone, BASE_ID_SIZE))
		return 0;
	r = resolve_entry(m, parent, name, &e);
	if (r < 0)
		return r;
	if (fstatat(e.dir.fd, e.name.entry, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
		r = crossing_target(m, newparent, newname, flags, c);
	else
		r = 1;
	if (r == 0)
		r = c->fd = vault_open_file(e.dir.fd, e.name.entry, O_RDWR);
	resolve_done(m, &e.dir);
	if (c->fd >= 0)
		return crossing_wrap(req, parent, name, c);
	return r > 0 ? 0 : r == -ENOENT || r == -ELOOP ? -EAGAIN : r;
}

static void crossing_end(struct crossing *c, bool stays)
{
	if (c->wrapped)
		vault_move_end(&c->move, stays);
	if (c->fd >= 0)
		close(c->fd);
}

/* Whose names lock is held already: resolves the parent, seals, stats. */
static int side_open(struct mount *m, struct inode *parent, const char *name, struct side *s)
{
	int r = parent ? resolve_dir_locked(m, parent, &s->e.dir) : -ESTALE;

	s->name = name;
	if (r < 0)
		return r;
	r = vault_name_seal(m->vault, s->e.dir.rec.id, name, &s->e.name);
	if (r == 0 && fstatat(s->e.dir.fd, s->e.name.entry, &s->st, AT_SYMLINK_NOFOLLOW) < 0)
		r = errno == ENOENT ? 0 : -errno;
	else if (r == 0)
		s->exists = true;
	if (r < 0) {
		resolve_done(m, &s->e.dir);
		return r;
	}
	if (s->exists)
		s->inode = inode_find(&m->table, &s->st);
	return 0;
}

static void side_close(struct mount *m, struct side *s)
{
	if (s->is_dir)
		resolve_done(m, &s->sub);
	inode_put(&m->table, s->inode);
	resolve_done(m, &s->e.dir);
}

/* A directory on this side is opened with its record: through its inode, which the kernel has looked up before it renames. */
static int side_directory(struct mount *m, struct side *s)
{
	int r;

	if (!s->exists || !S_ISDIR(s->st.st_mode))
		return 0;
	if (!s->inode)
		return -ESTALE;
	r = resolve_dir_locked(m, s->inode, &s->sub);
	s->is_dir = r == 0;
	return r;
}

/* The record lies in the directory, whose times a rename does not change. */
static void keep_times(const struct side *s)
{
	const struct timespec times[2] = { s->st.st_atim, s->st.st_mtim };
	char proc[RESOLVE_PROC];

	if (utimensat(AT_FDCWD, resolve_proc(s->sub.fd, proc), times, 0) < 0)
		base_log(LOG_WARNING, "backing inode %llu: its times changed with a rename: %s", (unsigned long long)s->st.st_ino, strerror(errno));
}

/* phase as of vault_dir_move; the record that the inode keeps follows, after the rename also when it could not be written. */
static int move_record(struct mount *m, struct side *s, const struct side *to, int phase)
{
	int r;

	if (!s->is_dir || s->e.dir.inode == to->e.dir.inode)
		return 0;
	r = vault_dir_move(m->vault, s->sub.fd, &s->sub.rec, to->e.dir.rec.id, phase);
	if (r == 0 || phase != 0)
		inode_rec_set(&m->table, s->inode, &s->sub.rec);
	if (phase != 0)
		keep_times(s);
	return r;
}

static int swap(struct side *from, struct side *to, unsigned flags)
{
	if (renameat2(from->e.dir.fd, from->e.name.entry, to->e.dir.fd, to->e.name.entry, flags) == 0)
		return 0;
	return -errno;
}

/* Before a file is replaced: keep it reachable when this was its last known name. */
static void pin_replaced(struct mount *m, struct side *to)
{
	int fd;

	if (!to->inode || to->is_dir || inode_alias_count(&m->table, to->inode) != 1 || !inode_pin_room(&m->table))
		return;
	fd = openat(to->e.dir.fd, to->e.name.entry, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd >= 0)
		inode_pin(&m->table, to->inode, fd);
}

static void alias_move(struct mount *m, struct side *from, struct side *to)
{
	if (!from->inode)
		return;
	inode_alias_drop(&m->table, from->inode, from->e.dir.inode, from->name);
	if (inode_alias_add(&m->table, from->inode, to->e.dir.inode, to->name) < 0)
		base_log(LOG_ERR, "out of memory in a rename: the moved entry is unknown until it is looked up again");
}

static void alias_replaced(struct mount *m, struct side *to)
{
	if (!to->inode)
		return;
	inode_alias_drop(&m->table, to->inode, to->e.dir.inode, to->name);
	if (to->is_dir || to->st.st_nlink <= 1)
		inode_gone(&m->table, to->inode);
}

/* Both directories' entries change places. Records name both parents meanwhile. */
static int exchange(struct mount *m, struct side *from, struct side *to)
{
	int r = move_record(m, from, to, 0);

	if (r == 0) {
		r = move_record(m, to, from, 0);
		if (r == 0) {
			r = swap(from, to, RENAME_EXCHANGE);
			move_record(m, to, from, r == 0 ? 1 : -1);
		}
		move_record(m, from, to, r == 0 ? 1 : -1);
	}
	return r;
}

static int replace_directory(struct mount *m, struct side *from, struct side *to)
{
	int r = vault_dir_empty(to->sub.fd);

	if (r < 0)
		return r;
	r = exchange(m, from, to);
	if (r == 0) {
		r = vault_dir_remove(m->vault, from->e.dir.fd, &from->e.name);
		if (r < 0)
			base_log(LOG_WARNING, "%s: a replaced directory could not be removed: %s", vault_path(m->vault), strerror(-r));
		return 0;
	}
	if (r != -EINVAL)
		return r;
	r = vault_dir_remove(m->vault, to->e.dir.fd, &to->e.name); /* this file system cannot exchange */
	if (r == 0)
		r = move_record(m, from, to, 0);
	if (r == 0) {
		r = swap(from, to, RENAME_NOREPLACE);
		if (r == -EINVAL)
			r = swap(from, to, 0);
		move_record(m, from, to, r == 0 ? 1 : -1);
	}
	return r;
}

static int plain_rename(struct mount *m, struct side *from, struct side *to, unsigned flags)
{
	int r = vault_name_side_write(to->e.dir.fd, &to->e.name);

	if (r == 0)
		r = move_record(m, from, to, 0);
	if (r == 0) {
		pin_replaced(m, to);
		r = swap(from, to, flags);
		if (r == -EINVAL && flags == RENAME_NOREPLACE && !to->exists)
			r = swap(from, to, 0);
		move_record(m, from, to, r == 0 ? 1 : -1);
	}
	if (r < 0 && !to->exists)
		vault_name_side_drop(to->e.dir.fd, &to->e.name);
	return r;
}

static int check(struct side *from, struct side *to, unsigned flags)
{
	if (!from->exists)
		return -ENOENT;
	if (flags & RENAME_NOREPLACE)
		return to->exists ? -EEXIST : 0;
	if (flags & RENAME_EXCHANGE)
		return to->exists ? 0 : -ENOENT;
	if (to->exists && S_ISDIR(from->st.st_mode) != S_ISDIR(to->st.st_mode))
		return S_ISDIR(to->st.st_mode) ? -EISDIR : -ENOTDIR;
	return 0;
}

static bool has_key(const struct side *s)
{
	return S_ISDIR(s->st.st_mode) || S_ISREG(s->st.st_mode);
}

/* Between zones only what has no key goes, or one file that has the new zone's already. -EAGAIN: it was another file, or another zone. */
static int check_zone(const struct side *from, const struct side *to, unsigned flags, const struct crossing *c)
{
	const uint8_t *zone = to->e.dir.rec.zone;

	if (!memcmp(from->e.dir.rec.zone, zone, BASE_ID_SIZE))
		return c->wrapped && memcmp(c->zone, zone, BASE_ID_SIZE) ? -EAGAIN : 0;
	if (flags & RENAME_EXCHANGE)
		return has_key(from) || has_key(to) ? -EXDEV : 0;
	if (!has_key(from))
		return 0;
	if (S_ISDIR(from->st.st_mode) || from->st.st_nlink > 1)
		return -EXDEV; /* mv copies, under rights on both keys */
	if (c->fd < 0 || from->st.st_ino != c->st.st_ino || from->st.st_dev != c->st.st_dev || memcmp(c->zone, zone, BASE_ID_SIZE))
		return -EAGAIN;
	return 0;
}

static int rename_sides(struct mount *m, struct side *from, struct side *to, unsigned flags, const struct crossing *c)
{
	int r = check(from, to, flags);

	if (r == 0)
		r = check_zone(from, to, flags, c);
	if (r < 0)
		return r;
	if (to->exists && from->st.st_ino == to->st.st_ino && from->st.st_dev == to->st.st_dev)
		return 0; /* two links of one file */
	r = side_directory(m, from);
	if (r == 0)
		r = side_directory(m, to);
	if (r < 0)
		return r;
	if (flags & RENAME_EXCHANGE) {
		r = exchange(m, from, to);
		if (r == 0) {
			alias_move(m, from, to);
			alias_move(m, to, from);
		}
		return r;
	}
	if (to->is_dir)
		r = replace_directory(m, from, to);
	else
		r = plain_rename(m, from, to, flags);
	if (r == 0) {
		vault_name_side_drop(from->e.dir.fd, &from->e.name);
		alias_replaced(m, to);
		alias_move(m, from, to);
	}
	return r;
}

static int rename_locked(struct mount *m, struct inode *parent, const char *name, struct inode *newparent, const char *newname, unsigned flags,
			 const struct crossing *c)
{
	struct side from = { 0 }, to = { 0 };
	int r = side_open(m, parent, name, &from);

	if (r < 0)
		return r;
	r = side_open(m, newparent, newname, &to);
	if (r == 0) {
		r = rename_sides(m, &from, &to, flags, c);
		side_close(m, &to);
	}
	side_close(m, &from);
	return r;
}

static int rename_once(fuse_req_t req, struct inode *parent, const char *name, struct inode *newparent, const char *newname, unsigned flags)
{
	struct mount *m = ops_mount(req);
	struct crossing c;
	int r = crossing_begin(req, parent, name, newparent, newname, flags, &c);

	if (r == 0) {
		vault_names_rdlock(m->vault);
		resolve_wrlock(m);
		r = rename_locked(m, parent, name, newparent, newname, flags, &c);
		resolve_unlock(m);
		vault_names_unlock(m->vault);
	}
	crossing_end(&c, r == 0);
	return r;
}

void ops_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t newparent, const char *newname, unsigned flags)
{
	struct mount *m = ops_mount(req);
	struct inode *from, *to;
	int r = -EAGAIN, i;

	if (flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE)) {
		fuse_reply_err(req, EINVAL);
		return;
	}
	from = inode_get(&m->table, parent);
	to = inode_get(&m->table, newparent);
	for (i = 0; i < TRIES && r == -EAGAIN; i++)
		r = rename_once(req, from, name, to, newname, flags);
	inode_put(&m->table, from);
	inode_put(&m->table, to);
	ops_reply(req, 0, r == -EAGAIN ? -EBUSY : r);
}
