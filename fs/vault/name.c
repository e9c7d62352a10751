/* Encrypted names (fs/FORMAT.md, "Directories", Names). */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"
#include "vault/path.h"
#include "small.h"

#define LABEL "keepfs v1 name"
#define LABEL_LEN (sizeof(LABEL) - 1)
#define AAD_LEN (LABEL_LEN + BASE_ID_SIZE)
#define HASH_TEXT 43 /* base64url of a SHA-256 */
#define SEALED_MAX (VAULT_NAME_MAX + BASE_SIV_TAG)

static void name_aad(const uint8_t dir_id[BASE_ID_SIZE], uint8_t aad[AAD_LEN])
{
	memcpy(aad, LABEL, LABEL_LEN);
	memcpy(aad + LABEL_LEN, dir_id, BASE_ID_SIZE);
}

static bool valid_clear(const char *name, size_t len)
{
	if (len == 0 || len > VAULT_NAME_MAX || memchr(name, '/', len) || memchr(name, '\0', len))
		return false;
	return !(name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.')));
}

int vault_name_seal(struct vault *v, const uint8_t dir_id[BASE_ID_SIZE], const char *name, struct vault_name *ret)
{
	uint8_t aad[AAD_LEN], hash[32];
	size_t len = strnlen(name, VAULT_NAME_MAX + 1);
	int code;

	if (len > VAULT_NAME_MAX)
		return -ENAMETOOLONG;
	if (!valid_clear(name, len))
		return -EINVAL;
	name_aad(dir_id, aad);
	code = base_siv_seal(vault_keys(v)->name, aad, sizeof(aad), name, len, ret->sealed);
	if (code < 0)
		return code;
	ret->sealed_len = (uint16_t)(len + BASE_SIV_TAG);
	ret->side[0] = '\0';
	if (len <= VAULT_NAME_SHORT) {
		base_b64_encode(ret->sealed, ret->sealed_len, ret->entry);
		return 0;
	}
	code = base_sha256(ret->sealed, ret->sealed_len, hash);
	if (code < 0)
		return code;
	memcpy(ret->entry, "L.", 2);
	base_b64_encode(hash, sizeof(hash), ret->entry + 2);
	memcpy(ret->side, ret->entry, 2 + HASH_TEXT + 1);
	ret->side[0] = 'N';
	return 0;
}

/* The sealed name of a long entry, from its side record: its length, or -EBADMSG. */
static ssize_t read_side(int dirfd, const char *entry, uint8_t sealed[SEALED_MAX])
{
	uint8_t want[32], hash[32];
	char side[2 + HASH_TEXT + 1];
	ssize_t n;
	int code;

	if (base_b64_decode(entry + 2, HASH_TEXT, want, sizeof(want)) != (int)sizeof(want))
		return -EBADMSG;
	memcpy(side, entry, sizeof(side));
	side[0] = 'N';
	n = vault_small_read(dirfd, side, sealed, SEALED_MAX);
	if (n == -ENOENT)
		return -EBADMSG;
	if (n < 0)
		return n;
	if (n <= VAULT_NAME_SHORT + BASE_SIV_TAG || n > SEALED_MAX)
		return -EBADMSG;
	code = base_sha256(sealed, (size_t)n, hash);
	if (code < 0)
		return code;
	return memcmp(hash, want, sizeof(hash)) == 0 ? n : -EBADMSG;
}

enum vault_name_kind vault_name_kind(const char *entry)
{
	size_t len = strlen(entry);
	uint8_t raw[256];

	if (strncmp(entry, "tmp.", 4) == 0)
		return VAULT_NAME_TEMP;
	if (len == 2 + HASH_TEXT && entry[1] == '.' && (entry[0] == 'L' || entry[0] == 'N') &&
	    base_b64_decode(entry + 2, HASH_TEXT, raw, sizeof(raw)) == 32)
		return entry[0] == 'L' ? VAULT_NAME_ENTRY : VAULT_NAME_SIDE;
	return base_b64_decode(entry, len, raw, sizeof(raw)) > BASE_SIV_TAG ? VAULT_NAME_ENTRY : VAULT_NAME_FOREIGN;
}

int vault_name_open(struct vault *v, int dirfd, const uint8_t dir_id[BASE_ID_SIZE], const char *entry, char *ret)
{
	uint8_t aad[AAD_LEN], sealed[SEALED_MAX];
	size_t len = strlen(entry);
	ssize_t n;
	int code;

	if (entry[0] == 'L' && entry[1] == '.' && len == 2 + HASH_TEXT)
		n = read_side(dirfd, entry, sealed);
	else if (memchr(entry, '.', len))
		return -ENOENT;
	else
		n = base_b64_decode(entry, len, sealed, VAULT_NAME_SHORT + BASE_SIV_TAG);
	if (n == -EINVAL || n == -ENOSPC || (n >= 0 && n <= BASE_SIV_TAG))
		return -EBADMSG;
	if (n < 0)
		return (int)n;
	name_aad(dir_id, aad);
	code = base_siv_open(vault_keys(v)->name, aad, sizeof(aad), sealed, (size_t)n, ret);
	if (code < 0)
		return code;
	n -= BASE_SIV_TAG;
	ret[n] = '\0';
	return valid_clear(ret, (size_t)n) ? 0 : -EBADMSG;
}

int vault_name_side_write(int dirfd, const struct vault_name *name)
{
	uint8_t have[SEALED_MAX];
	ssize_t n;
	int code;

	if (!name->side[0])
		return 0;
	/* Durable before the entry: an fsync of the file makes the entry durable, but not this. */
	code = vault_small_make(dirfd, name->side, name->sealed, name->sealed_len, true, (uid_t)-1, (gid_t)-1);
	if (code != -EEXIST)
		return code;
	n = vault_small_read(dirfd, name->side, have, sizeof(have));
	if (n == name->sealed_len && memcmp(have, name->sealed, (size_t)n) == 0)
		return 0;
	return vault_small_replace(dirfd, name->side, name->sealed, name->sealed_len, true);
}

void vault_name_side_drop(int dirfd, const struct vault_name *name)
{
	if (name->side[0])
		unlinkat(dirfd, name->side, 0);
}

int vault_name_temp(char ret[32])
{
	uint8_t random[8];
	int code = base_random(random, sizeof(random));

	if (code < 0)
		return code;
	memcpy(ret, "tmp.", 4);
	base_hex(random, sizeof(random), ret + 4);
	return 0;
}
