/*
 * The census, and destroying a version: an exact count first, with no wrap of that version under way.
 */
#include "keys_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "audit.h"
#include "base/clock.h"
#include "base/log.h"
#include "hsm/hsm.h"
#include "leases.h"
#include "policy.h"
#include "store.h"

#define LEASE_SECONDS 30

/* ---- the census ---------------------------------------------------------------------------------------------------------- */

struct count {
	uint8_t name[BASE_ID_SIZE + 4]; /* key id, version */
	uint64_t files;
	char example[256];
	UT_hash_handle hh;
};

struct census {
	struct kms_core *core;
	struct base_error *err;
	struct count *counts;
	bool no_memory;
};

static void
count_name(uint8_t name[BASE_ID_SIZE + 4], const uint8_t *key_id, uint32_t version)
{
	memcpy(name, key_id, BASE_ID_SIZE);
	base_put32(name + BASE_ID_SIZE, version);
}

static struct count *
count_find(const struct census *census, const uint8_t *key_id, uint32_t version)
{
	uint8_t name[BASE_ID_SIZE + 4];
	struct count *count = NULL;

	count_name(name, key_id, version);
	HASH_FIND(hh, census->counts, name, sizeof(name), count);
	return count;
}

static void
count_one(void *ctx, const uint8_t key_id[BASE_ID_SIZE], uint32_t version, const char *backing_path)
{
	struct census *census = ctx;
	struct count *count = count_find(census, key_id, version);

	if (!count) {
		count = calloc(1, sizeof(*count));
		if (!count) {
			census->no_memory = true;
			return;
		}
		count_name(count->name, key_id, version);
		snprintf(count->example, sizeof(count->example), "%s", backing_path ? backing_path : "");
		HASH_ADD(hh, census->counts, name, sizeof(count->name), count);
	}
	count->files++;
}

static int
census_vault(void *ctx, const struct kms_vault *vault)
{
	struct census *census = ctx;
	struct base_error why = { 0 };
	int rc = census->core->census(census->core->census_ctx, vault, count_one, census, &why);

	if (rc == 0 && census->no_memory)
		rc = -ENOMEM;
	if (rc < 0)
		return base_error_set(census->err, rc == -ENOENT ? -EIO : rc, BASE_EXIT_FAILED, "vault %.200s could not be counted in full: %.300s",
				      vault->path, *why.text ? why.text : strerror(-rc));
	return rc;
}

static void
census_free(struct census *census)
{
	struct count *count, *next;

	HASH_ITER(hh, census->counts, count, next) {
		HASH_DEL(census->counts, count);
		free(count);
	}
}

/* The counts become the mirror's. `files` is atomic; the write lock is for the time beside it. */
static void
census_take(struct kms_core *core, const struct census *census)
{
	uint64_t now = base_clock_real_ns();
	struct kms_key *key, *next;

	pthread_rwlock_wrlock(&core->keys->lock);
	HASH_ITER(by_id, core->keys->by_id, key, next)
		for (size_t i = 0; i < key->count; i++) {
			const struct count *count = count_find(census, key->id, key->versions[i].number);

			atomic_store(&key->versions[i].files, count ? (long long) count->files : 0);
			key->versions[i].files_exact_ns = now;
		}
	pthread_rwlock_unlock(&core->keys->lock);
}

/* census_lock is held. */
static int
census_run(struct kms_core *core, struct census *census)
{
	int rc;

	if (!core->census)
		return base_error_set(census->err, -EOPNOTSUPP, BASE_EXIT_FAILED, "this program cannot read vaults, so nothing can be counted");
	rc = kms_vault_list(core, census_vault, census);
	if (rc < 0 && !census->err->code)
		base_error_set(census->err, rc, BASE_EXIT_FAILED, "the vaults could not be counted: %s", strerror(-rc));
	if (rc == 0) {
		census_take(core, census);
		if (kms_keys_files_flush(core) < 0)
			base_log(LOG_WARNING, "the counts of files could not be stored");
	}
	return rc;
}

int
kms_keys_census(struct kms_core *core, struct base_error *err)
{
	struct base_error local = { 0 };
	struct census census = { .core = core, .err = err ? err : &local };
	int rc;

	pthread_mutex_lock(&core->census_lock);
	rc = census_run(core, &census);
	pthread_mutex_unlock(&core->census_lock);
	census_free(&census);
	return rc;
}

void
kms_census_set(struct kms_core *core, kms_census_fn fn, void *ctx)
{
	pthread_mutex_lock(&core->census_lock);
	core->census = fn;
	core->census_ctx = ctx;
	pthread_mutex_unlock(&core->census_lock);
}

/* ---- destroying a version ---------------------------------------------------------------------------------------------------- */

struct destruction {
	const uint8_t *id;
	uint32_t version;
	char name[KMS_NAME_MAX + 1];
	uint8_t hsm_id[16];
	uint64_t now;
};

static int
mark(struct kms_core *core, struct destruction *d, struct base_error *err)
{
	struct kms_version *version = NULL;
	struct kms_key *key;
	bool current = false, gone = false;

	pthread_rwlock_wrlock(&core->keys->lock);
	key = kms_keys_by_id(core->keys, d->id);
	if (key) {
		strcpy(d->name, key->name);
		version = kms_key_version(key, d->version);
	}
	if (version) {
		current = version->state == KMS_VERSION_CURRENT;
		gone = version->state == KMS_VERSION_DESTROYED;
		memcpy(d->hsm_id, version->hsm_id, sizeof(d->hsm_id));
		version->destroying = !current && !gone;
	}
	pthread_rwlock_unlock(&core->keys->lock);
	if (!version)
		return base_error_set(err, -ENOENT, BASE_EXIT_NOT_FOUND, "key \"%.100s\" has no version %u", key ? d->name : "?", d->version);
	if (gone)
		return base_error_set(err, -ENOENT, BASE_EXIT_NOT_FOUND, "version %u of key \"%.100s\" is destroyed already", d->version, d->name);
	if (current)
		return base_error_set(err, -EBUSY, BASE_EXIT_FAILED, "version %u is the current version of key \"%.100s\": rotate and rewrap "
				      "first", d->version, d->name);
	return 0;
}

static void
unmark(struct kms_core *core, const struct destruction *d, bool destroyed)
{
	struct kms_version *version;
	struct kms_key *key;

	pthread_rwlock_wrlock(&core->keys->lock);
	key = kms_keys_by_id(core->keys, d->id);
	version = key ? kms_key_version(key, d->version) : NULL;
	if (version) {
		version->destroying = false;
		if (destroyed) {
			version->state = KMS_VERSION_DESTROYED;
			version->destroyed_ns = d->now;
		}
	}
	pthread_rwlock_unlock(&core->keys->lock);
}

/* census_lock is held: nothing hangs on the version, or -EBUSY. */
static int
nothing_left(struct kms_core *core, const struct destruction *d, struct base_error *err)
{
	struct census census = { .core = core, .err = err };
	const struct count *count;
	int rc = kms_leases_wait(core->leases, d->id, d->version, LEASE_SECONDS);

	if (rc < 0)
		return base_error_set(err, -EBUSY, BASE_EXIT_FAILED, "files are still being made under version %u of key \"%.100s\" after %d "
				      "seconds; try again", d->version, d->name, LEASE_SECONDS);
	rc = census_run(core, &census);
	if (rc < 0) {
		char why[640];

		snprintf(why, sizeof(why), "%s", err->text);
		rc = base_error_set(err, rc, BASE_EXIT_FAILED, "version %u of key \"%.60s\" was not destroyed: %s", d->version, d->name, why);
	} else if ((count = count_find(&census, d->id, d->version))) {
		rc = base_error_set(err, -EBUSY, BASE_EXIT_FAILED, "%llu files still hang on version %u of key \"%.60s\" (for example %s); run "
				    "`keepctl rewrap --key %.60s` first", (unsigned long long) count->files, d->version, d->name,
				    count->example, d->name);
	}
	census_free(&census);
	return rc;
}

static int
destroy_apply(void *ctx, struct kms_store *store)
{
	const struct destruction *d = ctx;

	return kms_store_version_state(store, d->id, d->version, KMS_VERSION_DESTROYED, d->now);
}

/*
 * The record that it begins is durable before the HSM forgets; the row follows. A crash in between leaves a version without
 * its object, which opens nothing and can be destroyed again.
 */
static int
destroy(struct kms_core *core, struct kms_event *event, struct destruction *d, struct base_error *err)
{
	int rc;

	event->reason = "begins";
	rc = kms_audit_event(core, event);
	if (rc < 0)
		return base_error_set(err, rc, BASE_EXIT_FAILED, "version %u of key \"%.100s\" was not destroyed: its record cannot be written: %s",
				      d->version, d->name, strerror(-rc));
	rc = hsm_key_destroy(core->hsm, d->hsm_id, err);
	if (rc < 0 && rc != -ENOENT)
		return rc;
	event->reason = NULL;
	event->apply = destroy_apply;
	event->apply_ctx = d;
	rc = kms_audit_event(core, event);
	if (rc < 0)
		return base_error_set(err, rc, BASE_EXIT_FAILED, "version %u of key \"%.100s\" is gone from the HSM, but %s/keystore.db could not be "
				      "written (%s); destroy it again", d->version, d->name, core->dir, strerror(-rc));
	return 0;
}

static void
record_refusal(struct kms_core *core, struct kms_event *event, int rc, const struct base_error *err)
{
	event->apply = NULL;
	event->reason = err->text;
	event->outcome = KMS_OUTCOME_FAILED;
	event->errnum = -rc;
	event->full = false;
	kms_audit_event(core, event);
}

int
kms_keys_destroy_version(struct kms_core *core, const struct kms_caller *caller, const uint8_t id[BASE_ID_SIZE],
			 uint32_t version, struct base_error *err)
{
	struct destruction d = { .id = id, .version = version, .now = base_clock_real_ns() };
	struct base_error local = { 0 };
	char rule[KMS_RULE_MAX];
	struct kms_event event = { .caller = caller, .action = "key-destroy-version", .key_id = id, .version = version, .rule = rule,
				   .full = true };
	int rc;

	err = err ? err : &local;
	rc = kms_authorize(core, caller, KMS_ACTION_MANAGE, id, event.action, err);
	if (rc < 0)
		return rc;
	kms_policy_check(core->policy, caller, KMS_ACTION_MANAGE, id, rule);
	pthread_mutex_lock(&core->census_lock);
	rc = mark(core, &d, err);
	if (rc == 0) {
		rc = nothing_left(core, &d, err);
		if (rc == 0)
			rc = destroy(core, &event, &d, err);
		unmark(core, &d, rc == 0);
	}
	pthread_mutex_unlock(&core->census_lock);
	if (rc == 0)
		kms_dek_drop_all(core);
	else
		record_refusal(core, &event, rc, err);
	return rc;
}
