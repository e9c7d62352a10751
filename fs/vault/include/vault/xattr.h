/*
 * vault/xattr.h: sealed user.* xattrs on a backing fd (fs/FORMAT.md, "Directories"). Thread-safe.
 */
#ifndef VAULT_XATTR_H
#define VAULT_XATTR_H

#include "base/crypto.h"
#include "vault/vault.h"

/* Key and identity that the xattrs of one file or directory are bound to. */
struct vault_xattr {
	const struct base_siv *siv;
	uint8_t id[BASE_ID_SIZE];
};

/* vault_xattr_dir(v, dir_id, ret): of a directory. */
void vault_xattr_dir(const struct vault *v, const uint8_t dir_id[BASE_ID_SIZE], struct vault_xattr *ret);

/* name is "user.NAME". get: value's size; size 0 asks for it; -ERANGE, -ENODATA, -EBADMSG. list: NUL-separated "user.NAME"s appended as listxattr(2).
 * set: flags XATTR_CREATE, XATTR_REPLACE; -E2BIG, -ENAMETOOLONG. fd: an open file or directory (not O_PATH).
 * vault_xattr_any(fd): 1 when it has sealed xattrs, 0 not, -errno. */
ssize_t vault_xattr_get(const struct vault_xattr *x, int fd, const char *name, void *value, size_t size);
ssize_t vault_xattr_list(const struct vault_xattr *x, int fd, char *list, size_t size);
int vault_xattr_set(const struct vault_xattr *x, int fd, const char *name, const void *value, size_t size, int flags);
int vault_xattr_remove(const struct vault_xattr *x, int fd, const char *name);
int vault_xattr_any(int fd);

/* vault_xattr_check(x, fd, ret, cap): how many user xattrs do not authenticate, name or value, or are none of ours; ret: the stored name of the first,
 * with '?' for what a shell would not take as it is. -errno. */
int vault_xattr_check(const struct vault_xattr *x, int fd, char *ret, size_t cap);

#endif
