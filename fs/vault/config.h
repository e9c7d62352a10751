/*
 * fs/vault/config.h: keepfs.vault, the config of a vault (fs/FORMAT.md, "The config").
 */
#ifndef VAULT_CONFIG_H
#define VAULT_CONFIG_H

#include "object.h"

/* vault_config_peek(dirfd, ret_id): the vault id that the config in a directory claims. -ENOENT, -EBADMSG. */
int vault_config_peek(int dirfd, uint8_t ret_id[BASE_ID_SIZE]);

/* vault_config_load(v, caller, err): v has path, root_fd and id: opens and locks the config, unwraps, checks, fills config_fd, keys, state and
 * root_dir_id, and tells the core what moved. Blocks. */
int vault_config_load(struct vault *v, const struct kms_caller *caller, struct base_error *err);

/* vault_config_share(v, shared, err): from now on the vault is shared with others, or not. -EBUSY. */
int vault_config_share(struct vault *v, bool shared, struct base_error *err);

/* vault_config_check(v, caller, ret_leftover, err): the config of an open vault as it is on disk now, by all that vault_config_load checks. *ret_leftover:
 * the wrap slot that is not live is used. vault_config_erase(v): zeroes that slot, after the live one is durable. Both block. */
int vault_config_check(struct vault *v, const struct kms_caller *caller, bool *ret_leftover, struct base_error *err);
int vault_config_erase(struct vault *v);

/* vault_config_make(v, caller, key_id, dek, page, err): the first page of a new vault whose id and root_dir_id are set; fills v's keys. */
int vault_config_make(struct vault *v, const struct kms_caller *caller, const uint8_t key_id[BASE_ID_SIZE], const uint8_t *dek,
		      uint8_t page[VAULT_PAGE], struct base_error *err);

/* vault_config_rewrap(v, caller, only_key, err): the vault key under the current version. 1: moved, 0: was current (or is not under only_key,
 * which may be NULL: then *ret_counted is false), -errno. */
int vault_config_rewrap(struct vault *v, const struct kms_caller *caller, const uint8_t *only_key, bool *ret_counted, struct base_error *err);

#endif
