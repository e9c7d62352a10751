/*
 * Directories and their keys: dir set-key, alone and with --rewrap.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "object.h"
#include "target.h"
#include "zone.h"

/* Recorded, written, and known to the mount. */
static int change(struct vault_zone *z, const char *clear, int fd, struct vault_dir *dir)
{
	struct kms_subject subject = { .purpose = KMS_PURPOSE_FILE, .path = clear };
	char from[KMS_NAME_MAX + 1], to[KMS_NAME_MAX + 1], reason[2 * 64 + 32];
	struct kms_core *core = vault_core(z->v);
	int code;

	if (kms_key_name(core, dir->zone, from) < 0)
		base_hex(dir->zone, BASE_ID_SIZE, from);
	if (kms_key_name(core, z->to, to) < 0)
		base_hex(z->to, BASE_ID_SIZE, to);
	snprintf(reason, sizeof(reason), "from key %.60s to key %.60s", from, to);
	memcpy(subject.vault_id, vault_id(z->v), BASE_ID_SIZE);
	memcpy(subject.file_id, dir->id, BASE_ID_SIZE);
	code = kms_audit_write(core, z->caller, "dir-set-key", &subject, 0, reason);
	if (code < 0)
		return code;
	memcpy(dir->zone, z->to, BASE_ID_SIZE);
	code = vault_dir_write(z->v, fd, dir, true);
	if (code < 0)
		return code;
	vault_zone_changed(z->v, dir->id, z->to);
	z->changed++;
	return 0;
}

int vault_zone_follow(struct vault_zone *z, const struct vault_walk *walk, const struct vault_walk_item *item, const struct vault_dir *record)
{
	char clear[PATH_MAX];
	struct vault_dir dir;
	int code;

	if (!record)
		return -EBADMSG;
	if (memcmp(record->zone, z->to, BASE_ID_SIZE) == 0)
		return 0;
	if (memcmp(record->zone, z->from, BASE_ID_SIZE) != 0)
		return 1;
	if (strcmp(item->backing, z->top) == 0)
		return 0;
	if (!z->locked)
		vault_names_wrlock(z->v);
	code = vault_dir_read(z->v, item->fd, NULL, &dir); /* a rename or another set-key can have written it since */
	if (code == 0 && memcmp(dir.zone, z->from, BASE_ID_SIZE) != 0)
		code = memcmp(dir.zone, z->to, BASE_ID_SIZE) != 0;
	else if (code == 0)
		code = change(z, vault_walk_clear(walk, item, clear, sizeof(clear)) == 0 ? clear : NULL, item->fd, &dir);
	if (!z->locked)
		vault_names_unlock(z->v);
	return code;
}

struct records {
	struct vault_zone *zone;
	const struct vault_walk *walk;
	char failed[256]; /* what stopped it */
};

static int record_dir(void *ctx, const struct vault_walk_item *item, const struct vault_dir *record)
{
	struct records *r = ctx;
	int code = vault_zone_follow(r->zone, r->walk, item, record);

	if (code < 0)
		snprintf(r->failed, sizeof(r->failed), "%s", item->backing);
	return code;
}

static int record_error(void *ctx, const char *backing, int code)
{
	struct records *r = ctx;

	snprintf(r->failed, sizeof(r->failed), "%s", backing);
	return code;
}

static int no_file(void *ctx, const struct vault_walk_item *item)
{
	return 0;
}

/* The directory itself, after all below it are durable. */
static int record_top(struct vault_zone *z, const char *start)
{
	struct vault_dir dir;
	char clear[PATH_MAX];
	int fd = vault_open_path(z->v->root_fd, start, O_RDONLY | O_DIRECTORY), code;

	if (fd < 0)
		return fd;
	code = vault_dir_read(z->v, fd, NULL, &dir);
	if (code == 0 && memcmp(dir.zone, z->to, BASE_ID_SIZE) != 0) {
		if (z->changed && syncfs(z->v->root_fd) < 0)
			code = -errno;
		if (code == 0)
			code = change(z, vault_clear(z->v, start, clear, sizeof(clear)) == 0 ? clear : NULL, fd, &dir);
	}
	close(fd);
	return code;
}

int vault_zone_records(struct vault_zone *z, const char *start, struct base_error *err)
{
	struct records r = { .zone = z };
	struct vault_walk walk = { .root_fd = z->v->root_fd, .names = z->v, .start = start, .flags = -1, .file = no_file, .dir = record_dir,
				   .error = record_error, .ctx = &r };
	int code;

	r.walk = &walk;
	z->top = start;
	vault_names_wrlock(z->v);
	z->locked = true;
	code = vault_walk(&walk);
	if (code == 0)
		code = record_top(z, start);
	z->locked = false;
	vault_names_unlock(z->v);
	if (code == 0)
		return 0;
	return base_error_set(err, code, code == -EBADMSG ? BASE_EXIT_INTEGRITY : BASE_EXIT_FAILED,
			      "the record of directory %s/%s %s; nothing was rewrapped: mend it, then run this again", vault_path(z->v), r.failed,
			      code == -EBADMSG ? "is missing or damaged" : strerror(-code));
}

/* Who may write in the directory's eyes: its owner, root, and whoever runs the service. */
static int check_owner(const struct kms_request *request, int fd, const char *path, struct base_error *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return vault_target_lost(path, -errno, err);
	if (request->caller.uid == 0 || request->caller.uid == geteuid() || request->caller.uid == st.st_uid)
		return 0;
	return base_error_set(err, -EACCES, BASE_EXIT_DENIED, "only the owner of %s may set its key", path);
}

static int set_empty(struct vault_zone *z, struct vault_dir_target *t, const char *path, struct base_error *err)
{
	char clear[PATH_MAX];
	int code;

	vault_names_wrlock(z->v); /* nothing is moved into it meanwhile */
	code = vault_dir_empty(t->fd);
	if (code == 0)
		code = vault_dir_read(z->v, t->fd, NULL, &t->dir);
	if (code == 0)
		code = change(z, vault_clear(z->v, t->at.relative, clear, sizeof(clear)) == 0 ? clear : NULL, t->fd, &t->dir);
	vault_names_unlock(z->v);
	if (code == -ENOTEMPTY)
		return base_error_set(err, code, BASE_EXIT_FAILED,
				      "%s is not empty: its files would stay under their old key; add --rewrap to take them along", path);
	if (code < 0)
		return base_error_set(err, code, BASE_EXIT_FAILED, "the key of %s could not be set: %s", path, strerror(-code));
	return 0;
}

static int set_key(struct kms_core *core, struct kms_request *request, struct vault_dir_target *t, const char *path, const char *name,
		   struct base_error *err)
{
	struct vault_zone z = { .v = t->at.v, .caller = &request->caller };
	bool rewrap = json_is_true(json_object_get(request->params, "rewrap"));
	int code = kms_key_find(core, name, z.to);

	if (code < 0)
		return base_error_set(err, code, BASE_EXIT_NOT_FOUND, "there is no key %s; make it with `keepctl key create %s`", name, name);
	memcpy(z.from, t->dir.zone, BASE_ID_SIZE);
	if ((code = check_owner(request, t->fd, path, err)) < 0 ||
	    (code = kms_authorize(core, &request->caller, KMS_ACTION_WRAP, z.to, "dir set-key", err)) < 0)
		return code;
	if (!rewrap) {
		code = set_empty(&z, t, path, err);
		return code < 0 ? code : vault_dir_emit(core, request, path, &t->dir, err);
	}
	code = kms_authorize(core, &request->caller, KMS_ACTION_UNWRAP, z.from, "dir set-key", err);
	return code < 0 ? code : vault_rewrap_zone(z.v, request, t->at.relative, &z, err);
}

int vault_dir_key_handler(struct kms_core *core, void *ctx, struct kms_request *request, struct base_error *err)
{
	const char *key = vault_param(request, "key");
	struct vault_dir_target t;
	int code;

	if (!key)
		return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "which key? `keepctl dir set-key DIR NAME`");
	code = vault_dir_target_open(core, request, &t, err);
	if (code < 0)
		return code;
	code = set_key(core, request, &t, vault_param(request, "path"), key, err);
	vault_dir_target_done(&t);
	return code;
}
