/*
 * vault/dir.h: directory records (fs/FORMAT.md, "Directories"). Thread-safe; callers serialise changes of one directory.
 */
#ifndef VAULT_DIR_H
#define VAULT_DIR_H

#include "vault/name.h"

struct vault_dir {
	uint64_t generation;
	uint8_t id[BASE_ID_SIZE];
	uint8_t zone[BASE_ID_SIZE];    /* key id for files made here */
	uint8_t parent[BASE_ID_SIZE];
	uint8_t parent2[BASE_ID_SIZE]; /* zero but while a rename is under way */
};

/* vault_dir_read(v, dirfd, parent_id, ret): dirfd is the directory itself. parent_id NULL: do not check the parent (root, fsck). -EBADMSG: no
 * authentic record, or it names another parent. Missing record: -EBADMSG too. */
int vault_dir_read(struct vault *v, int dirfd, const uint8_t *parent_id, struct vault_dir *ret);
/* vault_dir_write(v, dirfd, dir, sync): replaces the record (generation + 1 is stored and set in dir) atomically by a tmp. file and rename;
 * sync: fdatasync it first. */
int vault_dir_write(struct vault *v, int dirfd, struct vault_dir *dir, bool sync);

/* vault_dir_make(v, parentfd, parent, name, mode, uid, gid, ret, ret_fd): mkdir as FORMAT.md says; uid/gid (uid_t)-1: leave alone. mode is final
 * (umask applied by the caller; the parent's setgid bit and default ACL are honoured by the backing filesystem for the group when gid is -1).
 * ret_fd: O_RDONLY | O_DIRECTORY of the new directory, may be NULL. -EEXIST. */
int vault_dir_make(struct vault *v, int parentfd, const struct vault_dir *parent, const struct vault_name *name, mode_t mode, uid_t uid,
		   gid_t gid, struct vault_dir *ret, int *ret_fd);

/* vault_dir_inherits(dirfd): it has a default ACL: what is made in it inherits that, and no umask applies. dirfd may be O_PATH. */
bool vault_dir_inherits(int dirfd);

/* vault_dir_remove(v, parentfd, name): rmdir as FORMAT.md says. -ENOTEMPTY when it has entries other than its record, tmp. leftovers and orphaned
 * side records, which are removed with it. -ENOTDIR, -ENOENT. */
int vault_dir_remove(struct vault *v, int parentfd, const struct vault_name *name);
/* vault_dir_empty(dirfd): 0, -ENOTEMPTY or another -errno. */
int vault_dir_empty(int dirfd);

/* vault_dir_move(v, dirfd, dir, new_parent_id, phase): record work of a rename to another parent: phase 0 before (second parent set, fdatasync),
 * 1 after success (parent = new), -1 after failure (second parent cleared). */
int vault_dir_move(struct vault *v, int dirfd, struct vault_dir *dir, const uint8_t new_parent_id[BASE_ID_SIZE], int phase);

/* Sealed user xattrs. id and keys of a directory; files have their own in file.h. name is without "user."; value buffers as getxattr(2).
 * Shared by both through struct vault_xattr_key, see vault/xattr.h. */

#endif
