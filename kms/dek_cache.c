/*
 * Unwrapped DEKs for a while. The name is a hash over everything that the unwrap depends on, so a changed header never
 * finds another's DEK. uthash keeps the order of insertion, which makes it the list of use as well: what is used is moved to its end.
 */
#include "dek.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "base/clock.h"
#include "base/secret.h"

struct entry {
	uint8_t name[32];
	uint8_t *dek;
	uint64_t made_ns;
	UT_hash_handle hh;
};

struct kms_cache {
	pthread_mutex_t lock; /* guards all here; a leaf */
	struct entry *entries;
	uint64_t epoch;
	unsigned max;
	uint64_t ttl_ns;
};

int
kms_cache_new(unsigned max, unsigned ttl_seconds, struct kms_cache **ret)
{
	struct kms_cache *cache = calloc(1, sizeof(*cache));

	if (!cache)
		return -ENOMEM;
	pthread_mutex_init(&cache->lock, NULL);
	cache->max = ttl_seconds ? max : 0;
	cache->ttl_ns = (uint64_t) ttl_seconds * 1000000000u;
	*ret = cache;
	return 0;
}

static void
entry_drop(struct kms_cache *cache, struct entry *entry)
{
	HASH_DEL(cache->entries, entry);
	base_secret_free(entry->dek);
	free(entry);
}

void
kms_cache_drop(struct kms_cache *cache)
{
	struct entry *entry, *next;

	pthread_mutex_lock(&cache->lock);
	cache->epoch++;
	HASH_ITER(hh, cache->entries, entry, next)
		entry_drop(cache, entry);
	pthread_mutex_unlock(&cache->lock);
}

void
kms_cache_free(struct kms_cache *cache)
{
	if (!cache)
		return;
	kms_cache_drop(cache);
	pthread_mutex_destroy(&cache->lock);
	free(cache);
}

bool
kms_cache_get(struct kms_cache *cache, const uint8_t name[32], uint8_t *dek)
{
	struct entry *entry = NULL;

	pthread_mutex_lock(&cache->lock);
	HASH_FIND(hh, cache->entries, name, 32, entry);
	if (entry && base_clock_mono_ns() - entry->made_ns > cache->ttl_ns) {
		entry_drop(cache, entry);
		entry = NULL;
	}
	if (entry) {
		memcpy(dek, entry->dek, KMS_DEK_SIZE);
		HASH_DEL(cache->entries, entry);
		HASH_ADD(hh, cache->entries, name, sizeof(entry->name), entry);
	}
	pthread_mutex_unlock(&cache->lock);
	return entry != NULL;
}

uint64_t
kms_cache_epoch(struct kms_cache *cache)
{
	uint64_t epoch;

	pthread_mutex_lock(&cache->lock);
	epoch = cache->epoch;
	pthread_mutex_unlock(&cache->lock);
	return epoch;
}

void
kms_cache_put(struct kms_cache *cache, const uint8_t name[32], const uint8_t *dek, uint64_t epoch)
{
	struct entry *entry = cache->max ? malloc(sizeof(*entry)) : NULL, *there = NULL;

	if (!entry)
		return;
	entry->dek = base_secret_alloc(KMS_DEK_SIZE);
	if (!entry->dek) {
		free(entry);
		return;
	}
	memcpy(entry->dek, dek, KMS_DEK_SIZE);
	memcpy(entry->name, name, sizeof(entry->name));
	entry->made_ns = base_clock_mono_ns();
	pthread_mutex_lock(&cache->lock);
	HASH_FIND(hh, cache->entries, name, 32, there);
	if (there || epoch != cache->epoch) {
		base_secret_free(entry->dek);
		free(entry);
	} else {
		if (HASH_COUNT(cache->entries) >= cache->max)
			entry_drop(cache, cache->entries);
		HASH_ADD(hh, cache->entries, name, sizeof(entry->name), entry);
	}
	pthread_mutex_unlock(&cache->lock);
}

uint64_t
kms_cache_expire(struct kms_cache *cache)
{
	uint64_t now = base_clock_mono_ns(), wait = 0;
	struct entry *entry, *next;

	pthread_mutex_lock(&cache->lock);
	HASH_ITER(hh, cache->entries, entry, next) {
		uint64_t age = now - entry->made_ns;

		if (age >= cache->ttl_ns)
			entry_drop(cache, entry);
		else if (!wait || cache->ttl_ns - age < wait)
			wait = cache->ttl_ns - age;
	}
	pthread_mutex_unlock(&cache->lock);
	return wait;
}
