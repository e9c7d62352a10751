/* Where a user's path leads; file show, dir show. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "target.h"
#include "vault/path.h"

/* mounts_lock guards the mount's functions; it is not held while they run. */
static pthread_mutex_t mounts_lock = PTHREAD_MUTEX_INITIALIZER;
static vault_locate_fn mounts_locate;
static vault_zone_fn mounts_zone;
static void *mounts_ctx;

void vault_api_mounts(vault_locate_fn locate, vault_zone_fn zone, void *ctx)
{
	pthread_mutex_lock(&mounts_lock);
	mounts_locate = locate;
	mounts_zone = zone;
	mounts_ctx = ctx;
	pthread_mutex_unlock(&mounts_lock);
}

void vault_zone_changed(struct vault *v, const uint8_t dir_id[BASE_ID_SIZE], const uint8_t zone[BASE_ID_SIZE])
{
	vault_zone_fn fn;
	void *ctx;

	pthread_mutex_lock(&mounts_lock);
	fn = mounts_zone;
	ctx = mounts_ctx;
	pthread_mutex_unlock(&mounts_lock);
	if (fn)
		fn(ctx, v, dir_id, zone);
}

/* 0 and the backing path when the path is inside a mount; -ENOENT when no mount has it. */
static int locate(const char *path, struct vault **ret_vault, char backing[PATH_MAX])
{
	vault_locate_fn fn;
	void *ctx;

	*ret_vault = NULL;
	pthread_mutex_lock(&mounts_lock);
	fn = mounts_locate;
	ctx = mounts_ctx;
	pthread_mutex_unlock(&mounts_lock);
	return fn ? fn(ctx, path, ret_vault, backing, PATH_MAX) : -ENOENT;
}

int vault_target_lost(const char *path, int code, struct base_error *err)
{
	return base_error_set(err, code, code == -ENOENT ? BASE_EXIT_NOT_FOUND : code == -EBADMSG ? BASE_EXIT_INTEGRITY : BASE_EXIT_FAILED,
			      "cannot find %s: %s", path, code == -EBADMSG ? "a name or a directory record on the way is damaged" : strerror(-code));
}

/* The nearest directory above with a config in it: the length of its path, or -ENOENT. */
static ssize_t find_root(const char *real)
{
	char dir[PATH_MAX + sizeof(VAULT_CONFIG_NAME) + 1];
	size_t len = strlen(real);
	struct stat st;

	memcpy(dir, real, len + 1);
	for (;;) {
		snprintf(dir + len, sizeof(dir) - len, "/" VAULT_CONFIG_NAME);
		if (lstat(dir, &st) == 0 && S_ISREG(st.st_mode))
			return (ssize_t)len;
		dir[len] = '\0';
		while (len > 0 && dir[len] != '/')
			len--;
		if (len == 0)
			return -ENOENT;
		dir[len] = '\0';
	}
}

/* Resolve the directories on the way, but not a symlink at the end. */
static int real_path(const char *path, char ret[PATH_MAX])
{
	char copy[PATH_MAX], *slash;
	size_t len = strlen(path);

	if (len >= sizeof(copy))
		return -ENAMETOOLONG;
	memcpy(copy, path, len + 1);
	while (len > 1 && copy[len - 1] == '/')
		copy[--len] = '\0';
	slash = strrchr(copy, '/');
	if (!slash || !slash[1] || strcmp(slash + 1, ".") == 0 || strcmp(slash + 1, "..") == 0)
		return realpath(copy, ret) ? 0 : -errno;
	*slash = '\0';
	if (!realpath(slash == copy ? "/" : copy, ret))
		return -errno;
	len = strlen(ret);
	if (len + strlen(slash + 1) + 2 > PATH_MAX)
		return -ENAMETOOLONG;
	if (ret[len - 1] != '/')
		ret[len++] = '/';
	strcpy(ret + len, slash + 1);
	return 0;
}

int vault_target_backing(const char *path, char ret[PATH_MAX], size_t *root_len, struct base_error *err)
{
	struct vault *v;
	ssize_t len;
	int code;

	if (!path || path[0] != '/')
		return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "an absolute path is needed");
	code = locate(path, &v, ret);
	/* v is the mount's: it tells that the path is in one, and may be gone by now. */
	if (code < 0 && (code != -ENOENT || v))
		return vault_target_lost(path, code, err);
	if (code < 0)
		code = real_path(path, ret);
	if (code < 0)
		return vault_target_lost(path, code, err);
	len = find_root(ret);
	if (len < 0)
		return base_error_set(err, -ENOENT, BASE_EXIT_NOT_FOUND, "%s is neither in a mount nor in a vault; is its vault mounted?", path);
	*root_len = (size_t)len;
	return 0;
}

int vault_target_find(struct kms_core *core, const struct kms_caller *caller, const char *path, struct vault_target *ret, struct base_error *err)
{
	char backing[PATH_MAX], root[PATH_MAX];
	size_t len;
	int code = vault_target_backing(path, backing, &len, err);

	if (code < 0)
		return code;
	memcpy(root, backing, len);
	root[len] = '\0';
	code = vault_get(core, caller, root, NULL, &ret->v, err);
	if (code < 0)
		return code;
	while (backing[len] == '/')
		len++;
	memcpy(ret->relative, backing + len, strlen(backing + len) + 1);
	return 0;
}

const char *vault_param(const struct kms_request *request, const char *name)
{
	return request->params ? json_string_value(json_object_get(request->params, name)) : NULL;
}

static int emit(struct kms_request *request, json_t *line, struct base_error *err)
{
	if (!line)
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "out of memory");
	request->emit(request->emit_ctx, line);
	return 0;
}

/* Key names need not be UTF-8 that JSON takes when the key is gone: then its id stands in. */
static void key_text(struct kms_core *core, const uint8_t id[BASE_ID_SIZE], char ret[KMS_NAME_MAX + 1])
{
	if (kms_key_name(core, id, ret) < 0)
		base_hex(id, BASE_ID_SIZE, ret);
}

static int read_header(const char *backing, struct vault_header *header, struct stat *st, const char *path, struct base_error *err)
{
	int top, fd, code;

	if (lstat(backing, st) < 0)
		return vault_target_lost(path, -errno, err);
	if (S_ISDIR(st->st_mode))
		return base_error_set(err, -EISDIR, BASE_EXIT_FAILED, "%s is a directory; see `keepctl dir show`", path);
	if (!S_ISREG(st->st_mode))
		return base_error_set(err, -EINVAL, BASE_EXIT_FAILED, "%s is not a regular file: it has no key of its own", path);
	top = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (top < 0)
		return vault_target_lost(path, -errno, err);
	fd = vault_open_file_at(top, backing, O_RDONLY);
	close(top);
	if (fd < 0)
		return vault_target_lost(path, fd, err);
	code = fstat(fd, st) < 0 ? -errno : vault_header_read(fd, VAULT_MAGIC_FILE, KMS_PURPOSE_FILE, header);
	close(fd);
	if (code == -EBADMSG)
		return base_error_set(err, code, BASE_EXIT_INTEGRITY, "%s is not an encrypted file, or its header is damaged (%s); restore it from a backup",
				      path, backing);
	return code < 0 ? vault_target_lost(path, code, err) : 0;
}

int vault_file_show_handler(struct kms_core *core, void *ctx, struct kms_request *request, struct base_error *err)
{
	const char *path = vault_param(request, "path");
	char backing[PATH_MAX], key[KMS_NAME_MAX + 1], key_id[BASE_ID_TEXT], file_id[BASE_ID_TEXT];
	struct vault_header *h;
	struct stat st;
	uint64_t size;
	size_t root_len;
	int code = vault_target_backing(path, backing, &root_len, err);

	if (code < 0)
		return code;
	h = malloc(sizeof(*h));
	if (!h)
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "out of memory");
	code = read_header(backing, h, &st, path, err);
	if (code == 0)
		code = kms_authorize(core, &request->caller, KMS_ACTION_SEE, h->wrap.key_id, "file show", err);
	if (code == 0 && vault_plain_size((uint64_t)st.st_size, &size) < 0)
		code = base_error_set(err, -EBADMSG, BASE_EXIT_INTEGRITY, "%s was cut short or grown (%s has %lld bytes); restore it from a backup", path,
				      backing, (long long)st.st_size);
	if (code == 0) {
		key_text(core, h->wrap.key_id, key);
		code = emit(request, json_pack("{s:s, s:s, s:s, s:I, s:s, s:s, s:I, s:s%, s:i}", "file_id", base_hex(h->file_id, BASE_ID_SIZE, file_id),
					       "key", key, "key_id", base_hex(h->wrap.key_id, BASE_ID_SIZE, key_id), "key_version",
					       (json_int_t)h->wrap.version, "suite", "AES-256-GCM", "mechanism",
					       h->wrap.mechanism == 1 ? "AES-GCM" : "unknown", "size", (json_int_t)size, "backing_path", backing,
					       strlen(backing), "header_bytes", VAULT_PAGE), err);
	}
	free(h);
	return code;
}

void vault_dir_target_done(struct vault_dir_target *t)
{
	if (t->fd >= 0)
		close(t->fd);
	vault_put(t->at.v);
}

int vault_dir_target_open(struct kms_core *core, struct kms_request *request, struct vault_dir_target *t, struct base_error *err)
{
	const char *path = vault_param(request, "path");
	int code;

	memset(t, 0, sizeof(*t));
	t->fd = -1;
	code = vault_target_find(core, &request->caller, path, &t->at, err);
	if (code < 0)
		return code;
	t->fd = vault_open_path(vault_root_fd(t->at.v), t->at.relative, O_RDONLY | O_DIRECTORY);
	code = t->fd < 0 ? t->fd : vault_dir_read(t->at.v, t->fd, NULL, &t->dir);
	if (code == -EBADMSG)
		base_error_set(err, code, BASE_EXIT_INTEGRITY, "the record of directory %s is missing or damaged; restore it from a backup", path);
	else if (code < 0)
		vault_target_lost(path, code, err);
	if (code < 0)
		vault_dir_target_done(t);
	return code;
}

static json_t *dir_line(struct kms_core *core, const char *path, const struct vault_dir *dir)
{
	char key[KMS_NAME_MAX + 1], key_id[BASE_ID_TEXT], dir_id[BASE_ID_TEXT];

	key_text(core, dir->zone, key);
	return json_pack("{s:s, s:s, s:s, s:s}", "path", path, "key", key, "key_id", base_hex(dir->zone, BASE_ID_SIZE, key_id), "directory_id",
			 base_hex(dir->id, BASE_ID_SIZE, dir_id));
}

int vault_dir_emit(struct kms_core *core, struct kms_request *request, const char *path, const struct vault_dir *dir, struct base_error *err)
{
	return emit(request, dir_line(core, path, dir), err);
}

int vault_dir_show_handler(struct kms_core *core, void *ctx, struct kms_request *request, struct base_error *err)
{
	struct vault_dir_target t;
	int code = vault_dir_target_open(core, request, &t, err);

	if (code < 0)
		return code;
	code = kms_authorize(core, &request->caller, KMS_ACTION_SEE, t.dir.zone, "dir show", err);
	if (code == 0)
		code = vault_dir_emit(core, request, vault_param(request, "path"), &t.dir, err);
	vault_dir_target_done(&t);
	return code;
}
