/*
 * /v1/roles: who has which role.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "internal.h"
#include "keys.h"
#include "policy.h"

static int
no_memory(struct base_error *err)
{
	return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "out of memory");
}

static json_t *
number_or_null(int64_t number)
{
	return number >= 0 ? json_integer(number) : json_null();
}

static json_t *
row_json(struct kms_core *core, const struct kms_role_row *row)
{
	char name[KMS_NAME_MAX + 1] = "", time[BASE_CLOCK_TEXT];
	bool service = !strcmp(row->scope, KMS_SCOPE_SERVICE);
	uint8_t id[BASE_ID_SIZE];

	if (!service && base_unhex(row->scope, id, sizeof(id)) == 0)
		kms_key_name(core, id, name);
	return json_pack("{s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:s}", "principal", row->principal, "role", kms_role_name(row->role),
			 "scope", service ? "service" : "key", "key", *name ? json_string(name) : json_null(), "key_id",
			 service ? json_null() : json_string(row->scope), "uid", number_or_null(row->uid), "gid",
			 number_or_null(row->gid), "created", base_clock_format(row->created_ns, time));
}

/* ---- who has which --------------------------------------------------------------------------------------------------- */

/* Managers and Auditors see all roles, others what is theirs; who has none is told so. */
static int
role_list(struct kms_core *core, void *ctx, struct kms_request *request, struct base_error *err)
{
	struct kms_policy *policy = core->policy;
	const struct kms_caller *caller = &request->caller;
	char rule[KMS_RULE_MAX];
	bool all = kms_policy_check(policy, caller, KMS_ACTION_MANAGE, NULL, rule) == KMS_ALLOW_ALL ||
		   kms_policy_check(policy, caller, KMS_ACTION_AUDIT, NULL, rule) == KMS_ALLOW_ALL;
	struct kms_role_row *rows;
	size_t count, shown = 0;
	int rc = kms_policy_rows(policy, &rows, &count);

	if (rc < 0)
		return no_memory(err);
	for (size_t i = 0; i < count && rc == 0; i++) {
		json_t *line;

		if (!all && !kms_policy_applies(policy, caller, &rows[i]))
			continue;
		line = row_json(core, &rows[i]);
		rc = line ? request->emit(request->emit_ctx, line) : no_memory(err);
		shown++;
	}
	free(rows);
	if (rc == 0 && !shown)
		rc = kms_authorize(core, caller, KMS_ACTION_SEE, NULL, "role-list", err);
	return rc;
}

/* ---- changes --------------------------------------------------------------------------------------------------------- */

static const char *
text_param(struct kms_request *request, const char *name)
{
	json_t *value = json_object_get(request->params, name);
	const char *text = json_string_value(value);

	return text && strlen(text) == json_string_length(value) ? text : NULL;
}

/* Who manages nothing does not learn which keys and accounts there are. */
static int
hidden(struct kms_core *core, struct kms_request *request, const char *what, int rc, struct base_error *err)
{
	struct base_error denied;

	if (kms_authorize(core, &request->caller, KMS_ACTION_MANAGE, NULL, what, &denied) == 0)
		return rc;
	*err = denied;
	return denied.code;
}

static int
row_read(struct kms_core *core, struct kms_request *request, bool assign, struct kms_role_row *row, uint8_t key_id[BASE_ID_SIZE],
	 const char *key, struct base_error *err)
{
	const char *principal = text_param(request, "principal"), *role = text_param(request, "role");
	const char *what = assign ? "role-assign" : "role-remove";
	int rc;

	if (!principal || !role)
		return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "a role needs a \"principal\" and a \"role\"");
	row->role = kms_role_find(role);
	if (!row->role)
		return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "'%.60s' is no role; there are " KMS_ROLE_NAMES, role);
	rc = kms_principal_find(principal, row, err);
	if (rc == -ENOENT && !assign) /* the role of an account that is gone */
		rc = 0;
	if (rc == 0 && key)
		rc = kms_keys_resolve(core, key, key_id, err);
	return rc == -ENOENT ? hidden(core, request, what, rc, err) : rc;
}

static int
change(struct kms_core *core, struct kms_request *request, bool assign, struct base_error *err)
{
	struct kms_role_row row = { 0 };
	uint8_t id[BASE_ID_SIZE];
	json_t *line, *member = json_object_get(request->params, "key");
	const char *key = text_param(request, "key");
	bool changed = false;
	int rc;

	if (member && !key)
		return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "the \"key\" of a role is its name or id");
	rc = row_read(core, request, assign, &row, id, key, err);
	if (rc == 0)
		rc = kms_policy_change(core, &request->caller, assign, &row, key ? id : NULL, &changed, err);
	if (rc < 0)
		return rc;
	line = json_pack("{s:s, s:s, s:s, s:o, s:b}", "principal", row.principal, "role", kms_role_name(row.role), "scope",
			 key ? "key" : "service", "key", key ? json_string(key) : json_null(), "changed", changed);
	return line ? request->emit(request->emit_ctx, line) : no_memory(err);
}

static int
role_assign(struct kms_core *core, void *ctx, struct kms_request *request, struct base_error *err)
{
	return change(core, request, true, err);
}

static int
role_remove(struct kms_core *core, void *ctx, struct kms_request *request, struct base_error *err)
{
	return change(core, request, false, err);
}

int
kms_api_roles_add(struct kms_core *core)
{
	int rc = kms_api_add(core, "GET", "/v1/roles", role_list, NULL);

	if (rc == 0)
		rc = kms_api_add(core, "POST", "/v1/roles", role_assign, NULL);
	return rc < 0 ? rc : kms_api_add(core, "DELETE", "/v1/roles", role_remove, NULL);
}
