#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <string.h>

#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/rand.h>

#include "base/crypto.h"
#include "base/secret.h"

/* Fetched once: a fetch walks the providers and costs more than a seal. Never freed; OpenSSL's exit handler comes later. */
static pthread_once_t fetch_once = PTHREAD_ONCE_INIT;
static EVP_CIPHER *siv_cipher;
static EVP_KDF *hkdf;
static EVP_MD *sha256;

static void fetch_all(void)
{
	siv_cipher = EVP_CIPHER_fetch(NULL, "AES-256-SIV", NULL);
	hkdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
	sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
}

static int fetched(void)
{
	return pthread_once(&fetch_once, fetch_all) == 0 && siv_cipher && hkdf && sha256;
}

/* What the failed call left in this thread's error queue, as errno; the queue is emptied. */
static int openssl_errno(int otherwise)
{
	unsigned long e = ERR_peek_last_error();

	ERR_clear_error();
	return e && ERR_GET_REASON(e) == ERR_R_MALLOC_FAILURE ? -ENOMEM : otherwise;
}

int base_random(void *out, size_t len)
{
	return RAND_priv_bytes_ex(NULL, out, len, 0) == 1 ? 0 : openssl_errno(-EIO);
}

int base_hkdf_expand(const uint8_t *prk, size_t prk_len, const void *info, size_t info_len, uint8_t *out, size_t out_len)
{
	int mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY, ret = 0;
	EVP_KDF_CTX *ctx;
	OSSL_PARAM params[] = {
		OSSL_PARAM_construct_int(OSSL_KDF_PARAM_MODE, &mode),
		OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, (char *)"SHA256", 0),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)prk, prk_len),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, (void *)info, info_len),
		OSSL_PARAM_construct_end(),
	};

	if (prk_len < 32 || out_len == 0 || out_len > 8160)
		return -EINVAL;
	if (info_len == 0)
		params[3] = OSSL_PARAM_construct_end();
	if (!fetched())
		return openssl_errno(-EIO);
	ctx = EVP_KDF_CTX_new(hkdf);
	if (!ctx)
		return openssl_errno(-ENOMEM);
	if (EVP_KDF_derive(ctx, out, out_len, params) != 1) {
		ret = openssl_errno(-EIO);
		base_secret_wipe(out, out_len);
	}
	EVP_KDF_CTX_free(ctx);
	return ret;
}

int base_sha256(const void *in, size_t len, uint8_t out[32])
{
	if (!fetched() || EVP_Digest(in, len, out, NULL, sha256, NULL) != 1)
		return openssl_errno(-EIO);
	return 0;
}

/* Only ever read after base_siv_new: calls copy a context and work on the copy. */
struct base_siv {
	EVP_CIPHER_CTX *seal;
	EVP_CIPHER_CTX *open;
};

int base_siv_new(const uint8_t key[BASE_SIV_KEY], struct base_siv **ret)
{
	struct base_siv *siv;
	int code;

	*ret = NULL;
	if (!fetched())
		return openssl_errno(-EIO);
	siv = base_secret_alloc(sizeof(*siv));
	if (!siv)
		return -ENOMEM;
	siv->seal = EVP_CIPHER_CTX_new();
	siv->open = EVP_CIPHER_CTX_new();
	if (!siv->seal || !siv->open || EVP_EncryptInit_ex2(siv->seal, siv_cipher, key, NULL, NULL) != 1 ||
	    EVP_DecryptInit_ex2(siv->open, siv_cipher, key, NULL, NULL) != 1) {
		code = openssl_errno(-EIO);
		base_siv_free(siv);
		return code;
	}
	*ret = siv;
	return 0;
}

void base_siv_free(struct base_siv *siv)
{
	if (!siv)
		return;
	EVP_CIPHER_CTX_free(siv->seal);
	EVP_CIPHER_CTX_free(siv->open);
	base_secret_free(siv);
}

/* A copy of a keyed context that has taken the associated data. */
static EVP_CIPHER_CTX *siv_begin(const EVP_CIPHER_CTX *keyed, const void *aad, size_t aad_len)
{
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	int n;

	if (!ctx || EVP_CIPHER_CTX_copy(ctx, keyed) != 1 || EVP_CipherUpdate(ctx, NULL, &n, aad, (int)aad_len) != 1) {
		EVP_CIPHER_CTX_free(ctx);
		return NULL;
	}
	return ctx;
}

int base_siv_seal(const struct base_siv *siv, const void *aad, size_t aad_len, const void *in, size_t len, uint8_t *out)
{
	EVP_CIPHER_CTX *ctx;
	int n = 0, last = 0, ret = 0;

	/* OpenSSL would take an empty string as none at all, which RFC 5297 tells apart. */
	if (aad_len == 0 || aad_len > INT_MAX || len == 0 || len > INT_MAX)
		return -EINVAL;
	ctx = siv_begin(siv->seal, aad, aad_len);
	if (!ctx)
		return openssl_errno(-EIO);
	if (EVP_EncryptUpdate(ctx, out + BASE_SIV_TAG, &n, in, (int)len) != 1 || n != (int)len ||
	    EVP_EncryptFinal_ex(ctx, out + BASE_SIV_TAG + len, &last) != 1 || last != 0 ||
	    EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, BASE_SIV_TAG, out) != 1) {
		ret = openssl_errno(-EIO);
		memset(out, 0, len + BASE_SIV_TAG);
	}
	EVP_CIPHER_CTX_free(ctx);
	return ret;
}

int base_siv_open(const struct base_siv *siv, const void *aad, size_t aad_len, const uint8_t *in, size_t in_len, void *out)
{
	EVP_CIPHER_CTX *ctx;
	int len, n = 0, last = 0, ret = 0;

	if (aad_len == 0 || aad_len > INT_MAX || in_len <= BASE_SIV_TAG || in_len > INT_MAX)
		return -EINVAL;
	len = (int)in_len - BASE_SIV_TAG;
	ctx = siv_begin(siv->open, aad, aad_len);
	if (!ctx || EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, BASE_SIV_TAG, (void *)in) != 1)
		ret = openssl_errno(-EIO);
	else if (EVP_DecryptUpdate(ctx, out, &n, in + BASE_SIV_TAG, len) != 1 ||
		 EVP_DecryptFinal_ex(ctx, (uint8_t *)out + len, &last) != 1)
		ret = openssl_errno(-EBADMSG);
	else if (n != len || last != 0)
		ret = -EIO;
	EVP_CIPHER_CTX_free(ctx);
	if (ret < 0)
		base_secret_wipe(out, (size_t)len);
	return ret;
}
