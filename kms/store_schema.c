/*
 * The schema. A later version is another script in store.c's list of migrations; this text does not change any more
 * once a release has shipped it.
 */
#include "store_sql.h"

const char kms_store_schema[] =
	"CREATE TABLE meta(name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;"

	"CREATE TABLE keys("
	" key_id BLOB PRIMARY KEY CHECK(length(key_id) = 16),"
	" name TEXT NOT NULL UNIQUE,"
	" ring TEXT NOT NULL DEFAULT 'default',"
	" kind INTEGER NOT NULL CHECK(kind IN (1, 2)),"   /* 1 root key, 2 a vault's root key */
	" state INTEGER NOT NULL CHECK(state BETWEEN 1 AND 8),"
	" origin INTEGER NOT NULL CHECK(origin IN (1, 2))," /* 1 generated in the HSM, 2 imported */
	" description TEXT NOT NULL DEFAULT '',"
	" rotate_every INTEGER,"
	" created_ns INTEGER NOT NULL) STRICT, WITHOUT ROWID;"

	"CREATE TABLE versions("
	" key_id BLOB NOT NULL REFERENCES keys(key_id),"
	" version INTEGER NOT NULL CHECK(version BETWEEN 1 AND 4294967295),"
	" state INTEGER NOT NULL CHECK(state BETWEEN 1 AND 5)," /* pending, current, non-current, revoked, destroyed */
	" hsm_id BLOB NOT NULL CHECK(length(hsm_id) = 16),"
	" created_ns INTEGER NOT NULL,"
	" destroyed_ns INTEGER,"
	" files INTEGER NOT NULL DEFAULT 0,"              /* a hint: exact at files_exact_ns */
	" files_exact_ns INTEGER,"
	" PRIMARY KEY(key_id, version)) STRICT, WITHOUT ROWID;"
	"CREATE UNIQUE INDEX versions_current ON versions(key_id) WHERE state = 2;"
	"CREATE UNIQUE INDEX versions_hsm ON versions(hsm_id);"

	"CREATE TABLE roles("
	" principal TEXT NOT NULL,"
	" uid INTEGER NOT NULL,"
	" role INTEGER NOT NULL CHECK(role BETWEEN 1 AND 7),"
	" scope TEXT NOT NULL,"
	" created_ns INTEGER NOT NULL,"
	" PRIMARY KEY(principal, role, scope)) STRICT, WITHOUT ROWID;"

	"CREATE TABLE vaults("
	" vault_id BLOB PRIMARY KEY CHECK(length(vault_id) = 16),"
	" key_id BLOB NOT NULL UNIQUE REFERENCES keys(key_id),"
	" generation INTEGER NOT NULL DEFAULT 0,"
	" path TEXT NOT NULL,"
	" created_ns INTEGER NOT NULL) STRICT, WITHOUT ROWID;"

	"CREATE TABLE sessions("
	" session_row INTEGER PRIMARY KEY AUTOINCREMENT,"
	" session_id BLOB NOT NULL UNIQUE CHECK(length(session_id) = 16),"
	" boot_id BLOB NOT NULL CHECK(length(boot_id) = 16),"
	" started_ns INTEGER NOT NULL,"
	" ended_ns INTEGER) STRICT;"
	"CREATE INDEX sessions_open ON sessions(session_row) WHERE ended_ns IS NULL;"

	"CREATE TABLE dirty("
	" vault_id BLOB NOT NULL CHECK(length(vault_id) = 16),"
	" file_id BLOB NOT NULL CHECK(length(file_id) = 16),"
	" session_row INTEGER NOT NULL REFERENCES sessions(session_row),"
	" PRIMARY KEY(vault_id, file_id, session_row)) STRICT, WITHOUT ROWID;"

	"CREATE TABLE audit("
	" seq INTEGER PRIMARY KEY,"
	" time_ns INTEGER NOT NULL,"
	" mono_ns INTEGER NOT NULL,"
	" boot_id BLOB NOT NULL,"
	" session_id BLOB NOT NULL,"
	" uid INTEGER NOT NULL,"
	" gid INTEGER NOT NULL,"
	" pid INTEGER NOT NULL,"
	" program TEXT,"
	" via INTEGER NOT NULL,"
	" action TEXT NOT NULL,"
	" key_id BLOB,"
	" key_version INTEGER,"
	" vault_id BLOB,"
	" file_id BLOB,"
	" path BLOB,"                                     /* nonce 16, then AES-256-SIV under the audit key */
	" rule TEXT,"
	" outcome INTEGER NOT NULL,"
	" errno INTEGER NOT NULL,"
	" reason TEXT,"
	" prev_hash BLOB NOT NULL,"
	" hash BLOB NOT NULL) STRICT;"

	"CREATE TABLE audit_head("
	" one INTEGER PRIMARY KEY CHECK(one = 1),"
	" seq INTEGER NOT NULL,"
	" count INTEGER NOT NULL,"
	" hash BLOB NOT NULL,"
	" mac BLOB NOT NULL) STRICT;";

const char kms_store_schema_2[] =
	"ALTER TABLE roles ADD COLUMN gid INTEGER NOT NULL DEFAULT -1;"; /* of a group's row, whose uid is -1 */
