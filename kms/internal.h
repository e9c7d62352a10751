/*
 * kms/internal.h: the core as its own files see it.
 *
 * Lock order (take from left to right, never the other way):
 *   keys.admin -> keys.lock -> leases.lock        audit.queue        store.lock -> dirty.lock
 * cache.lock, pool.lock, policy.lock and conf are leaves. kms/DESIGN.md says what each guards.
 */
#ifndef KMS_INTERNAL_H
#define KMS_INTERNAL_H

#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "kms/kms.h"
#include "conf.h"

struct hsm;
struct kms_api;
struct kms_audit;
struct kms_dek;
struct kms_dirty;
struct kms_keys;
struct kms_leases;
struct kms_pin;
struct kms_policy;
struct kms_store;

struct kms_core {
	char dir[PATH_MAX];
	uint8_t id[BASE_ID_SIZE];      /* of the keystore */
	uint8_t session[BASE_ID_SIZE];
	uint8_t boot[BASE_ID_SIZE];
	int64_t session_row;           /* the session's row in the store */
	int lock_fd;
	struct kms_conf conf;
	struct kms_pin *pin;
	struct hsm *hsm;
	struct kms_store *store;
	struct kms_audit *audit;
	struct kms_policy *policy;
	struct kms_keys *keys;
	struct kms_leases *leases;
	struct kms_dek *dek;
	struct kms_dirty *dirty;
	struct kms_api *api;

	pthread_mutex_t census_lock;   /* guards census, census_ctx; held while a census runs, so that one runs at a time */
	kms_census_fn census;
	void *census_ctx;
};

/* kms_core_lock(dir, flags, ret_fd, err): take DIR/lock and write our pid. -EBUSY: another process owns the keystore. */
int kms_core_lock(const char *dir, unsigned flags, int *ret_fd, struct base_error *err);

/* kms_api_builtin(core): register the handlers of kms/api_*.c. 0 or -errno. */
int kms_api_builtin(struct kms_core *core);
int kms_api_keys_add(struct kms_core *core);
int kms_api_roles_add(struct kms_core *core);
int kms_api_audit_add(struct kms_core *core);
int kms_api_status_add(struct kms_core *core);

#endif
