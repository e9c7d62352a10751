#include "common.h"

#include <ftw.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crypto.h"

struct fixture *
fixture_make(void)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct kms_create options = { 0 };
	struct base_error err = { 0 };

	assert_non_null(f);
	strcpy(f->root, "/tmp/keepfs-kms-XXXXXX");
	assert_non_null(mkdtemp(f->root));
	snprintf(f->dir, sizeof(f->dir), "%s/keystore", f->root);
	snprintf(f->db, sizeof(f->db), "%s/keystore.db", f->dir);
	f->me = kms_caller_self(KMS_VIA_CLI);
	f->stranger = f->me;
	f->stranger.uid = 54321;
	MUST(kms_keystore_create(f->dir, &options, NULL, &err));
	return f;
}

void
fixture_open(struct fixture *f, bool new_vault)
{
	struct base_error err = { 0 };
	uint8_t ignored[BASE_ID_SIZE];

	MUST(kms_core_open(f->dir, NULL, 0, &f->core, &err));
	MUST(kms_key_find(f->core, "default", f->key));
	if (new_vault) {
		MUST(base_random(f->vault, sizeof(f->vault)));
		MUST(kms_vault_add(f->core, &f->me, f->vault, "/nowhere/vault", ignored, &err));
	}
}

void
fixture_close(struct fixture *f)
{
	kms_core_close(f->core);
	f->core = NULL;
}

static int
remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
	return remove(path);
}

void
fixture_free(struct fixture *f)
{
	fixture_close(f);
	nftw(f->root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	free(f);
}

int
setup_open(void **state)
{
	struct fixture *f = fixture_make();

	fixture_open(f, true);
	*state = f;
	return 0;
}

int
teardown(void **state)
{
	fixture_free(*state);
	return 0;
}

struct kms_subject
subject_of(const struct fixture *f, const uint8_t *file_id, const char *path)
{
	struct kms_subject subject = { .purpose = KMS_PURPOSE_FILE, .path = path };

	memcpy(subject.vault_id, f->vault, sizeof(subject.vault_id));
	if (file_id)
		memcpy(subject.file_id, file_id, sizeof(subject.file_id));
	return subject;
}

static int
collect(void *ctx, json_t *line)
{
	return json_array_append_new(ctx, line);
}

int
call(struct kms_core *core, const struct kms_caller *caller, const char *method, const char *path, json_t *params, json_t **ret_lines,
     struct base_error *err)
{
	struct kms_request request = { .method = method, .path = path, .params = params, .caller = *caller, .emit = collect };
	int rc;

	request.emit_ctx = *ret_lines = json_array();
	rc = kms_api_call(core, &request, err);
	json_decref(params);
	return rc;
}

size_t
count_records(struct fixture *f, const char *action, const char *outcome)
{
	struct base_error err = { 0 };
	json_t *lines;
	size_t count;

	MUST(call(f->core, &f->me, "GET", "/v1/audit", json_pack("{s:s, s:s}", "action", action, "outcome", outcome), &lines, &err));
	count = json_array_size(lines);
	json_decref(lines);
	return count;
}

void
sql(const struct fixture *f, const char *text)
{
	sqlite3 *db = NULL;
	char *why = NULL;

	assert_int_equal(sqlite3_open(f->db, &db), SQLITE_OK);
	if (sqlite3_exec(db, text, NULL, NULL, &why) != SQLITE_OK)
		fail_msg("%s: %s", text, why);
	sqlite3_close(db);
}
