/*
 * fs/vault/cut.c: truncate and punch (fs/FORMAT.md, "Algorithms"): the sealed intent says what goes before anything goes.
 */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/clock.h"
#include "content.h"

#define TO_THE_END UINT64_MAX

/* XOR F of the live slots of blocks [first, end) of one loaded group. */
static int part_sum(struct vault_file *f, struct vault_cipher *c, const struct vault_tags_page *page, uint64_t first, uint64_t end, uint8_t sum[16])
{
	uint8_t raw[TAG_GROUP * TAG_ENTRY];
	uint64_t at = tags_first(page->group);

	memcpy(raw, page->raw, sizeof(raw));
	for (unsigned i = 0; i < tags_count(page->group); i++)
		if (at + i < first || at + i >= end)
			memset(raw + i * TAG_ENTRY, 0, TAG_ENTRY);
	return vault_tags_sum(f, c, page->group, raw, sum);
}

/* Of `groups` groups those that begin before block end. */
static uint64_t groups_before(uint64_t end, uint64_t groups)
{
	return end == TO_THE_END || tags_group(end - 1) + 1 > groups ? groups : tags_group(end - 1) + 1;
}

/* The same over all groups up to `groups`, so that a damaged one stops the cut before it begins. */
static int range_sum(struct vault_file *f, struct vault_cipher *c, uint64_t first, uint64_t end, uint64_t groups, uint8_t sum[16])
{
	uint64_t g = tags_group(first);
	struct vault_tags_page *page;
	int r = 0;

	for (groups = groups_before(end, groups); r == 0; g++) {
		r = vault_tags_next(f, g, groups, &g);
		if (r == 0 && g >= groups)
			break;
		if (r == 0)
			r = vault_tags_load(f, c, g, &page);
		if (r == 0)
			r = part_sum(f, c, page, first, end, sum);
	}
	return r == -EBADMSG ? vault_broken(f, (int64_t)tags_first(g), "the tags do not match the sealed state") : r;
}

/* Zero the entries of [first, end) within one group, in memory, in the accumulators and, below the end of the backing file, on disk. */
static int group_clear(struct vault_file *f, struct vault_cipher *c, uint64_t group, uint64_t first, uint64_t end, uint64_t backing)
{
	uint64_t at = tags_first(group), from = first > at ? first - at : 0, to = tags_count(group);
	struct vault_tags_page *page;
	uint8_t sum[16] = { 0 };
	int r = vault_tags_load(f, c, group, &page);

	if (end - at < to)
		to = end - at;
	if (r == 0)
		r = part_sum(f, c, page, first, end, sum);
	if (r == 0)
		r = vault_tags_change(f, group, sum);
	if (r != 0)
		return r;
	memset(page->raw + from * TAG_ENTRY, 0, (to - from) * TAG_ENTRY);
	if (tags_offset(group) >= backing)
		return 0;
	return vault_pwrite_all(f->fd, page->raw + from * TAG_ENTRY, (to - from) * TAG_ENTRY, tags_offset(group) + from * TAG_ENTRY, NULL);
}

static int range_clear(struct vault_file *f, struct vault_cipher *c, uint64_t first, uint64_t end, uint64_t groups, uint64_t backing)
{
	uint64_t g = tags_group(first);
	int r = 0;

	groups = groups_before(end, groups);
	while (r == 0 && (r = vault_tags_next(f, g, groups, &g)) == 0 && g < groups)
		r = group_clear(f, c, g++, first, end, backing);
	return r;
}

/* Everything goes: nothing has to be read for that. */
static int clear_all(struct vault_file *f)
{
	memset(f->head->raw, 0, sizeof(f->head->raw));
	memset(f->acc, 0, sizeof(f->acc));
	vault_tags_restart(f, 0);
	return vault_pwrite_all(f->fd, f->head->raw, TAG_HEAD * TAG_ENTRY, VAULT_TAGS_AT, NULL);
}

static int seal_intent(struct vault_file *f, struct vault_cipher *c, const uint8_t sum[16], uint64_t first, uint64_t end)
{
	int r;

	acc_xor(f->acc, sum);
	r = vault_seal(f, c, VAULT_STATE_DIRTY | VAULT_STATE_INTENT, first, end);
	acc_xor(f->acc, sum);
	return r;
}

/*
 * The block that the cut goes through, written again with what stays of it. It must be durable before the backing file is cut, if it was
 * before: the cut takes the end of the longer ciphertext away.
 */
static int shrink_edge(struct vault_file *f, struct vault_cipher *c, uint64_t size)
{
	struct vault_slot slot;
	int r = vault_tags_slots(f, c, size / VAULT_PAGE, 1, &slot);

	if (r == 0 && META_LEN(slot.meta) > size % VAULT_PAGE) {
		r = vault_block_shorten(f, c, size / VAULT_PAGE, size % VAULT_PAGE);
		if (r == 0 && META_SEQ(slot.meta) <= f->promised_seq && fdatasync(f->fd) != 0)
			r = -errno;
	}
	return r;
}

/* With crash=strict no page goes back to the filesystem while a tag on the disk still names it. */
static int cut_settle(struct vault_file *f)
{
	return vault_strict(f->v) && f->promised_seq > 0 && fdatasync(f->fd) != 0 ? -errno : 0;
}

/* Tags of other pages than the intent's: they must not be gone on a disk that does not know why. */
static int cut_begin(struct vault_file *f, uint64_t keep, uint64_t groups)
{
	return keep > 0 && groups > 1 && f->promised_seq > 0 && fdatasync(f->fd) != 0 ? -errno : 0;
}

/* What goes, in memory and on disk. f->size is still the old one: groups that left the cache are checked against what they hold. */
static int shrink_tags(struct vault_file *f, struct vault_cipher *c, uint64_t keep, uint64_t groups, uint64_t backing)
{
	int r;

	if (keep == 0)
		return clear_all(f);
	r = range_clear(f, c, keep, TO_THE_END, groups, backing);
	vault_tags_cut(f, tags_group(keep) + (keep > tags_first(tags_group(keep))));
	return r;
}

/* With the intent sealed, a crash ends with the new size; until then, and when nothing could be destroyed, with the old one. */
static int shrink(struct vault_file *f, struct vault_cipher *c, uint64_t size)
{
	uint64_t keep = vault_blocks(size), groups = tags_groups(vault_blocks(f->size)), old = f->size, backing = vault_backing_size(size);
	uint8_t sum[16] = { 0 };
	int r = 0;

	if (size == 0)
		memcpy(sum, f->acc, sizeof(sum));
	else
		r = range_sum(f, c, keep, TO_THE_END, groups, sum);
	if (r != 0)
		return r;
	f->size = size;
	r = seal_intent(f, c, sum, keep, TO_THE_END);
	f->size = old;
	if (r == 0 && size % VAULT_PAGE && (r = shrink_edge(f, c, size)) != 0)
		(void)vault_seal(f, c, VAULT_STATE_DIRTY, 0, 0);
	if (r != 0)
		return r;
	r = cut_begin(f, keep, groups);
	if (r == 0)
		r = shrink_tags(f, c, keep, groups, backing);
	f->size = size;
	/* What is written where the cut was is new. */
	if (f->promised_size > size && !vault_strict(f->v))
		f->promised_size = size;
	if (r == 0)
		r = cut_settle(f);
	if (r == 0 && ftruncate(f->fd, (off_t)backing) != 0)
		r = -errno;
	if (r == 0)
		r = vault_seal(f, c, VAULT_STATE_DIRTY, 0, 0);
	if (r != 0)
		f->adrift = true;
	return r;
}

static int grow(struct vault_file *f, struct vault_cipher *c, uint64_t size)
{
	uint64_t old = f->size;
	int r;

	f->size = size;
	r = vault_seal(f, c, VAULT_STATE_DIRTY, 0, 0);
	if (r == 0 && ftruncate(f->fd, (off_t)vault_backing_size(size)) != 0)
		r = -errno;
	if (r == 0)
		return 0;
	f->size = old;
	if (!f->adrift && (vault_seal(f, c, VAULT_STATE_DIRTY, 0, 0) != 0 || ftruncate(f->fd, (off_t)vault_backing_size(old)) != 0))
		f->adrift = true;
	return r;
}

int vault_file_truncate(struct vault_file *f, uint64_t size)
{
	struct vault_cipher *c;
	int r = 0;

	if (size > VAULT_FILE_MAX)
		return -EFBIG;
	if (!f->fd_writable)
		return -EBADF;
	if (!(c = vault_cipher_get(f)))
		return -ENOMEM;
	pthread_rwlock_wrlock(&f->lock);
	r = vault_mend(f, c);
	if (r == 0 && size < f->size)
		r = shrink(f, c, size);
	else if (r == 0 && size > f->size)
		r = grow(f, c, size);
	f->last_write_ns = base_clock_mono_ns();
	pthread_rwlock_unlock(&f->lock);
	vault_cipher_put(c);
	return r;
}

/* The end of what one call can punch from block b on: the rest of a run, or whole runs, whose tag pages are as empty as their data. */
static uint64_t punch_until(uint64_t b, uint64_t end)
{
	uint64_t run = vault_run_end(b), whole = (end - b) / TAG_RUN_BLOCKS * TAG_RUN_BLOCKS;

	if (run >= end)
		return end;
	return b >= TAG_HEAD && (b - TAG_HEAD) % TAG_RUN_BLOCKS == 0 && whole > 0 ? b + whole : run;
}

/* Whole blocks [first, end). Their pages are given back where the filesystem can. */
static int punch_blocks(struct vault_file *f, struct vault_cipher *c, uint64_t first, uint64_t end)
{
	uint64_t groups = tags_groups(vault_blocks(f->size)), backing = vault_backing_size(f->size);
	uint8_t sum[16] = { 0 };
	int r = range_sum(f, c, first, end, groups, sum);

	if (r != 0)
		return r;
	r = seal_intent(f, c, sum, first, end);
	if (r != 0)
		return r;
	r = range_clear(f, c, first, end, groups, backing);
	if (r == 0)
		r = cut_settle(f);
	for (uint64_t b = first; b < end && r == 0;) {
		uint64_t until = punch_until(b, end), page = vault_page_of(b);

		(void)fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(page * VAULT_PAGE),
				(off_t)((vault_page_of(until - 1) + 1 - page) * VAULT_PAGE));
		b = until;
	}
	if (r == 0)
		r = vault_seal(f, c, VAULT_STATE_DIRTY, 0, 0);
	if (r != 0)
		f->adrift = true;
	return r;
}

/* Zeros into a part of one block, unless it is a hole already. */
static int punch_edge(struct vault_file *f, struct vault_cipher *c, uint64_t off, size_t len)
{
	static const uint8_t zeros[VAULT_PAGE];
	struct vault_slot slot;
	int r = vault_tags_slots(f, c, off / VAULT_PAGE, 1, &slot);

	if (r != 0 || slot.meta == 0)
		return r == -EBADMSG ? vault_broken(f, (int64_t)(off / VAULT_PAGE), "the tags do not match the sealed state") : r;
	return vault_write_locked(f, c, zeros, len, off);
}

static int punch(struct vault_file *f, struct vault_cipher *c, uint64_t off, uint64_t end)
{
	uint64_t first = (off + VAULT_PAGE - 1) / VAULT_PAGE, last = end == f->size ? vault_blocks(end) : end / VAULT_PAGE;
	int r = 0;

	if (first > last)
		return punch_edge(f, c, off, (size_t)(end - off));
	if (off % VAULT_PAGE)
		r = punch_edge(f, c, off, (size_t)((first * VAULT_PAGE < end ? first * VAULT_PAGE : end) - off));
	if (r == 0 && last * VAULT_PAGE < end)
		r = punch_edge(f, c, last * VAULT_PAGE, (size_t)(end - last * VAULT_PAGE));
	if (r == 0 && first < last)
		r = punch_blocks(f, c, first, last);
	return r;
}

int vault_file_punch(struct vault_file *f, uint64_t off, uint64_t len)
{
	struct vault_cipher *c;
	int r = 0;

	if (!f->fd_writable)
		return -EBADF;
	if (!(c = vault_cipher_get(f)))
		return -ENOMEM;
	pthread_rwlock_wrlock(&f->lock);
	r = vault_mend(f, c);
	if (r == 0 && off < f->size && len > 0)
		r = punch(f, c, off, len < f->size - off ? off + len : f->size);
	f->last_write_ns = base_clock_mono_ns();
	pthread_rwlock_unlock(&f->lock);
	vault_cipher_put(c);
	return r;
}
