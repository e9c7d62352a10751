#include "fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/stat.h>

#include <ftw.h>

#include "base/log.h"
#include "base/secret.h"

struct fixture fx;

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

void fixture_open(void)
{
	struct base_error err = { 0 };

	if (kms_core_open(fx.keystore, NULL, 0, &fx.core, &err) != 0)
		fail_msg("core: %s", err.text);
	assert_int_equal(vault_api_add(fx.core), 0);
	if (vault_open(fx.core, &fx.caller, fx.path, &fx.v, &err) != 0)
		fail_msg("vault: %s", err.text);
}

void fixture_close(void)
{
	vault_put(fx.v);
	fx.v = NULL;
	kms_core_close(fx.core);
	fx.core = NULL;
}

int fixture_up(void **state)
{
	struct base_error err = { 0 };

	(void)state;
	if (base_secret_setup(&err) != 0)
		fail_msg("secret memory: %s", err.text);
	base_log_setup("test", 0);
	strcpy(fx.dir, "/tmp/keepfs-test-XXXXXX");
	assert_non_null(mkdtemp(fx.dir));
	snprintf(fx.keystore, sizeof(fx.keystore), "%s/ks", fx.dir);
	snprintf(fx.path, sizeof(fx.path), "%s/vault", fx.dir);
	fx.caller = kms_caller_self(KMS_VIA_CLI);
	if (kms_keystore_create(fx.keystore, &(struct kms_create){ 0 }, NULL, &err) != 0)
		fail_msg("keystore: %s", err.text);
	if (kms_core_open(fx.keystore, NULL, 0, &fx.core, &err) != 0)
		fail_msg("core: %s", err.text);
	if (vault_create(fx.core, &fx.caller, fx.path, "default", fx.id, &err) != 0)
		fail_msg("vault: %s", err.text);
	kms_core_close(fx.core);
	fixture_open();
	return 0;
}

int fixture_down(void **state)
{
	(void)state;
	fixture_close();
	return nftw(fx.dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static int keep_last(void *ctx, json_t *line)
{
	json_t **last = ctx;

	json_decref(*last);
	*last = line;
	return 0;
}

int fixture_call(const char *method, const char *route, json_t *params, json_t **ret_last, struct base_error *err)
{
	json_t *last = NULL;
	struct kms_request request = { .method = method, .path = route, .params = params, .caller = fx.caller, .emit = keep_last, .emit_ctx = &last };
	int code;

	memset(err, 0, sizeof(*err));
	code = kms_api_call(fx.core, &request, err);
	json_decref(params);
	if (ret_last)
		*ret_last = last;
	else
		json_decref(last);
	return code;
}

size_t fixture_read(const char *path, void *buf, size_t cap)
{
	int fd = vault_open_file(AT_FDCWD, path, O_RDONLY);
	ssize_t n;

	assert_true(fd >= 0);
	n = read(fd, buf, cap);
	assert_true(n >= 0);
	close(fd);
	return (size_t)n;
}

void fixture_write(const char *path, const void *buf, size_t len)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, buf, len), (ssize_t)len);
	close(fd);
}

int fixture_entries(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *e;
	int n = 0;

	assert_non_null(dir);
	while ((e = readdir(dir)))
		n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
	closedir(dir);
	return n;
}
