/*
 * kms/conf.h: keystore.conf, an INI file. Sections and keys are in conf.c's table; all else is an error with its line.
 */
#ifndef KMS_CONF_H
#define KMS_CONF_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

#define KMS_CONF_FILE "keystore.conf"
#define KMS_CONF_TOKEN "keepfs" /* label of the embedded token */

enum kms_durability {
	KMS_DURABILITY_COMMIT = 0, /* every record is committed to the write-ahead log: survives SIGKILL */
	KMS_DURABILITY_FSYNC,      /* every record survives a power cut before the DEK is released */
	KMS_DURABILITY_BATCH,      /* records without a dirty row may wait a tenth of a second in memory */
};

struct kms_conf {
	char module[PATH_MAX];     /* empty: the embedded SoftHSM2 */
	char token[65];
	char serial[65];           /* empty: any token with the label */
	char pin_source[PATH_MAX]; /* empty: DIR/pin */
	char pin_salt[33];         /* hexadecimal, with pin-source = prompt and the embedded token */
	int64_t pin_cost;          /* log2 of scrypt's N, with pin_salt */
	int profile;               /* enum hsm_iv_mode */
	int durability;            /* enum kms_durability */
	int64_t dek_cache_ttl;     /* seconds; 0: no cache */
	int64_t dek_cache_size;    /* entries */
	int64_t pool_size;         /* pre-wrapped DEKs per vault and key; 0: no pool */
};

/* kms_conf_default(conf): what an empty file means. */
void kms_conf_default(struct kms_conf *conf);

/* kms_conf_read(dir, ret, err): -ENOENT no such file, -EINVAL (exit 1) with "keystore.conf:LINE: ..." . */
int kms_conf_read(const char *dir, struct kms_conf *ret, struct base_error *err);

/* kms_conf_write(dir, conf, err): make DIR/keystore.conf (0600, new, durable). */
int kms_conf_write(const char *dir, const struct kms_conf *conf, struct base_error *err);

#endif
