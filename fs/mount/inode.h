/*
 * fs/mount/inode.h: the inodes that the kernel knows, and their names.
 *
 * An inode is one object of the backing filesystem, (dev, ino). nodeids come from a counter and are never used again. An inode has
 * aliases, (parent, clear name) pairs, by which it is reached when no file descriptor is at hand. It lives while the kernel counts lookups
 * of it, while an operation holds it (inode_get), and while it is the parent of a living alias.
 */
#ifndef MOUNT_INODE_H
#define MOUNT_INODE_H

#include <pthread.h>
#include <stdbool.h>
#include <sys/stat.h>

#include <uthash.h>

#include "vault/dir.h"

#define INODE_ROOT 1

struct content;

struct inode_alias {
	struct inode_alias *next;
	struct inode *parent;
	char name[];
};

struct inode_key {
	uint64_t dev, ino;
};

/* What a directory has beyond other inodes. */
struct inode_dir {
	struct vault_dir rec;
	int fd;                    /* O_RDONLY (or O_PATH where we may not read it), -1: not open now */
	unsigned users;            /* operations that use fd; it is not closed meanwhile */
	struct inode_dir *prev, *next; /* the cache's list, while fd >= 0 */
};

struct inode {
	UT_hash_handle by_node;
	UT_hash_handle by_back;
	struct inode_key back;
	uint64_t nodeid;
	uint64_t nlookup;
	uint32_t refs;             /* operations, and aliases of children */
	uint32_t type;             /* S_IFMT bits; constant */
	bool bare;                 /* has no xattr of any kind, as of the last look */
	bool stale;                /* the kernel has another size of it than a recovery found: it must not be opened */
	bool gone;                 /* no longer in by_back: its number may be used again */
	int pin;                   /* O_PATH fd of an inode without a known name; closed when the inode ends; -1: none */
	struct inode_alias *aliases;
	struct inode_dir *dir;     /* directories only; constant */
	struct content *content;   /* regular files that are open (content.h) */
};

struct inode_table {
	pthread_mutex_t lock;      /* guards everything here and in the inodes but their constant fields; a leaf but for malloc */
	struct inode *by_node, *by_back;
	struct inode *root;
	struct content *contents;  /* all open ones */
	uint64_t next_node;
	struct inode_dir *dirs;    /* open directory fds, most recently used first */
	unsigned dir_count, dir_max;
	unsigned pins, pin_max;
	uint64_t xattr_changes;    /* counts them, so that a look that crossed one is not believed */
};

/* inode_table_init(t, root_fd, root): root_fd is borrowed (the vault's own). inode_table_done frees all that is left. */
int inode_table_init(struct inode_table *t, int root_fd, const struct vault_dir *root);
void inode_table_done(struct inode_table *t);

/* inode_get(t, nodeid): held, NULL when unknown. inode_put(t, inode): NULL is fine. */
struct inode *inode_get(struct inode_table *t, uint64_t nodeid);
void inode_put(struct inode_table *t, struct inode *inode);

/* inode_known(t, parent, name, st, ret): true when st is a directory we know under this name; ret gets its record. */
bool inode_known(struct inode_table *t, const struct inode *parent, const char *name, const struct stat *st, struct vault_dir *ret);

/*
 * inode_enter(t, parent, name, st, rec, fd): one more lookup of the inode that st describes, under this name; it is made when it is new. Held
 * as by inode_get. parent NULL: it has no name (yet). Directories: rec is its record; fd, when >= 0, is an open fd of it that is taken over. NULL:
 * out of memory.
 */
struct inode *inode_enter(struct inode_table *t, struct inode *parent, const char *name, const struct stat *st, const struct vault_dir *rec, int fd);
void inode_forget(struct inode_table *t, uint64_t nodeid, uint64_t n);

/* inode_count(t): inodes that the kernel knows, or that something here holds. */
unsigned inode_count(struct inode_table *t);

/* inode_find(t, st): the inode of this (dev, ino), held, or NULL. */
struct inode *inode_find(struct inode_table *t, const struct stat *st);

/*
 * Names. inode_alias_drop: true when it was there. inode_alias_count: known names. inode_gone(t, inode): the object is deleted on the backing
 * filesystem. inode_pin(t, inode, fd): fd is taken over (closed when there is one already). inode_pin_dup: a copy of it, -EBADF when there is none.
 * inode_unpin: it has a name again.
 */
int inode_alias_add(struct inode_table *t, struct inode *inode, struct inode *parent, const char *name);
bool inode_alias_drop(struct inode_table *t, struct inode *inode, struct inode *parent, const char *name);
unsigned inode_alias_count(struct inode_table *t, const struct inode *inode);
void inode_gone(struct inode_table *t, struct inode *inode);
void inode_pin(struct inode_table *t, struct inode *inode, int fd);
int inode_pin_dup(struct inode_table *t, const struct inode *inode);
void inode_unpin(struct inode_table *t, struct inode *inode);
bool inode_pin_room(struct inode_table *t);

/* inode_alias_get(t, inode, parent, name): one known name: the parent held, the name copied (VAULT_NAME_MAX + 1). -ESTALE: none. */
int inode_alias_get(struct inode_table *t, struct inode *inode, struct inode **parent, char *name);

/*
 * inode_retire(t, inode): recovery found another size than the kernel was told, which under the writeback cache it never takes back. Opens get
 * ESTALE, for which the kernel looks the name up again, and the name gets a new inode. inode_stale tells.
 */
void inode_retire(struct inode_table *t, struct inode *inode);
bool inode_stale(struct inode_table *t, const struct inode *inode);

/*
 * inode_bare(t, inode, look): true when it is known to have no xattrs; *look is for inode_bare_set, which is told that a list of them, read
 * since, was empty. inode_bare_end: before and after one is set.
 */
bool inode_bare(struct inode_table *t, const struct inode *inode, uint64_t *look);
void inode_bare_set(struct inode_table *t, struct inode *inode, uint64_t look);
void inode_bare_end(struct inode_table *t, struct inode *inode);

/* inode_path(t, inode, name, ret, cap): "/a/b", with name (may be NULL) appended; cut at the front when it is longer than cap. */
void inode_path(struct inode_table *t, struct inode *inode, const char *name, char *ret, size_t cap);

/* inode_rec(t, dir, ret): a copy of its record. inode_rec_set: after it changed. inode_zone: the zone of a directory id changed. */
void inode_rec(struct inode_table *t, const struct inode *dir, struct vault_dir *ret);
void inode_rec_set(struct inode_table *t, struct inode *dir, const struct vault_dir *rec);
void inode_zone(struct inode_table *t, const uint8_t *dir_id, const uint8_t *zone);

/*
 * The cache of directory fds. inode_dir_use(t, dir): its fd with one more user, -1 when it is not open. inode_dir_give(t, dir, fd): fd is taken
 * over and used once (when another was faster, that one is used and fd closed); returns the fd in use. inode_dir_unuse ends a use.
 */
int inode_dir_use(struct inode_table *t, struct inode *dir);
int inode_dir_give(struct inode_table *t, struct inode *dir, int fd);
void inode_dir_unuse(struct inode_table *t, struct inode *dir);

#endif
