/*
 * DEKs wrapped ahead of need, per vault and key, so that creating a file does not wait for the HSM. Each has a random file
 * id of its own, because the wrap's AAD binds it. What is not of the version asked for is thrown away.
 */
#include "dek.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/crypto.h"
#include "base/secret.h"

#define POOLS_MAX 32 /* the one that was used least recently makes room */

struct pool {
	uint8_t vault_id[BASE_ID_SIZE], key_id[BASE_ID_SIZE], hsm_id[16];
	uint32_t version;
	uint64_t used_ns;
	unsigned count;
	struct kms_new_dek *entries;
};

struct kms_pools {
	struct kms_core *core;
	unsigned size;
	pthread_mutex_t lock; /* guards what follows; a leaf */
	uint64_t epoch;       /* changes when anything is dropped: wraps under way are then thrown away */
	unsigned count;
	struct pool pools[POOLS_MAX];
};

int
kms_pools_new(struct kms_core *core, unsigned size, struct kms_pools **ret)
{
	struct kms_pools *pools = calloc(1, sizeof(*pools));

	if (!pools)
		return -ENOMEM;
	pools->core = core;
	pools->size = size;
	pthread_mutex_init(&pools->lock, NULL);
	*ret = pools;
	return 0;
}

static void
pool_empty(struct kms_pools *pools, struct pool *pool)
{
	while (pool->count)
		base_secret_free(pool->entries[--pool->count].dek);
	pools->epoch++;
}

/* The lock is held. The last pool takes the place of the removed one. */
static void
pool_remove(struct kms_pools *pools, struct pool *pool)
{
	pool_empty(pools, pool);
	free(pool->entries);
	*pool = pools->pools[--pools->count];
}

void
kms_pools_drop(struct kms_pools *pools, const uint8_t *key_id)
{
	pthread_mutex_lock(&pools->lock);
	pools->epoch++;
	for (unsigned i = pools->count; i > 0; i--)
		if (!key_id || !memcmp(pools->pools[i - 1].key_id, key_id, BASE_ID_SIZE))
			pool_remove(pools, &pools->pools[i - 1]);
	pthread_mutex_unlock(&pools->lock);
}

void
kms_pools_free(struct kms_pools *pools)
{
	if (!pools)
		return;
	kms_pools_drop(pools, NULL);
	pthread_mutex_destroy(&pools->lock);
	free(pools);
}

static struct pool *
pool_find(struct kms_pools *pools, const uint8_t *vault_id, const uint8_t *key_id)
{
	for (unsigned i = 0; i < pools->count; i++)
		if (!memcmp(pools->pools[i].vault_id, vault_id, BASE_ID_SIZE) && !memcmp(pools->pools[i].key_id, key_id, BASE_ID_SIZE))
			return &pools->pools[i];
	return NULL;
}

static struct pool *
pool_add(struct kms_pools *pools, const uint8_t *vault_id, const uint8_t *key_id)
{
	struct kms_new_dek *entries = calloc(pools->size, sizeof(*entries));
	struct pool *pool;

	if (!entries)
		return NULL;
	if (pools->count == POOLS_MAX) {
		pool = &pools->pools[0];
		for (unsigned i = 1; i < pools->count; i++)
			if (pools->pools[i].used_ns < pool->used_ns)
				pool = &pools->pools[i];
		pool_remove(pools, pool);
	}
	pool = &pools->pools[pools->count++];
	memset(pool, 0, sizeof(*pool));
	memcpy(pool->vault_id, vault_id, BASE_ID_SIZE);
	memcpy(pool->key_id, key_id, BASE_ID_SIZE);
	pool->entries = entries;
	return pool;
}

int
kms_pools_take(struct kms_pools *pools, const uint8_t vault_id[BASE_ID_SIZE], const uint8_t key_id[BASE_ID_SIZE],
	       uint32_t version, const uint8_t hsm_id[16], struct kms_new_dek *ret, bool *ret_wake)
{
	struct pool *pool;
	uint64_t lease = ret->lease;
	int rc = -ENOENT;

	if (!pools->size)
		return rc;
	pthread_mutex_lock(&pools->lock);
	pool = pool_find(pools, vault_id, key_id);
	if (!pool)
		pool = pool_add(pools, vault_id, key_id);
	if (pool) {
		if (pool->version != version) {
			pool_empty(pools, pool);
			pool->version = version;
			memcpy(pool->hsm_id, hsm_id, sizeof(pool->hsm_id));
		}
		pool->used_ns = base_clock_mono_ns();
		if (pool->count) {
			*ret = pool->entries[--pool->count];
			ret->lease = lease;
			rc = 0;
		}
		*ret_wake = pool->count <= pools->size / 2;
	}
	pthread_mutex_unlock(&pools->lock);
	return rc;
}

/* Copies out what a pool that is not full needs for one entry. */
static bool
next_due(struct kms_pools *pools, struct pool *ret, uint64_t *ret_epoch)
{
	bool found = false;

	pthread_mutex_lock(&pools->lock);
	for (unsigned i = 0; i < pools->count && !found; i++) {
		if (pools->pools[i].count == pools->size)
			continue;
		*ret = pools->pools[i];
		*ret_epoch = pools->epoch;
		found = true;
	}
	pthread_mutex_unlock(&pools->lock);
	return found;
}

static void
put(struct kms_pools *pools, const struct pool *due, uint64_t epoch, struct kms_new_dek *new)
{
	struct pool *pool;

	pthread_mutex_lock(&pools->lock);
	pool = epoch == pools->epoch ? pool_find(pools, due->vault_id, due->key_id) : NULL;
	if (pool && pool->version == due->version && pool->count < pools->size) {
		pool->entries[pool->count++] = *new;
		new->dek = NULL;
	}
	pthread_mutex_unlock(&pools->lock);
	base_secret_free(new->dek);
}

bool
kms_pools_refill(struct kms_pools *pools, const atomic_bool *stop)
{
	struct pool due;
	uint64_t epoch;

	while (!atomic_load(stop) && next_due(pools, &due, &epoch)) {
		struct kms_new_dek new = { .dek = base_secret_alloc(KMS_DEK_SIZE) };
		int rc = new.dek ? base_random(new.dek, KMS_DEK_SIZE) : -ENOMEM;

		if (rc == 0)
			rc = base_random(new.file_id, sizeof(new.file_id));
		if (rc == 0)
			rc = kms_dek_wrap_fresh(pools->core, due.vault_id, new.file_id, KMS_PURPOSE_FILE, due.key_id, due.version,
						due.hsm_id, new.dek, &new.wrap, NULL);
		if (rc < 0) {
			base_secret_free(new.dek);
			return false;
		}
		put(pools, &due, epoch, &new);
	}
	return true;
}
