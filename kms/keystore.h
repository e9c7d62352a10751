/*
 * kms/keystore.h: the keystore directory, and the HSM's configuration that follows from it.
 */
#ifndef KMS_KEYSTORE_H
#define KMS_KEYSTORE_H

#include "hsm/hsm.h"
#include "internal.h"

#define KMS_STORE_FILE "keystore.db"
#define KMS_LOCK_FILE "lock"

struct kms_hsm_paths {
	char token_dir[PATH_MAX + 16], conf_path[PATH_MAX + 32];
};

/* kms_keystore_hsm(dir, conf, pin, paths, ret): ret points into conf, pin and paths. */
void kms_keystore_hsm(const char *dir, const struct kms_conf *conf, struct kms_pin *pin, struct kms_hsm_paths *paths,
		      struct hsm_config *ret);

/* kms_core_open_as(..., making, ...): kms_core_open; making: the database is fresh and gets its audit key. */
int kms_core_open_as(const char *dir, const struct kms_prompt *prompt, unsigned flags, bool making, struct kms_core **ret,
		     struct base_error *err);

#endif
