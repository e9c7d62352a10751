/* One operation on the token, with the recovery ladder around it (DESIGN.md). */
#include <errno.h>

#include "base/clock.h"
#include "internal.h"

#define RESET_PAUSE_NS UINT64_C(1000000000)

/* Exclusive operations get a read-write session of their own; the pool's are read-only. */
static int take(struct hsm *h, struct hsm_call *call, CK_SESSION_HANDLE *ret, CK_RV *rv)
{
	if (!call->exclusive)
		return hsm_session_take(h, ret, rv, call->err);
	*rv = h->f->C_OpenSession(h->slot_id, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, ret);
	return *rv == CKR_OK ? 0 : -EIO;
}

static void leave(struct hsm *h, struct hsm_call *call, CK_SESSION_HANDLE session, bool good)
{
	if (call->exclusive)
		h->f->C_CloseSession(session);
	else if (good)
		hsm_session_give(h, session);
	else
		hsm_session_drop(h, session);
}

/*
 * After an error that may be the blob's fault: 0 when the key works (then the blob is bad, which err says), else what the
 * canary met. It has a new session, since the failed operation may still be active in the old one.
 */
static CK_RV ask_canary(struct hsm *h, struct hsm_call *call, CK_OBJECT_HANDLE key)
{
	CK_SESSION_HANDLE session;
	CK_RV rv = CKR_OK;

	call->code = take(h, call, &session, &rv);
	if (rv != CKR_OK || call->code < 0)
		return rv;
	rv = hsm_canary(h, session, key);
	leave(h, call, session, rv == CKR_OK);
	if (rv == CKR_OK)
		call->code = base_error_set(call->err, -EBADMSG, BASE_EXIT_INTEGRITY,
					    "cannot %s: the wrapped key does not authenticate (it was changed, or belongs elsewhere)",
					    call->what);
	return rv;
}

/* CKR_OK: call->code is the result. Otherwise the fault. */
static CK_RV run_locked(struct hsm *h, struct hsm_call *call)
{
	CK_SESSION_HANDLE session;
	CK_OBJECT_HANDLE key = 0;
	enum hsm_fault fault;
	CK_RV rv = CKR_OK;

	call->code = take(h, call, &session, &rv);
	if (call->code < 0)
		return rv;
	if (call->id)
		call->code = hsm_key_lookup(h, session, call, &key, &rv);
	if (rv == CKR_OK && call->code == 0)
		rv = call->run(h, session, key, call);
	fault = hsm_ckr_fault(rv);
	leave(h, call, session, fault == HSM_FAULT_NONE || (fault == HSM_FAULT_DATA && !call->data));
	if (call->data && key && (fault == HSM_FAULT_DATA || fault == HSM_FAULT_GENERAL))
		rv = ask_canary(h, call, key);
	return rv;
}

/* One try, bringing the token up first. 0: call->code is final; 1: *rv is a fault to recover from. */
static int attempt(struct hsm *h, struct hsm_call *call, CK_RV *rv, uint64_t *generation)
{
	int ret;

	pthread_rwlock_rdlock(&h->lock);
	if (h->state != HSM_UP || call->exclusive) {
		pthread_rwlock_unlock(&h->lock);
		pthread_rwlock_wrlock(&h->lock);
		call->code = hsm_bring_up(h, call->err);
		if (call->code == 0 && !call->exclusive) {
			pthread_rwlock_unlock(&h->lock);
			pthread_rwlock_rdlock(&h->lock);
		}
	}
	*generation = h->generation;
	if (call->code == 0 && h->state != HSM_UP) /* it went down again between the two locks */
		call->code = hsm_ckr_error(call->err, CKR_DEVICE_ERROR, call->what, h->label);
	if (call->code < 0) {
		pthread_rwlock_unlock(&h->lock);
		return 0;
	}
	ret = hsm_softhsm_present(h, call->err);
	*rv = ret == 0 ? run_locked(h, call) : CKR_DEVICE_REMOVED;
	/* What a token says whose files went away meanwhile is not to be believed. */
	if (ret == 0 && (*rv != CKR_OK || call->code < 0))
		ret = hsm_softhsm_present(h, call->err);
	pthread_rwlock_unlock(&h->lock);
	if (ret < 0) {
		call->code = hsm_fail(h, *generation, call->err);
		return 0;
	}
	return *rv == CKR_OK ? 0 : 1;
}

/* A key that fails while the module works is that key's trouble, not everybody's. */
static bool module_works(struct hsm *h, struct hsm_call *call)
{
	CK_SESSION_HANDLE session;
	CK_RV rv = CKR_GENERAL_ERROR;

	pthread_rwlock_rdlock(&h->lock);
	if (h->state == HSM_UP && hsm_session_take(h, &session, &rv, call->err) == 0) {
		rv = hsm_canary_session(h, session);
		if (rv == CKR_OK)
			hsm_session_give(h, session);
		else
			hsm_session_drop(h, session);
	}
	pthread_rwlock_unlock(&h->lock);
	return rv == CKR_OK;
}

/* Resets disturb everybody: at most one a second. */
static bool may_reset(struct hsm *h)
{
	bool may;

	pthread_rwlock_rdlock(&h->lock);
	may = base_clock_mono_ns() >= h->reset_at + RESET_PAUSE_NS;
	pthread_rwlock_unlock(&h->lock);
	return may;
}

/* 0: try again; else final, with err filled. */
static int recover(struct hsm *h, struct hsm_call *call, CK_RV rv, uint64_t generation, int tries)
{
	enum hsm_fault fault = hsm_ckr_fault(rv);

	if (tries == 0 && fault == HSM_FAULT_RETRY)
		return 0;
	if (tries == 0 && fault == HSM_FAULT_SESSION)
		return hsm_recover(h, generation, false, call->err);
	if (tries == 0 && fault == HSM_FAULT_GENERAL && may_reset(h))
		return hsm_recover(h, generation, true, call->err);
	if (fault == HSM_FAULT_GENERAL && call->id && module_works(h, call))
		return base_error_set(call->err, -EIO, BASE_EXIT_FAILED,
				      "cannot %s: this key fails (%s) although token \"%s\" works; check the key with pkcs11-tool",
				      call->what, hsm_ckr_name(rv), h->label);
	hsm_ckr_error(call->err, rv, call->what, h->label);
	if (fault == HSM_FAULT_SESSION || fault == HSM_FAULT_DEVICE || fault == HSM_FAULT_GENERAL)
		return hsm_fail(h, generation, call->err);
	return call->err->code;
}

int hsm_call_run(struct hsm *h, struct hsm_call *call, struct base_error *err)
{
	struct base_error own = { 0 };
	uint64_t generation;
	CK_RV rv = CKR_OK;
	int tries, ret = 0;

	call->err = &own;
	for (tries = 0; ret == 0; tries++) {
		call->code = 0;
		if (attempt(h, call, &rv, &generation) == 0) {
			ret = call->code;
			break;
		}
		ret = recover(h, call, rv, generation, tries);
	}
	call->err = NULL;
	if (ret < 0 && err)
		*err = own;
	return ret;
}
