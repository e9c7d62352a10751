/* Names, links and xattrs: round trips, boundaries, and every flipped bit refused. */
#include "fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

static const uint8_t DIR_A[BASE_ID_SIZE] = "directory A id.", DIR_B[BASE_ID_SIZE] = "directory B id.";

static int open_entry(const uint8_t *dir, const char *entry, char *clear)
{
	return vault_name_open(fx.v, vault_root_fd(fx.v), dir, entry, clear);
}

static void round_trip(const char *name)
{
	char clear[VAULT_NAME_MAX + 1];
	struct vault_name sealed;

	assert_int_equal(vault_name_seal(fx.v, DIR_A, name, &sealed), 0);
	assert_true(strlen(sealed.entry) <= 255);
	assert_null(strchr(sealed.entry, '/'));
	assert_int_equal(vault_name_kind(sealed.entry), VAULT_NAME_ENTRY);
	assert_int_equal(sealed.side[0] != '\0', strlen(name) > VAULT_NAME_SHORT);
	assert_int_equal(vault_name_side_write(vault_root_fd(fx.v), &sealed), 0);
	assert_int_equal(open_entry(DIR_A, sealed.entry, clear), 0);
	assert_string_equal(clear, name);
	assert_int_equal(open_entry(DIR_B, sealed.entry, clear), -EBADMSG);
	vault_name_side_drop(vault_root_fd(fx.v), &sealed);
}

static void test_names(void **state)
{
	char name[VAULT_NAME_MAX + 2];
	size_t len, i;

	srandom(7);
	for (len = 1; len <= VAULT_NAME_MAX; len++) {
		for (i = 0; i < len; i++)
			do
				name[i] = (char)random();
			while (name[i] == '/' || name[i] == '\0' || (len < 3 && name[i] == '.'));
		name[len] = '\0';
		round_trip(name);
	}
	round_trip("a\nb");
	round_trip("\xff\xfe");
	round_trip("...");
	round_trip(".hidden");
	memset(name, 'x', VAULT_NAME_MAX + 1);
	name[VAULT_NAME_MAX + 1] = '\0';
	struct vault_name sealed;
	assert_int_equal(vault_name_seal(fx.v, DIR_A, name, &sealed), -ENAMETOOLONG);
	assert_int_equal(vault_name_seal(fx.v, DIR_A, "", &sealed), -EINVAL);
	assert_int_equal(vault_name_seal(fx.v, DIR_A, ".", &sealed), -EINVAL);
	assert_int_equal(vault_name_seal(fx.v, DIR_A, "..", &sealed), -EINVAL);
	assert_int_equal(vault_name_seal(fx.v, DIR_A, "a/b", &sealed), -EINVAL);
}

static void test_boundary(void **state)
{
	struct vault_name s175, s176;
	char name[177];

	memset(name, 'n', sizeof(name));
	name[176] = '\0';
	assert_int_equal(vault_name_seal(fx.v, DIR_A, name, &s176), 0);
	name[175] = '\0';
	assert_int_equal(vault_name_seal(fx.v, DIR_A, name, &s175), 0);
	assert_int_equal(strlen(s175.entry), 255);
	assert_int_equal(s175.side[0], '\0');
	assert_int_equal(strlen(s176.entry), 45);
	assert_memory_equal(s176.entry, "L.", 2);
	assert_memory_equal(s176.side, "N.", 2);
	assert_string_equal(s176.entry + 2, s176.side + 2);
}

static void test_name_bits(void **state)
{
	static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
	char clear[VAULT_NAME_MAX + 1], entry[256];
	struct vault_name sealed;
	size_t at, bit;

	assert_int_equal(vault_name_seal(fx.v, DIR_A, "some name", &sealed), 0);
	for (bit = 0; bit < 8u * sealed.sealed_len; bit++) {
		sealed.sealed[bit / 8] ^= (uint8_t)(1 << bit % 8);
		base_b64_encode(sealed.sealed, sealed.sealed_len, entry);
		assert_int_equal(open_entry(DIR_A, entry, clear), -EBADMSG);
		sealed.sealed[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	/* Text that decodes to the same bytes, or to none, is not the name either. */
	memcpy(entry, sealed.entry, sizeof(entry));
	for (at = 0; entry[at]; at++) {
		char was = entry[at];
		size_t i;

		for (i = 0; i < 64; i++) {
			entry[at] = alphabet[i];
			if (entry[at] != was)
				assert_int_equal(open_entry(DIR_A, entry, clear), -EBADMSG);
		}
		entry[at] = '+';
		assert_int_equal(open_entry(DIR_A, entry, clear), -EBADMSG);
		entry[at] = was;
	}
	strcat(entry, "A");
	assert_int_equal(open_entry(DIR_A, entry, clear), -EBADMSG);
	strcat(entry, "=");
	assert_int_equal(open_entry(DIR_A, entry, clear), -EBADMSG);
}

static void test_not_entries(void **state)
{
	static const char *const names[] = { VAULT_CONFIG_NAME, VAULT_RECORD_NAME, "tmp.0123456789abcdef", "readme.txt", "L.short",
					     "N.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" };
	char clear[VAULT_NAME_MAX + 1];
	size_t i;

	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		assert_int_equal(open_entry(DIR_A, names[i], clear), -ENOENT);
	assert_int_equal(open_entry(DIR_A, "README", clear), -EBADMSG);
	assert_int_equal(open_entry(DIR_A, "", clear), -EBADMSG);
	assert_int_equal(vault_name_kind("README"), VAULT_NAME_FOREIGN);
	assert_int_equal(vault_name_kind("tmp.x"), VAULT_NAME_TEMP);
	assert_int_equal(vault_name_kind(VAULT_CONFIG_NAME), VAULT_NAME_FOREIGN);
}

static void test_side_record(void **state)
{
	char name[201], clear[VAULT_NAME_MAX + 1], path[256];
	struct vault_name sealed;
	int root = vault_root_fd(fx.v);

	memset(name, 'y', 200);
	name[200] = '\0';
	assert_int_equal(vault_name_seal(fx.v, DIR_A, name, &sealed), 0);
	assert_int_equal(open_entry(DIR_A, sealed.entry, clear), -EBADMSG); /* no side record */
	snprintf(path, sizeof(path), "%s/%s", fx.path, sealed.side);
	fixture_write(path, "torn", 4);
	assert_int_equal(open_entry(DIR_A, sealed.entry, clear), -EBADMSG);
	assert_int_equal(vault_name_side_write(root, &sealed), 0); /* mends it */
	assert_int_equal(vault_name_side_write(root, &sealed), 0);
	assert_int_equal(open_entry(DIR_A, sealed.entry, clear), 0);
	assert_string_equal(clear, name);
	sealed.sealed[3] ^= 1;
	fixture_write(path, sealed.sealed, sealed.sealed_len);
	assert_int_equal(open_entry(DIR_A, sealed.entry, clear), -EBADMSG);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(open_entry(DIR_A, sealed.entry, clear), -EBADMSG);
	vault_name_side_drop(root, &sealed);
	assert_int_equal(access(path, F_OK), -1);
}

static void test_links(void **state)
{
	char target[VAULT_LINK_MAX + 2], sealed[4096], again[4096], clear[4096];
	size_t len;

	for (len = 1; len <= VAULT_LINK_MAX; len += len < 10 || len > VAULT_LINK_MAX - 5 ? 1 : 97) {
		memset(target, 't', len);
		target[len] = '\0';
		assert_int_equal(vault_link_seal(fx.v, target, sealed), 0);
		assert_true(strlen(sealed) <= 4095);
		assert_int_equal(vault_link_size((off_t)strlen(sealed)), (int)len);
		assert_int_equal(vault_link_open(fx.v, sealed, clear, sizeof(clear)), 0);
		assert_string_equal(clear, target);
	}
	memset(target, 't', VAULT_LINK_MAX + 1);
	target[VAULT_LINK_MAX + 1] = '\0';
	assert_int_equal(vault_link_seal(fx.v, target, sealed), -ENAMETOOLONG);
	assert_int_equal(vault_link_seal(fx.v, "", sealed), -ENOENT);
	assert_int_equal(vault_link_seal(fx.v, "../x", sealed), 0);
	assert_int_equal(vault_link_seal(fx.v, "../x", again), 0);
	assert_string_not_equal(sealed, again);
	assert_int_equal(vault_link_open(fx.v, "/etc/passwd", clear, sizeof(clear)), -EBADMSG);
	assert_int_equal(vault_link_open(fx.v, "", clear, sizeof(clear)), -EBADMSG);
	assert_int_equal(vault_link_open(fx.v, sealed, clear, 4), -ENAMETOOLONG);
}

static void test_link_bits(void **state)
{
	char sealed[4096], bent[4096], clear[4096];
	uint8_t raw[256];
	int n, bit;

	assert_int_equal(vault_link_seal(fx.v, "target/of/a/link", sealed), 0);
	n = base_b64_decode(sealed, strlen(sealed), raw, sizeof(raw));
	assert_int_equal(n, 12 + 16 + 16);
	for (bit = 0; bit < 8 * n; bit++) {
		raw[bit / 8] ^= (uint8_t)(1 << bit % 8);
		base_b64_encode(raw, (size_t)n, bent);
		assert_int_equal(vault_link_open(fx.v, bent, clear, sizeof(clear)), -EBADMSG);
		raw[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
}

static int temp_file(void)
{
	char path[96];
	int fd;

	snprintf(path, sizeof(path), "%s/xattr-XXXXXX", fx.dir);
	fd = mkstemp(path);
	assert_true(fd >= 0);
	unlink(path);
	return fd;
}

static void test_xattrs(void **state)
{
	static const char want[] = "user.one\0user.empty";
	struct vault_xattr x, other;
	char value[64], list[256];
	int fd = temp_file();

	vault_xattr_dir(fx.v, DIR_A, &x);
	vault_xattr_dir(fx.v, DIR_B, &other);
	assert_int_equal(vault_xattr_any(fd), 0);
	assert_int_equal(vault_xattr_set(&x, fd, "user.one", "value", 5, 0), 0);
	assert_int_equal(vault_xattr_set(&x, fd, "user.empty", "", 0, XATTR_CREATE), 0);
	assert_int_equal(vault_xattr_set(&x, fd, "user.one", "v", 1, XATTR_CREATE), -EEXIST);
	assert_int_equal(vault_xattr_set(&x, fd, "user.two", "v", 1, XATTR_REPLACE), -ENODATA);
	assert_int_equal(vault_xattr_any(fd), 1);
	assert_int_equal(vault_xattr_get(&x, fd, "user.one", NULL, 0), 5);
	assert_int_equal(vault_xattr_get(&x, fd, "user.one", value, 4), -ERANGE);
	assert_int_equal(vault_xattr_get(&x, fd, "user.one", value, sizeof(value)), 5);
	assert_memory_equal(value, "value", 5);
	assert_int_equal(vault_xattr_get(&x, fd, "user.empty", value, sizeof(value)), 0);
	assert_int_equal(vault_xattr_get(&x, fd, "user.none", value, sizeof(value)), -ENODATA);
	assert_int_equal(vault_xattr_list(&x, fd, NULL, 0), sizeof(want));
	assert_int_equal(vault_xattr_list(&x, fd, list, sizeof(want) - 1), -ERANGE);
	assert_int_equal(vault_xattr_list(&x, fd, list, sizeof(list)), sizeof(want));
	assert_non_null(memmem(list, sizeof(want), "user.one", 9));
	assert_non_null(memmem(list, sizeof(want), "user.empty", 11));
	/* Bound to their owner. */
	assert_int_equal(vault_xattr_get(&other, fd, "user.one", value, sizeof(value)), -ENODATA);
	assert_int_equal(vault_xattr_list(&other, fd, list, sizeof(list)), -EBADMSG);
	assert_int_equal(vault_xattr_remove(&x, fd, "user.one"), 0);
	assert_int_equal(vault_xattr_remove(&x, fd, "user.one"), -ENODATA);
	close(fd);
}

/* The stored name of the only sealed xattr. */
static void stored(int fd, char name[256])
{
	char list[1024], *p;
	ssize_t n = flistxattr(fd, list, sizeof(list));

	name[0] = '\0';
	for (p = list; p < list + n; p += strlen(p) + 1)
		if (strncmp(p, "user.keepfs.", 12) == 0)
			strcpy(name, p);
	assert_true(name[0] != '\0');
}

static void test_xattr_bits(void **state)
{
	struct vault_xattr x;
	char name[256], clear[16];
	uint8_t raw[128], list[256];
	int fd = temp_file(), from = temp_file();
	ssize_t n, bit;

	vault_xattr_dir(fx.v, DIR_A, &x);
	assert_int_equal(vault_xattr_set(&x, fd, "user.a", "hello", 5, 0), 0);
	stored(fd, name);
	n = fgetxattr(fd, name, raw, sizeof(raw));
	assert_int_equal(n, 12 + 16 + 1 + 5);
	for (bit = 0; bit < 8 * n; bit++) {
		raw[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_int_equal(fsetxattr(fd, name, raw, (size_t)n, 0), 0);
		assert_int_equal(vault_xattr_get(&x, fd, "user.a", clear, sizeof(clear)), -EBADMSG);
		raw[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	assert_int_equal(fsetxattr(fd, name, raw, 12, 0), 0); /* cut short */
	assert_int_equal(vault_xattr_get(&x, fd, "user.a", clear, sizeof(clear)), -EBADMSG);
	/* The value of one name under another. */
	assert_int_equal(vault_xattr_set(&x, from, "user.b", "other", 5, 0), 0);
	stored(from, (char *)list);
	n = fgetxattr(from, (char *)list, raw, sizeof(raw));
	assert_int_equal(fsetxattr(fd, name, raw, (size_t)n, 0), 0);
	assert_int_equal(vault_xattr_get(&x, fd, "user.a", clear, sizeof(clear)), -EBADMSG);
	/* A name that no key made. */
	assert_int_equal(fsetxattr(fd, "user.keepfs.AAAA", "x", 1, 0), 0);
	assert_int_equal(vault_xattr_list(&x, fd, (char *)list, sizeof(list)), -EBADMSG);
	close(fd);
	close(from);
}

static void test_xattr_limits(void **state)
{
	struct vault_xattr x;
	char name[260] = "user.", *big = calloc(1, 65536), stored_name[256];
	int fd = temp_file();

	assert_non_null(big);
	vault_xattr_dir(fx.v, DIR_A, &x);
	memset(name + 5, 'n', 166);
	assert_int_equal(vault_xattr_set(&x, fd, name, "v", 1, 0), 0);
	stored(fd, stored_name);
	assert_int_equal(strlen(stored_name), 255);
	name[171] = 'n';
	assert_int_equal(vault_xattr_set(&x, fd, name, "v", 1, 0), -ENAMETOOLONG);
	assert_int_equal(vault_xattr_get(&x, fd, name, NULL, 0), -ENODATA);
	assert_int_equal(vault_xattr_set(&x, fd, "user.big", big, 65536 - 28, 0), -E2BIG);
	assert_int_equal(vault_xattr_set(&x, fd, "user.", "v", 1, 0), -EINVAL);
	assert_int_equal(vault_xattr_set(&x, fd, "trusted.x", "v", 1, 0), -EOPNOTSUPP);
	free(big);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names), cmocka_unit_test(test_boundary), cmocka_unit_test(test_name_bits), cmocka_unit_test(test_not_entries),
		cmocka_unit_test(test_side_record), cmocka_unit_test(test_links), cmocka_unit_test(test_link_bits), cmocka_unit_test(test_xattrs),
		cmocka_unit_test(test_xattr_bits), cmocka_unit_test(test_xattr_limits),
	};

	return cmocka_run_group_tests(tests, fixture_up, fixture_down);
}
