/* Sealed user.* xattrs (fs/FORMAT.md, "Directories", Xattrs). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#include "internal.h"

#define NAME_LABEL "keepfs v1 xname"
#define VALUE_LABEL "keepfs v1 xvalue"
#define LABEL_LEN(label) (sizeof(label) - 1)
#define CLEAR_PREFIX "user."
#define PREFIX "user.keepfs."
#define PREFIX_LEN (sizeof(PREFIX) - 1)
#define NAME_CAP 256         /* XATTR_NAME_MAX and its NUL */
#define NAME_MAX_CLEAR 166   /* what fits NAME_CAP when sealed, without "user." */
#define VALUE_CAP 65536      /* XATTR_SIZE_MAX */
#define LIST_CAP 65536       /* XATTR_LIST_MAX */
#define SALT 12
#define OVERHEAD (SALT + BASE_SIV_TAG + 1)
#define VALUE_AAD (LABEL_LEN(VALUE_LABEL) + BASE_ID_SIZE + SALT + NAME_MAX_CLEAR)

void vault_xattr_dir(const struct vault *v, const uint8_t dir_id[BASE_ID_SIZE], struct vault_xattr *ret)
{
	ret->siv = vault_keys(v)->xattr;
	memcpy(ret->id, dir_id, BASE_ID_SIZE);
}

static void name_aad(const struct vault_xattr *x, uint8_t aad[LABEL_LEN(NAME_LABEL) + BASE_ID_SIZE])
{
	memcpy(aad, NAME_LABEL, LABEL_LEN(NAME_LABEL));
	memcpy(aad + LABEL_LEN(NAME_LABEL), x->id, BASE_ID_SIZE);
}

/* "user.NAME" to its stored name. */
static int seal_name(const struct vault_xattr *x, const char *name, char ret[NAME_CAP])
{
	uint8_t aad[LABEL_LEN(NAME_LABEL) + BASE_ID_SIZE], raw[BASE_SIV_TAG + NAME_MAX_CLEAR];
	size_t len;
	int code;

	if (strncmp(name, CLEAR_PREFIX, LABEL_LEN(CLEAR_PREFIX)) != 0)
		return -EOPNOTSUPP;
	name += LABEL_LEN(CLEAR_PREFIX);
	len = strlen(name);
	if (len == 0)
		return -EINVAL;
	if (len > NAME_MAX_CLEAR)
		return -ENAMETOOLONG;
	name_aad(x, aad);
	code = base_siv_seal(x->siv, aad, sizeof(aad), name, len, raw);
	if (code < 0)
		return code;
	memcpy(ret, PREFIX, PREFIX_LEN);
	base_b64_encode(raw, len + BASE_SIV_TAG, ret + PREFIX_LEN);
	return 0;
}

/* A stored name to "user.NAME": its length without the NUL, or -EBADMSG. */
static int open_name(const struct vault_xattr *x, const char *stored, char ret[NAME_CAP])
{
	uint8_t aad[LABEL_LEN(NAME_LABEL) + BASE_ID_SIZE], raw[BASE_SIV_TAG + NAME_MAX_CLEAR];
	int n = base_b64_decode(stored + PREFIX_LEN, strlen(stored + PREFIX_LEN), raw, sizeof(raw)), code;
	char *clear = ret + LABEL_LEN(CLEAR_PREFIX);

	if (n <= BASE_SIV_TAG)
		return -EBADMSG;
	name_aad(x, aad);
	memcpy(ret, CLEAR_PREFIX, LABEL_LEN(CLEAR_PREFIX));
	code = base_siv_open(x->siv, aad, sizeof(aad), raw, (size_t)n, clear);
	if (code < 0)
		return code;
	n -= BASE_SIV_TAG;
	clear[n] = '\0';
	return memchr(clear, '\0', (size_t)n) ? -EBADMSG : n + (int)LABEL_LEN(CLEAR_PREFIX);
}

/* aad: VALUE_AAD bytes; its length. name is "user.NAME" and short enough (seal_name has seen it). */
static size_t value_aad(const struct vault_xattr *x, const uint8_t salt[SALT], const char *name, uint8_t *aad)
{
	size_t len = strlen(name + LABEL_LEN(CLEAR_PREFIX)), at = LABEL_LEN(VALUE_LABEL);

	memcpy(aad, VALUE_LABEL, at);
	memcpy(aad + at, x->id, BASE_ID_SIZE);
	memcpy(aad + at + BASE_ID_SIZE, salt, SALT);
	memcpy(aad + at + BASE_ID_SIZE + SALT, name + LABEL_LEN(CLEAR_PREFIX), len);
	return at + BASE_ID_SIZE + SALT + len;
}

static ssize_t open_value(const struct vault_xattr *x, const char *name, const uint8_t *raw, ssize_t raw_len, void *value, size_t size)
{
	uint8_t aad[VALUE_AAD], *plain;
	size_t aad_len, len = (size_t)raw_len - SALT - BASE_SIV_TAG;
	ssize_t ret;

	if (raw_len < OVERHEAD)
		return -EBADMSG;
	if (size != 0 && len - 1 > size)
		return -ERANGE;
	plain = malloc(len);
	if (!plain)
		return -ENOMEM;
	aad_len = value_aad(x, raw, name, aad);
	ret = base_siv_open(x->siv, aad, aad_len, raw + SALT, (size_t)raw_len - SALT, plain);
	if (ret == 0 && plain[0] != 0)
		ret = -EBADMSG;
	if (ret == 0) {
		if (size != 0)
			memcpy(value, plain + 1, len - 1);
		ret = (ssize_t)len - 1;
	}
	free(plain);
	return ret;
}

ssize_t vault_xattr_get(const struct vault_xattr *x, int fd, const char *name, void *value, size_t size)
{
	char stored[NAME_CAP];
	uint8_t *raw;
	ssize_t n;
	int code = seal_name(x, name, stored);

	if (code < 0)
		return code == -ENAMETOOLONG ? -ENODATA : code;
	raw = malloc(VALUE_CAP);
	if (!raw)
		return -ENOMEM;
	n = fgetxattr(fd, stored, raw, VALUE_CAP);
	n = n < 0 ? -errno : open_value(x, name, raw, n, value, size);
	free(raw);
	return n;
}

/* All names of fd, NUL-separated, to be freed; their length or -errno. */
static ssize_t stored_names(int fd, char **ret)
{
	ssize_t n = flistxattr(fd, NULL, 0);

	*ret = NULL;
	if (n <= 0)
		return n < 0 ? -errno : 0;
	*ret = malloc(LIST_CAP);
	if (!*ret)
		return -ENOMEM;
	n = flistxattr(fd, *ret, LIST_CAP);
	if (n >= 0)
		return n;
	n = -errno;
	free(*ret);
	*ret = NULL;
	return n;
}

ssize_t vault_xattr_list(const struct vault_xattr *x, int fd, char *list, size_t size)
{
	char *names, *p, clear[NAME_CAP];
	ssize_t n = stored_names(fd, &names), used = 0;
	int len;

	if (n < 0)
		return n;
	for (p = names; p && p < names + n; p += strlen(p) + 1) {
		if (strncmp(p, PREFIX, PREFIX_LEN) != 0)
			continue;
		len = open_name(x, p, clear);
		if (len < 0) {
			used = len;
			break;
		}
		len++;
		if (size != 0 && (size_t)(used + len) > size) {
			used = -ERANGE;
			break;
		}
		if (size != 0)
			memcpy(list + used, clear, (size_t)len);
		used += len;
	}
	free(names);
	return used;
}

int vault_xattr_set(const struct vault_xattr *x, int fd, const char *name, const void *value, size_t size, int flags)
{
	char stored[NAME_CAP];
	uint8_t aad[VALUE_AAD], *raw, *plain;
	int code = seal_name(x, name, stored);

	if (code < 0)
		return code;
	if (size > VALUE_CAP - OVERHEAD)
		return -E2BIG;
	raw = malloc(OVERHEAD + size + 1 + size);
	if (!raw)
		return -ENOMEM;
	plain = raw + OVERHEAD + size;
	plain[0] = 0;
	if (size)
		memcpy(plain + 1, value, size);
	code = base_random(raw, SALT);
	if (code == 0)
		code = base_siv_seal(x->siv, aad, value_aad(x, raw, name, aad), plain, size + 1, raw + SALT);
	if (code == 0 && fsetxattr(fd, stored, raw, OVERHEAD + size, flags) < 0)
		code = -errno;
	free(raw);
	return code;
}

int vault_xattr_remove(const struct vault_xattr *x, int fd, const char *name)
{
	char stored[NAME_CAP];
	int code = seal_name(x, name, stored);

	if (code < 0)
		return code == -ENAMETOOLONG ? -ENODATA : code;
	return fremovexattr(fd, stored) < 0 ? -errno : 0;
}

int vault_xattr_any(int fd)
{
	char *names, *p;
	ssize_t n = stored_names(fd, &names);
	int any = 0;

	if (n < 0)
		return (int)n;
	for (p = names; p && p < names + n && !any; p += strlen(p) + 1)
		any = strncmp(p, PREFIX, PREFIX_LEN) == 0;
	free(names);
	return any;
}

/* One sealed xattr: 0, or -EBADMSG. One that went meanwhile is fine. */
static int check_one(const struct vault_xattr *x, int fd, const char *stored, uint8_t *raw)
{
	char clear[NAME_CAP];
	int code = open_name(x, stored, clear);
	ssize_t n;

	if (code < 0)
		return code;
	n = fgetxattr(fd, stored, raw, VALUE_CAP);
	if (n < 0)
		return errno == ENODATA ? 0 : -errno;
	n = open_value(x, clear, raw, n, NULL, 0);
	return n < 0 ? (int)n : 0;
}

/* A name goes into advice that people paste into a shell: nothing but what it can hold as it is. */
static void show_name(const char *stored, char *ret, size_t cap)
{
	snprintf(ret, cap, "%s", stored);
	for (; *ret; ret++)
		if (!strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-", *ret))
			*ret = '?';
}

int vault_xattr_check(const struct vault_xattr *x, int fd, char *ret, size_t cap)
{
	char *names, *p;
	uint8_t *raw = NULL;
	ssize_t n = stored_names(fd, &names);
	int bad = 0, code = 0;

	for (p = names; code == 0 && p && p < names + n; p += strlen(p) + 1) {
		if (strncmp(p, CLEAR_PREFIX, LABEL_LEN(CLEAR_PREFIX)) != 0)
			continue;
		if (!raw && !(raw = malloc(VALUE_CAP)))
			code = -ENOMEM;
		if (code == 0)
			code = strncmp(p, PREFIX, PREFIX_LEN) == 0 ? check_one(x, fd, p, raw) : -EBADMSG;
		if (code == -EBADMSG) {
			if (bad++ == 0)
				show_name(p, ret, cap);
			code = 0;
		}
	}
	free(raw);
	free(names);
	return n < 0 ? (int)n : code < 0 ? code : bad;
}
