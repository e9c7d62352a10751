/*
 * Making, rotating and deleting keys. Order: decide, a new object in the HSM (durable), then one durable transaction with
 * the rows and the record, then the mirror. A crash before the transaction leaves an HSM object that nothing names.
 */
#include "keys_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "audit.h"
#include "base/clock.h"
#include "base/crypto.h"
#include "base/log.h"
#include "dek.h"
#include "hsm/hsm.h"
#include "policy.h"
#include "store.h"

static int
name_check(const struct kms_key_new *new, struct base_error *err)
{
	size_t len = strlen(new->name);
	json_t *text;

	if (!len || len > KMS_NAME_MAX)
		return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "a key's name has 1 to %d bytes", KMS_NAME_MAX);
	for (size_t i = 0; i < len; i++)
		if ((unsigned char) new->name[i] < 0x20 || new->name[i] == 0x7f || new->name[i] == '/')
			return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "a key's name has no control characters and no '/'");
	text = json_string(new->name);
	if (!text)
		return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "a key's name is UTF-8");
	json_decref(text);
	if (new->kind == KMS_KIND_ROOT && !strncmp(new->name, "vault:", 6))
		return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "names that begin with \"vault:\" belong to the keys of vaults");
	if (new->description && strlen(new->description) >= sizeof(((struct kms_key *) 0)->description))
		return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "a description has up to %zu bytes",
				      sizeof(((struct kms_key *) 0)->description) - 1);
	return 0;
}

static int
hsm_new(struct kms_core *core, const char *name, uint32_t number, struct kms_version *ret, struct base_error *err)
{
	char label[80];
	size_t len = strlen(name);

	if (len > 48) /* a label is UTF-8: no cut inside a character */
		for (len = 48; len && ((unsigned char) name[len] & 0xc0) == 0x80;)
			len--;
	memset(ret, 0, sizeof(*ret));
	ret->number = number;
	ret->state = KMS_VERSION_CURRENT;
	ret->created_ns = base_clock_real_ns();
	snprintf(label, sizeof(label), "keepfs %.*s v%u", (int) len, name, number);
	return hsm_key_generate(core->hsm, label, ret->hsm_id, err);
}

/* Nothing names the object yet. */
static void
hsm_undo(struct kms_core *core, const uint8_t hsm_id[16])
{
	char text[BASE_ID_TEXT];

	if (hsm_key_destroy(core->hsm, hsm_id, NULL) < 0)
		base_log(LOG_WARNING, "HSM object %s belongs to no key and could not be removed", base_hex(hsm_id, 16, text));
}

static int
store_failed(struct kms_core *core, int rc, const char *what, const char *name, struct base_error *err)
{
	return base_error_set(err, rc, BASE_EXIT_FAILED, "key \"%.80s\" was not %s: %s/keystore.db: %s", name, what, core->dir, strerror(-rc));
}

/* ---- create -------------------------------------------------------------------------------------------------------------- */

struct creation {
	const struct kms_key *key;
	const struct kms_key_new *new;
};

static int
create_apply(void *ctx, struct kms_store *store)
{
	const struct creation *c = ctx;
	int rc = kms_store_key_insert(store, c->key);

	if (rc == 0)
		rc = kms_store_version_insert(store, c->key->id, &c->key->versions[0]);
	if (rc == 0 && c->new->extra)
		rc = c->new->extra(c->new->extra_ctx, store, c->key->id);
	return rc;
}

static struct kms_key *
key_new(const struct kms_key_new *new)
{
	struct kms_key *key = calloc(1, sizeof(*key));

	if (!key)
		return NULL;
	key->versions = calloc(1, sizeof(*key->versions));
	if (!key->versions || base_random(key->id, sizeof(key->id)) < 0) {
		kms_key_free(key);
		return NULL;
	}
	strcpy(key->name, new->name);
	strcpy(key->ring, "default");
	strcpy(key->description, new->description ? new->description : "");
	key->kind = new->kind;
	key->state = KMS_STATE_ACTIVE;
	key->origin = KMS_ORIGIN_HSM;
	key->created_ns = base_clock_real_ns();
	key->current = 1;
	key->count = 1;
	return key;
}

/* admin is held. */
static int
create_locked(struct kms_core *core, const struct kms_caller *caller, const struct kms_key_new *new, const char *rule,
	      uint8_t ret_id[BASE_ID_SIZE], struct base_error *err)
{
	struct kms_event event = { .caller = caller, .action = new->action, .subject = new->subject, .rule = rule, .version = 1,
				   .full = true, .apply = create_apply };
	struct kms_key *key;
	int rc;

	if (kms_key_find(core, new->name, ret_id) == 0)
		return base_error_set(err, -EEXIST, BASE_EXIT_FAILED, "there is a key \"%.100s\" already; names are unique", new->name);
	key = key_new(new);
	if (!key)
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "out of memory");
	rc = hsm_new(core, new->name, 1, &key->versions[0], err);
	if (rc < 0) {
		kms_key_free(key);
		return rc;
	}
	event.key_id = key->id;
	event.apply_ctx = &(struct creation) { .key = key, .new = new };
	rc = kms_audit_event(core, &event);
	if (rc < 0) {
		hsm_undo(core, key->versions[0].hsm_id);
		kms_key_free(key);
		return store_failed(core, rc, "made", new->name, err);
	}
	memcpy(ret_id, key->id, BASE_ID_SIZE);
	pthread_rwlock_wrlock(&core->keys->lock);
	kms_keys_insert(core->keys, key);
	pthread_rwlock_unlock(&core->keys->lock);
	return 0;
}

int
kms_keys_create(struct kms_core *core, const struct kms_caller *caller, const struct kms_key_new *new,
		uint8_t ret_id[BASE_ID_SIZE], struct base_error *err)
{
	char rule[KMS_RULE_MAX] = "the keystore is made";
	int rc = name_check(new, err);

	if (rc < 0)
		return rc;
	if (!new->trusted) {
		rc = kms_authorize(core, caller, KMS_ACTION_ROTATE, NULL, new->action, err);
		if (rc < 0)
			return rc;
		kms_policy_check(core->policy, caller, KMS_ACTION_ROTATE, NULL, rule);
	}
	pthread_mutex_lock(&core->keys->admin);
	rc = create_locked(core, caller, new, rule, ret_id, err);
	pthread_mutex_unlock(&core->keys->admin);
	return rc;
}

/* ---- rotate -------------------------------------------------------------------------------------------------------------- */

struct rotation {
	const uint8_t *id;
	uint32_t old; /* 0: there was no current version */
	const struct kms_version *version;
};

static int
rotate_apply(void *ctx, struct kms_store *store)
{
	const struct rotation *r = ctx;
	int rc = r->old ? kms_store_version_state(store, r->id, r->old, KMS_VERSION_NON_CURRENT, 0) : 0;

	return rc < 0 ? rc : kms_store_version_insert(store, r->id, r->version);
}

/* admin is held. What a rotation starts from. */
static int
rotate_from(struct kms_core *core, const uint8_t *id, char name[KMS_NAME_MAX + 1], uint32_t *ret_old, uint32_t *ret_next,
	    struct base_error *err)
{
	struct kms_key *key;
	enum kms_key_state state = KMS_STATE_DESTROYED;
	int rc;

	pthread_rwlock_rdlock(&core->keys->lock);
	key = kms_keys_by_id(core->keys, id);
	if (key) {
		strcpy(name, key->name);
		state = key->state;
		*ret_old = key->current;
		*ret_next = key->count ? key->versions[key->count - 1].number + 1 : 1;
	}
	pthread_rwlock_unlock(&core->keys->lock);
	if (!key)
		return base_error_set(err, -ENOENT, BASE_EXIT_NOT_FOUND, "there is no such key");
	rc = kms_state_check(state, KMS_USE_NEW);
	if (rc < 0)
		return base_error_set(err, rc, BASE_EXIT_FAILED, "key \"%.100s\" is %s: it cannot be rotated", name, kms_state_name(state));
	return 0;
}

static int
rotate_mirror(struct kms_core *core, const uint8_t *id, const struct kms_version *version)
{
	struct kms_keys *keys = core->keys;
	struct kms_version *grown, *old;
	struct kms_key *key;

	pthread_rwlock_wrlock(&keys->lock);
	key = kms_keys_by_id(keys, id);
	grown = reallocarray(key->versions, key->count + 1, sizeof(*grown));
	if (grown) {
		key->versions = grown;
		old = kms_key_version(key, key->current);
		if (old)
			old->state = KMS_VERSION_NON_CURRENT;
		grown[key->count] = *version;
		key->count++;
		key->current = version->number;
	}
	pthread_rwlock_unlock(&keys->lock);
	return grown ? 0 : -ENOMEM;
}

static int
rotate_locked(struct kms_core *core, const struct kms_caller *caller, const uint8_t *id, const char *rule, uint32_t *ret_version,
	      struct base_error *err)
{
	struct kms_version version;
	struct rotation rotation = { .id = id, .version = &version };
	struct kms_event event = { .caller = caller, .action = "key-rotate", .key_id = id, .rule = rule, .full = true,
				   .apply = rotate_apply, .apply_ctx = &rotation };
	char name[KMS_NAME_MAX + 1];
	int rc = rotate_from(core, id, name, &rotation.old, &event.version, err);

	if (rc == 0)
		rc = hsm_new(core, name, event.version, &version, err);
	if (rc < 0)
		return rc;
	rc = kms_audit_event(core, &event);
	if (rc < 0) {
		hsm_undo(core, version.hsm_id);
		return store_failed(core, rc, "rotated", name, err);
	}
	if (rotate_mirror(core, id, &version) < 0)
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "key \"%.100s\" was rotated, but this service has no memory to use "
				      "the new version; restart it", name);
	kms_dek_drop_pools(core, id);
	*ret_version = version.number;
	return 0;
}

int
kms_keys_rotate(struct kms_core *core, const struct kms_caller *caller, const uint8_t id[BASE_ID_SIZE], uint32_t *ret_version,
		struct base_error *err)
{
	char rule[KMS_RULE_MAX];
	int rc = kms_authorize(core, caller, KMS_ACTION_ROTATE, id, "key-rotate", err);

	if (rc < 0)
		return rc;
	kms_policy_check(core->policy, caller, KMS_ACTION_ROTATE, id, rule);
	pthread_mutex_lock(&core->keys->admin);
	rc = rotate_locked(core, caller, id, rule, ret_version, err);
	pthread_mutex_unlock(&core->keys->admin);
	return rc;
}

/* ---- delete -------------------------------------------------------------------------------------------------------------- */

struct deletion {
	const uint8_t *id;
	int (*extra)(void *ctx, struct kms_store *store);
	void *extra_ctx;
};

static int
delete_apply(void *ctx, struct kms_store *store)
{
	const struct deletion *d = ctx;
	int rc = d->extra ? d->extra(d->extra_ctx, store) : 0;

	return rc < 0 ? rc : kms_store_key_delete(store, d->id);
}

int
kms_keys_delete(struct kms_core *core, const uint8_t id[BASE_ID_SIZE], int (*extra)(void *ctx, struct kms_store *store), void *ctx)
{
	struct kms_keys *keys = core->keys;
	struct kms_caller self = kms_caller_self(KMS_VIA_SERVICE);
	struct deletion deletion = { .id = id, .extra = extra, .extra_ctx = ctx };
	struct kms_key *key = NULL;
	int rc;

	pthread_mutex_lock(&keys->admin);
	rc = kms_audit_event(core, &(struct kms_event) { .caller = &self, .action = "key-undo", .key_id = id, .full = true,
							 .apply = delete_apply, .apply_ctx = &deletion });
	if (rc == 0) {
		pthread_rwlock_wrlock(&keys->lock);
		key = kms_keys_by_id(keys, id);
		if (key) {
			HASH_DELETE(by_id, keys->by_id, key);
			HASH_DELETE(by_name, keys->by_name, key);
			keys->count--;
		}
		pthread_rwlock_unlock(&keys->lock);
	}
	for (size_t i = 0; key && i < key->count; i++)
		hsm_undo(core, key->versions[i].hsm_id);
	kms_key_free(key);
	kms_dek_drop_pools(core, id);
	pthread_mutex_unlock(&keys->admin);
	return rc;
}

/* ---- counts ---------------------------------------------------------------------------------------------------------------- */

static int
flush_key(void *ctx, const struct kms_key *key)
{
	struct kms_store *store = ctx;
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < key->count; i++)
		rc = kms_store_version_files(store, key->id, key->versions[i].number, atomic_load(&key->versions[i].files),
					     key->versions[i].files_exact_ns);
	return rc;
}

int
kms_keys_files_flush(struct kms_core *core)
{
	int rc = kms_store_begin(core->store, false);

	if (rc < 0)
		return rc;
	rc = kms_keys_each(core->keys, flush_key, core->store);
	if (rc == 0)
		return kms_store_commit(core->store);
	kms_store_rollback(core->store);
	return rc;
}
