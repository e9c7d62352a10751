/* A new vault. The config comes last: without it nothing takes the directory for a vault. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/secret.h"
#include "config.h"
#include "mkdir.h"
#include "small.h"

static int check_empty(int fd, const char *path, struct base_error *err)
{
	int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), code = 0;
	DIR *dir = copy >= 0 ? fdopendir(copy) : NULL;
	struct dirent *e;

	if (!dir) {
		code = -errno;
		if (copy >= 0)
			close(copy);
		return base_error_set(err, code, BASE_EXIT_FAILED, "cannot list %s: %s", path, strerror(-code));
	}
	while (code == 0 && (e = readdir(dir)))
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			code = base_error_set(err, -ENOTEMPTY, BASE_EXIT_FAILED, strcmp(e->d_name, VAULT_CONFIG_NAME) == 0 ?
					      "%s is a vault already; mount it with `keepfs`" :
					      "%s is not empty; name a new or an empty directory", path);
	closedir(dir);
	return code;
}

/* The directory, made or found empty; its absolute path and fd go into v. */
static int prepare(struct vault *v, const char *path, bool *ret_made, struct base_error *err)
{
	int code;

	*ret_made = mkdir(path, 0700) == 0;
	if (!*ret_made && errno != EEXIST) {
		code = -errno;
		return base_error_set(err, code, code == -ENOENT ? BASE_EXIT_NOT_FOUND : BASE_EXIT_FAILED, "cannot make %s: %s", path,
				      strerror(-code));
	}
	v->root_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (v->root_fd < 0 || !realpath(path, v->path)) {
		code = -errno;
		return base_error_set(err, code, BASE_EXIT_FAILED, "cannot open %s: %s", path, strerror(-code));
	}
	return *ret_made ? 0 : check_empty(v->root_fd, path, err);
}

/* The parent's entry of a directory that was made must survive, too. */
static int sync_dirs(const struct vault *v)
{
	int parent, code = 0;

	if (fsync(v->root_fd) < 0)
		return -errno;
	parent = openat(v->root_fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (parent < 0)
		return errno == EACCES ? 0 : -errno;
	if (fsync(parent) < 0 && errno != EINVAL)
		code = -errno;
	close(parent);
	return code;
}

static int write_all(struct vault *v, const uint8_t zone[BASE_ID_SIZE], const uint8_t page[VAULT_PAGE])
{
	struct vault_dir root = { 0 };
	int code;

	memcpy(root.id, v->root_dir_id, BASE_ID_SIZE);
	memcpy(root.zone, zone, BASE_ID_SIZE);
	code = vault_dir_record_new(v, v->root_fd, &root, (uid_t)-1, (gid_t)-1);
	if (code == 0)
		code = vault_small_replace(v->root_fd, VAULT_CONFIG_NAME, page, VAULT_PAGE, true);
	if (code == 0)
		code = sync_dirs(v);
	if (code == 0)
		code = kms_vault_generation(v->core, v->id, 1);
	return code;
}

static int build(struct vault *v, const struct kms_caller *caller, const uint8_t zone[BASE_ID_SIZE], struct base_error *err)
{
	BASE_SECRET_AUTO uint8_t *dek = base_secret_alloc(KMS_DEK_SIZE);
	uint8_t page[VAULT_PAGE], key_id[BASE_ID_SIZE];
	unsigned hold;
	int code;

	if (!dek)
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "no more memory can be locked for keys; raise `ulimit -l`");
	if ((code = base_random(v->id, BASE_ID_SIZE)) < 0 || (code = base_random(v->root_dir_id, BASE_ID_SIZE)) < 0 ||
	    (code = base_random(dek, KMS_DEK_SIZE)) < 0)
		return base_error_set(err, code, BASE_EXIT_FAILED, "no random numbers: %s", strerror(-code));
	code = kms_vault_add(v->core, caller, v->id, v->path, key_id, err);
	if (code < 0)
		return code;
	hold = kms_wrap_hold(v->core);
	code = vault_config_make(v, caller, key_id, dek, page, err);
	if (code == 0 && (code = write_all(v, zone, page)) < 0)
		base_error_set(err, code, BASE_EXIT_FAILED, "cannot write the vault %s: %s", v->path, strerror(-code));
	kms_wrap_release(v->core, hold);
	if (code < 0) {
		unlinkat(v->root_fd, VAULT_CONFIG_NAME, 0);
		unlinkat(v->root_fd, VAULT_RECORD_NAME, 0);
		kms_vault_remove(v->core, v->id);
	}
	return code;
}

int vault_create(struct kms_core *core, const struct kms_caller *caller, const char *path, const char *key_name,
		 uint8_t ret_id[BASE_ID_SIZE], struct base_error *err)
{
	uint8_t zone[BASE_ID_SIZE];
	struct vault *v;
	bool made = false;
	int code = kms_key_find(core, key_name, zone);

	if (code < 0)
		return base_error_set(err, code, code == -ENOENT ? BASE_EXIT_NOT_FOUND : BASE_EXIT_FAILED, code == -ENOENT ?
				      "there is no key %s; make it with `keepctl key create %s`" : "cannot look up key %s (%s)", key_name,
				      code == -ENOENT ? key_name : strerror(-code));
	v = vault_alloc(core);
	if (!v)
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "out of memory");
	code = prepare(v, path, &made, err);
	if (code == 0)
		code = build(v, caller, zone, err);
	if (code == 0)
		memcpy(ret_id, v->id, BASE_ID_SIZE);
	else if (made)
		rmdir(path);
	vault_free(v);
	return code;
}
