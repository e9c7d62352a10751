/*
 * hsm/internal.h: what the files of this room share. See DESIGN.md.
 */
#ifndef HSM_INTERNAL_H
#define HSM_INTERNAL_H

#include <pthread.h>

#include <libp11.h>
#include <p11-kit/pkcs11.h>
#include <uthash.h>

#include "base/error.h"
#include "hsm/hsm.h"

enum hsm_state {
	HSM_DOWN,   /* module not loaded, or not to be trusted: the next try starts from dlopen */
	HSM_SEALED, /* module loaded, nobody logged in */
	HSM_UP,
};

struct hsm_key {
	uint8_t id[HSM_ID_SIZE];
	CK_OBJECT_HANDLE handle;
	UT_hash_handle hh;
};

struct hsm {
	/* Constant after hsm_open. */
	char *module;
	char *label;
	char *token_dir; /* embedded SoftHSM2 only, else NULL */
	char *conf_path;
	enum hsm_iv_mode iv_mode;
	unsigned max_sessions;
	hsm_pin_fn pin;
	void *pin_ctx;

	/*
	 * Guards everything down to pool_lock. Held for reading around every use of the token; for writing while the module,
	 * the login or the set of token objects changes, so that these never run beside a use.
	 */
	pthread_rwlock_t lock;
	enum hsm_state state;
	bool sealed;             /* by hsm_seal, or no PIN to be had: a look at the status does not log in */
	uint64_t generation;     /* grows with each login: handles of an older one are dead */
	uint64_t retry_at;       /* CLOCK_MONOTONIC ns: no new try before that */
	uint64_t reset_at;       /* when the module was last loaded */
	struct base_error down;  /* why it is down */
	bool pin_refused;        /* latched until hsm_pin_reset */
	bool pin_last_try;       /* the operator allowed the last try of the token */
	char serial[64];         /* asked for, or learnt at the first login; empty: any */
	char object_path[512];   /* embedded: token.object of our token; empty before the first login */
	void *dl;
	CK_FUNCTION_LIST *f;
	PKCS11_CTX *ctx;
	PKCS11_SLOT *slots;
	unsigned slot_count;
	PKCS11_SLOT *slot;       /* one of slots */
	CK_SLOT_ID slot_id;

	pthread_mutex_t pool_lock; /* guards the four below */
	pthread_cond_t pool_cond;
	CK_SESSION_HANDLE *idle;
	unsigned idle_count, open_count, open_max;

	pthread_mutex_t keys_lock; /* guards the two below */
	struct hsm_key *keys;
	struct hsm_key *last_key; /* the canary's choice */
};

/* ckr.c */
enum hsm_fault {
	HSM_FAULT_NONE,
	HSM_FAULT_DATA,      /* what we gave was bad */
	HSM_FAULT_RETRY,     /* this session only */
	HSM_FAULT_SESSION,   /* sessions, login or handles are gone */
	HSM_FAULT_DEVICE,    /* the token is gone */
	HSM_FAULT_GENERAL,   /* may mean anything */
	HSM_FAULT_MECHANISM, /* the token cannot do that */
	HSM_FAULT_MEMORY,
	HSM_FAULT_PIN,
	HSM_FAULT_OTHER,
};
const char *hsm_ckr_name(CK_RV rv);
enum hsm_fault hsm_ckr_fault(CK_RV rv);
/* Fill err for a failed call: "cannot <what> ...: CKR_...". Returns the -errno of hsm.h. */
int hsm_ckr_error(struct base_error *err, CK_RV rv, const char *what, const char *token);
/* The CKR of libp11's latest failure in this thread; empties OpenSSL's error queue. */
CK_RV hsm_ckr_libp11(void);

/* module.c: all with h->lock held for writing. */
int hsm_module_load(struct hsm *h, struct base_error *err);
void hsm_module_unload(struct hsm *h);
int hsm_module_select(struct hsm *h, struct base_error *err); /* find the token anew; every session is gone */
void hsm_module_release(struct hsm *h);                       /* give the slots back: sessions and login are gone */
const char *hsm_module_default(void);

/* session.c: the pool; with h->lock held. */
int hsm_session_init(struct hsm *h);
void hsm_session_done(struct hsm *h);
/* 0; -ETIMEDOUT with err filled; or -EIO with *rv set and err untouched. */
int hsm_session_take(struct hsm *h, CK_SESSION_HANDLE *ret, CK_RV *rv, struct base_error *err);
void hsm_session_give(struct hsm *h, CK_SESSION_HANDLE session);
void hsm_session_drop(struct hsm *h, CK_SESSION_HANDLE session);
void hsm_session_drop_all(struct hsm *h); /* lock held for writing */

/* login.c */
int hsm_login(struct hsm *h, struct base_error *err);    /* lock held for writing: select, check, log in */
int hsm_bring_up(struct hsm *h, struct base_error *err); /* lock held for writing: whatever the state needs to become HSM_UP */
void hsm_quiesce(struct hsm *h);                         /* lock held for writing: sessions and cached handles away */
/* One fault of a call that saw `generation`: log in again, or (reset) load the module anew. Takes the lock. */
int hsm_recover(struct hsm *h, uint64_t generation, bool reset, struct base_error *err);
/* The token is unavailable for a second; err says why and is kept. Takes the lock. Returns err->code. */
int hsm_fail(struct hsm *h, uint64_t generation, struct base_error *err);
/* call.c: one operation on the token, with the recovery ladder around it. */
struct hsm_call {
	/* Returns a CK_RV; or sets code (and err) and returns CKR_OK. key is the handle for id, else 0. */
	CK_RV (*run)(struct hsm *h, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key, struct hsm_call *call);
	const char *what;     /* for messages: "wrap a file key" */
	const uint8_t *id;    /* the key to look up first, or NULL */
	int missing;          /* -errno for a key that the token does not have */
	bool fresh;           /* do not trust the cached handle */
	bool exclusive;       /* creates or destroys objects: alone, in a read-write session */
	bool data;            /* a bad blob is possible: a canary decides whose fault an error is */
	int code;
	struct base_error *err; /* never NULL inside run */
	void *arg;
};
int hsm_call_run(struct hsm *h, struct hsm_call *call, struct base_error *err);

/* key.c */
CK_RV hsm_key_find(struct hsm *h, CK_SESSION_HANDLE session, const uint8_t *id, CK_OBJECT_HANDLE found[2], CK_ULONG *ret);
int hsm_key_lookup(struct hsm *h, CK_SESSION_HANDLE session, struct hsm_call *call, CK_OBJECT_HANDLE *ret, CK_RV *rv);
void hsm_key_forget(struct hsm *h, const uint8_t *id); /* NULL: all */

/* wrap.c: encrypt and decrypt a random value; CKR_OK when it came back. */
CK_RV hsm_canary(struct hsm *h, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key);
/* The same under a key made for it in the session: shows whether the module works at all. */
CK_RV hsm_canary_session(struct hsm *h, CK_SESSION_HANDLE session);

/* scrub.c: overwrite what libraries left of secrets on the stack below the caller, and in vector registers. */
void hsm_scrub(void);

/* softhsm.c: what only the embedded SoftHSM2 needs; all are no-ops (or 0) for another module. */
void hsm_softhsm_restore(const char *token_dir); /* mend what an interrupted login has left */
int hsm_softhsm_configure(const char *token_dir, const char *conf_path, struct base_error *err);
int hsm_softhsm_present(const struct hsm *h, struct base_error *err); /* 0, or -ENOKEY when the token's files are away */
void hsm_softhsm_learn(struct hsm *h);                                /* remember token.object of the selected token */
int hsm_softhsm_sync(const struct hsm *h, time_t since, struct base_error *err); /* fsync what changed since then */

/* keep.c: a copy of token.object against interrupted logins. restore_one is called for each token before the module starts. */
void hsm_softhsm_keep(const struct hsm *h);
int hsm_softhsm_restore_one(const char *object_path, const char *name, void *arg);

#endif
