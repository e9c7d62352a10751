/*
 * kms/keys.h: keys and their versions: the mirror of the store that the hot path reads, and what changes it.
 */
#ifndef KMS_KEYS_H
#define KMS_KEYS_H

#include <jansson.h>
#include <stdatomic.h>
#include <uthash.h>

#include "internal.h"

/* Numbers of the store's columns: they never change meaning. */
enum kms_key_kind { KMS_KIND_ROOT = 1, KMS_KIND_VAULT = 2 };
enum kms_key_origin { KMS_ORIGIN_HSM = 1, KMS_ORIGIN_IMPORTED = 2 };
enum kms_key_state {
	KMS_STATE_PRE_ACTIVE = 1, KMS_STATE_PENDING_IMPORT, KMS_STATE_ACTIVE, KMS_STATE_SUSPENDED, KMS_STATE_DEACTIVATED,
	KMS_STATE_COMPROMISED, KMS_STATE_PENDING_DELETION, KMS_STATE_DESTROYED,
};
enum kms_version_state {
	KMS_VERSION_PENDING = 1, KMS_VERSION_CURRENT, KMS_VERSION_NON_CURRENT, KMS_VERSION_REVOKED, KMS_VERSION_DESTROYED,
};

struct kms_version {
	uint32_t number;
	enum kms_version_state state;
	uint8_t hsm_id[16];
	uint64_t created_ns, destroyed_ns;
	atomic_llong files;      /* a hint: the last census, and what was wrapped and moved since */
	uint64_t files_exact_ns; /* 0: never counted */
	bool destroying;         /* no new lease */
};

struct kms_key {
	uint8_t id[BASE_ID_SIZE];
	char name[KMS_NAME_MAX + 1];
	char ring[KMS_NAME_MAX + 1];
	enum kms_key_kind kind;
	enum kms_key_state state;
	enum kms_key_origin origin;
	char description[1024];
	int64_t rotate_every;    /* seconds; 0: never */
	uint64_t created_ns;
	uint32_t current;        /* number; 0: none */
	struct kms_version *versions; /* ascending by number */
	size_t count;
	UT_hash_handle by_id, by_name;
};

/* What may be done with a key in a state (KMS.md, table of states). */
enum kms_use { KMS_USE_NEW, KMS_USE_READ, KMS_USE_WRITE };

/* kms_state_check(state, use): 0, or the errno of the table. kms_version_check(state, use): the same for one version. */
int kms_state_check(enum kms_key_state state, enum kms_use use);
int kms_version_check(enum kms_version_state state, enum kms_use use);
const char *kms_state_name(enum kms_key_state state);
const char *kms_version_state_name(enum kms_version_state state);

/* kms_keys_new(core, ret): load the mirror. */
int kms_keys_new(struct kms_core *core, struct kms_keys **ret);
void kms_keys_free(struct kms_keys *keys);
size_t kms_keys_count(struct kms_keys *keys);

/* What the hot path wants to know of a key version, copied out under the lock. */
struct kms_key_view {
	char name[KMS_NAME_MAX + 1];
	enum kms_key_kind kind;
	enum kms_key_state state;
	enum kms_version_state version_state;
	uint32_t current;
	uint8_t hsm_id[16];
};

/* kms_keys_view(keys, id, version, ret): -ENOENT no such key, -ENOKEY no such version. version 0: the current one. */
int kms_keys_view(struct kms_keys *keys, const uint8_t id[BASE_ID_SIZE], uint32_t version, struct kms_key_view *ret);

/* kms_keys_lease(core, id, ret, ret_lease): view of the current version, and a lease on it in the same step. */
int kms_keys_lease(struct kms_core *core, const uint8_t id[BASE_ID_SIZE], struct kms_key_view *ret, uint64_t *ret_lease);

/* kms_keys_files(keys, id, version, delta): a header more or less hangs on the version. */
void kms_keys_files(struct kms_keys *keys, const uint8_t id[BASE_ID_SIZE], uint32_t version, int delta);
/* kms_keys_files_flush(core): write the hints. Blocks; at close and after a census. */
int kms_keys_files_flush(struct kms_core *core);

/* kms_keys_each(keys, fn, ctx): fn per key under the read lock, in order of creation. */
int kms_keys_each(struct kms_keys *keys, int (*fn)(void *ctx, const struct kms_key *key), void *ctx);
/* kms_keys_with(keys, id, fn, ctx): fn for one; -ENOENT. */
int kms_keys_with(struct kms_keys *keys, const uint8_t id[BASE_ID_SIZE], int (*fn)(void *ctx, const struct kms_key *key), void *ctx);
/* kms_keys_resolve(core, text, ret_id, err): a name, or an id in hexadecimal. -ENOENT exit 4. */
int kms_keys_resolve(struct kms_core *core, const char *text, uint8_t ret_id[BASE_ID_SIZE], struct base_error *err);

/*
 * Changes. Each decides, asks the HSM, and commits the change together with its record (durable).
 * kms_keys_create: -EEXIST name taken, -EINVAL bad name. `extra` (may be NULL) runs in the same transaction.
 * kms_keys_rotate: a new current version. kms_keys_delete: key, versions and HSM objects of a key that nothing was wrapped by.
 * kms_keys_destroy_version (keys_destroy.c): census first.
 */
struct kms_key_new {
	const char *name, *description; /* description NULL: none */
	enum kms_key_kind kind;
	const char *action;             /* of the record */
	const struct kms_subject *subject; /* of the record; NULL */
	int (*extra)(void *ctx, struct kms_store *store, const uint8_t key_id[BASE_ID_SIZE]);
	void *extra_ctx;
	bool trusted; /* no decision: the keystore is being made */
};
int kms_keys_create(struct kms_core *core, const struct kms_caller *caller, const struct kms_key_new *new,
		    uint8_t ret_id[BASE_ID_SIZE], struct base_error *err);
int kms_keys_rotate(struct kms_core *core, const struct kms_caller *caller, const uint8_t id[BASE_ID_SIZE], uint32_t *ret_version,
		    struct base_error *err);
int kms_keys_delete(struct kms_core *core, const uint8_t id[BASE_ID_SIZE], int (*extra)(void *ctx, struct kms_store *store), void *ctx);
int kms_keys_destroy_version(struct kms_core *core, const struct kms_caller *caller, const uint8_t id[BASE_ID_SIZE],
			     uint32_t version, struct base_error *err);

/* kms_keys_census(core, err): count every version of every key, and store the counts. Blocks for long. */
int kms_keys_census(struct kms_core *core, struct base_error *err);

#endif
