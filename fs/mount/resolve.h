/*
 * fs/mount/resolve.h: from inodes and clear names to descriptors of the backing filesystem. Every step is an *at() call that follows no
 * symlink, and what it found is compared with the inode's (dev, ino).
 */
#ifndef MOUNT_RESOLVE_H
#define MOUNT_RESOLVE_H

#include <sys/mount.h>
#include <sys/stat.h>

#include "inode.h"
#include "vault/name.h"

struct mount;

/* A directory in use: fd stays open until resolve_done. */
struct resolve_dir {
	struct inode *inode; /* held */
	int fd;
	struct vault_dir rec;
};

/* A name in a directory in use. */
struct resolve_entry {
	struct resolve_dir dir;
	struct vault_name name;
};

/* resolve_dir(m, inode, ret): -ENOTDIR, -ESTALE. resolve_done(m, dir). */
int resolve_dir(struct mount *m, struct inode *inode, struct resolve_dir *ret);
void resolve_done(struct mount *m, struct resolve_dir *dir);

/* resolve_entry(m, parent, name, ret): a clear name in a directory, whether it exists or not; ends with resolve_done(m, &ret->dir).
 * resolve_node is the same by nodeid. */
int resolve_entry(struct mount *m, struct inode *parent, const char *name, struct resolve_entry *ret);
int resolve_node(struct mount *m, uint64_t parent, const char *name, struct resolve_entry *ret);

/* resolve_open(m, inode, flags): a new fd of an inode by its pin or one of its names; O_NOFOLLOW | O_CLOEXEC are added. -errno. */
int resolve_open(struct mount *m, struct inode *inode, int flags);
int resolve_stat(struct mount *m, struct inode *inode, struct stat *ret);

/* resolve_proc(fd, ret): "/proc/self/fd/N", the way to calls that take no O_PATH fd. */
#define RESOLVE_PROC 32
const char *resolve_proc(int fd, char ret[RESOLVE_PROC]);

/* resolve_lock / unlock: names hold still; rename takes it for writing. */
void resolve_rdlock(struct mount *m);
void resolve_wrlock(struct mount *m);
void resolve_unlock(struct mount *m);

/* The same as resolve_dir and resolve_entry for a caller that holds the tree lock. */
int resolve_dir_locked(struct mount *m, struct inode *inode, struct resolve_dir *ret);

/* resolve_subdir(m, dir, entry, ret_fd): opens a subdirectory of a directory in use; -errno. */
int resolve_subdir(const struct resolve_dir *dir, const char *entry);

#endif
