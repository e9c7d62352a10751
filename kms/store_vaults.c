/*
 * Rows of vaults, sessions and the dirty set.
 */
#include "store_sql.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"

static int
vault_read(sqlite3_stmt *stmt, struct kms_vault *vault)
{
	memset(vault, 0, sizeof(*vault));
	vault->generation = (uint64_t) sqlite3_column_int64(stmt, 2);
	if (kms_store_column_bytes(stmt, 0, vault->id, sizeof(vault->id)) < 0 ||
	    kms_store_column_bytes(stmt, 1, vault->key_id, sizeof(vault->key_id)) < 0 ||
	    kms_store_column_text(stmt, 3, vault->path, sizeof(vault->path)) < 0)
		return -EBADMSG;
	return 0;
}

struct each_vault {
	int (*fn)(void *ctx, const struct kms_vault *vault);
	void *ctx;
};

static int
vault_row(void *ctx, sqlite3_stmt *stmt)
{
	const struct each_vault *each = ctx;
	struct kms_vault vault;
	int rc = vault_read(stmt, &vault);

	return rc == 0 ? each->fn(each->ctx, &vault) : rc;
}

int
kms_store_vaults(struct kms_store *s, int (*fn)(void *ctx, const struct kms_vault *vault), void *ctx)
{
	struct each_vault each = { fn, ctx };

	return kms_store_each(s, KMS_STMT_VAULTS, "SELECT vault_id, key_id, generation, path FROM vaults ORDER BY created_ns", vault_row, &each);
}

int
kms_store_vault_get(struct kms_store *s, const uint8_t id[BASE_ID_SIZE], struct kms_vault *ret)
{
	sqlite3_stmt *stmt;
	int rc;

	pthread_mutex_lock(&s->lock);
	rc = kms_store_stmt(s, KMS_STMT_VAULT_GET, "SELECT vault_id, key_id, generation, path FROM vaults WHERE vault_id = ?1", &stmt);
	if (rc == 0) {
		sqlite3_bind_blob(stmt, 1, id, BASE_ID_SIZE, SQLITE_STATIC);
		rc = sqlite3_step(stmt);
		rc = rc == SQLITE_ROW ? vault_read(stmt, ret) : rc == SQLITE_DONE ? -ENOENT : kms_store_errno(rc);
		sqlite3_reset(stmt);
	}
	pthread_mutex_unlock(&s->lock);
	return rc;
}

int
kms_store_vault_insert(struct kms_store *s, const struct kms_vault *vault)
{
	sqlite3_stmt *stmt;
	int rc = kms_store_stmt(s, KMS_STMT_VAULT_INSERT, "INSERT INTO vaults(vault_id, key_id, generation, path, created_ns) "
				"VALUES(?1, ?2, ?3, ?4, ?5)", &stmt);

	if (rc < 0)
		return rc;
	sqlite3_bind_blob(stmt, 1, vault->id, BASE_ID_SIZE, SQLITE_STATIC);
	sqlite3_bind_blob(stmt, 2, vault->key_id, BASE_ID_SIZE, SQLITE_STATIC);
	sqlite3_bind_int64(stmt, 3, (sqlite3_int64) vault->generation);
	sqlite3_bind_text(stmt, 4, vault->path, -1, SQLITE_STATIC);
	sqlite3_bind_int64(stmt, 5, (sqlite3_int64) base_clock_real_ns());
	return kms_store_run(s, stmt);
}

/* One change of one vault, in a durable transaction of its own. */
static int
vault_update(struct kms_store *s, sqlite3_stmt *stmt)
{
	int rc = kms_store_run(s, stmt);
	int changed = sqlite3_changes(s->db);

	if (rc < 0) {
		kms_store_rollback(s);
		return rc;
	}
	rc = kms_store_commit(s);
	return rc < 0 ? rc : changed ? 0 : -ENOENT;
}

int
kms_store_vault_generation(struct kms_store *s, const uint8_t id[BASE_ID_SIZE], uint64_t generation)
{
	sqlite3_stmt *stmt;
	int rc = kms_store_begin(s, true);

	if (rc < 0)
		return rc;
	rc = kms_store_stmt(s, KMS_STMT_VAULT_GENERATION, "UPDATE vaults SET generation = max(generation, ?2) WHERE vault_id = ?1", &stmt);
	if (rc < 0) {
		kms_store_rollback(s);
		return rc;
	}
	sqlite3_bind_blob(stmt, 1, id, BASE_ID_SIZE, SQLITE_STATIC);
	sqlite3_bind_int64(stmt, 2, (sqlite3_int64) generation);
	return vault_update(s, stmt);
}

int
kms_store_vault_path(struct kms_store *s, const uint8_t id[BASE_ID_SIZE], const char *path)
{
	sqlite3_stmt *stmt;
	int rc = kms_store_begin(s, true);

	if (rc < 0)
		return rc;
	rc = kms_store_stmt(s, KMS_STMT_VAULT_PATH, "UPDATE vaults SET path = ?2 WHERE vault_id = ?1", &stmt);
	if (rc < 0) {
		kms_store_rollback(s);
		return rc;
	}
	sqlite3_bind_blob(stmt, 1, id, BASE_ID_SIZE, SQLITE_STATIC);
	sqlite3_bind_text(stmt, 2, path, -1, SQLITE_STATIC);
	return vault_update(s, stmt);
}

int
kms_store_vault_delete(struct kms_store *s, const uint8_t id[BASE_ID_SIZE])
{
	sqlite3_stmt *stmt;
	int rc = kms_store_stmt(s, KMS_STMT_VAULT_DELETE, "DELETE FROM vaults WHERE vault_id = ?1", &stmt);

	if (rc < 0)
		return rc;
	sqlite3_bind_blob(stmt, 1, id, BASE_ID_SIZE, SQLITE_STATIC);
	rc = kms_store_run(s, stmt);
	return rc < 0 ? rc : sqlite3_changes(s->db) ? 0 : -ENOENT;
}

/* ---- sessions and the dirty set ------------------------------------------------------------------------------------------ */

int
kms_store_session_start(struct kms_store *s, const uint8_t id[BASE_ID_SIZE], const uint8_t boot[BASE_ID_SIZE], int64_t *ret_row)
{
	sqlite3_stmt *stmt;
	int rc;

	pthread_mutex_lock(&s->lock);
	rc = kms_store_stmt(s, KMS_STMT_SESSION_START, "INSERT INTO sessions(session_id, boot_id, started_ns) VALUES(?1, ?2, ?3)", &stmt);
	if (rc == 0) {
		sqlite3_bind_blob(stmt, 1, id, BASE_ID_SIZE, SQLITE_STATIC);
		sqlite3_bind_blob(stmt, 2, boot, BASE_ID_SIZE, SQLITE_STATIC);
		sqlite3_bind_int64(stmt, 3, (sqlite3_int64) base_clock_real_ns());
		rc = kms_store_run(s, stmt);
		if (rc == 0)
			*ret_row = sqlite3_last_insert_rowid(s->db);
	}
	pthread_mutex_unlock(&s->lock);
	return rc;
}

int
kms_store_session_sweep(struct kms_store *s)
{
	sqlite3_stmt *stmt;
	int rc;

	pthread_mutex_lock(&s->lock);
	rc = kms_store_stmt(s, KMS_STMT_SESSION_SWEEP, "UPDATE sessions SET ended_ns = ?1 WHERE ended_ns IS NULL AND NOT EXISTS"
			    "(SELECT 1 FROM dirty WHERE dirty.session_row = sessions.session_row)", &stmt);
	if (rc == 0) {
		sqlite3_bind_int64(stmt, 1, (sqlite3_int64) base_clock_real_ns());
		rc = kms_store_run(s, stmt);
	}
	pthread_mutex_unlock(&s->lock);
	return rc;
}

struct each_dirty {
	int (*fn)(void *ctx, const struct kms_dirty_row *row);
	void *ctx;
};

static int
dirty_row(void *ctx, sqlite3_stmt *stmt)
{
	const struct each_dirty *each = ctx;
	struct kms_dirty_row row = { .session_row = sqlite3_column_int64(stmt, 2) };

	if (kms_store_column_bytes(stmt, 0, row.vault_id, sizeof(row.vault_id)) < 0 ||
	    kms_store_column_bytes(stmt, 1, row.file_id, sizeof(row.file_id)) < 0 ||
	    kms_store_column_bytes(stmt, 3, row.session, sizeof(row.session)) < 0 ||
	    kms_store_column_bytes(stmt, 4, row.boot, sizeof(row.boot)) < 0)
		return -EBADMSG;
	return each->fn(each->ctx, &row);
}

int
kms_store_dirty(struct kms_store *s, int (*fn)(void *ctx, const struct kms_dirty_row *row), void *ctx)
{
	struct each_dirty each = { fn, ctx };

	return kms_store_each(s, KMS_STMT_DIRTY, "SELECT vault_id, file_id, session_row, session_id, boot_id FROM dirty JOIN sessions USING(session_row)",
			      dirty_row, &each);
}

static int
dirty_run(struct kms_store *s, enum kms_stmt id, const char *sql, const uint8_t *vault_id, const uint8_t *file_id, int64_t session_row)
{
	sqlite3_stmt *stmt;
	int rc = kms_store_stmt(s, id, sql, &stmt);

	if (rc < 0)
		return rc;
	sqlite3_bind_blob(stmt, 1, vault_id, BASE_ID_SIZE, SQLITE_STATIC);
	sqlite3_bind_blob(stmt, 2, file_id, BASE_ID_SIZE, SQLITE_STATIC);
	sqlite3_bind_int64(stmt, 3, session_row);
	return kms_store_run(s, stmt);
}

int
kms_store_dirty_insert(struct kms_store *s, const uint8_t vault_id[BASE_ID_SIZE], const uint8_t file_id[BASE_ID_SIZE], int64_t session_row)
{
	return dirty_run(s, KMS_STMT_DIRTY_INSERT, "INSERT INTO dirty VALUES(?1, ?2, ?3) ON CONFLICT DO NOTHING", vault_id, file_id,
			 session_row);
}

int
kms_store_dirty_delete(struct kms_store *s, const uint8_t vault_id[BASE_ID_SIZE], const uint8_t file_id[BASE_ID_SIZE],
		       int64_t session_row, bool others)
{
	if (others)
		return dirty_run(s, KMS_STMT_DIRTY_OTHERS, "DELETE FROM dirty WHERE vault_id = ?1 AND file_id = ?2 AND session_row <> ?3",
				 vault_id, file_id, session_row);
	return dirty_run(s, KMS_STMT_DIRTY_DELETE, "DELETE FROM dirty WHERE vault_id = ?1 AND file_id = ?2 AND session_row = ?3",
			 vault_id, file_id, session_row);
}
