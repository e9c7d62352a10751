/*
 * Verbs about keys and their versions.
 */
#include "keepctl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "prompt.h"

static const struct ctl_column key_columns[] = {
	{ "NAME", "name", CTL_TEXT }, { "STATE", "state", CTL_TEXT }, { "VERSION", "current_version", CTL_NUMBER },
	{ "RING", "ring", CTL_TEXT }, { "ORIGIN", "origin", CTL_TEXT }, { "DESCRIPTION", "description", CTL_TEXT }, { NULL, NULL, 0 },
};

static const struct ctl_column version_columns[] = {
	{ "VERSION", "version", CTL_NUMBER }, { "STATE", "state", CTL_TEXT }, { "CREATED", "created", CTL_TIME },
	{ "FILES", "files", CTL_NUMBER }, { NULL, NULL, 0 },
};

static const struct ctl_column key_details[] = {
	{ "name", "name", CTL_TEXT }, { "id", "id", CTL_TEXT }, { "ring", "ring", CTL_TEXT }, { "state", "state", CTL_TEXT },
	{ "origin", "origin", CTL_TEXT }, { "description", "description", CTL_TEXT }, { "version", "current_version", CTL_NUMBER },
	{ "rotate every", "rotate_every", CTL_TEXT }, { "files counted", "files_exact", CTL_TIME }, { NULL, NULL, 0 },
};

static int
key_path(char path[PATH_MAX], const char *name, const char *tail, struct base_error *err)
{
	size_t len = strlen(name);

	if (!len || len > KMS_NAME_MAX || strchr(name, '/'))
		return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "'%s' is no key name: 1 to %d bytes without '/'", name, KMS_NAME_MAX);
	ctl_path(path, PATH_MAX, "/v1/keys/%s", name);
	strcat(path, tail);
	return 0;
}

int
ctl_key_create(struct ctl *ctl, struct base_error *err)
{
	json_t *params = json_pack("{s:s, s:s*}", "name", ctl->args[0], "description", ctl->options[0]);

	if (!params)
		return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "names and descriptions are UTF-8 text");
	return ctl_one(ctl, "POST", "/v1/keys", params, key_details, err);
}

int
ctl_key_list(struct ctl *ctl, struct base_error *err)
{
	return ctl_list(ctl, "GET", "/v1/keys", NULL, key_columns, err);
}

static void
show_line(void *ctx, json_t *line)
{
	struct ctl *ctl = ctx;
	struct ctl_table *table;
	json_t *version;
	size_t index;

	if (ctl->json) {
		ctl_json(line);
		return;
	}
	ctl_details(line, key_details);
	putchar('\n');
	table = ctl_table_new(version_columns);
	json_array_foreach(json_object_get(line, "versions"), index, version)
		ctl_table_line(table, version);
	ctl_table_done(table);
}

int
ctl_key_show(struct ctl *ctl, struct base_error *err)
{
	char path[PATH_MAX];
	int rc = key_path(path, ctl->args[0], "", err);

	return rc < 0 ? rc : ctl_call(ctl, "GET", path, NULL, show_line, ctl, err);
}

int
ctl_key_versions(struct ctl *ctl, struct base_error *err)
{
	char path[PATH_MAX];
	int rc = key_path(path, ctl->args[0], "/versions", err);

	return rc < 0 ? rc : ctl_list(ctl, "GET", path, NULL, version_columns, err);
}

static void
rotate_line(void *ctx, json_t *line)
{
	struct ctl *ctl = ctx;
	char name[CTL_FIELD_MAX], version[CTL_FIELD_MAX];

	if (ctl->json)
		ctl_json(line);
	else
		printf("%s: version %s is current; `keepctl rewrap --key %s` moves the files to it\n",
		       ctl_field(line, "name", CTL_TEXT, name), ctl_field(line, "version", CTL_NUMBER, version), ctl->args[0]);
}

int
ctl_key_rotate(struct ctl *ctl, struct base_error *err)
{
	char path[PATH_MAX];
	int rc = key_path(path, ctl->args[0], "/rotate", err);

	return rc < 0 ? rc : ctl_call(ctl, "POST", path, NULL, rotate_line, ctl, err);
}

static void
destroy_line(void *ctx, json_t *line)
{
	struct ctl *ctl = ctx;

	if (ctl->json)
		ctl_json(line);
}

int
ctl_key_destroy_version(struct ctl *ctl, struct base_error *err)
{
	const char *name = ctl->args[0], *number = ctl->args[1];
	char path[PATH_MAX], question[KMS_NAME_MAX + 400], tail[40];
	unsigned long version;
	char *end;
	int rc;

	errno = 0;
	version = strtoul(number, &end, 10);
	if (*number < '0' || *number > '9' || *end || errno || !version || version > UINT32_MAX)
		return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "'%s' is no version number", number);
	snprintf(tail, sizeof(tail), "/versions/%lu", version);
	rc = key_path(path, name, tail, err);
	if (rc < 0)
		return rc;
	snprintf(question, sizeof(question),
		 "Version %lu of key %s will be destroyed in the HSM. It is refused while a file of a registered vault needs it, but\n"
		 "older copies of the vault (backups, snapshots) that hang on it stop opening, for good.", version, name);
	rc = ctl->yes ? 0 : prompt_confirm(question, err);
	if (rc == 0)
		rc = ctl_call(ctl, "DELETE", path, NULL, destroy_line, ctl, err);
	if (rc == 0 && !ctl->json)
		printf("%s: version %lu is destroyed; older copies of the vault that hang on it no longer open\n", name, version);
	return rc;
}
