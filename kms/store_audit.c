/*
 * Rows of the audit trail and its head. Records go in and come out as typed columns, so that what is hashed at writing and
 * at verifying is exactly what the table holds.
 */
#include "store_sql.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

#define COLUMNS "seq, time_ns, mono_ns, boot_id, session_id, uid, gid, pid, program, via, action, key_id, key_version, vault_id, " \
		"file_id, path, rule, outcome, errno, reason, prev_hash, hash"

static void
bind_field(sqlite3_stmt *stmt, int at, const struct kms_field *field)
{
	switch (field->type) {
	case KMS_FIELD_NULL: sqlite3_bind_null(stmt, at); break;
	case KMS_FIELD_INT: sqlite3_bind_int64(stmt, at, field->number); break;
	case KMS_FIELD_TEXT: sqlite3_bind_text(stmt, at, field->bytes, (int) field->len, SQLITE_STATIC); break;
	case KMS_FIELD_BLOB: sqlite3_bind_blob(stmt, at, field->bytes, (int) field->len, SQLITE_STATIC); break;
	}
}

int
kms_store_audit_insert(struct kms_store *s, const struct kms_field fields[KMS_COLS])
{
	sqlite3_stmt *stmt;
	int rc = kms_store_stmt(s, KMS_STMT_AUDIT_INSERT, "INSERT INTO audit(" COLUMNS ") VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, "
				"?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22)", &stmt);

	if (rc < 0)
		return rc;
	for (int i = 0; i < KMS_COLS; i++)
		bind_field(stmt, i + 1, &fields[i]);
	return kms_store_run(s, stmt);
}

static int
head_read(sqlite3_stmt *stmt, struct kms_audit_head *ret)
{
	ret->seq = (uint64_t) sqlite3_column_int64(stmt, 0);
	ret->count = (uint64_t) sqlite3_column_int64(stmt, 1);
	if (kms_store_column_bytes(stmt, 2, ret->hash, sizeof(ret->hash)) < 0 ||
	    kms_store_column_bytes(stmt, 3, ret->mac, sizeof(ret->mac)) < 0)
		return -EBADMSG;
	return 0;
}

int
kms_store_audit_head_get(struct kms_store *s, struct kms_audit_head *ret)
{
	sqlite3_stmt *stmt;
	int rc;

	pthread_mutex_lock(&s->lock);
	rc = kms_store_stmt(s, KMS_STMT_HEAD_GET, "SELECT seq, count, hash, mac FROM audit_head WHERE one = 1", &stmt);
	if (rc == 0) {
		rc = sqlite3_step(stmt);
		rc = rc == SQLITE_ROW ? head_read(stmt, ret) : rc == SQLITE_DONE ? -ENOENT : kms_store_errno(rc);
		sqlite3_reset(stmt);
	}
	pthread_mutex_unlock(&s->lock);
	return rc;
}

int
kms_store_audit_head_put(struct kms_store *s, const struct kms_audit_head *head)
{
	sqlite3_stmt *stmt;
	int rc = kms_store_stmt(s, KMS_STMT_HEAD_PUT, "INSERT OR REPLACE INTO audit_head VALUES(1, ?1, ?2, ?3, ?4)", &stmt);

	if (rc < 0)
		return rc;
	sqlite3_bind_int64(stmt, 1, (sqlite3_int64) head->seq);
	sqlite3_bind_int64(stmt, 2, (sqlite3_int64) head->count);
	sqlite3_bind_blob(stmt, 3, head->hash, sizeof(head->hash), SQLITE_STATIC);
	sqlite3_bind_blob(stmt, 4, head->mac, sizeof(head->mac), SQLITE_STATIC);
	return kms_store_run(s, stmt);
}

int
kms_store_audit_last(struct kms_store *s, uint64_t *ret_seq, uint8_t ret_hash[KMS_HASH_SIZE])
{
	sqlite3_stmt *stmt;
	int rc;

	pthread_mutex_lock(&s->lock);
	rc = kms_store_stmt(s, KMS_STMT_AUDIT_LAST, "SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1", &stmt);
	if (rc == 0) {
		rc = sqlite3_step(stmt);
		if (rc == SQLITE_ROW) {
			*ret_seq = (uint64_t) sqlite3_column_int64(stmt, 0);
			rc = kms_store_column_bytes(stmt, 1, ret_hash, KMS_HASH_SIZE);
		} else {
			rc = rc == SQLITE_DONE ? -ENOENT : kms_store_errno(rc);
		}
		sqlite3_reset(stmt);
	}
	pthread_mutex_unlock(&s->lock);
	return rc;
}

/* ---- scans --------------------------------------------------------------------------------------------------------- */

static void
read_field(sqlite3_stmt *stmt, int at, struct kms_field *field)
{
	memset(field, 0, sizeof(*field));
	switch (sqlite3_column_type(stmt, at)) {
	case SQLITE_INTEGER:
		field->type = KMS_FIELD_INT;
		field->number = sqlite3_column_int64(stmt, at);
		break;
	case SQLITE_TEXT:
		field->type = KMS_FIELD_TEXT;
		field->bytes = sqlite3_column_text(stmt, at);
		field->len = (size_t) sqlite3_column_bytes(stmt, at);
		break;
	case SQLITE_BLOB:
	case SQLITE_FLOAT:
		field->type = KMS_FIELD_BLOB;
		field->bytes = sqlite3_column_blob(stmt, at);
		field->len = (size_t) sqlite3_column_bytes(stmt, at);
		if (!field->bytes)
			field->bytes = "";
		break;
	default:
		field->type = KMS_FIELD_NULL;
	}
}

/*
 * A chunk of rows, copied out so that the caller's function runs without the lock. Records are only ever added, so what is
 * read in chunks up to a fixed last record is one state of the trail.
 */
#define CHUNK 128  /* rows copied */
#define VISIT 2048 /* rows looked at */

struct row {
	struct kms_field fields[KMS_COLS];
	uint8_t *bytes;
};

struct chunk {
	size_t count;
	struct row rows[CHUNK];
};

static int
row_copy(sqlite3_stmt *stmt, struct row *row)
{
	size_t size = 1;
	uint8_t *at;

	for (int i = 0; i < KMS_COLS; i++) {
		read_field(stmt, i, &row->fields[i]);
		size += row->fields[i].len;
	}
	at = row->bytes = malloc(size);
	if (!at)
		return -ENOMEM;
	for (int i = 0; i < KMS_COLS; i++) {
		struct kms_field *f = &row->fields[i];

		if (f->type != KMS_FIELD_TEXT && f->type != KMS_FIELD_BLOB)
			continue;
		memcpy(at, f->bytes, f->len);
		f->bytes = at;
		at += f->len;
	}
	return 0;
}

static bool
same_id(sqlite3_stmt *stmt, int column, const uint8_t *id)
{
	return !id || (sqlite3_column_bytes(stmt, column) == BASE_ID_SIZE && !memcmp(sqlite3_column_blob(stmt, column), id, BASE_ID_SIZE));
}

static bool
selected(sqlite3_stmt *stmt, const struct kms_audit_query *q)
{
	int64_t time = sqlite3_column_int64(stmt, KMS_COL_TIME);
	const char *action;

	if ((q->since_ns && time < (int64_t) q->since_ns) || (q->until_ns && time >= (int64_t) q->until_ns) ||
	    (q->uid >= 0 && sqlite3_column_int64(stmt, KMS_COL_UID) != q->uid) ||
	    (q->outcome >= 0 && sqlite3_column_int(stmt, KMS_COL_OUTCOME) != q->outcome))
		return false;
	if (!same_id(stmt, KMS_COL_KEY, q->key_id) || !same_id(stmt, KMS_COL_FILE, q->file_id))
		return false;
	action = q->action ? (const char *) sqlite3_column_text(stmt, KMS_COL_ACTION) : NULL;
	return !q->action || (action && !strcmp(action, q->action));
}

/* The lock is held, for no more than VISIT rows. *after moves on. */
static int
chunk_read(struct kms_store *s, const struct kms_audit_query *q, int64_t *after, int64_t last, struct chunk *chunk)
{
	sqlite3_stmt *stmt;
	int rc = kms_store_stmt(s, KMS_STMT_AUDIT_SCAN, "SELECT " COLUMNS " FROM audit WHERE seq > ?1 AND seq <= ?2 ORDER BY seq", &stmt);

	if (rc < 0)
		return rc;
	sqlite3_bind_int64(stmt, 1, *after);
	sqlite3_bind_int64(stmt, 2, last);
	for (int visited = 0; rc == 0 && visited < VISIT && chunk->count < CHUNK; visited++) {
		int step = sqlite3_step(stmt);

		if (step != SQLITE_ROW) {
			rc = kms_store_errno(step);
			*after = last;
			break;
		}
		*after = sqlite3_column_int64(stmt, KMS_COL_SEQ);
		if (selected(stmt, q))
			rc = row_copy(stmt, &chunk->rows[chunk->count++]);
	}
	sqlite3_reset(stmt);
	return rc;
}

static int
scan_last(struct kms_store *s, int64_t *ret_last)
{
	sqlite3_stmt *stmt;
	int rc = kms_store_stmt(s, KMS_STMT_AUDIT_MAX, "SELECT max(seq) FROM audit", &stmt);

	if (rc < 0)
		return rc;
	rc = sqlite3_step(stmt);
	*ret_last = sqlite3_column_type(stmt, 0) == SQLITE_NULL ? INT64_MIN : sqlite3_column_int64(stmt, 0);
	sqlite3_reset(stmt);
	return kms_store_errno(rc);
}

static int
scan_begin(struct kms_store *s, int (*head)(void *ctx, const struct kms_audit_head *head), void *ctx, int64_t *ret_last)
{
	struct kms_audit_head value = { 0 };
	int rc;

	pthread_mutex_lock(&s->lock);
	rc = scan_last(s, ret_last);
	if (rc == 0 && head) {
		rc = kms_store_audit_head_get(s, &value);
		/* A row that has lost its form counts as a wrong seal, which the caller knows how to report. */
		if (rc == -EBADMSG)
			memset(value.mac, 0, sizeof(value.mac));
		if (rc == 0 || rc == -ENOENT || rc == -EBADMSG)
			rc = head(ctx, rc == -ENOENT ? NULL : &value);
	}
	pthread_mutex_unlock(&s->lock);
	return rc;
}

int
kms_store_audit_scan(struct kms_store *s, const struct kms_audit_query *query,
		     int (*head)(void *ctx, const struct kms_audit_head *head),
		     int (*fn)(void *ctx, const struct kms_field fields[KMS_COLS]), void *ctx)
{
	static const struct kms_audit_query all = { .uid = -1, .outcome = -1 };
	struct chunk *chunk = malloc(sizeof(*chunk));
	int64_t after, last = INT64_MIN;
	int rc = chunk ? scan_begin(s, head, ctx, &last) : -ENOMEM;

	after = query ? (int64_t) query->from_seq : INT64_MIN;
	while (rc == 0 && after < last) {
		chunk->count = 0;
		pthread_mutex_lock(&s->lock);
		rc = chunk_read(s, query ? query : &all, &after, last, chunk);
		pthread_mutex_unlock(&s->lock);
		for (size_t i = 0; i < chunk->count; i++) {
			if (rc == 0)
				rc = fn(ctx, chunk->rows[i].fields);
			free(chunk->rows[i].bytes);
		}
	}
	free(chunk);
	return rc;
}
