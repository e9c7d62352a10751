/*
 * base/crypto.h: the few primitives that more than one room uses, as thin wrappers of OpenSSL's EVP.
 * Every function returns 0 or -errno: -EIO when OpenSSL fails, -ENOMEM, -EBADMSG where something does not authenticate.
 */
#ifndef BASE_CRYPTO_H
#define BASE_CRYPTO_H

#include <stddef.h>
#include <stdint.h>

#define BASE_SIV_KEY 64 /* AES-256-SIV: two 256-bit keys */
#define BASE_SIV_TAG 16

/* base_random(out, len): OpenSSL's private DRBG. */
int base_random(void *out, size_t len);

/* base_hkdf_expand(prk, info, out): HKDF-Expand with SHA-256 (RFC 5869 section 2.3); prk_len >= 32, out_len <= 8160. */
int base_hkdf_expand(const uint8_t *prk, size_t prk_len, const void *info, size_t info_len, uint8_t *out, size_t out_len);

int base_sha256(const void *in, size_t len, uint8_t out[32]);

/* A keyed AES-256-SIV (RFC 5297) with one associated-data string. Safe to use from several threads at once: every call
 * works on a copy of the keyed context (OpenSSL 3.0 misbehaves when one is re-initialised with a NULL key). */
struct base_siv;
int base_siv_new(const uint8_t key[BASE_SIV_KEY], struct base_siv **ret);
void base_siv_free(struct base_siv *siv); /* NULL is fine; wipes */

/* base_siv_seal: out gets tag (16) then ciphertext (len), len >= 1; in and out do not overlap. */
int base_siv_seal(const struct base_siv *siv, const void *aad, size_t aad_len, const void *in, size_t len, uint8_t *out);

/* base_siv_open: in is tag then ciphertext, in_len >= 17; out gets in_len - 16 bytes, and is zeroed on failure.
 * -EBADMSG when it does not authenticate. */
int base_siv_open(const struct base_siv *siv, const void *aad, size_t aad_len, const uint8_t *in, size_t in_len, void *out);

#endif
