/*
 * kms/store.h: the keystore's database. Only store*.c know that it is SQLite.
 *
 * One connection, which nobody else can have beside it (locking_mode EXCLUSIVE: no shared index, no locks per transaction).
 * Its lock is taken by kms_store_begin and given back by kms_store_commit or _rollback, and the functions that read rows
 * take it again by themselves (it is recursive); those that change rows want a transaction. Scans of the audit trail read
 * in chunks and call back without the lock.
 *
 * Errors: -EBADMSG damaged or not ours, -ENOSPC disk full, -EEXIST a constraint, -ENOENT no row, -EBUSY somebody else holds
 * the file, -ENOMEM, -EIO anything else. All block on the disk.
 */
#ifndef KMS_STORE_H
#define KMS_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kms/kms.h"

struct kms_store;

/* kms_store_create(path, err): a new database (0600; path must not exist), durable. */
int kms_store_create(const char *path, struct base_error *err);
/* kms_store_open(path, ret, err): check (header, schema, pages), migrate. A damaged file is left as it is. */
int kms_store_open(const char *path, struct kms_store **ret, struct base_error *err);
void kms_store_close(struct kms_store *s); /* NULL is fine; checkpoints */

/* A transaction. full: durable when kms_store_commit returns; otherwise it survives the death of the process only. */
int kms_store_begin(struct kms_store *s, bool full);
int kms_store_commit(struct kms_store *s);   /* on failure nothing was changed; the lock is released either way */
void kms_store_rollback(struct kms_store *s);

/* kms_store_hold(s): keep other writers out across several transactions, and until what hangs on them is changed in memory. */
void kms_store_hold(struct kms_store *s);
void kms_store_release(struct kms_store *s);

/* kms_store_sync(s): all commits so far survive a power cut. Does not hold up commits. */
int kms_store_sync(struct kms_store *s);

/* ---- meta: named blobs --------------------------------------------------------------------------------------------- */

int kms_store_meta_get(struct kms_store *s, const char *name, void *ret, size_t cap, size_t *ret_len);
int kms_store_meta_put(struct kms_store *s, const char *name, const void *value, size_t len);

/* ---- keys and their versions: struct kms_key of keys.h -------------------------------------------------------------- */

struct kms_key;
struct kms_version;

/* kms_store_keys(s, fn, ctx): every key with its versions, ascending; fn owns key. Stops at fn's first non-zero. */
int kms_store_keys(struct kms_store *s, int (*fn)(void *ctx, struct kms_key *key), void *ctx);
int kms_store_key_insert(struct kms_store *s, const struct kms_key *key);
int kms_store_key_delete(struct kms_store *s, const uint8_t id[BASE_ID_SIZE]);
int kms_store_version_insert(struct kms_store *s, const uint8_t key_id[BASE_ID_SIZE], const struct kms_version *version);
int kms_store_version_state(struct kms_store *s, const uint8_t key_id[BASE_ID_SIZE], uint32_t version, int state,
			    uint64_t destroyed_ns);
int kms_store_version_files(struct kms_store *s, const uint8_t key_id[BASE_ID_SIZE], uint32_t version, int64_t files,
			    uint64_t exact_ns);

/* ---- roles ----------------------------------------------------------------------------------------------------------- */

struct kms_role_row {
	char principal[288]; /* "user:NAME", "group:NAME", "everyone" */
	int64_t uid;         /* -1: not a user */
	int64_t gid;         /* -1: not a group; neither user nor group: everyone */
	int role;            /* enum kms_role of policy.h */
	char scope[64];      /* "service", or a key id's text */
	uint64_t created_ns; /* of a row that is there */
};

int kms_store_roles(struct kms_store *s, int (*fn)(void *ctx, const struct kms_role_row *row), void *ctx);
int kms_store_role_insert(struct kms_store *s, const struct kms_role_row *row); /* created now */
int kms_store_role_delete(struct kms_store *s, const struct kms_role_row *row); /* by principal, role and scope */

/* ---- vaults ------------------------------------------------------------------------------------------------------------ */

int kms_store_vaults(struct kms_store *s, int (*fn)(void *ctx, const struct kms_vault *vault), void *ctx);
int kms_store_vault_get(struct kms_store *s, const uint8_t id[BASE_ID_SIZE], struct kms_vault *ret);
int kms_store_vault_insert(struct kms_store *s, const struct kms_vault *vault);
int kms_store_vault_generation(struct kms_store *s, const uint8_t id[BASE_ID_SIZE], uint64_t generation);
int kms_store_vault_path(struct kms_store *s, const uint8_t id[BASE_ID_SIZE], const char *path);
int kms_store_vault_delete(struct kms_store *s, const uint8_t id[BASE_ID_SIZE]);

/* ---- sessions and the dirty set ------------------------------------------------------------------------------------------ */

struct kms_dirty_row {
	uint8_t vault_id[BASE_ID_SIZE], file_id[BASE_ID_SIZE];
	int64_t session_row;
	uint8_t session[BASE_ID_SIZE], boot[BASE_ID_SIZE];
};

int kms_store_session_start(struct kms_store *s, const uint8_t id[BASE_ID_SIZE], const uint8_t boot[BASE_ID_SIZE],
			    int64_t *ret_row);
/* kms_store_session_sweep(s): sessions without dirty rows have ended. Called at open, before a session starts, and at close. */
int kms_store_session_sweep(struct kms_store *s);
int kms_store_dirty(struct kms_store *s, int (*fn)(void *ctx, const struct kms_dirty_row *row), void *ctx);
int kms_store_dirty_insert(struct kms_store *s, const uint8_t vault_id[BASE_ID_SIZE], const uint8_t file_id[BASE_ID_SIZE],
			   int64_t session_row); /* fine when the row is there */
/* kms_store_dirty_delete: the row of one session, or those of all sessions but `session_row` when others is set. */
int kms_store_dirty_delete(struct kms_store *s, const uint8_t vault_id[BASE_ID_SIZE], const uint8_t file_id[BASE_ID_SIZE],
			   int64_t session_row, bool others);

/* ---- the audit trail ------------------------------------------------------------------------------------------------------ */

enum kms_field_type { KMS_FIELD_NULL = 0, KMS_FIELD_INT = 1, KMS_FIELD_TEXT = 2, KMS_FIELD_BLOB = 3 };

struct kms_field {
	enum kms_field_type type;
	int64_t number;
	const void *bytes; /* borrowed */
	size_t len;
};

/* The columns in the order of the table and of the canonical encoding (kms/DESIGN.md). */
enum kms_audit_column {
	KMS_COL_SEQ, KMS_COL_TIME, KMS_COL_MONO, KMS_COL_BOOT, KMS_COL_SESSION, KMS_COL_UID, KMS_COL_GID, KMS_COL_PID,
	KMS_COL_PROGRAM, KMS_COL_VIA, KMS_COL_ACTION, KMS_COL_KEY, KMS_COL_VERSION, KMS_COL_VAULT, KMS_COL_FILE, KMS_COL_PATH,
	KMS_COL_RULE, KMS_COL_OUTCOME, KMS_COL_ERRNO, KMS_COL_REASON, KMS_COL_PREV, KMS_COL_HASH, KMS_COLS
};

#define KMS_HASH_SIZE 32

/* Where the chain ends, sealed under the audit key. */
struct kms_audit_head {
	uint64_t seq, count;
	uint8_t hash[KMS_HASH_SIZE], mac[KMS_HASH_SIZE];
};

int kms_store_audit_insert(struct kms_store *s, const struct kms_field fields[KMS_COLS]);
int kms_store_audit_head_get(struct kms_store *s, struct kms_audit_head *ret); /* -ENOENT: not sealed yet */
int kms_store_audit_head_put(struct kms_store *s, const struct kms_audit_head *head);
int kms_store_audit_last(struct kms_store *s, uint64_t *ret_seq, uint8_t ret_hash[KMS_HASH_SIZE]); /* -ENOENT: no records */

struct kms_audit_query {
	uint64_t from_seq;             /* records after it */
	uint64_t since_ns, until_ns;   /* 0: open */
	int64_t uid;                   /* -1: all */
	int outcome;                   /* -1: all */
	const char *action;            /* NULL: all */
	const uint8_t *key_id, *file_id; /* NULL: all */
};

/*
 * kms_store_audit_scan(s, query, head, fn, ctx): first head(ctx, head or NULL) when given, then fn per record that stood
 * at that moment, in the order of seq, until it returns non-zero, which is returned. query NULL: all.
 */
int kms_store_audit_scan(struct kms_store *s, const struct kms_audit_query *query,
			 int (*head)(void *ctx, const struct kms_audit_head *head),
			 int (*fn)(void *ctx, const struct kms_field fields[KMS_COLS]), void *ctx);

#endif
