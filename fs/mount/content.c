#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <utlist.h>

#include "base/clock.h"
#include "content.h"
#include "mount.h"
#include "resolve.h"

/* The inode's content with one more user; made when there is none. */
static struct content *attach(struct mount *m, struct inode *inode)
{
	struct inode_table *t = &m->table;
	struct content *c;

	pthread_mutex_lock(&t->lock);
	c = inode->content;
	if (!c) {
		c = calloc(1, sizeof *c);
		if (c) {
			pthread_mutex_init(&c->lock, NULL);
			c->inode = inode;
			inode->refs++;
			inode->content = c;
			DL_APPEND(t->contents, c);
		}
	}
	if (c)
		c->users++;
	pthread_mutex_unlock(&t->lock);
	return c;
}

static void detach(struct mount *m, struct content *c)
{
	struct inode_table *t = &m->table;
	struct inode *inode = NULL;

	pthread_mutex_lock(&t->lock);
	if (--c->users == 0) {
		inode = c->inode;
		inode->content = NULL;
		DL_DELETE(t->contents, c);
	}
	pthread_mutex_unlock(&t->lock);
	if (!inode)
		return;
	pthread_mutex_destroy(&c->lock);
	free(c);
	inode_put(t, inode);
}

/* Read-write where it can be: the writeback cache reads what it writes around, and sealing needs it. */
static int open_backing(struct mount *m, struct inode *inode, bool write)
{
	int fd = -EROFS;

	if (!(m->options.flags & MS_RDONLY))
		fd = resolve_open(m, inode, O_RDWR);
	if ((fd == -EACCES || fd == -EROFS || fd == -EPERM || fd == -ETXTBSY) && !write)
		fd = resolve_open(m, inode, O_RDONLY);
	return fd;
}

static int open_first(struct mount *m, struct content *c, const struct kms_caller *caller, const char *path, bool write)
{
	struct vault_file *file;
	int fd = open_backing(m, c->inode, write), r;

	if (fd < 0)
		return fd;
	r = vault_file_open(m->vault, caller, path, fd, write, &file);
	if (r < 0)
		return r;
	if (vault_file_resized(file)) {
		inode_retire(&m->table, c->inode);
		vault_file_free(file);
		return -ESTALE;
	}
	atomic_store(&c->file, file);
	return 0;
}

int content_open(struct mount *m, struct inode *inode, const struct kms_caller *caller, bool write, struct content **ret)
{
	struct content *c = attach(m, inode);
	char path[PATH_MAX];
	int r;

	if (!c)
		return -ENOMEM;
	inode_path(&m->table, inode, NULL, path, sizeof path);
	pthread_mutex_lock(&c->lock);
	if (inode_stale(&m->table, inode))
		r = -ESTALE;
	else if (c->opens == 0)
		r = open_first(m, c, caller, path, write);
	else
		r = vault_file_grant(atomic_load(&c->file), caller, path, write);
	if (r == 0) {
		c->opens++;
		c->writers += write;
	}
	pthread_mutex_unlock(&c->lock);
	if (r < 0)
		detach(m, c);
	else
		*ret = c;
	return r;
}

int content_adopt(struct mount *m, struct inode *inode, struct vault_file *file, struct content **ret)
{
	struct content *c = attach(m, inode);

	if (!c) {
		vault_file_release(file, true);
		vault_file_free(file);
		return -ENOMEM;
	}
	pthread_mutex_lock(&c->lock);
	atomic_store(&c->file, file);
	c->opens = c->writers = 1;
	pthread_mutex_unlock(&c->lock);
	*ret = c;
	return 0;
}

void content_close(struct mount *m, struct content *c, bool write)
{
	struct vault_file *file;

	pthread_mutex_lock(&c->lock);
	file = atomic_load(&c->file);
	vault_file_release(file, write);
	c->writers -= write;
	if (--c->opens == 0) {
		atomic_store(&c->file, NULL);
		vault_file_free(file);
	}
	pthread_mutex_unlock(&c->lock);
	detach(m, c);
}

struct vault_file *content_file(const struct content *c)
{
	return atomic_load(&((struct content *)c)->file);
}

bool content_written(struct content *c)
{
	bool written;

	pthread_mutex_lock(&c->lock);
	written = c->writers > 0;
	pthread_mutex_unlock(&c->lock);
	return written;
}

/* The content of an inode if it has one, with one more user. */
static struct content *hold(struct mount *m, struct inode *inode)
{
	struct content *c;

	pthread_mutex_lock(&m->table.lock);
	c = inode->content;
	if (c)
		c->users++;
	pthread_mutex_unlock(&m->table.lock);
	return c;
}

bool content_size(struct mount *m, struct inode *inode, uint64_t *ret)
{
	struct content *c = hold(m, inode);
	bool open;

	if (!c)
		return false;
	pthread_mutex_lock(&c->lock);
	open = c->opens > 0;
	if (open)
		*ret = vault_file_size(atomic_load(&c->file));
	pthread_mutex_unlock(&c->lock);
	detach(m, c);
	return open;
}

int content_link(struct mount *m, struct inode *inode, int dirfd, const struct vault_dir *rec, const struct vault_name *name)
{
	struct content *c = hold(m, inode);
	uint8_t zone[BASE_ID_SIZE];
	int r = -ENOENT;

	if (!c)
		return r;
	pthread_mutex_lock(&c->lock);
	if (c->opens > 0) {
		vault_file_zone(atomic_load(&c->file), zone);
		r = memcmp(zone, rec->zone, BASE_ID_SIZE) ? -EXDEV : vault_file_link(atomic_load(&c->file), dirfd, name);
	}
	pthread_mutex_unlock(&c->lock);
	detach(m, c);
	return r;
}

void content_mtime(struct mount *m, struct inode *inode, const struct timespec *mtime)
{
	struct content *c = hold(m, inode);

	if (!c)
		return;
	pthread_mutex_lock(&c->lock);
	if (c->opens > 0)
		vault_file_mtime(atomic_load(&c->file), mtime);
	pthread_mutex_unlock(&c->lock);
	detach(m, c);
}

/* The content after `after` in the list (NULL: the first), with one more user. */
static struct content *next_content(struct mount *m, struct content *after)
{
	struct content *c;

	pthread_mutex_lock(&m->table.lock);
	c = after ? after->next : m->table.contents;
	if (c)
		c->users++;
	pthread_mutex_unlock(&m->table.lock);
	return c;
}

void content_idle(struct mount *m)
{
	struct content *c = next_content(m, NULL), *next;

	while (c) {
		if (pthread_mutex_trylock(&c->lock) == 0) {
			if (c->opens > 0)
				vault_file_idle(atomic_load(&c->file), base_clock_mono_ns());
			pthread_mutex_unlock(&c->lock);
		}
		next = next_content(m, c);
		detach(m, c);
		c = next;
	}
}

void content_drop_all(struct mount *m)
{
	struct content *c = next_content(m, NULL), *next;

	while (c) {
		unsigned opens = c->opens;

		next = next_content(m, c);
		if (opens > 0) {
			vault_file_free(atomic_load(&c->file));
			atomic_store(&c->file, NULL);
			c->opens = 0;
		}
		while (opens-- > 0)
			detach(m, c);
		detach(m, c);
		c = next;
	}
}
