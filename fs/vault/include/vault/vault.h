/*
 * vault/vault.h: a vault (cipher directory), its config and keys. fs/FORMAT.md is the specification.
 */
#ifndef VAULT_VAULT_H
#define VAULT_VAULT_H

#include <sys/types.h>

#include "kms/kms.h"

#define VAULT_CONFIG_NAME "keepfs.vault"
#define VAULT_RECORD_NAME "keepfs.dir"

struct vault;

/*
 * vault_create(core, caller, path, key_name, ret_id, err): make path a vault (it is made, or must be an empty directory: else -ENOTEMPTY,
 * nothing is touched). Registers it with core, makes the vault key, writes config and root record, all durable. key_name: zone key
 * of the root directory, must exist (-ENOENT). Undoes itself on failure.
 */
int vault_create(struct kms_core *core, const struct kms_caller *caller, const char *path, const char *key_name,
		 uint8_t ret_id[BASE_ID_SIZE], struct base_error *err);

/*
 * vault_open(core, caller, path, ret, err): read and check the config, unwrap the vault key (recorded). -ENOTDIR / -ENOENT no such
 * directory; -EINVAL not a vault; -ENOENT with its own text: a vault of another keystore (exit 4); -EBADMSG config damaged, weakened or
 * rolled back (exit 6); -EBUSY another process has the vault open (an OFD lock on its config). One process may open one vault once:
 * a second vault_open gives -EBUSY, so a rewrap and a mount share one struct vault through vault_get.
 * vault_get(core, caller, path-or-NULL, vault_id, ret, err): the open vault with this id with one more reference, or opens it.
 * vault_get_as(core, caller, path, shared, ret, err): vault_get for a mount. shared: other processes that share may have the vault open too; files
 * are locked one by one then: readers together, or one writer.
 * vault_put(v): drops a reference; the last one closes. NULL is fine.
 */
int vault_open(struct kms_core *core, const struct kms_caller *caller, const char *path, struct vault **ret, struct base_error *err);
int vault_get(struct kms_core *core, const struct kms_caller *caller, const char *path, const uint8_t *vault_id, struct vault **ret,
	      struct base_error *err);
int vault_get_as(struct kms_core *core, const struct kms_caller *caller, const char *path, bool shared, struct vault **ret, struct base_error *err);
void vault_put(struct vault *v);

struct kms_core *vault_core(const struct vault *v);
const uint8_t *vault_id(const struct vault *v);
const uint8_t *vault_root_dir_id(const struct vault *v);
int vault_root_fd(const struct vault *v);    /* O_RDONLY | O_DIRECTORY, the vault's own */
const char *vault_path(const struct vault *v); /* absolute backing path */

/*
 * Three locks of a vault that the mount shares with rewrap, census and fsck:
 * vault_header_lock(v, ino)/unlock: striped mutex over backing inode numbers: guards the read-modify-write of a file's wrap slots and of its
 * times (futimens after a header write). Leaf lock: nothing but live.h's mutex is taken under it.
 * vault_names_read/write: rwlock: renames and links across directories hold it for reading, a census scan for writing.
 * vault_half_begin/end: shared: between the two, something half made or half removed may stand in a directory: tmp. files, an entry or a side
 * record without the other. Does not nest. vault_half_exclude(v), ended by vault_half_end as well: what looks half made now is a leftover; fsck
 * takes vault_names_wrlock before it, for renames and links, which do not begin a half of their own.
 */
void vault_header_lock(struct vault *v, ino_t ino);
void vault_header_unlock(struct vault *v, ino_t ino);
void vault_names_rdlock(struct vault *v);
void vault_names_wrlock(struct vault *v);
void vault_names_unlock(struct vault *v);
void vault_half_begin(struct vault *v);
void vault_half_exclude(struct vault *v);
void vault_half_end(struct vault *v);

/* vault_set_strict(v, on): Rule D for every block, not only the last (fs/FORMAT.md, Write block). */
void vault_set_strict(struct vault *v, bool on);

/* vault_set_verify(v, on): every tag page of a file is verified when it is opened, whatever its size (fs/FORMAT.md, Open). */
void vault_set_verify(struct vault *v, bool on);

/* vault_api_add(core): registers the routes of this room (vaults, rewrap, files, directories) and the census scan. */
int vault_api_add(struct kms_core *core);

/*
 * A mount tells this room how to find itself, so that `file show` and rewrap understand paths inside a mountpoint:
 * fn(ctx, abs_path, backing, cap): writes the backing path of a clear path inside a mountpoint; -ENOENT when no mount has it.
 * zone_fn(ctx, vault, dir_id, zone): the directory's zone was changed on disk. NULL until a mount sets it.
 */
typedef int (*vault_locate_fn)(void *ctx, const char *abs_path, struct vault **vault, char *backing, size_t cap);
typedef void (*vault_zone_fn)(void *ctx, struct vault *v, const uint8_t dir_id[BASE_ID_SIZE], const uint8_t zone[BASE_ID_SIZE]);
void vault_api_mounts(vault_locate_fn locate, vault_zone_fn zone, void *ctx);

#endif
