/*
 * Verbs about vaults, mounts, directories and files.
 */
#include "keepctl.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct ctl_column vault_columns[] = {
	{ "PATH", "path", CTL_TEXT }, { "ID", "id", CTL_TEXT }, { "KEY", "key", CTL_TEXT }, { "GENERATION", "generation", CTL_NUMBER },
	{ NULL, NULL, 0 },
};

static const struct ctl_column mount_columns[] = {
	{ "VAULT", "vault", CTL_TEXT }, { "MOUNTPOINT", "mountpoint", CTL_TEXT }, { "OPTIONS", "options", CTL_TEXT }, { NULL, NULL, 0 },
};

static const struct ctl_column dir_details[] = {
	{ "path", "path", CTL_TEXT }, { "key", "key", CTL_TEXT }, { "key id", "key_id", CTL_TEXT },
	{ "directory id", "directory_id", CTL_TEXT }, { NULL, NULL, 0 },
};

static const struct ctl_column file_details[] = {
	{ "file id", "file_id", CTL_TEXT }, { "key", "key", CTL_TEXT }, { "key id", "key_id", CTL_TEXT },
	{ "key version", "key_version", CTL_NUMBER }, { "suite", "suite", CTL_TEXT }, { "mechanism", "mechanism", CTL_TEXT },
	{ "size", "size", CTL_SIZE }, { "backing file", "backing_path", CTL_TEXT }, { "header", "header_bytes", CTL_SIZE },
	{ NULL, NULL, 0 },
};

int
ctl_vault_list(struct ctl *ctl, struct base_error *err)
{
	return ctl_list(ctl, "GET", "/v1/vaults", NULL, vault_columns, err);
}

/* Without a service nothing is mounted, and no table of routes knows of mounts. */
int
ctl_mount_list(struct ctl *ctl, struct base_error *err)
{
	int rc = ctl_list(ctl, "GET", "/v1/mounts", NULL, mount_columns, err);

	return rc == -ENOENT && ctl->core ? 0 : rc;
}

int
ctl_place(struct ctl *ctl, const char *path, char absolute[PATH_MAX], struct base_error *err)
{
	json_t *check;
	int rc = ctl_absolute(path, absolute, err);

	if (rc < 0)
		return rc;
	check = json_string(absolute);
	if (!check)
		return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "this path is not UTF-8, which requests cannot carry");
	json_decref(check);
	return ctl_keystore(ctl, absolute, err);
}

int
ctl_dir_show(struct ctl *ctl, struct base_error *err)
{
	char path[PATH_MAX];
	int rc = ctl_place(ctl, ctl->args[0], path, err);

	return rc < 0 ? rc : ctl_one(ctl, "GET", "/v1/directories", json_pack("{s:s}", "path", path), dir_details, err);
}

int
ctl_file_show(struct ctl *ctl, struct base_error *err)
{
	char path[PATH_MAX];
	int rc = ctl_place(ctl, ctl->args[0], path, err);

	return rc < 0 ? rc : ctl_one(ctl, "GET", "/v1/files", json_pack("{s:s}", "path", path), file_details, err);
}

struct rewrap {
	struct ctl *ctl;
	struct ctl_progress progress;
};

static void
rewrap_line(void *ctx, json_t *line)
{
	struct rewrap *rewrap = ctx;
	char a[CTL_FIELD_MAX], b[CTL_FIELD_MAX], c[CTL_FIELD_MAX];

	if (rewrap->ctl->json) {
		ctl_json(line);
	} else if (json_object_get(line, "progress")) {
		ctl_progress_draw(&rewrap->progress, line);
	} else if (json_object_get(line, "rewrapped")) {
		ctl_progress_clear(&rewrap->progress);
		printf("rewrapped %s, current already %s, failed %s\n", ctl_field(line, "rewrapped", CTL_NUMBER, a),
		       ctl_field(line, "current", CTL_NUMBER, b), ctl_field(line, "failed", CTL_NUMBER, c));
	}
}

int
ctl_rewrap(struct ctl *ctl, struct base_error *err)
{
	struct rewrap rewrap = { .ctl = ctl };
	json_t *params = json_pack("{s:s*}", "key", ctl->options[0]);
	char path[PATH_MAX];
	int rc = ctl->args[0] ? ctl_place(ctl, ctl->args[0], path, err) : 0;

	if (rc < 0) {
		json_decref(params);
		return rc;
	}
	if (ctl->args[0])
		json_object_set_new(params, "path", json_string(path));
	ctl_progress_init(&rewrap.progress, ctl);
	rc = ctl_call(ctl, "POST", "/v1/rewrap", params, rewrap_line, &rewrap, err);
	ctl_progress_clear(&rewrap.progress);
	return rc;
}

int
ctl_dir_set_key(struct ctl *ctl, struct base_error *err)
{
	struct rewrap rewrap = { .ctl = ctl };
	char path[PATH_MAX];
	int rc = ctl_place(ctl, ctl->args[0], path, err);
	json_t *params;

	if (rc < 0)
		return rc;
	params = json_pack("{s:s, s:s}", "path", path, "key", ctl->args[1]);
	if (!ctl->options[0])
		return ctl_one(ctl, "POST", "/v1/directories/key", params, dir_details, err);
	json_object_set_new(params, "rewrap", json_true());
	ctl_progress_init(&rewrap.progress, ctl);
	rc = ctl_call(ctl, "POST", "/v1/directories/key", params, rewrap_line, &rewrap, err);
	ctl_progress_clear(&rewrap.progress);
	return rc;
}
