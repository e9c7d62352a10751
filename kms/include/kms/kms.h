/*
 * kms/kms.h: the key-management core. The only header of this room.
 *
 * One struct kms_core per process owns a keystore: its database, its HSM login, its audit log. It decides who may use which
 * key, records that before the effect is visible, and wraps and unwraps data keys (DEKs).
 *
 * Errors, everywhere (0 or -errno, err filled once where it is a parameter):
 *   -EACCES        denied by policy (recorded)                      exit 8
 *   -ENOKEY        HSM unreachable, or the key (version) is gone    exit 5 (unreachable) or 1
 *   -EKEYREVOKED   the key is suspended or pending deletion         exit 1
 *   -EKEYREJECTED  PIN refused (HSM) or key compromised             exit 3
 *   -EBADMSG       a blob, a record or the database does not authenticate   exit 6
 *   -ENOENT        no such key, version, vault                      exit 4
 *   -EIO, -ENOSPC  the store failed: nothing was released (the core fails closed)
 * All functions are thread-safe unless they say otherwise. Functions that may reach the HSM or the disk say "blocks".
 */
#ifndef KMS_KMS_H
#define KMS_KMS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/bytes.h"
#include "base/error.h"

#define KMS_DEK_SIZE 32
#define KMS_BLOB_MAX 720
#define KMS_NAME_MAX 255 /* key names: 1 to 255 bytes of UTF-8 without control characters or '/' */

struct kms_core;

/* ---- who asks, and about what ------------------------------------------------------------------------------------ */

enum kms_via { KMS_VIA_FUSE = 1, KMS_VIA_CLI = 2, KMS_VIA_API = 3, KMS_VIA_SERVICE = 4 };

struct kms_caller {
	uid_t uid;
	gid_t gid;
	pid_t pid; /* its /proc entry is read for the program's path, for the record only */
	enum kms_via via;
};

/* kms_caller_self(via): this process. */
struct kms_caller kms_caller_self(enum kms_via via);

enum kms_purpose { KMS_PURPOSE_FILE = 1, KMS_PURPOSE_VAULT = 2 }; /* bound into the AAD: numbers never change meaning */

/* What a data key belongs to. path is the clear path inside the vault, sealed before it is stored; NULL when unknown. */
struct kms_subject {
	uint8_t vault_id[BASE_ID_SIZE];
	uint8_t file_id[BASE_ID_SIZE]; /* the vault id again when purpose is KMS_PURPOSE_VAULT */
	enum kms_purpose purpose;
	const char *path;
};

/* A DEK wrapped by a root-key version, as a header's wrap slot holds it (fs/FORMAT.md). mechanism, hash and iv_mode are
 * the numbers of hsm.h. AAD of the wrap: "keepfs wrap v1" 0x00 | vault id 16 | file id 16 | key id 16 | version u32le |
 * purpose u8 | mechanism u8 | hash u8 | iv mode u8. */
struct kms_wrap {
	uint8_t key_id[BASE_ID_SIZE];
	uint32_t version;
	uint8_t mechanism, hash, iv_mode;
	uint16_t blob_len;
	uint8_t blob[KMS_BLOB_MAX];
};

/* ---- keystores ----------------------------------------------------------------------------------------------------- */

/*
 * kms_keystore_path(option, ret): where the keystore is: option if not NULL, else $KEEPFS_KEYSTORE, else
 * /var/lib/keepfs/default for root, ${XDG_DATA_HOME:-~/.local/share}/keepfs/default for others, falling back to
 * /var/lib/keepfs/default when that one exists and the other does not. ret: PATH_MAX bytes, absolute. 0 or -errno.
 */
int kms_keystore_path(const char *option, char *ret, struct base_error *err);

struct kms_create {
	const char *module;     /* NULL: embedded SoftHSM2 */
	const char *token;      /* NULL: embedded label "keepfs" */
	const char *pin_source; /* NULL: a random PIN in DIR/pin (0600). "prompt", "file:PATH", "credential:NAME" */
};

/* Asks a person for a secret on the terminal. pin: secret memory, cap bytes. again: ask twice and compare. Set by programs. */
typedef int (*kms_prompt_fn)(void *ctx, const char *text, bool again, char *pin, size_t cap, struct base_error *err);
struct kms_prompt {
	kms_prompt_fn fn; /* NULL: no terminal, -EACCES, exit 3 */
	void *ctx;
};

/*
 * kms_keystore_create(dir, options, prompt, err): blocks. Makes dir (0711; it must not exist or be empty) with keystore.conf
 * (0600), token directory, keystore.db, lock; makes the caller (real uid) Manager and Auditor; creates the key `default`.
 * On failure what was made is removed again. A path too long for DIR/control.sock as a socket address is refused.
 */
int kms_keystore_create(const char *dir, const struct kms_create *options, const struct kms_prompt *prompt, struct base_error *err);

/* kms_keystore_exists(dir): true when dir holds a keystore.conf. */
bool kms_keystore_exists(const char *dir);

/* kms_config_check(dir, err): read keystore.conf alone; unknown and repeated keys are errors with their line. */
int kms_config_check(const char *dir, struct base_error *err);

/* ---- the core ------------------------------------------------------------------------------------------------------ */

enum kms_open_flags {
	KMS_OPEN_WAIT = 1, /* when another process holds the lock and is on its way out, wait for it (up to 30 s) */
};

/*
 * kms_core_open(dir, prompt, flags, ret, err): blocks. Takes the keystore's lock (-EBUSY: a service owns it), checks owner and
 * modes, opens and checks the database (-EBADMSG, exit 6: not a database or damaged; nothing is changed), migrates it,
 * loads the HSM and logs in. An HSM that cannot be reached now is no failure: calls that need it give -ENOKEY until it can
 * be. A refused PIN is: -EKEYREJECTED, exit 3, one try only. Starts a session (kms_session).
 * kms_core_close: stops the control socket, commits and makes durable, closes all. NULL is fine. Not thread-safe.
 */
int kms_core_open(const char *dir, const struct kms_prompt *prompt, unsigned flags, struct kms_core **ret, struct base_error *err);
void kms_core_close(struct kms_core *core);

const char *kms_core_dir(const struct kms_core *core);
const uint8_t *kms_core_id(const struct kms_core *core); /* keystore id, 16 bytes */

/* ---- data keys for files ------------------------------------------------------------------------------------------- */

enum kms_dek_flags {
	KMS_DEK_READ = 1,   /* decide `unwrap` */
	KMS_DEK_WRITE = 2,  /* decide `wrap`; with KMS_DEK_DIRTY the file enters the dirty set in the same transaction */
	KMS_DEK_DIRTY = 4,
	KMS_DEK_HAVE = 8,   /* the caller already holds the DEK: decide and record only */
};

struct kms_new_dek {
	uint8_t file_id[BASE_ID_SIZE]; /* random, chosen here (a pool wraps ahead of time) */
	uint8_t *dek;                  /* KMS_DEK_SIZE bytes of secret memory: the caller's, base_secret_free */
	struct kms_wrap wrap;
	uint64_t lease;                /* holds the key version until kms_dek_created */
};

/*
 * kms_dek_create(core, caller, subject, key_id, flags, ret, err): decide `wrap` on the key, take a fresh DEK (from the pool or
 * the HSM; blocks), record action "create", put the file into the dirty set (KMS_DEK_DIRTY). subject->file_id is ignored.
 * kms_dek_created(core, lease): the header that names this version is published, or will never be.
 */
int kms_dek_create(struct kms_core *core, const struct kms_caller *caller, const struct kms_subject *subject,
		   const uint8_t key_id[BASE_ID_SIZE], unsigned flags, struct kms_new_dek *ret, struct base_error *err);
void kms_dek_created(struct kms_core *core, uint64_t lease);

/*
 * kms_dek_open(core, caller, subject, wrap, flags, dek, err): decide (state of the key, role), unwrap (cache first; blocks),
 * record (action "open-read" or "open-write", outcome allowed, denied or failed, errno), and only then fill dek
 * (KMS_DEK_SIZE bytes of secret memory; NULL with KMS_DEK_HAVE).
 */
int kms_dek_open(struct kms_core *core, const struct kms_caller *caller, const struct kms_subject *subject,
		 const struct kms_wrap *wrap, unsigned flags, uint8_t *dek, struct base_error *err);

/*
 * kms_dek_wrap_vault(core, caller, vault_id, key_id, dek, ret, err): wrap a vault key that the caller made. Records.
 * kms_dek_rewrap(core, caller, subject, old, ret, err): the same DEK under the current version of the same key; -EALREADY
 * when old already is. Decides `rewrap` (Writer or Manager); records per file, made durable by kms_audit_barrier.
 */
int kms_dek_wrap_vault(struct kms_core *core, const struct kms_caller *caller, const uint8_t vault_id[BASE_ID_SIZE],
		       const uint8_t key_id[BASE_ID_SIZE], const uint8_t *dek, struct kms_wrap *ret, struct base_error *err);
int kms_dek_rewrap(struct kms_core *core, const struct kms_caller *caller, const struct kms_subject *subject,
		   const struct kms_wrap *old, struct kms_wrap *ret, struct base_error *err);

/*
 * kms_dek_move(core, caller, subject, old, key_id, ret, err): the same DEK under the current version of another key: the file goes into another
 * zone. Decides `unwrap` on the key that wraps it and `wrap` on the new one; records the action "zone-move" on both (of a refusal: on the key
 * that refuses), each with both keys' names, before it returns. Blocks. -EALREADY: it is under key_id, whatever the version; nothing is recorded.
 */
int kms_dek_move(struct kms_core *core, const struct kms_caller *caller, const struct kms_subject *subject, const struct kms_wrap *old,
		 const uint8_t key_id[BASE_ID_SIZE], struct kms_wrap *ret, struct base_error *err);

/*
 * kms_wrap_hold(core): taken before kms_dek_rewrap, kms_dek_move or kms_dek_wrap_vault; kms_wrap_release(core, hold) once the header that
 * carries the result is in place, or will never be. Destroying a version waits for the holds that stand when it begins
 * (a create's lease does the same for kms_dek_create). Hold for a batch, not for a whole job. In memory.
 */
unsigned kms_wrap_hold(struct kms_core *core);
void kms_wrap_release(struct kms_core *core, unsigned hold);

/* kms_dek_drop_all(core): wipe the DEK cache and the pools. */
void kms_dek_drop_all(struct kms_core *core);

/* ---- the dirty set: files that were open for writing, so that only those are recovered after a crash ---------------- */

/* kms_session(core): this session's id, 16 bytes; new at every kms_core_open. */
const uint8_t *kms_session(const struct kms_core *core);

/*
 * kms_dirty_crashed(core, vault_id, file_id, session_id, ret_same_boot): 0 when the set has the file for session_id and that
 * session ended without saying so; *ret_same_boot tells whether it ran under the running kernel's boot id. -ENOENT else.
 * With session_id NULL any crashed session's row answers, until kms_dirty_recovered. In memory; does not block.
 */
int kms_dirty_crashed(struct kms_core *core, const uint8_t vault_id[BASE_ID_SIZE], const uint8_t file_id[BASE_ID_SIZE],
		      const uint8_t *session_id, bool *ret_same_boot);

/* kms_dirty_close(core, vault_id, file_id): the file was sealed clean and its last writer is gone (each KMS_DEK_DIRTY needs
 * one). The row stays until what was written is durable: */
void kms_dirty_close(struct kms_core *core, const uint8_t vault_id[BASE_ID_SIZE], const uint8_t file_id[BASE_ID_SIZE]);

/* kms_dirty_left(core, vault_id, file_id): as kms_dirty_close, but the file could not be sealed: the row stays, and kms_dirty_crashed answers for it
 * with this session, until kms_dirty_recovered. */
void kms_dirty_left(struct kms_core *core, const uint8_t vault_id[BASE_ID_SIZE], const uint8_t file_id[BASE_ID_SIZE]);

/* kms_dirty_collect(core, vault_id, ret): the closed files up to now (and recovered ones), before the caller's syncfs; *ret is
 * NULL when there are none. kms_dirty_forget(core, batch): after the syncfs, delete the rows of those that have not been
 * opened for writing again. Blocks. Frees batch (NULL is fine); free(batch) instead leaves the rows. */
struct kms_dirty_batch;
int kms_dirty_collect(struct kms_core *core, const uint8_t vault_id[BASE_ID_SIZE], struct kms_dirty_batch **ret);
int kms_dirty_forget(struct kms_core *core, struct kms_dirty_batch *batch);

/* kms_dirty_recovered(core, vault_id, file_id): rows of crashed sessions for this file may go with the next collect. */
void kms_dirty_recovered(struct kms_core *core, const uint8_t vault_id[BASE_ID_SIZE], const uint8_t file_id[BASE_ID_SIZE]);

/* ---- audit --------------------------------------------------------------------------------------------------------- */

/* kms_audit_write(core, caller, action, subject, outcome_errno, reason): one record by another room ("mount", "unmount",
 * "recover", "integrity", ...). subject may be NULL. 0 or -errno (then the action must not take effect). */
int kms_audit_write(struct kms_core *core, const struct kms_caller *caller, const char *action, const struct kms_subject *subject,
		    int outcome_errno, const char *reason);

/* kms_audit_barrier(core): everything recorded so far, dirty set included, survives a power cut on return. Cheap when it
 * already does. Blocks. */
int kms_audit_barrier(struct kms_core *core);

/* ---- keys and vaults ----------------------------------------------------------------------------------------------- */

/* kms_key_find(core, name, ret_id): an active or other key by name; -ENOENT. kms_key_name(core, id, ret): KMS_NAME_MAX + 1. */
int kms_key_find(struct kms_core *core, const char *name, uint8_t ret_id[BASE_ID_SIZE]);
int kms_key_name(struct kms_core *core, const uint8_t id[BASE_ID_SIZE], char *ret);
/* kms_key_current(core, id): the current version number, 0 when there is no such key. In memory. */
uint32_t kms_key_current(struct kms_core *core, const uint8_t id[BASE_ID_SIZE]);

struct kms_vault {
	uint8_t id[BASE_ID_SIZE];
	uint8_t key_id[BASE_ID_SIZE]; /* root key `vault:ID` */
	uint64_t generation;          /* of the vault's config, as last seen */
	char path[4096];
};

/*
 * kms_vault_add(core, caller, vault_id, path, ret_key_id, err): register a vault and make its root key (HSM; blocks). Writer up.
 * kms_vault_get(core, vault_id, ret): -ENOENT when this keystore does not know it.
 * kms_vault_list(core, fn, ctx): fn per vault until it returns non-zero (which is returned).
 * kms_vault_generation(core, vault_id, generation): remember the config's generation (durable); never lowers it.
 * kms_vault_path(core, vault_id, path): the vault was mounted from another place.
 * kms_vault_remove(core, vault_id): undo of kms_vault_add when creating the vault failed.
 */
int kms_vault_add(struct kms_core *core, const struct kms_caller *caller, const uint8_t vault_id[BASE_ID_SIZE], const char *path,
		  uint8_t ret_key_id[BASE_ID_SIZE], struct base_error *err);
int kms_vault_get(struct kms_core *core, const uint8_t vault_id[BASE_ID_SIZE], struct kms_vault *ret);
int kms_vault_list(struct kms_core *core, int (*fn)(void *ctx, const struct kms_vault *vault), void *ctx);
int kms_vault_generation(struct kms_core *core, const uint8_t vault_id[BASE_ID_SIZE], uint64_t generation);
int kms_vault_path(struct kms_core *core, const uint8_t vault_id[BASE_ID_SIZE], const char *path);
int kms_vault_remove(struct kms_core *core, const uint8_t vault_id[BASE_ID_SIZE]);

/*
 * The census: how many headers of registered vaults hang on a key version. kms/ cannot read headers, so the room above
 * gives the scan. fn(ctx, vault, count, count_ctx, err): call count(count_ctx, key_id, version, backing_path) for every
 * live wrap slot of the
 * vault, its config included, with renames held still; -errno with err filled when the vault cannot be read in full
 * (then nothing may be destroyed).
 */
typedef void (*kms_census_count_fn)(void *count_ctx, const uint8_t key_id[BASE_ID_SIZE], uint32_t version, const char *backing_path);
typedef int (*kms_census_fn)(void *ctx, const struct kms_vault *vault, kms_census_count_fn count, void *count_ctx, struct base_error *err);
void kms_census_set(struct kms_core *core, kms_census_fn fn, void *ctx);

/* ---- the control API: one dispatch table, two transports ------------------------------------------------------------ */

struct kms_request {
	const char *method;  /* "GET", "POST", "DELETE" */
	const char *path;    /* "/v1/keys/default/rotate" */
	json_t *params;      /* object: body members, and query parameters as strings; borrowed; may be NULL */
	const char *match[4]; /* filled by dispatch: the segments that matched `{}` in the route, percent-decoded */
	struct kms_caller caller;
	/* emit(emit_ctx, line): one JSON object of the result; takes ownership of line. Non-zero: the client is gone, stop. */
	int (*emit)(void *emit_ctx, json_t *line);
	void *emit_ctx;
	const struct kms_prompt *prompt; /* in-process only, else NULL */
};

/* A handler emits its result lines and returns 0, or fills err and returns -errno. It does its own authorisation through the
 * kms calls it makes, or kms_authorize. */
typedef int (*kms_handler_fn)(struct kms_core *core, void *ctx, struct kms_request *request, struct base_error *err);

/* kms_api_add(core, method, route, handler, ctx): before kms_api_serve. route: "/v1/keys/{}/rotate". 0 or -ENOMEM, -EEXIST. */
int kms_api_add(struct kms_core *core, const char *method, const char *route, kms_handler_fn handler, void *ctx);

/* kms_api_call(core, request, err): dispatch in this process. -ENOENT for no such route. Blocks as the handler does. */
int kms_api_call(struct kms_core *core, struct kms_request *request, struct base_error *err);

/* kms_api_serve(core, err): answer on DIR/control.sock (0666) with threads of its own until kms_core_close or kms_api_stop.
 * Callers are known by SO_PEERCRED. Results: application/x-ndjson, streamed; errors before the first line: the fitting
 * status and problem+json (RFC 9457) with members "errno" and "exit"; after it: a last line {"problem": {...}}. */
int kms_api_serve(struct kms_core *core, struct base_error *err);
void kms_api_stop(struct kms_core *core); /* no new requests; waits for the running ones */

/*
 * kms_client_call(dir, method, path, params, line, line_ctx, err): the same request to the service that owns dir. params is an
 * object or NULL (borrowed). line(line_ctx, object) per result line, borrowed. -ECONNREFUSED (exit 5) when no service
 * answers there; otherwise what the handler returned, err as the handler filled it. A service that is on its way out
 * answers -EAGAIN: ask again or take the lock.
 */
int kms_client_call(const char *dir, const char *method, const char *path, json_t *params,
		    void (*line)(void *line_ctx, json_t *object), void *line_ctx, struct base_error *err);

enum kms_action {
	KMS_ACTION_SEE,     /* list and show keys, versions, census */
	KMS_ACTION_UNWRAP,
	KMS_ACTION_WRAP,
	KMS_ACTION_ROTATE,  /* create keys, rotate, rewrap */
	KMS_ACTION_MANAGE,  /* suspend, enable, roles, vaults, mounts by others, destroy a version */
	KMS_ACTION_AUDIT,   /* read and verify the trail */
};
/* kms_authorize(core, caller, action, key_id or NULL, what, err): 0, or -EACCES with the refusal naming the rule; denials are
 * recorded with `what` as the action. */
int kms_authorize(struct kms_core *core, const struct kms_caller *caller, enum kms_action action, const uint8_t *key_id,
		  const char *what, struct base_error *err);

#endif
