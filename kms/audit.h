/*
 * kms/audit.h: the audit trail. audit.c writes (group commit), audit_chain.c hashes, seals, and verifies.
 */
#ifndef KMS_AUDIT_H
#define KMS_AUDIT_H

#include <stdatomic.h>

#include "internal.h"
#include "store.h"

/* Numbers of the store: they never change meaning. */
enum kms_outcome { KMS_OUTCOME_ALLOWED = 0, KMS_OUTCOME_DENIED = 1, KMS_OUTCOME_FAILED = 2 };

#define KMS_AUDIT_REASON_MAX 256  /* bytes with the NUL; longer texts are cut */
#define KMS_AUDIT_PROGRAM_MAX 512
#define KMS_AUDIT_PATH_MAX 4096   /* clear bytes sealed; of longer paths the end is kept */
#define KMS_AUDIT_NONCE 16
#define KMS_AUDIT_SEALED_MAX (KMS_AUDIT_NONCE + 16 + KMS_AUDIT_PATH_MAX)

struct kms_event {
	const struct kms_caller *caller;
	const char *action;
	const uint8_t *key_id;             /* NULL: none */
	uint32_t version;                  /* 0: none */
	const struct kms_subject *subject; /* NULL: none */
	const char *rule, *reason;         /* NULL: none */
	enum kms_outcome outcome;
	int errnum;                        /* positive errno; 0 */
	bool dirty;                        /* subject's file enters the dirty set of this session */
	bool full;                         /* survives a power cut on return */
	/* Changes the store in the record's transaction; may run again after a rollback, so it changes nothing else. */
	int (*apply)(void *ctx, struct kms_store *store);
	void *apply_ctx;
};

/* kms_audit_new(core, err): core->audit: finds the end of the chain, loads the audit key when the HSM is there, and looks at
 * what happened to the trail meanwhile. kms_audit_start: the flusher of durability = batch. kms_audit_free: commits what
 * waits; fine when there is none. */
int kms_audit_new(struct kms_core *core, struct base_error *err);
int kms_audit_start(struct kms_core *core, struct base_error *err);
void kms_audit_free(struct kms_core *core);

/*
 * kms_audit_event(core, event): the record (with dirty row and apply) is committed on return, as far as [audit] durability
 * asks. On failure nothing of it is. Blocks.
 */
int kms_audit_event(struct kms_core *core, const struct kms_event *event);

/* kms_audit_drain(core): what waits in memory (durability = batch) is committed. */
int kms_audit_drain(struct kms_core *core);

/* kms_audit_position(core, ret_seq, ret_hash): the end of the chain. */
void kms_audit_position(struct kms_core *core, uint64_t *ret_seq, uint8_t ret_hash[KMS_HASH_SIZE]);

/* ---- audit_chain.c --------------------------------------------------------------------------------------------------- */

struct kms_audit_key;

/* kms_audit_key_make(core, err): the HSM key and the wrapped secret of a new keystore. */
int kms_audit_key_make(struct kms_core *core, struct base_error *err);
/* kms_audit_key_load(core): unwrap it. Blocks on the HSM. 0 when it is there (again). */
int kms_audit_key_load(struct kms_core *core, struct kms_audit_key **ret, struct base_error *err);
void kms_audit_key_free(struct kms_audit_key *key);
/* kms_audit_key_retry(core): after the HSM has answered: load a key that was not there, and seal the head. */
void kms_audit_key_retry(struct kms_core *core);

/* kms_audit_hash(fields, ret): SHA-256 over the canonical encoding of the columns before KMS_COL_HASH. */
int kms_audit_hash(const struct kms_field fields[KMS_COLS], uint8_t ret[KMS_HASH_SIZE]);
int kms_audit_head_mac(const struct kms_audit_key *key, const struct kms_audit_head *head, uint8_t ret[KMS_HASH_SIZE]);

/* kms_audit_path_seal(key, path, ret): the sealed path's length, or -errno. kms_audit_path_open: clear text with its NUL. */
int kms_audit_path_seal(const struct kms_audit_key *key, const char *path, uint8_t ret[KMS_AUDIT_SEALED_MAX]);
int kms_audit_path_open(const struct kms_audit_key *key, const void *sealed, size_t len, char ret[KMS_AUDIT_PATH_MAX + 1]);

struct kms_audit_verdict {
	bool ok;
	uint64_t records;
	uint64_t first_bad; /* sequence of the first record that is wrong or missing; 0 when ok */
	char reason[256];
};

/*
 * kms_audit_check(core, key, from, ret): every hash, every link, the sealed head. from NULL: the whole trail; else only what
 * follows that head. Returns 0 with a verdict, or -errno when the trail cannot be read.
 */
int kms_audit_check(struct kms_core *core, const struct kms_audit_key *key, const struct kms_audit_head *from,
		    struct kms_audit_verdict *ret);

/* ---- shared by the two ------------------------------------------------------------------------------------------------ */

struct kms_audit_entry;

struct kms_audit {
	pthread_mutex_t queue;        /* guards first, last, waiting, leading, stop, failed */
	pthread_cond_t changed;       /* an entry is done, the leader is gone, or stop */
	struct kms_audit_entry *first, *last;
	unsigned waiting;
	bool leading;                 /* a thread commits; others wait */
	bool stop;
	int failed;                   /* batch: records were lost by this -errno; nothing is accepted until a commit works */

	pthread_mutex_t head_lock;    /* guards head. A leaf; only the store's lock holder changes head */
	struct kms_audit_head head;   /* of the last committed record */
	_Atomic(struct kms_audit_key *) key; /* NULL: the HSM was away. Set once, freed at the end */
	pthread_mutex_t key_lock;     /* one thread loads the key */

	bool flusher_runs;
	pthread_t flusher;
};

#endif
