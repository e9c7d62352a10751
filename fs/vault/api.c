/* The routes of this room. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "jobs.h"

static json_t *vault_line(struct kms_core *core, const struct kms_vault *vault)
{
	char id[BASE_ID_TEXT], key[KMS_NAME_MAX + 1];

	if (kms_key_name(core, vault->key_id, key) < 0)
		base_hex(vault->key_id, BASE_ID_SIZE, key);
	return json_pack("{s:s, s:s, s:I, s:s}", "id", base_hex(vault->id, BASE_ID_SIZE, id), "path", vault->path, "generation",
			 (json_int_t)vault->generation, "key", key);
}

/* The service makes directories with its own rights: only who runs it may ask for that. */
static int check_owner(const struct kms_request *request, struct base_error *err)
{
	if (request->caller.uid == geteuid())
		return 0;
	return base_error_set(err, -EACCES, BASE_EXIT_DENIED, "only the keystore's owner may make vaults in it");
}

static int create_handler(struct kms_core *core, void *ctx, struct kms_request *request, struct base_error *err)
{
	const char *path = vault_param(request, "path"), *key = vault_param(request, "key");
	struct kms_vault *vault;
	uint8_t id[BASE_ID_SIZE];
	json_t *line;
	int code;

	if (!path || path[0] != '/')
		return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "an absolute path is needed");
	if ((code = check_owner(request, err)) < 0 ||
	    (code = vault_create(core, &request->caller, path, key ? key : "default", id, err)) < 0)
		return code;
	vault = malloc(sizeof(*vault));
	line = vault && kms_vault_get(core, id, vault) == 0 ? vault_line(core, vault) : NULL;
	free(vault);
	if (!line)
		return base_error_set(err, -EIO, BASE_EXIT_FAILED, "the vault %s was made, but the keystore cannot show it", path);
	request->emit(request->emit_ctx, line);
	return 0;
}

struct list {
	struct kms_vault *vaults;
	size_t count;
};

static int collect(void *ctx, const struct kms_vault *vault)
{
	struct list *list = ctx;
	struct kms_vault *more = realloc(list->vaults, (list->count + 1) * sizeof(*more));

	if (!more)
		return -ENOMEM;
	list->vaults = more;
	list->vaults[list->count++] = *vault;
	return 0;
}

int vault_registered(struct kms_core *core, struct kms_vault **ret, size_t *ret_count, struct base_error *err)
{
	struct list list = { 0 };
	int code = kms_vault_list(core, collect, &list);

	if (code < 0) {
		free(list.vaults);
		list.vaults = NULL;
		list.count = 0;
		base_error_set(err, code, BASE_EXIT_FAILED, "cannot list the vaults: %s", strerror(-code));
	}
	*ret = list.vaults;
	*ret_count = list.count;
	return code;
}

static int list_handler(struct kms_core *core, void *ctx, struct kms_request *request, struct base_error *err)
{
	struct kms_vault *vaults;
	size_t i, count;
	json_t *line;
	int code = kms_authorize(core, &request->caller, KMS_ACTION_SEE, NULL, "vault list", err);

	if (code < 0 || (code = vault_registered(core, &vaults, &count, err)) < 0)
		return code;
	for (i = 0; i < count; i++) {
		line = vault_line(core, &vaults[i]);
		if (line && request->emit(request->emit_ctx, line) != 0)
			break;
	}
	free(vaults);
	return 0;
}

int vault_api_add(struct kms_core *core)
{
	static const struct {
		const char *method, *route;
		kms_handler_fn handler;
	} routes[] = {
		{ "POST", "/v1/vaults", create_handler },
		{ "GET", "/v1/vaults", list_handler },
		{ "POST", "/v1/rewrap", vault_rewrap_handler },
		{ "POST", "/v1/fsck", vault_fsck_handler },
		{ "GET", "/v1/files", vault_file_show_handler },
		{ "GET", "/v1/directories", vault_dir_show_handler },
		{ "POST", "/v1/directories/key", vault_dir_key_handler },
		{ "POST", "/v1/scrub", vault_scrub_handler },
	};
	size_t i;
	int code;

	for (i = 0; i < sizeof(routes) / sizeof(routes[0]); i++) {
		code = kms_api_add(core, routes[i].method, routes[i].route, routes[i].handler, NULL);
		if (code < 0)
			return code;
	}
	kms_census_set(core, vault_census, NULL);
	return 0;
}
