/*
 * kms/leases.h: wraps whose header is not published yet. Destroying a version waits for those that name it.
 */
#ifndef KMS_LEASES_H
#define KMS_LEASES_H

#include "internal.h"

int kms_leases_new(struct kms_leases **ret);
void kms_leases_free(struct kms_leases *leases);

/* kms_lease_take(leases, key_id, version): a lease's number, never 0; 0 when out of memory. The keys' lock is held. */
uint64_t kms_lease_take(struct kms_leases *leases, const uint8_t key_id[BASE_ID_SIZE], uint32_t version);
void kms_lease_release(struct kms_leases *leases, uint64_t lease); /* 0 is fine */

/*
 * kms_leases_wait(leases, key_id, version, seconds): until no lease on the version is left, and every hold (kms_wrap_hold)
 * that stands now has been released. 0 or -ETIMEDOUT.
 */
int kms_leases_wait(struct kms_leases *leases, const uint8_t key_id[BASE_ID_SIZE], uint32_t version, unsigned seconds);

#endif
