/* Opening, closing, sealing, and looking at the token. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/secret.h"
#include "internal.h"

static void hsm_free(struct hsm *h)
{
	hsm_session_done(h);
	free(h->module);
	free(h->label);
	free(h->token_dir);
	free(h->conf_path);
	pthread_mutex_destroy(&h->keys_lock);
	pthread_rwlock_destroy(&h->lock);
	free(h);
}

static int copy_text(char **to, const char *from)
{
	*to = from ? strdup(from) : NULL;
	return from && !*to ? -ENOMEM : 0;
}

static struct hsm *hsm_new(const struct hsm_config *config)
{
	pthread_rwlockattr_t attr;
	struct hsm *h = calloc(1, sizeof(*h));

	if (!h)
		return NULL;
	/* Otherwise a busy stream of wraps could keep a recovery waiting for ever. */
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&h->lock, &attr);
	pthread_rwlockattr_destroy(&attr);
	pthread_mutex_init(&h->keys_lock, NULL);
	h->iv_mode = config->iv_mode ? config->iv_mode : HSM_IV_APP;
	h->max_sessions = config->max_sessions ? config->max_sessions : 8;
	h->pin = config->pin;
	h->pin_ctx = config->pin_ctx;
	if (config->serial)
		snprintf(h->serial, sizeof(h->serial), "%s", config->serial);
	if (copy_text(&h->module, config->module ? config->module : hsm_module_default()) < 0 ||
	    copy_text(&h->label, config->token) < 0 || copy_text(&h->token_dir, config->token_dir) < 0 ||
	    copy_text(&h->conf_path, config->conf_path) < 0 || hsm_session_init(h) < 0) {
		hsm_free(h);
		return NULL;
	}
	return h;
}

int hsm_open(const struct hsm_config *config, struct hsm **ret, struct base_error *err)
{
	struct base_error own = { 0 };
	struct hsm *h;
	int code;

	*ret = NULL;
	if (!config->token || (config->token_dir && !config->conf_path) || config->iv_mode > HSM_IV_APPEND)
		return base_error_set(err, -EINVAL, BASE_EXIT_FAILED, "an HSM needs a token label, and with a token directory a "
				      "path for softhsm2.conf");
	h = hsm_new(config);
	if (!h)
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "out of memory");
	pthread_rwlock_wrlock(&h->lock);
	code = hsm_bring_up(h, &own);
	pthread_rwlock_unlock(&h->lock);
	if (code < 0 && err)
		*err = own;
	if (code < 0 && code != -ENOKEY)
		hsm_close(h);
	else
		*ret = h;
	return code;
}

void hsm_close(struct hsm *h)
{
	if (!h)
		return;
	pthread_rwlock_wrlock(&h->lock);
	hsm_quiesce(h);
	if (h->slot && h->state == HSM_UP)
		PKCS11_logout(h->slot);
	hsm_module_unload(h);
	pthread_rwlock_unlock(&h->lock);
	hsm_free(h);
}

int hsm_seal(struct hsm *h, struct base_error *err)
{
	pthread_rwlock_wrlock(&h->lock);
	hsm_quiesce(h);
	if (h->state == HSM_UP) {
		PKCS11_logout(h->slot); /* whatever it says: closing the last session logs out as well */
		hsm_module_release(h);
		h->state = HSM_SEALED;
	}
	h->sealed = true;
	hsm_scrub();
	pthread_rwlock_unlock(&h->lock);
	return 0;
}

void hsm_pin_reset(struct hsm *h)
{
	pthread_rwlock_wrlock(&h->lock);
	h->pin_refused = false;
	h->pin_last_try = true;
	h->retry_at = 0;
	pthread_rwlock_unlock(&h->lock);
}

/* Any AES key of the token that may encrypt; 0 when there is none. */
static CK_RV any_key(struct hsm *h, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE *ret)
{
	CK_OBJECT_CLASS class = CKO_SECRET_KEY;
	CK_KEY_TYPE type = CKK_AES;
	CK_BBOOL yes = CK_TRUE;
	CK_ATTRIBUTE match[] = {
		{ CKA_CLASS, &class, sizeof(class) },
		{ CKA_KEY_TYPE, &type, sizeof(type) },
		{ CKA_TOKEN, &yes, sizeof(yes) },
		{ CKA_ENCRYPT, &yes, sizeof(yes) },
	};
	CK_ULONG count = 0;
	CK_RV rv, final;

	*ret = 0;
	rv = h->f->C_FindObjectsInit(session, match, 4);
	if (rv != CKR_OK)
		return rv;
	rv = h->f->C_FindObjects(session, ret, 1, &count);
	final = h->f->C_FindObjectsFinal(session);
	if (count == 0)
		*ret = 0;
	return rv != CKR_OK ? rv : final;
}

static CK_RV run_status(struct hsm *h, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE unused, struct hsm_call *call)
{
	CK_OBJECT_HANDLE key = 0;
	CK_RV rv;

	pthread_mutex_lock(&h->keys_lock);
	if (h->last_key)
		key = h->last_key->handle;
	pthread_mutex_unlock(&h->keys_lock);
	rv = key ? CKR_OK : any_key(h, session, &key);
	if (rv != CKR_OK)
		return rv;
	rv = key ? hsm_canary(h, session, key) : hsm_canary_session(h, session);
	/* The key may be of somebody else, and not for GCM. */
	if (key && (hsm_ckr_fault(rv) == HSM_FAULT_OTHER || hsm_ckr_fault(rv) == HSM_FAULT_MECHANISM))
		rv = hsm_canary_session(h, session);
	return rv;
}

static void copy_field(char *to, size_t size, const char *from)
{
	snprintf(to, size, "%s", from ? from : "");
}

int hsm_status(struct hsm *h, struct hsm_status *ret)
{
	struct hsm_call call = { .run = run_status, .what = "check the token" };
	struct base_error err = { 0 };
	bool sealed;
	int code;

	memset(ret, 0, sizeof(*ret));
	pthread_rwlock_rdlock(&h->lock);
	sealed = h->sealed && h->state != HSM_UP;
	if (h->pin_refused)
		code = base_error_set(&err, -EKEYREJECTED, BASE_EXIT_PIN, "the PIN was refused; it is not tried again by itself");
	else
		code = base_error_set(&err, -EACCES, BASE_EXIT_PIN, "sealed: the next use asks for the PIN");
	pthread_rwlock_unlock(&h->lock);
	if (!sealed)
		code = hsm_call_run(h, &call, &err);
	pthread_rwlock_rdlock(&h->lock);
	copy_field(ret->module, sizeof(ret->module), h->module);
	copy_field(ret->label, sizeof(ret->label), h->label);
	copy_field(ret->serial, sizeof(ret->serial), h->serial);
	if (h->slot) {
		copy_field(ret->manufacturer, sizeof(ret->manufacturer), h->slot->token->manufacturer);
		copy_field(ret->model, sizeof(ret->model), h->slot->token->model);
	}
	pthread_rwlock_unlock(&h->lock);
	ret->available = code == 0;
	if (code < 0)
		snprintf(ret->reason, sizeof(ret->reason), "%.*s", (int)sizeof(ret->reason) - 1, err.text);
	return code;
}

struct random_want {
	uint8_t *out;
	size_t len;
};

static CK_RV run_random(struct hsm *h, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key, struct hsm_call *call)
{
	struct random_want *want = call->arg;

	return h->f->C_GenerateRandom(session, want->out, want->len);
}

int hsm_random(struct hsm *h, uint8_t *out, size_t len, struct base_error *err)
{
	struct random_want want = { out, len };
	struct hsm_call call = { .run = run_random, .what = "get random numbers", .arg = &want };

	return hsm_call_run(h, &call, err);
}
