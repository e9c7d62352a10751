/*
 * vault/file.h: the content of a file: create, open, read, write, truncate, seal, recover (fs/FORMAT.md, "Algorithms").
 *
 * One struct vault_file per backing inode that has its DEK in memory, shared by all handles. Internally locked: any number of threads may call any
 * function on one file, but for vault_file_free. Different files share no lock but the pool of keyed cipher contexts.
 * I/O errors: -EIO for anything that does not authenticate (logged with the file's id and block, and audited once per file), other -errno as
 * from the backing filesystem. kms errors as in kms.h.
 */
#ifndef VAULT_FILE_H
#define VAULT_FILE_H

#include <sys/stat.h>

#include "vault/dir.h"
#include "vault/xattr.h"

struct vault_file;

/*
 * vault_file_create(v, caller, path, dirfd, dir, mode, uid, gid, ret): a new file under the directory's zone key, in a nameless (O_TMPFILE) or `tmp.`
 * backing file, with the given final mode and owner ((uid_t)-1: leave alone); open for reading and writing, in the dirty set, one writer
 * counted. A default ACL of dirfd is inherited, and then narrows mode. path: clear path for the record.
 * vault_file_nameless(f): whether the backing file has no name at all; before the first vault_file_link.
 * vault_file_link(f, dirfd, name): give it its first name (side record first); -EEXIST and others leave it nameless. Ends the key lease; without a
 * success vault_file_free does.
 */
int vault_file_create(struct vault *v, const struct kms_caller *caller, const char *path, int dirfd, const struct vault_dir *dir, mode_t mode,
		      uid_t uid, gid_t gid, struct vault_file **ret);
bool vault_file_nameless(const struct vault_file *f);
int vault_file_link(struct vault_file *f, int dirfd, const struct vault_name *name);

/*
 * vault_file_open(v, caller, path, fd, write, ret): fd is the backing file, opened O_RDWR (O_RDONLY when the vault's filesystem refuses and write is
 * false); taken over on success and on failure. Decides, records, unwraps, checks commitment, state, size, tags; recovers a file of a crashed session.
 * vault_file_grant(f, caller, path, write): another open of the same file: decides and records only; -EBADF when write is asked on an fd that is read-only.
 * vault_file_release(f, write): the end of one open; with the last writer seals CLEAN. Errors are logged (data was written before).
 * vault_file_free(f): no opens are left. Wipes. Seals CLEAN if it still can. NULL is fine.
 */
int vault_file_open(struct vault *v, const struct kms_caller *caller, const char *path, int fd, bool write, struct vault_file **ret);
int vault_file_grant(struct vault_file *f, const struct kms_caller *caller, const char *path, bool write);
void vault_file_release(struct vault_file *f, bool write);
void vault_file_free(struct vault_file *f);

/* vault_file_read: bytes read, 0 at the end; holes are zeros. vault_file_write: all of len or -errno; extends; off + len <= VAULT_FILE_MAX else -EFBIG. */
#define VAULT_FILE_MAX ((uint64_t)1 << 43)
ssize_t vault_file_read(struct vault_file *f, void *buf, size_t len, uint64_t off);
int vault_file_write(struct vault_file *f, const void *buf, size_t len, uint64_t off);
int vault_file_truncate(struct vault_file *f, uint64_t size);
/* vault_file_punch(f, off, len): zeros in [off, off + len), inside the size; entries emptied and pages freed. */
int vault_file_punch(struct vault_file *f, uint64_t off, uint64_t len);
/* vault_file_seek(f, off, data): next data (true) or hole (false) at or after off, for SEEK_DATA / SEEK_HOLE; -ENXIO. */
int64_t vault_file_seek(struct vault_file *f, uint64_t off, bool data);

/* vault_file_sync(f, datasync): everything written so far survives a power cut on return, and the dirty set too. */
int vault_file_sync(struct vault_file *f, bool datasync);
/* vault_file_idle(f, now_ns): seal CLEAN when two seconds passed since the last write; called by the mount's timer. True when it is clean now. */
bool vault_file_idle(struct vault_file *f, uint64_t now_ns);

/* vault_file_mtime(f, mtime): the kernel, whose writeback cache owns mtime, has set it; cached writes that come after do not change it, so the
 * next seal puts it back. NULL: the backing file's own counts again. */
void vault_file_mtime(struct vault_file *f, const struct timespec *mtime);

/* vault_file_resized(f): opening it recovered it, and its size is not the one that the backing file's size told before. */
bool vault_file_resized(const struct vault_file *f);

int vault_file_fd(const struct vault_file *f);
uint64_t vault_file_size(struct vault_file *f);
const uint8_t *vault_file_id(const struct vault_file *f);
/* vault_file_xattr(f, ret): key of its xattrs, valid while f is; 0 or -ENOMEM. */
int vault_file_xattr(struct vault_file *f, struct vault_xattr *ret);
/* vault_file_zone(f, ret): key id that wrapped its DEK when it was opened or made. A move into another zone (move.h) is seen in its header only. */
void vault_file_zone(const struct vault_file *f, uint8_t ret[BASE_ID_SIZE]);

#endif
