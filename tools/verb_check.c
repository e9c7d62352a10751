/*
 * Verbs that check a vault. Findings are lines on stdout, the summary comes last.
 */
#include "keepctl.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

struct check {
	struct ctl *ctl;
	struct ctl_progress progress;
	void (*summary)(json_t *line);
};

/* Clear names may hold anything: control characters (C0, DEL, and C1 in UTF-8) must not reach the terminal. */
static void
print_name(const char *name)
{
	const unsigned char *at = (const unsigned char *) name;

	for (; *at; at++)
		if (*at < 0x20 || *at == 0x7f) {
			printf("\\x%02x", *at);
		} else if (at[0] == 0xc2 && at[1] >= 0x80 && at[1] < 0xa0) {
			printf("\\x%02x\\x%02x", at[0], at[1]);
			at++;
		} else {
			putchar(*at);
		}
}

static void
print_finding(json_t *line)
{
	const char *path = json_string_value(json_object_get(line, "path"));
	const char *backing = json_string_value(json_object_get(line, "backing_path"));
	const char *action = json_string_value(json_object_get(line, "action"));
	char problem[CTL_FIELD_MAX], detail[CTL_FIELD_MAX];

	print_name(path ? path : backing ? backing : "-");
	printf(": %s: %s", ctl_field(line, "problem", CTL_TEXT, problem), ctl_field(line, "detail", CTL_TEXT, detail));
	if (path && backing) {
		printf(" [");
		print_name(backing);
		printf("]");
	}
	if (json_is_true(json_object_get(line, "note")))
		printf(" (note)");
	if (action && strcmp(action, "none"))
		printf(" (%s)", action);
	putchar('\n');
}

static void
check_line(void *ctx, json_t *line)
{
	struct check *check = ctx;

	if (check->ctl->json) {
		ctl_json(line);
	} else if (json_object_get(line, "progress")) {
		ctl_progress_draw(&check->progress, line);
	} else {
		ctl_progress_clear(&check->progress);
		if (json_object_get(line, "problem"))
			print_finding(line);
		else if (json_object_get(line, "problems"))
			check->summary(line);
	}
}

/* Takes params. */
static int
check_call(struct ctl *ctl, const char *route, json_t *params, void (*summary)(json_t *line), struct base_error *err)
{
	struct check check = { .ctl = ctl, .summary = summary };
	char path[PATH_MAX];
	int rc = params ? ctl_place(ctl, ctl->args[0], path, err) : base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "out of memory");

	if (rc < 0) {
		json_decref(params);
		return rc;
	}
	json_object_set_new(params, "path", json_string(path));
	ctl_progress_init(&check.progress, ctl);
	rc = ctl_call(ctl, "POST", route, params, check_line, &check, err);
	ctl_progress_clear(&check.progress);
	return rc;
}

static void
print_counts(json_t *line, const char *const *fields, const char *const *words)
{
	char text[CTL_FIELD_MAX];

	for (int i = 0; fields[i]; i++)
		printf("%s%s %s", i ? ", " : "", ctl_field(line, fields[i], CTL_NUMBER, text), words[i]);
	putchar('\n');
}

static void
print_sums(json_t *line)
{
	static const char *const fields[] = { "problems", "repaired", "quarantined", "adopted", "remaining", NULL };
	static const char *const words[] = { "problems", "repaired", "quarantined", "adopted", "remain" };

	print_counts(line, fields, words);
}

static void
fsck_summary(json_t *line)
{
	static const char *const fields[] = { "files", "directories", "links", "others", "recoverable", NULL };
	static const char *const words[] = { "files", "directories", "symlinks", "others", "to be recovered when they are opened" };

	print_counts(line, fields, words);
	print_sums(line);
}

int
ctl_fsck(struct ctl *ctl, struct base_error *err)
{
	char quarantine[PATH_MAX];
	json_t *params;
	int rc = ctl->options[1] ? ctl_absolute(ctl->options[1], quarantine, err) : 0;

	if (rc < 0)
		return rc;
	params = json_pack("{s:b, s:b, s:s*}", "repair", ctl->options[0] != NULL, "adopt", ctl->options[2] != NULL, "quarantine",
			   ctl->options[1] ? quarantine : NULL);
	return check_call(ctl, "/v1/fsck", params, fsck_summary, err);
}

static void
scrub_summary(json_t *line)
{
	static const char *const fields[] = { "files", "blocks", "recovered", NULL };
	static const char *const words[] = { "files", "blocks", "recovered after a crash" };
	char text[CTL_FIELD_MAX];

	printf("%s read; ", ctl_field(line, "bytes", CTL_SIZE, text));
	print_counts(line, fields, words);
	print_sums(line);
}

int
ctl_scrub(struct ctl *ctl, struct base_error *err)
{
	return check_call(ctl, "/v1/scrub", json_object(), scrub_summary, err);
}
