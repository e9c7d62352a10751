/*
 * The mirror of keys and versions in memory. The hot path reads it under a read lock and never asks the database.
 */
#include "keys_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "leases.h"
#include "store.h"

/* ---- states ------------------------------------------------------------------------------------------------------------ */

static const struct {
	const char *name;
	int errnum[3]; /* by enum kms_use: new file, read, write to an existing one */
} states[] = {
	[KMS_STATE_PRE_ACTIVE]       = { "pre-active",       { ENOKEY,       ENOKEY,       ENOKEY } },
	[KMS_STATE_PENDING_IMPORT]   = { "pending-import",   { ENOKEY,       ENOKEY,       ENOKEY } },
	[KMS_STATE_ACTIVE]           = { "active",           { 0,            0,            0 } },
	[KMS_STATE_SUSPENDED]        = { "suspended",        { EKEYREVOKED,  EKEYREVOKED,  EKEYREVOKED } },
	[KMS_STATE_DEACTIVATED]      = { "deactivated",      { EKEYEXPIRED,  0,            EKEYEXPIRED } },
	[KMS_STATE_COMPROMISED]      = { "compromised",      { EKEYREJECTED, EKEYREJECTED, EKEYREJECTED } },
	[KMS_STATE_PENDING_DELETION] = { "pending-deletion", { EKEYREVOKED,  EKEYREVOKED,  EKEYREVOKED } },
	[KMS_STATE_DESTROYED]        = { "destroyed",        { ENOKEY,       ENOKEY,       ENOKEY } },
};

static const struct {
	const char *name;
	int errnum[3];
} version_states[] = {
	[KMS_VERSION_PENDING]     = { "pending",     { ENOKEY,      ENOKEY,      ENOKEY } },
	[KMS_VERSION_CURRENT]     = { "current",     { 0,           0,           0 } },
	[KMS_VERSION_NON_CURRENT] = { "non-current", { ENOKEY,      0,           0 } },
	[KMS_VERSION_REVOKED]     = { "revoked",     { EKEYREVOKED, EKEYREVOKED, EKEYREVOKED } },
	[KMS_VERSION_DESTROYED]   = { "destroyed",   { ENOKEY,      ENOKEY,      ENOKEY } },
};

int
kms_state_check(enum kms_key_state state, enum kms_use use)
{
	return -states[state].errnum[use];
}

int
kms_version_check(enum kms_version_state state, enum kms_use use)
{
	return -version_states[state].errnum[use];
}

const char *
kms_state_name(enum kms_key_state state)
{
	return states[state].name;
}

const char *
kms_version_state_name(enum kms_version_state state)
{
	return version_states[state].name;
}

/* ---- the mirror -------------------------------------------------------------------------------------------------------- */

void
kms_key_free(struct kms_key *key)
{
	if (!key)
		return;
	free(key->versions);
	free(key);
}

struct kms_key *
kms_keys_by_id(struct kms_keys *keys, const uint8_t id[BASE_ID_SIZE])
{
	struct kms_key *key = NULL;

	HASH_FIND(by_id, keys->by_id, id, BASE_ID_SIZE, key);
	return key;
}

struct kms_key *
kms_keys_by_name(struct kms_keys *keys, const char *name)
{
	struct kms_key *key = NULL;

	HASH_FIND(by_name, keys->by_name, name, strlen(name), key);
	return key;
}

struct kms_version *
kms_key_version(struct kms_key *key, uint32_t number)
{
	for (size_t i = key->count; i > 0; i--)
		if (key->versions[i - 1].number == number)
			return &key->versions[i - 1];
	return NULL;
}

void
kms_keys_insert(struct kms_keys *keys, struct kms_key *key)
{
	HASH_ADD(by_id, keys->by_id, id, sizeof(key->id), key);
	HASH_ADD_KEYPTR(by_name, keys->by_name, key->name, strlen(key->name), key);
	keys->count++;
}

static int
load_key(void *ctx, struct kms_key *key)
{
	struct kms_keys *keys = ctx;

	if (key->state < KMS_STATE_PRE_ACTIVE || key->state > KMS_STATE_DESTROYED || kms_keys_by_name(keys, key->name)) {
		kms_key_free(key);
		return -EBADMSG;
	}
	kms_keys_insert(keys, key);
	return 0;
}

int
kms_keys_new(struct kms_core *core, struct kms_keys **ret)
{
	struct kms_keys *keys = calloc(1, sizeof(*keys));
	int rc;

	if (!keys)
		return -ENOMEM;
	pthread_rwlock_init(&keys->lock, NULL);
	pthread_mutex_init(&keys->admin, NULL);
	rc = kms_store_keys(core->store, load_key, keys);
	if (rc < 0) {
		kms_keys_free(keys);
		return rc;
	}
	*ret = keys;
	return 0;
}

void
kms_keys_free(struct kms_keys *keys)
{
	struct kms_key *key, *next;

	if (!keys)
		return;
	HASH_CLEAR(by_name, keys->by_name);
	HASH_ITER(by_id, keys->by_id, key, next) {
		HASH_DELETE(by_id, keys->by_id, key);
		kms_key_free(key);
	}
	pthread_rwlock_destroy(&keys->lock);
	pthread_mutex_destroy(&keys->admin);
	free(keys);
}

size_t
kms_keys_count(struct kms_keys *keys)
{
	size_t count;

	pthread_rwlock_rdlock(&keys->lock);
	count = keys->count;
	pthread_rwlock_unlock(&keys->lock);
	return count;
}

/* The lock is held. */
static int
view(struct kms_keys *keys, const uint8_t *id, uint32_t number, struct kms_key_view *ret, struct kms_version **ret_version)
{
	struct kms_key *key = kms_keys_by_id(keys, id);
	struct kms_version *version;

	if (!key)
		return -ENOENT;
	version = kms_key_version(key, number ? number : key->current);
	strcpy(ret->name, key->name);
	ret->kind = key->kind;
	ret->state = key->state;
	ret->current = key->current;
	if (!version)
		return -ENOKEY;
	ret->version_state = version->state;
	memcpy(ret->hsm_id, version->hsm_id, sizeof(ret->hsm_id));
	if (ret_version)
		*ret_version = version;
	return 0;
}

int
kms_keys_view(struct kms_keys *keys, const uint8_t id[BASE_ID_SIZE], uint32_t version, struct kms_key_view *ret)
{
	int rc;

	pthread_rwlock_rdlock(&keys->lock);
	rc = view(keys, id, version, ret, NULL);
	pthread_rwlock_unlock(&keys->lock);
	return rc;
}

int
kms_keys_lease(struct kms_core *core, const uint8_t id[BASE_ID_SIZE], struct kms_key_view *ret, uint64_t *ret_lease)
{
	struct kms_version *version;
	int rc;

	pthread_rwlock_rdlock(&core->keys->lock);
	rc = view(core->keys, id, 0, ret, &version);
	if (rc == 0 && version->destroying)
		rc = -ENOKEY;
	if (rc == 0) {
		*ret_lease = kms_lease_take(core->leases, id, version->number);
		if (!*ret_lease)
			rc = -ENOMEM;
	}
	pthread_rwlock_unlock(&core->keys->lock);
	return rc;
}

void
kms_keys_files(struct kms_keys *keys, const uint8_t id[BASE_ID_SIZE], uint32_t number, int delta)
{
	struct kms_key *key;
	struct kms_version *version;

	pthread_rwlock_rdlock(&keys->lock);
	key = kms_keys_by_id(keys, id);
	version = key ? kms_key_version(key, number) : NULL;
	if (version)
		atomic_fetch_add(&version->files, delta);
	pthread_rwlock_unlock(&keys->lock);
}

int
kms_keys_each(struct kms_keys *keys, int (*fn)(void *ctx, const struct kms_key *key), void *ctx)
{
	struct kms_key *key, *next;
	int rc = 0;

	pthread_rwlock_rdlock(&keys->lock);
	HASH_ITER(by_id, keys->by_id, key, next)
		if (rc == 0)
			rc = fn(ctx, key);
	pthread_rwlock_unlock(&keys->lock);
	return rc;
}

int
kms_keys_with(struct kms_keys *keys, const uint8_t id[BASE_ID_SIZE], int (*fn)(void *ctx, const struct kms_key *key), void *ctx)
{
	struct kms_key *key;
	int rc;

	pthread_rwlock_rdlock(&keys->lock);
	key = kms_keys_by_id(keys, id);
	rc = key ? fn(ctx, key) : -ENOENT;
	pthread_rwlock_unlock(&keys->lock);
	return rc;
}

/* ---- what other rooms ask ------------------------------------------------------------------------------------------------ */

int
kms_key_find(struct kms_core *core, const char *name, uint8_t ret_id[BASE_ID_SIZE])
{
	struct kms_key *key;

	pthread_rwlock_rdlock(&core->keys->lock);
	key = kms_keys_by_name(core->keys, name);
	if (key)
		memcpy(ret_id, key->id, BASE_ID_SIZE);
	pthread_rwlock_unlock(&core->keys->lock);
	return key ? 0 : -ENOENT;
}

int
kms_keys_resolve(struct kms_core *core, const char *text, uint8_t ret_id[BASE_ID_SIZE], struct base_error *err)
{
	struct kms_key_view ignored;

	if (kms_key_find(core, text, ret_id) == 0)
		return 0;
	if (base_unhex(text, ret_id, BASE_ID_SIZE) == 0 && kms_keys_view(core->keys, ret_id, 0, &ignored) != -ENOENT)
		return 0;
	return base_error_set(err, -ENOENT, BASE_EXIT_NOT_FOUND, "there is no key \"%.100s\" in keystore %s; `keepctl key list` names them",
			      text, core->dir);
}

int
kms_key_name(struct kms_core *core, const uint8_t id[BASE_ID_SIZE], char *ret)
{
	struct kms_key *key;

	pthread_rwlock_rdlock(&core->keys->lock);
	key = kms_keys_by_id(core->keys, id);
	if (key)
		strcpy(ret, key->name);
	pthread_rwlock_unlock(&core->keys->lock);
	return key ? 0 : -ENOENT;
}

uint32_t
kms_key_current(struct kms_core *core, const uint8_t id[BASE_ID_SIZE])
{
	struct kms_key *key;
	uint32_t current;

	pthread_rwlock_rdlock(&core->keys->lock);
	key = kms_keys_by_id(core->keys, id);
	current = key ? key->current : 0;
	pthread_rwlock_unlock(&core->keys->lock);
	return current;
}
