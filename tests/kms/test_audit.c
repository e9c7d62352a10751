/* The trail: what it holds, that it is found out when somebody touches it, and how fast it is. */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "common.h"

static void
make_records(struct fixture *f)
{
	struct kms_subject subject = subject_of(f, f->vault, "secret/plans.txt");

	for (int i = 0; i < 12; i++)
		assert_int_equal(kms_audit_write(f->core, &f->me, i & 1 ? "mount" : "unmount", &subject, i == 5 ? EIO : 0,
						 i == 5 ? "the fifth" : NULL), 0);
}

static bool
verify(struct fixture *f, json_int_t *ret_bad)
{
	struct base_error err = { 0 };
	json_t *lines, *line;
	int rc = call(f->core, &f->me, "GET", "/v1/audit/verify", NULL, &lines, &err);
	bool ok;

	assert_int_equal(json_array_size(lines), 1);
	line = json_array_get(lines, 0);
	ok = json_is_true(json_object_get(line, "ok"));
	assert_int_equal(rc, ok ? 0 : -EBADMSG);
	assert_int_equal(err.exit, ok ? BASE_EXIT_OK : BASE_EXIT_INTEGRITY);
	*ret_bad = json_integer_value(json_object_get(line, "first_bad"));
	json_decref(lines);
	return ok;
}

static uint64_t
last_seq(struct fixture *f)
{
	struct base_error err = { 0 };
	json_t *lines;
	uint64_t seq;

	MUST(call(f->core, &f->me, "GET", "/v1/status", NULL, &lines, &err));
	seq = (uint64_t) json_integer_value(json_object_get(json_object_get(json_array_get(lines, 0), "audit"), "seq"));
	json_decref(lines);
	return seq;
}

static void
test_fields(void **state)
{
	struct fixture *f = *state;
	struct base_error err = { 0 };
	json_t *lines, *line;
	char id[BASE_ID_TEXT], exe[512];
	ssize_t len = readlink("/proc/self/exe", exe, sizeof(exe) - 1);

	make_records(f);
	assert_true(len > 0);
	exe[len] = 0;
	MUST(call(f->core, &f->me, "GET", "/v1/audit", json_pack("{s:s}", "outcome", "failed"), &lines, &err));
	assert_int_equal(json_array_size(lines), 1);
	line = json_array_get(lines, 0);
	assert_string_equal(json_string_value(json_object_get(line, "action")), "mount");
	assert_string_equal(json_string_value(json_object_get(line, "path")), "secret/plans.txt");
	assert_string_equal(json_string_value(json_object_get(line, "reason")), "the fifth");
	assert_string_equal(json_string_value(json_object_get(line, "via")), "cli");
	assert_string_equal(json_string_value(json_object_get(line, "program")), exe);
	assert_int_equal(json_integer_value(json_object_get(line, "errno")), EIO);
	assert_int_equal(json_integer_value(json_object_get(line, "uid")), getuid());
	assert_int_equal(json_integer_value(json_object_get(line, "pid")), getpid());
	json_decref(lines);
	MUST(call(f->core, &f->me, "GET", "/v1/audit", json_pack("{s:s}", "file", "/secret/plans.txt"), &lines, &err));
	assert_int_equal(json_array_size(lines), 12);
	json_decref(lines);
	MUST(call(f->core, &f->me, "GET", "/v1/audit", json_pack("{s:s, s:s}", "file", base_hex(f->vault, BASE_ID_SIZE, id), "action", "unmount"),
		  &lines, &err));
	assert_int_equal(json_array_size(lines), 6);
	json_decref(lines);
	MUST(call(f->core, &f->me, "GET", "/v1/audit", json_pack("{s:s}", "until", "2001-01-01"), &lines, &err));
	assert_int_equal(json_array_size(lines), 0);
	json_decref(lines);
	assert_int_equal(call(f->core, &f->me, "GET", "/v1/audit", json_pack("{s:s}", "outcome", "maybe"), &lines, &err), -EINVAL);
	json_decref(lines);
}

/* No clear path in any file of the keystore. */
static void
test_paths_are_sealed(void **state)
{
	struct fixture *f = *state;
	char *bytes;
	FILE *in;
	long size;

	make_records(f);
	fixture_close(f);
	in = fopen(f->db, "r");
	assert_non_null(in);
	assert_int_equal(fseek(in, 0, SEEK_END), 0);
	size = ftell(in);
	rewind(in);
	bytes = malloc((size_t) size);
	assert_non_null(bytes);
	assert_int_equal(fread(bytes, 1, (size_t) size, in), size);
	assert_non_null(memmem(bytes, (size_t) size, "unmount", 7));
	assert_null(memmem(bytes, (size_t) size, "plans.txt", 9));
	fclose(in);
	free(bytes);
}

static void
test_whole(void **state)
{
	struct fixture *f = *state;
	json_int_t bad;

	for (int i = 0; i < 3; i++) {
		make_records(f);
		assert_true(verify(f, &bad));
		fixture_close(f);
		fixture_open(f, false);
		assert_true(verify(f, &bad));
	}
}

/* ---- edits ------------------------------------------------------------------------------------------------------------------ */

/* Record 6 is in the middle. at: 0 when the damage must be seen there. */
static const struct {
	const char *sql;
	int at;
} edits[] = {
	{ "UPDATE audit SET time_ns = time_ns + 1 WHERE seq = 6", 0 },
	{ "UPDATE audit SET mono_ns = mono_ns + 1 WHERE seq = 6", 0 },
	{ "UPDATE audit SET boot_id = x'00' WHERE seq = 6", 0 },
	{ "UPDATE audit SET session_id = zeroblob(16) WHERE seq = 6", 0 },
	{ "UPDATE audit SET uid = uid + 1 WHERE seq = 6", 0 },
	{ "UPDATE audit SET gid = gid + 1 WHERE seq = 6", 0 },
	{ "UPDATE audit SET pid = pid + 1 WHERE seq = 6", 0 },
	{ "UPDATE audit SET program = '/bin/true' WHERE seq = 6", 0 },
	{ "UPDATE audit SET via = 1 WHERE seq = 6", 0 },
	{ "UPDATE audit SET action = 'nothing' WHERE seq = 6", 0 },
	{ "UPDATE audit SET key_id = zeroblob(16) WHERE seq = 6", 0 },
	{ "UPDATE audit SET key_version = 3 WHERE seq = 6", 0 },
	{ "UPDATE audit SET vault_id = NULL WHERE seq = 6", 0 },
	{ "UPDATE audit SET file_id = NULL WHERE seq = 6", 0 },
	{ "UPDATE audit SET path = NULL WHERE seq = 6", 0 },
	{ "UPDATE audit SET rule = '' WHERE seq = 6", 0 },
	{ "UPDATE audit SET outcome = 1 WHERE seq = 6", 0 },
	{ "UPDATE audit SET errno = 1 WHERE seq = 6", 0 },
	{ "UPDATE audit SET reason = '' WHERE seq = 6", 0 },
	{ "UPDATE audit SET prev_hash = zeroblob(32) WHERE seq = 6", 0 },
	{ "UPDATE audit SET hash = zeroblob(32) WHERE seq = 6", 0 },
	{ "DELETE FROM audit WHERE seq = 6", 0 },
	{ "DELETE FROM audit WHERE seq >= 6", 0 },
	{ "DELETE FROM audit WHERE seq <= 6", -1000 },
	{ "UPDATE audit SET seq = 100000 WHERE seq = 6; UPDATE audit SET seq = 6 WHERE seq = 7; UPDATE audit SET seq = 7 WHERE seq = 100000", 0 },
	{ "UPDATE audit_head SET seq = seq - 1", 1000 },
	{ "UPDATE audit_head SET mac = zeroblob(32)", 1000 },
	{ "DELETE FROM audit_head", 1000 },
	{ "DELETE FROM audit WHERE seq > 6; UPDATE audit_head SET seq = (SELECT max(seq) FROM audit), count = (SELECT max(seq) FROM audit),"
	  "hash = (SELECT hash FROM audit ORDER BY seq DESC LIMIT 1)", 1000 },
};

static void
test_edits(void **state)
{
	for (size_t i = 0; i < sizeof(edits) / sizeof(edits[0]); i++) {
		struct fixture *f = fixture_make();
		json_int_t bad = 0;
		const char *text = edits[i].sql;

		fixture_open(f, true);
		make_records(f);
		fixture_close(f);
		sql(f, text);
		fixture_open(f, false);
		if (verify(f, &bad))
			fail_msg("not noticed: %s", text);
		if (edits[i].at == 0 && bad != 6)
			fail_msg("record 6 is bad, not %lld: %s", (long long) bad, text);
		if (edits[i].at == -1000 && bad != 1)
			fail_msg("record 1 is missing, not %lld: %s", (long long) bad, text);
		/* What was noticed once stays noticed, also after new records. */
		make_records(f);
		fixture_close(f);
		fixture_open(f, false);
		if (verify(f, &bad))
			fail_msg("forgotten: %s", text);
		fixture_free(f);
	}
}

static void
test_forged_tail(void **state)
{
	struct fixture *f = *state;
	json_int_t bad;
	uint64_t seq;

	make_records(f);
	seq = last_seq(f);
	fixture_close(f);
	sql(f, "INSERT INTO audit SELECT seq + 1, time_ns, mono_ns, boot_id, session_id, uid, gid, pid, program, via, action, key_id, "
	       "key_version, vault_id, file_id, path, rule, outcome, errno, reason, hash, hash FROM audit ORDER BY seq DESC LIMIT 1");
	fixture_open(f, false);
	assert_false(verify(f, &bad));
	assert_int_equal(bad, seq + 1);
}

/* ---- failing closed ------------------------------------------------------------------------------------------------------------ */

static void
test_no_record_no_key(void **state)
{
	struct fixture *f = *state;
	BASE_SECRET_AUTO uint8_t *dek = base_secret_alloc(KMS_DEK_SIZE);
	static const uint8_t zeros[KMS_DEK_SIZE];
	struct kms_subject subject = subject_of(f, NULL, "x");
	struct base_error err = { 0 };
	struct kms_new_dek new;

	MUST(kms_dek_create(f->core, &f->me, &subject, f->key, 0, &new, &err));
	kms_dek_created(f->core, new.lease);
	base_secret_free(new.dek);
	subject = subject_of(f, new.file_id, "x");
	fixture_close(f);
	sql(f, "CREATE TRIGGER full BEFORE INSERT ON audit WHEN NEW.action = 'open-read' BEGIN SELECT RAISE(ABORT, 'full'); END");
	fixture_open(f, false);
	memset(dek, 7, KMS_DEK_SIZE);
	assert_int_equal(kms_dek_open(f->core, &f->me, &subject, &new.wrap, KMS_DEK_READ, dek, &err), -EIO);
	assert_memory_equal(dek, zeros, KMS_DEK_SIZE);
	MUST(kms_dek_open(f->core, &f->me, &subject, &new.wrap, KMS_DEK_WRITE, dek, &err));
}

/* The HSM is away at start: nothing is unwrapped, records go on without paths, and are sealed when it is back. */
static void
test_hsm_away(void **state)
{
	struct fixture *f = *state;
	BASE_SECRET_AUTO uint8_t *dek = base_secret_alloc(KMS_DEK_SIZE);
	struct kms_subject subject = subject_of(f, NULL, "x");
	struct base_error err = { 0 };
	char here[128], away[128];
	struct kms_new_dek new;
	json_int_t bad;
	json_t *lines;

	MUST(kms_dek_create(f->core, &f->me, &subject, f->key, 0, &new, &err));
	kms_dek_created(f->core, new.lease);
	base_secret_free(new.dek);
	subject = subject_of(f, new.file_id, "x");
	fixture_close(f);
	snprintf(here, sizeof(here), "%s/tokens", f->dir);
	snprintf(away, sizeof(away), "%s/away", f->root);
	assert_int_equal(rename(here, away), 0);
	fixture_open(f, false);
	make_records(f);
	assert_int_equal(kms_dek_open(f->core, &f->me, &subject, &new.wrap, KMS_DEK_READ, dek, &err), -ENOKEY);
	assert_int_equal(err.exit, BASE_EXIT_UNREACHABLE);
	assert_int_equal(call(f->core, &f->me, "GET", "/v1/audit/verify", NULL, &lines, &err), -ENOKEY);
	json_decref(lines);
	MUST(call(f->core, &f->me, "GET", "/v1/status", NULL, &lines, &err));
	assert_true(json_is_false(json_object_get(json_object_get(json_array_get(lines, 0), "hsm"), "available")));
	json_decref(lines);
	assert_int_equal(rename(away, here), 0);
	for (int i = 0; i < 100 && kms_dek_open(f->core, &f->me, &subject, &new.wrap, KMS_DEK_READ, dek, &err) < 0; i++)
		usleep(50000);
	MUST(kms_dek_open(f->core, &f->me, &subject, &new.wrap, KMS_DEK_READ, dek, &err));
	assert_int_equal(count_records(f, "audit-seal", "allowed"), 1);
	assert_int_equal(count_records(f, "audit-alarm", "failed"), 0);
	assert_true(verify(f, &bad));
	fixture_close(f);
	fixture_open(f, false);
	assert_true(verify(f, &bad));
}

/* ---- many at once ------------------------------------------------------------------------------------------------------------------ */

#define THREADS 4
#define EACH 300

static void *
write_many(void *ctx)
{
	struct fixture *f = ctx;
	struct kms_subject subject = subject_of(f, f->vault, "a/file");
	long failed = 0;

	for (int i = 0; i < EACH; i++)
		failed += kms_audit_write(f->core, &f->me, "thread", &subject, 0, NULL) != 0;
	return (void *) failed;
}

static void
test_threads(void **state)
{
	struct fixture *f = *state;
	pthread_t threads[THREADS];
	json_int_t bad;
	void *failed;

	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, write_many, f), 0);
	assert_true(verify(f, &bad));
	for (int i = 0; i < THREADS; i++) {
		pthread_join(threads[i], &failed);
		assert_null(failed);
	}
	assert_int_equal(count_records(f, "thread", "allowed"), THREADS * EACH);
	assert_true(verify(f, &bad));
}

static void
test_durabilities(void **state)
{
	static const char *const kinds[] = { "fsync", "batch" };
	struct fixture *f = *state;
	char path[128];
	json_int_t bad;

	for (size_t i = 0; i < 2; i++) {
		FILE *out;

		fixture_close(f);
		snprintf(path, sizeof(path), "%s/keystore.conf", f->dir);
		out = fopen(path, "w");
		assert_non_null(out);
		fprintf(out, "[audit]\ndurability = %s\n", kinds[i]);
		fclose(out);
		fixture_open(f, false);
		make_records(f);
		assert_int_equal(kms_audit_barrier(f->core), 0);
		assert_int_equal(count_records(f, "unmount", "allowed"), 6 * (2 * i + 1));
		make_records(f);
		fixture_close(f);
		fixture_open(f, false);
		assert_true(verify(f, &bad));
		assert_int_equal(count_records(f, "unmount", "allowed"), 6 * (2 * i + 2));
	}
}

static void
test_speed(void **state)
{
	enum { COUNT = 3000 };
	struct fixture *f = *state;
	struct kms_subject subject = subject_of(f, f->vault, "some/directory/of/files.txt");
	uint64_t start = base_clock_mono_ns(), spent;

	for (int i = 0; i < COUNT; i++)
		assert_int_equal(kms_audit_write(f->core, &f->me, "speed", &subject, 0, NULL), 0);
	spent = base_clock_mono_ns() - start;
	print_message("%.0f records a second, %.1f us each\n", COUNT * 1e9 / (double) spent, (double) spent / 1000 / COUNT);
	assert_true(spent / COUNT < 5000000); /* slower than a disk's sync: something is wrong */
}

int
main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup_open, teardown)
	const struct CMUnitTest tests[] = {
		T(test_fields), T(test_paths_are_sealed), T(test_whole), cmocka_unit_test(test_edits), T(test_forged_tail),
		T(test_no_record_no_key), T(test_hsm_away), T(test_threads), T(test_durabilities), T(test_speed),
	};

	if (base_secret_setup(NULL) < 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
