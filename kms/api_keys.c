/*
 * /v1/keys: making, listing, showing, rotating keys; destroying versions; sealing.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "audit.h"
#include "base/clock.h"
#include "hsm/hsm.h"
#include "internal.h"
#include "keys.h"
#include "policy.h"

static json_t *
time_json(uint64_t ns)
{
	char text[BASE_CLOCK_TEXT];

	return ns ? json_string(base_clock_format(ns, text)) : json_null();
}

static json_t *
version_json(const struct kms_version *v)
{
	return json_pack("{s:I, s:s, s:o, s:I, s:o, s:o}", "version", (json_int_t) v->number, "state", kms_version_state_name(v->state),
			 "created", time_json(v->created_ns), "files", (json_int_t) atomic_load(&v->files), "files_exact",
			 time_json(v->files_exact_ns), "destroyed", time_json(v->destroyed_ns));
}

static json_t *
key_json(const struct kms_key *key)
{
	char id[BASE_ID_TEXT];
	json_t *versions = json_array();

	for (size_t i = 0; i < key->count; i++)
		json_array_append_new(versions, version_json(&key->versions[i]));
	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:o, s:I, s:o, s:o}", "name", key->name, "id",
			 base_hex(key->id, sizeof(key->id), id), "ring", key->ring, "kind", key->kind == KMS_KIND_VAULT ? "vault" : "root",
			 "state", kms_state_name(key->state), "origin", key->origin == KMS_ORIGIN_IMPORTED ? "imported" : "hsm",
			 "description", key->description, "created", time_json(key->created_ns), "current_version",
			 (json_int_t) key->current, "versions", versions, "rotate_every",
			 key->rotate_every ? json_integer(key->rotate_every) : json_null());
}

/* ---- one key ------------------------------------------------------------------------------------------------------------- */

static int
show_fill(void *ctx, const struct kms_key *key)
{
	*(json_t **) ctx = key_json(key);
	return 0;
}

static int
no_memory(struct base_error *err)
{
	return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "out of memory");
}

static int
emit_key(struct kms_core *core, struct kms_request *request, const uint8_t id[BASE_ID_SIZE], struct base_error *err)
{
	json_t *line = NULL;
	int rc = kms_keys_with(core->keys, id, show_fill, &line);

	if (rc < 0)
		return base_error_set(err, rc, BASE_EXIT_NOT_FOUND, "the key is gone");
	return line ? request->emit(request->emit_ctx, line) : no_memory(err);
}

/* The key of the route, when the caller may see it. */
static int
route_key(struct kms_core *core, struct kms_request *request, const char *what, uint8_t id[BASE_ID_SIZE], struct base_error *err)
{
	int rc = kms_keys_resolve(core, request->match[0], id, err);
	struct base_error denied;

	if (rc == 0)
		return kms_authorize(core, &request->caller, KMS_ACTION_SEE, id, what, err);
	/* Who may see no key does not learn which there are. */
	if (kms_authorize(core, &request->caller, KMS_ACTION_SEE, NULL, what, &denied) < 0) {
		*err = denied;
		return denied.code;
	}
	return rc;
}

static int
key_show(struct kms_core *core, void *ctx, struct kms_request *request, struct base_error *err)
{
	uint8_t id[BASE_ID_SIZE];
	json_t *exact = json_object_get(request->params, "exact");
	int rc = route_key(core, request, "key-show", id, err);

	if (rc == 0 && exact && !json_is_false(exact))
		rc = kms_keys_census(core, err);
	return rc < 0 ? rc : emit_key(core, request, id, err);
}

static int
key_versions(struct kms_core *core, void *ctx, struct kms_request *request, struct base_error *err)
{
	uint8_t id[BASE_ID_SIZE];
	json_t *key = NULL, *version;
	size_t i;
	int rc = route_key(core, request, "key-versions", id, err);

	if (rc < 0)
		return rc;
	rc = kms_keys_with(core->keys, id, show_fill, &key);
	if (rc < 0)
		return base_error_set(err, rc, BASE_EXIT_NOT_FOUND, "the key is gone");
	if (!key)
		return no_memory(err);
	json_array_foreach(json_object_get(key, "versions"), i, version)
		if (rc == 0)
			rc = request->emit(request->emit_ctx, json_incref(version));
	json_decref(key);
	return rc;
}

/* ---- all keys -------------------------------------------------------------------------------------------------------------- */

struct list {
	struct kms_core *core;
	const struct kms_caller *caller;
	json_t *lines;
	bool any_role;
};

static int
list_one(void *ctx, const struct kms_key *key)
{
	struct list *l = ctx;
	char rule[KMS_RULE_MAX];

	if (kms_policy_check(l->core->policy, l->caller, KMS_ACTION_SEE, key->id, rule) != KMS_ALLOW_ALL)
		return 0;
	l->any_role = true;
	return json_array_append_new(l->lines, key_json(key)) < 0 ? -ENOMEM : 0;
}

/* Lists omit what the caller may not see; who may see nothing at all is told so. */
static int
key_list(struct kms_core *core, void *ctx, struct kms_request *request, struct base_error *err)
{
	struct list list = { .core = core, .caller = &request->caller, .lines = json_array() };
	json_t *line;
	size_t i;
	int rc = list.lines ? kms_keys_each(core->keys, list_one, &list) : -ENOMEM;

	if (rc < 0)
		rc = no_memory(err);
	else if (!list.any_role)
		rc = kms_authorize(core, &request->caller, KMS_ACTION_SEE, NULL, "key-list", err);
	json_array_foreach(list.lines, i, line)
		if (rc == 0)
			rc = request->emit(request->emit_ctx, json_incref(line));
	json_decref(list.lines);
	return rc;
}

/* ---- changes ------------------------------------------------------------------------------------------------------------------ */

static int
key_create(struct kms_core *core, void *ctx, struct kms_request *request, struct base_error *err)
{
	json_t *name = json_object_get(request->params, "name"), *description = json_object_get(request->params, "description");
	struct kms_key_new new = { .name = json_string_value(name), .description = json_string_value(description),
				   .kind = KMS_KIND_ROOT, .action = "key-create" };
	uint8_t id[BASE_ID_SIZE];
	int rc;

	if (!new.name)
		return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "a new key needs a \"name\"");
	if (strlen(new.name) != json_string_length(name) || (new.description && strlen(new.description) != json_string_length(description)))
		return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "a key's name and description have no NUL character");
	rc = kms_keys_create(core, &request->caller, &new, id, err);
	return rc < 0 ? rc : emit_key(core, request, id, err);
}

static int
key_rotate(struct kms_core *core, void *ctx, struct kms_request *request, struct base_error *err)
{
	char name[KMS_NAME_MAX + 1] = "";
	uint8_t id[BASE_ID_SIZE];
	uint32_t version;
	json_t *line;
	int rc = route_key(core, request, "key-rotate", id, err);

	if (rc == 0)
		rc = kms_keys_rotate(core, &request->caller, id, &version, err);
	if (rc < 0)
		return rc;
	kms_key_name(core, id, name);
	line = json_pack("{s:s, s:I}", "name", name, "version", (json_int_t) version);
	return line ? request->emit(request->emit_ctx, line) : no_memory(err);
}

static int
version_destroy(struct kms_core *core, void *ctx, struct kms_request *request, struct base_error *err)
{
	char name[KMS_NAME_MAX + 1] = "", *end;
	uint8_t id[BASE_ID_SIZE];
	unsigned long version;
	json_t *line;
	int rc;

	errno = 0;
	version = strtoul(request->match[1], &end, 10);
	if (*request->match[1] < '1' || *request->match[1] > '9' || *end || errno || version > UINT32_MAX)
		return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "\"%.40s\" is not the number of a version", request->match[1]);
	rc = route_key(core, request, "key-destroy-version", id, err);
	if (rc == 0)
		rc = kms_keys_destroy_version(core, &request->caller, id, (uint32_t) version, err);
	if (rc < 0)
		return rc;
	kms_key_name(core, id, name);
	line = json_pack("{s:s, s:I, s:s}", "name", name, "version", (json_int_t) version, "state", "destroyed");
	return line ? request->emit(request->emit_ctx, line) : no_memory(err);
}

static int
seal(struct kms_core *core, void *ctx, struct kms_request *request, struct base_error *err)
{
	int rc = kms_authorize(core, &request->caller, KMS_ACTION_MANAGE, NULL, "seal", err);
	json_t *line;

	if (rc == 0)
		rc = kms_audit_event(core, &(struct kms_event) { .caller = &request->caller, .action = "seal", .full = true });
	if (rc < 0)
		return err->code ? rc : base_error_set(err, rc, BASE_EXIT_FAILED, "not sealed: the record cannot be written: %s", strerror(-rc));
	kms_dek_drop_all(core);
	rc = hsm_seal(core->hsm, err);
	if (rc < 0)
		return rc;
	line = json_pack("{s:b}", "sealed", 1);
	return line ? request->emit(request->emit_ctx, line) : no_memory(err);
}

int
kms_api_keys_add(struct kms_core *core)
{
	static const struct {
		const char *method, *route;
		kms_handler_fn handler;
	} routes[] = {
		{ "GET", "/v1/keys", key_list },
		{ "POST", "/v1/keys", key_create },
		{ "GET", "/v1/keys/{}", key_show },
		{ "GET", "/v1/keys/{}/versions", key_versions },
		{ "POST", "/v1/keys/{}/rotate", key_rotate },
		{ "DELETE", "/v1/keys/{}/versions/{}", version_destroy },
		{ "POST", "/v1/seal", seal },
	};
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < sizeof(routes) / sizeof(routes[0]); i++)
		rc = kms_api_add(core, routes[i].method, routes[i].route, routes[i].handler, NULL);
	return rc;
}

int
kms_api_builtin(struct kms_core *core)
{
	int rc = kms_api_keys_add(core);

	if (rc == 0)
		rc = kms_api_roles_add(core);
	if (rc == 0)
		rc = kms_api_audit_add(core);
	return rc < 0 ? rc : kms_api_status_add(core);
}
