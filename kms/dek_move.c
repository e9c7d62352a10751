/*
 * A DEK that goes from one key to another: a file that moves into another zone.
 */
#include "dek.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/secret.h"

#define ACTION "zone-move"

/* One move: what it needs of both keys. */
struct move {
	struct kms_core *core;
	const struct kms_caller *caller;
	const struct kms_subject *subject;
	const struct kms_wrap *old;
	const uint8_t *key_id;
	struct kms_decision from, to;
};

/* Right and state of the key that it leaves, then of the one that it gets. 0, or the refusal of the one that failed. */
static int
decide(struct move *m, struct base_error *why)
{
	kms_dek_decide_role(m->core, m->caller, KMS_ACTION_UNWRAP, m->old->key_id, ACTION, &m->from, why);
	if (m->from.rc == 0)
		kms_dek_decide_state(&m->from, kms_keys_view(m->core->keys, m->old->key_id, m->old->version ? m->old->version : UINT32_MAX,
				     &m->from.key), m->old->version, KMS_USE_READ, why);
	if (m->from.rc < 0)
		return m->from.rc;
	kms_dek_decide_role(m->core, m->caller, KMS_ACTION_WRAP, m->key_id, ACTION, &m->to, why);
	if (m->to.rc == 0)
		kms_dek_decide_state(&m->to, kms_keys_view(m->core->keys, m->key_id, 0, &m->to.key), 0, KMS_USE_NEW, why);
	return m->to.rc;
}

static int
carry(struct move *m, struct kms_wrap *ret, struct base_error *why)
{
	BASE_SECRET_AUTO uint8_t *dek = base_secret_alloc(KMS_DEK_SIZE);
	int rc;

	if (!dek)
		return base_error_set(why, -ENOMEM, BASE_EXIT_FAILED, "no memory can be locked for a data key; raise RLIMIT_MEMLOCK (ulimit -l)");
	rc = kms_dek_unwrap(m->core, m->subject, m->old, m->from.key.hsm_id, dek, why);
	if (rc < 0)
		return rc;
	return kms_dek_wrap_fresh(m->core, m->subject->vault_id, m->subject->file_id, m->subject->purpose, m->key_id, m->to.key.current,
				  m->to.key.hsm_id, dek, ret, why);
}

/* Both keys by name, and why not. The name of a key that is gone is not known: its id stands in. */
static void
describe(const struct move *m, const char *why, char ret[KMS_AUDIT_REASON_MAX])
{
	char from[KMS_NAME_MAX + 1], to[KMS_NAME_MAX + 1];

	if (kms_key_name(m->core, m->old->key_id, from) < 0)
		base_hex(m->old->key_id, BASE_ID_SIZE, from);
	if (kms_key_name(m->core, m->key_id, to) < 0)
		base_hex(m->key_id, BASE_ID_SIZE, to);
	snprintf(ret, KMS_AUDIT_REASON_MAX, "from key %.60s version %u to key %.60s%s%.90s", from, m->old->version, to, *why ? ": " : "", why);
}

/* One record on each key, so that whoever asks for either finds it; of a refusal or failure one, on the key that it was about. */
static int
write_records(struct move *m, int rc, const struct base_error *why, struct base_error *err)
{
	char reason[KMS_AUDIT_REASON_MAX];
	struct kms_event from = { .caller = m->caller, .action = ACTION, .key_id = m->old->key_id, .version = m->old->version,
				  .subject = m->subject, .rule = m->from.rule, .reason = reason };
	struct kms_event to = from;

	to.key_id = m->key_id;
	to.version = m->to.key.current;
	to.rule = m->to.rule;
	describe(m, why->text, reason);
	if (rc < 0) {
		rc = kms_dek_record(m->core, m->to.rc < 0 ? &to : &from, rc, NULL, NULL);
		if (err)
			*err = *why;
		return rc;
	}
	rc = kms_dek_record(m->core, &from, 0, NULL, err);
	return rc < 0 ? rc : kms_dek_record(m->core, &to, 0, NULL, err);
}

int
kms_dek_move(struct kms_core *core, const struct kms_caller *caller, const struct kms_subject *subject, const struct kms_wrap *old,
	     const uint8_t key_id[BASE_ID_SIZE], struct kms_wrap *ret, struct base_error *err)
{
	struct move m = { .core = core, .caller = caller, .subject = subject, .old = old, .key_id = key_id };
	struct base_error why = { 0 };
	int rc;

	memset(ret, 0, sizeof(*ret));
	if (memcmp(old->key_id, key_id, BASE_ID_SIZE) == 0)
		return -EALREADY;
	rc = decide(&m, &why);
	if (rc == 0)
		rc = carry(&m, ret, &why);
	rc = write_records(&m, rc, &why, err);
	if (rc < 0) {
		memset(ret, 0, sizeof(*ret));
		return rc;
	}
	kms_keys_files(core->keys, old->key_id, old->version, -1);
	kms_keys_files(core->keys, key_id, ret->version, 1);
	return 0;
}
