/*
 * Scrub: the structure of a vault as fsck sees it, and every byte of every file in it (verify.h). Nothing is changed, but that a file which a crash
 * left is recovered as at any opening.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "config.h"
#include "fsck.h"
#include "inodes.h"
#include "verify.h"
#include "walk.h"

#define RESCANS 5

struct scrub {
	struct fsck fsck;                   /* first: its callback gets it */
	struct vault_verify verify;
	uint64_t files;
	struct vault_inodes seen;
	uint64_t found;                     /* by this walk */
	/* The file at hand. */
	int fd;
	const char *path, *backing;
	bool recorded;
};

/* One record for each damaged file. What cannot be recorded is told all the same. */
static void record(struct scrub *s, const char *detail)
{
	struct vault_check *c = &s->fsck.check;
	struct kms_subject subject = { .purpose = KMS_PURPOSE_FILE, .path = s->path };

	if (s->recorded)
		return;
	s->recorded = true;
	memcpy(subject.vault_id, vault_id(c->at.v), BASE_ID_SIZE);
	if (pread(s->fd, subject.file_id, BASE_ID_SIZE, 32) != BASE_ID_SIZE)
		memset(subject.file_id, 0, BASE_ID_SIZE);
	if (kms_audit_write(c->core, &c->request->caller, "integrity", &subject, EIO, detail) != 0)
		base_log(LOG_ERR, "scrub: %s: not recorded: %s", s->backing, detail);
}

static int problem(void *ctx, const char *word, const char *detail)
{
	struct scrub *s = ctx;
	struct vault_finding f = { .path = s->path, .backing = s->backing, .problem = word, .detail = detail };

	if (strcmp(word, "unreadable") != 0 && strcmp(word, "denied") != 0)
		record(s, detail);
	return vault_check_finding(&s->fsck.check, &f);
}

static int progress(void *ctx, uint64_t bytes)
{
	struct scrub *s = ctx;

	s->fsck.check.done += bytes;
	return vault_check_tell(&s->fsck.check);
}

static int scrub_file(struct scrub *s, int fd, const struct stat *st, const char *path, const char *backing)
{
	int known = vault_inodes_add(&s->seen, st->st_ino);

	if (known != 0)
		return known < 0 ? known : 0;
	s->fd = fd;
	s->path = path;
	s->backing = backing;
	s->recorded = false;
	s->files++;
	s->found++;
	return vault_verify_file(&s->verify, fd, st, path);
}

static int content(struct fsck *j, int fd, const struct stat *st, const struct fsck_name *name)
{
	char *path = vault_fsck_path(j, name), *backing = vault_fsck_backing(j, name);
	int code = backing ? scrub_file((struct scrub *)j, fd, st, path, backing) : -ENOMEM;

	free(path);
	free(backing);
	return code;
}

/* ---- what was renamed meanwhile ---- */

struct again {
	struct scrub *s;
	struct vault_walk walk;
};

static int again_file(void *ctx, const struct vault_walk_item *item)
{
	struct again *a = ctx;
	char clear[PATH_MAX];

	if (item->kind != VAULT_NAME_ENTRY)
		return 0;
	return scrub_file(a->s, item->fd, &item->st, vault_walk_clear(&a->walk, item, clear, sizeof(clear)) == 0 ? clear : NULL, item->backing);
}

/* The first walk misses a file that is renamed from what it has not listed yet to what it has: look until nothing is renamed, or nothing new comes. */
static int rescan(struct scrub *s, unsigned long renames)
{
	struct vault *v = s->fsck.check.at.v;
	unsigned long now;
	int code = 0;

	for (int i = 0; code == 0 && i < RESCANS && (now = atomic_load(&v->renames)) != renames && s->found > 0; i++) {
		struct again a = { .s = s };

		a.walk = (struct vault_walk){ .root_fd = v->root_fd, .names = v, .start = s->fsck.check.at.relative,
					      .flags = v->read_only ? O_RDONLY : O_RDWR, .file = again_file, .ctx = &a };
		renames = now;
		s->found = 0;
		code = vault_walk(&a.walk);
	}
	return code;
}

/* ---- the config ---- */

static int config_finding(struct scrub *s, const char *word, const char *detail)
{
	struct vault_finding f = { .backing = VAULT_CONFIG_NAME, .problem = word, .detail = detail };

	return vault_check_finding(&s->fsck.check, &f);
}

static int scrub_config(struct scrub *s)
{
	struct vault *v = s->fsck.check.at.v;
	uint8_t page[VAULT_PAGE];
	struct base_error err = { .code = 0 };
	char text[400] = "", detail[512];
	bool leftover;
	struct stat st;
	int code;

	pthread_mutex_lock(&v->config);
	code = fstat(v->config_fd, &st) < 0 || pread(v->config_fd, page, sizeof(page), 0) < 0 ? -errno : 0;
	pthread_mutex_unlock(&v->config);
	if (code < 0)
		return config_finding(s, "unreadable", strerror(-code));
	if (st.st_size != VAULT_PAGE)
		snprintf(text, sizeof(text), "it has %jd bytes instead of %d", (intmax_t)st.st_size, VAULT_PAGE);
	else
		vault_verify_page(page, VAULT_MAGIC_CONFIG, KMS_PURPOSE_VAULT, v->id, text, sizeof(text));
	if (*text) {
		snprintf(detail, sizeof(detail), "the config: %s; bring it back from a backup", text);
		return config_finding(s, "config-damaged", detail);
	}
	code = vault_config_check(v, &s->fsck.check.request->caller, &leftover, &err);
	if (code < 0)
		return config_finding(s, code == -EBADMSG ? "config-damaged" : "unreadable", err.text);
	return 0;
}

/* ---- a run ---- */

static int count_file(void *ctx, const struct vault_walk_item *item)
{
	struct vault_check *c = ctx;
	struct stat st;

	if (item->kind == VAULT_NAME_ENTRY && fstatat(item->dirfd, item->name, &st, AT_SYMLINK_NOFOLLOW) == 0)
		c->total += (uint64_t)st.st_size;
	return vault_check_tell(c);
}

static int run(struct scrub *s)
{
	struct vault_check *c = &s->fsck.check;
	struct vault_walk counting = { .root_fd = vault_root_fd(c->at.v), .start = c->at.relative, .flags = -1, .file = count_file, .ctx = c };
	unsigned long renames = atomic_load(&c->at.v->renames);
	int code = vault_walk(&counting);

	s->verify = (struct vault_verify){ .v = c->at.v, .caller = &c->request->caller, .problem = problem, .progress = progress, .ctx = s };
	s->fsck.content = content;
	if (code == 0 && !*c->at.relative)
		code = scrub_config(s);
	if (code == 0)
		code = vault_fsck_walk(&s->fsck);
	return code == 0 ? rescan(s, renames) : code;
}

static int finish(struct scrub *s)
{
	return vault_check_finish(&s->fsck.check, json_pack("{s:I, s:I, s:I, s:I}", "files", (json_int_t)s->files, "bytes", (json_int_t)s->verify.bytes,
							    "blocks", (json_int_t)s->verify.blocks, "recovered", (json_int_t)s->verify.recovered),
				  s->fsck.err);
}

/* A vault that does not open is one finding: its root record's, which the text names then, or its config's. */
static int refused(struct scrub *s, const char *why)
{
	struct vault_finding f = { .backing = "", .problem = "record-damaged", .detail = why };

	return strstr(why, VAULT_RECORD_NAME) ? vault_check_finding(&s->fsck.check, &f) : config_finding(s, "config-damaged", why);
}

static int open_and_run(struct scrub *s)
{
	struct base_error *err = s->fsck.err;
	int code = vault_check_open(&s->fsck.check, err);

	if (code < 0 && s->fsck.check.refused) {
		code = refused(s, err->text);
		memset(err, 0, sizeof(*err));
		return code < 0 ? code : finish(s);
	}
	if (code < 0)
		return code;
	code = run(s);
	if (code == 0)
		return finish(s);
	if (!err->code)
		base_error_set(err, code, BASE_EXIT_FAILED, "scrub of %s: %s", vault_path(s->fsck.check.at.v),
			       code == -ECANCELED ? "nobody listens any more" : strerror(-code));
	return code;
}

int vault_scrub_handler(struct kms_core *core, void *ctx, struct kms_request *request, struct base_error *err)
{
	struct scrub *s = calloc(1, sizeof(*s));
	int code;

	if (!s)
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "out of memory");
	vault_fsck_init(&s->fsck, err);
	code = vault_check_begin(core, request, "scrub", KMS_ACTION_UNWRAP, &s->fsck.check, err);
	if (code == 0) {
		code = open_and_run(s);
		vault_check_done(&s->fsck.check);
	}
	vault_inodes_done(&s->seen);
	free(s);
	return code;
}
