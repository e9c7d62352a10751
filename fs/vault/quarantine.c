/*
 * Quarantine: the ciphertext of what is damaged goes aside, as it is, and a log says where it was. Nothing is deleted; putting an object back
 * is one mv.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "mkdir.h"
#include "quarantine.h"

#define LOG_NAME "quarantine.jsonl"
#define NUMBER_LEN 7 /* "000001-" */
#define NUMBER_MAX 999999

struct vault_quarantine {
	char path[PATH_MAX];
	int fd, log_fd;
	bool made, used;
	unsigned next;
};

static int refuse(int code, enum base_exit code_exit, const char *path, const char *why, struct base_error *err)
{
	return base_error_set(err, code, code_exit, "%s cannot be the quarantine: %s", path, why);
}

/* The directory that path is, or will be made in, is neither in a vault nor in a mount. */
static int check_outside(const char *path, struct base_error *err)
{
	char parent[PATH_MAX], backing[PATH_MAX];
	struct base_error found = { 0 };
	size_t len = strlen(path), root_len;
	char *slash;

	if (path[0] != '/' || len >= sizeof(parent))
		return refuse(-EINVAL, BASE_EXIT_USAGE, path, "an absolute path is needed", err);
	memcpy(parent, path, len + 1);
	while (len > 1 && parent[len - 1] == '/')
		parent[--len] = '\0';
	if (vault_target_backing(parent, backing, &root_len, &found) == 0)
		return refuse(-EINVAL, BASE_EXIT_USAGE, path, "it lies in a vault; name a directory outside of it on the same filesystem", err);
	slash = strrchr(parent, '/');
	slash[slash == parent] = '\0';
	if (vault_target_backing(parent, backing, &root_len, &found) == 0)
		return refuse(-EINVAL, BASE_EXIT_USAGE, path, "it lies in a vault; name a directory outside of it on the same filesystem", err);
	return 0;
}

static int check_directory(const struct vault_check *c, const struct vault_quarantine *q, const char *path, struct base_error *err)
{
	struct stat st, vault;

	if (fstat(q->fd, &st) < 0 || fstat(vault_root_fd(c->at.v), &vault) < 0)
		return refuse(-errno, BASE_EXIT_FAILED, path, strerror(errno), err);
	if (st.st_uid != geteuid() || (st.st_mode & 077))
		return refuse(-EACCES, BASE_EXIT_FAILED, path, "others have rights on it; chmod it to 0700, or name a new directory", err);
	if (st.st_dev != vault.st_dev)
		return refuse(-EXDEV, BASE_EXIT_FAILED, path, "it is on another filesystem than the vault; name a directory beside the vault", err);
	return 0;
}

static int open_directory(const struct vault_check *c, struct vault_quarantine *q, const char *path, struct base_error *err)
{
	int code;

	q->made = mkdir(path, 0700) == 0;
	if (!q->made && errno != EEXIST)
		return refuse(-errno, BASE_EXIT_FAILED, path, strerror(errno), err);
	q->fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (q->fd < 0 || !realpath(path, q->path))
		return refuse(-errno, BASE_EXIT_FAILED, path, strerror(errno), err);
	code = check_directory(c, q, path, err);
	if (code < 0)
		return code;
	q->log_fd = openat(q->fd, LOG_NAME, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (q->log_fd < 0)
		return refuse(-errno, BASE_EXIT_FAILED, path, strerror(errno), err);
	return 0;
}

int vault_quarantine_open(struct vault_check *c, const char *path, struct vault_quarantine **ret, struct base_error *err)
{
	struct vault_quarantine *q;
	int code;

	*ret = NULL;
	/* It is made and filled with this process's rights. */
	if (c->request->caller.uid != geteuid() && c->request->caller.uid != 0)
		return base_error_set(err, -EACCES, BASE_EXIT_DENIED, "only who runs the service may name a quarantine");
	code = check_outside(path, err);
	if (code < 0)
		return code;
	q = calloc(1, sizeof(*q));
	if (!q)
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "out of memory");
	q->fd = q->log_fd = -1;
	q->next = 1;
	code = open_directory(c, q, path, err);
	if (code < 0) {
		vault_quarantine_close(q);
		return code;
	}
	*ret = q;
	return 0;
}

void vault_quarantine_close(struct vault_quarantine *q)
{
	struct stat st;

	if (!q)
		return;
	if (q->log_fd >= 0) {
		/* An empty log of ours tells nobody anything. */
		if (!q->used && fstat(q->log_fd, &st) == 0 && st.st_size == 0)
			unlinkat(q->fd, LOG_NAME, 0);
		close(q->log_fd);
	}
	if (q->fd >= 0)
		close(q->fd);
	if (q->made && !q->used)
		rmdir(q->path);
	free(q);
}

static int log_line(struct vault_check *c, const struct vault_finding *f, const char *object)
{
	json_t *line = vault_finding_json(f);
	char at[BASE_CLOCK_TEXT], id[BASE_ID_TEXT], *text = NULL;
	int code = -ENOMEM;
	size_t len;

	if (line) {
		json_object_del(line, "action");
		json_object_set_new(line, "object", json_string(object));
		json_object_set_new(line, "vault", json_string(vault_path(c->at.v)));
		json_object_set_new(line, "vault_id", json_string(base_hex(vault_id(c->at.v), BASE_ID_SIZE, id)));
		json_object_set_new(line, "time", json_string(base_clock_format(base_clock_real_ns(), at)));
		text = json_dumps(line, JSON_COMPACT);
	}
	if (text) {
		len = strlen(text);
		text[len] = '\n';
		errno = EIO;
		code = write(c->quarantine->log_fd, text, len + 1) == (ssize_t)len + 1 && fdatasync(c->quarantine->log_fd) == 0 ? 0 : -errno;
	}
	free(text);
	json_decref(line);
	return code;
}

/* The first free number and as much of the name as fits behind it. */
static int free_name(struct vault_quarantine *q, const char *name, char ret[NAME_MAX + 1])
{
	struct stat st;

	for (; q->next <= NUMBER_MAX; q->next++) {
		snprintf(ret, NAME_MAX + 1, "%06u-%.*s", q->next, NAME_MAX - NUMBER_LEN, name);
		if (fstatat(q->fd, ret, &st, AT_SYMLINK_NOFOLLOW) < 0)
			return errno == ENOENT ? 0 : -errno;
	}
	return -ENOSPC;
}

static int move(struct vault_check *c, int dirfd, const char *name, const struct vault_finding *f)
{
	struct vault_quarantine *q = c->quarantine;
	char object[NAME_MAX + 1];
	int code = free_name(q, name, object);

	if (code == 0)
		code = log_line(c, f, object);
	if (code < 0)
		return code;
	q->used = true;
	code = vault_rename_new(dirfd, name, q->fd, object);
	q->next++;
	return code;
}

/* A long name's side record goes along, so that the object can be put back. */
static int move_side(struct vault_check *c, int dirfd, const char *name, const struct vault_finding *f)
{
	struct vault_finding side = *f;
	char side_name[NAME_MAX + 1], *backing;
	size_t len = strlen(f->backing);
	struct stat st;
	int code;

	if (strncmp(name, "L.", 2) != 0)
		return 0;
	snprintf(side_name, sizeof(side_name), "N.%s", name + 2);
	if (fstatat(dirfd, side_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : -errno;
	backing = strdup(f->backing);
	if (!backing)
		return -ENOMEM;
	backing[len - strlen(name)] = 'N';
	side.backing = backing;
	side.detail = "the side record of the long name of the object before";
	code = move(c, dirfd, side_name, &side);
	free(backing);
	return code;
}

int vault_check_quarantine(struct vault_check *c, int dirfd, const struct vault_finding *f, struct base_error *err)
{
	const char *slash = strrchr(f->backing, '/'), *name = slash ? slash + 1 : f->backing;
	char reason[160];
	int code;

	snprintf(reason, sizeof(reason), "quarantine: %s", f->problem);
	code = vault_check_audit(c, NULL, f->path, reason);
	if (code == 0)
		code = kms_audit_barrier(c->core);
	if (code == 0)
		code = move(c, dirfd, name, f);
	if (code == 0)
		code = move_side(c, dirfd, name, f);
	if (code < 0)
		return base_error_set(err, code, BASE_EXIT_FAILED, "cannot move %s to the quarantine %s: %s", f->backing, c->quarantine->path,
				      strerror(-code));
	return 0;
}
