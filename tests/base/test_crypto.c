#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/crypto.h"
#include "base/secret.h"

static void unhex(const char *text, uint8_t *out)
{
	assert_int_equal(base_unhex(text, out, strlen(text) / 2), 0);
}

static void test_sha256(void **state)
{
	uint8_t want[32], got[32];

	unhex("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", want);
	assert_int_equal(base_sha256("abc", 3, got), 0);
	assert_memory_equal(got, want, 32);
}

/* RFC 5869, appendices A.1 to A.3: the expand step. */
static void test_hkdf_expand(void **state)
{
	static const struct {
		const char *prk, *info, *okm;
	} vectors[] = {
		{ "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5", "f0f1f2f3f4f5f6f7f8f9",
		  "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865" },
		{ "06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244",
		  "b0b1b2b3b4b5b6b7b8b9babbbcbdbebfc0c1c2c3c4c5c6c7c8c9cacbcccdcecfd0d1d2d3d4d5d6d7d8d9dadbdcdddedf"
		  "e0e1e2e3e4e5e6e7e8e9eaebecedeeeff0f1f2f3f4f5f6f7f8f9fafbfcfdfeff",
		  "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
		  "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87" },
		{ "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04", "",
		  "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8" },
	};
	uint8_t prk[32], info[128], okm[128], got[128];
	size_t i;

	for (i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
		size_t len = strlen(vectors[i].okm) / 2;

		unhex(vectors[i].prk, prk);
		unhex(vectors[i].info, info);
		unhex(vectors[i].okm, okm);
		assert_int_equal(base_hkdf_expand(prk, 32, info, strlen(vectors[i].info) / 2, got, len), 0);
		assert_memory_equal(got, okm, len);
	}
	assert_int_equal(base_hkdf_expand(prk, 31, info, 1, got, 32), -EINVAL);
	assert_int_equal(base_hkdf_expand(prk, 32, info, 1, got, 8161), -EINVAL);
}

/* The associated data and plaintext of RFC 5297 A.1 with a 512-bit key: the AES-SIV-CMAC-512 vector that other libraries carry. */
static void test_siv_vector(void **state)
{
	uint8_t key[64], aad[24], plain[14], want[30], got[30], back[14];
	struct base_siv *siv;

	unhex("fffefdfcfbfaf9f8f7f6f5f4f3f2f1f06f6e6d6c6b6a69686766656463626160"
	      "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff000102030405060708090a0b0c0d0e0f", key);
	unhex("101112131415161718191a1b1c1d1e1f2021222324252627", aad);
	unhex("112233445566778899aabbccddee", plain);
	unhex("f125274c598065cfc26b0e71575029088b035217e380cac8919ee800c126", want);
	assert_int_equal(base_siv_new(key, &siv), 0);
	assert_int_equal(base_siv_seal(siv, aad, 24, plain, 14, got), 0);
	assert_memory_equal(got, want, 30);
	assert_int_equal(base_siv_open(siv, aad, 24, got, 30, back), 0);
	assert_memory_equal(back, plain, 14);
	base_siv_free(siv);
	base_siv_free(NULL);
}

static struct base_siv *random_siv(void)
{
	BASE_SECRET_AUTO uint8_t *key = base_secret_alloc(BASE_SIV_KEY);
	struct base_siv *siv;

	assert_int_equal(base_random(key, BASE_SIV_KEY), 0);
	assert_int_equal(base_siv_new(key, &siv), 0);
	return siv;
}

static void test_siv_refuses(void **state)
{
	struct base_siv *siv = random_siv(), *other = random_siv();
	uint8_t plain[40], sealed[56], back[40];
	size_t i;

	assert_int_equal(base_random(plain, sizeof(plain)), 0);
	assert_int_equal(base_siv_seal(siv, "aad", 3, plain, 40, sealed), 0);
	for (i = 0; i < sizeof(sealed); i++) {
		sealed[i] ^= 0x40;
		memset(back, 0xff, sizeof(back));
		assert_int_equal(base_siv_open(siv, "aad", 3, sealed, 56, back), -EBADMSG);
		assert_true(base_is_zero(back, sizeof(back)));
		sealed[i] ^= 0x40;
	}
	assert_int_equal(base_siv_open(siv, "aae", 3, sealed, 56, back), -EBADMSG);
	assert_int_equal(base_siv_open(siv, "aa", 2, sealed, 56, back), -EBADMSG);
	assert_int_equal(base_siv_open(siv, "aad", 3, sealed, 55, back), -EBADMSG);
	assert_int_equal(base_siv_open(other, "aad", 3, sealed, 56, back), -EBADMSG);
	assert_int_equal(base_siv_open(siv, "aad", 3, sealed, 16, back), -EINVAL);
	assert_int_equal(base_siv_open(siv, "aad", 3, sealed, 56, back), 0);
	assert_memory_equal(back, plain, 40);
	assert_int_equal(base_siv_seal(siv, "aad", 3, plain, 0, sealed), -EINVAL);
	assert_int_equal(base_siv_seal(siv, "", 0, plain, 40, sealed), -EINVAL);
	base_siv_free(siv);
	base_siv_free(other);
}

static void *seal_and_open(void *arg)
{
	uint8_t plain[100], sealed[116], back[100];
	uintptr_t failed = 0;
	size_t i, len;

	for (i = 0; i < 3000; i++) {
		len = i % 100 + 1;
		base_random(plain, len);
		if (base_siv_seal(arg, &i, sizeof(i), plain, len, sealed) < 0 ||
		    base_siv_open(arg, &i, sizeof(i), sealed, len + 16, back) < 0 || memcmp(plain, back, len) != 0)
			failed++;
	}
	return (void *)failed;
}

static void test_siv_threads(void **state)
{
	struct base_siv *siv = random_siv();
	pthread_t threads[4];
	void *failed;
	int i;

	for (i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, seal_and_open, siv), 0);
	for (i = 0; i < 4; i++) {
		pthread_join(threads[i], &failed);
		assert_null(failed);
	}
	base_siv_free(siv);
}

static long locked_kib(void)
{
	FILE *f = fopen("/proc/self/status", "re");
	char line[256];
	long kib = -1;

	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		sscanf(line, "VmLck: %ld", &kib);
	fclose(f);
	return kib;
}

/* Leaks into locked memory are invisible to leak checkers: the arena must stop growing. */
static void test_siv_keeps_nothing(void **state)
{
	struct base_siv *siv = random_siv();
	uint8_t sealed[56], back[40] = { 0 };
	uint64_t start;
	long before;
	int i;

	assert_int_equal(base_siv_seal(siv, "a", 1, back, 40, sealed), 0);
	before = locked_kib();
	start = base_clock_mono_ns();
	for (i = 0; i < 20000; i++) {
		assert_int_equal(base_siv_seal(siv, "a", 1, back, 40, sealed), 0);
		assert_int_equal(base_siv_open(siv, "a", 1, sealed, 56, back), 0);
	}
	print_message("bench: %.2f us for a SIV seal and open of 40 bytes\n", (double)(base_clock_mono_ns() - start) / 20000e3);
	for (i = 0; i < 2000; i++)
		base_siv_free(random_siv());
	assert_true(locked_kib() <= before + 256);
	base_siv_free(siv);
}

static int before_all(void **state)
{
	struct base_error err;

	return base_secret_setup(&err);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sha256), cmocka_unit_test(test_hkdf_expand), cmocka_unit_test(test_siv_vector),
		cmocka_unit_test(test_siv_refuses), cmocka_unit_test(test_siv_threads), cmocka_unit_test(test_siv_keeps_nothing),
	};

	return cmocka_run_group_tests(tests, before_all, NULL);
}
