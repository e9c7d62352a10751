/*
 * Where do secrets stay? After a login, a wrap and an unwrap, no page of this process that is not locked may hold the PIN
 * or the file key. Searches /proc/self/mem in every readable mapping without the VmFlag "lo".
 */
#include <fcntl.h>
#include <pthread.h>
#include <sys/prctl.h>

#include "common.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

#define WINDOW ((size_t)1 << 20)

struct needle {
	const char *name;
	uint8_t *bytes; /* secret memory */
	size_t len;
	int found;
};

static uint8_t *window; /* secret memory: what is read from the process is as secret as what is sought */

/* A window overlaps the next by the length of the needle. */
static void search_range(int mem, unsigned long from, unsigned long to, const char *title, struct needle *n)
{
	unsigned long at = from;

	while (at < to) {
		size_t want = to - at < WINDOW ? to - at : WINDOW;
		ssize_t got = pread(mem, window, want, (off_t)at);
		uint8_t *p = window;

		if (got <= 0)
			return;
		while ((p = memmem(p, (size_t)got - (size_t)(p - window), n->bytes, n->len))) {
			print_message("%s at %lx in %s", n->name, at + (unsigned long)(p - window), title);
			n->found++;
			p++;
		}
		at += (size_t)got > n->len && at + (size_t)got < to ? (size_t)got - n->len : (size_t)got;
	}
}

static int search(struct needle *needles, size_t count)
{
	static char line[512], title[512];
	static char stdio[4096]; /* not on the heap, so that the search allocates nothing */
	unsigned long from = 0, to = 0;
	FILE *maps = fopen("/proc/self/smaps", "re");
	int mem = open("/proc/self/mem", O_RDONLY | O_CLOEXEC), readable = 0, searched = 0;
	size_t i;

	assert_non_null(maps);
	assert_true(mem >= 0);
	setvbuf(maps, stdio, _IOFBF, sizeof(stdio));
	while (fgets(line, sizeof(line), maps)) {
		unsigned long a, b;
		char mode[5];

		if (sscanf(line, "%lx-%lx %4s", &a, &b, mode) == 3) {
			from = a;
			to = b;
			readable = mode[0] == 'r' && !strstr(line, "[v");
			strcpy(title, line);
		} else if (strncmp(line, "VmFlags:", 8) == 0 && readable && !strstr(line, " lo")) {
			searched++;
			for (i = 0; i < count; i++)
				search_range(mem, from, to, title, &needles[i]);
		}
	}
	fclose(maps);
	close(mem);
	assert_true(searched > 10);
	return searched;
}

/* The search would find what it looks for. */
static void test_search_works(void **state)
{
	struct needle n = { .name = "planted (expected)", .bytes = base_secret_alloc(32), .len = 32 };
	uint8_t *heap = malloc(32);

	assert_non_null(heap);
	base_random(n.bytes, 32);
	search(&n, 1);
	assert_int_equal(n.found, 0);
	memcpy(heap, n.bytes, 32);
	search(&n, 1);
	assert_true(n.found >= 1);
	base_secret_wipe(heap, 32);
	free(heap);
	base_secret_free(n.bytes);
}

struct use {
	struct hsm *h;
	const uint8_t *id;
	uint8_t *dek, *out;
};

static void *use_key(void *arg)
{
	struct use *u = arg;
	struct hsm_blob blob, bad;
	int i;

	for (i = 0; i < 20; i++) {
		assert_int_equal(hsm_wrap(u->h, u->id, "aad", 3, u->dek, 32, &blob, NULL), 0);
		assert_int_equal(hsm_unwrap(u->h, u->id, "aad", 3, &blob, u->out, 32, NULL), 0);
		bad = blob;
		bad.bytes[20] ^= 1;
		assert_int_equal(hsm_unwrap(u->h, u->id, "aad", 3, &bad, u->out, 32, NULL), -EBADMSG);
		assert_int_equal(hsm_unwrap(u->h, u->id, "aad", 3, &blob, u->out, 32, NULL), 0);
	}
	return NULL;
}

static void test_nothing_stays_behind(void **state)
{
	struct fixture *f = *state;
	struct needle needles[] = {
		{ .name = "PIN", .bytes = (uint8_t *)f->pin, .len = strlen(f->pin) },
		{ .name = "SO PIN", .bytes = (uint8_t *)f->so_pin, .len = strlen(f->so_pin) },
		{ .name = "file key", .bytes = base_secret_alloc(32), .len = 32 },
	};
	struct hsm *h = fixture_open(f);
	uint8_t id[HSM_ID_SIZE];
	struct use u = { h, id, needles[2].bytes, base_secret_alloc(32) };
	pthread_t thread;
	size_t i;

	fixture_key(h, id);
	base_random(u.dek, 32);
	use_key(&u);
	assert_int_equal(pthread_create(&thread, NULL, use_key, &u), 0);
	pthread_join(thread, NULL);
	search(needles, 3);
	assert_int_equal(hsm_seal(h, NULL), 0);
	use_key(&u);
	assert_int_equal(f->asked, 2);
	hsm_close(h);
	search(needles, 3);
	assert_memory_equal(u.out, u.dek, 32); /* last: comparing takes both through registers */
	for (i = 0; i < 3; i++)
		assert_int_equal(needles[i].found, 0);
	base_secret_free(u.out);
	base_secret_free(u.dek);
}

static int before_all(void **state)
{
	struct base_error err;

	assert_int_equal(base_secret_setup(&err), 0);
	/* An undumpable process may not look at its own /proc files unless it is root. */
	prctl(PR_SET_DUMPABLE, 1);
	window = base_secret_alloc(WINDOW);
	assert_non_null(window);
	return 0;
}

static int after_all(void **state)
{
	base_secret_free(window);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_search_works),
		cmocka_unit_test_setup_teardown(test_nothing_stays_behind, fixture_make, fixture_remove),
	};

	if (SANITIZED) {
		print_message("skipped: the sanitizers keep their own copies\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, before_all, after_all);
}
