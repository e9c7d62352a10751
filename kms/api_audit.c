/*
 * /v1/audit: reading the trail and verifying it.
 */
#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "audit.h"
#include "base/clock.h"
#include "internal.h"
#include "keys.h"
#include "policy.h"
#include "store.h"

static const char *const outcomes[] = { "allowed", "denied", "failed" };

struct reading {
	struct kms_core *core;
	struct kms_request *request;
	const struct kms_audit_key *key; /* NULL: paths stay sealed */
	struct kms_audit_query query;
	uint8_t key_id[BASE_ID_SIZE], file_id[BASE_ID_SIZE];
	char path[PATH_MAX + 1];         /* only records of this clear path; empty: all */
};

/* ---- a record as JSON -------------------------------------------------------------------------------------------------------- */

static json_t *
text_json(const struct kms_field *f)
{
	json_t *text = f->type == KMS_FIELD_TEXT ? json_stringn(f->bytes, f->len) : json_null();

	return text ? text : json_string("(not UTF-8)");
}

static json_t *
int_json(const struct kms_field *f)
{
	return f->type == KMS_FIELD_INT ? json_integer(f->number) : json_null();
}

static json_t *
hex_json(const struct kms_field *f)
{
	char text[2 * KMS_HASH_SIZE + 1];

	return f->type == KMS_FIELD_BLOB && f->len <= KMS_HASH_SIZE ? json_string(base_hex(f->bytes, f->len, text)) : json_null();
}

static const char *
via_name(int64_t via)
{
	static const char *const names[] = { "?", "fuse", "cli", "api", "service" };

	return via >= KMS_VIA_FUSE && via <= KMS_VIA_SERVICE ? names[via] : names[0];
}

/* Names that are not UTF-8 (file names may be anything) are shown with their bytes escaped. */
static json_t *
path_json(const char *path)
{
	char escaped[4 * KMS_AUDIT_PATH_MAX + 1], *out = escaped;
	json_t *text = json_string(path);

	if (text)
		return text;
	for (; *path; path++) {
		if ((unsigned char) *path < 0x80)
			*out++ = *path;
		else
			out += sprintf(out, "\\x%02x", (unsigned char) *path);
	}
	*out = 0;
	return json_string(escaped);
}

static json_t *
key_name_json(struct kms_core *core, const struct kms_field *f)
{
	char name[KMS_NAME_MAX + 1];

	if (f->type != KMS_FIELD_BLOB || f->len != BASE_ID_SIZE)
		return json_null();
	return kms_key_name(core, f->bytes, name) == 0 ? json_string(name) : hex_json(f);
}

static json_t *
record_json(struct kms_core *core, const struct kms_field *f, const char *path)
{
	char time[BASE_CLOCK_TEXT], user[256];
	int64_t outcome = f[KMS_COL_OUTCOME].number;

	kms_user_name((uid_t) f[KMS_COL_UID].number, user);
	return json_pack("{s:o, s:s, s:o, s:s, s:o, s:o, s:o, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:s, s:o, s:o, s:o, s:o, s:o}",
		"seq", int_json(&f[KMS_COL_SEQ]), "time", base_clock_format((uint64_t) f[KMS_COL_TIME].number, time),
		"uid", int_json(&f[KMS_COL_UID]), "user", user, "gid", int_json(&f[KMS_COL_GID]), "pid", int_json(&f[KMS_COL_PID]),
		"program", text_json(&f[KMS_COL_PROGRAM]), "via", via_name(f[KMS_COL_VIA].number), "action", text_json(&f[KMS_COL_ACTION]),
		"key", key_name_json(core, &f[KMS_COL_KEY]), "key_id", hex_json(&f[KMS_COL_KEY]), "key_version", int_json(&f[KMS_COL_VERSION]),
		"vault_id", hex_json(&f[KMS_COL_VAULT]), "file_id", hex_json(&f[KMS_COL_FILE]), "path", path ? path_json(path) : json_null(),
		"outcome", outcome >= 0 && outcome <= 2 ? outcomes[outcome] : "?", "errno", int_json(&f[KMS_COL_ERRNO]),
		"rule", text_json(&f[KMS_COL_RULE]), "reason", text_json(&f[KMS_COL_REASON]), "session", hex_json(&f[KMS_COL_SESSION]),
		"hash", hex_json(&f[KMS_COL_HASH]));
}

/* ---- list ------------------------------------------------------------------------------------------------------------------------ */

static int
list_record(void *ctx, const struct kms_field fields[KMS_COLS])
{
	struct reading *r = ctx;
	const struct kms_field *sealed = &fields[KMS_COL_PATH];
	char clear[KMS_AUDIT_PATH_MAX + 1];
	const char *path = NULL;
	json_t *line;

	if (sealed->type == KMS_FIELD_BLOB && r->key && kms_audit_path_open(r->key, sealed->bytes, sealed->len, clear) == 0)
		path = clear;
	if (*r->path && (!path || strcmp(path + strspn(path, "/"), r->path)))
		return 0;
	line = record_json(r->core, fields, path);
	return line ? r->request->emit(r->request->emit_ctx, line) : -ENOMEM;
}

static int
query_user(struct reading *r, const char *text, struct base_error *err)
{
	struct passwd entry, *found = NULL;
	char buffer[4096], *end;
	unsigned long uid;

	if (getpwnam_r(text, &entry, buffer, sizeof(buffer), &found) == 0 && found) {
		r->query.uid = found->pw_uid;
		return 0;
	}
	errno = 0;
	uid = strtoul(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || errno || uid > UINT32_MAX)
		return base_error_set(err, -ENOENT, BASE_EXIT_NOT_FOUND, "there is no user \"%.80s\"", text);
	r->query.uid = (int64_t) uid;
	return 0;
}

static int
query_outcome(struct reading *r, const char *text, struct base_error *err)
{
	for (size_t i = 0; i < sizeof(outcomes) / sizeof(outcomes[0]); i++)
		if (!strcmp(text, outcomes[i])) {
			r->query.outcome = (int) i;
			return 0;
		}
	return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "outcome \"%.40s\" is none of allowed, denied, failed", text);
}

static int
query_time(const char *name, const char *text, uint64_t *ret, struct base_error *err)
{
	if (base_clock_parse(text, ret) < 0)
		return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "%s \"%.40s\" is no time: 2026-01-31, 2026-01-31T12:00:00Z, or 2h for two hours "
				      "ago", name, text);
	return 0;
}

static int
file_line(void *ctx, json_t *line)
{
	const char *id = json_string_value(json_object_get(line, "file_id"));
	struct reading *r = ctx;

	if (id && base_unhex(id, r->file_id, BASE_ID_SIZE) == 0)
		r->query.file_id = r->file_id;
	json_decref(line);
	return 0;
}

/* A path of a file that is there, in a mount or in a vault: the room above knows its id. */
static void
query_path_id(struct reading *r, const char *text)
{
	json_t *params = json_pack("{s:s}", "path", text);
	struct kms_request request = { .method = "GET", .path = "/v1/files", .params = params, .caller = r->request->caller,
				       .emit = file_line, .emit_ctx = r };
	struct base_error ignored = { 0 };

	if (params)
		kms_api_call(r->core, &request, &ignored);
	json_decref(params);
}

/* A file id, a path to a file, or a clear path inside its vault, which only the sealed column knows. */
static void
query_file(struct reading *r, const char *text)
{
	if (base_unhex(text, r->file_id, BASE_ID_SIZE) == 0)
		r->query.file_id = r->file_id;
	else if (*text == '/')
		query_path_id(r, text);
	if (!r->query.file_id)
		snprintf(r->path, sizeof(r->path), "%s", text + strspn(text, "/"));
}

static const char *
param(struct kms_request *request, const char *name)
{
	const char *text = json_string_value(json_object_get(request->params, name));

	return text && *text ? text : NULL;
}

static int
query_fill(struct reading *r, struct kms_request *request, struct base_error *err)
{
	const char *text;
	int rc = 0;

	r->query.uid = r->query.outcome = -1;
	if ((text = param(request, "user")))
		rc = query_user(r, text, err);
	if (rc == 0 && (text = param(request, "outcome")))
		rc = query_outcome(r, text, err);
	if (rc == 0 && (text = param(request, "since")))
		rc = query_time("since", text, &r->query.since_ns, err);
	if (rc == 0 && (text = param(request, "until")))
		rc = query_time("until", text, &r->query.until_ns, err);
	if (rc == 0 && (text = param(request, "key"))) {
		rc = kms_keys_resolve(r->core, text, r->key_id, err);
		r->query.key_id = r->key_id;
	}
	if ((text = param(request, "file")))
		query_file(r, text);
	r->query.action = param(request, "action");
	return rc;
}

static int
audit_list(struct kms_core *core, void *ctx, struct kms_request *request, struct base_error *err)
{
	struct reading r = { .core = core, .request = request };
	char rule[KMS_RULE_MAX];
	enum kms_allow allow = kms_policy_check(core->policy, &request->caller, KMS_ACTION_AUDIT, NULL, rule);
	int rc;

	if (allow == KMS_ALLOW_NO)
		return kms_authorize(core, &request->caller, KMS_ACTION_AUDIT, NULL, "audit-list", err);
	rc = query_fill(&r, request, err);
	if (rc == 0 && allow == KMS_ALLOW_OWN && r.query.uid >= 0 && r.query.uid != (int64_t) request->caller.uid)
		return kms_authorize(core, &request->caller, KMS_ACTION_AUDIT, NULL, "audit-list", err);
	if (rc < 0)
		return rc;
	if (allow == KMS_ALLOW_OWN)
		r.query.uid = request->caller.uid;
	kms_audit_drain(core);
	kms_audit_key_retry(core);
	r.key = atomic_load(&core->audit->key);
	if (*r.path && !r.key)
		return base_error_set(err, -ENOKEY, BASE_EXIT_UNREACHABLE, "the HSM cannot be reached, so paths cannot be read; ask by file id");
	rc = kms_store_audit_scan(core->store, &r.query, NULL, list_record, &r);
	if (rc < 0 && !err->code)
		return base_error_set(err, rc, BASE_EXIT_FAILED, "the audit trail cannot be read: %s", strerror(-rc));
	return rc;
}

/* ---- verify ---------------------------------------------------------------------------------------------------------------------- */

static int
audit_verify(struct kms_core *core, void *ctx, struct kms_request *request, struct base_error *err)
{
	struct kms_audit_verdict verdict;
	const struct kms_audit_key *key;
	json_t *line;
	int rc = kms_authorize(core, &request->caller, KMS_ACTION_AUDIT, NULL, "audit-verify", err);

	if (rc < 0)
		return rc;
	kms_audit_drain(core);
	kms_audit_key_retry(core);
	key = atomic_load(&core->audit->key);
	if (!key)
		return base_error_set(err, -ENOKEY, BASE_EXIT_UNREACHABLE, "the HSM cannot be reached, so the seal of the trail's end cannot be checked");
	rc = kms_audit_check(core, key, NULL, &verdict);
	if (rc < 0)
		return base_error_set(err, rc, BASE_EXIT_FAILED, "the audit trail cannot be read: %s", strerror(-rc));
	line = json_pack("{s:b, s:I, s:I, s:o, s:o}", "ok", verdict.ok, "records", (json_int_t) verdict.records, "checkpoints", (json_int_t) 0,
			 "first_bad", verdict.ok ? json_null() : json_integer((json_int_t) verdict.first_bad), "reason",
			 verdict.ok ? json_null() : json_string(verdict.reason));
	if (!line)
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "out of memory");
	rc = request->emit(request->emit_ctx, line);
	if (rc == 0 && !verdict.ok)
		return base_error_set(err, -EBADMSG, BASE_EXIT_INTEGRITY, "the audit trail is not whole: record %llu: %s",
				      (unsigned long long) verdict.first_bad, verdict.reason);
	return rc;
}

int
kms_api_audit_add(struct kms_core *core)
{
	int rc = kms_api_add(core, "GET", "/v1/audit", audit_list, NULL);

	return rc < 0 ? rc : kms_api_add(core, "GET", "/v1/audit/verify", audit_verify, NULL);
}
