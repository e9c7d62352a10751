#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "base/bytes.h"
#include "base/secret.h"

/* Reading what was freed is the very thing that address sanitizer stops. */
#if defined(__SANITIZE_ADDRESS__)
#define ASAN 1
#else
#define ASAN 0
#endif

/* Does the mapping that holds p carry this two-letter VmFlag? */
static int has_flag(const void *p, const char *flag)
{
	unsigned long at = (unsigned long)p, from = 0, to = 0, a, b;
	FILE *f = fopen("/proc/self/smaps", "re");
	char line[512], word[8];
	int found = 0;

	assert_non_null(f);
	snprintf(word, sizeof(word), " %s", flag);
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &a, &b) == 2) {
			from = a;
			to = b;
		} else if (strncmp(line, "VmFlags:", 8) == 0 && at >= from && at < to) {
			found = strstr(line, word) != NULL;
		}
	}
	fclose(f);
	return found;
}

static void test_setup(void **state)
{
	struct base_error err = { 0 };
	struct rlimit core;

	assert_int_equal(base_secret_setup(&err), 0);
	assert_int_equal(base_secret_setup(&err), 0);
	assert_int_equal(getrlimit(RLIMIT_CORE, &core), 0);
	assert_int_equal(core.rlim_cur, 0);
	assert_int_equal(prctl(PR_GET_DUMPABLE), 0);
	prctl(PR_SET_DUMPABLE, 1); /* /proc/self stays readable for these tests */
}

static void test_locked_and_not_dumped(void **state)
{
	static const size_t sizes[] = { 1, 100, 5000, 40000, 300000 };
	void *plain = malloc(16), *p, *other;
	size_t i;

	assert_false(has_flag(plain, "lo"));
	free(plain);
	for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		p = base_secret_alloc(sizes[i]);
		assert_non_null(p);
		assert_true(has_flag(p, "lo"));
		assert_true(has_flag(p, "dd"));
		base_secret_free(p);
	}
	p = OPENSSL_malloc(100);
	other = EVP_CIPHER_CTX_new();
	assert_true(has_flag(p, "lo"));
	assert_true(has_flag(other, "lo"));
	OPENSSL_free(p);
	EVP_CIPHER_CTX_free(other);
}

static void test_zeroed_aligned_wiped(void **state)
{
	size_t len;
	uint8_t *p;

	for (len = 0; len < 70000; len += len < 600 ? 1 : 997) {
		p = base_secret_alloc(len);
		assert_non_null(p);
		assert_int_equal((uintptr_t)p % 16, 0);
		assert_true(base_is_zero(p, len));
		memset(p, 0xa5, len);
		base_secret_free(p);
		if (!ASAN && len > 0 && len < 30000)
			assert_true(base_is_zero(p, len)); /* the block stays mapped on its free list */
	}
	base_secret_free(NULL);
}

static void test_blocks_do_not_overlap(void **state)
{
	enum { COUNT = 3000 };
	static uint8_t *blocks[COUNT];
	static size_t lens[COUNT];
	size_t i, k;

	srandom(1);
	for (i = 0; i < COUNT * 4; i++) {
		k = (size_t)random() % COUNT;
		if (blocks[k]) {
			for (size_t j = 0; j < lens[k]; j++)
				assert_int_equal(blocks[k][j], (uint8_t)k);
			base_secret_free(blocks[k]);
		}
		lens[k] = (size_t)random() % (k % 100 == 0 ? 20000 : 400) + 1;
		blocks[k] = base_secret_alloc(lens[k]);
		assert_non_null(blocks[k]);
		memset(blocks[k], (int)k, lens[k]);
	}
	for (i = 0; i < COUNT; i++)
		base_secret_free(blocks[i]);
}

static void test_openssl_realloc(void **state)
{
	static const size_t sizes[] = { 10, 12, 300, 5000, 50000, 200000, 700, 20, 3 };
	uint8_t *p = OPENSSL_malloc(10);
	size_t i, j, had = 10;

	memset(p, 0x5a, 10);
	for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		p = OPENSSL_realloc(p, sizes[i]);
		assert_non_null(p);
		for (j = 0; j < (had < sizes[i] ? had : sizes[i]); j++)
			assert_int_equal(p[j], 0x5a);
		memset(p, 0x5a, sizes[i]);
		had = sizes[i];
	}
	OPENSSL_free(p);
}

static void *churn(void *arg)
{
	uint8_t *held[64] = { 0 };
	uintptr_t failed = 0;
	int i;

	for (i = 0; i < 20000; i++) {
		size_t slot = (size_t)(i * 7) % 64, len = (size_t)(i * 13) % 900 + 1;

		if (held[slot] && held[slot][0] != (uint8_t)(uintptr_t)arg)
			failed++;
		base_secret_free(held[slot]);
		held[slot] = base_secret_alloc(len);
		if (!held[slot])
			return (void *)1;
		if (!base_is_zero(held[slot], len))
			failed++;
		memset(held[slot], (int)(uintptr_t)arg, len);
	}
	for (i = 0; i < 64; i++)
		base_secret_free(held[i]);
	return (void *)failed;
}

static void test_many_threads(void **state)
{
	pthread_t threads[8];
	void *failed;
	size_t i;

	for (i = 0; i < 8; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, churn, (void *)(i + 1)), 0);
	for (i = 0; i < 8; i++) {
		pthread_join(threads[i], &failed);
		assert_null(failed);
	}
}

static void *alloc_for_ever(void *arg)
{
	while (!__atomic_load_n((int *)arg, __ATOMIC_RELAXED))
		base_secret_free(base_secret_alloc(64));
	return NULL;
}

/* A child has its own locks to take, and must not find the arena's mutex held by a thread that it does not have. */
static void test_fork(void **state)
{
	void *p = base_secret_alloc(100);
	int i, stop = 0, status;
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, alloc_for_ever, &stop), 0);
	for (i = 0; i < 20; i++) {
		pid_t pid = fork();

		assert_true(pid >= 0);
		if (pid == 0) {
			void *q = base_secret_alloc(50000);

			_exit(q && has_flag(p, "lo") && has_flag(q, "lo") && has_flag(q, "dd") ? 0 : 1);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(status, 0);
	}
	__atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	base_secret_free(p);
}

static unsigned long locked_bytes(void)
{
	FILE *f = fopen("/proc/self/status", "re");
	unsigned long kib = 0;
	char line[256];

	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		sscanf(line, "VmLck: %lu", &kib);
	fclose(f);
	return kib << 10;
}

/* Locked or nothing. */
static void test_limit(void **state)
{
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (pid == 0) {
		unsigned long all = locked_bytes() + (1 << 20);
		struct rlimit limit = { all, all };
		int i, n = 0;

		/* Root is above the limit; nobody is not. */
		if (setrlimit(RLIMIT_MEMLOCK, &limit) < 0 || (geteuid() == 0 && setuid(65534) < 0))
			_exit(2);
		for (i = 0; i < 64; i++)
			n += base_secret_alloc(64 << 10) != NULL;
		_exit(n > 0 && n < 17 ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void test_equal_and_cleanup(void **state)
{
	BASE_SECRET_AUTO char *p = base_secret_alloc(4);

	assert_true(base_secret_equal("abcd", "abcd", 4));
	assert_false(base_secret_equal("abcd", "abce", 4));
	memcpy(p, "abc", 4);
	base_secret_wipe(p, 4);
	assert_true(base_is_zero(p, 4));
	base_secret_cleanup(&p);
	assert_null(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_setup), cmocka_unit_test(test_locked_and_not_dumped),
		cmocka_unit_test(test_zeroed_aligned_wiped), cmocka_unit_test(test_blocks_do_not_overlap),
		cmocka_unit_test(test_openssl_realloc), cmocka_unit_test(test_many_threads), cmocka_unit_test(test_fork),
		cmocka_unit_test(test_limit), cmocka_unit_test(test_equal_and_cleanup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
