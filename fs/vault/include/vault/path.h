/*
 * vault/path.h: clear paths and backing paths of one vault. Reads records and side records from disk; blocks; thread-safe.
 */
#ifndef VAULT_PATH_H
#define VAULT_PATH_H

#include "vault/dir.h"

/* What an entry's backing name looks like; says nothing about whether it authenticates. */
enum vault_name_kind { VAULT_NAME_ENTRY, VAULT_NAME_SIDE, VAULT_NAME_TEMP, VAULT_NAME_FOREIGN };
enum vault_name_kind vault_name_kind(const char *entry);

/*
 * vault_resolve(v, clear_path, backing, cap): absolute backing path of a clear path relative to the vault's root ("" and "/" are the root; slashes
 * at its ends are fine). The last component must exist. -ENOENT, -ENOTDIR, -EINVAL for `..`, -ENAMETOOLONG, -EBADMSG.
 * This is what a mount's locate function calls.
 */
int vault_resolve(struct vault *v, const char *clear_path, char *backing, size_t cap);

/* vault_clear(v, relative, ret, cap): the clear path ("/a/b", root "/") of a backing path relative to the vault's root. -EBADMSG, -ENOENT. */
int vault_clear(struct vault *v, const char *relative, char *ret, size_t cap);

/* vault_open_path(root_fd, relative, flags): openat(2) without a limit on the length of the path; no component may be a symlink. "" is root_fd's
 * directory. An fd or -errno. */
int vault_open_path(int root_fd, const char *relative, int flags);

/* vault_open_file(dirfd, name, flags): open a backing file for work on its header, whatever its mode says to its owner (whom this process must be);
 * the mode stays as it was. No symlinks, no FIFO blocks. vault_open_file_at: the same for a path as vault_open_path takes it. An fd or -errno. */
int vault_open_file(int dirfd, const char *name, int flags);
int vault_open_file_at(int root_fd, const char *relative, int flags);

#endif
