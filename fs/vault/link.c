/* Symlink targets (fs/FORMAT.md, "Directories", Symlinks). */
#include <errno.h>
#include <string.h>

#include "internal.h"

#define LABEL "keepfs v1 link"
#define LABEL_LEN (sizeof(LABEL) - 1)
#define SALT 12
#define OVERHEAD (SALT + BASE_SIV_TAG)

static void link_aad(const uint8_t salt[SALT], uint8_t aad[LABEL_LEN + SALT])
{
	memcpy(aad, LABEL, LABEL_LEN);
	memcpy(aad + LABEL_LEN, salt, SALT);
}

int vault_link_seal(struct vault *v, const char *target, char *ret)
{
	uint8_t raw[VAULT_LINK_MAX + OVERHEAD], aad[LABEL_LEN + SALT];
	size_t len = strnlen(target, VAULT_LINK_MAX + 1);
	int code;

	if (len == 0)
		return -ENOENT;
	if (len > VAULT_LINK_MAX)
		return -ENAMETOOLONG;
	code = base_random(raw, SALT);
	if (code < 0)
		return code;
	link_aad(raw, aad);
	code = base_siv_seal(vault_keys(v)->link, aad, sizeof(aad), target, len, raw + SALT);
	if (code < 0)
		return code;
	base_b64_encode(raw, len + OVERHEAD, ret);
	return 0;
}

int vault_link_open(struct vault *v, const char *sealed, char *ret, size_t cap)
{
	uint8_t raw[VAULT_LINK_MAX + OVERHEAD], aad[LABEL_LEN + SALT];
	int n = base_b64_decode(sealed, strlen(sealed), raw, sizeof(raw)), code;
	size_t len;

	if (n <= OVERHEAD)
		return -EBADMSG;
	len = (size_t)n - OVERHEAD;
	if (len >= cap)
		return -ENAMETOOLONG;
	link_aad(raw, aad);
	code = base_siv_open(vault_keys(v)->link, aad, sizeof(aad), raw + SALT, len + BASE_SIV_TAG, ret);
	if (code < 0)
		return code;
	ret[len] = '\0';
	return memchr(ret, '\0', len) ? -EBADMSG : 0;
}

off_t vault_link_size(off_t backing_size)
{
	off_t raw = backing_size / 4 * 3 + backing_size % 4 * 3 / 4;

	return raw > OVERHEAD ? raw - OVERHEAD : 0;
}
