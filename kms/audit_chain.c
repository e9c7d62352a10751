/*
 * The chain: what is hashed, how its end is sealed, how paths are, and checking all of it. kms/DESIGN.md has the format.
 */
#include "audit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/crypto.h"
#include "base/log.h"
#include "base/secret.h"
#include "hsm/hsm.h"

static const char record_label[] = "keepfs audit record v1"; /* hashed and sealed with their NUL */
static const char head_label[] = "keepfs audit head v1";
static const char path_label[] = "keepfs audit path v1";

struct kms_audit_key {
	struct base_siv *paths;
	uint8_t head[32];
};

/* ---- records ----------------------------------------------------------------------------------------------------------- */

static size_t
encode(const struct kms_field fields[KMS_COLS], uint8_t *out)
{
	uint8_t *at = out;

	memcpy(at, record_label, sizeof(record_label));
	at += sizeof(record_label);
	for (int i = 0; i < KMS_COL_HASH; i++) {
		const struct kms_field *f = &fields[i];

		*at++ = (uint8_t) f->type;
		if (f->type == KMS_FIELD_INT) {
			base_put64(at, (uint64_t) f->number);
			at += 8;
		} else if (f->type != KMS_FIELD_NULL) {
			base_put32(at, (uint32_t) f->len);
			memcpy(at + 4, f->bytes, f->len);
			at += 4 + f->len;
		}
	}
	return (size_t) (at - out);
}

int
kms_audit_hash(const struct kms_field fields[KMS_COLS], uint8_t ret[KMS_HASH_SIZE])
{
	uint8_t room[2048], *out = room;
	size_t size = sizeof(record_label);
	int rc;

	for (int i = 0; i < KMS_COL_HASH; i++)
		size += 9 + fields[i].len;
	if (size > sizeof(room) && !(out = malloc(size)))
		return -ENOMEM;
	rc = base_sha256(out, encode(fields, out), ret);
	if (out != room)
		free(out);
	return rc;
}

/* A PRF is a MAC: HKDF-Expand's first block is HMAC-SHA-256(key, message || 0x01). */
int
kms_audit_head_mac(const struct kms_audit_key *key, const struct kms_audit_head *head, uint8_t ret[KMS_HASH_SIZE])
{
	uint8_t message[sizeof(head_label) + 16 + KMS_HASH_SIZE];

	memcpy(message, head_label, sizeof(head_label));
	base_put64(message + sizeof(head_label), head->seq);
	base_put64(message + sizeof(head_label) + 8, head->count);
	memcpy(message + sizeof(head_label) + 16, head->hash, KMS_HASH_SIZE);
	return base_hkdf_expand(key->head, sizeof(key->head), message, sizeof(message), ret, KMS_HASH_SIZE);
}

int
kms_audit_path_seal(const struct kms_audit_key *key, const char *path, uint8_t ret[KMS_AUDIT_SEALED_MAX])
{
	uint8_t aad[sizeof(path_label) + KMS_AUDIT_NONCE];
	size_t len = strlen(path);
	int rc;

	if (len > KMS_AUDIT_PATH_MAX) {
		path += len - KMS_AUDIT_PATH_MAX;
		len = KMS_AUDIT_PATH_MAX;
	}
	rc = base_random(ret, KMS_AUDIT_NONCE);
	if (rc < 0)
		return rc;
	memcpy(aad, path_label, sizeof(path_label));
	memcpy(aad + sizeof(path_label), ret, KMS_AUDIT_NONCE);
	rc = base_siv_seal(key->paths, aad, sizeof(aad), path, len, ret + KMS_AUDIT_NONCE);
	return rc < 0 ? rc : (int) (KMS_AUDIT_NONCE + BASE_SIV_TAG + len);
}

int
kms_audit_path_open(const struct kms_audit_key *key, const void *sealed, size_t len, char ret[KMS_AUDIT_PATH_MAX + 1])
{
	uint8_t aad[sizeof(path_label) + KMS_AUDIT_NONCE];
	size_t clear;
	int rc;

	if (len <= KMS_AUDIT_NONCE + BASE_SIV_TAG || len > KMS_AUDIT_SEALED_MAX)
		return -EBADMSG;
	clear = len - KMS_AUDIT_NONCE - BASE_SIV_TAG;
	memcpy(aad, path_label, sizeof(path_label));
	memcpy(aad + sizeof(path_label), sealed, KMS_AUDIT_NONCE);
	rc = base_siv_open(key->paths, aad, sizeof(aad), (const uint8_t *) sealed + KMS_AUDIT_NONCE, len - KMS_AUDIT_NONCE, ret);
	if (rc == 0)
		ret[clear] = 0;
	return rc;
}

/* ---- checking ------------------------------------------------------------------------------------------------------------ */

struct check {
	const struct kms_audit_key *key;
	const struct kms_audit_head *from;
	struct kms_audit_head live; /* of this process before the snapshot; seq 0: none */
	struct kms_audit_head head; /* as stored */
	bool have_head;
	uint64_t seq;               /* of the last good record */
	uint8_t hash[KMS_HASH_SIZE];
	uint64_t alarm;             /* an alarm that an earlier start has recorded */
	char alarm_reason[200];
	struct kms_audit_verdict *verdict;
};

#define STOP 1

static int
bad(struct check *c, uint64_t seq, const char *reason)
{
	c->verdict->ok = false;
	c->verdict->first_bad = seq;
	snprintf(c->verdict->reason, sizeof(c->verdict->reason), "%s", reason);
	return STOP;
}

static bool
is_hash(const struct kms_field *f, const uint8_t *hash)
{
	return f->type == KMS_FIELD_BLOB && f->len == KMS_HASH_SIZE && !memcmp(f->bytes, hash, KMS_HASH_SIZE);
}

static bool
is_text(const struct kms_field *f, const char *text)
{
	return f->type == KMS_FIELD_TEXT && f->len == strlen(text) && !memcmp(f->bytes, text, f->len);
}

static int
check_head(void *ctx, const struct kms_audit_head *head)
{
	struct check *c = ctx;

	c->have_head = head != NULL;
	if (head)
		c->head = *head;
	return 0;
}

static int
check_record(void *ctx, const struct kms_field fields[KMS_COLS])
{
	struct check *c = ctx;
	const struct kms_field *action = &fields[KMS_COL_ACTION], *reason = &fields[KMS_COL_REASON];
	int64_t seq = fields[KMS_COL_SEQ].number;
	uint8_t hash[KMS_HASH_SIZE];
	int rc;

	if (fields[KMS_COL_SEQ].type != KMS_FIELD_INT || seq != (int64_t) c->seq + 1)
		return bad(c, c->seq + 1, seq > (int64_t) c->seq + 1 ? "records are missing" : "a record stands where none was written");
	rc = kms_audit_hash(fields, hash);
	if (rc < 0)
		return rc;
	if (!is_hash(&fields[KMS_COL_HASH], hash))
		return bad(c, c->seq + 1, "the record was changed: its hash is another");
	if (!is_hash(&fields[KMS_COL_PREV], c->hash))
		return bad(c, c->seq + 1, "the record does not follow the one before it");
	c->seq++;
	c->verdict->records++;
	memcpy(c->hash, hash, sizeof(c->hash));
	if (c->seq == c->live.seq && memcmp(c->hash, c->live.hash, sizeof(c->hash)))
		return bad(c, c->seq, "the record is not the one that this service wrote");
	if (is_text(action, "audit-alarm") && !c->alarm) {
		c->alarm = c->seq;
		snprintf(c->alarm_reason, sizeof(c->alarm_reason), "%.*s", reason->type == KMS_FIELD_TEXT ? (int) reason->len : 0,
			 (const char *) (reason->bytes ? reason->bytes : ""));
	}
	return 0;
}

/* After the records: the sealed head says how many there have to be. */
static int
check_end(struct check *c, bool keyed_now)
{
	uint8_t mac[KMS_HASH_SIZE];
	int rc;

	if (c->seq < c->live.seq)
		return bad(c, c->seq + 1, "the trail was cut: this service wrote more records");
	if (!c->have_head)
		return c->seq ? bad(c, 1, "the sealed end of the trail is missing") : 0;
	if (c->key) {
		rc = kms_audit_head_mac(c->key, &c->head, mac);
		if (rc < 0)
			return rc;
		if (!base_secret_equal(mac, c->head.mac, sizeof(mac)) || c->head.count != c->head.seq)
			return bad(c, c->seq, "the seal of the trail's end does not authenticate");
	}
	if (c->seq < c->head.seq)
		return bad(c, c->seq + 1, "the trail was cut: its sealed end is a later record");
	if (c->seq > c->head.seq && keyed_now)
		return bad(c, c->head.seq + 1, "records follow the trail's sealed end");
	if (c->seq == c->head.seq && memcmp(c->hash, c->head.hash, sizeof(c->hash)))
		return bad(c, c->seq, "the last record is not the sealed one");
	if (c->alarm)
		return bad(c, c->alarm, c->alarm_reason);
	return 0;
}

int
kms_audit_check(struct kms_core *core, const struct kms_audit_key *key, const struct kms_audit_head *from,
		struct kms_audit_verdict *ret)
{
	struct check c = { .key = key, .from = from, .verdict = ret };
	struct kms_audit_query query = { .uid = -1, .outcome = -1 };
	int rc;

	memset(ret, 0, sizeof(*ret));
	ret->ok = true;
	if (from) {
		c.seq = query.from_seq = from->seq;
		memcpy(c.hash, from->hash, sizeof(c.hash));
	} else {
		kms_audit_position(core, &c.live.seq, c.live.hash);
	}
	rc = kms_store_audit_scan(core->store, from ? &query : NULL, check_head, check_record, &c);
	if (rc == 0 && !from)
		rc = check_end(&c, atomic_load(&core->audit->key) != NULL);
	return rc == STOP ? 0 : rc;
}

/* ---- the audit key --------------------------------------------------------------------------------------------------------- */

#define SECRET_SIZE 64
static const char secret_label[] = "keepfs audit key v1";

static size_t
secret_aad(const struct kms_core *core, uint8_t aad[sizeof(secret_label) + BASE_ID_SIZE])
{
	memcpy(aad, secret_label, sizeof(secret_label));
	memcpy(aad + sizeof(secret_label), core->id, BASE_ID_SIZE);
	return sizeof(secret_label) + BASE_ID_SIZE;
}

int
kms_audit_key_make(struct kms_core *core, struct base_error *err)
{
	BASE_SECRET_AUTO uint8_t *secret = base_secret_alloc(SECRET_SIZE);
	uint8_t aad[sizeof(secret_label) + BASE_ID_SIZE], stored[HSM_ID_SIZE + 3 + HSM_BLOB_MAX];
	struct hsm_blob blob;
	int rc;

	if (!secret)
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "no memory can be locked; raise RLIMIT_MEMLOCK (ulimit -l)");
	rc = base_random(secret, SECRET_SIZE);
	if (rc < 0)
		return base_error_set(err, rc, BASE_EXIT_FAILED, "no random numbers: %s", strerror(-rc));
	rc = hsm_key_generate(core->hsm, "keepfs audit", stored, err);
	if (rc == 0)
		rc = hsm_wrap(core->hsm, stored, aad, secret_aad(core, aad), secret, SECRET_SIZE, &blob, err);
	if (rc < 0)
		return rc;
	stored[HSM_ID_SIZE] = blob.mechanism;
	stored[HSM_ID_SIZE + 1] = blob.hash;
	stored[HSM_ID_SIZE + 2] = blob.iv_mode;
	memcpy(stored + HSM_ID_SIZE + 3, blob.bytes, blob.len);
	rc = kms_store_begin(core->store, true);
	if (rc == 0) {
		rc = kms_store_meta_put(core->store, "audit_key", stored, HSM_ID_SIZE + 3u + blob.len);
		if (rc == 0)
			rc = kms_store_commit(core->store);
		else
			kms_store_rollback(core->store);
	}
	return rc < 0 ? base_error_set(err, rc, BASE_EXIT_FAILED, "the audit key cannot be stored: %s", strerror(-rc)) : 0;
}

static int
key_derive(const uint8_t *secret, struct kms_audit_key **ret)
{
	BASE_SECRET_AUTO uint8_t *siv = base_secret_alloc(BASE_SIV_KEY);
	struct kms_audit_key *key = base_secret_alloc(sizeof(*key));
	int rc = siv && key ? 0 : -ENOMEM;

	if (rc == 0)
		rc = base_hkdf_expand(secret, SECRET_SIZE, path_label, sizeof(path_label), siv, BASE_SIV_KEY);
	if (rc == 0)
		rc = base_hkdf_expand(secret, SECRET_SIZE, head_label, sizeof(head_label), key->head, sizeof(key->head));
	if (rc == 0)
		rc = base_siv_new(siv, &key->paths);
	if (rc < 0) {
		base_secret_free(key);
		return rc;
	}
	*ret = key;
	return 0;
}

int
kms_audit_key_load(struct kms_core *core, struct kms_audit_key **ret, struct base_error *err)
{
	BASE_SECRET_AUTO uint8_t *secret = base_secret_alloc(SECRET_SIZE);
	uint8_t aad[sizeof(secret_label) + BASE_ID_SIZE], stored[HSM_ID_SIZE + 3 + HSM_BLOB_MAX];
	struct hsm_blob blob = { 0 };
	size_t len = 0;
	int rc;

	if (!secret)
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "no memory can be locked; raise RLIMIT_MEMLOCK (ulimit -l)");
	rc = kms_store_meta_get(core->store, "audit_key", stored, sizeof(stored), &len);
	if (rc == 0 && len <= HSM_ID_SIZE + 3)
		rc = -EBADMSG;
	if (rc < 0)
		return base_error_set(err, -EBADMSG, BASE_EXIT_INTEGRITY, "%s/keystore.db has no audit key; restore the keystore directory "
				      "from a backup", core->dir);
	blob.mechanism = stored[HSM_ID_SIZE];
	blob.hash = stored[HSM_ID_SIZE + 1];
	blob.iv_mode = stored[HSM_ID_SIZE + 2];
	blob.len = (uint16_t) (len - HSM_ID_SIZE - 3);
	memcpy(blob.bytes, stored + HSM_ID_SIZE + 3, blob.len);
	rc = hsm_unwrap(core->hsm, stored, aad, secret_aad(core, aad), &blob, secret, SECRET_SIZE, err);
	if (rc < 0)
		return rc;
	rc = key_derive(secret, ret);
	return rc < 0 ? base_error_set(err, rc, BASE_EXIT_FAILED, "the audit key cannot be set up: %s", strerror(-rc)) : 0;
}

void
kms_audit_key_free(struct kms_audit_key *key)
{
	if (!key)
		return;
	base_siv_free(key->paths);
	base_secret_free(key);
}
