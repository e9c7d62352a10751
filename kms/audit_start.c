/*
 * Where the trail goes on: at start, and when an HSM that was away has come back. What happened to the trail while nobody
 * watched is recorded before anything else, as the action "audit-alarm".
 */
#include "audit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/secret.h"

/*
 * The end of the chain from the sealed head and the last row. Returns NULL when they agree, else what is wrong. The chain goes on
 * after the later of the two, so that a gap stays a gap.
 */
static const char *
find_end(struct kms_core *core, const struct kms_audit_key *key, struct kms_audit_head *ret, int *ret_rc)
{
	struct kms_audit_head head = { 0 }, last = { 0 };
	struct kms_audit_verdict verdict;
	uint8_t mac[KMS_HASH_SIZE];
	int have_head = kms_store_audit_head_get(core->store, &head);
	int have_last = kms_store_audit_last(core->store, &last.seq, last.hash);

	last.count = last.seq;
	*ret = last.seq >= head.seq ? last : head;
	*ret_rc = 0;
	if ((have_head < 0 && have_head != -ENOENT && have_head != -EBADMSG) ||
	    (have_last < 0 && have_last != -ENOENT && have_last != -EBADMSG)) {
		*ret_rc = have_head < 0 && have_head != -ENOENT ? have_head : have_last;
		return NULL;
	}
	if (!key || (have_head == -ENOENT && have_last == -ENOENT))
		return NULL;
	if (have_head == -ENOENT)
		return "the sealed end of the trail was missing at start";
	if (have_head < 0 || kms_audit_head_mac(key, &head, mac) < 0 || !base_secret_equal(mac, head.mac, sizeof(mac))) {
		*ret = last;
		return "the seal of the trail's end did not authenticate at start";
	}
	if (have_last < 0 || last.seq < head.seq)
		return "the trail was cut: its sealed end was a later record than the last one at start";
	if (last.seq == head.seq)
		return memcmp(last.hash, head.hash, sizeof(last.hash)) ? "the last record was not the sealed one at start" : NULL;
	*ret_rc = kms_audit_check(core, key, &head, &verdict);
	if (*ret_rc < 0)
		return NULL;
	return verdict.ok ? NULL : "records after the trail's sealed end did not follow it at start";
}

/* Records that were written without the HSM, or an alarm, get a record of their own, which seals the head again. */
static int
note(struct kms_core *core, const char *alarm, uint64_t unsealed)
{
	struct kms_caller self = kms_caller_self(KMS_VIA_SERVICE);
	char reason[200];

	if (alarm) {
		base_log(LOG_ERR, "audit: %s; `keepctl audit verify` names the first bad record", alarm);
		return kms_audit_event(core, &(struct kms_event) { .caller = &self, .action = "audit-alarm", .reason = alarm,
			.outcome = KMS_OUTCOME_FAILED, .errnum = EBADMSG, .full = true });
	}
	snprintf(reason, sizeof(reason), "%llu records were written without the HSM", (unsigned long long) unsealed);
	return kms_audit_event(core, &(struct kms_event) { .caller = &self, .action = "audit-seal", .reason = reason, .full = true });
}

static int
begin(struct kms_core *core, struct kms_audit_key *key, struct base_error *err)
{
	struct kms_audit *audit = core->audit;
	struct kms_audit_head end, sealed = { 0 };
	const char *alarm;
	bool unsealed;
	int rc;

	kms_store_hold(core->store);
	alarm = find_end(core, key, &end, &rc);
	if (kms_store_audit_head_get(core->store, &sealed) < 0)
		sealed.seq = 0;
	unsealed = key && end.seq > sealed.seq;
	if (rc == 0) {
		pthread_mutex_lock(&audit->head_lock);
		audit->head = end;
		pthread_mutex_unlock(&audit->head_lock);
		atomic_store(&audit->key, key);
	}
	kms_store_release(core->store);
	if (rc < 0)
		kms_audit_key_free(key);
	if (rc == 0 && (alarm || unsealed))
		rc = note(core, alarm, end.seq - sealed.seq);
	if (rc < 0)
		return base_error_set(err, rc, rc == -EBADMSG ? BASE_EXIT_INTEGRITY : BASE_EXIT_FAILED,
				      "%s/keystore.db: the audit trail cannot be continued: %s", core->dir, strerror(-rc));
	return 0;
}

int
kms_audit_new(struct kms_core *core, struct base_error *err)
{
	struct kms_audit *audit = calloc(1, sizeof(*audit));
	struct kms_audit_key *key = NULL;
	int rc;

	if (!audit)
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "out of memory");
	pthread_mutex_init(&audit->queue, NULL);
	pthread_cond_init(&audit->changed, NULL);
	pthread_mutex_init(&audit->head_lock, NULL);
	pthread_mutex_init(&audit->key_lock, NULL);
	core->audit = audit;
	rc = kms_audit_key_load(core, &key, err);
	if (rc == -EBADMSG || rc == -ENOMEM)
		return rc;
	if (rc < 0)
		base_log(LOG_WARNING, "audit: the HSM cannot be reached: paths are not recorded and the trail's end is not sealed until it can");
	return begin(core, key, err);
}

void
kms_audit_key_retry(struct kms_core *core)
{
	struct kms_audit *audit = core->audit;
	struct kms_audit_key *key;

	if (atomic_load(&audit->key) || pthread_mutex_trylock(&audit->key_lock))
		return;
	if (!atomic_load(&audit->key) && kms_audit_key_load(core, &key, NULL) == 0 && begin(core, key, NULL) < 0)
		base_log(LOG_ERR, "audit: the trail's end cannot be sealed");
	pthread_mutex_unlock(&audit->key_lock);
}
