/*
 * The database file: opening and checking it, its pragmas and migrations, transactions, and making commits durable.
 */
#include "store_sql.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"

/* migrations[n] leads from version n to n + 1. */
static const char *const migrations[] = { kms_store_schema, kms_store_schema_2 };
#define SCHEMA_VERSION ((int) (sizeof(migrations) / sizeof(migrations[0])))

#define CHECKPOINT_PAGES 16000 /* of write-ahead log, 16 MiB: a checkpoint costs its syncs every ten thousand records or so */

int
kms_store_errno(int rc)
{
	switch (rc & 0xff) {
	case SQLITE_OK: case SQLITE_ROW: case SQLITE_DONE: return 0;
	case SQLITE_FULL: return -ENOSPC;
	case SQLITE_NOTADB: case SQLITE_CORRUPT: case SQLITE_MISMATCH: return -EBADMSG;
	case SQLITE_CONSTRAINT: return -EEXIST;
	case SQLITE_BUSY: case SQLITE_LOCKED: return -EBUSY;
	case SQLITE_NOMEM: return -ENOMEM;
	default: return -EIO;
	}
}

int
kms_store_stmt(struct kms_store *s, enum kms_stmt id, const char *sql, sqlite3_stmt **ret)
{
	if (!s->stmts[id]) {
		int rc = sqlite3_prepare_v3(s->db, sql, -1, SQLITE_PREPARE_PERSISTENT, &s->stmts[id], NULL);

		if (rc != SQLITE_OK) {
			base_log(LOG_ERR, "keystore.db: %s", sqlite3_errmsg(s->db));
			return kms_store_errno(rc);
		}
	} else {
		sqlite3_reset(s->stmts[id]);
	}
	*ret = s->stmts[id];
	return 0;
}

int
kms_store_run(struct kms_store *s, sqlite3_stmt *stmt)
{
	int rc = sqlite3_step(stmt);
	int result = kms_store_errno(rc);

	if (result < 0 && result != -EEXIST)
		base_log(LOG_ERR, "keystore.db: %s", sqlite3_errmsg(s->db));
	sqlite3_reset(stmt);
	return result;
}

int
kms_store_each(struct kms_store *s, enum kms_stmt id, const char *sql, int (*row)(void *ctx, sqlite3_stmt *stmt), void *ctx)
{
	sqlite3_stmt *stmt = NULL;
	int rc;

	pthread_mutex_lock(&s->lock);
	rc = kms_store_stmt(s, id, sql, &stmt);
	while (rc == 0) {
		int step = sqlite3_step(stmt);

		if (step != SQLITE_ROW) {
			rc = kms_store_errno(step);
			break;
		}
		rc = row(ctx, stmt);
	}
	if (stmt)
		sqlite3_reset(stmt);
	pthread_mutex_unlock(&s->lock);
	return rc;
}

int
kms_store_column_bytes(sqlite3_stmt *stmt, int column, void *ret, size_t len)
{
	const void *bytes = sqlite3_column_blob(stmt, column);

	if (!bytes || (size_t) sqlite3_column_bytes(stmt, column) != len)
		return -EBADMSG;
	memcpy(ret, bytes, len);
	return 0;
}

int
kms_store_column_text(sqlite3_stmt *stmt, int column, char *ret, size_t cap)
{
	const char *text = (const char *) sqlite3_column_text(stmt, column);

	if (!text)
		text = "";
	if (strlen(text) >= cap)
		return -EBADMSG;
	strcpy(ret, text);
	return 0;
}

/* ---- transactions -------------------------------------------------------------------------------------------------- */

static int
synchronous(struct kms_store *s, bool full)
{
	return kms_store_errno(sqlite3_exec(s->db, full ? "PRAGMA synchronous = FULL" : "PRAGMA synchronous = NORMAL", NULL, NULL, NULL));
}

static int
simple(struct kms_store *s, enum kms_stmt id, const char *sql)
{
	sqlite3_stmt *stmt;
	int rc = kms_store_stmt(s, id, sql, &stmt);

	return rc < 0 ? rc : kms_store_run(s, stmt);
}

void
kms_store_hold(struct kms_store *s)
{
	pthread_mutex_lock(&s->lock);
}

void
kms_store_release(struct kms_store *s)
{
	pthread_mutex_unlock(&s->lock);
}

int
kms_store_begin(struct kms_store *s, bool full)
{
	int rc = 0;

	pthread_mutex_lock(&s->lock);
	s->full = full;
	if (full)
		rc = synchronous(s, true);
	if (rc == 0)
		rc = simple(s, KMS_STMT_BEGIN, "BEGIN IMMEDIATE");
	if (rc < 0) {
		if (full)
			synchronous(s, false);
		pthread_mutex_unlock(&s->lock);
	}
	return rc;
}

/* The lock is held; the transaction is over. */
static void
finish(struct kms_store *s)
{
	if (s->full)
		synchronous(s, false);
	pthread_mutex_unlock(&s->lock);
}

int
kms_store_commit(struct kms_store *s)
{
	int rc = simple(s, KMS_STMT_COMMIT, "COMMIT");

	if (rc < 0) {
		kms_store_rollback(s);
		return rc;
	}
	atomic_fetch_add(&s->commits, 1);
	finish(s);
	return 0;
}

void
kms_store_rollback(struct kms_store *s)
{
	if (!sqlite3_get_autocommit(s->db))
		simple(s, KMS_STMT_ROLLBACK, "ROLLBACK");
	finish(s);
}

/*
 * In WAL mode what makes commits durable is one sync of the log file; nothing has to be written for it, and writers go on
 * meanwhile. Frames that have left the log were synced by the checkpoint that moved them.
 */
int
kms_store_sync(struct kms_store *s)
{
	unsigned long long target = atomic_load(&s->commits);
	sqlite3_file *log = NULL;
	int rc = 0;

	pthread_mutex_lock(&s->sync_lock);
	if (s->durable < target) {
		pthread_mutex_lock(&s->lock);
		target = atomic_load(&s->commits);
		rc = sqlite3_file_control(s->db, "main", SQLITE_FCNTL_JOURNAL_POINTER, &log);
		pthread_mutex_unlock(&s->lock);
		if (rc == SQLITE_OK && log && log->pMethods)
			rc = log->pMethods->xSync(log, SQLITE_SYNC_NORMAL);
		if (rc == SQLITE_OK)
			s->durable = target;
	}
	pthread_mutex_unlock(&s->sync_lock);
	if (rc != SQLITE_OK)
		base_log(LOG_ERR, "keystore.db: the write-ahead log cannot be synced: %s", sqlite3_errstr(rc));
	return kms_store_errno(rc);
}

/* ---- opening ------------------------------------------------------------------------------------------------------- */

static int
damaged(const char *path, const char *what, struct base_error *err)
{
	return base_error_set(err, -EBADMSG, BASE_EXIT_INTEGRITY,
			      "%s is damaged or not a keystore database (%s); it was left as it is. Restore the keystore "
			      "directory from a backup", path, what);
}

static int
pragma_int(sqlite3 *db, const char *sql, int *ret)
{
	sqlite3_stmt *stmt = NULL;
	int rc = sqlite3_prepare_v2(db, sql, -1, &stmt, NULL);

	if (rc == SQLITE_OK)
		rc = sqlite3_step(stmt);
	if (rc == SQLITE_ROW)
		*ret = sqlite3_column_int(stmt, 0);
	sqlite3_finalize(stmt);
	return rc == SQLITE_ROW ? 0 : rc == SQLITE_DONE ? -EBADMSG : kms_store_errno(rc);
}

/* SQLite takes an empty file as a new database, so what is not ours is turned away before SQLite sees it. */
static int
check_header(const char *path, struct base_error *err)
{
	uint8_t head[100];
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	int rc = -errno;
	ssize_t got;

	if (fd < 0)
		return base_error_set(err, rc, rc == -ENOENT ? BASE_EXIT_INTEGRITY : BASE_EXIT_FAILED, "%s: %s%s", path, strerror(-rc),
				      rc == -ENOENT ? ": restore the keystore directory from a backup" : "");
	got = read(fd, head, sizeof(head));
	close(fd);
	if (got != (ssize_t) sizeof(head) || memcmp(head, "SQLite format 3", 16))
		return damaged(path, "no SQLite header", err);
	if (head[68] != (KMS_STORE_APPLICATION >> 24) || head[69] != (KMS_STORE_APPLICATION >> 16 & 0xff) ||
	    head[70] != (KMS_STORE_APPLICATION >> 8 & 0xff) || head[71] != (KMS_STORE_APPLICATION & 0xff))
		return damaged(path, "another program's database", err);
	return 0;
}

static int
check_pages(struct kms_store *s, struct base_error *err)
{
	sqlite3_stmt *stmt = NULL;
	char text[200];
	int rc = sqlite3_prepare_v2(s->db, "PRAGMA quick_check(1)", -1, &stmt, NULL);

	if (rc == SQLITE_OK)
		rc = sqlite3_step(stmt);
	if (rc == SQLITE_ROW) {
		const char *answer = (const char *) sqlite3_column_text(stmt, 0);

		snprintf(text, sizeof(text), "%s", answer ? answer : "no answer");
	} else {
		snprintf(text, sizeof(text), "%s", sqlite3_errmsg(s->db));
	}
	text[strcspn(text, "\n")] = 0;
	sqlite3_finalize(stmt);
	if (rc == SQLITE_ROW && !strcmp(text, "ok"))
		return 0;
	if (rc == SQLITE_ROW || kms_store_errno(rc) == -EBADMSG)
		return damaged(s->path, text, err);
	rc = kms_store_errno(rc);
	return base_error_set(err, rc, BASE_EXIT_FAILED, "%s cannot be read: %s", s->path, text);
}

static int
migrate(struct kms_store *s, struct base_error *err)
{
	char version[64];
	int have = 0, rc = pragma_int(s->db, "PRAGMA user_version", &have);

	if (rc == 0 && have > SCHEMA_VERSION)
		return base_error_set(err, -EPROTO, BASE_EXIT_FAILED, "%s has schema %d; this program knows up to %d. Use the newer keepfs "
				      "that wrote it", s->path, have, SCHEMA_VERSION);
	if (rc == 0 && have < 0)
		rc = -EBADMSG;
	for (int n = have; rc == 0 && n < SCHEMA_VERSION; n++) {
		rc = kms_store_begin(s, true);
		if (rc < 0)
			break;
		snprintf(version, sizeof(version), "PRAGMA user_version = %d", n + 1);
		rc = kms_store_errno(sqlite3_exec(s->db, migrations[n], NULL, NULL, NULL));
		if (rc == 0)
			rc = kms_store_errno(sqlite3_exec(s->db, version, NULL, NULL, NULL));
		if (rc == 0)
			rc = kms_store_commit(s);
		else
			kms_store_rollback(s);
	}
	if (rc < 0)
		return base_error_set(err, rc, rc == -EBADMSG ? BASE_EXIT_INTEGRITY : BASE_EXIT_FAILED,
				      "%s: its schema cannot be brought up to date: %s", s->path, sqlite3_errmsg(s->db));
	return 0;
}

static int
store_new(const char *path, int flags, struct kms_store **ret, struct base_error *err)
{
	struct kms_store *s = calloc(1, sizeof(*s));
	pthread_mutexattr_t recursive;
	int rc;

	if (!s || !(s->path = strdup(path))) {
		free(s);
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "out of memory");
	}
	pthread_mutexattr_init(&recursive);
	pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&s->lock, &recursive);
	pthread_mutexattr_destroy(&recursive);
	pthread_mutex_init(&s->sync_lock, NULL);
	rc = sqlite3_open_v2(path, &s->db, flags | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE, NULL);
	if (rc != SQLITE_OK) {
		rc = base_error_set(err, kms_store_errno(rc), BASE_EXIT_FAILED, "%s cannot be opened: %s", path,
				    s->db ? sqlite3_errmsg(s->db) : sqlite3_errstr(rc));
		kms_store_close(s);
		return rc;
	}
	/* Until the file is known to be sound, closing it must not write it. */
	sqlite3_db_config(s->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
	sqlite3_db_config(s->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
	sqlite3_extended_result_codes(s->db, 1);
	*ret = s;
	return 0;
}

static int
pragmas(struct kms_store *s, struct base_error *err)
{
	char sql[320];
	int rc;

	snprintf(sql, sizeof(sql),
		 "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON;"
		 "PRAGMA trusted_schema = OFF; PRAGMA temp_store = MEMORY; PRAGMA cell_size_check = ON; PRAGMA wal_autocheckpoint = %d",
		 CHECKPOINT_PAGES);
	rc = kms_store_errno(sqlite3_exec(s->db, sql, NULL, NULL, NULL));
	if (rc < 0)
		return base_error_set(err, rc, BASE_EXIT_FAILED, "%s cannot be set up: %s", s->path, sqlite3_errmsg(s->db));
	return 0;
}

int
kms_store_create(const char *path, struct base_error *err)
{
	struct kms_store *s = NULL;
	char sql[80];
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	int rc = -errno;

	if (fd < 0)
		return base_error_set(err, rc, BASE_EXIT_FAILED, "cannot make %s: %s", path, strerror(-rc));
	fchmod(fd, 0600);
	close(fd);
	rc = store_new(path, SQLITE_OPEN_READWRITE, &s, err);
	if (rc < 0)
		return rc;
	/* Small pages: a record dirties two of them, and each is checksummed and written whole (29 us a record with 4096, 20 with 1024). */
	snprintf(sql, sizeof(sql), "PRAGMA page_size = 1024; PRAGMA application_id = %d", KMS_STORE_APPLICATION);
	if (sqlite3_exec(s->db, sql, NULL, NULL, NULL) != SQLITE_OK)
		rc = base_error_set(err, -EIO, BASE_EXIT_FAILED, "cannot write %s: %s", path, sqlite3_errmsg(s->db));
	if (rc == 0)
		rc = pragmas(s, err);
	if (rc == 0)
		rc = migrate(s, err);
	sqlite3_db_config(s->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, NULL);
	kms_store_close(s);
	return rc;
}

int
kms_store_open(const char *path, struct kms_store **ret, struct base_error *err)
{
	struct kms_store *s = NULL;
	int rc = check_header(path, err);

	if (rc == 0)
		rc = store_new(path, SQLITE_OPEN_READWRITE, &s, err);
	if (rc == 0)
		rc = check_pages(s, err);
	if (rc == 0)
		rc = pragmas(s, err);
	if (rc == 0)
		rc = migrate(s, err);
	if (rc < 0) {
		kms_store_close(s);
		return rc;
	}
	sqlite3_db_config(s->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, NULL);
	*ret = s;
	return 0;
}

void
kms_store_close(struct kms_store *s)
{
	if (!s)
		return;
	for (int i = 0; i < KMS_STMTS; i++)
		sqlite3_finalize(s->stmts[i]);
	if (s->db && sqlite3_close(s->db) != SQLITE_OK)
		base_log(LOG_ERR, "%s: closing: %s", s->path, sqlite3_errmsg(s->db));
	pthread_mutex_destroy(&s->lock);
	pthread_mutex_destroy(&s->sync_lock);
	free(s->path);
	free(s);
}

/* ---- meta ------------------------------------------------------------------------------------------------------------ */

int
kms_store_meta_get(struct kms_store *s, const char *name, void *ret, size_t cap, size_t *ret_len)
{
	sqlite3_stmt *stmt;
	int rc;

	pthread_mutex_lock(&s->lock);
	rc = kms_store_stmt(s, KMS_STMT_META_GET, "SELECT value FROM meta WHERE name = ?1", &stmt);
	if (rc == 0) {
		sqlite3_bind_text(stmt, 1, name, -1, SQLITE_STATIC);
		rc = sqlite3_step(stmt);
		if (rc == SQLITE_ROW) {
			*ret_len = (size_t) sqlite3_column_bytes(stmt, 0);
			rc = *ret_len <= cap ? kms_store_column_bytes(stmt, 0, ret, *ret_len) : -EBADMSG;
		} else {
			rc = rc == SQLITE_DONE ? -ENOENT : kms_store_errno(rc);
		}
		sqlite3_reset(stmt);
	}
	pthread_mutex_unlock(&s->lock);
	return rc;
}

int
kms_store_meta_put(struct kms_store *s, const char *name, const void *value, size_t len)
{
	sqlite3_stmt *stmt;
	int rc;

	pthread_mutex_lock(&s->lock);
	rc = kms_store_stmt(s, KMS_STMT_META_PUT, "INSERT INTO meta VALUES(?1, ?2) ON CONFLICT(name) DO UPDATE SET value = excluded.value",
			    &stmt);
	if (rc == 0) {
		sqlite3_bind_text(stmt, 1, name, -1, SQLITE_STATIC);
		sqlite3_bind_blob(stmt, 2, value, (int) len, SQLITE_STATIC);
		rc = kms_store_run(s, stmt);
	}
	pthread_mutex_unlock(&s->lock);
	return rc;
}
