/*
 * kms/dek.h: data keys. dek.c decides, records and releases; dek_cache.c keeps unwrapped DEKs for a while, dek_pool.c wraps
 * some ahead of need, dek_worker.c is the thread that
 * refills, expires and syncs.
 */
#ifndef KMS_DEK_H
#define KMS_DEK_H

#include <stdatomic.h>

#include "audit.h"
#include "internal.h"
#include "keys.h"
#include "policy.h"

int kms_dek_new(struct kms_core *core, struct kms_dek **ret);
void kms_dek_free(struct kms_core *core); /* ends the thread, wipes all; fine when there is none */

/* kms_dek_drop_pools(core, key_id): forget what was wrapped ahead under this key; NULL: all. */
void kms_dek_drop_pools(struct kms_core *core, const uint8_t *key_id);

/* kms_dek_aad(subject ids, wrap, ret): the AAD of a wrap (kms.h); returns its length. */
#define KMS_AAD_SIZE (15 + 3 * BASE_ID_SIZE + 4 + 4)
void kms_dek_aad(const uint8_t vault_id[BASE_ID_SIZE], const uint8_t file_id[BASE_ID_SIZE], enum kms_purpose purpose,
		 const struct kms_wrap *wrap, uint8_t ret[KMS_AAD_SIZE]);

/*
 * kms_dek_wrap_fresh(core, vault_id, file_id, purpose, key_id, version, hsm_id, dek, ret, err): wrap dek. Asks the HSM; blocks.
 * kms_dek_unwrap(core, subject, wrap, hsm_id, dek, err): cache, then the HSM.
 */
int kms_dek_wrap_fresh(struct kms_core *core, const uint8_t vault_id[BASE_ID_SIZE], const uint8_t file_id[BASE_ID_SIZE],
		       enum kms_purpose purpose, const uint8_t key_id[BASE_ID_SIZE], uint32_t version, const uint8_t hsm_id[16],
		       const uint8_t *dek, struct kms_wrap *ret, struct base_error *err);
int kms_dek_unwrap(struct kms_core *core, const struct kms_subject *subject, const struct kms_wrap *wrap, const uint8_t hsm_id[16],
		   uint8_t *dek, struct base_error *err);

/*
 * Decisions, shared with dek_move.c. d begins as { .rc = 0 }; a refusal sets d->rc and err. The role comes first, so that who may not use a key does
 * not learn its state. kms_dek_decide_state(d, found, version, use, err): found is what filled d->key (kms_keys_view). kms_dek_record(core,
 * event, rc, why, err): writes the record of rc; one that cannot be written turns an allowed action into a failed one. Returns rc, or that.
 */
struct kms_decision {
	struct kms_key_view key;
	char rule[KMS_RULE_MAX];
	int rc; /* 0, or why not */
};
void kms_dek_decide_role(struct kms_core *core, const struct kms_caller *caller, enum kms_action action, const uint8_t *key_id,
			 const char *what, struct kms_decision *d, struct base_error *err);
void kms_dek_decide_state(struct kms_decision *d, int found, uint32_t version, enum kms_use use, struct base_error *err);
int kms_dek_record(struct kms_core *core, struct kms_event *event, int rc, const struct base_error *why, struct base_error *err);

/* ---- dek_cache.c ------------------------------------------------------------------------------------------------------ */

struct kms_cache;

int kms_cache_new(unsigned max, unsigned ttl_seconds, struct kms_cache **ret);
void kms_cache_free(struct kms_cache *cache);
/* kms_cache_get(cache, name, dek): true and dek filled. kms_cache_epoch: before the unwrap whose result is put. */
bool kms_cache_get(struct kms_cache *cache, const uint8_t name[32], uint8_t *dek);
uint64_t kms_cache_epoch(struct kms_cache *cache);
void kms_cache_put(struct kms_cache *cache, const uint8_t name[32], const uint8_t *dek, uint64_t epoch);
void kms_cache_drop(struct kms_cache *cache);   /* all, and what unwraps under way would put */
uint64_t kms_cache_expire(struct kms_cache *cache); /* wipes what is too old; nanoseconds until the next, 0: empty */

/* ---- dek_pool.c --------------------------------------------------------------------------------------------------------- */

struct kms_pools;

int kms_pools_new(struct kms_core *core, unsigned size, struct kms_pools **ret);
void kms_pools_free(struct kms_pools *pools);
/* kms_pools_take(pools, vault_id, key_id, version, hsm_id, ret): an entry; -ENOENT: none ready (one is made later). Either
 * way *ret_wake tells that a refill is due. */
int kms_pools_take(struct kms_pools *pools, const uint8_t vault_id[BASE_ID_SIZE], const uint8_t key_id[BASE_ID_SIZE],
		   uint32_t version, const uint8_t hsm_id[16], struct kms_new_dek *ret, bool *ret_wake);
/* kms_pools_refill(pools): wrap until all pools that were used are full, or the HSM fails. True: all are. Blocks. */
bool kms_pools_refill(struct kms_pools *pools, const atomic_bool *stop);
void kms_pools_drop(struct kms_pools *pools, const uint8_t *key_id); /* NULL: all */

/* ---- dek_worker.c ---------------------------------------------------------------------------------------------------------- */

struct kms_worker;

int kms_worker_new(struct kms_core *core, struct kms_worker **ret);
void kms_worker_free(struct kms_worker *worker);

/* kms_worker_wake(worker, work): starts the thread when there is none. In memory. */
enum kms_work {
	KMS_WORK_EXPIRE, /* the cache has something to expire */
	KMS_WORK_REFILL, /* a pool is half empty */
	KMS_WORK_SYNC,   /* dirty rows are to survive a power cut, within KMS_WORK_SYNC_NS */
};
#define KMS_WORK_SYNC_NS 1000000000ull
void kms_worker_wake(struct kms_worker *worker, enum kms_work work);

struct kms_dek {
	struct kms_cache *cache;
	struct kms_pools *pools;
	struct kms_worker *worker;
};

#endif
