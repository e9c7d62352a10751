/*
 * Rows of keys, versions and roles.
 */
#include "store_sql.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "keys.h"

static int
key_read(sqlite3_stmt *stmt, struct kms_key *key)
{
	if (kms_store_column_bytes(stmt, 0, key->id, sizeof(key->id)) < 0 ||
	    kms_store_column_text(stmt, 1, key->name, sizeof(key->name)) < 0 ||
	    kms_store_column_text(stmt, 2, key->ring, sizeof(key->ring)) < 0 ||
	    kms_store_column_text(stmt, 6, key->description, sizeof(key->description)) < 0)
		return -EBADMSG;
	key->kind = (enum kms_key_kind) sqlite3_column_int(stmt, 3);
	key->state = (enum kms_key_state) sqlite3_column_int(stmt, 4);
	key->origin = (enum kms_key_origin) sqlite3_column_int(stmt, 5);
	key->rotate_every = sqlite3_column_int64(stmt, 7);
	key->created_ns = (uint64_t) sqlite3_column_int64(stmt, 8);
	return 0;
}

static int
version_add(sqlite3_stmt *stmt, struct kms_key *key)
{
	struct kms_version *grown = reallocarray(key->versions, key->count + 1, sizeof(*grown));
	struct kms_version *v;

	if (!grown)
		return -ENOMEM;
	key->versions = grown;
	v = &grown[key->count];
	memset(v, 0, sizeof(*v));
	v->number = (uint32_t) sqlite3_column_int64(stmt, 0);
	v->state = (enum kms_version_state) sqlite3_column_int(stmt, 1);
	if (kms_store_column_bytes(stmt, 2, v->hsm_id, sizeof(v->hsm_id)) < 0)
		return -EBADMSG;
	v->created_ns = (uint64_t) sqlite3_column_int64(stmt, 3);
	v->destroyed_ns = (uint64_t) sqlite3_column_int64(stmt, 4);
	atomic_init(&v->files, sqlite3_column_int64(stmt, 5));
	v->files_exact_ns = (uint64_t) sqlite3_column_int64(stmt, 6);
	if (v->state == KMS_VERSION_CURRENT)
		key->current = v->number;
	key->count++;
	return 0;
}

static int
versions_read(struct kms_store *s, struct kms_key *key)
{
	sqlite3_stmt *stmt;
	int rc = kms_store_stmt(s, KMS_STMT_VERSIONS, "SELECT version, state, hsm_id, created_ns, destroyed_ns, files, files_exact_ns "
				"FROM versions WHERE key_id = ?1 ORDER BY version", &stmt);

	if (rc < 0)
		return rc;
	sqlite3_bind_blob(stmt, 1, key->id, sizeof(key->id), SQLITE_STATIC);
	while (rc == 0) {
		int step = sqlite3_step(stmt);

		if (step != SQLITE_ROW) {
			rc = kms_store_errno(step);
			break;
		}
		rc = version_add(stmt, key);
	}
	sqlite3_reset(stmt);
	return rc;
}

struct each_key {
	struct kms_store *s;
	int (*fn)(void *ctx, struct kms_key *key);
	void *ctx;
};

static int
key_row(void *ctx, sqlite3_stmt *stmt)
{
	const struct each_key *each = ctx;
	struct kms_key *key = calloc(1, sizeof(*key));
	int rc = key ? key_read(stmt, key) : -ENOMEM;

	if (rc == 0)
		rc = versions_read(each->s, key);
	if (rc == 0)
		return each->fn(each->ctx, key);
	if (key)
		free(key->versions);
	free(key);
	return rc;
}

int
kms_store_keys(struct kms_store *s, int (*fn)(void *ctx, struct kms_key *key), void *ctx)
{
	struct each_key each = { s, fn, ctx };

	return kms_store_each(s, KMS_STMT_KEYS, "SELECT key_id, name, ring, kind, state, origin, description, rotate_every, created_ns "
			      "FROM keys ORDER BY created_ns, name", key_row, &each);
}

int
kms_store_key_insert(struct kms_store *s, const struct kms_key *key)
{
	sqlite3_stmt *stmt;
	int rc = kms_store_stmt(s, KMS_STMT_KEY_INSERT, "INSERT INTO keys(key_id, name, ring, kind, state, origin, description, "
				"rotate_every, created_ns) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)", &stmt);

	if (rc < 0)
		return rc;
	sqlite3_bind_blob(stmt, 1, key->id, sizeof(key->id), SQLITE_STATIC);
	sqlite3_bind_text(stmt, 2, key->name, -1, SQLITE_STATIC);
	sqlite3_bind_text(stmt, 3, key->ring, -1, SQLITE_STATIC);
	sqlite3_bind_int(stmt, 4, key->kind);
	sqlite3_bind_int(stmt, 5, key->state);
	sqlite3_bind_int(stmt, 6, key->origin);
	sqlite3_bind_text(stmt, 7, key->description, -1, SQLITE_STATIC);
	if (key->rotate_every)
		sqlite3_bind_int64(stmt, 8, key->rotate_every);
	else
		sqlite3_bind_null(stmt, 8);
	sqlite3_bind_int64(stmt, 9, (sqlite3_int64) key->created_ns);
	return kms_store_run(s, stmt);
}

static int
run_for_id(struct kms_store *s, enum kms_stmt id, const char *sql, const uint8_t key_id[BASE_ID_SIZE])
{
	sqlite3_stmt *stmt;
	int rc = kms_store_stmt(s, id, sql, &stmt);

	if (rc < 0)
		return rc;
	sqlite3_bind_blob(stmt, 1, key_id, BASE_ID_SIZE, SQLITE_STATIC);
	return kms_store_run(s, stmt);
}

int
kms_store_key_delete(struct kms_store *s, const uint8_t id[BASE_ID_SIZE])
{
	int rc = run_for_id(s, KMS_STMT_VERSIONS_DELETE, "DELETE FROM versions WHERE key_id = ?1", id);

	return rc < 0 ? rc : run_for_id(s, KMS_STMT_KEY_DELETE, "DELETE FROM keys WHERE key_id = ?1", id);
}

int
kms_store_version_insert(struct kms_store *s, const uint8_t key_id[BASE_ID_SIZE], const struct kms_version *version)
{
	sqlite3_stmt *stmt;
	int rc = kms_store_stmt(s, KMS_STMT_VERSION_INSERT, "INSERT INTO versions(key_id, version, state, hsm_id, created_ns) "
				"VALUES(?1, ?2, ?3, ?4, ?5)", &stmt);

	if (rc < 0)
		return rc;
	sqlite3_bind_blob(stmt, 1, key_id, BASE_ID_SIZE, SQLITE_STATIC);
	sqlite3_bind_int64(stmt, 2, version->number);
	sqlite3_bind_int(stmt, 3, version->state);
	sqlite3_bind_blob(stmt, 4, version->hsm_id, sizeof(version->hsm_id), SQLITE_STATIC);
	sqlite3_bind_int64(stmt, 5, (sqlite3_int64) version->created_ns);
	return kms_store_run(s, stmt);
}

int
kms_store_version_state(struct kms_store *s, const uint8_t key_id[BASE_ID_SIZE], uint32_t version, int state,
			uint64_t destroyed_ns)
{
	sqlite3_stmt *stmt;
	int rc = kms_store_stmt(s, KMS_STMT_VERSION_STATE, "UPDATE versions SET state = ?3, destroyed_ns = ?4 "
				"WHERE key_id = ?1 AND version = ?2", &stmt);

	if (rc < 0)
		return rc;
	sqlite3_bind_blob(stmt, 1, key_id, BASE_ID_SIZE, SQLITE_STATIC);
	sqlite3_bind_int64(stmt, 2, version);
	sqlite3_bind_int(stmt, 3, state);
	if (destroyed_ns)
		sqlite3_bind_int64(stmt, 4, (sqlite3_int64) destroyed_ns);
	else
		sqlite3_bind_null(stmt, 4);
	rc = kms_store_run(s, stmt);
	return rc < 0 ? rc : sqlite3_changes(s->db) == 1 ? 0 : -ENOENT;
}

int
kms_store_version_files(struct kms_store *s, const uint8_t key_id[BASE_ID_SIZE], uint32_t version, int64_t files, uint64_t exact_ns)
{
	sqlite3_stmt *stmt;
	int rc = kms_store_stmt(s, KMS_STMT_VERSION_FILES, "UPDATE versions SET files = ?3, files_exact_ns = ?4 "
				"WHERE key_id = ?1 AND version = ?2", &stmt);

	if (rc < 0)
		return rc;
	sqlite3_bind_blob(stmt, 1, key_id, BASE_ID_SIZE, SQLITE_STATIC);
	sqlite3_bind_int64(stmt, 2, version);
	sqlite3_bind_int64(stmt, 3, files);
	if (exact_ns)
		sqlite3_bind_int64(stmt, 4, (sqlite3_int64) exact_ns);
	else
		sqlite3_bind_null(stmt, 4);
	return kms_store_run(s, stmt);
}

/* ---- roles ------------------------------------------------------------------------------------------------------------ */

struct each_role {
	int (*fn)(void *ctx, const struct kms_role_row *row);
	void *ctx;
};

static int
role_row(void *ctx, sqlite3_stmt *stmt)
{
	const struct each_role *each = ctx;
	struct kms_role_row row = {
		.uid = sqlite3_column_int64(stmt, 1), .role = sqlite3_column_int(stmt, 2), .gid = sqlite3_column_int64(stmt, 4),
		.created_ns = (uint64_t) sqlite3_column_int64(stmt, 5),
	};

	if (kms_store_column_text(stmt, 0, row.principal, sizeof(row.principal)) < 0 ||
	    kms_store_column_text(stmt, 3, row.scope, sizeof(row.scope)) < 0)
		return -EBADMSG;
	return each->fn(each->ctx, &row);
}

int
kms_store_roles(struct kms_store *s, int (*fn)(void *ctx, const struct kms_role_row *row), void *ctx)
{
	struct each_role each = { fn, ctx };

	return kms_store_each(s, KMS_STMT_ROLES, "SELECT principal, uid, role, scope, gid, created_ns FROM roles ORDER BY created_ns, role", role_row,
			      &each);
}

int
kms_store_role_insert(struct kms_store *s, const struct kms_role_row *row)
{
	sqlite3_stmt *stmt;
	int rc;

	pthread_mutex_lock(&s->lock);
	rc = kms_store_stmt(s, KMS_STMT_ROLE_INSERT, "INSERT INTO roles(principal, uid, role, scope, created_ns, gid) "
			    "VALUES(?1, ?2, ?3, ?4, ?5, ?6)", &stmt);
	if (rc == 0) {
		sqlite3_bind_text(stmt, 1, row->principal, -1, SQLITE_STATIC);
		sqlite3_bind_int64(stmt, 2, row->uid);
		sqlite3_bind_int(stmt, 3, row->role);
		sqlite3_bind_text(stmt, 4, row->scope, -1, SQLITE_STATIC);
		sqlite3_bind_int64(stmt, 5, (sqlite3_int64) base_clock_real_ns());
		sqlite3_bind_int64(stmt, 6, row->gid);
		rc = kms_store_run(s, stmt);
	}
	pthread_mutex_unlock(&s->lock);
	return rc;
}

int
kms_store_role_delete(struct kms_store *s, const struct kms_role_row *row)
{
	sqlite3_stmt *stmt;
	int rc;

	pthread_mutex_lock(&s->lock);
	rc = kms_store_stmt(s, KMS_STMT_ROLE_DELETE, "DELETE FROM roles WHERE principal = ?1 AND role = ?2 AND scope = ?3", &stmt);
	if (rc == 0) {
		sqlite3_bind_text(stmt, 1, row->principal, -1, SQLITE_STATIC);
		sqlite3_bind_int(stmt, 2, row->role);
		sqlite3_bind_text(stmt, 3, row->scope, -1, SQLITE_STATIC);
		rc = kms_store_run(s, stmt);
	}
	if (rc == 0 && sqlite3_changes(s->db) != 1)
		rc = -ENOENT;
	pthread_mutex_unlock(&s->lock);
	return rc;
}
