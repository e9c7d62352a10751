/*
 * fs/vault/read.c: reading content, and where it is.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "content.h"

#define READ_CHUNK 256 /* blocks at a time: 1 MiB */

int vault_read_block(struct vault_file *f, struct vault_cipher *c, uint64_t block, const struct vault_slot *slot, uint8_t out[VAULT_PAGE])
{
	unsigned len = META_LEN(slot->meta);
	int r;

	memset(out, 0, VAULT_PAGE);
	if (slot->meta == 0)
		return 0;
	r = vault_pread_zero(f->fd, out, len, vault_page_of(block) * VAULT_PAGE);
	if (r == 0)
		r = vault_cipher_open(c, f, block, slot, out, out);
	if (r != 0)
		memset(out, 0, VAULT_PAGE);
	return r;
}

/* Blocks [block, block + n) whose data pages lie side by side; off and len are within them. */
static int read_run(struct vault_file *f, struct vault_cipher *c, uint64_t block, unsigned n, const struct vault_slot *slots, uint8_t *pages)
{
	unsigned first = n, last = 0;
	int r;

	for (unsigned i = 0; i < n; i++)
		if (slots[i].meta) {
			first = first == n ? i : first;
			last = i;
		}
	if (first < n) {
		r = vault_pread_zero(f->fd, pages + first * VAULT_PAGE, (size_t)(last - first) * VAULT_PAGE + META_LEN(slots[last].meta),
				     vault_page_of(block + first) * VAULT_PAGE);
		if (r != 0)
			return r;
	}
	for (unsigned i = 0; i < n; i++) {
		unsigned len = META_LEN(slots[i].meta);

		if (slots[i].meta) {
			r = vault_cipher_open(c, f, block + i, &slots[i], pages + i * VAULT_PAGE, pages + i * VAULT_PAGE);
			if (r != 0)
				return r == -EBADMSG ? vault_broken(f, (int64_t)(block + i), "a block does not authenticate") : r;
		}
		memset(pages + i * VAULT_PAGE + len, 0, VAULT_PAGE - len);
	}
	return 0;
}

/* Blocks from `block` on, at most max, whose data pages lie side by side. */
static unsigned run_length(uint64_t block, uint64_t max)
{
	uint64_t end = vault_run_end(block);

	return (unsigned)(end - block < max ? end - block : max);
}

static int read_locked(struct vault_file *f, struct vault_cipher *c, uint8_t *buf, size_t len, uint64_t off)
{
	struct vault_slot slots[READ_CHUNK];

	while (len > 0) {
		uint64_t block = off / VAULT_PAGE, blocks = vault_blocks(off % VAULT_PAGE + len);
		unsigned skip = off % VAULT_PAGE, n = run_length(block, blocks < READ_CHUNK ? blocks : READ_CHUNK);
		size_t part = (size_t)n * VAULT_PAGE - skip < len ? (size_t)n * VAULT_PAGE - skip : len;
		bool direct = skip == 0 && part == (size_t)n * VAULT_PAGE;
		uint8_t *pages = direct ? buf : vault_iobuf((size_t)READ_CHUNK * VAULT_PAGE);
		int r;

		if (!pages)
			return -ENOMEM;
		r = vault_tags_slots(f, c, block, n, slots);
		if (r == -EBADMSG)
			return vault_broken(f, (int64_t)block, "the tags do not match the sealed state");
		if (r == 0)
			r = read_run(f, c, block, n, slots, pages);
		if (r != 0)
			return r;
		if (!direct)
			memcpy(buf, pages + skip, part);
		buf += part;
		off += part;
		len -= part;
	}
	return 0;
}

ssize_t vault_file_read(struct vault_file *f, void *buf, size_t len, uint64_t off)
{
	struct vault_cipher *c = vault_cipher_get(f);
	int r = 0;

	if (!c)
		return -ENOMEM;
	if ((r = vault_read_lock(f, c)) != 0) {
		vault_cipher_put(c);
		return r;
	}
	if (off >= f->size)
		len = 0;
	else if (len > f->size - off)
		len = (size_t)(f->size - off);
	r = read_locked(f, c, buf, len, off);
	pthread_rwlock_unlock(&f->lock);
	vault_cipher_put(c);
	if (r != 0) {
		memset(buf, 0, len);
		return r;
	}
	return (ssize_t)len;
}

/* The next block in [block, blocks) that is data (or a hole); blocks when there is none. */
static int seek_block(struct vault_file *f, struct vault_cipher *c, uint64_t block, uint64_t blocks, bool data, uint64_t *ret)
{
	struct vault_slot slots[TAG_GROUP];

	while (block < blocks) {
		uint64_t group = tags_group(block), end = tags_first(group) + tags_count(group), next = group;
		unsigned n = (unsigned)((end < blocks ? end : blocks) - block);
		int r = data ? vault_tags_next(f, group, tags_groups(blocks), &next) : 0;

		if (r == 0 && data && next > group) {
			block = tags_first(next);
			continue;
		}
		if (r == 0)
			r = vault_tags_slots(f, c, block, n, slots);
		if (r != 0)
			return r == -EBADMSG ? vault_broken(f, (int64_t)block, "the tags do not match the sealed state") : r;
		for (unsigned i = 0; i < n; i++)
			if ((slots[i].meta != 0) == data) {
				*ret = block + i;
				return 0;
			}
		block += n;
	}
	*ret = blocks;
	return 0;
}

int64_t vault_file_seek(struct vault_file *f, uint64_t off, bool data)
{
	struct vault_cipher *c = vault_cipher_get(f);
	uint64_t found = 0, blocks;
	int64_t r;

	if (!c)
		return -ENOMEM;
	if ((r = vault_read_lock(f, c)) != 0) {
		vault_cipher_put(c);
		return r;
	}
	blocks = vault_blocks(f->size);
	if (off >= f->size)
		r = -ENXIO;
	else if ((r = seek_block(f, c, off / VAULT_PAGE, blocks, data, &found)) != 0)
		;
	else if (found == blocks)
		r = data ? -ENXIO : (int64_t)f->size;
	else
		r = (int64_t)(found == off / VAULT_PAGE ? off : found * VAULT_PAGE);
	pthread_rwlock_unlock(&f->lock);
	vault_cipher_put(c);
	return r;
}
