/*
 * The dirty set. A row is inserted in the transaction that records the open for writing, and deleted after what was written
 * is durable, unless the file was opened for writing again: that is decided under the store's lock, which the insertion
 * needs as well, so that an open is either seen by the deletion or inserts its row after it.
 */
#include "dirty.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "store.h"

struct crashed {
	struct crashed *next;
	uint8_t session[BASE_ID_SIZE];
	bool same_boot;
};

struct file {
	uint8_t name[2 * BASE_ID_SIZE]; /* vault id, file id */
	unsigned writers;
	uint64_t opens;          /* how often it was opened for writing: a batch knows by it */
	bool row;                /* this session's row may be in the store */
	bool recovered;          /* rows of crashed sessions may go */
	bool left;               /* this session's last writer could not seal it: it is to be recovered */
	struct crashed *crashed;
	UT_hash_handle hh;
};

struct kms_dirty {
	pthread_mutex_t lock; /* guards files; taken after the store's lock */
	struct file *files;
};

struct member {
	uint8_t name[2 * BASE_ID_SIZE];
	uint64_t opens;
	bool own, crashed; /* which rows are to go */
	bool gone;         /* own row was deleted in the transaction under way */
};

struct kms_dirty_batch {
	size_t count;
	struct member members[];
};

static void
name_set(uint8_t name[2 * BASE_ID_SIZE], const uint8_t *vault_id, const uint8_t *file_id)
{
	memcpy(name, vault_id, BASE_ID_SIZE);
	memcpy(name + BASE_ID_SIZE, file_id, BASE_ID_SIZE);
}

/* The lock is held. */
static struct file *
file_find(struct kms_dirty *dirty, const uint8_t *vault_id, const uint8_t *file_id, bool make)
{
	uint8_t name[2 * BASE_ID_SIZE];
	struct file *file = NULL;

	name_set(name, vault_id, file_id);
	HASH_FIND(hh, dirty->files, name, sizeof(name), file);
	if (!file && make && (file = calloc(1, sizeof(*file)))) {
		memcpy(file->name, name, sizeof(name));
		HASH_ADD(hh, dirty->files, name, sizeof(file->name), file);
	}
	return file;
}

static void
crashed_free(struct file *file)
{
	while (file->crashed) {
		struct crashed *next = file->crashed->next;

		free(file->crashed);
		file->crashed = next;
	}
	file->recovered = false;
}

static void
file_forget_idle(struct kms_dirty *dirty, struct file *file)
{
	if (file->writers || file->row || file->crashed)
		return;
	HASH_DEL(dirty->files, file);
	free(file);
}

/* ---- life -------------------------------------------------------------------------------------------------------------- */

struct loading {
	struct kms_core *core;
	struct kms_dirty *dirty;
};

static int
load_row(void *ctx, const struct kms_dirty_row *row)
{
	struct loading *l = ctx;
	struct file *file = file_find(l->dirty, row->vault_id, row->file_id, true);
	struct crashed *crashed = malloc(sizeof(*crashed));

	if (!file || !crashed) {
		free(crashed);
		return -ENOMEM;
	}
	memcpy(crashed->session, row->session, sizeof(crashed->session));
	crashed->same_boot = !memcmp(row->boot, l->core->boot, sizeof(row->boot));
	crashed->next = file->crashed;
	file->crashed = crashed;
	return 0;
}

int
kms_dirty_new(struct kms_core *core, struct kms_dirty **ret)
{
	struct kms_dirty *dirty = calloc(1, sizeof(*dirty));
	struct loading loading = { core, dirty };
	int rc;

	if (!dirty)
		return -ENOMEM;
	pthread_mutex_init(&dirty->lock, NULL);
	rc = kms_store_dirty(core->store, load_row, &loading);
	if (rc < 0) {
		kms_dirty_free(dirty);
		return rc;
	}
	*ret = dirty;
	return 0;
}

void
kms_dirty_free(struct kms_dirty *dirty)
{
	struct file *file, *next;

	if (!dirty)
		return;
	HASH_ITER(hh, dirty->files, file, next) {
		HASH_DEL(dirty->files, file);
		crashed_free(file);
		free(file);
	}
	pthread_mutex_destroy(&dirty->lock);
	free(dirty);
}

void
kms_dirty_counts(struct kms_core *core, size_t *ret_open, size_t *ret_crashed)
{
	*ret_open = *ret_crashed = 0;
	pthread_mutex_lock(&core->dirty->lock);
	for (struct file *file = core->dirty->files; file; file = file->hh.next) {
		*ret_open += file->writers != 0;
		*ret_crashed += file->crashed != NULL;
	}
	pthread_mutex_unlock(&core->dirty->lock);
}

/* ---- writers ----------------------------------------------------------------------------------------------------------- */

int
kms_dirty_begin(struct kms_core *core, const uint8_t vault_id[BASE_ID_SIZE], const uint8_t file_id[BASE_ID_SIZE])
{
	struct file *file;

	pthread_mutex_lock(&core->dirty->lock);
	file = file_find(core->dirty, vault_id, file_id, true);
	if (file) {
		file->writers++;
		file->opens++;
		file->row = true;
	}
	pthread_mutex_unlock(&core->dirty->lock);
	return file ? 0 : -ENOMEM;
}

void
kms_dirty_close(struct kms_core *core, const uint8_t vault_id[BASE_ID_SIZE], const uint8_t file_id[BASE_ID_SIZE])
{
	struct file *file;

	pthread_mutex_lock(&core->dirty->lock);
	file = file_find(core->dirty, vault_id, file_id, false);
	if (file && file->writers)
		file->writers--;
	pthread_mutex_unlock(&core->dirty->lock);
}

void
kms_dirty_left(struct kms_core *core, const uint8_t vault_id[BASE_ID_SIZE], const uint8_t file_id[BASE_ID_SIZE])
{
	struct file *file;

	pthread_mutex_lock(&core->dirty->lock);
	file = file_find(core->dirty, vault_id, file_id, false);
	if (file && file->writers) {
		file->writers--;
		file->left = true;
	}
	pthread_mutex_unlock(&core->dirty->lock);
}

/* ---- what a crash left -------------------------------------------------------------------------------------------------- */

int
kms_dirty_crashed(struct kms_core *core, const uint8_t vault_id[BASE_ID_SIZE], const uint8_t file_id[BASE_ID_SIZE],
		  const uint8_t *session_id, bool *ret_same_boot)
{
	struct file *file;
	int rc = -ENOENT;

	pthread_mutex_lock(&core->dirty->lock);
	file = file_find(core->dirty, vault_id, file_id, false);
	if (file && file->left && session_id && !memcmp(session_id, core->session, BASE_ID_SIZE)) {
		*ret_same_boot = true;
		rc = 0;
	}
	for (struct crashed *c = file ? file->crashed : NULL; c; c = c->next) {
		if (session_id ? memcmp(c->session, session_id, sizeof(c->session)) != 0 : file->recovered)
			continue;
		/* Of several answers the careful one counts: another boot's writes may be lost in part. */
		*ret_same_boot = rc < 0 ? c->same_boot : *ret_same_boot && c->same_boot;
		rc = 0;
	}
	pthread_mutex_unlock(&core->dirty->lock);
	return rc;
}

void
kms_dirty_recovered(struct kms_core *core, const uint8_t vault_id[BASE_ID_SIZE], const uint8_t file_id[BASE_ID_SIZE])
{
	struct file *file;

	pthread_mutex_lock(&core->dirty->lock);
	file = file_find(core->dirty, vault_id, file_id, false);
	if (file && file->crashed)
		file->recovered = true;
	if (file)
		file->left = false;
	pthread_mutex_unlock(&core->dirty->lock);
}

/* ---- forgetting ----------------------------------------------------------------------------------------------------------- */

/* This session's row is there, and nothing needs it. */
static bool
settled(const struct file *file)
{
	return file->row && !file->writers && !file->left;
}

int
kms_dirty_collect(struct kms_core *core, const uint8_t vault_id[BASE_ID_SIZE], struct kms_dirty_batch **ret)
{
	struct kms_dirty *dirty = core->dirty;
	struct kms_dirty_batch *batch = NULL;
	size_t count = 0;
	int rc = 0;

	*ret = NULL;
	pthread_mutex_lock(&dirty->lock);
	for (struct file *file = dirty->files; file; file = file->hh.next)
		count += !memcmp(file->name, vault_id, BASE_ID_SIZE) && (settled(file) || file->recovered);
	if (count) {
		batch = malloc(sizeof(*batch) + count * sizeof(batch->members[0]));
		rc = batch ? 0 : -ENOMEM;
	}
	if (batch) {
		batch->count = 0;
		for (struct file *file = dirty->files; file; file = file->hh.next) {
			struct member *m = &batch->members[batch->count];

			if (memcmp(file->name, vault_id, BASE_ID_SIZE) || !(settled(file) || file->recovered))
				continue;
			memcpy(m->name, file->name, sizeof(m->name));
			m->opens = file->opens;
			m->own = settled(file);
			m->crashed = file->recovered;
			m->gone = false;
			batch->count++;
		}
	}
	pthread_mutex_unlock(&dirty->lock);
	*ret = batch;
	return rc;
}

/* In the transaction: nobody inserts a row now. */
static int
member_delete(struct kms_core *core, struct member *m)
{
	struct kms_dirty *dirty = core->dirty;
	struct file *file;
	int rc = 0;

	pthread_mutex_lock(&dirty->lock);
	file = file_find(dirty, m->name, m->name + BASE_ID_SIZE, false);
	m->gone = m->own && file && settled(file) && file->opens == m->opens;
	pthread_mutex_unlock(&dirty->lock);
	if (m->gone)
		rc = kms_store_dirty_delete(core->store, m->name, m->name + BASE_ID_SIZE, core->session_row, false);
	if (rc == 0 && m->crashed)
		rc = kms_store_dirty_delete(core->store, m->name, m->name + BASE_ID_SIZE, core->session_row, true);
	return rc;
}

/* The rows are gone and the store is still held; a writer that came meanwhile waits to insert its own. */
static void
member_forget(struct kms_dirty *dirty, const struct member *m)
{
	struct file *file;

	pthread_mutex_lock(&dirty->lock);
	file = file_find(dirty, m->name, m->name + BASE_ID_SIZE, false);
	if (file) {
		if (m->gone && !file->writers && file->opens == m->opens)
			file->row = false;
		if (m->crashed)
			crashed_free(file);
		file_forget_idle(dirty, file);
	}
	pthread_mutex_unlock(&dirty->lock);
}

int
kms_dirty_forget(struct kms_core *core, struct kms_dirty_batch *batch)
{
	int rc;

	if (!batch)
		return 0;
	kms_store_hold(core->store);
	rc = kms_store_begin(core->store, false);
	if (rc == 0) {
		for (size_t i = 0; rc == 0 && i < batch->count; i++)
			rc = member_delete(core, &batch->members[i]);
		if (rc == 0)
			rc = kms_store_commit(core->store);
		else
			kms_store_rollback(core->store);
	}
	for (size_t i = 0; rc == 0 && i < batch->count; i++)
		member_forget(core->dirty, &batch->members[i]);
	kms_store_release(core->store);
	free(batch);
	return rc;
}
