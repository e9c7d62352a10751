/*
 * hsm/hsm.h: root keys in a PKCS#11 token. The only header of this room.
 *
 * One struct hsm per process and token. Modules, slots, tokens, login and key pairs go through libp11; AES-256 root keys
 * (which libp11 does not know) through PKCS#11 in the same module. Every function may block on the token. All are
 * thread-safe except hsm_close. A PIN that was refused is never tried again until hsm_pin_reset().
 *
 * Errors, everywhere: -ENOKEY the token or the key object cannot be reached now (module gone, token removed, object not
 * found); -EKEYREJECTED the PIN was refused or is latched; -EACCES a PIN is needed and there is no source for one;
 * -EBADMSG the blob does not authenticate (only said after a canary has shown that the token works); -EOPNOTSUPP the
 * token lacks every mechanism that we can wrap with; -ENOENT no such token or key; -EEXIST two objects carry one id;
 * -ETIMEDOUT no session became free in time; -ENOMEM; -EIO anything else, with the CKR_ name in the error text.
 */
#ifndef HSM_HSM_H
#define HSM_HSM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define HSM_ID_SIZE 16   /* CKA_ID of our objects: random */
#define HSM_BLOB_MAX 720 /* largest wrapped secret (RSA-4096 OAEP + GCM would fit) */

/* How a blob was wrapped. Stored on disk (fs/FORMAT.md, wrap slot): numbers never change meaning. */
enum hsm_mechanism {
	HSM_MECH_AES_GCM = 1, /* CKM_AES_GCM, AAD given, 96-bit IV, 128-bit tag */
};
enum hsm_iv_mode {
	HSM_IV_APP = 1,    /* we choose the IV; blob = IV 12 | ciphertext | tag 16 */
	HSM_IV_ZERO = 2,   /* zeros in, the HSM writes its IV back; blob as above */
	HSM_IV_APPEND = 3, /* the HSM appends its IV to its output; blob is normalised to IV | ciphertext | tag */
};

struct hsm_blob {
	uint8_t mechanism; /* enum hsm_mechanism */
	uint8_t hash;      /* 0 for AES-GCM */
	uint8_t iv_mode;   /* enum hsm_iv_mode */
	uint16_t len;
	uint8_t bytes[HSM_BLOB_MAX];
};

/*
 * Gives the PIN: writes at most cap - 1 characters and a NUL into pin, which is secret memory. 0 or -errno: -EACCES when
 * there is no source to ask. Called at most once per login.
 */
typedef int (*hsm_pin_fn)(void *ctx, char *pin, size_t cap, struct base_error *err);

struct hsm_config {
	const char *module;    /* path of the PKCS#11 module; NULL: the embedded SoftHSM2 (found among Debian's usual places) */
	const char *token;     /* token label; with the embedded default, the label given to hsm_token_create */
	const char *serial;    /* token serial or NULL: refuse another token that carries the same label */
	const char *token_dir; /* embedded only: private token directory (0700) */
	const char *conf_path; /* embedded only: path of the softhsm2.conf that hsm writes and points SOFTHSM2_CONF at */
	enum hsm_iv_mode iv_mode; /* 0: HSM_IV_APP */
	unsigned max_sessions; /* 0: 8 */
	hsm_pin_fn pin;
	void *pin_ctx;
};

struct hsm;

struct hsm_status {
	bool available;      /* a canary was wrapped and unwrapped just now */
	char module[256];
	char label[64];
	char serial[64];
	char manufacturer[64];
	char model[64];
	char reason[256];    /* why not available, else empty */
};

/*
 * hsm_token_create(config, so_pin, pin, err): embedded default only. Makes token_dir and conf_path, initialises one token
 * with config->token as its label, sets both PINs (NUL-terminated, secret memory), and makes it durable. Refuses (-EEXIST)
 * when token_dir already has a token: a token is never initialised over another.
 */
int hsm_token_create(const struct hsm_config *config, const char *so_pin, const char *pin, struct base_error *err);

/*
 * hsm_open(config, ret, err): load the module, find the token by label (and serial), log in. config is copied. With the
 * embedded default nothing is created. On any failure *ret is NULL, except -ENOKEY (token not reachable now): then *ret is
 * valid, and later calls try again with a back-off of a second.
 */
int hsm_open(const struct hsm_config *config, struct hsm **ret, struct base_error *err);
void hsm_close(struct hsm *h); /* sessions, logout, unload; NULL is fine */

/* hsm_seal(h): log out and close the sessions; the next use logs in again (asking for the PIN again). */
int hsm_seal(struct hsm *h, struct base_error *err);
/* hsm_pin_reset(h): the operator asks for another try after a refused PIN. */
void hsm_pin_reset(struct hsm *h);

/* hsm_status(h, ret): looks at the token now. Always fills ret; 0 when available, else the error it met. */
int hsm_status(struct hsm *h, struct hsm_status *ret);

/*
 * hsm_key_generate(h, label, id, err): a new AES-256 key in the token: sensitive, not extractable, not modifiable,
 * GCM only where the token knows CKA_ALLOWED_MECHANISMS, CKA_ID = a random id returned in id. Durable on return
 * (embedded: objects and directory are fsynced).
 * hsm_key_destroy(h, id, err): gone and durable on return; -ENOENT when there was none.
 * hsm_key_exists(h, id): 0, -ENOENT (the token answers, and has no such key), or -ENOKEY.
 */
int hsm_key_generate(struct hsm *h, const char *label, uint8_t id[HSM_ID_SIZE], struct base_error *err);
int hsm_key_destroy(struct hsm *h, const uint8_t id[HSM_ID_SIZE], struct base_error *err);
int hsm_key_exists(struct hsm *h, const uint8_t id[HSM_ID_SIZE]);

/*
 * hsm_wrap(h, id, aad, aad_len, in, in_len, ret, err): encrypt in (in_len <= 64) under key id with aad (aad_len >= 1).
 * hsm_unwrap(h, id, aad, aad_len, blob, out, out_len, err): the reverse; out (secret memory, out_len bytes, exactly the
 * length that was wrapped) is zeroed on failure.
 */
int hsm_wrap(struct hsm *h, const uint8_t id[HSM_ID_SIZE], const void *aad, size_t aad_len, const uint8_t *in, size_t in_len,
	     struct hsm_blob *ret, struct base_error *err);
int hsm_unwrap(struct hsm *h, const uint8_t id[HSM_ID_SIZE], const void *aad, size_t aad_len, const struct hsm_blob *blob,
	       uint8_t *out, size_t out_len, struct base_error *err);

/* hsm_random(h, out, len, err): the token's random generator. */
int hsm_random(struct hsm *h, uint8_t *out, size_t len, struct base_error *err);

#endif
