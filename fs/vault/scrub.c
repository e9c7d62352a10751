/*
 * Scrub: every byte of every file of a vault, a subtree or a file is read and checked (verify.h), with the config and the structure around them.
 * Nothing is changed, but that a file which a crash left is recovered as at any opening.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "config.h"
#include "finding.h"
#include "inodes.h"
#include "verify.h"
#include "walk.h"

#define RESCANS 5

struct scrub {
	struct vault_check c;
	struct vault_walk *walk;
	struct vault_verify verify;
	uint64_t files;
	struct vault_inodes seen;           /* while somebody may rename */
	bool again;                         /* this walk looks for what an earlier one missed */
	uint64_t found;                     /* by this walk */
	/* The file at hand. */
	const struct vault_walk_item *item;
	bool recorded;
	bool has_clear;
	char clear[PATH_MAX];
};

/* One record for each damaged file. What cannot be recorded is told all the same. */
static void record(struct scrub *s, const char *detail)
{
	struct kms_subject subject = { .purpose = KMS_PURPOSE_FILE, .path = s->has_clear ? s->clear : NULL };

	if (s->recorded)
		return;
	s->recorded = true;
	memcpy(subject.vault_id, vault_id(s->c.at.v), BASE_ID_SIZE);
	if (pread(s->item->fd, subject.file_id, BASE_ID_SIZE, 32) != BASE_ID_SIZE)
		memset(subject.file_id, 0, BASE_ID_SIZE);
	if (kms_audit_write(s->c.core, &s->c.request->caller, "integrity", &subject, EIO, detail) != 0)
		base_log(LOG_ERR, "scrub: %s: not recorded: %s", s->item->backing, detail);
}

static int problem(void *ctx, const char *word, const char *detail)
{
	struct scrub *s = ctx;
	struct vault_finding f = { .path = s->has_clear ? s->clear : NULL, .backing = s->item->backing, .problem = word, .detail = detail };

	if (strcmp(word, "unreadable") != 0)
		record(s, detail);
	return vault_check_finding(&s->c, &f);
}

static int progress(void *ctx, uint64_t bytes)
{
	struct scrub *s = ctx;

	s->c.done += bytes;
	return vault_check_tell(&s->c);
}

static int scrub_file(void *ctx, const struct vault_walk_item *item)
{
	struct scrub *s = ctx;
	int known;

	if (item->kind != VAULT_NAME_ENTRY)
		return 0;
	known = vault_inodes_add(&s->seen, item->st.st_ino);
	if (known != 0)
		return known < 0 ? known : 0;
	s->item = item;
	s->recorded = false;
	s->has_clear = vault_walk_clear(s->walk, item, s->clear, sizeof(s->clear)) == 0;
	s->files++;
	s->found++;
	return vault_verify_file(&s->verify, item->fd, &item->st, s->has_clear ? s->clear : NULL);
}

static int unreadable(struct scrub *s, const char *backing, int code)
{
	char detail[256];
	struct vault_finding f = { .backing = backing, .problem = "unreadable", .detail = detail };

	snprintf(detail, sizeof(detail), "cannot read: %s", strerror(-code));
	return vault_check_finding(&s->c, &f);
}

static int walk_error(void *ctx, const char *backing, int code)
{
	struct scrub *s = ctx;

	return s->again ? 0 : unreadable(s, backing, code);
}

static int count_file(void *ctx, const struct vault_walk_item *item)
{
	struct scrub *s = ctx;
	struct stat st;

	if (item->kind == VAULT_NAME_ENTRY && fstatat(item->dirfd, item->name, &st, AT_SYMLINK_NOFOLLOW) == 0)
		s->c.total += (uint64_t)st.st_size;
	return vault_check_tell(&s->c);
}

static int walk(struct scrub *s)
{
	struct vault *v = s->c.at.v;
	struct vault_walk w = { .root_fd = v->root_fd, .names = v, .start = s->c.at.relative, .flags = v->read_only ? O_RDONLY : O_RDWR,
				.file = scrub_file, .error = walk_error, .ctx = s };
	int code;

	s->walk = &w;
	s->found = 0;
	code = vault_walk(&w);
	s->walk = NULL;
	return code;
}

/* A walk misses a file that is renamed from what it has not listed yet to what it has: it looks again until nothing was renamed, or nothing new came. */
static int scrub_files(struct scrub *s)
{
	struct vault *v = s->c.at.v;
	unsigned long renames = atomic_load(&v->renames), now;
	int code;

	s->again = false;
	code = walk(s);
	for (int i = 0; code == 0 && i < RESCANS && (now = atomic_load(&v->renames)) != renames && s->found > 0; i++) {
		renames = now;
		s->again = true;
		code = walk(s);
	}
	return code;
}

static int scrub_all(struct scrub *s)
{
	struct vault_walk counting = { .root_fd = s->c.at.v->root_fd, .start = s->c.at.relative, .flags = -1, .file = count_file, .ctx = s };
	int code = vault_walk(&counting);

	s->verify = (struct vault_verify){ .v = s->c.at.v, .caller = &s->c.request->caller, .problem = problem, .progress = progress, .ctx = s };
	return code == 0 ? scrub_files(s) : code;
}

static int finish(struct scrub *s, struct base_error *err)
{
	return vault_check_finish(&s->c, json_pack("{s:I, s:I, s:I, s:I}", "files", (json_int_t)s->files, "bytes", (json_int_t)s->verify.bytes, "blocks",
						   (json_int_t)s->verify.blocks, "recovered", (json_int_t)s->verify.recovered), err);
}

/* A vault whose config does not open is one finding. */
static int damaged_vault(struct scrub *s, struct base_error *err)
{
	char detail[sizeof(err->text)];
	struct vault_finding f = { .backing = strstr(err->text, VAULT_RECORD_NAME) ? VAULT_RECORD_NAME : VAULT_CONFIG_NAME,
				   .problem = "config-damaged", .detail = detail };
	int code;

	snprintf(detail, sizeof(detail), "%s", err->text);
	memset(err, 0, sizeof(*err));
	code = vault_check_finding(&s->c, &f);
	return code < 0 ? code : finish(s, err);
}

int vault_scrub_handler(struct kms_core *core, void *ctx, struct kms_request *request, struct base_error *err)
{
	struct scrub *s = calloc(1, sizeof(*s));
	int code;

	if (!s)
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "out of memory");
	code = vault_check_begin(core, request, "scrub", KMS_ACTION_UNWRAP, &s->c, err);
	if (code == 0) {
		code = vault_check_open(&s->c, err);
		if (code == -EBADMSG && err->exit == BASE_EXIT_INTEGRITY) {
			code = damaged_vault(s, err);
		} else if (code == 0) {
			code = scrub_all(s);
			if (code == 0)
				code = finish(s, err);
			else
				base_error_set(err, code, BASE_EXIT_FAILED, "scrub was stopped: %s", code == -ECANCELED ? "nobody listens any more" :
					       strerror(-code));
		}
	}
	vault_check_done(&s->c);
	vault_inodes_done(&s->seen);
	free(s);
	return code;
}
