/* The walk over a backing directory. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <uthash.h>

#include "internal.h"
#include "walk.h"

/* A directory that is listed or waits for it. Paths are not kept: a directory holds its parent, and its own name. */
struct vault_walk_dir {
	struct vault_walk_dir *parent;
	struct vault_walk_dir *next; /* waiting */
	unsigned refs;
	bool known;                  /* id and clear are good */
	uint8_t id[BASE_ID_SIZE];
	char *backing;               /* while it is listed */
	char *clear;                 /* clear name; "" for the root */
	char name[];
};

struct seen {
	struct {
		dev_t dev;
		ino_t ino;
	} key;
	UT_hash_handle hh;
};

struct run {
	struct vault_walk *w;
	struct vault_walk_dir *waiting;
	struct seen *seen; /* inodes with several names */
	const char *only;  /* the one file that the start names, in the first directory */
};

static struct vault_walk_dir *dir_new(struct vault_walk_dir *parent, const char *name)
{
	size_t len = strlen(name);
	struct vault_walk_dir *d = calloc(1, sizeof(*d) + len + 1);

	if (!d)
		return NULL;
	memcpy(d->name, name, len + 1);
	d->refs = 1;
	d->parent = parent;
	if (parent)
		parent->refs++;
	return d;
}

static void dir_put(struct vault_walk_dir *d)
{
	while (d && --d->refs == 0) {
		struct vault_walk_dir *parent = d->parent;

		free(d->backing);
		free(d->clear);
		free(d);
		d = parent;
	}
}

/* The chain of names from the root, joined: heap, NULL without memory. */
static char *join(const struct vault_walk_dir *d, const char *last, bool clear)
{
	const struct vault_walk_dir *i;
	size_t len = last ? strlen(last) : 0, at;
	char *text;

	for (i = d; i; i = i->parent)
		len += strlen(clear ? i->clear : i->name) + 1;
	text = malloc(len + 1);
	if (!text)
		return NULL;
	at = len;
	text[at] = '\0';
	if (last) {
		at -= strlen(last);
		memcpy(text + at, last, strlen(last));
		if (at)
			text[--at] = '/';
	}
	for (i = d; i && i->parent; i = i->parent) {
		const char *name = clear ? i->clear : i->name;

		at -= strlen(name);
		memcpy(text + at, name, strlen(name));
		if (at)
			text[--at] = '/';
	}
	/* The root's own name is empty and took one byte for its slash. */
	if (text[at] == '/')
		at++;
	memmove(text, text + at, len - at + 1);
	return text;
}

int vault_walk_clear(const struct vault_walk *w, const struct vault_walk_item *item, char *ret, size_t cap)
{
	char name[VAULT_NAME_MAX + 1], *path;
	int code;

	if (!w->names || !item->in || !item->in->known)
		return -EBADMSG;
	code = vault_name_open(w->names, item->dirfd, item->in->id, item->name, name);
	if (code < 0)
		return code == -ENOENT ? -EBADMSG : code;
	path = join(item->in, name, true);
	if (!path)
		return -ENOMEM;
	code = (size_t)snprintf(ret, cap, "/%s", path) < cap ? 0 : -ENAMETOOLONG;
	free(path);
	return code;
}

/* The directory's id and clear name, for the names below it. Files are found without. True: its record, which authenticates, is in *record. */
static bool learn(const struct vault_walk *w, struct vault_walk_dir *d, int fd, int parent_fd, struct vault_dir *record)
{
	char clear[VAULT_NAME_MAX + 1] = "";

	if (!w->names || d->known || (d->parent && !d->parent->known))
		return false;
	if (vault_dir_read(w->names, fd, d->parent ? d->parent->id : NULL, record) < 0)
		return false;
	if (d->parent && vault_name_open(w->names, parent_fd, d->parent->id, d->name, clear) < 0)
		return false;
	d->clear = strdup(clear);
	memcpy(d->id, record->id, BASE_ID_SIZE);
	d->known = d->clear != NULL;
	return d->known;
}

/* Second names of an inode are not reported. 1: seen before. */
static int seen_before(struct run *run, const struct stat *st)
{
	struct seen *s, key;

	if (st->st_nlink < 2)
		return 0;
	memset(&key, 0, sizeof(key));
	key.key.dev = st->st_dev;
	key.key.ino = st->st_ino;
	HASH_FIND(hh, run->seen, &key.key, sizeof(key.key), s);
	if (s)
		return 1;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->key.dev = st->st_dev;
	s->key.ino = st->st_ino;
	HASH_ADD(hh, run->seen, key, sizeof(s->key), s);
	return 0;
}

static int report(struct run *run, const char *backing, int code)
{
	if (code == -ENOENT || code == -ESTALE) {
		run->w->vanished = true;
		return 0;
	}
	return run->w->error ? run->w->error(run->w->ctx, backing, code) : 0;
}

static int visit_open(struct run *run, struct vault_walk_item *item)
{
	int code;

	item->fd = vault_open_file(item->dirfd, item->name, run->w->flags);
	if (item->fd < 0)
		return report(run, item->backing, item->fd);
	if (fstat(item->fd, &item->st) < 0)
		code = report(run, item->backing, -errno);
	else if (!S_ISREG(item->st.st_mode))
		code = 0;
	else if ((code = seen_before(run, &item->st)) == 0)
		code = run->w->file(run->w->ctx, item);
	else if (code == 1)
		code = 0;
	close(item->fd);
	return code;
}

static int visit_file(struct run *run, struct vault_walk_dir *d, int dirfd, const char *name)
{
	struct vault_walk_item item = { .in = d, .name = name, .dirfd = dirfd, .fd = -1 };
	size_t len = strlen(d->backing) + strlen(name) + 2;
	char *backing;
	int code;

	item.kind = vault_name_kind(name);
	if (item.kind == VAULT_NAME_SIDE || strcmp(name, VAULT_RECORD_NAME) == 0 || strcmp(name, VAULT_CONFIG_NAME) == 0)
		return 0;
	backing = malloc(len);
	if (!backing)
		return -ENOMEM;
	snprintf(backing, len, "%s%s%s", d->backing, *d->backing ? "/" : "", name);
	item.backing = backing;
	code = run->w->flags == -1 ? run->w->file(run->w->ctx, &item) : visit_open(run, &item);
	free(backing);
	return code;
}

static int visit(struct run *run, struct vault_walk_dir *d, int dirfd, const struct dirent *e)
{
	struct vault_walk_dir *sub;
	unsigned char type = e->d_type;
	struct stat st;

	if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 || (run->only && strcmp(run->only, e->d_name) != 0))
		return 0;
	if (type == DT_UNKNOWN) {
		if (fstatat(dirfd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			return report(run, e->d_name, -errno);
		type = S_ISDIR(st.st_mode) ? DT_DIR : S_ISREG(st.st_mode) ? DT_REG : DT_LNK;
	}
	if (type == DT_REG)
		return visit_file(run, d, dirfd, e->d_name);
	if (type != DT_DIR)
		return 0;
	sub = dir_new(d, e->d_name);
	if (!sub)
		return -ENOMEM;
	sub->next = run->waiting;
	run->waiting = sub;
	return 0;
}

static int list_fd(struct run *run, struct vault_walk_dir *d, int fd)
{
	DIR *dir = fdopendir(fd);
	struct dirent *e;
	int code = 0;

	if (!dir) {
		code = -errno;
		close(fd);
		return code;
	}
	while (code == 0 && (errno = 0, e = readdir(dir)))
		code = visit(run, d, dirfd(dir), e);
	if (code == 0 && errno)
		code = report(run, d->backing, -errno);
	closedir(dir);
	return code;
}

/* The directory's fd and its parent's (-1 at the root), from the root down. */
static int open_dir(const struct vault_walk *w, const struct vault_walk_dir *d, int *ret_parent)
{
	char *path = d->parent ? join(d->parent, NULL, false) : strdup("");
	int fd, parent;

	*ret_parent = -1;
	if (!path)
		return -ENOMEM;
	parent = vault_open_path(w->root_fd, path, O_RDONLY | O_DIRECTORY);
	free(path);
	if (parent < 0 || !d->parent)
		return parent;
	fd = openat(parent, d->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0) {
		fd = -errno;
		close(parent);
		return fd;
	}
	*ret_parent = parent;
	return fd;
}

static int enter(struct run *run, struct vault_walk_dir *d, int fd, int parent)
{
	struct vault_walk_item item = { .in = d->parent, .backing = d->backing, .name = d->name, .kind = VAULT_NAME_ENTRY, .dirfd = parent, .fd = fd };
	struct vault_dir record;
	bool known = learn(run->w, d, fd, parent, &record);

	return run->w->dir ? run->w->dir(run->w->ctx, &item, known ? &record : NULL) : 0;
}

static int list(struct run *run, struct vault_walk_dir *d)
{
	int parent, fd, code;

	d->backing = join(d, NULL, false);
	if (!d->backing)
		return -ENOMEM;
	fd = open_dir(run->w, d, &parent);
	if (fd < 0)
		return fd == -ENOMEM ? fd : report(run, d->backing, fd);
	code = enter(run, d, fd, parent);
	if (parent >= 0)
		close(parent);
	if (code == 0)
		code = list_fd(run, d, fd);
	else
		close(fd);
	if (code == 1)
		code = 0;
	free(d->backing);
	d->backing = NULL;
	return code;
}

/* The chain of directories down to the start; what the start's last component is decides whether one file or a subtree is walked. */
static int begin(struct run *run, char *start)
{
	struct vault_walk_dir *d = dir_new(NULL, ""), *sub;
	char *save = NULL, *name, *following;
	struct vault_dir record;
	struct stat st;
	int parent, fd, code = d ? 0 : -ENOMEM;

	for (name = strtok_r(start, "/", &save); d && code == 0 && name; name = following) {
		following = strtok_r(NULL, "/", &save);
		fd = open_dir(run->w, d, &parent);
		if (fd < 0) {
			code = fd;
			break;
		}
		(void)learn(run->w, d, fd, parent, &record);
		if (parent >= 0)
			close(parent);
		code = fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
		close(fd);
		if (code == 0 && !S_ISDIR(st.st_mode)) {
			code = following ? -ENOTDIR : 0;
			run->only = name;
			break;
		}
		sub = code == 0 ? dir_new(d, name) : NULL;
		if (code == 0 && !sub)
			code = -ENOMEM;
		dir_put(d);
		d = sub;
	}
	if (code < 0)
		dir_put(d);
	else
		run->waiting = d;
	return code;
}

int vault_walk(struct vault_walk *w)
{
	struct run run = { .w = w };
	struct vault_walk_dir *d;
	struct seen *s, *tmp;
	char *start = strdup(w->start ? w->start : "");
	int code = start ? begin(&run, start) : -ENOMEM;

	w->vanished = false;
	while ((d = run.waiting)) {
		run.waiting = d->next;
		if (code == 0)
			code = list(&run, d);
		run.only = NULL;
		dir_put(d);
	}
	HASH_ITER(hh, run.seen, s, tmp) {
		HASH_DEL(run.seen, s);
		free(s);
	}
	free(start);
	return code;
}
