/* Logging in, and the states of a struct hsm: down, sealed, up. */
#include <errno.h>
#include <string.h>
#include <time.h>

#include <openssl/err.h>

#include "base/clock.h"
#include "base/secret.h"
#include "internal.h"

#define BACK_OFF_NS UINT64_C(1000000000)
#define PIN_SIZE 256

static int latched(struct hsm *h, struct base_error *err)
{
	return base_error_set(err, -EKEYREJECTED, BASE_EXIT_PIN,
			      "token \"%s\" refused the PIN, and it is not tried again by itself (tokens lock after a few tries); "
			      "correct the PIN and ask for another try", h->label);
}

static int check_pin_flags(struct hsm *h, struct base_error *err)
{
	PKCS11_TOKEN *token = h->slot->token;

	if (token->userPinLocked)
		return base_error_set(err, -EKEYREJECTED, BASE_EXIT_PIN,
				      "the PIN of token \"%s\" is locked; unlock it with the SO PIN and the vendor's tool", h->label);
	if (token->userPinFinalTry && !h->pin_last_try)
		return base_error_set(err, -EKEYREJECTED, BASE_EXIT_PIN,
				      "token \"%s\" has one PIN try left, which is not spent by itself; log in once with the vendor's "
				      "tool (pkcs11-tool --login --test)", h->label);
	return 0;
}

/*
 * libp11 waits for ever when C_OpenSession fails inside it: see that it works first. PKCS11_open_session closes every
 * session of ours; the pool is empty here.
 */
static int open_session(struct hsm *h, struct base_error *err)
{
	CK_SESSION_HANDLE probe;
	CK_RV rv;

	rv = h->f->C_OpenSession(h->slot_id, CKF_SERIAL_SESSION, NULL, NULL, &probe);
	if (rv != CKR_OK)
		return hsm_ckr_error(err, rv, "open a session", h->label);
	h->f->C_CloseSession(probe);
	if (PKCS11_open_session(h->slot, 0) < 0)
		return hsm_ckr_error(err, hsm_ckr_libp11(), "open a session", h->label);
	return 0;
}

static int try_pin(struct hsm *h, const char *pin, struct base_error *err)
{
	CK_RV rv;
	int ret;

	ERR_clear_error();
	h->pin_last_try = false;
	ret = PKCS11_login(h->slot, 0, pin);
	hsm_scrub();
	if (ret == 0)
		return 0;
	rv = hsm_ckr_libp11();
	if (hsm_ckr_fault(rv) != HSM_FAULT_PIN)
		return hsm_ckr_error(err, rv, "log in", h->label);
	ret = hsm_softhsm_present(h, err); /* a token whose files went away is no judge of PINs */
	if (ret < 0)
		return ret;
	h->pin_refused = true;
	return base_error_set(err, -EKEYREJECTED, BASE_EXIT_PIN,
			      "token \"%s\" refused the PIN (%s); it is not tried again by itself: correct the PIN and ask for "
			      "another try", h->label, hsm_ckr_name(rv));
}

static int log_in(struct hsm *h, struct base_error *err)
{
	BASE_SECRET_AUTO char *pin = NULL;
	int ret;

	if (!h->slot->token->loginRequired)
		return 0;
	if (h->slot->token->secureLogin) /* the PIN is typed at the token */
		return try_pin(h, NULL, err);
	if (!h->pin)
		return base_error_set(err, -EACCES, BASE_EXIT_PIN, "token \"%s\" needs a PIN and no source for one is configured",
				      h->label);
	pin = base_secret_alloc(PIN_SIZE);
	if (!pin)
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "no locked memory left for a PIN; raise RLIMIT_MEMLOCK");
	err->code = 0;
	ret = h->pin(h->pin_ctx, pin, PIN_SIZE, err);
	if (ret < 0)
		return err->code ? ret : base_error_set(err, ret, BASE_EXIT_PIN, "no PIN for token \"%s\"", h->label);
	pin[PIN_SIZE - 1] = '\0';
	ret = hsm_softhsm_present(h, err); /* asking may have taken long */
	return ret < 0 ? ret : try_pin(h, pin, err);
}

static int check_mechanism(struct hsm *h, struct base_error *err)
{
	CK_MECHANISM_INFO info = { 0 };
	CK_RV rv = h->f->C_GetMechanismInfo(h->slot_id, CKM_AES_GCM, &info);

	if (rv != CKR_OK && hsm_ckr_fault(rv) != HSM_FAULT_MECHANISM)
		return hsm_ckr_error(err, rv, "read the list of mechanisms", h->label);
	if (rv != CKR_OK || !(info.flags & CKF_ENCRYPT) || !(info.flags & CKF_DECRYPT))
		return base_error_set(err, -EOPNOTSUPP, BASE_EXIT_FAILED,
				      "token \"%s\" does not know CKM_AES_GCM, the mechanism that wraps file keys; use another token",
				      h->label);
	return 0;
}

int hsm_login(struct hsm *h, struct base_error *err)
{
	time_t since = time(NULL);
	int ret;

	if (h->pin_refused)
		return latched(h, err);
	ret = hsm_module_select(h, err);
	if (ret == 0)
		ret = check_mechanism(h, err);
	if (ret == 0)
		ret = check_pin_flags(h, err);
	if (ret == 0)
		ret = open_session(h, err);
	if (ret == 0)
		ret = log_in(h, err);
	if (ret < 0)
		return ret;
	if (!h->serial[0] && h->slot->token->serialnr)
		strncpy(h->serial, h->slot->token->serialnr, sizeof(h->serial) - 1);
	hsm_softhsm_learn(h);
	ret = hsm_softhsm_sync(h, since, err); /* the login has rewritten token.object */
	if (ret == 0)
		hsm_softhsm_keep(h);
	return ret;
}

void hsm_quiesce(struct hsm *h)
{
	hsm_session_drop_all(h);
	hsm_key_forget(h, NULL);
}

int hsm_bring_up(struct hsm *h, struct base_error *err)
{
	int ret;

	if (h->state == HSM_UP)
		return 0;
	if (h->pin_refused)
		return latched(h, err);
	if (base_clock_mono_ns() < h->retry_at) {
		*err = h->down;
		return err->code;
	}
	hsm_quiesce(h);
	ret = hsm_softhsm_present(h, err);
	if (ret == 0 && h->state == HSM_DOWN) {
		hsm_module_unload(h);
		ret = hsm_module_load(h, err);
		if (ret == 0)
			h->state = HSM_SEALED;
	}
	if (ret == 0)
		ret = hsm_login(h, err);
	if (ret == 0) {
		h->state = HSM_UP;
		h->sealed = false;
		h->generation++;
		return 0;
	}
	if (h->slots)
		hsm_module_release(h); /* also wipes libp11's copy of the PIN */
	if (ret == -EKEYREJECTED || ret == -EACCES) {
		h->sealed = true;
		return ret;
	}
	h->state = HSM_DOWN;
	h->retry_at = base_clock_mono_ns() + BACK_OFF_NS;
	h->down = *err;
	return ret;
}

int hsm_recover(struct hsm *h, uint64_t generation, bool reset, struct base_error *err)
{
	int ret;

	pthread_rwlock_wrlock(&h->lock);
	/* Another thread may have met the same fault and be done already. */
	if (h->state == HSM_UP && h->generation == generation) {
		hsm_quiesce(h);
		h->state = reset ? HSM_DOWN : HSM_SEALED;
		h->retry_at = 0;
	}
	ret = hsm_bring_up(h, err);
	pthread_rwlock_unlock(&h->lock);
	return ret;
}

int hsm_fail(struct hsm *h, uint64_t generation, struct base_error *err)
{
	pthread_rwlock_wrlock(&h->lock);
	if (h->state == HSM_UP && h->generation == generation) {
		hsm_quiesce(h);
		h->state = HSM_DOWN;
		h->retry_at = base_clock_mono_ns() + BACK_OFF_NS;
		h->down = *err;
	}
	pthread_rwlock_unlock(&h->lock);
	return err->code;
}
