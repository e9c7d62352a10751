/* fsck: the structure of a vault, checked from the backing directory (fs/FORMAT.md). The run and its walk. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config.h"
#include "fsck.h"
#include "walk.h"

void vault_fsck_init(struct fsck *j, struct base_error *err)
{
	memset(j, 0, sizeof(*j));
	j->found_end = &j->found;
	j->fd = -1;
	j->err = err;
}

int vault_fsck_push(struct fsck *j, const char *backing, const char *clear, const uint8_t *parent)
{
	struct fsck_dir *d = calloc(1, sizeof(*d) + strlen(backing) + 1);

	if (!d)
		return -ENOMEM;
	strcpy(d->backing, backing);
	d->clear = clear ? strdup(clear) : NULL;
	d->has_parent = parent != NULL;
	if (parent)
		memcpy(d->parent, parent, BASE_ID_SIZE);
	d->next = j->waiting;
	j->waiting = d;
	return clear && !d->clear ? -ENOMEM : 0;
}

static void dir_free(struct fsck_dir *d)
{
	free(d->clear);
	free(d);
}

static int unlisted(struct fsck *j, int errnum)
{
	return vault_fsck_found(j, &(struct fsck_name){ 0 }, "unreadable", "cannot be listed: %s; %s", strerror(errnum),
				errnum == EACCES ? "chmod u+rwx it, or run fsck as root" : "look at the disk") ? 0 : -ENOMEM;
}

static int list(struct fsck *j)
{
	int fd = openat(j->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), code = 0;
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *e;

	if (!dir) {
		code = -errno;
		if (fd >= 0)
			close(fd);
		return code == -ENOMEM || code == -EMFILE || code == -ENFILE ? code : unlisted(j, -code);
	}
	while (code == 0 && (errno = 0, e = readdir(dir))) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 || (j->only && strcmp(j->only, e->d_name) != 0))
			continue;
		code = vault_fsck_entry(j, e->d_name);
		if (code == 0)
			code = vault_fsck_flush(j);
		if (code == 0)
			code = vault_check_tell(&j->check);
	}
	if (code == 0 && errno)
		code = unlisted(j, errno);
	closedir(dir);
	if (code == 0)
		code = vault_fsck_suspects(j);
	return code;
}

/* What cannot be opened is a finding; what went, or what was put in its place, is none. */
static int visit(struct fsck *j, struct fsck_dir *d)
{
	int code;

	j->dir = d;
	j->known = false;
	j->fd = vault_open_path(vault_root_fd(j->check.at.v), d->backing, O_RDONLY | O_DIRECTORY);
	if (j->fd == -ENOENT || j->fd == -ENOTDIR || j->fd == -ESTALE || j->fd == -ELOOP)
		return 0;
	if (j->fd < 0) {
		code = vault_fsck_found(j, &(struct fsck_name){ 0 }, "unreadable", "cannot be opened: %s; %s", strerror(-j->fd),
					j->fd == -EACCES ? "chmod u+rwx it, or run fsck as root" : "look at the disk") ? 0 : -ENOMEM;
		return code == 0 ? vault_fsck_flush(j) : code;
	}
	code = vault_fsck_record(j);
	if (code == 0)
		code = list(j);
	else if (code == -ENOENT)
		code = 0;
	close(j->fd);
	j->fd = -1;
	return code == 0 ? vault_fsck_flush(j) : code;
}

/* Records above the start are read, not judged: its own problems are asked for. */
static int begin(struct fsck *j)
{
	struct vault *v = j->check.at.v;
	char *relative = j->check.at.relative, *slash = strrchr(relative, '/'), clear[PATH_MAX];
	struct vault_dir above;
	struct stat st;
	int fd, code;
	bool known;

	if (!*relative)
		return vault_fsck_push(j, "", "/", NULL);
	if (slash)
		*slash = '\0';
	fd = vault_open_path(vault_root_fd(v), slash ? relative : "", O_RDONLY | O_DIRECTORY);
	if (slash)
		*slash = '/';
	if (fd < 0)
		return fd;
	known = vault_dir_read(v, fd, NULL, &above) == 0;
	code = fstatat(fd, slash ? slash + 1 : relative, &st, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
	close(fd);
	if (code < 0)
		return code;
	if (S_ISDIR(st.st_mode))
		return vault_fsck_push(j, relative, vault_clear(v, relative, clear, sizeof(clear)) == 0 ? clear : NULL, known ? above.id : NULL);
	j->only = slash ? slash + 1 : relative;
	if (slash)
		*slash = '\0';
	return vault_fsck_push(j, slash ? relative : "", vault_clear(v, slash ? relative : "", clear, sizeof(clear)) == 0 ? clear : NULL, NULL);
}

int vault_fsck_walk(struct fsck *j)
{
	struct fsck_linked *linked, *tmp;
	struct fsck_dir *d;
	int code = begin(j);

	while ((d = j->waiting)) {
		j->waiting = d->next;
		if (code == 0)
			code = visit(j, d);
		dir_free(d);
	}
	HASH_ITER(hh, j->linked, linked, tmp) {
		HASH_DEL(j->linked, linked);
		free(linked);
	}
	return code;
}

static int count(void *ctx, const struct vault_walk_item *item)
{
	((struct fsck *)ctx)->check.total++;
	return 0;
}

static int config_finding(struct fsck *j, const char *problem, const char *detail, enum vault_finding_action action)
{
	const struct vault_finding f = { .backing = VAULT_CONFIG_NAME, .problem = problem, .detail = detail, .action = action };

	return vault_check_finding(&j->check, &f);
}

static int check_config(struct fsck *j)
{
	struct base_error err = { 0 };
	bool leftover;
	int code = vault_config_check(j->check.at.v, &j->check.request->caller, &leftover, &err);

	if (code == -EBADMSG)
		return config_finding(j, "config-damaged", err.text, VAULT_FINDING_NONE);
	if (code < 0) {
		*j->err = err;
		return code;
	}
	if (!leftover)
		return 0;
	if (!j->repair)
		return config_finding(j, "config-slot", "a rewrap left the old wrapped key; --repair erases it", VAULT_FINDING_NONE);
	code = vault_check_audit(&j->check, NULL, NULL, "the config's old wrap slot is erased");
	if (code == 0)
		code = vault_config_erase(j->check.at.v);
	if (code < 0)
		return base_error_set(j->err, code, BASE_EXIT_FAILED, "cannot erase the old wrap of the config: %s", strerror(-code));
	return config_finding(j, "config-slot", "a rewrap left the old wrapped key", VAULT_FINDING_REPAIRED);
}

/* The rows of recovered files may go once what was recovered is durable. */
static void settle(struct fsck *j)
{
	struct kms_dirty_batch *batch = NULL;

	if (j->check.repaired + j->check.adopted == 0)
		return;
	if (kms_dirty_collect(j->check.core, vault_id(j->check.at.v), &batch) < 0)
		return;
	if (batch && syncfs(vault_root_fd(j->check.at.v)) == 0)
		kms_dirty_forget(j->check.core, batch);
	else
		free(batch);
}

static int run(struct fsck *j)
{
	struct vault_walk counting = { .root_fd = vault_root_fd(j->check.at.v), .start = j->check.at.relative, .flags = -1, .file = count, .ctx = j };
	int code = vault_walk(&counting);

	if (code == 0 && !*j->check.at.relative)
		code = check_config(j);
	if (code == 0)
		code = vault_fsck_walk(j);
	settle(j);
	return code;
}

static int finish(struct fsck *j)
{
	return vault_check_finish(&j->check, json_pack("{s:I, s:I, s:I, s:I, s:I}", "files", (json_int_t)j->files, "directories", (json_int_t)j->directories,
						       "links", (json_int_t)j->links, "others", (json_int_t)j->others, "recoverable",
						       (json_int_t)j->recoverable), j->err);
}

static int open_and_run(struct fsck *j)
{
	int code = vault_check_open(&j->check, j->err);

	if (code < 0 && j->check.refused)
		return config_finding(j, "config-damaged", j->err->text, VAULT_FINDING_NONE) < 0 ? -ECANCELED : finish(j);
	/* Recovery changes sizes, which a kernel that has the file mounted never takes back. */
	if (code == 0 && j->adopt && vault_shared(j->check.at.v))
		code = base_error_set(j->err, -EBUSY, BASE_EXIT_FAILED, "%s is mounted; unmount it to adopt copies in it", vault_path(j->check.at.v));
	if (code < 0)
		return code;
	code = run(j);
	if (code == 0)
		return finish(j);
	if (code == -ECANCELED)
		base_error_set(j->err, code, BASE_EXIT_FAILED, "fsck was stopped");
	else if (!j->err->code)
		base_error_set(j->err, code, BASE_EXIT_FAILED, "fsck of %s: %s", vault_path(j->check.at.v), strerror(-code));
	return code;
}

int vault_fsck_handler(struct kms_core *core, void *ctx, struct kms_request *request, struct base_error *err)
{
	struct fsck *j = calloc(1, sizeof(*j));
	int code;

	if (!j)
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "out of memory");
	vault_fsck_init(j, err);
	j->repair = vault_check_flag(request, "repair");
	j->adopt = vault_check_flag(request, "adopt");
	code = vault_check_begin(core, request, "fsck",
				 j->repair || j->adopt || vault_param(request, "quarantine") ? KMS_ACTION_MANAGE : KMS_ACTION_UNWRAP, &j->check, err);
	if (code == 0) {
		vault_job_lock();
		code = open_and_run(j);
		vault_check_done(&j->check);
		vault_job_unlock();
	}
	free(j);
	return code;
}
