/* AES-256 root keys: finding, making, destroying. libp11 knows no secret keys: all of this is PKCS#11. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "base/crypto.h"
#include "internal.h"

CK_RV hsm_key_find(struct hsm *h, CK_SESSION_HANDLE session, const uint8_t *id, CK_OBJECT_HANDLE found[2], CK_ULONG *ret)
{
	CK_OBJECT_CLASS class = CKO_SECRET_KEY;
	CK_BBOOL yes = CK_TRUE;
	CK_ATTRIBUTE match[] = {
		{ CKA_CLASS, &class, sizeof(class) },
		{ CKA_TOKEN, &yes, sizeof(yes) },
		{ CKA_ID, (void *)id, HSM_ID_SIZE },
	};
	CK_RV rv, final;

	*ret = 0;
	rv = h->f->C_FindObjectsInit(session, match, 3);
	if (rv != CKR_OK)
		return rv;
	rv = h->f->C_FindObjects(session, found, 2, ret);
	final = h->f->C_FindObjectsFinal(session);
	return rv != CKR_OK ? rv : final;
}

/* keys_lock is held. */
static void forget(struct hsm *h, struct hsm_key *key)
{
	HASH_DEL(h->keys, key);
	if (h->last_key == key)
		h->last_key = NULL;
	free(key);
}

void hsm_key_forget(struct hsm *h, const uint8_t *id)
{
	struct hsm_key *key, *next;

	pthread_mutex_lock(&h->keys_lock);
	if (id) {
		HASH_FIND(hh, h->keys, id, HSM_ID_SIZE, key);
		if (key)
			forget(h, key);
	} else {
		HASH_ITER(hh, h->keys, key, next)
			forget(h, key);
	}
	pthread_mutex_unlock(&h->keys_lock);
}

/* Failing to remember only costs the next search. */
static void remember(struct hsm *h, const uint8_t *id, CK_OBJECT_HANDLE handle)
{
	struct hsm_key *key;

	pthread_mutex_lock(&h->keys_lock);
	HASH_FIND(hh, h->keys, id, HSM_ID_SIZE, key);
	if (!key) {
		key = calloc(1, sizeof(*key));
		if (key) {
			memcpy(key->id, id, HSM_ID_SIZE);
			HASH_ADD(hh, h->keys, id, HSM_ID_SIZE, key);
		}
	}
	if (key) {
		key->handle = handle;
		h->last_key = key;
	}
	pthread_mutex_unlock(&h->keys_lock);
}

static bool cached(struct hsm *h, const uint8_t *id, CK_OBJECT_HANDLE *ret)
{
	struct hsm_key *key;

	pthread_mutex_lock(&h->keys_lock);
	HASH_FIND(hh, h->keys, id, HSM_ID_SIZE, key);
	if (key) {
		*ret = key->handle;
		h->last_key = key;
	}
	pthread_mutex_unlock(&h->keys_lock);
	return key != NULL;
}

int hsm_key_lookup(struct hsm *h, CK_SESSION_HANDLE session, struct hsm_call *call, CK_OBJECT_HANDLE *ret, CK_RV *rv)
{
	char text[BASE_ID_TEXT];
	CK_OBJECT_HANDLE found[2];
	CK_ULONG count;

	*rv = CKR_OK;
	if (!call->fresh && cached(h, call->id, ret))
		return 0;
	*rv = hsm_key_find(h, session, call->id, found, &count);
	if (*rv != CKR_OK)
		return 0;
	if (count == 1) {
		*ret = found[0];
		remember(h, call->id, found[0]);
		return 0;
	}
	hsm_key_forget(h, call->id);
	base_hex(call->id, HSM_ID_SIZE, text);
	if (count > 1)
		return base_error_set(call->err, -EEXIST, BASE_EXIT_FAILED,
				      "cannot %s: token \"%s\" has several keys with id %s; remove the one that does not belong there",
				      call->what, h->label, text);
	return base_error_set(call->err, call->missing, BASE_EXIT_NOT_FOUND,
			      "cannot %s: token \"%s\" has no key with id %s; check that it is the right token, or restore it",
			      call->what, h->label, text);
}

/* What was asked for must also be what was made: tokens are known to ignore attributes. */
static int check_made(struct hsm *h, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key, struct base_error *err)
{
	CK_BBOOL sensitive = CK_FALSE, always = CK_FALSE, extractable = CK_TRUE, never = CK_FALSE, local = CK_FALSE;
	CK_ATTRIBUTE got[] = {
		{ CKA_SENSITIVE, &sensitive, sizeof(sensitive) },
		{ CKA_ALWAYS_SENSITIVE, &always, sizeof(always) },
		{ CKA_EXTRACTABLE, &extractable, sizeof(extractable) },
		{ CKA_NEVER_EXTRACTABLE, &never, sizeof(never) },
		{ CKA_LOCAL, &local, sizeof(local) },
	};
	CK_RV rv = h->f->C_GetAttributeValue(session, key, got, 5);

	if (rv != CKR_OK)
		return hsm_ckr_error(err, rv, "read the attributes of a new key", h->label);
	if (!sensitive || !always || extractable || !never || !local)
		return base_error_set(err, -EIO, BASE_EXIT_FAILED,
				      "token \"%s\" made a key that could leave it; it was destroyed again: use another token", h->label);
	return 0;
}

struct generate {
	const char *label;
	uint8_t *id;
};

static CK_RV make_key(struct hsm *h, CK_SESSION_HANDLE session, const struct generate *g, CK_OBJECT_HANDLE *ret)
{
	CK_OBJECT_CLASS class = CKO_SECRET_KEY;
	CK_KEY_TYPE type = CKK_AES;
	CK_ULONG size = 32;
	CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
	CK_MECHANISM_TYPE gcm = CKM_AES_GCM;
	CK_MECHANISM mechanism = { CKM_AES_KEY_GEN, NULL, 0 };
	CK_ATTRIBUTE attributes[] = {
		{ CKA_CLASS, &class, sizeof(class) },
		{ CKA_KEY_TYPE, &type, sizeof(type) },
		{ CKA_VALUE_LEN, &size, sizeof(size) },
		{ CKA_LABEL, (void *)g->label, strlen(g->label) },
		{ CKA_ID, g->id, HSM_ID_SIZE },
		{ CKA_TOKEN, &yes, sizeof(yes) },
		{ CKA_PRIVATE, &yes, sizeof(yes) },
		{ CKA_SENSITIVE, &yes, sizeof(yes) },
		{ CKA_EXTRACTABLE, &no, sizeof(no) },
		{ CKA_MODIFIABLE, &no, sizeof(no) },
		{ CKA_ENCRYPT, &yes, sizeof(yes) },
		{ CKA_DECRYPT, &yes, sizeof(yes) },
		{ CKA_WRAP, &no, sizeof(no) },
		{ CKA_UNWRAP, &no, sizeof(no) },
		{ CKA_SIGN, &no, sizeof(no) },
		{ CKA_VERIFY, &no, sizeof(no) },
		{ CKA_DERIVE, &no, sizeof(no) },
		{ CKA_ALLOWED_MECHANISMS, &gcm, sizeof(gcm) },
	};
	CK_ULONG count = sizeof(attributes) / sizeof(attributes[0]);
	CK_RV rv = h->f->C_GenerateKey(session, &mechanism, attributes, count, ret);

	/* The last attribute is newer than many tokens. */
	if (rv == CKR_ATTRIBUTE_TYPE_INVALID || rv == CKR_ATTRIBUTE_VALUE_INVALID || rv == CKR_TEMPLATE_INCONSISTENT)
		rv = h->f->C_GenerateKey(session, &mechanism, attributes, count - 1, ret);
	return rv;
}

static CK_RV run_generate(struct hsm *h, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE unused, struct hsm_call *call)
{
	const struct generate *g = call->arg;
	time_t since = time(NULL);
	CK_OBJECT_HANDLE key;
	CK_RV rv;

	/* A new id for each try: one that failed half-way may have left an object behind. */
	call->code = base_random(g->id, HSM_ID_SIZE);
	if (call->code < 0) {
		base_error_set(call->err, call->code, BASE_EXIT_FAILED, "cannot get random numbers for a key id");
		return CKR_OK;
	}
	rv = make_key(h, session, g, &key);
	if (rv != CKR_OK)
		return rv;
	call->code = check_made(h, session, key, call->err);
	if (call->code == 0)
		call->code = hsm_softhsm_sync(h, since, call->err);
	if (call->code < 0)
		h->f->C_DestroyObject(session, key);
	else
		remember(h, g->id, key);
	return CKR_OK;
}

int hsm_key_generate(struct hsm *h, const char *label, uint8_t id[HSM_ID_SIZE], struct base_error *err)
{
	struct generate g = { .label = label, .id = id };
	struct hsm_call call = { .run = run_generate, .what = "make a root key", .exclusive = true, .arg = &g };

	return hsm_call_run(h, &call, err);
}

static CK_RV run_destroy(struct hsm *h, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key, struct hsm_call *call)
{
	time_t since = time(NULL);
	bool *tried = call->arg;
	CK_RV rv;

	*tried = true;
	hsm_key_forget(h, call->id);
	rv = h->f->C_DestroyObject(session, key);
	if (rv == CKR_OK)
		call->code = hsm_softhsm_sync(h, since, call->err);
	return rv;
}

int hsm_key_destroy(struct hsm *h, const uint8_t id[HSM_ID_SIZE], struct base_error *err)
{
	bool tried = false;
	struct hsm_call call = { .run = run_destroy, .what = "destroy a root key", .id = id, .missing = -ENOENT,
				 .fresh = true, .exclusive = true, .arg = &tried };
	struct base_error own = { 0 };
	int ret = hsm_call_run(h, &call, &own);

	/* The first try reported a fault and yet did it: the second found nothing left. */
	if (ret == -ENOENT && tried)
		return 0;
	if (ret < 0 && err)
		*err = own;
	return ret;
}

static CK_RV run_exists(struct hsm *h, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key, struct hsm_call *call)
{
	CK_OBJECT_CLASS class = 0;
	CK_ATTRIBUTE got = { CKA_CLASS, &class, sizeof(class) };

	return h->f->C_GetAttributeValue(session, key, &got, 1);
}

int hsm_key_exists(struct hsm *h, const uint8_t id[HSM_ID_SIZE])
{
	struct hsm_call call = { .run = run_exists, .what = "look for a root key", .id = id, .missing = -ENOENT, .fresh = true };

	return hsm_call_run(h, &call, NULL);
}
