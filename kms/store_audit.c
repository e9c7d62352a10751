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

static int
scan_head(sqlite3 *db, int (*head)(void *ctx, const struct kms_audit_head *head), void *ctx)
{
	struct kms_audit_head value;
	sqlite3_stmt *stmt = NULL;
	int rc = sqlite3_prepare_v2(db, "SELECT seq, count, hash, mac FROM audit_head WHERE one = 1", -1, &stmt, NULL);

	if (rc == SQLITE_OK)
		rc = sqlite3_step(stmt);
	if (rc == SQLITE_ROW) {
		rc = head_read(stmt, &value);
		/* A row that has lost its form counts as a wrong seal, which the caller knows how to report. */
		if (rc < 0)
			memset(&value.mac, 0, sizeof(value.mac));
		rc = head(ctx, &value);
	} else {
		rc = rc == SQLITE_DONE ? head(ctx, NULL) : kms_store_errno(rc);
	}
	sqlite3_finalize(stmt);
	return rc;
}

static int
scan_prepare(sqlite3 *db, const struct kms_audit_query *q, sqlite3_stmt **ret)
{
	static const struct kms_audit_query all = { .uid = -1, .outcome = -1 };
	int rc = sqlite3_prepare_v2(db, "SELECT " COLUMNS " FROM audit WHERE seq > ?1 AND (?2 = 0 OR time_ns >= ?2) AND "
				    "(?3 = 0 OR time_ns < ?3) AND (?4 < 0 OR uid = ?4) AND (?5 < 0 OR outcome = ?5) AND "
				    "(?6 IS NULL OR action = ?6) AND (?7 IS NULL OR key_id = ?7) AND (?8 IS NULL OR file_id = ?8) "
				    "ORDER BY seq", -1, ret, NULL);

	if (rc != SQLITE_OK)
		return kms_store_errno(rc);
	if (!q)
		q = &all;
	sqlite3_bind_int64(*ret, 1, q == &all ? INT64_MIN : (sqlite3_int64) q->from_seq);
	sqlite3_bind_int64(*ret, 2, (sqlite3_int64) q->since_ns);
	sqlite3_bind_int64(*ret, 3, (sqlite3_int64) q->until_ns);
	sqlite3_bind_int64(*ret, 4, q->uid);
	sqlite3_bind_int(*ret, 5, q->outcome);
	sqlite3_bind_text(*ret, 6, q->action, -1, SQLITE_STATIC);
	sqlite3_bind_blob(*ret, 7, q->key_id, q->key_id ? BASE_ID_SIZE : 0, SQLITE_STATIC);
	sqlite3_bind_blob(*ret, 8, q->file_id, q->file_id ? BASE_ID_SIZE : 0, SQLITE_STATIC);
	return 0;
}

static int
scan_rows(sqlite3_stmt *stmt, int (*fn)(void *ctx, const struct kms_field fields[KMS_COLS]), void *ctx)
{
	struct kms_field fields[KMS_COLS];

	for (;;) {
		int rc = sqlite3_step(stmt);

		if (rc != SQLITE_ROW)
			return kms_store_errno(rc);
		for (int i = 0; i < KMS_COLS; i++)
			read_field(stmt, i, &fields[i]);
		rc = fn(ctx, fields);
		if (rc)
			return rc;
	}
}

int
kms_store_audit_scan(struct kms_store *s, const struct kms_audit_query *query,
		     int (*head)(void *ctx, const struct kms_audit_head *head),
		     int (*fn)(void *ctx, const struct kms_field fields[KMS_COLS]), void *ctx)
{
	sqlite3_stmt *stmt = NULL;
	sqlite3 *db = NULL;
	int rc = sqlite3_open_v2(s->path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE, NULL);

	/* Reads only, but opened for writing, because the log's shared index is; it must never checkpoint beside the writer. */
	if (rc == SQLITE_OK)
		rc = sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_exec(db, "PRAGMA query_only = ON; BEGIN", NULL, NULL, NULL);
	rc = kms_store_errno(rc);
	if (rc == 0 && head)
		rc = scan_head(db, head, ctx);
	if (rc == 0)
		rc = scan_prepare(db, query, &stmt);
	if (rc == 0)
		rc = scan_rows(stmt, fn, ctx);
	if (rc < 0 && db && sqlite3_errcode(db) != SQLITE_OK && sqlite3_errcode(db) < SQLITE_ROW)
		base_log(LOG_ERR, "keystore.db: reading the audit trail: %s", sqlite3_errmsg(db));
	sqlite3_finalize(stmt);
	sqlite3_close(db);
	return rc;
}
