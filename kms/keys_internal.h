/*
 * kms/keys_internal.h: the mirror's structure, for keys*.c alone.
 */
#ifndef KMS_KEYS_INTERNAL_H
#define KMS_KEYS_INTERNAL_H

#include "keys.h"

struct kms_keys {
	pthread_mutex_t admin;  /* one creation, rotation or deletion at a time, from its checks to the change of the mirror */
	pthread_rwlock_t lock;  /* guards the hashes, the keys and versions in them (versions' `files` are atomic) */
	struct kms_key *by_id, *by_name;
	size_t count;
};

/* The lock is held, for writing where something changes. */
struct kms_key *kms_keys_by_id(struct kms_keys *keys, const uint8_t id[BASE_ID_SIZE]);
struct kms_key *kms_keys_by_name(struct kms_keys *keys, const char *name);
struct kms_version *kms_key_version(struct kms_key *key, uint32_t number);
void kms_keys_insert(struct kms_keys *keys, struct kms_key *key);
void kms_key_free(struct kms_key *key);

#endif
