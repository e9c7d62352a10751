/*
 * fs/vault/write.c: writing content (fs/FORMAT.md, "Write block").
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/clock.h"
#include "content.h"

#define WRITE_CHUNK 256 /* blocks at a time: 1 MiB, at most 6 tag pages */
#define CHUNK_GROUPS 7

/* One chunk of blocks whose data pages lie side by side. */
struct chunk {
	uint64_t block;
	unsigned n;
	const uint8_t *plain[WRITE_CHUNK];
	unsigned len[WRITE_CHUNK];            /* bytes of plaintext per block */
	struct vault_slot slot[WRITE_CHUNK];  /* the new ones */
	uint64_t gone[WRITE_CHUNK];           /* meta of the slots that they replace */
	bool shorter;                         /* a truncate goes through the block */
	struct vault_tags_page *page[CHUNK_GROUPS];
	uint64_t first_group;
	uint8_t *out;                         /* ciphertext, a page per block */
	uint8_t edge[2][VAULT_PAGE];          /* first and last block, where only a part of them is written */
};

static uint8_t *entry_of(const struct chunk *k, unsigned i)
{
	uint64_t group = tags_group(k->block + i);

	return k->page[group - k->first_group]->raw + (k->block + i - tags_first(group)) * TAG_ENTRY;
}

/* The old content of a block that is written in part. */
static int edge_fill(struct vault_file *f, struct vault_cipher *c, struct chunk *k, unsigned i, uint8_t page[VAULT_PAGE], unsigned *old_len)
{
	const uint8_t *entry = entry_of(k, i);
	int live = vault_entry_live(entry), r;
	struct vault_slot slot = { .meta = 0 };

	if (live >= 0)
		vault_slot_get(entry + live * TAG_SLOT, &slot);
	*old_len = META_LEN(slot.meta);
	r = vault_read_block(f, c, k->block + i, &slot, page);
	return r == -EBADMSG ? vault_broken(f, (int64_t)(k->block + i), "a block does not authenticate") : r;
}

static unsigned live_len(const uint8_t *entry)
{
	int live = vault_entry_live(entry);

	return live < 0 ? 0 : META_LEN(base_get64(entry + live * TAG_SLOT + 28));
}

/* Where each block's plaintext comes from: the caller's buffer, or an edge page when old bytes of the block stay. */
static int chunk_plain(struct vault_file *f, struct vault_cipher *c, struct chunk *k, const uint8_t *buf, size_t len, unsigned skip)
{
	size_t pos = 0;
	unsigned edges = 0;

	for (unsigned i = 0; i < k->n; i++) {
		unsigned from = i == 0 ? skip : 0, room = VAULT_PAGE - from;
		unsigned part = len - pos < room ? (unsigned)(len - pos) : room, old;

		if (from == 0 && part >= live_len(entry_of(k, i))) {
			k->plain[i] = buf + pos;
			k->len[i] = part;
		} else {
			uint8_t *page = k->edge[edges++];
			int r = edge_fill(f, c, k, i, page, &old);

			if (r != 0)
				return r;
			memcpy(page + from, buf + pos, part);
			k->plain[i] = page;
			k->len[i] = from + part > old ? from + part : old;
		}
		pos += part;
	}
	return 0;
}

static int chunk_load(struct vault_file *f, struct vault_cipher *c, struct chunk *k)
{
	uint64_t last = tags_group(k->block + k->n - 1);

	k->first_group = tags_group(k->block);
	for (uint64_t g = k->first_group; g <= last; g++) {
		int r = vault_tags_load(f, c, g, &k->page[g - k->first_group]);

		if (r == -EBADMSG)
			return vault_broken(f, (int64_t)k->block, "the tags do not match the sealed state");
		if (r != 0)
			return r;
	}
	return 0;
}

/* A live slot above the horizon would be the only good one after a crash if this write overwrote its block: seal it first. */
static int chunk_horizon(struct vault_file *f, struct vault_cipher *c, const struct chunk *k)
{
	for (unsigned i = 0; i < k->n; i++) {
		const uint8_t *entry = entry_of(k, i);
		int live = vault_entry_live(entry);

		if (live >= 0 && META_SEQ(base_get64(entry + live * TAG_SLOT + 28)) > f->state.horizon)
			return vault_seal(f, c, VAULT_STATE_DIRTY, 0, 0);
	}
	return vault_seal_begin(f, c);
}

static int chunk_encrypt(struct vault_file *f, struct vault_cipher *c, struct chunk *k)
{
	uint8_t nonces[WRITE_CHUNK * 12];
	int r = base_random(nonces, (size_t)k->n * 12);

	for (unsigned i = 0; i < k->n && r == 0; i++) {
		uint8_t *out = k->out + (size_t)i * VAULT_PAGE;

		memcpy(k->slot[i].nonce, nonces + i * 12, 12);
		k->slot[i].meta = META(f->next_seq++, k->len[i]);
		r = vault_cipher_seal(c, f, k->block + i, &k->slot[i], k->plain[i], out);
		memset(out + k->len[i], 0, VAULT_PAGE - k->len[i]);
	}
	return r;
}

/* XOR the change of blocks [from, to) between old and new live slots into their groups' accumulators. */
static int chunk_account(struct vault_file *f, struct vault_cipher *c, const struct chunk *k, const struct vault_slot *old, unsigned from, unsigned to)
{
	while (from < to) {
		uint64_t group = tags_group(k->block + from), end = tags_first(group) + tags_count(group);
		uint64_t blocks[TAG_GROUP];
		struct vault_slot was[TAG_GROUP];
		uint64_t was_at[TAG_GROUP];
		uint8_t delta[16] = { 0 };
		unsigned n = 0, m = 0;
		int r;

		for (; from < to && k->block + from < end; from++) {
			blocks[n++] = k->block + from;
			if (old[from].meta) {
				was_at[m] = k->block + from;
				was[m++] = old[from];
			}
		}
		r = vault_cipher_acc(c, f, blocks, &k->slot[blocks[0] - k->block], n, delta);
		if (r == 0)
			r = vault_cipher_acc(c, f, was_at, was, m, delta);
		if (r == 0)
			r = vault_tags_change(f, group, delta);
		if (r != 0)
			return r;
	}
	return 0;
}

/* Entries [from, to) of the chunk to the disk: a piece per tag page, which lie side by side but in page 0. */
static int chunk_write_tags(struct vault_file *f, const struct chunk *k, unsigned from, unsigned to)
{
	while (from < to) {
		uint64_t group = tags_group(k->block + from), first = tags_first(group), end = first + tags_count(group);
		unsigned until = end - k->block < to ? (unsigned)(end - k->block) : to;
		int r = vault_pwrite_all(f->fd, entry_of(k, from), (size_t)(until - from) * TAG_ENTRY,
					 tags_offset(group) + (k->block + from - first) * TAG_ENTRY, NULL);

		if (r != 0)
			return r;
		from = until;
	}
	return 0;
}

/* Bytes of ciphertext to write: whole pages, but of the last block only what it holds, so that the backing size is map(size). */
static size_t chunk_bytes(const struct chunk *k)
{
	return (size_t)(k->n - 1) * VAULT_PAGE + k->len[k->n - 1];
}

/* Small files: the tags at the end of page 0 and the data pages behind it in one call, tags first. */
static int chunk_write_joined(struct vault_file *f, const struct chunk *k, size_t *done)
{
	uint8_t pad[VAULT_PAGE - VAULT_TAGS_AT - TAG_HEAD * TAG_ENTRY] = { 0 };
	size_t head = VAULT_PAGE - VAULT_TAGS_AT, total = head + chunk_bytes(k);
	struct iovec iov[3] = {
		{ f->head->raw, TAG_HEAD * TAG_ENTRY }, { pad, sizeof(pad) }, { k->out, chunk_bytes(k) },
	};
	ssize_t w;

	do
		w = pwritev(f->fd, iov, 3, VAULT_TAGS_AT);
	while (w < 0 && errno == EINTR);
	*done = w > (ssize_t)head ? (size_t)w - head : 0;
	if (w < 0)
		return -errno;
	if ((size_t)w == total)
		return 0;
	if ((size_t)w < head)
		return -EIO;
	size_t more;
	int r = vault_pwrite_all(f->fd, k->out + *done, chunk_bytes(k) - *done, vault_page_of(k->block) * VAULT_PAGE + *done, &more);
	*done += more;
	return r;
}

static int sync_data(struct vault_file *f)
{
	return fdatasync(f->fd) == 0 ? 0 : -errno;
}

/* A hole of which an fsync promised that it reads as zeros. Without crash=strict that counts where an append goes on in it. */
static bool hole_counts(const struct vault_file *f, uint64_t block)
{
	uint64_t at = block * VAULT_PAGE;

	return at < f->promised_size && (vault_strict(f->v) || f->promised_size - at < VAULT_PAGE);
}

static bool promised_hole(const struct vault_file *f, uint64_t block, uint64_t live)
{
	return live == 0 && hole_counts(f, block);
}

/*
 * Rule D. The data page of a block that was promised may be any that it was since, so both slots must stay on the disk until the page is known.
 * Before a slot that was promised is replaced, the live one's data has to be durable (first); and where the live slot was promised, the new
 * tag has to be durable before the page changes (between). Appends rewrite only blocks that are not full: those always.
 */
static void chunk_rule_d(const struct vault_file *f, const struct chunk *k, const struct vault_slot *old, bool *first, bool *between)
{
	bool guarded = false;

	*first = *between = false;
	for (unsigned i = 0; i < k->n; i++) {
		uint64_t live = old[i].meta, gone = k->gone[i];
		bool hole = hole_counts(f, k->block + i);

		*first |= hole && !live;
		if (!live || !(vault_strict(f->v) || k->shorter || hole || META_LEN(live) < VAULT_PAGE || (gone && META_LEN(gone) < VAULT_PAGE)))
			continue;
		guarded = true;
		if (gone && META_SEQ(gone) <= f->promised_seq && META_SEQ(live) > f->durable_seq)
			*first = true;
		if (META_SEQ(live) <= f->promised_seq || (hole && !gone)) /* or it was a hole before it */
			*between = true;
	}
	*between |= *first && guarded;
}

/* With the backing file's new size: without it the disk could have a new page, but not the end of it. All writes before this one are durable then. */
static int sync_sized(struct vault_file *f, const struct chunk *k)
{
	uint64_t end = (k->block + k->n - 1) * VAULT_PAGE + k->len[k->n - 1];
	int r;

	if (end > f->size && ftruncate(f->fd, (off_t)vault_backing_size(end)) != 0)
		return -errno;
	r = sync_data(f);
	if (r == 0)
		f->promised_seq = f->durable_seq = META_SEQ(k->slot[0].meta) - 1;
	return r;
}

/* What has to be durable before the tags. A hole's page means nothing until its tag is there, so it goes ahead. */
static int chunk_first(struct vault_file *f, const struct chunk *k, const struct vault_slot *old)
{
	int r = 0;

	for (unsigned i = 0; i < k->n && r == 0; i++)
		if (promised_hole(f, k->block + i, old[i].meta))
			r = vault_pwrite_all(f->fd, k->out + (size_t)i * VAULT_PAGE, k->len[i], vault_page_of(k->block + i) * VAULT_PAGE, NULL);
	return r == 0 ? sync_sized(f, k) : r;
}

static int chunk_write(struct vault_file *f, const struct chunk *k, const struct vault_slot *old, size_t *done)
{
	bool first, between;
	int r = 0;

	*done = 0;
	chunk_rule_d(f, k, old, &first, &between);
	if (first)
		r = chunk_first(f, k, old);
	if (r == 0 && !between && k->block == 0)
		return chunk_write_joined(f, k, done);
	if (r == 0)
		r = chunk_write_tags(f, k, 0, k->n);
	if (r == 0 && between)
		r = sync_sized(f, k);
	if (r != 0)
		return r;
	return vault_pwrite_all(f->fd, k->out, chunk_bytes(k), vault_page_of(k->block) * VAULT_PAGE, done);
}

/* The new slots into the entries, in the place of the dead one; old gets the live ones. */
static void chunk_install(struct chunk *k, struct vault_slot *old, uint8_t *which)
{
	for (unsigned i = 0; i < k->n; i++) {
		uint8_t *entry = entry_of(k, i);
		int live = vault_entry_live(entry);

		old[i].meta = 0;
		if (live >= 0)
			vault_slot_get(entry + live * TAG_SLOT, &old[i]);
		which[i] = live == 0;
		k->gone[i] = base_get64(entry + which[i] * TAG_SLOT + 28);
		vault_slot_put(&k->slot[i], entry + which[i] * TAG_SLOT);
	}
}

/*
 * After a failed write: blocks from `from` on keep their old slot; the new one is zeroed here and, as far as the disk allows, there. A tag
 * page for which there was no space holds nothing, so a second refusal does no harm.
 */
static void chunk_undo(struct vault_file *f, struct chunk *k, const uint8_t *which, unsigned from)
{
	for (unsigned i = from; i < k->n; i++)
		memset(entry_of(k, i) + which[i] * TAG_SLOT, 0, TAG_SLOT);
	while (from < k->n) {
		uint64_t group = tags_group(k->block + from), end = tags_first(group) + tags_count(group);
		unsigned until = end - k->block < k->n ? (unsigned)(end - k->block) : k->n;
		int r = chunk_write_tags(f, k, from, until);

		if (r != 0 && r != -ENOSPC && r != -EDQUOT)
			f->adrift = true;
		from = until;
	}
}

static int chunk_run(struct vault_file *f, struct vault_cipher *c, struct chunk *k)
{
	struct vault_slot old[WRITE_CHUNK];
	uint8_t which[WRITE_CHUNK];
	size_t done;
	unsigned good;
	uint64_t end;
	int r, s;

	if (f->next_seq + k->n >= UINT64_C(1) << META_SEQ_BITS)
		return -EFBIG; /* every sequence is used once; 2^48 block writes are more than a file lives to see */
	/* The recovery of a CLEAN file goes by what authenticates, not by the horizon, and may begin again at any time. */
	if (!(f->cutting && !(f->state.flags & VAULT_STATE_DIRTY)) && (r = chunk_horizon(f, c, k)) != 0)
		return r;
	if ((r = chunk_encrypt(f, c, k)) != 0)
		return r;
	chunk_install(k, old, which);
	f->changed = f->unsynced = true;
	r = chunk_write(f, k, old, &done);
	good = r == 0 ? k->n : (unsigned)(done / VAULT_PAGE);
	if (good < k->n) {
		(void)vault_seal_next(f, c, f->next_seq); /* a failure leaves the file adrift, which is mended from the disk */
		chunk_undo(f, k, which, good);
	}
	s = chunk_account(f, c, k, old, 0, good);
	if (s != 0)
		f->adrift = true;
	end = good == 0 ? 0 : (k->block + good - 1) * VAULT_PAGE + k->len[good - 1];
	if (end > f->size)
		f->size = end;
	if (r != 0 && ftruncate(f->fd, (off_t)vault_backing_size(f->size)) != 0)
		f->adrift = true;
	return r ? r : s;
}

int vault_write_locked(struct vault_file *f, struct vault_cipher *c, const uint8_t *buf, size_t len, uint64_t off)
{
	struct chunk *k = malloc(sizeof(*k));
	int r = k ? 0 : -ENOMEM;

	while (len > 0 && r == 0) {
		uint64_t block = off / VAULT_PAGE, blocks = vault_blocks(off % VAULT_PAGE + len);
		uint64_t end = vault_run_end(block);
		unsigned skip = off % VAULT_PAGE;
		size_t part;

		k->block = block;
		k->shorter = false;
		k->n = (unsigned)(blocks < WRITE_CHUNK ? blocks : WRITE_CHUNK);
		if (k->n > end - block)
			k->n = (unsigned)(end - block);
		part = (size_t)k->n * VAULT_PAGE - skip < len ? (size_t)k->n * VAULT_PAGE - skip : len;
		k->out = vault_iobuf((size_t)WRITE_CHUNK * VAULT_PAGE);
		if (!k->out)
			r = -ENOMEM;
		if (r == 0)
			r = chunk_load(f, c, k);
		if (r == 0)
			r = chunk_plain(f, c, k, buf, part, skip);
		if (r == 0)
			r = chunk_run(f, c, k);
		buf += part;
		off += part;
		len -= part;
	}
	free(k);
	f->last_write_ns = base_clock_mono_ns();
	return r;
}

int vault_block_shorten(struct vault_file *f, struct vault_cipher *c, uint64_t block, unsigned len)
{
	struct chunk *k = calloc(1, sizeof(*k));
	unsigned old;
	int r;

	if (!k || !(k->out = vault_iobuf((size_t)WRITE_CHUNK * VAULT_PAGE))) {
		free(k);
		return -ENOMEM;
	}
	k->block = block;
	k->n = 1;
	k->shorter = true;
	r = chunk_load(f, c, k);
	if (r == 0 && live_len(entry_of(k, 0)) > len) {
		r = edge_fill(f, c, k, 0, k->edge[0], &old);
		k->plain[0] = k->edge[0];
		k->len[0] = len;
		if (r == 0)
			r = chunk_run(f, c, k);
	}
	free(k);
	return r;
}

int vault_file_write(struct vault_file *f, const void *buf, size_t len, uint64_t off)
{
	struct vault_cipher *c;
	int r;

	if (len == 0)
		return 0;
	if (off >= VAULT_FILE_MAX || len > VAULT_FILE_MAX - off)
		return -EFBIG;
	if (!f->fd_writable)
		return -EBADF;
	if (!(c = vault_cipher_get(f)))
		return -ENOMEM;
	pthread_rwlock_wrlock(&f->lock);
	r = vault_mend(f, c);
	if (r == 0)
		r = vault_write_locked(f, c, buf, len, off);
	pthread_rwlock_unlock(&f->lock);
	vault_cipher_put(c);
	return r;
}
