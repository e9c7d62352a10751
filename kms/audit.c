/*
 * Writing records. Callers build theirs in parallel and queue it; the first becomes the leader and commits all that is
 * queued in one transaction, the others sleep until theirs is done. Alone, a caller is its own leader and never sleeps.
 */
#include "audit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "policy.h"

#define BATCH_MAX 256         /* waiting records that wake the flusher */
#define BATCH_NS 100000000    /* how long a record may wait with durability = batch */

struct kms_audit_entry {
	struct kms_audit_entry *next;
	struct kms_field fields[KMS_COLS];
	bool done, dirty, full, heap;
	int rc;
	int (*apply)(void *ctx, struct kms_store *store);
	void *apply_ctx;
	uint8_t key_id[BASE_ID_SIZE], vault_id[BASE_ID_SIZE], file_id[BASE_ID_SIZE];
	uint8_t prev[KMS_HASH_SIZE], hash[KMS_HASH_SIZE];
	char action[32];
	char program[KMS_AUDIT_PROGRAM_MAX];
	char rule[192];
	char reason[KMS_AUDIT_REASON_MAX];
	uint8_t path[KMS_AUDIT_SEALED_MAX];
};

/* ---- building a record ------------------------------------------------------------------------------------------------- */

static void
set_int(struct kms_audit_entry *e, enum kms_audit_column column, int64_t number)
{
	e->fields[column] = (struct kms_field) { .type = KMS_FIELD_INT, .number = number };
}

static void
set_blob(struct kms_audit_entry *e, enum kms_audit_column column, const void *bytes, size_t len)
{
	e->fields[column] = (struct kms_field) { .type = KMS_FIELD_BLOB, .bytes = bytes, .len = len };
}

/* Text that is not there stays NULL. A cut never splits a UTF-8 sequence. */
static void
set_text(struct kms_audit_entry *e, enum kms_audit_column column, char *room, size_t cap, const char *text)
{
	size_t len = text ? strnlen(text, cap) : 0;

	if (!len)
		return;
	if (len == cap)
		for (len = cap - 1; len && ((unsigned char) text[len] & 0xc0) == 0x80;)
			len--;
	memmove(room, text, len);
	room[len] = 0;
	e->fields[column] = (struct kms_field) { .type = KMS_FIELD_TEXT, .bytes = room, .len = len };
}

/* The program's path, or its short name where /proc shows no more. */
static void
set_program(struct kms_audit_entry *e, pid_t pid)
{
	char path[40];
	ssize_t len = -1;

	if (pid <= 0)
		return;
	snprintf(path, sizeof(path), "/proc/%d/exe", (int) pid);
	len = readlink(path, e->program, sizeof(e->program) - 1);
	if (len < 0) {
		int fd;

		snprintf(path, sizeof(path), "/proc/%d/comm", (int) pid);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd >= 0) {
			len = read(fd, e->program, sizeof(e->program) - 1);
			close(fd);
		}
		if (len > 0 && e->program[len - 1] == '\n')
			len--;
	}
	if (len > 0) {
		e->program[len] = 0;
		set_text(e, KMS_COL_PROGRAM, e->program, sizeof(e->program), e->program);
	}
}

static int
set_subject(struct kms_core *core, struct kms_audit_entry *e, const struct kms_subject *subject)
{
	const struct kms_audit_key *key = atomic_load(&core->audit->key);
	int len;

	memcpy(e->vault_id, subject->vault_id, sizeof(e->vault_id));
	set_blob(e, KMS_COL_VAULT, e->vault_id, sizeof(e->vault_id));
	if (!base_is_zero(subject->file_id, sizeof(subject->file_id))) {
		memcpy(e->file_id, subject->file_id, sizeof(e->file_id));
		set_blob(e, KMS_COL_FILE, e->file_id, sizeof(e->file_id));
	}
	if (!subject->path || !*subject->path || !key)
		return 0;
	len = kms_audit_path_seal(key, subject->path, e->path);
	if (len < 0)
		return len;
	set_blob(e, KMS_COL_PATH, e->path, (size_t) len);
	return 0;
}

static int
entry_fill(struct kms_core *core, struct kms_audit_entry *e, const struct kms_event *event)
{
	e->next = NULL;
	e->done = e->heap = false;
	e->rc = 0;
	memset(e->fields, 0, sizeof(e->fields));
	e->dirty = event->dirty;
	e->full = event->full;
	e->apply = event->apply;
	e->apply_ctx = event->apply_ctx;
	set_blob(e, KMS_COL_BOOT, core->boot, sizeof(core->boot));
	set_blob(e, KMS_COL_SESSION, core->session, sizeof(core->session));
	set_int(e, KMS_COL_UID, event->caller->uid);
	set_int(e, KMS_COL_GID, event->caller->gid);
	set_int(e, KMS_COL_PID, event->caller->pid);
	set_program(e, event->caller->pid);
	set_int(e, KMS_COL_VIA, event->caller->via);
	set_text(e, KMS_COL_ACTION, e->action, sizeof(e->action), event->action);
	if (event->key_id) {
		memcpy(e->key_id, event->key_id, sizeof(e->key_id));
		set_blob(e, KMS_COL_KEY, e->key_id, sizeof(e->key_id));
	}
	if (event->version)
		set_int(e, KMS_COL_VERSION, event->version);
	set_text(e, KMS_COL_RULE, e->rule, sizeof(e->rule), event->rule);
	set_int(e, KMS_COL_OUTCOME, event->outcome);
	set_int(e, KMS_COL_ERRNO, event->errnum);
	set_text(e, KMS_COL_REASON, e->reason, sizeof(e->reason), event->reason);
	return event->subject ? set_subject(core, e, event->subject) : 0;
}

/* ---- committing -------------------------------------------------------------------------------------------------------- */

/* In the transaction: the record gets its place in the chain. */
static int
chain(struct kms_core *core, struct kms_audit_entry *e, struct kms_audit_head *head)
{
	int rc = e->apply ? e->apply(e->apply_ctx, core->store) : 0;

	if (rc == 0 && e->dirty)
		rc = kms_store_dirty_insert(core->store, e->vault_id, e->file_id, core->session_row);
	if (rc < 0)
		return rc;
	set_int(e, KMS_COL_SEQ, (int64_t) head->seq + 1);
	set_int(e, KMS_COL_TIME, (int64_t) base_clock_real_ns());
	set_int(e, KMS_COL_MONO, (int64_t) base_clock_mono_ns());
	memcpy(e->prev, head->hash, sizeof(e->prev));
	set_blob(e, KMS_COL_PREV, e->prev, sizeof(e->prev));
	rc = kms_audit_hash(e->fields, e->hash);
	if (rc < 0)
		return rc;
	set_blob(e, KMS_COL_HASH, e->hash, sizeof(e->hash));
	rc = kms_store_audit_insert(core->store, e->fields);
	if (rc < 0)
		return rc == -EEXIST ? -EIO : rc;
	head->seq++;
	head->count++;
	memcpy(head->hash, e->hash, sizeof(head->hash));
	return 0;
}

/* The store is held. */
static int
commit_held(struct kms_core *core, struct kms_audit_entry *first, struct kms_audit_entry *end, bool full)
{
	struct kms_audit *audit = core->audit;
	const struct kms_audit_key *key = atomic_load(&audit->key);
	struct kms_audit_head head = audit->head;
	int rc = kms_store_begin(core->store, full);

	if (rc < 0)
		return rc;
	for (struct kms_audit_entry *e = first; rc == 0 && e != end; e = e->next)
		rc = chain(core, e, &head);
	if (rc == 0 && key) {
		rc = kms_audit_head_mac(key, &head, head.mac);
		if (rc == 0)
			rc = kms_store_audit_head_put(core->store, &head);
	}
	if (rc < 0) {
		kms_store_rollback(core->store);
		return rc;
	}
	rc = kms_store_commit(core->store);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&audit->head_lock);
	audit->head = head;
	pthread_mutex_unlock(&audit->head_lock);
	return 0;
}

/* Commits a list; when that fails, one by one, so that a record takes only its own failure. */
static void
commit_list(struct kms_core *core, struct kms_audit_entry *first)
{
	bool full = core->conf.durability == KMS_DURABILITY_FSYNC;
	int rc;

	for (struct kms_audit_entry *e = first; e; e = e->next)
		full |= e->full;
	kms_store_hold(core->store);
	rc = commit_held(core, first, NULL, full);
	for (struct kms_audit_entry *e = first; e; e = e->next)
		e->rc = rc < 0 && first->next ? commit_held(core, e, e->next, full) : rc;
	kms_store_release(core->store);
}

/* ---- the queue ----------------------------------------------------------------------------------------------------------- */

/* queue is held: marks a committed list as done; what lives on the heap is freed, and its failure remembered. */
static void
finish_list(struct kms_audit *audit, struct kms_audit_entry *first)
{
	bool worked = false;
	int lost = 0;

	while (first) {
		struct kms_audit_entry *e = first;

		first = e->next;
		if (e->rc < 0 && e->heap)
			lost = e->rc;
		worked |= e->rc == 0;
		if (e->heap)
			free(e);
		else
			e->done = true;
	}
	if (lost) {
		base_log(LOG_ERR, "audit: records were lost (%s); nothing is released until records can be written again", strerror(-lost));
		audit->failed = lost;
	} else if (worked) {
		audit->failed = 0;
	}
}

/* queue is held, and nobody leads: commit what is queued now. */
static void
lead(struct kms_core *core)
{
	struct kms_audit *audit = core->audit;
	struct kms_audit_entry *first = audit->first;

	audit->leading = true;
	audit->first = audit->last = NULL;
	audit->waiting = 0;
	pthread_mutex_unlock(&audit->queue);
	if (first)
		commit_list(core, first);
	pthread_mutex_lock(&audit->queue);
	finish_list(audit, first);
	audit->leading = false;
	pthread_cond_broadcast(&audit->changed);
}

static void
enqueue(struct kms_audit *audit, struct kms_audit_entry *e)
{
	if (audit->last)
		audit->last->next = e;
	else
		audit->first = e;
	audit->last = e;
	audit->waiting++;
}

static int
event_now(struct kms_core *core, struct kms_audit_entry *e)
{
	struct kms_audit *audit = core->audit;

	pthread_mutex_lock(&audit->queue);
	enqueue(audit, e);
	while (!e->done) {
		if (audit->leading)
			pthread_cond_wait(&audit->changed, &audit->queue);
		else
			lead(core);
	}
	pthread_mutex_unlock(&audit->queue);
	return e->rc;
}

/* 1: records were lost before, and nothing is accepted unseen. */
static int
event_later(struct kms_core *core, const struct kms_event *event)
{
	struct kms_audit *audit = core->audit;
	struct kms_audit_entry *e = malloc(sizeof(*e));
	int rc = e ? entry_fill(core, e, event) : -ENOMEM;

	if (rc < 0) {
		free(e);
		return rc;
	}
	e->heap = true;
	pthread_mutex_lock(&audit->queue);
	rc = audit->failed ? 1 : 0;
	if (rc == 0) {
		enqueue(audit, e);
		if (audit->waiting == BATCH_MAX)
			pthread_cond_broadcast(&audit->changed);
	}
	pthread_mutex_unlock(&audit->queue);
	if (rc)
		free(e);
	return rc;
}

int
kms_audit_event(struct kms_core *core, const struct kms_event *event)
{
	struct kms_audit_entry e;
	int rc;

	if (core->audit->flusher_runs && !event->dirty && !event->full && !event->apply) {
		rc = event_later(core, event);
		if (rc <= 0)
			return rc;
		/* This one shows whether records can be written again. */
	}
	rc = entry_fill(core, &e, event);
	if (rc == 0)
		rc = event_now(core, &e);
	if (rc < 0 && !event->apply)
		base_log(LOG_ERR, "audit: a record could not be written (%s): the action was refused", strerror(-rc));
	return rc;
}

int
kms_audit_drain(struct kms_core *core)
{
	struct kms_audit *audit = core->audit;
	int rc;

	pthread_mutex_lock(&audit->queue);
	while (audit->first || audit->leading) {
		if (audit->leading)
			pthread_cond_wait(&audit->changed, &audit->queue);
		else
			lead(core);
	}
	rc = audit->failed;
	pthread_mutex_unlock(&audit->queue);
	return rc;
}

static void *
flusher(void *ctx)
{
	struct kms_core *core = ctx;
	struct kms_audit *audit = core->audit;

	pthread_mutex_lock(&audit->queue);
	while (!audit->stop) {
		struct timespec until;

		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += BATCH_NS;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		while (!audit->stop && audit->waiting < BATCH_MAX)
			if (pthread_cond_timedwait(&audit->changed, &audit->queue, &until) == ETIMEDOUT)
				break;
		if (audit->first && !audit->leading)
			lead(core);
	}
	pthread_mutex_unlock(&audit->queue);
	return NULL;
}

/* ---- life ------------------------------------------------------------------------------------------------------------------ */

int
kms_audit_start(struct kms_core *core, struct base_error *err)
{
	int rc;

	if (core->conf.durability != KMS_DURABILITY_BATCH)
		return 0;
	rc = pthread_create(&core->audit->flusher, NULL, flusher, core);
	if (rc)
		return base_error_set(err, -rc, BASE_EXIT_FAILED, "no thread for the audit trail: %s", strerror(rc));
	core->audit->flusher_runs = true;
	return 0;
}

void
kms_audit_free(struct kms_core *core)
{
	struct kms_audit *audit = core->audit;

	if (!audit)
		return;
	if (audit->flusher_runs) {
		pthread_mutex_lock(&audit->queue);
		audit->stop = true;
		pthread_cond_broadcast(&audit->changed);
		pthread_mutex_unlock(&audit->queue);
		pthread_join(audit->flusher, NULL);
	}
	kms_audit_drain(core);
	kms_audit_key_free(atomic_load(&audit->key));
	pthread_mutex_destroy(&audit->queue);
	pthread_mutex_destroy(&audit->head_lock);
	pthread_mutex_destroy(&audit->key_lock);
	pthread_cond_destroy(&audit->changed);
	free(audit);
	core->audit = NULL;
}

void
kms_audit_position(struct kms_core *core, uint64_t *ret_seq, uint8_t ret_hash[KMS_HASH_SIZE])
{
	pthread_mutex_lock(&core->audit->head_lock);
	*ret_seq = core->audit->head.seq;
	memcpy(ret_hash, core->audit->head.hash, KMS_HASH_SIZE);
	pthread_mutex_unlock(&core->audit->head_lock);
}

/* ---- what other rooms call -------------------------------------------------------------------------------------------------- */

int
kms_audit_write(struct kms_core *core, const struct kms_caller *caller, const char *action, const struct kms_subject *subject,
		int outcome_errno, const char *reason)
{
	int errnum = outcome_errno < 0 ? -outcome_errno : outcome_errno;

	return kms_audit_event(core, &(struct kms_event) {
		.caller = caller, .action = action, .subject = subject, .reason = reason, .errnum = errnum,
		.outcome = !errnum ? KMS_OUTCOME_ALLOWED : errnum == EACCES ? KMS_OUTCOME_DENIED : KMS_OUTCOME_FAILED });
}

int
kms_audit_barrier(struct kms_core *core)
{
	int rc = kms_audit_drain(core);

	return rc < 0 ? rc : kms_store_sync(core->store);
}

int
kms_authorize(struct kms_core *core, const struct kms_caller *caller, enum kms_action action, const uint8_t *key_id,
	      const char *what, struct base_error *err)
{
	char rule[KMS_RULE_MAX];

	if (kms_policy_check(core->policy, caller, action, key_id, rule) == KMS_ALLOW_ALL)
		return 0;
	kms_audit_event(core, &(struct kms_event) { .caller = caller, .action = what, .key_id = key_id, .rule = rule,
						    .outcome = KMS_OUTCOME_DENIED, .errnum = EACCES });
	return kms_policy_refuse(caller, action, what, rule, err);
}
