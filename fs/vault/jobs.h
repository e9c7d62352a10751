/*
 * fs/vault/jobs.h: what the control API of this room does.
 */
#ifndef VAULT_JOBS_H
#define VAULT_JOBS_H

#include <limits.h>

#include "internal.h"

/* Where a path that a user typed leads. v holds a reference (vault_put). relative is the backing path below the vault's root, "" for the root. */
struct vault_target {
	struct vault *v;
	char relative[PATH_MAX];
};

/* vault_target_find(core, caller, path, ret, err): an absolute path in a mount or in a backing vault. The vault is opened when it is not. */
int vault_target_find(struct kms_core *core, const struct kms_caller *caller, const char *path, struct vault_target *ret, struct base_error *err);

/* vault_target_backing(path, ret, root_len, err): the same without opening a vault: absolute backing path and the length of the root's part. */
int vault_target_backing(const char *path, char ret[PATH_MAX], size_t *root_len, struct base_error *err);

/* vault_zone_changed: tells the mount, if there is one. */
void vault_zone_changed(struct vault *v, const uint8_t dir_id[BASE_ID_SIZE], const uint8_t zone[BASE_ID_SIZE]);

/* vault_job_lock: held by rewrap and fsck from begin to end: a second used wrap slot is work under way, or a leftover. Taken before all else. */
void vault_job_lock(void);
void vault_job_unlock(void);

/* Handlers, as kms.h's kms_handler_fn. */
int vault_fsck_handler(struct kms_core *core, void *ctx, struct kms_request *request, struct base_error *err);
int vault_rewrap_handler(struct kms_core *core, void *ctx, struct kms_request *request, struct base_error *err);
int vault_file_show_handler(struct kms_core *core, void *ctx, struct kms_request *request, struct base_error *err);
int vault_dir_show_handler(struct kms_core *core, void *ctx, struct kms_request *request, struct base_error *err);
int vault_dir_key_handler(struct kms_core *core, void *ctx, struct kms_request *request, struct base_error *err);
int vault_scrub_handler(struct kms_core *core, void *ctx, struct kms_request *request, struct base_error *err);

/* The census scan, as kms.h's kms_census_fn. */
int vault_census(void *ctx, const struct kms_vault *vault, kms_census_count_fn count, void *count_ctx, struct base_error *err);

/* vault_registered(core, ret, ret_count, err): a copy of the core's list, to be freed: what is done per vault must not run inside the core's lock. */
int vault_registered(struct kms_core *core, struct kms_vault **ret, size_t *ret_count, struct base_error *err);

/* vault_param(request, name): a string parameter, NULL when it is missing or no string. */
const char *vault_param(const struct kms_request *request, const char *name);

#endif
