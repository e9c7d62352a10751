/* The config of a vault: who may open what, and what is refused. */
#include "fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char config[128];
static uint8_t good[VAULT_PAGE];

static int set_up(void **state)
{
	fixture_up(state);
	snprintf(config, sizeof(config), "%s/" VAULT_CONFIG_NAME, fx.path);
	assert_int_equal(fixture_read(config, good, sizeof(good)), VAULT_PAGE);
	return 0;
}

/* Opens the vault of the fixture, which must be closed, and closes it again. */
static int try_open(const char *path, struct base_error *err)
{
	struct vault *v = NULL;
	int code;

	memset(err, 0, sizeof(*err));
	code = vault_open(fx.core, &fx.caller, path, &v, err);
	if (code < 0) {
		assert_null(v);
		assert_int_equal(err->code, code);
		assert_true(err->text[0] != '\0');
	}
	vault_put(v);
	return code;
}

static void close_vault(void)
{
	vault_put(fx.v);
	fx.v = NULL;
}

static void open_vault(void)
{
	struct base_error err = { 0 };

	if (vault_open(fx.core, &fx.caller, fx.path, &fx.v, &err) != 0)
		fail_msg("%s", err.text);
}

static void test_create_refusals(void **state)
{
	char path[160], inside[192];
	struct base_error err = { 0 };
	uint8_t id[BASE_ID_SIZE];

	assert_int_equal(vault_create(fx.core, &fx.caller, fx.path, "default", id, &err), -ENOTEMPTY);
	snprintf(path, sizeof(path), "%s/new", fx.dir);
	assert_int_equal(vault_create(fx.core, &fx.caller, path, "no such key", id, &err), -ENOENT);
	assert_int_equal(err.exit, BASE_EXIT_NOT_FOUND);
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(mkdir(path, 0755), 0);
	snprintf(inside, sizeof(inside), "%s/x", path);
	fixture_write(inside, "x", 1);
	assert_int_equal(vault_create(fx.core, &fx.caller, path, "default", id, &err), -ENOTEMPTY);
	assert_int_equal(fixture_entries(path), 1);
	assert_int_equal(unlink(inside), 0);
	assert_int_equal(vault_create(fx.core, &fx.caller, path, "default", id, &err), 0);
	assert_int_equal(fixture_entries(path), 2);
	assert_int_equal(try_open(path, &err), 0);
	snprintf(inside, sizeof(inside), "%s/no/where", fx.dir);
	assert_int_equal(vault_create(fx.core, &fx.caller, inside, "default", id, &err), -ENOENT);
}

static void test_not_vaults(void **state)
{
	struct base_error err;
	char path[128];

	snprintf(path, sizeof(path), "%s/none", fx.dir);
	assert_int_equal(try_open(path, &err), -ENOENT);
	assert_int_equal(err.exit, BASE_EXIT_NOT_FOUND);
	assert_int_equal(try_open(fx.dir, &err), -EINVAL);
	assert_int_equal(try_open(config, &err), -ENOTDIR);
}

static void test_one_process(void **state)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	struct vault *again = NULL, *by_id = NULL;
	struct base_error err;
	int fd;

	assert_int_equal(try_open(fx.path, &err), -EBUSY);
	assert_int_equal(vault_get(fx.core, &fx.caller, fx.path, NULL, &again, &err), 0);
	assert_ptr_equal(again, fx.v);
	assert_int_equal(vault_get(fx.core, &fx.caller, NULL, fx.id, &by_id, &err), 0);
	assert_ptr_equal(by_id, fx.v);
	vault_put(again);
	vault_put(by_id);
	close_vault();
	/* A lock of another open file description is what another process would hold. */
	fd = open(config, O_RDWR);
	assert_int_equal(fcntl(fd, F_OFD_SETLK, &lock), 0);
	assert_int_equal(try_open(fx.path, &err), -EBUSY);
	assert_non_null(strstr(err.text, "is in use: "));
	close(fd);
	assert_int_equal(vault_get(fx.core, &fx.caller, NULL, fx.id, &fx.v, &err), 0);
	assert_memory_equal(vault_id(fx.v), fx.id, BASE_ID_SIZE);
}

/* The slots that are not in use are dead: the other wrap slot and the other state slot. All else is refused. */
static bool dead(size_t at)
{
	return (at >= 1280 && at < 1536) || (at >= 1536 && at < 1536 + VAULT_WRAP_SIZE);
}

static void test_every_byte(void **state)
{
	uint8_t page[VAULT_PAGE];
	struct base_error err;
	size_t at;

	close_vault();
	memcpy(page, good, sizeof(page));
	for (at = 0; at < VAULT_PAGE; at++) {
		/* Dead bytes cost an unwrap each: one in sixteen is enough there. */
		if (dead(at) && at % 16 != 0)
			continue;
		page[at] ^= (uint8_t)(1 << at % 8);
		fixture_write(config, page, sizeof(page));
		if (dead(at))
			assert_int_equal(try_open(fx.path, &err), 0);
		else
			assert_true(try_open(fx.path, &err) < 0);
		if (!dead(at))
			assert_int_equal(err.exit, BASE_EXIT_INTEGRITY);
		page[at] ^= (uint8_t)(1 << at % 8);
	}
	fixture_write(config, page, VAULT_PAGE - 1);
	assert_int_equal(try_open(fx.path, &err), -EBADMSG);
	fixture_write(config, "", 0);
	assert_int_equal(try_open(fx.path, &err), -EBADMSG);
	fixture_write(config, page, sizeof(page));
	open_vault();
}

static void test_foreign_config(void **state)
{
	uint8_t other[VAULT_PAGE], id[BASE_ID_SIZE];
	struct base_error err = { 0 };
	char path[128], theirs[192];

	snprintf(path, sizeof(path), "%s/foreign", fx.dir);
	snprintf(theirs, sizeof(theirs), "%s/" VAULT_CONFIG_NAME, path);
	assert_int_equal(vault_create(fx.core, &fx.caller, path, "default", id, &err), 0);
	assert_int_equal(fixture_read(theirs, other, sizeof(other)), VAULT_PAGE);
	close_vault();
	fixture_write(config, other, sizeof(other));
	assert_int_equal(try_open(fx.path, &err), -EBADMSG);
	fixture_write(config, good, sizeof(good));
	/* A vault that the keystore does not know. */
	assert_int_equal(kms_vault_remove(fx.core, id), 0);
	assert_int_equal(try_open(path, &err), -ENOENT);
	assert_non_null(strstr(err.text, "another keystore"));
	assert_int_equal(err.exit, BASE_EXIT_NOT_FOUND);
	open_vault();
}

/* A config as this vault's would be with another generation or keystore. */
static void forge(uint64_t n, uint64_t generation, const uint8_t *keystore, uint8_t page[VAULT_PAGE])
{
	struct vault_state s = { .n = n, .size = generation };

	memcpy(s.acc, keystore, BASE_ID_SIZE);
	memcpy(s.session, vault_root_dir_id(fx.v), BASE_ID_SIZE);
	assert_int_equal(vault_state_seal(fx.v->state, VAULT_MAGIC_CONFIG, fx.id, &s, page + VAULT_HEADER_AREA(n & 1) + VAULT_WRAP_SIZE), 0);
}

static void test_generations(void **state)
{
	uint8_t next[VAULT_PAGE], far[VAULT_PAGE], alien[VAULT_PAGE], keystore[BASE_ID_SIZE] = { 3 };
	struct kms_vault *known = malloc(sizeof(*known));
	struct base_error err;

	memcpy(next, good, sizeof(next));
	memcpy(far, good, sizeof(far));
	memcpy(alien, good, sizeof(alien));
	forge(2, 2, kms_core_id(fx.core), next);
	forge(2, 4, kms_core_id(fx.core), far);
	forge(3, 2, keystore, alien);
	close_vault();
	fixture_write(config, far, sizeof(far));
	assert_int_equal(try_open(fx.path, &err), -EBADMSG);
	assert_int_equal(err.exit, BASE_EXIT_INTEGRITY);
	fixture_write(config, alien, sizeof(alien));
	assert_int_equal(try_open(fx.path, &err), -ENOENT);
	fixture_write(config, next, sizeof(next)); /* one ahead: taken and recorded */
	assert_int_equal(try_open(fx.path, &err), 0);
	assert_int_equal(kms_vault_get(fx.core, fx.id, known), 0);
	assert_int_equal(known->generation, 2);
	fixture_write(config, good, sizeof(good)); /* rolled back */
	assert_int_equal(try_open(fx.path, &err), -EBADMSG);
	assert_int_equal(err.exit, BASE_EXIT_INTEGRITY);
	assert_non_null(strstr(err.text, "rolled back"));
	fixture_write(config, next, sizeof(next));
	memcpy(good, next, sizeof(good));
	free(known);
	open_vault();
}

static void test_rewrap(void **state)
{
	uint8_t now[VAULT_PAGE];
	char route[96], hex[BASE_ID_TEXT];
	struct base_error err;
	json_t *last = NULL;

	snprintf(route, sizeof(route), "/v1/keys/vault:%s/rotate", base_hex(fx.id, BASE_ID_SIZE, hex));
	if (fixture_call("POST", route, json_object(), NULL, &err) != 0)
		fail_msg("%s", err.text);
	if (fixture_call("POST", "/v1/rewrap", json_pack("{s:s}", "path", fx.path), &last, &err) != 0)
		fail_msg("%s", err.text);
	assert_int_equal(json_integer_value(json_object_get(last, "rewrapped")), 1);
	assert_int_equal(json_integer_value(json_object_get(last, "failed")), 0);
	json_decref(last);
	assert_int_equal(fixture_read(config, now, sizeof(now)), VAULT_PAGE);
	assert_memory_equal(now, good, 512);
	assert_int_equal(fixture_call("POST", "/v1/rewrap", json_pack("{s:s}", "path", fx.path), &last, &err), 0);
	assert_int_equal(json_integer_value(json_object_get(last, "rewrapped")), 0);
	assert_int_equal(json_integer_value(json_object_get(last, "current")), 1);
	json_decref(last);
	close_vault();
	assert_int_equal(try_open(fx.path, &err), 0);
	fixture_write(config, good, sizeof(good));
	assert_int_equal(try_open(fx.path, &err), -EBADMSG); /* the one before the rewrap */
	fixture_write(config, now, sizeof(now));
	memcpy(good, now, sizeof(good));
	open_vault();
}

static void test_moved(void **state)
{
	struct kms_vault *known = malloc(sizeof(*known));
	struct base_error err;
	char path[128];

	snprintf(path, sizeof(path), "%s/moved", fx.dir);
	close_vault();
	assert_int_equal(rename(fx.path, path), 0);
	assert_int_equal(try_open(path, &err), 0);
	assert_int_equal(kms_vault_get(fx.core, fx.id, known), 0);
	assert_string_equal(known->path, path);
	assert_int_equal(rename(path, fx.path), 0);
	open_vault();
	free(known);
}

static void test_root_record(void **state)
{
	char path[128];
	uint8_t record[160];
	struct base_error err;

	snprintf(path, sizeof(path), "%s/" VAULT_RECORD_NAME, fx.path);
	close_vault();
	assert_int_equal(fixture_read(path, record, sizeof(record)), 160);
	record[50] ^= 1;
	fixture_write(path, record, sizeof(record));
	assert_int_equal(try_open(fx.path, &err), -EBADMSG);
	assert_int_equal(err.exit, BASE_EXIT_INTEGRITY);
	record[50] ^= 1;
	fixture_write(path, record, sizeof(record));
	open_vault();
}

static void test_core_again(void **state)
{
	fixture_close();
	fixture_open();
	assert_memory_equal(vault_id(fx.v), fx.id, BASE_ID_SIZE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_create_refusals), cmocka_unit_test(test_not_vaults), cmocka_unit_test(test_one_process),
		cmocka_unit_test(test_every_byte), cmocka_unit_test(test_foreign_config), cmocka_unit_test(test_generations),
		cmocka_unit_test(test_rewrap), cmocka_unit_test(test_moved), cmocka_unit_test(test_root_record), cmocka_unit_test(test_core_again),
	};

	return cmocka_run_group_tests(tests, set_up, fixture_down);
}
