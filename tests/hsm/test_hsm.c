/* The room as its callers see it, on a SoftHSM token of its own. */
#include <pthread.h>
#include <time.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "common.h"

static const char *module_path;
static char object_path[256]; /* what find_object found */
static off_t object_size;

#define AAD "vault file key 1", 16

static void wrap_one(struct hsm *h, const uint8_t *id, const uint8_t *dek, struct hsm_blob *blob)
{
	struct base_error err = { 0 };

	if (hsm_wrap(h, id, AAD, dek, 32, blob, &err) < 0)
		fail_msg("hsm_wrap: %s", err.text);
}

static void check_unwrap(struct hsm *h, const uint8_t *id, const struct hsm_blob *blob, const uint8_t *dek)
{
	BASE_SECRET_AUTO uint8_t *out = base_secret_alloc(32);
	struct base_error err = { 0 };

	if (hsm_unwrap(h, id, AAD, blob, out, 32, &err) < 0)
		fail_msg("hsm_unwrap: %s", err.text);
	assert_memory_equal(out, dek, 32);
}

static void pause_ms(long ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000 };

	nanosleep(&t, NULL);
}

static void test_life_of_a_key(void **state)
{
	struct hsm *h = fixture_open(*state);
	uint8_t id[HSM_ID_SIZE], dek[32], other[HSM_ID_SIZE] = { 1 };
	struct base_error err = { 0 };
	struct hsm_blob blob, again;

	fixture_key(h, id);
	assert_int_equal(hsm_key_exists(h, id), 0);
	assert_int_equal(hsm_key_exists(h, other), -ENOENT);
	assert_int_equal(hsm_random(h, dek, 32, NULL), 0);
	assert_false(base_is_zero(dek, 32));
	wrap_one(h, id, dek, &blob);
	wrap_one(h, id, dek, &again);
	assert_int_equal(blob.len, 12 + 32 + 16);
	assert_int_equal(blob.mechanism, HSM_MECH_AES_GCM);
	assert_int_equal(blob.iv_mode, HSM_IV_APP);
	assert_memory_not_equal(blob.bytes, again.bytes, 12);
	check_unwrap(h, id, &blob, dek);
	assert_int_equal(hsm_wrap(h, other, AAD, dek, 32, &again, &err), -ENOKEY);
	assert_int_equal(hsm_key_destroy(h, id, NULL), 0);
	assert_int_equal(hsm_key_exists(h, id), -ENOENT);
	assert_int_equal(hsm_key_destroy(h, id, NULL), -ENOENT);
	assert_int_equal(hsm_unwrap(h, id, AAD, &blob, dek, 32, &err), -ENOKEY);
	assert_true(base_is_zero(dek, 32));
	hsm_close(h);
}

static void test_survives_reopening(void **state)
{
	struct hsm *h = fixture_open(*state);
	uint8_t id[HSM_ID_SIZE], dek[32];
	struct hsm_blob blob;

	base_random(dek, 32);
	fixture_key(h, id);
	wrap_one(h, id, dek, &blob);
	hsm_close(h);
	h = fixture_open(*state);
	check_unwrap(h, id, &blob, dek);
	hsm_close(h);
}

static void refused(struct hsm *h, const uint8_t *id, const char *aad, const struct hsm_blob *blob, size_t len)
{
	BASE_SECRET_AUTO uint8_t *out = base_secret_alloc(64);
	struct base_error err = { 0 };

	memset(out, 0xff, len);
	assert_int_equal(hsm_unwrap(h, id, aad, 16, blob, out, len, &err), -EBADMSG);
	assert_int_equal(err.exit, BASE_EXIT_INTEGRITY);
	assert_true(base_is_zero(out, len));
}

static void test_bad_blobs(void **state)
{
	struct fixture *f = *state;
	struct hsm *h = fixture_open(f);
	uint8_t id[HSM_ID_SIZE], second[HSM_ID_SIZE], dek[32];
	struct hsm_blob blob, bad;
	struct hsm_status status;
	int i;

	base_random(dek, 32);
	fixture_key(h, id);
	fixture_key(h, second);
	wrap_one(h, id, dek, &blob);
	refused(h, id, "vault file key 2", &blob, 32);
	refused(h, second, "vault file key 1", &blob, 32);
	refused(h, id, "vault file key 1", &blob, 16);
	for (i = 0; i < blob.len; i += 7) {
		bad = blob;
		bad.bytes[i] ^= 0x10;
		refused(h, id, "vault file key 1", &bad, 32);
	}
	bad = blob;
	bad.len -= 5;
	refused(h, id, "vault file key 1", &bad, 32);
	bad = blob;
	bad.mechanism = 9;
	assert_int_equal(hsm_unwrap(h, id, AAD, &bad, dek, 32, NULL), -EOPNOTSUPP);
	base_random(dek, 32);
	wrap_one(h, id, dek, &blob);
	check_unwrap(h, id, &blob, dek);
	assert_int_equal(hsm_status(h, &status), 0);
	assert_true(status.available);
	assert_int_equal(f->asked, 1); /* no bad blob has led to a login */
	hsm_close(h);
}

static void test_pin_is_latched(void **state)
{
	struct fixture *f = *state;
	struct hsm *h = fixture_open(f);
	uint8_t id[HSM_ID_SIZE], dek[32] = { 7 };
	struct base_error err = { 0 };
	struct hsm_status status;
	struct hsm_blob blob;
	char right = f->pin[3];

	fixture_key(h, id);
	assert_int_equal(f->asked, 1);
	f->pin[3] = right == 'a' ? 'b' : 'a';
	assert_int_equal(hsm_seal(h, &err), 0);
	assert_int_equal(hsm_status(h, &status), -EACCES); /* looking does not ask for a PIN */
	assert_int_equal(f->asked, 1);
	assert_int_equal(hsm_wrap(h, id, AAD, dek, 32, &blob, &err), -EKEYREJECTED);
	assert_int_equal(err.exit, BASE_EXIT_PIN);
	assert_int_equal(f->asked, 2);
	assert_int_equal(hsm_wrap(h, id, AAD, dek, 32, &blob, &err), -EKEYREJECTED);
	assert_int_equal(hsm_key_exists(h, id), -EKEYREJECTED);
	assert_int_equal(hsm_status(h, &status), -EKEYREJECTED);
	assert_int_equal(f->asked, 2);
	f->pin[3] = right;
	assert_int_equal(hsm_wrap(h, id, AAD, dek, 32, &blob, &err), -EKEYREJECTED);
	hsm_pin_reset(h);
	wrap_one(h, id, dek, &blob);
	assert_int_equal(f->asked, 3);
	hsm_close(h);
}

static void test_open_with_wrong_pin(void **state)
{
	struct fixture *f = *state;
	struct base_error err = { 0 };
	struct hsm *h;

	f->pin[0] ^= 1;
	assert_int_equal(hsm_open(&f->config, &h, &err), -EKEYREJECTED);
	assert_null(h);
	assert_int_equal(f->asked, 1);
	f->answer = -EACCES;
	assert_int_equal(hsm_open(&f->config, &h, &err), -EACCES);
	assert_null(h);
	f->config.pin = NULL;
	assert_int_equal(hsm_open(&f->config, &h, &err), -EACCES);
	assert_int_equal(f->asked, 2);
}

static void test_open_what_is_not_there(void **state)
{
	struct fixture *f = *state;
	struct hsm_config config = f->config;
	struct base_error err = { 0 };
	struct hsm_status status;
	struct hsm *h;

	config.module = "/nonexistent/module.so";
	assert_int_equal(hsm_open(&config, &h, &err), -ENOKEY);
	assert_non_null(h);
	assert_non_null(strstr(err.text, "/nonexistent/module.so"));
	assert_int_equal(hsm_status(h, &status), -ENOKEY);
	assert_false(status.available);
	assert_non_null(strstr(status.reason, "/nonexistent/module.so"));
	hsm_close(h);
	config = f->config;
	config.token = "another";
	assert_int_equal(hsm_open(&config, &h, &err), -ENOENT);
	assert_null(h);
	config = f->config;
	config.serial = "0123456789abcdef";
	assert_int_equal(hsm_open(&config, &h, &err), -ENOENT);
	assert_int_equal(hsm_token_create(&f->config, f->so_pin, f->pin, &err), -EEXIST);
	assert_int_equal(f->asked, 0);
}

static int find_object(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	if (strcmp(path + ftw->base, "token.object") != 0)
		return 0;
	snprintf(object_path, sizeof(object_path), "%s", path);
	object_size = st->st_size;
	return 1;
}

/* A login killed between SoftHSM's truncation and its write. */
static void test_interrupted_login(void **state)
{
	struct fixture *f = *state;
	struct hsm *h = fixture_open(f);
	uint8_t id[HSM_ID_SIZE], dek[32];
	struct hsm_blob blob;
	off_t cut;

	base_random(dek, 32);
	fixture_key(h, id);
	wrap_one(h, id, dek, &blob);
	hsm_close(h);
	assert_int_equal(nftw(f->token_dir, find_object, 8, FTW_PHYS), 1);
	for (cut = 0; cut < object_size; cut += object_size / 3) {
		assert_int_equal(truncate(object_path, cut), 0);
		h = fixture_open(f);
		check_unwrap(h, id, &blob, dek);
		hsm_close(h);
	}
}

static void test_token_goes_and_comes_back(void **state)
{
	struct fixture *f = *state;
	struct hsm *h = fixture_open(f);
	uint8_t id[HSM_ID_SIZE], dek[32], out[32];
	struct hsm_blob blob, again;
	struct base_error err = { 0 };
	struct hsm_status status;
	char away[128];

	base_random(dek, 32);
	fixture_key(h, id);
	wrap_one(h, id, dek, &blob);
	snprintf(away, sizeof(away), "%s.away", f->token_dir);
	assert_int_equal(rename(f->token_dir, away), 0);
	assert_int_equal(hsm_unwrap(h, id, AAD, &blob, out, 32, &err), -ENOKEY);
	assert_non_null(strstr(err.text, f->token_dir));
	assert_int_equal(hsm_wrap(h, id, AAD, dek, 32, &again, &err), -ENOKEY);
	assert_int_equal(hsm_key_exists(h, id), -ENOKEY);
	assert_int_equal(hsm_key_destroy(h, id, NULL), -ENOKEY);
	assert_int_equal(hsm_status(h, &status), -ENOKEY);
	assert_false(status.available);
	assert_string_not_equal(status.reason, "");
	pause_ms(1200);
	assert_int_equal(hsm_unwrap(h, id, AAD, &blob, out, 32, &err), -ENOKEY);
	assert_int_equal(rename(away, f->token_dir), 0);
	pause_ms(1200);
	check_unwrap(h, id, &blob, dek);
	assert_int_equal(hsm_status(h, &status), 0);
	assert_string_equal(status.label, "test token");
	hsm_close(h);
}

static void test_open_without_the_directory(void **state)
{
	struct fixture *f = *state;
	struct base_error err = { 0 };
	uint8_t id[HSM_ID_SIZE];
	struct hsm *h;
	char away[128];

	snprintf(away, sizeof(away), "%s.away", f->token_dir);
	assert_int_equal(rename(f->token_dir, away), 0);
	assert_int_equal(hsm_open(&f->config, &h, &err), -ENOKEY);
	assert_non_null(h);
	assert_int_equal(rename(away, f->token_dir), 0);
	pause_ms(1200);
	fixture_key(h, id);
	assert_int_equal(f->asked, 1);
	hsm_close(h);
}

/* The same without the look at the directory: what the module itself answers has to lead to the same end. */
static void test_module_errors_alone(void **state)
{
	struct fixture *f = *state;
	struct hsm_config config = f->config;
	uint8_t id[HSM_ID_SIZE], dek[32], out[32];
	struct base_error err = { 0 };
	struct hsm_blob blob;
	struct hsm *h;
	char away[128];
	int i;

	setenv("SOFTHSM2_CONF", f->conf_path, 1);
	config.token_dir = NULL;
	config.conf_path = NULL;
	assert_int_equal(hsm_open(&config, &h, &err), 0);
	base_random(dek, 32);
	fixture_key(h, id);
	wrap_one(h, id, dek, &blob);
	check_unwrap(h, id, &blob, dek);
	snprintf(away, sizeof(away), "%s.away", f->token_dir);
	assert_int_equal(rename(f->token_dir, away), 0);
	for (i = 0; i < 3; i++)
		assert_int_equal(hsm_unwrap(h, id, AAD, &blob, out, 32, &err), -ENOKEY);
	assert_int_equal(rename(away, f->token_dir), 0);
	pause_ms(1200);
	check_unwrap(h, id, &blob, dek);
	hsm_close(h);
}

/* Somebody else's tool on the same token: what it prints after `command`. */
static void run_tool(struct fixture *f, const char *arguments, char *out, size_t cap)
{
	char command[512];
	size_t n;
	FILE *p;

	setenv("KEEPFS_TEST_PIN", f->pin, 1);
	snprintf(command, sizeof(command), "pkcs11-tool --module '%s' %s 2>&1", module_path, arguments);
	p = popen(command, "r");
	assert_non_null(p);
	n = fread(out, 1, cap - 1, p);
	out[n] = '\0';
	pclose(p);
	unsetenv("KEEPFS_TEST_PIN");
}

static void test_what_another_tool_sees(void **state)
{
	struct fixture *f = *state;
	struct hsm *h = fixture_open(f);
	uint8_t id[HSM_ID_SIZE];
	char out[4096], text[BASE_ID_TEXT];

	if (access("/usr/bin/pkcs11-tool", X_OK) < 0) {
		hsm_close(h);
		skip();
	}
	fixture_key(h, id);
	hsm_close(h); /* SoftHSM: one process at a time */
	run_tool(f, "--token-label 'test token' --login --pin env:KEEPFS_TEST_PIN --list-objects", out, sizeof(out));
	if (!strstr(out, "Secret Key Object; AES length 32") || !strstr(out, "label:      test key") ||
	    !strstr(out, base_hex(id, sizeof(id), text)) || !strstr(out, "Usage:      encrypt, decrypt\n") ||
	    !strstr(out, "sensitive, always sensitive, never extractable, local"))
		fail_msg("pkcs11-tool lists:\n%s", out);
	run_tool(f, "--list-slots", out, sizeof(out));
	assert_null(strstr(out, "user PIN count low"));
	f->pin[0] ^= 1;
	assert_int_equal(hsm_open(&f->config, &h, NULL), -EKEYREJECTED);
	run_tool(f, "--list-slots", out, sizeof(out));
	assert_non_null(strstr(out, "user PIN count low"));
}

struct worker {
	pthread_t thread;
	struct hsm *h;
	const uint8_t *id;
	int failed;
};

static void *work(void *arg)
{
	struct worker *w = arg;
	BASE_SECRET_AUTO uint8_t *dek = base_secret_alloc(64);
	struct hsm_blob blob;
	int i;

	for (i = 0; i < 2000; i++) {
		base_random(dek, 32);
		if (hsm_wrap(w->h, w->id, AAD, dek, 32, &blob, NULL) < 0 ||
		    hsm_unwrap(w->h, w->id, AAD, &blob, dek + 32, 32, NULL) < 0 || memcmp(dek, dek + 32, 32) != 0)
			w->failed++;
	}
	return NULL;
}

static void test_two_threads(void **state)
{
	struct hsm *h = fixture_open(*state);
	struct worker workers[2] = { { 0 } };
	uint8_t id[HSM_ID_SIZE], extra[HSM_ID_SIZE];
	uint64_t start;
	int i;

	fixture_key(h, id);
	start = base_clock_mono_ns();
	for (i = 0; i < 2; i++) {
		workers[i].h = h;
		workers[i].id = id;
		assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
	}
	for (i = 0; i < 5; i++) { /* objects come and go meanwhile */
		fixture_key(h, extra);
		assert_int_equal(hsm_key_destroy(h, extra, NULL), 0);
	}
	for (i = 0; i < 2; i++) {
		pthread_join(workers[i].thread, NULL);
		assert_int_equal(workers[i].failed, 0);
	}
	print_message("bench: %.0f wraps and as many unwraps per second, two threads\n",
		      4000 * 1e9 / (double)(base_clock_mono_ns() - start));
	hsm_close(h);
}

static void bench_one_thread(void **state)
{
	struct hsm *h = fixture_open(*state);
	uint8_t id[HSM_ID_SIZE], dek[32], out[32];
	struct hsm_blob blob;
	uint64_t start, middle;
	int i;

	base_random(dek, 32);
	fixture_key(h, id);
	start = base_clock_mono_ns();
	for (i = 0; i < 5000; i++)
		assert_int_equal(hsm_wrap(h, id, AAD, dek, 32, &blob, NULL), 0);
	middle = base_clock_mono_ns();
	for (i = 0; i < 5000; i++)
		assert_int_equal(hsm_unwrap(h, id, AAD, &blob, out, 32, NULL), 0);
	print_message("bench: %.0f wraps per second, %.0f unwraps per second, one thread\n",
		      5000 * 1e9 / (double)(middle - start), 5000 * 1e9 / (double)(base_clock_mono_ns() - middle));
	hsm_close(h);
}

int main(int argc, char **argv)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_make, fixture_remove)
	const struct CMUnitTest tests[] = {
		TEST(test_life_of_a_key), TEST(test_survives_reopening), TEST(test_bad_blobs), TEST(test_pin_is_latched),
		TEST(test_open_with_wrong_pin), TEST(test_open_what_is_not_there), TEST(test_token_goes_and_comes_back),
		TEST(test_open_without_the_directory), TEST(test_module_errors_alone), TEST(test_what_another_tool_sees), TEST(test_interrupted_login),
		TEST(test_two_threads), TEST(bench_one_thread),
	};

	if (argc < 2)
		return 2;
	module_path = argv[1]; /* for the other tool; the room finds SoftHSM2 by itself */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
