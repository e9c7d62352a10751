/*
 * fs/vault/small.h: whole small files (records, side records, the config) in one call.
 */
#ifndef VAULT_SMALL_H
#define VAULT_SMALL_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* vault_small_read(dirfd, name, buf, cap): bytes read (cap + 1 when the file is longer). -ENOENT; -EBADMSG: not a regular file. */
ssize_t vault_small_read(int dirfd, const char *name, void *buf, size_t cap);

/* vault_small_make(dirfd, name, buf, len, sync, uid, gid): a new file with mode 0600 (-EEXIST), fdatasynced when sync; uid and gid may be -1.
 * Removed again on failure. */
int vault_small_make(int dirfd, const char *name, const void *buf, size_t len, bool sync, uid_t uid, gid_t gid);

/* vault_small_replace(dirfd, name, buf, len, sync): the same by a tmp. file and rename; what was there keeps its owner. */
int vault_small_replace(int dirfd, const char *name, const void *buf, size_t len, bool sync);

#endif
