/*
 * Verbs about roles.
 */
#include "keepctl.h"

#include <errno.h>
#include <stdio.h>

enum { ROLE_KEY };

static const struct ctl_column role_columns[] = {
	{ "PRINCIPAL", "principal", CTL_TEXT }, { "ROLE", "role", CTL_TEXT }, { "SCOPE", "scope", CTL_TEXT }, { "KEY", "key", CTL_TEXT },
	{ "SINCE", "created", CTL_TIME }, { NULL, NULL, 0 },
};

struct changing {
	struct ctl *ctl;
	const char *done, *none; /* what there is to say: with the role's name and where it holds */
};

static void
change_line(void *ctx, json_t *line)
{
	struct changing *c = ctx;
	char principal[CTL_FIELD_MAX], role[CTL_FIELD_MAX], key[CTL_FIELD_MAX];
	bool on_key = json_is_string(json_object_get(line, "key"));

	if (c->ctl->json) {
		ctl_json(line);
		return;
	}
	printf("%s %s %s%s%s\n", ctl_field(line, "principal", CTL_TEXT, principal),
	       json_is_true(json_object_get(line, "changed")) ? c->done : c->none, ctl_field(line, "role", CTL_TEXT, role),
	       on_key ? " on key " : " in the service", on_key ? ctl_field(line, "key", CTL_TEXT, key) : "");
}

static int
change(struct ctl *ctl, const char *method, struct changing *c, struct base_error *err)
{
	json_t *params = json_pack("{s:s, s:s, s:s*}", "principal", ctl->args[0], "role", ctl->args[1], "key", ctl->options[ROLE_KEY]);

	if (!params)
		return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "principals, roles and keys are UTF-8 text");
	c->ctl = ctl;
	return ctl_call(ctl, method, "/v1/roles", params, change_line, c, err);
}

int
ctl_role_assign(struct ctl *ctl, struct base_error *err)
{
	return change(ctl, "POST", &(struct changing) { .done = "now has the role", .none = "had already the role" }, err);
}

int
ctl_role_remove(struct ctl *ctl, struct base_error *err)
{
	return change(ctl, "DELETE", &(struct changing) { .done = "no longer has the role", .none = "did not have the role" }, err);
}

int
ctl_role_list(struct ctl *ctl, struct base_error *err)
{
	return ctl_list(ctl, "GET", "/v1/roles", NULL, role_columns, err);
}
