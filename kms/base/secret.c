/*
 * Locked memory: regions (mmap, mlock, MADV_DONTDUMP) are cut into blocks of about forty size classes; a freed block is
 * wiped and goes to its class's free list. Large blocks have a region of their own. Locked or nothing: where mlock is
 * refused, the allocation fails.
 */
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <openssl/crypto.h>

#include "base/secret.h"

#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#include <sanitizer/asan_interface.h>
#include <sanitizer/lsan_interface.h>
#define region_watch(p, len) __lsan_register_root_region(p, len)
#define region_unwatch(p, len) __lsan_unregister_root_region(p, len)
#else
#define ASAN_POISON_MEMORY_REGION(p, len) ((void)(p), (void)(len))
#define ASAN_UNPOISON_MEMORY_REGION(p, len) ((void)(p), (void)(len))
#define region_watch(p, len) ((void)0)
#define region_unwatch(p, len) ((void)0)
#endif

#define REGION_SIZE ((size_t)256 << 10)
#define CLASS_MAX ((size_t)32 << 10) /* largest block cut from a shared region, with its header */
#define CLASS_COUNT 40
#define CLASS_LARGE 0xffffu
#define BLOCK_LIVE 0xa11cu
#define BLOCK_FREE 0xf4eeu

struct region {
	struct region *next, *prev;
	size_t size;
	size_t spare;
};

struct block {
	uint16_t class;
	uint16_t state;
	uint32_t reserved;
	union {
		size_t len;         /* live: what was asked for */
		struct block *next; /* free: the list of its class */
	};
};

_Static_assert(sizeof(struct block) == 16 && sizeof(struct region) == 32, "blocks stay 16-byte aligned");

static struct {
	pthread_mutex_t lock; /* guards everything here, and the headers of free blocks */
	struct region *regions;
	struct block *free[CLASS_COUNT];
	uint8_t *cut; /* the uncut rest of the newest shared region */
	size_t cut_left;
	int fork_ready;
	int unlocked; /* a forked child could not lock its copy: nothing more is handed out */
} arena = { .lock = PTHREAD_MUTEX_INITIALIZER };

static unsigned class_of(size_t total, size_t *ret_size)
{
	unsigned power, quarter;
	size_t step;

	if (total <= 128) {
		*ret_size = (total + 15) & ~(size_t)15;
		return (unsigned)(*ret_size / 16 - 1);
	}
	power = 63 - (unsigned)__builtin_clzl(total - 1);
	step = (size_t)1 << (power - 2);
	quarter = (unsigned)((total - 1 - ((size_t)1 << power)) / step);
	*ret_size = ((size_t)1 << power) + (quarter + 1) * step;
	return 8 + (power - 7) * 4 + quarter;
}

static size_t class_size(unsigned class)
{
	unsigned power = 7 + (class - 8) / 4;

	if (class < 8)
		return (size_t)(class + 1) * 16;
	return ((size_t)1 << power) + ((class - 8) % 4 + 1) * ((size_t)1 << (power - 2));
}

/* mlock2 without flags is mlock, but the sanitizers leave it alone (they turn mlock into nothing). */
static int lock_pages(void *p, size_t size)
{
	return mlock2(p, size, 0);
}

static void fork_prepare(void)
{
	pthread_mutex_lock(&arena.lock);
}

static void fork_parent(void)
{
	pthread_mutex_unlock(&arena.lock);
}

/* Memory locks are not inherited by fork(2): take them again. */
static void fork_child(void)
{
	struct region *r;

	for (r = arena.regions; r; r = r->next)
		if (lock_pages(r, r->size) < 0)
			arena.unlocked = 1;
	pthread_mutex_unlock(&arena.lock);
}

static struct region *region_map(size_t size)
{
	struct region *r;

	if (arena.unlocked)
		return NULL;
	if (!arena.fork_ready) {
		if (pthread_atfork(fork_prepare, fork_parent, fork_child) != 0)
			return NULL;
		arena.fork_ready = 1;
	}
	r = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (r == MAP_FAILED)
		return NULL;
	if (madvise(r, size, MADV_DONTDUMP) < 0 || lock_pages(r, size) < 0) {
		int saved = errno;

		munmap(r, size);
		errno = saved;
		return NULL;
	}
	region_watch(r, size);
	r->size = size;
	r->next = arena.regions;
	r->prev = NULL;
	if (r->next)
		r->next->prev = r;
	arena.regions = r;
	return r;
}

static void region_unmap(struct region *r)
{
	if (r->next)
		r->next->prev = r->prev;
	if (r->prev)
		r->prev->next = r->next;
	else
		arena.regions = r->next;
	region_unwatch(r, r->size);
	munmap(r, r->size);
}

static void push_free(struct block *b, unsigned class)
{
	ASAN_UNPOISON_MEMORY_REGION(b, sizeof(*b));
	b->class = (uint16_t)class;
	b->state = BLOCK_FREE;
	b->next = arena.free[class];
	arena.free[class] = b;
}

/* A new shared region that holds at least one block of `size`; the old rest becomes free blocks. */
static int grow(size_t size)
{
	size_t want, least = (size + sizeof(struct region) + 4095) & ~(size_t)4095;
	struct region *r = NULL;
	int class = CLASS_COUNT - 1;

	/* Near the limit a smaller region may still fit. */
	for (want = REGION_SIZE; !r && want >= least; want /= 4)
		r = region_map(want);
	if (!r)
		return -1;
	while (class > 0) {
		size_t piece = class_size((unsigned)class);

		if (piece > arena.cut_left) {
			class--;
			continue;
		}
		push_free((struct block *)arena.cut, (unsigned)class);
		arena.cut += piece;
		arena.cut_left -= piece;
	}
	arena.cut = (uint8_t *)(r + 1);
	arena.cut_left = r->size - sizeof(*r);
	ASAN_POISON_MEMORY_REGION(arena.cut, arena.cut_left);
	return 0;
}

static struct block *take_small(size_t total)
{
	size_t size;
	unsigned class = class_of(total, &size);
	struct block *b;

	b = arena.unlocked ? NULL : arena.free[class];
	if (b) {
		if (b->state != BLOCK_FREE)
			abort();
		arena.free[class] = b->next;
	} else {
		if (arena.unlocked || (arena.cut_left < size && grow(size) < 0))
			return NULL;
		b = (struct block *)arena.cut;
		ASAN_UNPOISON_MEMORY_REGION(b, sizeof(*b));
		arena.cut += size;
		arena.cut_left -= size;
	}
	b->class = (uint16_t)class;
	return b;
}

static struct block *take_large(size_t total)
{
	struct region *r;
	struct block *b;

	if (total > SIZE_MAX / 2)
		return NULL;
	r = region_map((total + sizeof(*r) + 4095) & ~(size_t)4095);
	if (!r)
		return NULL;
	b = (struct block *)(r + 1);
	b->class = CLASS_LARGE;
	return b;
}

void *base_secret_alloc(size_t len)
{
	struct block *b;

	if (len > SIZE_MAX - sizeof(*b)) {
		errno = ENOMEM;
		return NULL;
	}
	pthread_mutex_lock(&arena.lock);
	b = len + sizeof(*b) <= CLASS_MAX ? take_small(len + sizeof(*b) + (len == 0)) : take_large(len + sizeof(*b));
	pthread_mutex_unlock(&arena.lock);
	if (!b) {
		errno = ENOMEM;
		return NULL;
	}
	b->state = BLOCK_LIVE;
	b->len = len;
	ASAN_UNPOISON_MEMORY_REGION(b + 1, len);
	return b + 1; /* zero: fresh from mmap, or wiped whole when it was freed */
}

static struct block *live_block(void *ptr)
{
	struct block *b = (struct block *)ptr - 1;

	if (b->state != BLOCK_LIVE) /* a double free, or not ours: going on would hand one block to two owners */
		abort();
	return b;
}

void base_secret_free(void *ptr)
{
	struct block *b;
	size_t room;

	if (!ptr)
		return;
	b = live_block(ptr);
	if (b->class == CLASS_LARGE) {
		explicit_bzero(ptr, b->len);
		pthread_mutex_lock(&arena.lock);
		region_unmap((struct region *)b - 1);
		pthread_mutex_unlock(&arena.lock);
		return;
	}
	room = class_size(b->class) - sizeof(*b);
	ASAN_UNPOISON_MEMORY_REGION(ptr, room);
	explicit_bzero(ptr, room);
	ASAN_POISON_MEMORY_REGION(ptr, room);
	pthread_mutex_lock(&arena.lock);
	push_free(b, b->class);
	pthread_mutex_unlock(&arena.lock);
}

void base_secret_wipe(void *ptr, size_t len)
{
	explicit_bzero(ptr, len);
}

int base_secret_equal(const void *a, const void *b, size_t len)
{
	return CRYPTO_memcmp(a, b, len) == 0;
}

void base_secret_cleanup(void *pointer_to_pointer)
{
	void **p = pointer_to_pointer;

	base_secret_free(*p);
	*p = NULL;
}

static void *openssl_malloc(size_t len, const char *file, int line)
{
	return len ? base_secret_alloc(len) : NULL;
}

static void openssl_free(void *ptr, const char *file, int line)
{
	base_secret_free(ptr);
}

static void *openssl_realloc(void *ptr, size_t len, const char *file, int line)
{
	struct block *b;
	size_t size;
	void *to;

	if (!ptr || !len) {
		base_secret_free(ptr);
		return len ? base_secret_alloc(len) : NULL;
	}
	b = live_block(ptr);
	if (b->class != CLASS_LARGE && len <= CLASS_MAX - sizeof(*b) && class_of(len + sizeof(*b), &size) == b->class) {
		ASAN_UNPOISON_MEMORY_REGION(ptr, size - sizeof(*b));
		if (len < b->len)
			explicit_bzero((uint8_t *)ptr + len, b->len - len);
		ASAN_POISON_MEMORY_REGION((uint8_t *)ptr + len, size - sizeof(*b) - len);
		ASAN_UNPOISON_MEMORY_REGION(ptr, len);
		b->len = len;
		return ptr;
	}
	to = base_secret_alloc(len);
	if (!to)
		return NULL;
	memcpy(to, ptr, len < b->len ? len : b->len);
	base_secret_free(ptr);
	return to;
}

static int check_first_region(struct base_error *err)
{
	struct rlimit limit = { 0 };
	void *p;

	if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_MEMLOCK, &limit);
	}
	p = base_secret_alloc(1 << 20); /* OpenSSL alone needs half of it: less would only fail later */
	if (!p)
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED,
				      "cannot lock memory for keys: RLIMIT_MEMLOCK is %llu KiB; raise it (ulimit -l, or "
				      "LimitMEMLOCK= in the unit) to 64 MiB or more",
				      (unsigned long long)limit.rlim_cur / 1024);
	base_secret_free(p);
	return 0;
}

int base_secret_setup(struct base_error *err)
{
	/* Guards done; two threads may race to be first. */
	static pthread_mutex_t setup_lock = PTHREAD_MUTEX_INITIALIZER;
	static int done;
	const struct rlimit none = { 0, 0 };
	int ret = 0;

	pthread_mutex_lock(&setup_lock);
	if (done)
		goto out;
	if (prctl(PR_SET_DUMPABLE, 0) < 0 || setrlimit(RLIMIT_CORE, &none) < 0) {
		ret = base_error_set(err, -errno, BASE_EXIT_FAILED, "cannot switch core dumps off: %s", strerror(errno));
		goto out;
	}
	ret = check_first_region(err);
	if (ret < 0)
		goto out;
	if (!CRYPTO_set_mem_functions(openssl_malloc, openssl_realloc, openssl_free)) {
		ret = base_error_set(err, -EALREADY, BASE_EXIT_FAILED,
				     "OpenSSL was used before its memory could be locked; base_secret_setup must run first");
		goto out;
	}
	done = 1;
out:
	pthread_mutex_unlock(&setup_lock);
	return ret;
}
