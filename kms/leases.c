/*
 * Leases are counted by version; holds only by generation, because a rewrap touches many keys.
 */
#include "leases.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <uthash.h>

struct lease {
	uint64_t number;
	uint8_t key_id[BASE_ID_SIZE];
	uint32_t version;
	UT_hash_handle hh;
};

struct kms_leases {
	pthread_mutex_t lock; /* guards all here; taken after the keys' lock */
	pthread_cond_t less;  /* a lease or a hold has gone */
	struct lease *all;
	uint64_t next;
	unsigned holds[2];    /* by generation: a waiter starts a new one and waits for the old one to drain */
	unsigned generation;
};

int
kms_leases_new(struct kms_leases **ret)
{
	struct kms_leases *leases = calloc(1, sizeof(*leases));
	pthread_condattr_t attr;

	if (!leases)
		return -ENOMEM;
	pthread_mutex_init(&leases->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&leases->less, &attr);
	pthread_condattr_destroy(&attr);
	leases->next = 1;
	*ret = leases;
	return 0;
}

void
kms_leases_free(struct kms_leases *leases)
{
	struct lease *lease, *next;

	if (!leases)
		return;
	HASH_ITER(hh, leases->all, lease, next) {
		HASH_DEL(leases->all, lease);
		free(lease);
	}
	pthread_mutex_destroy(&leases->lock);
	pthread_cond_destroy(&leases->less);
	free(leases);
}

uint64_t
kms_lease_take(struct kms_leases *leases, const uint8_t key_id[BASE_ID_SIZE], uint32_t version)
{
	struct lease *lease = malloc(sizeof(*lease));
	uint64_t number;

	if (!lease)
		return 0;
	memcpy(lease->key_id, key_id, sizeof(lease->key_id));
	lease->version = version;
	pthread_mutex_lock(&leases->lock);
	number = lease->number = leases->next++;
	HASH_ADD(hh, leases->all, number, sizeof(lease->number), lease);
	pthread_mutex_unlock(&leases->lock);
	return number;
}

void
kms_lease_release(struct kms_leases *leases, uint64_t number)
{
	struct lease *lease = NULL;

	if (!number)
		return;
	pthread_mutex_lock(&leases->lock);
	HASH_FIND(hh, leases->all, &number, sizeof(number), lease);
	if (lease) {
		HASH_DEL(leases->all, lease);
		pthread_cond_broadcast(&leases->less);
	}
	pthread_mutex_unlock(&leases->lock);
	free(lease);
}

unsigned
kms_wrap_hold(struct kms_core *core)
{
	struct kms_leases *leases = core->leases;
	unsigned generation;

	pthread_mutex_lock(&leases->lock);
	generation = leases->generation;
	leases->holds[generation & 1]++;
	pthread_mutex_unlock(&leases->lock);
	return generation;
}

void
kms_wrap_release(struct kms_core *core, unsigned generation)
{
	struct kms_leases *leases = core->leases;

	pthread_mutex_lock(&leases->lock);
	leases->holds[generation & 1]--;
	pthread_cond_broadcast(&leases->less);
	pthread_mutex_unlock(&leases->lock);
}

static bool
leased(const struct kms_leases *leases, const uint8_t *key_id, uint32_t version)
{
	for (const struct lease *lease = leases->all; lease; lease = lease->hh.next)
		if (lease->version == version && !memcmp(lease->key_id, key_id, BASE_ID_SIZE))
			return true;
	return false;
}

int
kms_leases_wait(struct kms_leases *leases, const uint8_t key_id[BASE_ID_SIZE], uint32_t version, unsigned seconds)
{
	struct timespec until;
	unsigned old;
	int rc = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += seconds;
	pthread_mutex_lock(&leases->lock);
	/* Destructions come one at a time, so the other generation is empty unless an earlier wait ran out of time. */
	while (rc == 0 && leases->holds[(leases->generation + 1) & 1])
		rc = -pthread_cond_timedwait(&leases->less, &leases->lock, &until);
	if (rc == 0) {
		old = leases->generation++;
		while (rc == 0 && (leases->holds[old & 1] || leased(leases, key_id, version)))
			rc = -pthread_cond_timedwait(&leases->less, &leases->lock, &until);
	}
	pthread_mutex_unlock(&leases->lock);
	return rc;
}
