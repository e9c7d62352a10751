/*
 * Wrapping by CKM_AES_GCM. The wrapped secret is data to the token, never an object in it. AAD is always given: it binds
 * the blob to its place, and SoftHSM 2.6.1 can crash without.
 */
#include <errno.h>
#include <string.h>

#include "base/crypto.h"
#include "base/secret.h"
#include "internal.h"

#define IV_SIZE 12
#define TAG_SIZE 16
#define SECRET_MAX 64
#define OUTPUT_MAX (SECRET_MAX + TAG_SIZE + 16) /* with an IV appended by the token */

struct wrap {
	const void *aad;
	size_t aad_len;
	const uint8_t *in;
	size_t in_len;
	struct hsm_blob *blob;
	const struct hsm_blob *from;
	uint8_t *out;
	size_t out_len;
};

static void gcm_init(CK_MECHANISM *mechanism, CK_GCM_PARAMS *params, uint8_t iv[IV_SIZE], const void *aad, size_t aad_len)
{
	params->iv_ptr = iv;
	params->iv_len = IV_SIZE;
	params->iv_bits = IV_SIZE * 8;
	params->aad_ptr = (unsigned char *)aad;
	params->aad_len = aad_len;
	params->tag_bits = TAG_SIZE * 8;
	mechanism->mechanism = CKM_AES_GCM;
	mechanism->pParameter = params;
	mechanism->ulParameterLen = sizeof(*params);
}

/* The token's output becomes IV | ciphertext | tag. */
static CK_RV normalise(struct hsm *h, const uint8_t iv[IV_SIZE], const uint8_t *output, CK_ULONG len, struct wrap *w)
{
	const uint8_t *from = iv;

	if (h->iv_mode == HSM_IV_APPEND) {
		if (len != w->in_len + TAG_SIZE + IV_SIZE)
			return CKR_MECHANISM_PARAM_INVALID;
		len -= IV_SIZE;
		from = output + len;
	}
	if (len != w->in_len + TAG_SIZE)
		return CKR_GENERAL_ERROR;
	if (h->iv_mode == HSM_IV_ZERO && memcmp(iv, "\0\0\0\0\0\0\0\0\0\0\0", IV_SIZE) == 0)
		return CKR_MECHANISM_PARAM_INVALID; /* it took our zeros for the IV: every blob would have the same one */
	memset(w->blob, 0, sizeof(*w->blob));
	w->blob->mechanism = HSM_MECH_AES_GCM;
	w->blob->iv_mode = (uint8_t)h->iv_mode;
	w->blob->len = (uint16_t)(IV_SIZE + len);
	memcpy(w->blob->bytes, from, IV_SIZE);
	memcpy(w->blob->bytes + IV_SIZE, output, len);
	return CKR_OK;
}

static CK_RV encrypt(struct hsm *h, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key, struct wrap *w)
{
	uint8_t iv[IV_SIZE] = { 0 }, output[OUTPUT_MAX];
	CK_ULONG len = sizeof(output);
	CK_MECHANISM mechanism;
	CK_GCM_PARAMS params;
	CK_RV rv;

	if (h->iv_mode == HSM_IV_APP && base_random(iv, sizeof(iv)) < 0)
		return CKR_HOST_MEMORY;
	gcm_init(&mechanism, &params, iv, w->aad, w->aad_len);
	rv = h->f->C_EncryptInit(session, &mechanism, key);
	if (rv == CKR_OK)
		rv = h->f->C_Encrypt(session, (unsigned char *)w->in, w->in_len, output, &len);
	return rv == CKR_OK ? normalise(h, iv, output, len, w) : rv;
}

static CK_RV decrypt(struct hsm *h, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key, struct wrap *w)
{
	const struct hsm_blob *blob = w->from;
	BASE_SECRET_AUTO uint8_t *plain = NULL;
	CK_ULONG len = OUTPUT_MAX; /* tokens want room for the tag as well */
	CK_MECHANISM mechanism;
	CK_GCM_PARAMS params;
	uint8_t iv[IV_SIZE];
	CK_RV rv;

	if (blob->len != IV_SIZE + w->out_len + TAG_SIZE)
		return CKR_ENCRYPTED_DATA_LEN_RANGE;
	plain = base_secret_alloc(OUTPUT_MAX);
	if (!plain)
		return CKR_HOST_MEMORY;
	memcpy(iv, blob->bytes, IV_SIZE);
	gcm_init(&mechanism, &params, iv, w->aad, w->aad_len);
	rv = h->f->C_DecryptInit(session, &mechanism, key);
	if (rv == CKR_OK)
		rv = h->f->C_Decrypt(session, (unsigned char *)blob->bytes + IV_SIZE, blob->len - IV_SIZE, plain, &len);
	if (rv == CKR_OK && len != w->out_len)
		rv = CKR_ENCRYPTED_DATA_LEN_RANGE;
	if (rv == CKR_OK)
		memcpy(w->out, plain, w->out_len);
	return rv;
}

CK_RV hsm_canary(struct hsm *h, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key)
{
	static const char aad[] = "keepfs canary";
	BASE_SECRET_AUTO uint8_t *value = base_secret_alloc(64);
	struct hsm_blob blob = { 0 };
	struct wrap w = { .aad = aad, .aad_len = sizeof(aad), .in = value, .in_len = 32, .blob = &blob, .from = &blob,
			  .out_len = 32 };
	CK_RV rv;

	if (!value || base_random(value, 32) < 0)
		return CKR_HOST_MEMORY;
	w.out = value + 32;
	rv = encrypt(h, session, key, &w);
	if (rv == CKR_OK)
		rv = decrypt(h, session, key, &w);
	if (rv != CKR_OK)
		return rv;
	return base_secret_equal(value, value + 32, 32) ? CKR_OK : CKR_DEVICE_ERROR;
}

CK_RV hsm_canary_session(struct hsm *h, CK_SESSION_HANDLE session)
{
	CK_ULONG size = 32;
	CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
	CK_MECHANISM mechanism = { CKM_AES_KEY_GEN, NULL, 0 };
	CK_ATTRIBUTE attributes[] = {
		{ CKA_VALUE_LEN, &size, sizeof(size) },
		{ CKA_TOKEN, &no, sizeof(no) },
		{ CKA_SENSITIVE, &yes, sizeof(yes) },
		{ CKA_EXTRACTABLE, &no, sizeof(no) },
		{ CKA_ENCRYPT, &yes, sizeof(yes) },
		{ CKA_DECRYPT, &yes, sizeof(yes) },
	};
	CK_OBJECT_HANDLE key;
	CK_RV rv;

	rv = h->f->C_GenerateKey(session, &mechanism, attributes, sizeof(attributes) / sizeof(attributes[0]), &key);
	if (rv != CKR_OK)
		return rv;
	rv = hsm_canary(h, session, key);
	h->f->C_DestroyObject(session, key);
	return rv;
}

static CK_RV run_wrap(struct hsm *h, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key, struct hsm_call *call)
{
	return encrypt(h, session, key, call->arg);
}

int hsm_wrap(struct hsm *h, const uint8_t id[HSM_ID_SIZE], const void *aad, size_t aad_len, const uint8_t *in, size_t in_len,
	     struct hsm_blob *ret, struct base_error *err)
{
	struct wrap w = { .aad = aad, .aad_len = aad_len, .in = in, .in_len = in_len, .blob = ret };
	struct hsm_call call = { .run = run_wrap, .what = "wrap a file key", .id = id, .missing = -ENOKEY, .arg = &w };
	int code;

	if (aad_len == 0 || in_len == 0 || in_len > SECRET_MAX)
		return base_error_set(err, -EINVAL, BASE_EXIT_FAILED, "cannot wrap %zu bytes with %zu bytes of context", in_len,
				      aad_len);
	code = hsm_call_run(h, &call, err);
	hsm_scrub();
	return code;
}

static CK_RV run_unwrap(struct hsm *h, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key, struct hsm_call *call)
{
	return decrypt(h, session, key, call->arg);
}

int hsm_unwrap(struct hsm *h, const uint8_t id[HSM_ID_SIZE], const void *aad, size_t aad_len, const struct hsm_blob *blob,
	       uint8_t *out, size_t out_len, struct base_error *err)
{
	struct wrap w = { .aad = aad, .aad_len = aad_len, .from = blob, .out = out, .out_len = out_len };
	struct hsm_call call = { .run = run_unwrap, .what = "unwrap a file key", .id = id, .missing = -ENOKEY, .data = true,
				 .arg = &w };
	int code;

	base_secret_wipe(out, out_len);
	if (aad_len == 0 || out_len == 0 || out_len > SECRET_MAX)
		return base_error_set(err, -EINVAL, BASE_EXIT_FAILED, "cannot unwrap %zu bytes with %zu bytes of context", out_len,
				      aad_len);
	if (blob->mechanism != HSM_MECH_AES_GCM || blob->hash != 0 || blob->iv_mode < HSM_IV_APP ||
	    blob->iv_mode > HSM_IV_APPEND)
		return base_error_set(err, -EOPNOTSUPP, BASE_EXIT_FAILED,
				      "cannot unwrap a file key: it is wrapped in a way (mechanism %u, hash %u, IV mode %u) that this "
				      "version does not know", blob->mechanism, blob->hash, blob->iv_mode);
	code = hsm_call_run(h, &call, err);
	hsm_scrub();
	if (code < 0)
		base_secret_wipe(out, out_len);
	return code;
}
