/*
 * fs/vault/buf.c: whole-buffer I/O and the threads' buffers.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "content.h"

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;

struct iobuf {
	size_t len;
	uint8_t *bytes;
};

static void iobuf_free(void *arg)
{
	struct iobuf *b = arg;

	free(b->bytes);
	free(b);
}

static void make_key(void)
{
	if (pthread_key_create(&key, iobuf_free) != 0)
		abort();
}

uint8_t *vault_iobuf(size_t len)
{
	struct iobuf *b;

	pthread_once(&once, make_key);
	b = pthread_getspecific(key);
	if (!b) {
		if (!(b = calloc(1, sizeof(*b))))
			return NULL;
		if (pthread_setspecific(key, b) != 0) {
			free(b);
			return NULL;
		}
	}
	if (b->len < len) {
		free(b->bytes);
		b->len = 0;
		b->bytes = aligned_alloc(VAULT_PAGE, (len + VAULT_PAGE - 1) / VAULT_PAGE * VAULT_PAGE);
		if (!b->bytes)
			return NULL;
		b->len = len;
	}
	return b->bytes;
}

int vault_pread_zero(int fd, void *buf, size_t len, uint64_t off)
{
	uint8_t *p = buf;

	while (len > 0) {
		ssize_t n = pread(fd, p, len, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0) {
			memset(p, 0, len);
			return 0;
		}
		p += n;
		len -= (size_t)n;
		off += (size_t)n;
	}
	return 0;
}

int vault_pwrite_all(int fd, const void *buf, size_t len, uint64_t off, size_t *done)
{
	const uint8_t *p = buf;
	size_t at = 0;
	int r = 0;

	while (at < len) {
		ssize_t n = pwrite(fd, p + at, len - at, (off_t)(off + at));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			r = n < 0 ? -errno : -EIO;
			break;
		}
		at += (size_t)n;
	}
	if (done)
		*done = at;
	return r;
}
