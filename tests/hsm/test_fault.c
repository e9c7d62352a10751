/* The recovery ladder, rung by rung, on a module that fails when told to (fault_module.c). argv[1] is its path. */
#include <time.h>

#include "common.h"

#define CKR_HOST_MEMORY_ 0x02
#define CKR_GENERAL_ERROR_ 0x05
#define CKR_ARGUMENTS_BAD_ 0x07
#define CKR_DEVICE_REMOVED_ 0x32
#define CKR_ENCRYPTED_DATA_INVALID_ 0x40
#define CKR_KEY_HANDLE_INVALID_ 0x60
#define CKR_MECHANISM_INVALID_ 0x70
#define CKR_PIN_LOCKED_ 0xa4
#define CKR_SESSION_COUNT_ 0xb1
#define CKR_SESSION_HANDLE_INVALID_ 0xb3
#define CKR_TEMPLATE_INCONSISTENT_ 0xd1
#define CKR_USER_NOT_LOGGED_IN_ 0x101
#define CKF_USER_PIN_FINAL_TRY_ 0x20000
#define CKF_USER_PIN_LOCKED_ 0x40000

static const char *module_path;

struct bench {
	struct fixture *f;
	struct hsm *h;
	uint8_t id[HSM_ID_SIZE], dek[32];
	struct hsm_blob blob;
};

static void set_fault(const char *call, unsigned long rv, int count)
{
	char text[32];

	setenv("FAULT_CALL", call, 1);
	snprintf(text, sizeof(text), "%lu", rv);
	setenv("FAULT_RV", text, 1);
	snprintf(text, sizeof(text), "%d", count);
	setenv("FAULT_COUNT", text, 1);
}

static int faults_left(void)
{
	return atoi(getenv("FAULT_COUNT"));
}

static int initialised(void)
{
	return atoi(getenv("FAULT_INIT"));
}

static void pause_ms(long ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000 };

	nanosleep(&t, NULL);
}

static int make(void **state)
{
	struct bench *b = calloc(1, sizeof(*b));

	set_fault("", 0, 0);
	unsetenv("FAULT_FLAGS");
	fixture_make((void **)&b->f);
	setenv("FAULT_INIT", "0", 1);
	b->f->config.module = module_path;
	b->h = fixture_open(b->f);
	fixture_key(b->h, b->id);
	assert_int_equal(base_random(b->dek, 32), 0);
	assert_int_equal(hsm_wrap(b->h, b->id, "aad", 3, b->dek, 32, &b->blob, NULL), 0);
	*state = b;
	return 0;
}

static int drop(void **state)
{
	struct bench *b = *state;

	set_fault("", 0, 0);
	hsm_close(b->h);
	fixture_remove((void **)&b->f);
	free(b);
	return 0;
}

static int wrap(struct bench *b)
{
	struct hsm_blob blob;

	return hsm_wrap(b->h, b->id, "aad", 3, b->dek, 32, &blob, NULL);
}

static int unwrap(struct bench *b)
{
	uint8_t out[32];
	int ret = hsm_unwrap(b->h, b->id, "aad", 3, &b->blob, out, 32, NULL);

	if (ret == 0)
		assert_memory_equal(out, b->dek, 32);
	return ret;
}

/* Rung 2: one new login, one retry, nobody notices. */
static void test_session_is_reopened(void **state)
{
	static const unsigned long faults[] = { CKR_SESSION_HANDLE_INVALID_, CKR_USER_NOT_LOGGED_IN_, CKR_KEY_HANDLE_INVALID_ };
	struct bench *b = *state;
	size_t i;

	for (i = 0; i < 3; i++) {
		set_fault("C_Encrypt", faults[i], 1);
		assert_int_equal(wrap(b), 0);
		assert_int_equal(faults_left(), 0);
		assert_int_equal(b->f->asked, 2 + (int)i);
		set_fault("C_Decrypt", faults[i], 0);
	}
	set_fault("C_Decrypt", CKR_SESSION_HANDLE_INVALID_, 1);
	assert_int_equal(unwrap(b), 0);
	assert_int_equal(initialised(), 1);
}

/* Rung 3: out for a second, then back with a module loaded anew. */
static void test_device_removed(void **state)
{
	struct bench *b = *state;
	struct hsm_status status;

	set_fault("C_Encrypt", CKR_DEVICE_REMOVED_, 1);
	assert_int_equal(wrap(b), -ENOKEY);
	assert_int_equal(wrap(b), -ENOKEY);
	assert_int_equal(unwrap(b), -ENOKEY);
	assert_int_equal(hsm_status(b->h, &status), -ENOKEY);
	assert_non_null(strstr(status.reason, "CKR_DEVICE_REMOVED"));
	assert_int_equal(b->f->asked, 1);
	assert_int_equal(initialised(), 1);
	pause_ms(1100);
	assert_int_equal(unwrap(b), 0);
	assert_int_equal(b->f->asked, 2);
	assert_int_equal(initialised(), 2);
}

/* Device trouble while coming back: C_OpenSession must fail in our probe, not make libp11 wait for ever. */
static void test_session_cannot_be_opened(void **state)
{
	struct bench *b = *state;

	set_fault("C_Encrypt", CKR_DEVICE_REMOVED_, 1);
	assert_int_equal(wrap(b), -ENOKEY);
	set_fault("C_OpenSession", CKR_DEVICE_REMOVED_, 1000);
	pause_ms(1100);
	assert_int_equal(wrap(b), -ENOKEY);
	assert_int_equal(b->f->asked, 1);
	set_fault("", 0, 0);
	pause_ms(1100);
	assert_int_equal(wrap(b), 0);
}

/* Rung 4. */
static void test_general_error_resets(void **state)
{
	struct bench *b = *state;

	pause_ms(1100); /* resets come at most once a second, and opening was one */
	set_fault("C_Encrypt", CKR_GENERAL_ERROR_, 1);
	assert_int_equal(wrap(b), 0);
	assert_int_equal(initialised(), 2);
	set_fault("C_Encrypt", CKR_GENERAL_ERROR_, 1000);
	assert_int_equal(wrap(b), -ENOKEY);
	set_fault("", 0, 0);
	assert_int_equal(wrap(b), -ENOKEY);
	pause_ms(1100);
	assert_int_equal(wrap(b), 0);
	assert_int_equal(unwrap(b), 0);
}

/* The answer to one unwrap says "bad data" and the canary works: the blob. The canary fails as well: the module. */
static void test_canary_decides(void **state)
{
	struct bench *b = *state;

	set_fault("C_Decrypt", CKR_ENCRYPTED_DATA_INVALID_, 1);
	assert_int_equal(unwrap(b), -EBADMSG);
	set_fault("C_Decrypt", CKR_GENERAL_ERROR_, 1);
	assert_int_equal(unwrap(b), -EBADMSG);
	assert_int_equal(initialised(), 1);
	assert_int_equal(b->f->asked, 1);
	set_fault("C_Decrypt", CKR_DEVICE_REMOVED_, 1);
	assert_int_equal(unwrap(b), -ENOKEY);
	pause_ms(1100);
	set_fault("C_Decrypt", CKR_GENERAL_ERROR_, 1000);
	assert_int_equal(unwrap(b), -ENOKEY);
	set_fault("", 0, 0);
	pause_ms(1100);
	assert_int_equal(unwrap(b), 0);
}

static void test_other_errors_stay_local(void **state)
{
	struct bench *b = *state;
	struct base_error err = { 0 };
	struct hsm_blob blob;

	set_fault("C_Encrypt", CKR_ARGUMENTS_BAD_, 1);
	assert_int_equal(hsm_wrap(b->h, b->id, "aad", 3, b->dek, 32, &blob, &err), -EIO);
	assert_non_null(strstr(err.text, "CKR_ARGUMENTS_BAD"));
	set_fault("C_Encrypt", CKR_HOST_MEMORY_, 1);
	assert_int_equal(wrap(b), -ENOMEM);
	set_fault("C_Encrypt", CKR_MECHANISM_INVALID_, 1);
	assert_int_equal(wrap(b), -EOPNOTSUPP);
	assert_int_equal(wrap(b), 0);
	assert_int_equal(b->f->asked, 1);
	assert_int_equal(initialised(), 1);
}

static void test_no_allowed_mechanisms(void **state)
{
	struct bench *b = *state;
	uint8_t id[HSM_ID_SIZE];

	set_fault("C_GenerateKey", CKR_TEMPLATE_INCONSISTENT_, 1);
	assert_int_equal(hsm_key_generate(b->h, "plain template", id, NULL), 0);
	assert_int_equal(hsm_key_exists(b->h, id), 0);
	set_fault("C_GenerateKey", CKR_ARGUMENTS_BAD_, 1);
	assert_int_equal(hsm_key_generate(b->h, "refused", id, NULL), -EIO);
}

static void test_no_gcm(void **state)
{
	struct bench *b = *state;
	struct base_error err = { 0 };
	struct hsm *h;

	hsm_close(b->h);
	b->h = NULL;
	set_fault("C_GetMechanismInfo", CKR_MECHANISM_INVALID_, 1);
	assert_int_equal(hsm_open(&b->f->config, &h, &err), -EOPNOTSUPP);
	assert_null(h);
	assert_int_equal(b->f->asked, 1);
}

static void open_with_flags(struct bench *b, const char *flags, int want)
{
	struct base_error err = { 0 };
	struct hsm *h;

	setenv("FAULT_FLAGS", flags, 1);
	assert_int_equal(hsm_open(&b->f->config, &h, &err), want);
	assert_null(h);
	unsetenv("FAULT_FLAGS");
}

/* A PIN is not spent on a token that is about to lock; only when the operator says so. */
static void test_pin_flags(void **state)
{
	struct bench *b = *state;
	char flags[32];

	hsm_close(b->h);
	b->h = NULL;
	snprintf(flags, sizeof(flags), "%d", CKF_USER_PIN_FINAL_TRY_);
	open_with_flags(b, flags, -EKEYREJECTED);
	assert_int_equal(b->f->asked, 1);
	b->h = fixture_open(b->f);
	assert_int_equal(hsm_seal(b->h, NULL), 0);
	setenv("FAULT_FLAGS", flags, 1);
	assert_int_equal(wrap(b), -EKEYREJECTED);
	assert_int_equal(b->f->asked, 2);
	hsm_pin_reset(b->h);
	assert_int_equal(wrap(b), 0);
	assert_int_equal(b->f->asked, 3);
	hsm_close(b->h);
	b->h = NULL;
	snprintf(flags, sizeof(flags), "%d", CKF_USER_PIN_LOCKED_);
	open_with_flags(b, flags, -EKEYREJECTED);
	assert_int_equal(b->f->asked, 3);
}

/* However often the token is used: one refused PIN is one C_Login. */
static void test_one_try(void **state)
{
	struct bench *b = *state;
	struct hsm_status status;
	char right = b->f->pin[0];
	uint8_t id[HSM_ID_SIZE];
	int i;

	assert_int_equal(hsm_seal(b->h, NULL), 0);
	setenv("FAULT_LOGINS", "0", 1);
	b->f->pin[0] = right == 'x' ? 'y' : 'x';
	for (i = 0; i < 5; i++) {
		assert_int_equal(wrap(b), -EKEYREJECTED);
		assert_int_equal(unwrap(b), -EKEYREJECTED);
		assert_int_equal(hsm_key_generate(b->h, "x", id, NULL), -EKEYREJECTED);
		assert_int_equal(hsm_status(b->h, &status), -EKEYREJECTED);
	}
	assert_string_equal(getenv("FAULT_LOGINS"), "1");
	b->f->pin[0] = right;
	hsm_pin_reset(b->h);
	assert_int_equal(unwrap(b), 0);
	assert_string_equal(getenv("FAULT_LOGINS"), "2");
}

static void test_pin_locked_answer(void **state)
{
	struct bench *b = *state;

	assert_int_equal(hsm_seal(b->h, NULL), 0);
	set_fault("C_Login", CKR_PIN_LOCKED_, 1);
	assert_int_equal(wrap(b), -EKEYREJECTED);
	assert_int_equal(wrap(b), -EKEYREJECTED);
	assert_int_equal(b->f->asked, 2);
}

int main(int argc, char **argv)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, make, drop)
	const struct CMUnitTest tests[] = {
		TEST(test_session_is_reopened), TEST(test_device_removed), TEST(test_session_cannot_be_opened),
		TEST(test_general_error_resets), TEST(test_canary_decides), TEST(test_other_errors_stay_local),
		TEST(test_no_allowed_mechanisms), TEST(test_no_gcm), TEST(test_pin_flags), TEST(test_one_try), TEST(test_pin_locked_answer),
	};

	if (argc < 3)
		return 2;
	module_path = argv[1];
	setenv("FAULT_MODULE", argv[2], 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
