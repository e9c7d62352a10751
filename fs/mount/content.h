/*
 * fs/mount/content.h: open regular files: one struct vault_file per inode, shared by all of its handles.
 */
#ifndef MOUNT_CONTENT_H
#define MOUNT_CONTENT_H

#include <stdatomic.h>

#include "inode.h"
#include "vault/file.h"

struct mount;

struct content {
	struct content *prev, *next;        /* the table's list (its lock) */
	struct inode *inode;                /* held */
	unsigned users;                     /* opens, and operations between; guarded by the table's lock */
	pthread_mutex_t lock;               /* serialises first open, last release and idle sealing. Before the tree lock. */
	struct vault_file *_Atomic file;    /* set while opens > 0 */
	unsigned opens, writers;            /* guarded by lock */
};

/*
 * content_open(m, inode, caller, write, ret): decided, recorded and open; one more open. May ask the HSM: blocks.
 * content_adopt(m, inode, file, ret): a file just made by vault_file_create becomes the inode's open content; on failure file is freed.
 * content_close(m, c, write): ends an open.
 */
int content_open(struct mount *m, struct inode *inode, const struct kms_caller *caller, bool write, struct content **ret);
int content_adopt(struct mount *m, struct inode *inode, struct vault_file *file, struct content **ret);
void content_close(struct mount *m, struct content *c, bool write);

/* content_link(m, inode, dirfd, rec, name): vault_file_link of a file that has no name yet, in the directory of rec; -ENOENT: it is not open,
 * -EXDEV: another key's directory. */
int content_link(struct mount *m, struct inode *inode, int dirfd, const struct vault_dir *rec, const struct vault_name *name);

/* content_file(c): valid while the caller has it open. */
struct vault_file *content_file(const struct content *c);

/* content_written(c): somebody has it open for writing: the kernel may hold data that is not written yet. */
bool content_written(struct content *c);

/* content_mtime(m, inode, mtime): tells the open file, if there is one, as vault_file_mtime. */
void content_mtime(struct mount *m, struct inode *inode, const struct timespec *mtime);

/* content_size(m, inode, ret): the size of an open file, false when it is not open. */
bool content_size(struct mount *m, struct inode *inode, uint64_t *ret);

/* content_idle(m): seal what has been idle. content_drop_all(m): the session is over: whatever is still open ends. */
void content_idle(struct mount *m);
void content_drop_all(struct mount *m);

#endif
