/* Data keys, rotation, rewrap, destruction, policy. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "common.h"

static void
test_create_and_open(void **state)
{
	struct fixture *f = *state;
	BASE_SECRET_AUTO uint8_t *dek = base_secret_alloc(KMS_DEK_SIZE);
	struct kms_subject subject = subject_of(f, NULL, "a/b.txt");
	struct base_error err = { 0 };
	struct kms_new_dek new, other;

	MUST(kms_dek_create(f->core, &f->me, &subject, f->key, 0, &new, &err));
	MUST(kms_dek_create(f->core, &f->me, &subject, f->key, 0, &other, &err));
	assert_memory_not_equal(new.file_id, other.file_id, BASE_ID_SIZE);
	assert_memory_not_equal(new.dek, other.dek, KMS_DEK_SIZE);
	assert_int_equal(new.wrap.version, 1);
	subject = subject_of(f, new.file_id, "a/b.txt");
	MUST(kms_dek_open(f->core, &f->me, &subject, &new.wrap, KMS_DEK_READ, dek, &err));
	assert_memory_equal(dek, new.dek, KMS_DEK_SIZE);
	kms_dek_drop_all(f->core);
	memset(dek, 0, KMS_DEK_SIZE);
	MUST(kms_dek_open(f->core, &f->me, &subject, &new.wrap, KMS_DEK_READ | KMS_DEK_WRITE, dek, &err));
	assert_memory_equal(dek, new.dek, KMS_DEK_SIZE);
	MUST(kms_dek_open(f->core, &f->me, &subject, &new.wrap, KMS_DEK_READ | KMS_DEK_HAVE, NULL, &err));
	kms_dek_created(f->core, new.lease);
	kms_dek_created(f->core, other.lease);
	base_secret_free(new.dek);
	base_secret_free(other.dek);
	assert_int_equal(count_records(f, "create", "allowed"), 2);
	assert_int_equal(count_records(f, "open-read", "allowed"), 2);
	assert_int_equal(count_records(f, "open-write", "allowed"), 1);
}

/* Every part of a wrap is bound: the blob, and each field of its AAD. */
static void
test_tampered_wraps(void **state)
{
	struct fixture *f = *state;
	BASE_SECRET_AUTO uint8_t *dek = base_secret_alloc(KMS_DEK_SIZE);
	static const uint8_t zeros[KMS_DEK_SIZE];
	struct kms_subject subject = subject_of(f, NULL, "x"), right;
	struct base_error err = { 0 };
	struct kms_new_dek new;

	MUST(kms_dek_create(f->core, &f->me, &subject, f->key, 0, &new, &err));
	kms_dek_created(f->core, new.lease);
	base_secret_free(new.dek);
	right = subject_of(f, new.file_id, "x");
	for (int what = 0; what < 5; what++) {
		struct kms_wrap wrap = new.wrap;

		subject = right;
		switch (what) {
		case 0: wrap.blob[wrap.blob_len - 1] ^= 1; break;
		case 1: wrap.blob[0] ^= 0x80; break;
		case 2: subject.file_id[3] ^= 1; break;
		case 3: subject.vault_id[15] ^= 1; break;
		case 4: subject.purpose = KMS_PURPOSE_VAULT; break;
		}
		memset(dek, 7, KMS_DEK_SIZE);
		assert_int_equal(kms_dek_open(f->core, &f->me, &subject, &wrap, KMS_DEK_READ, dek, &err), -EBADMSG);
		assert_int_equal(err.exit, BASE_EXIT_INTEGRITY);
		assert_memory_equal(dek, zeros, KMS_DEK_SIZE);
	}
	assert_int_equal(count_records(f, "open-read", "failed"), 5);
	new.wrap.version = 9;
	assert_int_equal(kms_dek_open(f->core, &f->me, &right, &new.wrap, KMS_DEK_READ, dek, &err), -ENOKEY);
	new.wrap.version = 0;
	assert_int_equal(kms_dek_open(f->core, &f->me, &right, &new.wrap, KMS_DEK_READ, dek, &err), -ENOKEY);
	new.wrap.key_id[0] ^= 1;
	assert_int_equal(kms_dek_open(f->core, &f->me, &right, &new.wrap, KMS_DEK_READ, dek, &err), -ENOKEY);
	assert_int_equal(count_records(f, "open-read", "failed"), 8);
}

static void
test_strangers_are_denied(void **state)
{
	struct fixture *f = *state;
	BASE_SECRET_AUTO uint8_t *dek = base_secret_alloc(KMS_DEK_SIZE);
	struct kms_subject subject = subject_of(f, NULL, "x");
	struct base_error err = { 0 };
	struct kms_new_dek new, none;
	uint32_t version;
	uint8_t id[BASE_ID_SIZE];
	json_t *lines;

	MUST(kms_dek_create(f->core, &f->me, &subject, f->key, 0, &new, &err));
	kms_dek_created(f->core, new.lease);
	base_secret_free(new.dek);
	subject = subject_of(f, new.file_id, "x");
	assert_int_equal(kms_dek_open(f->core, &f->stranger, &subject, &new.wrap, KMS_DEK_READ, dek, &err), -EACCES);
	assert_int_equal(err.exit, BASE_EXIT_DENIED);
	assert_non_null(strstr(err.text, "default deny"));
	assert_int_equal(kms_dek_open(f->core, &f->stranger, &subject, &new.wrap, KMS_DEK_READ | KMS_DEK_HAVE, NULL, &err), -EACCES);
	assert_int_equal(kms_dek_create(f->core, &f->stranger, &subject, f->key, KMS_DEK_DIRTY, &none, &err), -EACCES);
	assert_null(none.dek);
	assert_int_equal(kms_vault_add(f->core, &f->stranger, new.file_id, "/x", id, &err), -EACCES);
	assert_int_equal(count_records(f, "open-read", "denied"), 2);
	assert_int_equal(count_records(f, "create", "denied"), 1);
	assert_int_equal(count_records(f, "vault-add", "denied"), 1);
	for (int i = 0; i < 6; i++) {
		static const char *const requests[][2] = { { "GET", "/v1/keys" }, { "GET", "/v1/keys/default" }, { "POST", "/v1/keys/default/rotate" },
			{ "GET", "/v1/audit" }, { "GET", "/v1/audit/verify" }, { "POST", "/v1/seal" } };

		assert_int_equal(call(f->core, &f->stranger, requests[i][0], requests[i][1], NULL, &lines, &err), -EACCES);
		assert_int_equal(json_array_size(lines), 0);
		json_decref(lines);
	}
	version = kms_key_current(f->core, f->key);
	assert_int_equal(version, 1);
	MUST(call(f->core, &f->stranger, "GET", "/v1/status", NULL, &lines, &err));
	assert_null(json_object_get(json_array_get(lines, 0), "audit"));
	json_decref(lines);
}

/* ---- versions ------------------------------------------------------------------------------------------------------------- */

static struct {
	uint8_t key[BASE_ID_SIZE];
	uint32_t version;
	unsigned files;
	int rc;
} world; /* what the census finds */

static int
census(void *ctx, const struct kms_vault *vault, kms_census_count_fn count, void *count_ctx, struct base_error *err)
{
	for (unsigned i = 0; i < world.files; i++)
		count(count_ctx, world.key, world.version, "/nowhere/vault/abc");
	return world.rc < 0 ? base_error_set(err, world.rc, BASE_EXIT_FAILED, "page 3 of abc cannot be read") : 0;
}

static int
destroy(struct fixture *f, const char *version, struct base_error *err)
{
	char path[64];
	json_t *lines;
	int rc;

	snprintf(path, sizeof(path), "/v1/keys/default/versions/%s", version);
	rc = call(f->core, &f->me, "DELETE", path, NULL, &lines, err);
	json_decref(lines);
	return rc;
}

static void
rotate(struct fixture *f, uint32_t want)
{
	struct base_error err = { 0 };
	json_t *lines;

	MUST(call(f->core, &f->me, "POST", "/v1/keys/default/rotate", NULL, &lines, &err));
	assert_int_equal(json_integer_value(json_object_get(json_array_get(lines, 0), "version")), want);
	json_decref(lines);
	assert_int_equal(kms_key_current(f->core, f->key), want);
}

static void
test_rotate_rewrap_destroy(void **state)
{
	struct fixture *f = *state;
	BASE_SECRET_AUTO uint8_t *dek = base_secret_alloc(KMS_DEK_SIZE);
	struct kms_subject subject = subject_of(f, NULL, "x");
	struct base_error err = { 0 };
	struct kms_new_dek new;
	struct kms_wrap moved, again;

	MUST(kms_dek_create(f->core, &f->me, &subject, f->key, 0, &new, &err));
	kms_dek_created(f->core, new.lease);
	subject = subject_of(f, new.file_id, "x");
	assert_int_equal(kms_dek_rewrap(f->core, &f->me, &subject, &new.wrap, &moved, &err), -EALREADY);
	assert_int_equal(destroy(f, "1", &err), -EBUSY);
	assert_non_null(strstr(err.text, "current version"));
	rotate(f, 2);
	MUST(kms_dek_rewrap(f->core, &f->me, &subject, &new.wrap, &moved, &err));
	assert_int_equal(moved.version, 2);
	assert_int_equal(kms_dek_rewrap(f->core, &f->me, &subject, &moved, &again, &err), -EALREADY);
	kms_dek_drop_all(f->core);
	MUST(kms_dek_open(f->core, &f->me, &subject, &moved, KMS_DEK_READ, dek, &err));
	assert_memory_equal(dek, new.dek, KMS_DEK_SIZE);
	MUST(kms_dek_open(f->core, &f->me, &subject, &new.wrap, KMS_DEK_READ, dek, &err));
	base_secret_free(new.dek);

	assert_int_equal(destroy(f, "1", &err), -EOPNOTSUPP); /* nobody can count */
	memcpy(world.key, f->key, sizeof(world.key));
	world.version = 1;
	world.files = 3;
	world.rc = 0;
	kms_census_set(f->core, census, NULL);
	assert_int_equal(destroy(f, "1", &err), -EBUSY);
	assert_non_null(strstr(err.text, "3 files"));
	world.files = 0;
	world.rc = -EIO;
	assert_int_equal(destroy(f, "1", &err), -EIO);
	assert_non_null(strstr(err.text, "page 3 of abc"));
	MUST(kms_dek_open(f->core, &f->me, &subject, &new.wrap, KMS_DEK_READ, dek, &err));
	world.rc = 0;
	assert_int_equal(destroy(f, "9", &err), -ENOENT);
	assert_int_equal(destroy(f, "0", &err), -EINVAL);
	MUST(destroy(f, "1", &err));
	assert_int_equal(destroy(f, "1", &err), -ENOENT);
	assert_int_equal(kms_dek_open(f->core, &f->me, &subject, &new.wrap, KMS_DEK_READ, dek, &err), -ENOKEY);
	MUST(kms_dek_open(f->core, &f->me, &subject, &moved, KMS_DEK_READ, dek, &err));
	fixture_close(f);
	fixture_open(f, false);
	assert_int_equal(kms_key_current(f->core, f->key), 2);
	assert_int_equal(kms_dek_open(f->core, &f->me, &subject, &new.wrap, KMS_DEK_READ, dek, &err), -ENOKEY);
	MUST(kms_dek_open(f->core, &f->me, &subject, &moved, KMS_DEK_READ, dek, &err));
}

/* A file that is being made under version 1 keeps it alive until its header is published. */
struct late {
	struct fixture *f;
	uint64_t lease;
	unsigned hold;
};

static void *
publish_later(void *ctx)
{
	struct late *late = ctx;

	usleep(300000);
	kms_dek_created(late->f->core, late->lease);
	usleep(200000);
	kms_wrap_release(late->f->core, late->hold);
	return NULL;
}

static void
test_leases(void **state)
{
	struct fixture *f = *state;
	struct kms_subject subject = subject_of(f, NULL, "x");
	struct base_error err = { 0 };
	struct kms_new_dek new;
	struct late late = { .f = f };
	pthread_t thread;
	uint64_t start;

	MUST(kms_dek_create(f->core, &f->me, &subject, f->key, 0, &new, &err));
	base_secret_free(new.dek);
	late.lease = new.lease;
	late.hold = kms_wrap_hold(f->core);
	rotate(f, 2);
	world.files = 0;
	world.rc = 0;
	kms_census_set(f->core, census, NULL);
	start = base_clock_mono_ns();
	assert_int_equal(pthread_create(&thread, NULL, publish_later, &late), 0);
	MUST(destroy(f, "1", &err));
	assert_true(base_clock_mono_ns() - start >= 450000000);
	pthread_join(thread, NULL);
}

/* After a rotation nothing that was wrapped ahead under the old version is handed out. */
static void
test_pool_follows_rotation(void **state)
{
	struct fixture *f = *state;
	struct kms_subject subject = subject_of(f, NULL, "x");
	struct base_error err = { 0 };
	struct kms_new_dek new;

	for (uint32_t version = 1; version <= 4; version++) {
		for (int i = 0; i < 100; i++) {
			MUST(kms_dek_create(f->core, &f->me, &subject, f->key, 0, &new, &err));
			assert_int_equal(new.wrap.version, version);
			kms_dek_created(f->core, new.lease);
			base_secret_free(new.dek);
		}
		rotate(f, version + 1);
	}
}

static void
test_key_api(void **state)
{
	struct fixture *f = *state;
	struct base_error err = { 0 };
	json_t *lines, *key;

	MUST(call(f->core, &f->me, "POST", "/v1/keys", json_pack("{s:s, s:s}", "name", "papers", "description", "of the office"), &lines, &err));
	key = json_array_get(lines, 0);
	assert_string_equal(json_string_value(json_object_get(key, "name")), "papers");
	assert_string_equal(json_string_value(json_object_get(key, "state")), "active");
	assert_int_equal(json_integer_value(json_object_get(key, "current_version")), 1);
	assert_int_equal(json_array_size(json_object_get(key, "versions")), 1);
	json_decref(lines);
	assert_int_equal(call(f->core, &f->me, "POST", "/v1/keys", json_pack("{s:s}", "name", "papers"), &lines, &err), -EEXIST);
	json_decref(lines);
	for (int i = 0; i < 4; i++) {
		static const char *const bad[] = { "", "a/b", "tab\t", "vault:mine" };

		assert_int_equal(call(f->core, &f->me, "POST", "/v1/keys", json_pack("{s:s}", "name", bad[i]), &lines, &err), -EINVAL);
		json_decref(lines);
	}
	MUST(call(f->core, &f->me, "GET", "/v1/keys", NULL, &lines, &err));
	assert_int_equal(json_array_size(lines), 3); /* default, the vault's, papers */
	json_decref(lines);
	assert_int_equal(call(f->core, &f->me, "GET", "/v1/keys/nothing", NULL, &lines, &err), -ENOENT);
	assert_int_equal(err.exit, BASE_EXIT_NOT_FOUND);
	json_decref(lines);
	MUST(call(f->core, &f->me, "GET", "/v1/status", NULL, &lines, &err));
	assert_true(json_is_true(json_object_get(json_object_get(json_array_get(lines, 0), "hsm"), "available")));
	assert_int_equal(json_integer_value(json_object_get(json_array_get(lines, 0), "vaults")), 1);
	json_decref(lines);
	MUST(kms_vault_remove(f->core, f->vault));
	MUST(call(f->core, &f->me, "GET", "/v1/keys", NULL, &lines, &err));
	assert_int_equal(json_array_size(lines), 2);
	json_decref(lines);
	MUST(call(f->core, &f->me, "POST", "/v1/seal", NULL, &lines, &err));
	json_decref(lines);
	fixture_close(f);
	fixture_open(f, true);
	MUST(call(f->core, &f->me, "GET", "/v1/keys/papers", NULL, &lines, &err));
	json_decref(lines);
}

static void
test_vault_rows(void **state)
{
	struct fixture *f = *state;
	struct base_error err = { 0 };
	struct kms_vault vault;
	uint8_t id[BASE_ID_SIZE];

	MUST(kms_vault_generation(f->core, f->vault, 7));
	MUST(kms_vault_generation(f->core, f->vault, 3));
	MUST(kms_vault_path(f->core, f->vault, "/elsewhere"));
	MUST(kms_vault_get(f->core, f->vault, &vault));
	assert_int_equal(vault.generation, 7);
	assert_string_equal(vault.path, "/elsewhere");
	assert_int_equal(kms_vault_add(f->core, &f->me, f->vault, "/x", id, &err), -EEXIST);
	id[0] ^= 1;
	assert_int_equal(kms_vault_generation(f->core, f->key, 7), -ENOENT);
	assert_int_equal(kms_vault_get(f->core, f->key, &vault), -ENOENT);
}

int
main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup_open, teardown)
	const struct CMUnitTest tests[] = {
		T(test_create_and_open), T(test_tampered_wraps), T(test_strangers_are_denied), T(test_rotate_rewrap_destroy), T(test_leases),
		T(test_pool_follows_rotation), T(test_key_api), T(test_vault_rows),
	};

	if (base_secret_setup(NULL) < 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
