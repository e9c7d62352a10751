/*
 * Rewrap: every DEK of a vault under the current version of its key (fs/FORMAT.md, "Rewrap"). Only wrap slots are read and written.
 *
 * Files are moved in batches: new slots, one syncfs, the records durable, and only then are the old slots erased. Nothing is remembered between
 * runs: what a killed run left is a file with two used slots, which the next run finishes.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <uthash.h>

#include "base/clock.h"
#include "base/log.h"
#include "config.h"
#include "jobs.h"
#include "live.h"
#include "slots.h"
#include "zone.h"

#define BATCH 256
#define PROGRESS_NS UINT64_C(200000000)
#define RESCANS 3

/* A file whose new slot is written and whose old one is not erased yet. */
struct pending {
	char *backing;
	ino_t ino;
	uint64_t seq;
	bool moved; /* else it was current, and only an old slot is left */
};

/* An inode that failed: once is enough in the counts, however often a scan meets it. */
struct lost {
	ino_t ino;
	nlink_t names;
	UT_hash_handle hh;
};

struct job {
	struct kms_core *core;
	struct kms_request *request;
	const struct kms_caller *caller;
	const uint8_t *key; /* NULL: all */
	struct vault_zone *zone; /* NULL: keys stay, versions change */
	uint64_t total, done, rewrapped, current, failed;
	uint64_t told_ns;
	char reason[256];   /* of the first failure */
	/* of the vault that is worked on */
	struct vault *v;
	struct vault_walk *walk;
	bool again;         /* this scan only looks for what an earlier one missed */
	struct lost *lost;  /* inodes that failed */
	struct lost *linked; /* inodes with several names, and how many of them the walk meets; for a zone */
	bool missed;        /* a file moved away under our hands */
	size_t count;
	struct pending batch[BATCH];
	struct vault_header header; /* scratch */
};

/* One job at a time in this process that writes wrap slots: two would fight over their order. */
static pthread_mutex_t job_lock = PTHREAD_MUTEX_INITIALIZER;

void vault_job_lock(void)
{
	pthread_mutex_lock(&job_lock);
}

void vault_job_unlock(void)
{
	pthread_mutex_unlock(&job_lock);
}

static void fail(struct job *job, const char *where, const char *what, const struct base_error *err, int code)
{
	const char *why = err && err->code ? err->text : code == -EBADMSG ? "the header is damaged" : strerror(-code);

	job->failed++;
	base_log(LOG_ERR, "rewrap: %s%s%s: %s", where, *what ? "/" : "", what, why);
	if (!job->reason[0])
		snprintf(job->reason, sizeof(job->reason), "%.*s", (int)sizeof(job->reason) - 1, why);
}

/* How often this inode was noted, this time included; 1 also without memory. */
static nlink_t note(struct lost **list, ino_t ino)
{
	struct lost *l;

	HASH_FIND(hh, *list, &ino, sizeof(ino), l);
	if (!l && (l = calloc(1, sizeof(*l)))) {
		l->ino = ino;
		HASH_ADD(hh, *list, ino, sizeof(l->ino), l);
	}
	return l ? ++l->names : 1;
}

static void fail_file(struct job *job, const char *backing, ino_t ino, const struct base_error *err, int code)
{
	if (note(&job->lost, ino) != 1)
		return;
	fail(job, job->v->path, backing, err, code);
}

static void forget(struct lost **list)
{
	struct lost *l, *tmp;

	HASH_ITER(hh, *list, l, tmp) {
		HASH_DEL(*list, l);
		free(l);
	}
}

static int tell(struct job *job)
{
	uint64_t now = base_clock_mono_ns();
	json_t *line;

	if (now - job->told_ns < PROGRESS_NS)
		return 0;
	job->told_ns = now;
	line = json_pack("{s:I, s:I}", "progress", (json_int_t)job->done, "total", (json_int_t)(job->total > job->done ? job->total : job->done));
	return line && job->request->emit(job->request->emit_ctx, line) != 0 ? -ECANCELED : 0;
}

static bool is_current(struct job *job, const struct kms_wrap *wrap)
{
	if (job->zone)
		return memcmp(wrap->key_id, job->zone->to, BASE_ID_SIZE) == 0;
	return kms_key_current(job->core, wrap->key_id) == wrap->version;
}

static int enqueue(struct job *job, const struct vault_walk_item *item, bool moved)
{
	struct pending *p = &job->batch[job->count];

	p->backing = strdup(item->backing);
	if (!p->backing)
		return -ENOMEM;
	p->ino = item->st.st_ino;
	p->seq = job->header.wrap_seq;
	p->moved = moved;
	job->count++;
	return 0;
}

/* 0: moved; -EALREADY: current after all. */
static int move(struct job *job, const struct vault_walk_item *item, struct base_error *err)
{
	char clear[PATH_MAX];
	const char *path = vault_walk_clear(job->walk, item, clear, sizeof(clear)) == 0 ? clear : NULL;

	return vault_slots_move(job->v, job->caller, path, item->fd, item->st.st_ino, job->zone ? job->zone->to : NULL, &job->header, err);
}

/* The old slot of one file goes. A file that is no longer where it was is left to the next scan. */
static int erase(struct job *job, const struct pending *p)
{
	int fd = vault_open_file_at(job->v->root_fd, p->backing, O_RDWR), code = fd;

	if (fd >= 0) {
		code = vault_slots_erase(job->v, fd, p->ino, p->seq, &job->header);
		close(fd);
	}
	if (code != -ENOENT && code != -ESTALE)
		return code;
	job->missed = true;
	return 0;
}

static int flush(struct job *job)
{
	int code = 0, each;
	size_t i;

	if (job->count == 0)
		return 0;
	if (syncfs(job->v->root_fd) < 0)
		code = -errno;
	if (code == 0)
		code = kms_audit_barrier(job->core);
	for (i = 0; i < job->count; i++) {
		struct pending *p = &job->batch[i];

		each = code == 0 ? erase(job, p) : code;
		if (each < 0)
			fail_file(job, p->backing, p->ino, NULL, each);
		else if (p->moved)
			job->rewrapped++;
		else if (!job->again)
			job->current++;
		free(p->backing);
	}
	job->count = 0;
	return code;
}

/* A name outside of the zone would hang on the zone's key. */
static bool linked_outside(struct job *job, const struct stat *st)
{
	struct lost *l;

	if (!job->zone || st->st_nlink < 2)
		return false;
	HASH_FIND(hh, job->linked, &st->st_ino, sizeof(st->st_ino), l);
	return !l || l->names < st->st_nlink;
}

static int rewrap_header(struct job *job, const struct vault_walk_item *item)
{
	struct base_error err = { 0 };
	bool moved = false;
	int code = 0;

	if (job->key && memcmp(job->key, job->header.wrap.key_id, BASE_ID_SIZE) != 0)
		return 0;
	if (vault_live_moving(job->v, item->st.st_ino)) { /* a rename may take the new slot back */
		job->missed = true;
		return 0;
	}
	if (!is_current(job, &job->header.wrap) && linked_outside(job, &item->st))
		code = base_error_set(&err, -EXDEV, BASE_EXIT_FAILED, "it has another name outside of the directory: it keeps its key; copy it");
	else if (!is_current(job, &job->header.wrap)) {
		code = move(job, item, &err);
		moved = code == 0;
		if (code == -EAGAIN) { /* somebody else wrote the header: the next scan looks again */
			job->missed = true;
			return 0;
		}
	}
	if (code < 0 && code != -EALREADY) {
		fail_file(job, item->backing, item->st.st_ino, &err, code);
		return 0;
	}
	if (job->header.other_used)
		code = enqueue(job, item, moved);
	else if (!job->again) {
		job->current++;
		code = 0;
	}
	if (code == 0 && job->count == BATCH)
		code = flush(job);
	return code;
}

static int rewrap_file(void *ctx, const struct vault_walk_item *item)
{
	struct job *job = ctx;
	int code;

	if (!job->again)
		job->done++;
	if (item->st.st_size == 0)
		return tell(job);
	code = vault_header_read(item->fd, VAULT_MAGIC_FILE, KMS_PURPOSE_FILE, &job->header);
	if (code == 0)
		code = rewrap_header(job, item);
	else if (code == -EBADMSG && item->kind != VAULT_NAME_ENTRY)
		code = 0;
	else {
		fail_file(job, item->backing, item->st.st_ino, NULL, code);
		code = 0;
	}
	return code < 0 ? code : tell(job);
}

static int rewrap_error(void *ctx, const char *backing, int code)
{
	struct job *job = ctx;

	if (!job->again)
		fail(job, job->v->path, backing, NULL, code);
	return 0;
}

static int count_file(void *ctx, const struct vault_walk_item *item)
{
	struct job *job = ctx;
	struct stat st;

	job->total++;
	if (job->zone && fstatat(item->dirfd, item->name, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_nlink > 1)
		note(&job->linked, st.st_ino);
	return 0;
}

static int count_dir(void *ctx, const struct vault_walk_item *item, const struct vault_dir *record)
{
	const struct job *job = ctx;

	return !job->zone || (record && memcmp(record->zone, job->zone->to, BASE_ID_SIZE) == 0) ? 0 : 1;
}

/* A directory that was made while the records were changed follows now. */
static int rewrap_dir(void *ctx, const struct vault_walk_item *item, const struct vault_dir *record)
{
	struct job *job = ctx;
	int code;

	if (!job->zone)
		return 0;
	code = vault_zone_follow(job->zone, job->walk, item, record);
	if (code >= 0)
		return code;
	if (!job->again)
		fail(job, job->v->path, item->backing, NULL, code);
	return 1;
}

/* One scan. exact: with renames held still. */
static int scan(struct job *job, const char *start, bool exact)
{
	struct vault_walk walk = { .root_fd = job->v->root_fd, .names = job->v, .start = start, .flags = O_RDWR,
				   .file = rewrap_file, .dir = rewrap_dir, .error = rewrap_error, .ctx = job };
	int code, flushed;

	job->walk = &walk;
	job->missed = false;
	if (exact)
		vault_names_wrlock(job->v);
	if (job->zone)
		job->zone->locked = exact;
	code = vault_walk(&walk);
	/* Under the lock as well: the last batch is found by its paths. */
	flushed = flush(job);
	if (exact)
		vault_names_unlock(job->v);
	job->missed |= walk.vanished;
	job->walk = NULL;
	return code < 0 ? code : flushed;
}

/* A scan sees a file twice or never while it is renamed, and not those that are being created under the old key of a zone. So: when there were
 * renames, or for a zone, look again, with renames held still. */
static int rewrap_files(struct job *job, const char *start)
{
	unsigned long renames;
	int code, i;

	vault_names_wrlock(job->v);
	renames = atomic_load(&job->v->renames);
	vault_names_unlock(job->v);
	code = scan(job, start, false);
	for (i = 0; code == 0 && i < RESCANS && (job->missed || job->zone || renames != atomic_load(&job->v->renames)); i++) {
		job->again = true;
		code = scan(job, start, true);
		job->again = false;
		if (!job->missed)
			break;
	}
	if (code == 0 && job->missed)
		fail(job, job->v->path, start, NULL, -EBUSY);
	forget(&job->lost);
	forget(&job->linked);
	return code;
}

static int rewrap_vault(struct job *job, struct vault *v, const char *start)
{
	struct vault_walk counting = { .root_fd = v->root_fd, .names = job->zone ? v : NULL, .start = start, .flags = -1, .file = count_file,
				       .dir = count_dir, .ctx = job };
	struct base_error err = { 0 };
	bool counted;
	int code;

	job->v = v;
	if (!*start && !job->zone) {
		job->total++;
		code = vault_config_rewrap(v, job->caller, job->key, &counted, &err);
		if (code < 0)
			fail(job, v->path, VAULT_CONFIG_NAME, &err, code);
		else if (counted)
			*(code == 1 ? &job->rewrapped : &job->current) += 1;
		job->done++;
	}
	code = vault_walk(&counting);
	if (code == 0)
		code = rewrap_files(job, start);
	if (code < 0 && code != -ECANCELED) {
		fail(job, v->path, start, NULL, code);
		code = 0;
	}
	job->v = NULL;
	return code;
}

static int rewrap_all(struct job *job, struct base_error *err)
{
	struct base_error each = { 0 };
	struct kms_vault *vaults;
	struct vault *v;
	size_t i, count;
	int code = vault_registered(job->core, &vaults, &count, err);

	for (i = 0; code == 0 && i < count; i++) {
		memset(&each, 0, sizeof(each));
		if (vault_get(job->core, job->caller, vaults[i].path, vaults[i].id, &v, &each) < 0) {
			fail(job, vaults[i].path, "", &each, each.code);
			continue;
		}
		code = rewrap_vault(job, v, "");
		vault_put(v);
	}
	free(vaults);
	return code;
}

static int finish(struct job *job, struct base_error *err)
{
	json_t *line = json_pack("{s:I, s:I, s:I}", "rewrapped", (json_int_t)job->rewrapped, "current", (json_int_t)job->current, "failed",
				 (json_int_t)job->failed);

	if (!line)
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "out of memory");
	job->request->emit(job->request->emit_ctx, line);
	if (job->failed == 0)
		return 0;
	return base_error_set(err, -EIO, BASE_EXIT_FAILED, "%llu could not be rewrapped (the first: %s); see the service's log, then run it again",
			      (unsigned long long)job->failed, job->reason);
}

int vault_rewrap_zone(struct vault *v, struct kms_request *request, const char *start, struct vault_zone *zone, struct base_error *err)
{
	struct job *job = calloc(1, sizeof(*job));
	int code;

	if (!job)
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "out of memory");
	job->core = vault_core(v);
	job->request = request;
	job->caller = &request->caller;
	job->zone = zone;
	job->told_ns = base_clock_mono_ns();
	vault_job_lock();
	code = vault_zone_records(zone, start, err);
	if (code == 0)
		code = rewrap_vault(job, v, start);
	vault_job_unlock();
	if (code == -ECANCELED)
		base_error_set(err, code, BASE_EXIT_FAILED, "it was stopped; run it again to go on");
	else if (code == 0)
		code = finish(job, err);
	free(job);
	return code;
}

int vault_rewrap_handler(struct kms_core *core, void *ctx, struct kms_request *request, struct base_error *err)
{
	const char *key = vault_param(request, "key"), *path = vault_param(request, "path");
	struct vault_target *target = malloc(sizeof(*target));
	struct job *job = calloc(1, sizeof(*job));
	uint8_t key_id[BASE_ID_SIZE];
	int code = job && target ? 0 : base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "out of memory");

	if (code == 0 && key && (code = kms_key_find(core, key, key_id)) < 0)
		base_error_set(err, code, BASE_EXIT_NOT_FOUND, "there is no key %s; see `keepctl key list`", key);
	if (code == 0)
		code = kms_authorize(core, &request->caller, KMS_ACTION_ROTATE, key ? key_id : NULL, "rewrap", err);
	if (code == 0) {
		job->core = core;
		job->request = request;
		job->caller = &request->caller;
		job->key = key ? key_id : NULL;
		job->told_ns = base_clock_mono_ns();
		vault_job_lock();
		if (!path) {
			code = rewrap_all(job, err);
		} else if ((code = vault_target_find(core, &request->caller, path, target, err)) == 0) {
			code = rewrap_vault(job, target->v, target->relative);
			vault_put(target->v);
		}
		vault_job_unlock();
		if (code == -ECANCELED)
			base_error_set(err, code, BASE_EXIT_FAILED, "rewrap was stopped; run it again to go on");
		else if (code == 0)
			code = finish(job, err);
	}
	free(target);
	free(job);
	return code;
}
