/*
 * Data keys: decide, unwrap or wrap, record, release, in this order. Whatever fails, the DEK stays here.
 */
#include "dek.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "audit.h"
#include "base/crypto.h"
#include "base/secret.h"
#include "dirty.h"
#include "hsm/hsm.h"
#include "keys.h"
#include "leases.h"
#include "policy.h"

static const char aad_label[15] = "keepfs wrap v1"; /* with its NUL */

void
kms_dek_aad(const uint8_t vault_id[BASE_ID_SIZE], const uint8_t file_id[BASE_ID_SIZE], enum kms_purpose purpose,
	    const struct kms_wrap *wrap, uint8_t ret[KMS_AAD_SIZE])
{
	uint8_t *at = ret;

	memcpy(at, aad_label, sizeof(aad_label));
	at += sizeof(aad_label);
	memcpy(at, vault_id, BASE_ID_SIZE);
	memcpy(at + 16, file_id, BASE_ID_SIZE);
	memcpy(at + 32, wrap->key_id, BASE_ID_SIZE);
	base_put32(at + 48, wrap->version);
	at[52] = (uint8_t) purpose;
	at[53] = wrap->mechanism;
	at[54] = wrap->hash;
	at[55] = wrap->iv_mode;
}

/* ---- life -------------------------------------------------------------------------------------------------------------- */

int
kms_dek_new(struct kms_core *core, struct kms_dek **ret)
{
	struct kms_dek *dek = calloc(1, sizeof(*dek));
	int rc = dek ? 0 : -ENOMEM;

	if (rc == 0)
		rc = kms_cache_new((unsigned) core->conf.dek_cache_size, (unsigned) core->conf.dek_cache_ttl, &dek->cache);
	if (rc == 0)
		rc = kms_pools_new(core, (unsigned) core->conf.pool_size, &dek->pools);
	if (rc == 0)
		rc = kms_worker_new(core, &dek->worker);
	if (rc < 0 && dek) {
		kms_pools_free(dek->pools);
		kms_cache_free(dek->cache);
		free(dek);
		return rc;
	}
	*ret = dek;
	return rc;
}

void
kms_dek_free(struct kms_core *core)
{
	struct kms_dek *dek = core->dek;

	if (!dek)
		return;
	kms_worker_free(dek->worker);
	kms_pools_free(dek->pools);
	kms_cache_free(dek->cache);
	free(dek);
	core->dek = NULL;
}

void
kms_dek_drop_pools(struct kms_core *core, const uint8_t *key_id)
{
	if (core->dek)
		kms_pools_drop(core->dek->pools, key_id);
}

void
kms_dek_drop_all(struct kms_core *core)
{
	kms_cache_drop(core->dek->cache);
	kms_pools_drop(core->dek->pools, NULL);
}

/* ---- with the HSM -------------------------------------------------------------------------------------------------------- */

int
kms_dek_wrap_fresh(struct kms_core *core, const uint8_t vault_id[BASE_ID_SIZE], const uint8_t file_id[BASE_ID_SIZE],
		   enum kms_purpose purpose, const uint8_t key_id[BASE_ID_SIZE], uint32_t version, const uint8_t hsm_id[16],
		   const uint8_t *dek, struct kms_wrap *ret, struct base_error *err)
{
	struct hsm_blob blob = { 0 };
	uint8_t aad[KMS_AAD_SIZE];
	int rc;

	memcpy(ret->key_id, key_id, BASE_ID_SIZE);
	ret->version = version;
	/* The AAD names how the blob is wrapped, which is known before: one mechanism, and the profile's IV mode. */
	ret->mechanism = HSM_MECH_AES_GCM;
	ret->hash = 0;
	ret->iv_mode = (uint8_t) core->conf.profile;
	kms_dek_aad(vault_id, file_id, purpose, ret, aad);
	rc = hsm_wrap(core->hsm, hsm_id, aad, sizeof(aad), dek, KMS_DEK_SIZE, &blob, err);
	if (rc < 0)
		return rc;
	if (blob.mechanism != ret->mechanism || blob.hash != ret->hash || blob.iv_mode != ret->iv_mode || blob.len > KMS_BLOB_MAX)
		return base_error_set(err, -EOPNOTSUPP, BASE_EXIT_FAILED, "the token wrapped in another way than its profile says; check "
				      "profile in keystore.conf");
	ret->blob_len = blob.len;
	memcpy(ret->blob, blob.bytes, blob.len);
	kms_audit_key_retry(core);
	return 0;
}

static int
cache_name(const struct kms_subject *subject, const struct kms_wrap *wrap, uint8_t ret[32])
{
	uint8_t text[KMS_AAD_SIZE + KMS_BLOB_MAX];

	kms_dek_aad(subject->vault_id, subject->file_id, subject->purpose, wrap, text);
	memcpy(text + KMS_AAD_SIZE, wrap->blob, wrap->blob_len);
	return base_sha256(text, (size_t) KMS_AAD_SIZE + wrap->blob_len, ret);
}

int
kms_dek_unwrap(struct kms_core *core, const struct kms_subject *subject, const struct kms_wrap *wrap, const uint8_t hsm_id[16],
	       uint8_t *dek, struct base_error *err)
{
	struct kms_cache *cache = core->dek->cache;
	struct hsm_blob blob = { .mechanism = wrap->mechanism, .hash = wrap->hash, .iv_mode = wrap->iv_mode, .len = wrap->blob_len };
	uint8_t name[32], aad[KMS_AAD_SIZE];
	uint64_t epoch;
	int rc;

	if (wrap->blob_len > KMS_BLOB_MAX || !wrap->blob_len)
		return base_error_set(err, -EBADMSG, BASE_EXIT_INTEGRITY, "a wrapped data key of %u bytes is not one of ours", wrap->blob_len);
	rc = cache_name(subject, wrap, name);
	if (rc < 0)
		return base_error_set(err, rc, BASE_EXIT_FAILED, "SHA-256: %s", strerror(-rc));
	if (kms_cache_get(cache, name, dek))
		return 0;
	epoch = kms_cache_epoch(cache);
	memcpy(blob.bytes, wrap->blob, wrap->blob_len);
	kms_dek_aad(subject->vault_id, subject->file_id, subject->purpose, wrap, aad);
	rc = hsm_unwrap(core->hsm, hsm_id, aad, sizeof(aad), &blob, dek, KMS_DEK_SIZE, err);
	if (rc < 0)
		return rc;
	kms_cache_put(cache, name, dek, epoch);
	kms_worker_wake(core->dek->worker, KMS_WORK_EXPIRE);
	kms_audit_key_retry(core);
	return 0;
}

/* ---- decisions ------------------------------------------------------------------------------------------------------------- */

void
kms_dek_decide_role(struct kms_core *core, const struct kms_caller *caller, enum kms_action action, const uint8_t *key_id, const char *what,
	    struct kms_decision *d, struct base_error *err)
{
	if (kms_policy_check(core->policy, caller, action, key_id, d->rule) != KMS_ALLOW_ALL)
		d->rc = kms_policy_refuse(caller, action, what, d->rule, err);
}

void
kms_dek_decide_state(struct kms_decision *d, int found, uint32_t version, enum kms_use use, struct base_error *err)
{
	if (found == -ENOENT)
		d->rc = base_error_set(err, -ENOKEY, BASE_EXIT_FAILED, "the key that wraps this is not in this keystore");
	else if (found == -ENOKEY)
		d->rc = base_error_set(err, -ENOKEY, BASE_EXIT_FAILED, "key \"%.100s\" has no version %u", d->key.name, version);
	else if (found < 0)
		d->rc = base_error_set(err, found, BASE_EXIT_FAILED, "%s", strerror(-found));
	else if ((d->rc = kms_state_check(d->key.state, use)) < 0)
		base_error_set(err, d->rc, BASE_EXIT_FAILED, "key \"%.100s\" is %s", d->key.name, kms_state_name(d->key.state));
	else if ((d->rc = kms_version_check(d->key.version_state, use)) < 0)
		base_error_set(err, d->rc, BASE_EXIT_FAILED, "version %u of key \"%.100s\" is %s", version, d->key.name,
			       kms_version_state_name(d->key.version_state));
}

static void
event_result(struct kms_event *event, int rc)
{
	event->errnum = -rc;
	event->outcome = rc == 0 ? KMS_OUTCOME_ALLOWED : rc == -EACCES || rc == -EKEYREVOKED || rc == -EKEYEXPIRED ||
			 rc == -EKEYREJECTED ? KMS_OUTCOME_DENIED : KMS_OUTCOME_FAILED;
	if (rc < 0)
		event->dirty = false;
}

int
kms_dek_record(struct kms_core *core, struct kms_event *event, int rc, const struct base_error *why, struct base_error *err)
{
	int written;

	event_result(event, rc);
	if (rc < 0 && why && *why->text)
		event->reason = why->text;
	written = kms_audit_event(core, event);
	if (rc < 0) {
		if (err && why)
			*err = *why;
		return rc;
	}
	if (written < 0)
		return base_error_set(err, written == -ENOSPC ? -ENOSPC : -EIO, BASE_EXIT_FAILED, "refused, because the record of it cannot be "
				      "written to %s/keystore.db: %s", core->dir, strerror(-written));
	if (event->dirty)
		kms_worker_wake(core->dek->worker, KMS_WORK_SYNC);
	return 0;
}

/* ---- open ------------------------------------------------------------------------------------------------------------------- */

int
kms_dek_open(struct kms_core *core, const struct kms_caller *caller, const struct kms_subject *subject,
	     const struct kms_wrap *wrap, unsigned flags, uint8_t *dek, struct base_error *err)
{
	bool write = flags & KMS_DEK_WRITE, dirty = write && (flags & KMS_DEK_DIRTY);
	const char *action = write ? "open-write" : "open-read";
	struct kms_decision d = { .rc = 0 };
	struct kms_event event = { .caller = caller, .action = action, .key_id = wrap->key_id, .version = wrap->version,
				   .subject = subject, .rule = d.rule, .dirty = dirty };
	struct base_error why = { 0 };
	int rc;

	if (flags & KMS_DEK_READ || !write)
		kms_dek_decide_role(core, caller, KMS_ACTION_UNWRAP, wrap->key_id, action, &d, &why);
	if (d.rc == 0 && write)
		kms_dek_decide_role(core, caller, KMS_ACTION_WRAP, wrap->key_id, action, &d, &why);
	if (d.rc == 0)
		kms_dek_decide_state(&d, kms_keys_view(core->keys, wrap->key_id, wrap->version ? wrap->version : UINT32_MAX, &d.key), wrap->version,
			     write ? KMS_USE_WRITE : KMS_USE_READ, &why);
	rc = d.rc;
	if (rc == 0 && !(flags & KMS_DEK_HAVE))
		rc = kms_dek_unwrap(core, subject, wrap, d.key.hsm_id, dek, &why);
	if (rc == 0 && dirty)
		rc = kms_dirty_begin(core, subject->vault_id, subject->file_id);
	dirty = dirty && rc == 0;
	rc = kms_dek_record(core, &event, rc, &why, err);
	if (rc < 0 && dirty)
		kms_dirty_close(core, subject->vault_id, subject->file_id);
	if (rc < 0 && dek)
		base_secret_wipe(dek, KMS_DEK_SIZE);
	return rc;
}

/* ---- create ----------------------------------------------------------------------------------------------------------------- */

static int
fresh(struct kms_core *core, const uint8_t *vault_id, const uint8_t *key_id, const struct kms_key_view *key, struct kms_new_dek *ret,
      struct base_error *err)
{
	bool wake = false;
	int rc = kms_pools_take(core->dek->pools, vault_id, key_id, key->current, key->hsm_id, ret, &wake);

	if (wake)
		kms_worker_wake(core->dek->worker, KMS_WORK_REFILL);
	if (rc == 0)
		return 0;
	ret->dek = base_secret_alloc(KMS_DEK_SIZE);
	if (!ret->dek)
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "no memory can be locked for a data key; raise RLIMIT_MEMLOCK (ulimit -l)");
	rc = base_random(ret->file_id, sizeof(ret->file_id));
	if (rc == 0)
		rc = base_random(ret->dek, KMS_DEK_SIZE);
	if (rc < 0)
		return base_error_set(err, rc, BASE_EXIT_FAILED, "no random numbers: %s", strerror(-rc));
	return kms_dek_wrap_fresh(core, vault_id, ret->file_id, KMS_PURPOSE_FILE, key_id, key->current, key->hsm_id, ret->dek, &ret->wrap, err);
}

static void
cache_new(struct kms_core *core, const struct kms_subject *subject, const struct kms_new_dek *new)
{
	uint8_t name[32];

	if (cache_name(subject, &new->wrap, name) < 0)
		return;
	kms_cache_put(core->dek->cache, name, new->dek, kms_cache_epoch(core->dek->cache));
	kms_worker_wake(core->dek->worker, KMS_WORK_EXPIRE);
}

int
kms_dek_create(struct kms_core *core, const struct kms_caller *caller, const struct kms_subject *subject,
	       const uint8_t key_id[BASE_ID_SIZE], unsigned flags, struct kms_new_dek *ret, struct base_error *err)
{
	struct kms_subject named = *subject;
	struct kms_decision d = { .rc = 0 };
	struct kms_event event = { .caller = caller, .action = "create", .key_id = key_id, .subject = &named, .rule = d.rule,
				   .dirty = flags & KMS_DEK_DIRTY };
	struct base_error why = { 0 };
	bool dirty = false;
	int rc;

	memset(ret, 0, sizeof(*ret));
	memset(named.file_id, 0, sizeof(named.file_id));
	kms_dek_decide_role(core, caller, KMS_ACTION_WRAP, key_id, "create", &d, &why);
	if (d.rc == 0)
		kms_dek_decide_state(&d, kms_keys_lease(core, key_id, &d.key, &ret->lease), 0, KMS_USE_NEW, &why);
	rc = d.rc;
	event.version = d.key.current;
	if (rc == 0)
		rc = fresh(core, subject->vault_id, key_id, &d.key, ret, &why);
	if (rc == 0)
		memcpy(named.file_id, ret->file_id, sizeof(named.file_id));
	if (rc == 0 && event.dirty) {
		rc = kms_dirty_begin(core, named.vault_id, named.file_id);
		dirty = rc == 0;
	}
	rc = kms_dek_record(core, &event, rc, &why, err);
	if (rc < 0) {
		if (dirty)
			kms_dirty_close(core, named.vault_id, named.file_id);
		base_secret_free(ret->dek);
		kms_lease_release(core->leases, ret->lease);
		memset(ret, 0, sizeof(*ret));
		return rc;
	}
	named.purpose = KMS_PURPOSE_FILE;
	cache_new(core, &named, ret);
	kms_keys_files(core->keys, key_id, ret->wrap.version, 1);
	return 0;
}

void
kms_dek_created(struct kms_core *core, uint64_t lease)
{
	kms_lease_release(core->leases, lease);
}

/* ---- vault keys and rewrap ---------------------------------------------------------------------------------------------------- */

int
kms_dek_wrap_vault(struct kms_core *core, const struct kms_caller *caller, const uint8_t vault_id[BASE_ID_SIZE],
		   const uint8_t key_id[BASE_ID_SIZE], const uint8_t *dek, struct kms_wrap *ret, struct base_error *err)
{
	struct kms_subject subject = { .purpose = KMS_PURPOSE_VAULT };
	struct kms_decision d = { .rc = 0 };
	struct kms_event event = { .caller = caller, .action = "wrap-vault", .key_id = key_id, .subject = &subject, .rule = d.rule };
	struct base_error why = { 0 };
	int rc;

	memcpy(subject.vault_id, vault_id, BASE_ID_SIZE);
	memcpy(subject.file_id, vault_id, BASE_ID_SIZE);
	memset(ret, 0, sizeof(*ret));
	kms_dek_decide_role(core, caller, KMS_ACTION_WRAP, key_id, "wrap-vault", &d, &why);
	if (d.rc == 0)
		kms_dek_decide_state(&d, kms_keys_view(core->keys, key_id, 0, &d.key), 0, KMS_USE_NEW, &why);
	rc = d.rc;
	event.version = d.key.current;
	if (rc == 0)
		rc = kms_dek_wrap_fresh(core, vault_id, vault_id, KMS_PURPOSE_VAULT, key_id, d.key.current, d.key.hsm_id, dek, ret, &why);
	rc = kms_dek_record(core, &event, rc, &why, err);
	if (rc == 0)
		kms_keys_files(core->keys, key_id, ret->version, 1);
	else
		memset(ret, 0, sizeof(*ret));
	return rc;
}

static int
move(struct kms_core *core, const struct kms_subject *subject, const struct kms_wrap *old, const struct kms_decision *from,
     struct kms_wrap *ret, struct base_error *err)
{
	BASE_SECRET_AUTO uint8_t *dek = base_secret_alloc(KMS_DEK_SIZE);
	struct kms_key_view to;
	int rc;

	if (!dek)
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "no memory can be locked for a data key; raise RLIMIT_MEMLOCK (ulimit -l)");
	rc = kms_keys_view(core->keys, old->key_id, 0, &to);
	if (rc < 0)
		return base_error_set(err, rc, BASE_EXIT_FAILED, "key \"%.100s\" has no current version", from->key.name);
	rc = kms_dek_unwrap(core, subject, old, from->key.hsm_id, dek, err);
	if (rc < 0)
		return rc;
	return kms_dek_wrap_fresh(core, subject->vault_id, subject->file_id, subject->purpose, old->key_id, to.current, to.hsm_id, dek, ret,
				  err);
}

int
kms_dek_rewrap(struct kms_core *core, const struct kms_caller *caller, const struct kms_subject *subject,
	       const struct kms_wrap *old, struct kms_wrap *ret, struct base_error *err)
{
	struct kms_decision d = { .rc = 0 };
	struct kms_event event = { .caller = caller, .action = "rewrap", .key_id = old->key_id, .version = old->version,
				   .subject = subject, .rule = d.rule };
	struct base_error why = { 0 };
	int rc;

	memset(ret, 0, sizeof(*ret));
	kms_dek_decide_role(core, caller, KMS_ACTION_ROTATE, old->key_id, "rewrap", &d, &why);
	if (d.rc == 0)
		kms_dek_decide_state(&d, kms_keys_view(core->keys, old->key_id, old->version ? old->version : UINT32_MAX, &d.key), old->version,
			     KMS_USE_WRITE, &why);
	rc = d.rc;
	if (rc == 0 && d.key.current == old->version)
		return -EALREADY;
	if (rc == 0)
		rc = move(core, subject, old, &d, ret, &why);
	if (rc == 0)
		event.version = ret->version;
	rc = kms_dek_record(core, &event, rc, &why, err);
	if (rc < 0) {
		memset(ret, 0, sizeof(*ret));
		return rc;
	}
	kms_keys_files(core->keys, old->key_id, old->version, -1);
	kms_keys_files(core->keys, old->key_id, ret->version, 1);
	return 0;
}
