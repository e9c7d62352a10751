/* Making and opening keystores, and what is refused. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common.h"

static mode_t
mode_of(const struct fixture *f, const char *name)
{
	struct stat st;
	char path[200];

	snprintf(path, sizeof(path), "%s/%s", f->dir, name);
	assert_int_equal(stat(path, &st), 0);
	return st.st_mode & 07777;
}

static void
write_file(const char *path, const char *text)
{
	FILE *out = fopen(path, "w");

	assert_non_null(out);
	fputs(text, out);
	assert_int_equal(fclose(out), 0);
	assert_int_equal(chmod(path, 0600), 0);
}

static void
test_modes_and_reopening(void **state)
{
	struct fixture *f = *state;
	struct base_error err = { 0 };
	struct kms_core *second = NULL;
	struct kms_create options = { 0 };
	uint8_t id[BASE_ID_SIZE];

	assert_int_equal(mode_of(f, "."), 0711);
	assert_int_equal(mode_of(f, "keystore.conf"), 0600);
	assert_int_equal(mode_of(f, "keystore.db"), 0600);
	assert_int_equal(mode_of(f, "pin"), 0600);
	assert_int_equal(mode_of(f, "tokens"), 0700);
	assert_true(kms_keystore_exists(f->dir));
	assert_int_equal(kms_core_open(f->dir, NULL, 0, &second, &err), -EBUSY);
	assert_null(second);
	assert_int_equal(kms_keystore_create(f->dir, &options, NULL, &err), -EEXIST);
	memcpy(id, kms_core_id(f->core), sizeof(id));
	fixture_close(f);
	fixture_open(f, false);
	assert_memory_equal(id, kms_core_id(f->core), sizeof(id));
	assert_int_equal(kms_key_current(f->core, f->key), 1);
}

static void
test_locked_by_another_process(void **state)
{
	struct fixture *f = *state;
	struct base_error err = { 0 };
	int pipe_fds[2], status;
	char ready;
	pid_t child;

	fixture_close(f);
	assert_int_equal(pipe(pipe_fds), 0);
	child = fork();
	if (child == 0) {
		struct kms_core *core;
		bool ok = kms_core_open(f->dir, NULL, 0, &core, &err) == 0;

		if (ok && write(pipe_fds[1], "r", 1) == 1) {
			usleep(300000);
			kms_core_close(core);
		}
		_exit(!ok);
	}
	assert_int_equal(read(pipe_fds[0], &ready, 1), 1);
	assert_int_equal(kms_core_open(f->dir, NULL, 0, &f->core, &err), -EBUSY);
	assert_non_null(strstr(err.text, "in use by process"));
	MUST(kms_core_open(f->dir, NULL, KMS_OPEN_WAIT, &f->core, &err));
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
}

static void
test_failed_creation_leaves_nothing(void **state)
{
	struct fixture *f = *state;
	struct base_error err = { 0 };
	struct kms_create options = { .pin_source = "file:/nowhere/at/all" };
	char dir[128], path[200];

	snprintf(dir, sizeof(dir), "%s/second", f->root);
	assert_int_equal(kms_keystore_create(dir, &options, NULL, &err), -EACCES);
	assert_int_equal(err.exit, BASE_EXIT_PIN);
	assert_int_equal(access(dir, F_OK), -1);
	options = (struct kms_create) { .module = "/nowhere/module.so", .token = "t", .pin_source = "prompt" };
	assert_int_equal(kms_keystore_create(dir, &options, NULL, &err), -ENOENT);
	options = (struct kms_create) { .pin_source = "prompt" };
	assert_int_equal(kms_keystore_create(dir, &options, NULL, &err), -EACCES);
	assert_int_equal(err.exit, BASE_EXIT_PIN);
	assert_int_equal(access(dir, F_OK), -1);
	memset(path, 'a', sizeof(path));
	path[0] = '/';
	path[150] = 0;
	options = (struct kms_create) { 0 };
	assert_int_equal(kms_keystore_create(path, &options, NULL, &err), -ENAMETOOLONG);
}

static void
test_pin_sources(void **state)
{
	struct fixture *f = *state;
	struct base_error err = { 0 };
	char pin[128], source[160], dir[128];
	struct kms_create options = { .pin_source = source };

	fixture_close(f);
	snprintf(dir, sizeof(dir), "%s/second", f->root);
	snprintf(pin, sizeof(pin), "%s/secret", f->root);
	snprintf(source, sizeof(source), "file:%s", pin);
	write_file(pin, "correct horse\n");
	MUST(kms_keystore_create(dir, &options, NULL, &err));
	MUST(kms_core_open(dir, NULL, 0, &f->core, &err));
	fixture_close(f);
	assert_int_equal(chmod(pin, 0640), 0);
	assert_int_equal(kms_core_open(dir, NULL, 0, &f->core, &err), -EACCES);
	assert_int_equal(err.exit, BASE_EXIT_PIN);
	write_file(pin, "battery staple\n");
	assert_int_equal(kms_core_open(dir, NULL, 0, &f->core, &err), -EKEYREJECTED);
	assert_int_equal(err.exit, BASE_EXIT_PIN);
	assert_null(strstr(err.text, "battery"));
	setenv("CREDENTIALS_DIRECTORY", f->root, 1);
	write_file(pin, "correct horse");
	snprintf(dir, sizeof(dir), "%s/third", f->root);
	strcpy(source, "credential:secret");
	MUST(kms_keystore_create(dir, &options, NULL, &err));
	MUST(kms_core_open(dir, NULL, 0, &f->core, &err));
}

static int
answer(void *ctx, const char *text, bool again, char *pin, size_t cap, struct base_error *err)
{
	assert_true(strlen(ctx) < cap);
	strcpy(pin, ctx);
	return 0;
}

static void
test_prompt(void **state)
{
	struct fixture *f = *state;
	struct base_error err = { 0 };
	struct kms_create options = { .pin_source = "prompt" };
	struct kms_prompt right = { answer, (void *) "open sesame" }, wrong = { answer, (void *) "open barley" };
	char dir[128];

	fixture_close(f);
	snprintf(dir, sizeof(dir), "%s/second", f->root);
	MUST(kms_keystore_create(dir, &options, &right, &err));
	assert_int_equal(kms_core_open(dir, NULL, 0, &f->core, &err), -EACCES);
	assert_int_equal(err.exit, BASE_EXIT_PIN);
	assert_int_equal(kms_core_open(dir, &wrong, 0, &f->core, &err), -EKEYREJECTED);
	assert_int_equal(err.exit, BASE_EXIT_PIN);
	MUST(kms_core_open(dir, &right, 0, &f->core, &err));
}

static void
test_damaged_database(void **state)
{
	static const char garbage[] = "this is no database, however long one looks at it; it has been written over by something else, "
				      "and now holds a poem about the sea, the sea, the sea, and nothing of keys";
	struct fixture *f = *state;
	struct base_error err = { 0 };
	char after[sizeof(garbage)] = "";
	FILE *in;

	fixture_close(f);
	write_file(f->db, garbage);
	assert_int_equal(kms_core_open(f->dir, NULL, 0, &f->core, &err), -EBADMSG);
	assert_int_equal(err.exit, BASE_EXIT_INTEGRITY);
	if (!strstr(err.text, "left as it is"))
		fail_msg("%s", err.text);
	in = fopen(f->db, "r");
	assert_non_null(in);
	assert_int_equal(fread(after, 1, sizeof(after), in), sizeof(garbage) - 1);
	fclose(in);
	assert_memory_equal(after, garbage, sizeof(garbage));
	write_file(f->db, "");
	assert_int_equal(kms_core_open(f->dir, NULL, 0, &f->core, &err), -EBADMSG);
	assert_int_equal(unlink(f->db), 0);
	assert_int_equal(kms_core_open(f->dir, NULL, 0, &f->core, &err), -ENOENT);
	assert_int_equal(err.exit, BASE_EXIT_INTEGRITY);
}

static void
test_page_of_zeros(void **state)
{
	static const uint8_t zeros[1024];
	struct fixture *f = *state;
	struct base_error err = { 0 };
	struct stat before, after;
	int fd;

	fixture_close(f);
	fd = open(f->db, O_RDWR);
	assert_true(fd >= 0);
	for (off_t at = 1024; at < 8192; at += 1024)
		assert_int_equal(pwrite(fd, zeros, sizeof(zeros), at), sizeof(zeros));
	assert_int_equal(fstat(fd, &before), 0);
	assert_int_equal(kms_core_open(f->dir, NULL, 0, &f->core, &err), -EBADMSG);
	assert_int_equal(err.exit, BASE_EXIT_INTEGRITY);
	assert_int_equal(fstat(fd, &after), 0);
	assert_memory_equal(&before.st_mtim, &after.st_mtim, sizeof(before.st_mtim));
	close(fd);
}

static void
test_open_to_others(void **state)
{
	struct fixture *f = *state;
	struct base_error err = { 0 };

	fixture_close(f);
	assert_int_equal(chmod(f->db, 0644), 0);
	assert_int_equal(kms_core_open(f->dir, NULL, 0, &f->core, &err), -EPERM);
	assert_int_equal(chmod(f->db, 0600), 0);
	assert_int_equal(chmod(f->dir, 0777), 0);
	assert_int_equal(kms_core_open(f->dir, NULL, 0, &f->core, &err), -EPERM);
}

/* ---- keystore.conf ------------------------------------------------------------------------------------------------------ */

static const struct {
	const char *text, *want;
} bad_confs[] = {
	{ "[hsm]\ntoken = a\ntokn = b\n", "keystore.conf:3: unknown key \"tokn\"" },
	{ "[hsm]\ntoken = a\n\n[audit]\ndurability = commit\ndurability = fsync\n", "keystore.conf:6: durability is given a second time" },
	{ "; comment\n[hsn]\n", "keystore.conf:2: unknown section [hsn]" },
	{ "[hsm\ntoken = a\n", "keystore.conf:1: " },
	{ "token = a\n", "keystore.conf:1: token stands before any section" },
	{ "[hsm]\npin-value = 1234\n", "keystore.conf:2: pin-value is refused" },
	{ "[kms]\npool-size = many\n", "keystore.conf:2: pool-size" },
	{ "[kms]\ndek-cache-ttl = 9w\n", "keystore.conf:2: dek-cache-ttl" },
	{ "[audit]\ndurability = maybe\n", "keystore.conf:2: durability: \"maybe\" is none of commit, fsync, batch" },
	{ "[hsm]\njust words\n", "keystore.conf:2: " },
	{ "[hsm]\npin-source = env:PIN\n", "keystore.conf:2: pin-source" },
	{ "[hsm]\nmodule = /usr/lib/x.so\n", "keystore.conf:2: a module needs its token's label" },
};

static void
test_conf(void **state)
{
	struct fixture *f = *state;
	struct base_error err = { 0 };
	char path[128];

	fixture_close(f);
	MUST(kms_config_check(f->dir, &err));
	snprintf(path, sizeof(path), "%s/keystore.conf", f->dir);
	for (size_t i = 0; i < sizeof(bad_confs) / sizeof(bad_confs[0]); i++) {
		write_file(path, bad_confs[i].text);
		assert_int_equal(kms_config_check(f->dir, &err), -EINVAL);
		if (strncmp(err.text, bad_confs[i].want, strlen(bad_confs[i].want)))
			fail_msg("\"%s\" does not begin with \"%s\"", err.text, bad_confs[i].want);
		assert_null(strstr(err.text, "1234"));
		assert_int_equal(kms_core_open(f->dir, NULL, 0, &f->core, &err), -EINVAL);
	}
	write_file(path, "[kms]\npool-size = 0\ndek-cache-ttl = 5m\n[audit]\ndurability = fsync\n");
	MUST(kms_config_check(f->dir, &err));
	fixture_open(f, false);
}

static void
test_path(void **state)
{
	struct base_error err = { 0 };
	char path[4096];

	setenv("KEEPFS_KEYSTORE", "/some/where/", 1);
	MUST(kms_keystore_path(NULL, path, &err));
	assert_string_equal(path, "/some/where");
	MUST(kms_keystore_path("/else/where", path, &err));
	assert_string_equal(path, "/else/where");
	unsetenv("KEEPFS_KEYSTORE");
	MUST(kms_keystore_path(NULL, path, &err));
	assert_non_null(strstr(path, "keepfs/default"));
	assert_int_equal(kms_keystore_path("", path, &err), -EINVAL);
}

int
main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup_open, teardown)
	const struct CMUnitTest tests[] = {
		T(test_modes_and_reopening), T(test_locked_by_another_process), T(test_failed_creation_leaves_nothing), T(test_pin_sources),
		T(test_prompt), T(test_damaged_database), T(test_page_of_zeros), T(test_open_to_others), T(test_conf), T(test_path),
	};

	if (base_secret_setup(NULL) < 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
