/*
 * Reading directories.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <utlist.h>

#include "base/log.h"
#include "ops.h"
#include "session.h"

#define DENTS_SIZE 32768

/* A handle: its own backing fd, opened by the first read (a cached listing needs none). */
struct handle {
	struct handle *prev, *next; /* the mount's list (the table's lock) */
	pthread_mutex_t lock; /* guards the rest; before the tree lock */
	struct inode *inode;  /* held */
	int fd;
	off_t offset;         /* of the entry at `at`; lseek when a reader asks for another */
	size_t at, len;
	char *dents;          /* DENTS_SIZE bytes of struct dirent64 */
};

static struct handle *handle_of(const struct fuse_file_info *fi)
{
	return (struct handle *)(uintptr_t)fi->fh;
}

static void handle_free(struct mount *m, struct handle *h)
{
	pthread_mutex_lock(&m->table.lock);
	DL_DELETE(m->handles, h);
	pthread_mutex_unlock(&m->table.lock);
	if (h->fd >= 0)
		close(h->fd);
	pthread_mutex_destroy(&h->lock);
	inode_put(&m->table, h->inode);
	free(h->dents);
	free(h);
}

void ops_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct mount *m = ops_mount(req);
	struct inode *inode = inode_get(&m->table, ino);
	struct handle *h = inode && inode->dir ? calloc(1, sizeof *h) : NULL;

	if (!h) {
		fuse_reply_err(req, !inode ? ESTALE : inode->dir ? ENOMEM : ENOTDIR);
		inode_put(&m->table, inode);
		return;
	}
	pthread_mutex_init(&h->lock, NULL);
	h->inode = inode;
	h->fd = -1;
	pthread_mutex_lock(&m->table.lock);
	DL_APPEND(m->handles, h);
	pthread_mutex_unlock(&m->table.lock);
	fi->fh = (uint64_t)(uintptr_t)h;
	fi->cache_readdir = fi->keep_cache = !m->options.shared;
	if (fuse_reply_open(req, fi) < 0)
		handle_free(m, h);
}

void ops_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	handle_free(ops_mount(req), handle_of(fi));
	fuse_reply_err(req, 0);
}

void ops_dir_drop_all(struct mount *m)
{
	while (m->handles)
		handle_free(m, m->handles);
}

/* The next backing entry at offset off; NULL with *r 0 at the end. It is consumed by moving h->offset and h->at. */
static struct dirent64 *peek(struct handle *h, off_t off, int *r)
{
	ssize_t n;

	*r = 0;
	if (off != h->offset) {
		if (lseek(h->fd, off, SEEK_SET) < 0) {
			*r = -errno;
			return NULL;
		}
		h->offset = off;
		h->at = h->len = 0;
	}
	if (h->at == h->len) {
		n = getdents64(h->fd, h->dents, DENTS_SIZE);
		if (n <= 0) {
			*r = n < 0 ? -errno : 0;
			return NULL;
		}
		h->at = 0;
		h->len = (size_t)n;
	}
	return (struct dirent64 *)(h->dents + h->at);
}

/* A listing goes on past an entry that does not authenticate: said once per mount and entry count. */
static void bad_name(struct mount *m, const struct inode *dir)
{
	unsigned n = atomic_fetch_add(&m->bad_names, 1);

	if (n == 0)
		ops_errno(m, dir->back.ino, -EBADMSG);
	else if (n < 100)
		base_log(LOG_WARNING, "%s: an entry of backing directory %llu does not authenticate and is left out", vault_path(m->vault),
			 (unsigned long long)dir->back.ino);
}

struct listing {
	fuse_req_t req;
	struct mount *m;
	struct resolve_dir dir;
	bool plus;
	char *buf;
	size_t size, used;
};

/* One entry into the reply: 0, or -ENOSPC when it does not fit. */
static int add(struct listing *l, const char *name, const struct dirent64 *d)
{
	struct fuse_entry_param entry;
	struct resolve_entry e;
	struct inode *inode = NULL;
	size_t need = l->plus ? fuse_add_direntry_plus(l->req, NULL, 0, name, NULL, 0) : fuse_add_direntry(l->req, NULL, 0, name, NULL, 0);

	if (need > l->size - l->used)
		return -ENOSPC;
	memset(&entry, 0, sizeof entry);
	entry.attr.st_ino = d->d_ino;
	entry.attr.st_mode = (mode_t)d->d_type << 12;
	if (l->plus && name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]))) {
		need = fuse_add_direntry_plus(l->req, l->buf + l->used, need, name, &entry, d->d_off);
	} else if (l->plus) {
		e.dir = l->dir;
		memcpy(e.name.entry, d->d_name, strlen(d->d_name) + 1);
		switch (ops_find(l->m, &e, name, &inode, &entry)) {
		case 0:
			break;
		case -ENOENT:
			return 0; /* gone meanwhile */
		default: /* its own lookup will say what is wrong */
			memset(&entry, 0, sizeof entry);
			entry.attr.st_ino = d->d_ino;
			entry.attr.st_mode = (mode_t)d->d_type << 12;
		}
		need = fuse_add_direntry_plus(l->req, l->buf + l->used, need, name, &entry, d->d_off);
		inode_put(&l->m->table, inode);
	} else {
		need = fuse_add_direntry(l->req, l->buf + l->used, need, name, &entry.attr, d->d_off);
	}
	l->used += need;
	return 0;
}

static int fill(struct listing *l, struct handle *h, off_t off)
{
	char clear[VAULT_NAME_MAX + 1];
	struct dirent64 *d;
	int r;

	while ((d = peek(h, off, &r)) != NULL) {
		if (!strcmp(d->d_name, ".") || !strcmp(d->d_name, "..")) {
			r = add(l, d->d_name, d);
		} else {
			r = vault_name_open(l->m->vault, h->fd, l->dir.rec.id, d->d_name, clear);
			if (r == 0)
				r = add(l, clear, d);
			else if (r == -EBADMSG)
				bad_name(l->m, h->inode);
			if (r != -ENOSPC)
				r = 0;
		}
		if (r == -ENOSPC)
			return l->used ? 0 : -EINVAL;
		off = h->offset = d->d_off;
		h->at += d->d_reclen;
	}
	return l->used ? 0 : r;
}

static int prepare(struct mount *m, struct handle *h)
{
	if (!h->dents)
		h->dents = malloc(DENTS_SIZE);
	if (!h->dents)
		return -ENOMEM;
	if (h->fd < 0) {
		h->fd = resolve_open(m, h->inode, O_RDONLY);
		h->offset = 0;
		h->at = h->len = 0;
		if (h->fd < 0)
			return h->fd;
	}
	return 0;
}

static void readdir_any(fuse_req_t req, size_t size, off_t off, struct fuse_file_info *fi, bool plus)
{
	struct listing l = { .req = req, .m = ops_mount(req), .plus = plus, .size = size };
	struct handle *h = handle_of(fi);
	int r;

	l.buf = session_buffer(&l.size);
	pthread_mutex_lock(&h->lock);
	r = prepare(l.m, h);
	if (r == 0)
		r = resolve_dir(l.m, h->inode, &l.dir);
	if (r == 0) {
		r = fill(&l, h, off);
		resolve_done(l.m, &l.dir);
	}
	pthread_mutex_unlock(&h->lock);
	if (r < 0)
		fuse_reply_err(req, -r);
	else
		fuse_reply_buf(req, l.buf, l.used);
}

void ops_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	readdir_any(req, size, off, fi, false);
}

void ops_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	readdir_any(req, size, off, fi, true);
}

void ops_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	struct mount *m = ops_mount(req);
	struct inode *inode = inode_get(&m->table, ino);
	int fd, r = -ESTALE;

	if (inode) {
		fd = resolve_open(m, inode, O_RDONLY);
		r = fd < 0 ? fd : 0;
		if (fd >= 0 && (datasync ? fdatasync(fd) : fsync(fd)) < 0)
			r = -errno;
		if (fd >= 0)
			close(fd);
		inode_put(&m->table, inode);
	}
	fuse_reply_err(req, -r);
}
