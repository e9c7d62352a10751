/*
 * fs/vault/cipher.c: keyed contexts for file content. Key schedules live in OpenSSL's contexts, so in locked memory, of which an
 * unprivileged user has little: a pool of a few dozen serves any number of open files.
 */
#include <errno.h>
#include <openssl/evp.h>
#include <stdlib.h>

#include "base/secret.h"
#include "content.h"

#define POOL 32
#define EPOCH_SHIFT 31
#define AAD_LABEL "keepfs v1 block"
#define AAD_SIZE (sizeof(AAD_LABEL) - 1 + BASE_ID_SIZE + 16)

struct vault_cipher {
	uint64_t owner;   /* serial of the file it is keyed for; 0 none */
	uint64_t epoch;   /* of the content key in gcm */
	bool gcm_keyed, ecb_keyed;
	EVP_CIPHER_CTX *gcm, *ecb;
	struct base_siv *state;
	uint64_t used;
	bool busy, pooled;
};

static struct {
	pthread_mutex_t mutex; /* guards everything here, and every entry that is not busy */
	struct vault_cipher entry[POOL];
	uint64_t tick;
} pool = { .mutex = PTHREAD_MUTEX_INITIALIZER };

static pthread_once_t fetch_once = PTHREAD_ONCE_INIT;
static EVP_CIPHER *gcm_cipher, *ecb_cipher;

static void fetch(void)
{
	gcm_cipher = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
	ecb_cipher = EVP_CIPHER_fetch(NULL, "AES-256-ECB", NULL);
}

/* Resetting a context wipes its key schedule. */
static void unkey(struct vault_cipher *c)
{
	if (c->gcm_keyed)
		EVP_CIPHER_CTX_reset(c->gcm);
	if (c->ecb_keyed)
		EVP_CIPHER_CTX_reset(c->ecb);
	base_siv_free(c->state);
	c->state = NULL;
	c->gcm_keyed = c->ecb_keyed = false;
	c->owner = 0;
}

static struct vault_cipher *pool_take(uint64_t serial)
{
	struct vault_cipher *best = NULL;

	pthread_mutex_lock(&pool.mutex);
	for (unsigned i = 0; i < POOL; i++) {
		struct vault_cipher *e = &pool.entry[i];

		if (e->busy)
			continue;
		if (e->owner == serial) {
			best = e;
			break;
		}
		if (!best || e->used < best->used)
			best = e;
	}
	if (best) {
		best->busy = best->pooled = true;
		best->used = ++pool.tick;
	}
	pthread_mutex_unlock(&pool.mutex);
	return best;
}

struct vault_cipher *vault_cipher_get(const struct vault_file *f)
{
	struct vault_cipher *c;

	pthread_once(&fetch_once, fetch);
	if (!gcm_cipher || !ecb_cipher)
		return NULL;
	c = pool_take(f->serial);
	if (!c && !(c = calloc(1, sizeof(*c))))
		return NULL;
	if (c->owner != f->serial)
		unkey(c);
	c->owner = f->serial;
	if ((!c->gcm && !(c->gcm = EVP_CIPHER_CTX_new())) || (!c->ecb && !(c->ecb = EVP_CIPHER_CTX_new()))) {
		vault_cipher_put(c);
		return NULL;
	}
	return c;
}

static void cipher_free(struct vault_cipher *c)
{
	unkey(c);
	EVP_CIPHER_CTX_free(c->gcm);
	EVP_CIPHER_CTX_free(c->ecb);
	free(c);
}

void vault_cipher_put(struct vault_cipher *c)
{
	if (!c)
		return;
	if (!c->pooled) {
		cipher_free(c);
		return;
	}
	pthread_mutex_lock(&pool.mutex);
	c->busy = false;
	pthread_mutex_unlock(&pool.mutex);
}

void vault_cipher_forget(uint64_t serial)
{
	pthread_mutex_lock(&pool.mutex);
	for (unsigned i = 0; i < POOL; i++)
		if (!pool.entry[i].busy && pool.entry[i].owner == serial)
			unkey(&pool.entry[i]);
	pthread_mutex_unlock(&pool.mutex);
}

const struct base_siv *vault_cipher_state(struct vault_cipher *c, const struct vault_file *f)
{
	if (!c->state && base_siv_new(f->keys->state, &c->state) != 0)
		c->state = NULL;
	return c->state;
}

static int gcm_key(struct vault_cipher *c, const struct vault_file *f, uint64_t epoch)
{
	uint8_t info[17 + 8];
	BASE_SECRET_AUTO uint8_t *key = NULL;

	if (c->gcm_keyed && c->epoch == epoch)
		return 0;
	if (!(key = base_secret_alloc(32)))
		return -ENOMEM;
	memcpy(info, "keepfs v1 content", 17);
	base_put64(info + 17, epoch);
	if (base_hkdf_expand(f->keys->master, sizeof(f->keys->master), info, sizeof(info), key, 32) != 0)
		return -EIO;
	c->gcm_keyed = true; /* also when init fails half way: unkey() then resets */
	c->epoch = epoch;
	if (EVP_CipherInit_ex(c->gcm, gcm_cipher, NULL, key, NULL, 1) != 1) {
		unkey(c);
		c->owner = f->serial;
		return -EIO;
	}
	return 0;
}

static void block_aad(const struct vault_file *f, uint64_t block, uint64_t meta, uint8_t aad[AAD_SIZE])
{
	size_t label = sizeof(AAD_LABEL) - 1;

	memcpy(aad, AAD_LABEL, label);
	memcpy(aad + label, f->id, BASE_ID_SIZE);
	base_put64(aad + label + BASE_ID_SIZE, block);
	base_put64(aad + label + BASE_ID_SIZE + 8, meta);
}

int vault_cipher_seal(struct vault_cipher *c, const struct vault_file *f, uint64_t block, struct vault_slot *slot, const uint8_t *in,
		      uint8_t *out)
{
	uint8_t aad[AAD_SIZE];
	int len = (int)META_LEN(slot->meta), n, r;

	if ((r = gcm_key(c, f, META_SEQ(slot->meta) >> EPOCH_SHIFT)) != 0)
		return r;
	block_aad(f, block, slot->meta, aad);
	if (EVP_CipherInit_ex(c->gcm, NULL, NULL, NULL, slot->nonce, 1) != 1 || EVP_EncryptUpdate(c->gcm, NULL, &n, aad, sizeof(aad)) != 1 ||
	    EVP_EncryptUpdate(c->gcm, out, &n, in, len) != 1 || n != len || EVP_EncryptFinal_ex(c->gcm, out + n, &n) != 1 ||
	    EVP_CIPHER_CTX_ctrl(c->gcm, EVP_CTRL_AEAD_GET_TAG, 16, slot->tag) != 1)
		return -EIO;
	return 0;
}

int vault_cipher_open(struct vault_cipher *c, const struct vault_file *f, uint64_t block, const struct vault_slot *slot, const uint8_t *in,
		      uint8_t *out)
{
	uint8_t aad[AAD_SIZE], tag[16];
	int len = (int)META_LEN(slot->meta), n, r;

	if ((r = gcm_key(c, f, META_SEQ(slot->meta) >> EPOCH_SHIFT)) != 0)
		return r;
	block_aad(f, block, slot->meta, aad);
	memcpy(tag, slot->tag, sizeof(tag));
	if (EVP_CipherInit_ex(c->gcm, NULL, NULL, NULL, slot->nonce, 0) != 1 || EVP_DecryptUpdate(c->gcm, NULL, &n, aad, sizeof(aad)) != 1 ||
	    EVP_DecryptUpdate(c->gcm, out, &n, in, len) != 1 || n != len || EVP_CIPHER_CTX_ctrl(c->gcm, EVP_CTRL_AEAD_SET_TAG, 16, tag) != 1)
		return -EIO;
	return EVP_DecryptFinal_ex(c->gcm, out + n, &n) == 1 ? 0 : -EBADMSG;
}

int vault_cipher_acc(struct vault_cipher *c, const struct vault_file *f, const uint64_t *blocks, const struct vault_slot *slots, unsigned n,
		     uint8_t acc[16])
{
	uint8_t buf[TAG_GROUP][16];
	int len;

	if (n == 0)
		return 0;
	if (!c->ecb_keyed) {
		c->ecb_keyed = true;
		if (EVP_EncryptInit_ex(c->ecb, ecb_cipher, NULL, f->keys->acc, NULL) != 1 || EVP_CIPHER_CTX_set_padding(c->ecb, 0) != 1) {
			EVP_CIPHER_CTX_reset(c->ecb);
			c->ecb_keyed = false;
			return -EIO;
		}
	}
	for (unsigned i = 0; i < n; i++) {
		base_put64(buf[i], blocks[i]);
		base_put64(buf[i] + 8, slots[i].meta);
	}
	if (EVP_EncryptUpdate(c->ecb, buf[0], &len, buf[0], (int)(n * 16)) != 1 || len != (int)(n * 16))
		return -EIO;
	for (unsigned i = 0; i < n; i++)
		acc_xor(buf[i], slots[i].tag);
	if (EVP_EncryptUpdate(c->ecb, buf[0], &len, buf[0], (int)(n * 16)) != 1 || len != (int)(n * 16))
		return -EIO;
	for (unsigned i = 0; i < n; i++)
		acc_xor(acc, buf[i]);
	return 0;
}
