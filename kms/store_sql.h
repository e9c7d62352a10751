/*
 * kms/store_sql.h: what store*.c share. The only header of ours that shows SQLite.
 */
#ifndef KMS_STORE_SQL_H
#define KMS_STORE_SQL_H

#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>

#include "store.h"

enum kms_stmt {
	KMS_STMT_BEGIN, KMS_STMT_COMMIT, KMS_STMT_ROLLBACK, KMS_STMT_META_GET, KMS_STMT_META_PUT, KMS_STMT_KEY_INSERT,
	KMS_STMT_KEY_DELETE, KMS_STMT_VERSIONS_DELETE, KMS_STMT_VERSION_INSERT, KMS_STMT_VERSION_STATE, KMS_STMT_VERSION_FILES,
	KMS_STMT_KEYS, KMS_STMT_VERSIONS, KMS_STMT_ROLES, KMS_STMT_ROLE_INSERT, KMS_STMT_ROLE_DELETE, KMS_STMT_VAULTS, KMS_STMT_VAULT_GET,
	KMS_STMT_VAULT_INSERT, KMS_STMT_VAULT_GENERATION, KMS_STMT_VAULT_PATH, KMS_STMT_VAULT_DELETE, KMS_STMT_SESSION_START,
	KMS_STMT_SESSION_SWEEP, KMS_STMT_DIRTY, KMS_STMT_DIRTY_INSERT, KMS_STMT_DIRTY_DELETE, KMS_STMT_DIRTY_OTHERS,
	KMS_STMT_AUDIT_INSERT, KMS_STMT_HEAD_GET, KMS_STMT_HEAD_PUT, KMS_STMT_AUDIT_LAST, KMS_STMT_AUDIT_SCAN,
	KMS_STMT_AUDIT_MAX, KMS_STMTS
};

struct kms_store {
	sqlite3 *db;
	char *path;
	pthread_mutex_t lock;      /* guards db and stmts; recursive, held from begin to commit or rollback */
	bool full;                 /* the running transaction is to be durable; guarded by lock */
	sqlite3_stmt *stmts[KMS_STMTS];
	atomic_ullong commits;     /* transactions committed */
	pthread_mutex_t sync_lock; /* guards durable; one thread syncs at a time. Before lock */
	unsigned long long durable; /* commits known to survive a power cut */
};

/* kms_store_errno(rc): SQLite's code as -errno; 0 for OK, ROW, DONE. */
int kms_store_errno(int rc);

/* kms_store_stmt(s, id, sql, ret): the prepared statement, reset and with nothing bound. lock is held. */
int kms_store_stmt(struct kms_store *s, enum kms_stmt id, const char *sql, sqlite3_stmt **ret);

/* kms_store_run(s, stmt): step a statement that gives no rows, reset it; -errno. */
int kms_store_run(struct kms_store *s, sqlite3_stmt *stmt);

/* kms_store_each(s, id, sql, row, ctx): row(ctx, stmt) for every row of a query without parameters, under the lock, until it returns non-zero, which is
 * returned. */
int kms_store_each(struct kms_store *s, enum kms_stmt id, const char *sql, int (*row)(void *ctx, sqlite3_stmt *stmt), void *ctx);

/* kms_store_column_id(stmt, column, ret): a blob of exactly len bytes, else -EBADMSG. */
int kms_store_column_bytes(sqlite3_stmt *stmt, int column, void *ret, size_t len);

/* kms_store_column_text(stmt, column, ret, cap): text that fits, else -EBADMSG. NULL gives "". */
int kms_store_column_text(sqlite3_stmt *stmt, int column, char *ret, size_t cap);

extern const char kms_store_schema[], kms_store_schema_2[]; /* store_schema.c: version 1; from 1 to 2 */

#define KMS_STORE_APPLICATION 0x6b656670 /* "kefp" */

#endif
