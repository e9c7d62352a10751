#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/error.h"

static void test_little_endian(void **state)
{
	uint8_t b[8];

	base_put64(b, UINT64_C(0x0102030405060708));
	assert_memory_equal(b, "\x08\x07\x06\x05\x04\x03\x02\x01", 8);
	assert_int_equal(base_get64(b), UINT64_C(0x0102030405060708));
	assert_int_equal(base_get32(b), 0x05060708);
	assert_int_equal(base_get16(b), 0x0708);
	assert_true(base_is_zero("\0\0\0", 3));
	assert_true(base_is_zero("x", 0));
	assert_false(base_is_zero("\0\0\1", 3));
	assert_false(base_is_zero("\1\0\0", 3));
}

static void test_hex(void **state)
{
	uint8_t b[4];
	char text[9];

	assert_string_equal(base_hex("\x00\xab\x10\xff", 4, text), "00ab10ff");
	assert_int_equal(base_unhex("00AB10ff", b, 4), 0);
	assert_memory_equal(b, "\x00\xab\x10\xff", 4);
	assert_int_equal(base_unhex("00ab10f", b, 4), -EINVAL);
	assert_int_equal(base_unhex("00ab10ff0", b, 4), -EINVAL);
	assert_int_equal(base_unhex("00ab10fg", b, 4), -EINVAL);
	assert_int_equal(base_unhex("", b, 4), -EINVAL);
}

static void test_b64_vectors(void **state)
{
	/* RFC 4648 section 10, without padding, and the two letters of the URL alphabet. */
	static const struct {
		const char *plain, *text;
	} vectors[] = {
		{ "", "" }, { "f", "Zg" }, { "fo", "Zm8" }, { "foo", "Zm9v" }, { "foob", "Zm9vYg" }, { "fooba", "Zm9vYmE" },
		{ "foobar", "Zm9vYmFy" }, { "\xfb\xff\xfe", "-__-" },
	};
	uint8_t back[16];
	char text[32];
	size_t i;

	for (i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
		size_t len = strlen(vectors[i].plain);

		assert_int_equal(base_b64_encode(vectors[i].plain, len, text), strlen(vectors[i].text));
		assert_string_equal(text, vectors[i].text);
		assert_true(strlen(text) < BASE_B64_SIZE(len));
		assert_int_equal(base_b64_decode(text, strlen(text), back, sizeof(back)), (int)len);
		assert_memory_equal(back, vectors[i].plain, len);
	}
	assert_int_equal(base_b64_decode("Zm9vYmFy", 8, back, 5), -ENOSPC);
	assert_int_equal(base_b64_decode("Zm9vYmFy", 8, back, 6), 6);
}

static void test_b64_only_canonical(void **state)
{
	static const char *const bad[] = {
		"A", "Zg==", "Zg=", "Zh", "Zm9", "Zm9vY", "Zm 9v", "Zm9v\n", "+__-", "/__-", "Zm8=", "Zm9vYh", "Z\xc3\xa4",
	};
	uint8_t back[16];
	size_t i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(base_b64_decode(bad[i], strlen(bad[i]), back, sizeof(back)), -EINVAL);
	assert_int_equal(base_b64_decode("Zg\0\0", 4, back, sizeof(back)), -EINVAL);
}

/* Every text of two and three letters either is what the encoder makes of its bytes, or is refused. */
static void test_b64_one_text_per_value(void **state)
{
	char text[4] = { 0 }, again[8];
	uint8_t back[4];
	int a, b, c, n, taken = 0;

	for (a = 1; a < 128; a++)
		for (b = 1; b < 128; b++)
			for (c = 0; c < 128; c++) {
				text[0] = (char)a;
				text[1] = (char)b;
				text[2] = (char)c;
				n = base_b64_decode(text, strlen(text), back, sizeof(back));
				if (n < 0)
					continue;
				taken++;
				base_b64_encode(back, (size_t)n, again);
				assert_string_equal(text, again);
			}
	assert_int_equal(taken, 256 + 65536);
}

static void test_durations(void **state)
{
	assert_int_equal(base_parse_duration("90"), 90);
	assert_int_equal(base_parse_duration("0"), 0);
	assert_int_equal(base_parse_duration("90s"), 90);
	assert_int_equal(base_parse_duration("5m"), 300);
	assert_int_equal(base_parse_duration("12h"), 43200);
	assert_int_equal(base_parse_duration("14d"), 1209600);
	assert_int_equal(base_parse_duration("2w"), 1209600);
	assert_int_equal(base_parse_duration(""), -EINVAL);
	assert_int_equal(base_parse_duration("h"), -EINVAL);
	assert_int_equal(base_parse_duration("-5s"), -EINVAL);
	assert_int_equal(base_parse_duration(" 5s"), -EINVAL);
	assert_int_equal(base_parse_duration("5s "), -EINVAL);
	assert_int_equal(base_parse_duration("5y"), -EINVAL);
	assert_int_equal(base_parse_duration("1.5h"), -EINVAL);
	assert_int_equal(base_parse_duration("99999999999999999999"), -ERANGE);
	assert_int_equal(base_parse_duration("9223372036854775807w"), -ERANGE);
}

static void test_sizes(void **state)
{
	assert_int_equal(base_parse_size("4096"), 4096);
	assert_int_equal(base_parse_size("64KiB"), 65536);
	assert_int_equal(base_parse_size("1M"), 1048576);
	assert_int_equal(base_parse_size("1MiB"), 1048576);
	assert_int_equal(base_parse_size("2GiB"), INT64_C(2147483648));
	assert_int_equal(base_parse_size("3T"), INT64_C(3298534883328));
	assert_int_equal(base_parse_size("1KB"), -EINVAL);
	assert_int_equal(base_parse_size("1k"), -EINVAL);
	assert_int_equal(base_parse_size("0x10"), -EINVAL);
	assert_int_equal(base_parse_size("MiB"), -EINVAL);
	assert_int_equal(base_parse_size("9007199254740992GiB"), -ERANGE);
}

static void test_clock_text(void **state)
{
	char text[BASE_CLOCK_TEXT];
	uint64_t ns, now;

	assert_int_equal(base_clock_parse("2026-11-21T22:19:48.123456Z", &ns), 0);
	assert_int_equal(ns, UINT64_C(1795299588123456000));
	assert_string_equal(base_clock_format(ns, text), "2026-11-21T22:19:48.123456Z");
	assert_string_equal(base_clock_format(0, text), "1970-01-01T00:00:00.000000Z");
	assert_int_equal(base_clock_parse("2026-11-21", &ns), 0);
	assert_string_equal(base_clock_format(ns, text), "2026-11-21T00:00:00.000000Z");
	assert_int_equal(base_clock_parse("2024-02-29T23:59:59+00:00", &ns), 0);
	assert_string_equal(base_clock_format(ns, text), "2024-02-29T23:59:59.000000Z");
	assert_int_equal(base_clock_parse("2h", &ns), 0);
	now = base_clock_real_ns();
	assert_in_range(now - ns, UINT64_C(7200000000000), UINT64_C(7210000000000));
}

static void test_clock_refusals(void **state)
{
	static const char *const bad[] = {
		"", "2026", "yesterday", "2026-02-30", "2025-02-29", "2026-13-01", "2026-00-01", "2026-01-00", "2026-1-1", "1969-12-31",
		"2026-11-21T22:19:48", "2026-11-21T22:19:48+01:00", "2026-11-21T24:00:00Z", "2026-11-21T23:60:00Z",
		"2026-11-21T23:59:60Z", "2026-11-21T22:19:48.Z", "2026-11-21T22:19:48.1234567890Z", "2026-11-21 22:19:48Z",
		"2026-11-21T22:19:48ZZ", "2026-11-21x", "-2h", "9999999999w", "9999-01-01",
	};
	uint64_t ns;
	size_t i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (base_clock_parse(bad[i], &ns) != -EINVAL)
			fail_msg("\"%s\" was taken for a time", bad[i]);
}

static void test_clocks(void **state)
{
	uint8_t boot[16], again[16];
	uint64_t a = base_clock_mono_ns();

	assert_true(base_clock_mono_ns() >= a);
	assert_int_equal(base_clock_boot_id(boot), 0);
	assert_int_equal(base_clock_boot_id(again), 0);
	assert_memory_equal(boot, again, 16);
	assert_false(base_is_zero(boot, 16));
}

static void test_error(void **state)
{
	struct base_error err = { 0 };
	char *filler = malloc(2000);

	assert_int_equal(base_error_set(NULL, -EIO, BASE_EXIT_FAILED, "x"), -EIO);
	assert_int_equal(base_error_set(&err, -ENOENT, BASE_EXIT_NOT_FOUND, "no key \"%s\"", "a\nb\x1b[2J"), -ENOENT);
	assert_string_equal(err.text, "no key \"a b [2J\"");
	assert_int_equal(err.code, -ENOENT);
	assert_int_equal(err.exit, BASE_EXIT_NOT_FOUND);
	memset(filler, 'x', 1999);
	filler[1999] = '\0';
	base_error_set(&err, -EIO, BASE_EXIT_FAILED, "%s", filler);
	assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
	free(filler);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_little_endian), cmocka_unit_test(test_hex), cmocka_unit_test(test_b64_vectors),
		cmocka_unit_test(test_b64_only_canonical), cmocka_unit_test(test_b64_one_text_per_value),
		cmocka_unit_test(test_durations), cmocka_unit_test(test_sizes), cmocka_unit_test(test_clock_text),
		cmocka_unit_test(test_clock_refusals), cmocka_unit_test(test_clocks), cmocka_unit_test(test_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
