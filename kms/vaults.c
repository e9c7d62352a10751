/*
 * Registered vaults, each with a root key of its own.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "audit.h"
#include "internal.h"
#include "keys.h"
#include "policy.h"
#include "store.h"

static int
add_apply(void *ctx, struct kms_store *store, const uint8_t key_id[BASE_ID_SIZE])
{
	struct kms_vault *vault = ctx;

	memcpy(vault->key_id, key_id, BASE_ID_SIZE);
	return kms_store_vault_insert(store, vault);
}

int
kms_vault_add(struct kms_core *core, const struct kms_caller *caller, const uint8_t vault_id[BASE_ID_SIZE], const char *path,
	      uint8_t ret_key_id[BASE_ID_SIZE], struct base_error *err)
{
	struct kms_subject subject = { .purpose = KMS_PURPOSE_VAULT };
	struct kms_vault vault = { .generation = 0 };
	char name[6 + BASE_ID_TEXT] = "vault:", id[BASE_ID_TEXT];
	struct kms_key_new new = { .name = name, .kind = KMS_KIND_VAULT, .action = "vault-add", .subject = &subject,
				   .extra = add_apply, .extra_ctx = &vault };

	if (strlen(path) >= sizeof(vault.path))
		return base_error_set(err, -ENAMETOOLONG, BASE_EXIT_USAGE, "%.80s...: the path is too long", path);
	if (kms_vault_get(core, vault_id, &vault) == 0)
		return base_error_set(err, -EEXIST, BASE_EXIT_FAILED, "vault %s is registered already, at %.300s",
				      base_hex(vault_id, BASE_ID_SIZE, id), vault.path);
	memset(&vault, 0, sizeof(vault));
	memcpy(vault.id, vault_id, BASE_ID_SIZE);
	strcpy(vault.path, path);
	memcpy(subject.vault_id, vault_id, BASE_ID_SIZE);
	memcpy(subject.file_id, vault_id, BASE_ID_SIZE);
	base_hex(vault_id, BASE_ID_SIZE, name + 6);
	return kms_keys_create(core, caller, &new, ret_key_id, err);
}

int
kms_vault_get(struct kms_core *core, const uint8_t vault_id[BASE_ID_SIZE], struct kms_vault *ret)
{
	return kms_store_vault_get(core->store, vault_id, ret);
}

/* The store's lock is not held while fn runs: it may take long, and may call back. */
struct listing {
	size_t count;
	uint8_t (*ids)[BASE_ID_SIZE];
};

static int
list_id(void *ctx, const struct kms_vault *vault)
{
	struct listing *l = ctx;
	void *grown = reallocarray(l->ids, l->count + 1, BASE_ID_SIZE);

	if (!grown)
		return -ENOMEM;
	l->ids = grown;
	memcpy(l->ids[l->count++], vault->id, BASE_ID_SIZE);
	return 0;
}

int
kms_vault_list(struct kms_core *core, int (*fn)(void *ctx, const struct kms_vault *vault), void *ctx)
{
	struct listing l = { 0 };
	struct kms_vault vault;
	int rc = kms_store_vaults(core->store, list_id, &l);

	for (size_t i = 0; rc == 0 && i < l.count; i++) {
		rc = kms_store_vault_get(core->store, l.ids[i], &vault);
		if (rc == 0)
			rc = fn(ctx, &vault);
		else if (rc == -ENOENT)
			rc = 0; /* removed meanwhile */
	}
	free(l.ids);
	return rc;
}

int
kms_vault_generation(struct kms_core *core, const uint8_t vault_id[BASE_ID_SIZE], uint64_t generation)
{
	return kms_store_vault_generation(core->store, vault_id, generation);
}

int
kms_vault_path(struct kms_core *core, const uint8_t vault_id[BASE_ID_SIZE], const char *path)
{
	struct kms_vault vault;
	int rc = kms_vault_get(core, vault_id, &vault);

	if (rc < 0 || !strcmp(vault.path, path))
		return rc;
	return kms_store_vault_path(core->store, vault_id, path);
}

static int
remove_apply(void *ctx, struct kms_store *store)
{
	return kms_store_vault_delete(store, ctx);
}

int
kms_vault_remove(struct kms_core *core, const uint8_t vault_id[BASE_ID_SIZE])
{
	struct kms_vault vault;
	int rc = kms_vault_get(core, vault_id, &vault);

	return rc < 0 ? rc : kms_keys_delete(core, vault.key_id, remove_apply, vault.id);
}
