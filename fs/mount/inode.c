/*
 * The inode table: two hash tables over the same objects, reference counts, aliases.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <utlist.h>

#include "content.h"
#include "inode.h"

#define PATH_PARTS 4096

static void lock(struct inode_table *t)
{
	pthread_mutex_lock(&t->lock);
}

static void unlock(struct inode_table *t)
{
	pthread_mutex_unlock(&t->lock);
}

static struct inode_key key_of(const struct stat *st)
{
	return (struct inode_key){ st->st_dev, st->st_ino };
}

static struct inode *find_node(struct inode_table *t, uint64_t nodeid)
{
	struct inode *inode;

	if (nodeid == INODE_ROOT)
		return t->root;
	HASH_FIND(by_node, t->by_node, &nodeid, sizeof nodeid, inode);
	return inode;
}

static struct inode *find_back(struct inode_table *t, const struct stat *st)
{
	struct inode_key key = key_of(st);
	struct inode *inode;

	HASH_FIND(by_back, t->by_back, &key, sizeof key, inode);
	return inode;
}

static struct inode *make(struct inode_table *t, const struct stat *st, const struct vault_dir *rec)
{
	struct inode *inode = calloc(1, sizeof *inode);

	if (!inode)
		return NULL;
	inode->back = key_of(st);
	inode->type = st->st_mode & S_IFMT;
	inode->pin = -1;
	inode->nodeid = t->next_node++;
	if (S_ISDIR(st->st_mode)) {
		inode->dir = calloc(1, sizeof *inode->dir);
		if (!inode->dir) {
			free(inode);
			return NULL;
		}
		inode->dir->fd = -1;
		inode->dir->rec = *rec;
	}
	HASH_ADD(by_node, t->by_node, nodeid, sizeof inode->nodeid, inode);
	HASH_ADD(by_back, t->by_back, back, sizeof inode->back, inode);
	return inode;
}

static void leave_back(struct inode_table *t, struct inode *inode)
{
	if (inode->gone)
		return;
	HASH_DELETE(by_back, t->by_back, inode);
	inode->gone = true;
}

static void close_dir(struct inode_table *t, struct inode_dir *dir)
{
	DL_DELETE(t->dirs, dir);
	t->dir_count--;
	close(dir->fd);
	dir->fd = -1;
}

/* Frees inode and what it held alive, when nothing holds it. Dropping an alias can end its parent in turn: a loop, not a recursion. Chained
 * through by_back.next, which is unused by then. */
static void maybe_free(struct inode_table *t, struct inode *inode)
{
	struct inode *dead = NULL;

	for (;;) {
		if (inode && inode->nlookup == 0 && inode->refs == 0 && inode != t->root) {
			HASH_DELETE(by_node, t->by_node, inode);
			leave_back(t, inode);
			inode->by_back.next = dead;
			dead = inode;
		}
		inode = NULL;
		if (!dead)
			return;
		if (dead->aliases) {
			struct inode_alias *alias = dead->aliases;

			dead->aliases = alias->next;
			inode = alias->parent;
			inode->refs--;
			free(alias);
		} else {
			struct inode *next = dead->by_back.next;

			if (dead->dir && dead->dir->fd >= 0)
				close_dir(t, dead->dir);
			if (dead->pin >= 0) {
				close(dead->pin);
				t->pins--;
			}
			free(dead->dir);
			free(dead);
			dead = next;
		}
	}
}

int inode_table_init(struct inode_table *t, int root_fd, const struct vault_dir *root)
{
	struct rlimit limit = { 1024, 1024 };
	struct stat st;

	memset(t, 0, sizeof *t);
	if (fstat(root_fd, &st) < 0)
		return -errno;
	getrlimit(RLIMIT_NOFILE, &limit);
	t->dir_max = limit.rlim_cur / 4 < 2048 ? (unsigned)limit.rlim_cur / 4 : 2048;
	t->pin_max = (unsigned)limit.rlim_cur / 4;
	t->next_node = INODE_ROOT;
	t->root = make(t, &st, root);
	if (!t->root)
		return -ENOMEM;
	pthread_mutex_init(&t->lock, NULL);
	t->root->dir->fd = root_fd;
	t->root->dir->users = 1;
	t->root->nlookup = 1;
	return 0;
}

void inode_table_done(struct inode_table *t)
{
	struct inode *inode, *next;

	for (inode = t->by_node; inode; inode = next) {
		next = inode->by_node.next;
		while (inode->aliases) {
			struct inode_alias *alias = inode->aliases;

			inode->aliases = alias->next;
			free(alias);
		}
		HASH_DELETE(by_node, t->by_node, inode);
		leave_back(t, inode);
		if (inode != t->root && inode->dir && inode->dir->fd >= 0)
			close(inode->dir->fd);
		if (inode->pin >= 0)
			close(inode->pin);
		free(inode->dir);
		free(inode);
	}
	pthread_mutex_destroy(&t->lock);
}

struct inode *inode_get(struct inode_table *t, uint64_t nodeid)
{
	struct inode *inode;

	lock(t);
	inode = find_node(t, nodeid);
	if (inode)
		inode->refs++;
	unlock(t);
	return inode;
}

void inode_put(struct inode_table *t, struct inode *inode)
{
	if (!inode)
		return;
	lock(t);
	inode->refs--;
	maybe_free(t, inode);
	unlock(t);
}

struct inode *inode_find(struct inode_table *t, const struct stat *st)
{
	struct inode *inode;

	lock(t);
	inode = find_back(t, st);
	if (inode)
		inode->refs++;
	unlock(t);
	return inode;
}

static struct inode_alias **alias_at(struct inode *inode, const struct inode *parent, const char *name)
{
	struct inode_alias **p;

	for (p = &inode->aliases; *p; p = &(*p)->next)
		if ((*p)->parent == parent && !strcmp((*p)->name, name))
			return p;
	return NULL;
}

bool inode_known(struct inode_table *t, const struct inode *parent, const char *name, const struct stat *st, struct vault_dir *ret)
{
	struct inode *inode;
	bool known;

	lock(t);
	inode = find_back(t, st);
	known = inode && inode->dir && alias_at(inode, parent, name);
	if (known)
		*ret = inode->dir->rec;
	unlock(t);
	return known;
}

static int add_alias(struct inode *inode, struct inode *parent, const char *name)
{
	size_t len = strlen(name) + 1;
	struct inode_alias *alias;

	if (alias_at(inode, parent, name))
		return 0;
	alias = malloc(sizeof *alias + len);
	if (!alias)
		return -ENOMEM;
	memcpy(alias->name, name, len);
	alias->parent = parent;
	parent->refs++;
	alias->next = inode->aliases;
	inode->aliases = alias;
	return 0;
}

/* A directory has one name: a second one means that it was moved behind our back. */
static void drop_aliases(struct inode_table *t, struct inode *inode)
{
	while (inode->aliases) {
		struct inode_alias *alias = inode->aliases;
		struct inode *parent = alias->parent;

		inode->aliases = alias->next;
		free(alias);
		parent->refs--;
		maybe_free(t, parent);
	}
}

static int give_dir(struct inode_table *t, struct inode_dir *dir, int fd)
{
	struct inode_dir *old, *prev;
	int tries = 8;

	if (dir->fd >= 0) {
		close(fd);
		return dir->fd;
	}
	dir->fd = fd;
	DL_PREPEND(t->dirs, dir);
	t->dir_count++;
	for (old = t->dirs->prev; t->dir_count > t->dir_max && tries-- > 0 && old != t->dirs; old = prev) {
		prev = old->prev;
		if (old->users == 0)
			close_dir(t, old);
	}
	return fd;
}

struct inode *inode_enter(struct inode_table *t, struct inode *parent, const char *name, const struct stat *st, const struct vault_dir *rec, int fd)
{
	struct inode *inode;

	lock(t);
	inode = find_back(t, st);
	if (inode && inode->type != (st->st_mode & S_IFMT)) {
		leave_back(t, inode); /* the number is used again by something else */
		inode = NULL;
	}
	if (!inode)
		inode = make(t, st, rec);
	else if (inode->dir) {
		if (!alias_at(inode, parent, name))
			drop_aliases(t, inode);
		inode->dir->rec = *rec;
	}
	if (inode && parent && add_alias(inode, parent, name) < 0) {
		maybe_free(t, inode);
		inode = NULL;
	}
	if (inode) {
		inode->nlookup++;
		inode->refs++;
		if (fd >= 0)
			give_dir(t, inode->dir, fd);
	} else if (fd >= 0)
		close(fd);
	unlock(t);
	return inode;
}

void inode_forget(struct inode_table *t, uint64_t nodeid, uint64_t n)
{
	struct inode *inode;

	lock(t);
	inode = find_node(t, nodeid);
	if (inode && inode != t->root) {
		inode->nlookup -= n < inode->nlookup ? n : inode->nlookup;
		maybe_free(t, inode);
	}
	unlock(t);
}

int inode_alias_add(struct inode_table *t, struct inode *inode, struct inode *parent, const char *name)
{
	int r;

	lock(t);
	r = add_alias(inode, parent, name);
	unlock(t);
	return r;
}

bool inode_alias_drop(struct inode_table *t, struct inode *inode, struct inode *parent, const char *name)
{
	struct inode_alias **at, *alias;

	lock(t);
	at = alias_at(inode, parent, name);
	if (at) {
		alias = *at;
		*at = alias->next;
		free(alias);
		parent->refs--;
		maybe_free(t, parent);
	}
	unlock(t);
	return at != NULL;
}

unsigned inode_alias_count(struct inode_table *t, const struct inode *inode)
{
	const struct inode_alias *alias;
	unsigned n = 0;

	lock(t);
	for (alias = inode->aliases; alias; alias = alias->next)
		n++;
	unlock(t);
	return n;
}

unsigned inode_count(struct inode_table *t)
{
	unsigned n;

	lock(t);
	n = HASH_CNT(by_node, t->by_node);
	unlock(t);
	return n;
}

void inode_gone(struct inode_table *t, struct inode *inode)
{
	lock(t);
	leave_back(t, inode);
	if (inode->dir && inode->dir->fd >= 0)
		inode->dir->users++; /* keeps the fd of a removed directory that somebody may still be in */
	unlock(t);
}

void inode_retire(struct inode_table *t, struct inode *inode)
{
	lock(t);
	leave_back(t, inode);
	inode->stale = true;
	unlock(t);
}

bool inode_stale(struct inode_table *t, const struct inode *inode)
{
	bool stale;

	lock(t);
	stale = inode->stale;
	unlock(t);
	return stale;
}

void inode_pin(struct inode_table *t, struct inode *inode, int fd)
{
	lock(t);
	if (inode->pin < 0) {
		inode->pin = fd;
		t->pins++;
		fd = -1;
	}
	unlock(t);
	if (fd >= 0)
		close(fd);
}

int inode_pin_dup(struct inode_table *t, const struct inode *inode)
{
	int fd = -EBADF;

	lock(t);
	if (inode->pin >= 0) {
		fd = fcntl(inode->pin, F_DUPFD_CLOEXEC, 0);
		if (fd < 0)
			fd = -errno;
	}
	unlock(t);
	return fd;
}

void inode_unpin(struct inode_table *t, struct inode *inode)
{
	int fd;

	lock(t);
	fd = inode->pin;
	inode->pin = -1;
	if (fd >= 0)
		t->pins--;
	unlock(t);
	if (fd >= 0)
		close(fd);
}

bool inode_pin_room(struct inode_table *t)
{
	bool room;

	lock(t);
	room = t->pins < t->pin_max;
	unlock(t);
	return room;
}

int inode_alias_get(struct inode_table *t, struct inode *inode, struct inode **parent, char *name)
{
	int r = -ESTALE;

	lock(t);
	if (inode->aliases) {
		*parent = inode->aliases->parent;
		(*parent)->refs++;
		strcpy(name, inode->aliases->name);
		r = 0;
	}
	unlock(t);
	return r;
}

bool inode_bare(struct inode_table *t, const struct inode *inode, uint64_t *look)
{
	bool bare;

	pthread_mutex_lock(&t->lock);
	bare = inode->bare;
	*look = t->xattr_changes;
	pthread_mutex_unlock(&t->lock);
	return bare;
}

void inode_bare_set(struct inode_table *t, struct inode *inode, uint64_t look)
{
	pthread_mutex_lock(&t->lock);
	if (look == t->xattr_changes)
		inode->bare = true;
	pthread_mutex_unlock(&t->lock);
}

void inode_bare_end(struct inode_table *t, struct inode *inode)
{
	pthread_mutex_lock(&t->lock);
	inode->bare = false;
	t->xattr_changes++;
	pthread_mutex_unlock(&t->lock);
}

void inode_path(struct inode_table *t, struct inode *inode, const char *name, char *ret, size_t cap)
{
	size_t at = cap - 1, len;
	const char *part = name;
	int parts = 0;

	ret[at] = '\0';
	lock(t);
	while (part || inode != t->root) {
		if (!part) {
			if (!inode->aliases || ++parts > PATH_PARTS)
				break;
			part = inode->aliases->name;
			inode = inode->aliases->parent;
		}
		len = strlen(part);
		if (len + 1 > at)
			break;
		at -= len;
		memcpy(ret + at, part, len);
		ret[--at] = '/';
		part = NULL;
	}
	unlock(t);
	if (ret[at] == '\0')
		ret[--at] = '/';
	memmove(ret, ret + at, cap - at);
}

void inode_rec(struct inode_table *t, const struct inode *dir, struct vault_dir *ret)
{
	lock(t);
	*ret = dir->dir->rec;
	unlock(t);
}

void inode_rec_set(struct inode_table *t, struct inode *dir, const struct vault_dir *rec)
{
	lock(t);
	dir->dir->rec = *rec;
	unlock(t);
}

void inode_zone(struct inode_table *t, const uint8_t *dir_id, const uint8_t *zone)
{
	struct inode *inode;

	lock(t);
	for (inode = t->by_node; inode; inode = inode->by_node.next)
		if (inode->dir && !memcmp(inode->dir->rec.id, dir_id, BASE_ID_SIZE)) {
			memcpy(inode->dir->rec.zone, zone, BASE_ID_SIZE);
			inode->dir->rec.generation++;
		}
	unlock(t);
}

int inode_dir_use(struct inode_table *t, struct inode *dir)
{
	int fd;

	lock(t);
	fd = dir->dir->fd;
	if (fd >= 0) {
		dir->dir->users++;
		if (dir != t->root && dir->dir != t->dirs) {
			DL_DELETE(t->dirs, dir->dir);
			DL_PREPEND(t->dirs, dir->dir);
		}
	}
	unlock(t);
	return fd;
}

int inode_dir_give(struct inode_table *t, struct inode *dir, int fd)
{
	lock(t);
	fd = give_dir(t, dir->dir, fd);
	dir->dir->users++;
	unlock(t);
	return fd;
}

void inode_dir_unuse(struct inode_table *t, struct inode *dir)
{
	lock(t);
	dir->dir->users--;
	unlock(t);
}
