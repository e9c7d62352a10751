/* Findings, progress and the last line of fsck and scrub. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "config.h"
#include "finding.h"
#include "quarantine.h"

#define PROGRESS_NS UINT64_C(200000000)

bool vault_check_flag(const struct kms_request *request, const char *name)
{
	json_t *value = request->params ? json_object_get(request->params, name) : NULL;
	const char *text = json_string_value(value);

	return json_is_true(value) || (text && strcmp(text, "true") == 0);
}

int vault_check_begin(struct kms_core *core, struct kms_request *request, const char *verb, enum kms_action action, struct vault_check *ret,
		      struct base_error *err)
{
	int code = kms_authorize(core, &request->caller, action, NULL, verb, err);

	memset(ret, 0, sizeof(*ret));
	ret->core = core;
	ret->request = request;
	ret->verb = verb;
	ret->told_ns = base_clock_mono_ns();
	if (code == 0 && action != KMS_ACTION_UNWRAP)
		code = kms_authorize(core, &request->caller, KMS_ACTION_UNWRAP, NULL, verb, err);
	return code;
}

/* Opening a vault makes the keystore remember its place. Who looks at a copy does not move the vault. */
static void note_place(struct vault_check *c, const char *root)
{
	struct kms_vault *known = malloc(sizeof(*known));
	int fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (known && fd >= 0 && vault_config_peek(fd, c->id) == 0 && kms_vault_get(c->core, c->id, known) == 0 && strcmp(known->path, root) != 0)
		c->place = strdup(known->path);
	if (fd >= 0)
		close(fd);
	free(known);
}

static void restore_place(struct vault_check *c)
{
	uint8_t id[BASE_ID_SIZE];
	int fd = c->place ? open(c->place, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

	if (fd >= 0 && c->at.v && vault_config_peek(fd, id) == 0 && memcmp(id, c->id, BASE_ID_SIZE) == 0)
		(void)kms_vault_path(c->core, id, c->place);
	if (fd >= 0)
		close(fd);
	free(c->place);
	c->place = NULL;
}

int vault_check_open(struct vault_check *c, struct base_error *err)
{
	const char *path = vault_param(c->request, "path"), *quarantine = vault_param(c->request, "quarantine");
	char root[PATH_MAX];
	size_t len;
	int code;

	if (!path)
		return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "%s needs the path of a vault, or one inside a vault or a mount", c->verb);
	if ((code = vault_target_backing(path, root, &len, err)) < 0)
		return code;
	root[len] = '\0';
	note_place(c, root);
	code = vault_target_find(c->core, &c->request->caller, path, &c->at, err);
	if (code < 0) {
		c->at.v = NULL;
		c->refused = code == -EBADMSG;
		return code;
	}
	/* An open vault is found by its id, wherever it is. */
	if (strcmp(vault_path(c->at.v), root) != 0)
		return base_error_set(err, -EBUSY, BASE_EXIT_FAILED, "%s is a copy of the vault %s, which is open now; unmount that first", root,
				      vault_path(c->at.v));
	return quarantine ? vault_quarantine_open(c, quarantine, &c->quarantine, err) : 0;
}

void vault_check_done(struct vault_check *c)
{
	vault_quarantine_close(c->quarantine);
	restore_place(c);
	vault_put(c->at.v);
	c->quarantine = NULL;
	c->at.v = NULL;
}

/* Takes line over. */
static int emit(struct vault_check *c, json_t *line)
{
	if (!line)
		return -ENOMEM;
	return c->request->emit(c->request->emit_ctx, line) != 0 ? -ECANCELED : 0;
}

int vault_check_tell(struct vault_check *c)
{
	uint64_t now = base_clock_mono_ns();

	if (now - c->told_ns < PROGRESS_NS)
		return 0;
	c->told_ns = now;
	return emit(c, json_pack("{s:I, s:I}", "progress", (json_int_t)c->done, "total", (json_int_t)(c->total > c->done ? c->total : c->done)));
}

/* JSON carries UTF-8 only: a name that is none is shown with the bytes of it that are no ASCII as \xHH. */
static json_t *text_json(const char *text)
{
	json_t *ret = json_string(text);
	char *shown, *at;

	if (ret)
		return ret;
	shown = at = malloc(4 * strlen(text) + 1);
	if (!shown)
		return NULL;
	for (; *text; text++)
		if ((unsigned char)*text >= 0x80)
			at += sprintf(at, "\\x%02x", (unsigned char)*text);
		else
			*at++ = *text;
	*at = '\0';
	ret = json_string(shown);
	free(shown);
	return ret;
}

json_t *vault_finding_json(const struct vault_finding *f)
{
	static const char *const actions[] = { "none", "repaired", "quarantined", "adopted" };
	json_t *line = json_pack("{s:o, s:o, s:s, s:o, s:s}", "path", f->path ? text_json(f->path) : json_null(), "backing_path",
				 text_json(*f->backing ? f->backing : "."), "problem", f->problem, "detail", text_json(f->detail), "action",
				 actions[f->action]);

	if (line && f->note)
		json_object_set_new(line, "note", json_true());
	return line;
}

int vault_check_finding(struct vault_check *c, const struct vault_finding *f)
{
	if (!f->note) {
		c->problems++;
		c->repaired += f->action == VAULT_FINDING_REPAIRED;
		c->quarantined += f->action == VAULT_FINDING_QUARANTINED;
		c->adopted += f->action == VAULT_FINDING_ADOPTED;
	}
	return emit(c, vault_finding_json(f));
}

int vault_check_finish(struct vault_check *c, json_t *counts, struct base_error *err)
{
	uint64_t remaining = c->problems - c->repaired - c->quarantined - c->adopted;
	json_t *sums = json_pack("{s:I, s:I, s:I, s:I, s:I}", "problems", (json_int_t)c->problems, "repaired", (json_int_t)c->repaired, "quarantined",
				 (json_int_t)c->quarantined, "adopted", (json_int_t)c->adopted, "remaining", (json_int_t)remaining);

	if (!counts || !sums || json_object_update(counts, sums) < 0) {
		json_decref(counts);
		json_decref(sums);
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "out of memory");
	}
	json_decref(sums);
	c->request->emit(c->request->emit_ctx, counts);
	if (remaining == 0)
		return 0;
	return base_error_set(err, -EBADMSG, BASE_EXIT_INTEGRITY, "%s: %llu of %llu problems remain; each says what to do about it", c->verb,
			      (unsigned long long)remaining, (unsigned long long)c->problems);
}

int vault_check_audit(struct vault_check *c, const uint8_t *file_id, const char *path, const char *reason)
{
	struct kms_subject subject = { .purpose = file_id ? KMS_PURPOSE_FILE : KMS_PURPOSE_VAULT, .path = path };

	memcpy(subject.vault_id, vault_id(c->at.v), BASE_ID_SIZE);
	memcpy(subject.file_id, file_id ? file_id : vault_id(c->at.v), BASE_ID_SIZE);
	return kms_audit_write(c->core, &c->request->caller, c->verb, &subject, 0, reason);
}
