/*
 * fs/vault/mkdir.h: what mkdir, rmdir and their kin share.
 */
#ifndef VAULT_MKDIR_H
#define VAULT_MKDIR_H

#include "vault/dir.h"

/* vault_dir_record_new(v, dirfd, dir, uid, gid): the first record of a directory (dir.c), durable. -EEXIST. */
int vault_dir_record_new(struct vault *v, int dirfd, struct vault_dir *dir, uid_t uid, gid_t gid);

/* vault_dir_store(v, dirfd, dir): vault_dir_write, durable, for a caller that excludes work under way (vault_half_exclude). */
int vault_dir_store(struct vault *v, int dirfd, struct vault_dir *dir);

/* vault_rename_new: renameat(2) that never replaces, also on filesystems without RENAME_NOREPLACE. -EEXIST. */
int vault_rename_new(int fromfd, const char *from, int tofd, const char *to);

/* vault_temp_remove(parentfd, temp): a `tmp.` directory with its record, side records and `tmp.` files. 0 when there is none. */
int vault_temp_remove(int parentfd, const char *temp);

#endif
