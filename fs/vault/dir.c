/* Directory records, mkdir and rmdir (fs/FORMAT.md, "Directories"). */
#include <errno.h>
#include <string.h>

#include "internal.h"
#include "mkdir.h"
#include "small.h"

#define MAGIC "KEEPFSD1"
#define FORMAT 1
#define LABEL "keepfs v1 dir"
#define LABEL_LEN (sizeof(LABEL) - 1)
#define RECORD_SIZE 160
#define PLAIN_LEN 128
#define SEALED_AT 16

static void record_aad(const struct vault *v, uint8_t aad[LABEL_LEN + BASE_ID_SIZE])
{
	memcpy(aad, LABEL, LABEL_LEN);
	memcpy(aad + LABEL_LEN, vault_id(v), BASE_ID_SIZE);
}

static int record_encode(const struct vault *v, const struct vault_dir *dir, uint8_t out[RECORD_SIZE])
{
	uint8_t aad[LABEL_LEN + BASE_ID_SIZE], plain[PLAIN_LEN] = { 0 };

	base_put64(plain, dir->generation);
	memcpy(plain + 8, dir->id, BASE_ID_SIZE);
	memcpy(plain + 24, dir->zone, BASE_ID_SIZE);
	memcpy(plain + 40, dir->parent, BASE_ID_SIZE);
	memcpy(plain + 56, dir->parent2, BASE_ID_SIZE);
	memset(out, 0, RECORD_SIZE);
	memcpy(out, MAGIC, 8);
	base_put16(out + 8, FORMAT);
	record_aad(v, aad);
	return base_siv_seal(vault_keys(v)->record, aad, sizeof(aad), plain, sizeof(plain), out + SEALED_AT);
}

static int record_decode(const struct vault *v, const uint8_t in[RECORD_SIZE], struct vault_dir *ret)
{
	uint8_t aad[LABEL_LEN + BASE_ID_SIZE], plain[PLAIN_LEN];
	int code;

	if (memcmp(in, MAGIC, 8) != 0 || base_get16(in + 8) != FORMAT || !base_is_zero(in + 10, 6))
		return -EBADMSG;
	record_aad(v, aad);
	code = base_siv_open(vault_keys(v)->record, aad, sizeof(aad), in + SEALED_AT, BASE_SIV_TAG + PLAIN_LEN, plain);
	if (code < 0)
		return code;
	if (!base_is_zero(plain + 72, 56))
		return -EBADMSG;
	ret->generation = base_get64(plain);
	memcpy(ret->id, plain + 8, BASE_ID_SIZE);
	memcpy(ret->zone, plain + 24, BASE_ID_SIZE);
	memcpy(ret->parent, plain + 40, BASE_ID_SIZE);
	memcpy(ret->parent2, plain + 56, BASE_ID_SIZE);
	return 0;
}

int vault_dir_read(struct vault *v, int dirfd, const uint8_t *parent_id, struct vault_dir *ret)
{
	uint8_t record[RECORD_SIZE];
	ssize_t n = vault_small_read(dirfd, VAULT_RECORD_NAME, record, sizeof(record));
	int code;

	if (n < 0)
		return n == -ENOENT ? -EBADMSG : (int)n;
	if (n != RECORD_SIZE)
		return -EBADMSG;
	code = record_decode(v, record, ret);
	if (code < 0 || !parent_id)
		return code;
	if (memcmp(ret->parent, parent_id, BASE_ID_SIZE) != 0 &&
	    (base_is_zero(ret->parent2, BASE_ID_SIZE) || memcmp(ret->parent2, parent_id, BASE_ID_SIZE) != 0))
		return -EBADMSG;
	/* A rename that a crash cut short: whoever holds the directory now is its parent, and the next record says so. */
	memcpy(ret->parent, parent_id, BASE_ID_SIZE);
	memset(ret->parent2, 0, BASE_ID_SIZE);
	return 0;
}

static int store(struct vault *v, int dirfd, struct vault_dir *dir, bool fresh, uid_t uid, gid_t gid, bool sync)
{
	uint8_t record[RECORD_SIZE];
	int code;

	dir->generation++;
	code = record_encode(v, dir, record);
	if (code == 0)
		code = fresh ? vault_small_make(dirfd, VAULT_RECORD_NAME, record, sizeof(record), sync, uid, gid) :
			       vault_small_replace(dirfd, VAULT_RECORD_NAME, record, sizeof(record), sync);
	if (code < 0)
		dir->generation--;
	return code;
}

int vault_dir_write(struct vault *v, int dirfd, struct vault_dir *dir, bool sync)
{
	int code;

	vault_half_begin(v);
	code = store(v, dirfd, dir, false, (uid_t)-1, (gid_t)-1, sync);
	vault_half_end(v);
	return code;
}

int vault_dir_store(struct vault *v, int dirfd, struct vault_dir *dir)
{
	return store(v, dirfd, dir, false, (uid_t)-1, (gid_t)-1, true);
}

int vault_dir_record_new(struct vault *v, int dirfd, struct vault_dir *dir, uid_t uid, gid_t gid)
{
	return store(v, dirfd, dir, true, uid, gid, true);
}

int vault_dir_move(struct vault *v, int dirfd, struct vault_dir *dir, const uint8_t new_parent_id[BASE_ID_SIZE], int phase)
{
	struct vault_dir old = *dir;
	int code;

	if (phase == 0)
		memcpy(dir->parent2, new_parent_id, BASE_ID_SIZE);
	else
		memset(dir->parent2, 0, BASE_ID_SIZE);
	if (phase > 0)
		memcpy(dir->parent, new_parent_id, BASE_ID_SIZE);
	code = vault_dir_write(v, dirfd, dir, true);
	/* Afterwards the record on disk names both parents when it could not be written: what holds it now is what the caller goes on with. */
	if (code < 0 && phase == 0)
		*dir = old;
	return code;
}
