/*
 * Verbs about the audit trail.
 */
#include "keepctl.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"

enum { LIST_USER, LIST_KEY, LIST_FILE, LIST_ACTION, LIST_OUTCOME, LIST_SINCE, LIST_UNTIL };

static const struct ctl_column audit_columns[] = {
	{ "SEQ", "seq", CTL_NUMBER }, { "TIME", "time", CTL_SECONDS }, { "USER", "user", CTL_TEXT }, { "PROGRAM", "program", CTL_TEXT },
	{ "VIA", "via", CTL_TEXT }, { "ACTION", "action", CTL_TEXT }, { "KEY", "key", CTL_TEXT }, { "V", "key_version", CTL_NUMBER },
	{ "OUTCOME", "outcome", CTL_TEXT }, { "PATH", "path", CTL_TEXT }, { "REASON", "reason", CTL_TEXT }, { NULL, NULL, 0 },
};

struct found {
	char id[BASE_ID_TEXT];
};

static void
found_line(void *ctx, json_t *line)
{
	struct found *found = ctx;
	const char *id = json_string_value(json_object_get(line, "file_id"));

	snprintf(found->id, sizeof(found->id), "%s", id ? id : "");
}

/* A file that is there is asked for by its id, which no rename changes; one that is gone by its path inside the vault. */
static int
file_param(struct ctl *ctl, const char *path, json_t *params, struct base_error *err)
{
	char absolute[PATH_MAX], mountpoint[PATH_MAX];
	uint8_t id[BASE_ID_SIZE];
	struct found found = { "" };
	const char *text = path;
	unsigned uid;

	if (base_unhex(path, id, sizeof(id)) < 0 && ctl_absolute(path, absolute, err) == 0) {
		int rc = ctl_keystore(ctl, absolute, err);

		if (rc < 0)
			return rc;
		rc = ctl_call(ctl, "GET", "/v1/files", json_pack("{s:s}", "path", absolute), found_line, &found, err);
		text = absolute;
		if (rc == 0 && found.id[0])
			text = found.id;
		else if (ctl_mount_of(absolute, mountpoint, &uid) == 0)
			text = absolute + strlen(mountpoint);
	}
	if (json_object_set_new(params, "file", json_string(text)) < 0)
		return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "this path is not UTF-8, which requests cannot carry");
	return 0;
}

static int
params_make(struct ctl *ctl, json_t *params, struct base_error *err)
{
	for (int i = LIST_USER; i <= LIST_UNTIL; i++) {
		const char *value = ctl->options[i];
		uint64_t ns;
		int rc = 0;

		if (!value)
			continue;
		if ((i == LIST_SINCE || i == LIST_UNTIL) && base_clock_parse(value, &ns) < 0)
			return base_error_set(err, -EINVAL, BASE_EXIT_USAGE,
					      "--%s '%s': a time is like 2026-01-31T10:00:00Z, 2026-01-31 or 2h (back from now)",
					      ctl->verb->options[i].name, value);
		if (i == LIST_OUTCOME && strcmp(value, "allowed") && strcmp(value, "denied") && strcmp(value, "failed"))
			return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "--outcome '%s': allowed, denied or failed", value);
		if (i == LIST_FILE)
			rc = file_param(ctl, value, params, err);
		else if (json_object_set_new(params, ctl->verb->options[i].name, json_string(value)) < 0)
			rc = base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "--%s: the value is not UTF-8", ctl->verb->options[i].name);
		if (rc < 0)
			return rc;
	}
	return 0;
}

int
ctl_audit_list(struct ctl *ctl, struct base_error *err)
{
	json_t *params = json_object();
	int rc = params_make(ctl, params, err);

	if (rc < 0) {
		json_decref(params);
		return rc;
	}
	return ctl_list(ctl, "GET", "/v1/audit", params, audit_columns, err);
}

struct verdict {
	struct ctl *ctl;
	bool seen, ok;
	char text[400];
};

static void
verdict_line(void *ctx, json_t *line)
{
	struct verdict *verdict = ctx;
	char a[CTL_FIELD_MAX], b[CTL_FIELD_MAX];

	verdict->seen = true;
	verdict->ok = json_is_true(json_object_get(line, "ok"));
	snprintf(verdict->text, sizeof(verdict->text), "the audit trail is broken; first bad record %.24s: %.300s",
		 ctl_field(line, "first_bad", CTL_NUMBER, a), ctl_field(line, "reason", CTL_TEXT, b));
	if (verdict->ctl->json)
		ctl_json(line);
	else if (verdict->ok)
		printf("the audit trail is whole: %s records, %s checkpoints\n", ctl_field(line, "records", CTL_NUMBER, a),
		       ctl_field(line, "checkpoints", CTL_NUMBER, b));
}

int
ctl_audit_verify(struct ctl *ctl, struct base_error *err)
{
	struct verdict verdict = { .ctl = ctl };
	int rc = ctl_call(ctl, "GET", "/v1/audit/verify", NULL, verdict_line, &verdict, err);

	if (rc == 0 && !verdict.ok)
		rc = base_error_set(err, -EBADMSG, BASE_EXIT_INTEGRITY, "%s",
				    verdict.seen ? verdict.text : "the service gave no verdict on the audit trail");
	return rc;
}
