/* Adopting copies of files that were being written. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "adopt.h"

#define ROW_MAX ((uint64_t)1 << 26) /* writes beyond the seal that are kept apart: 8 MiB of bits */

struct examining {
	struct vault_file *f;
	struct vault_cipher *c;
	uint64_t backing;
	uint8_t *row;          /* a bit per sequence number above the horizon */
	uint64_t rewritten;    /* blocks of which both slots are above the horizon */
	uint64_t above;        /* slots above the horizon */
	uint64_t top;          /* highest sequence number */
	uint64_t missing, first_missing;
};

static bool shape_ok(uint64_t meta)
{
	return META_FLAGS(meta) == 0 && META_LEN(meta) > 0 && META_LEN(meta) <= VAULT_PAGE;
}

static bool in_intent(const struct vault_state *st, uint64_t block)
{
	return (st->flags & VAULT_STATE_INTENT) && block >= st->intent_first && block < st->intent_end;
}

/* Empty all slots above upto, and the entries that an intent takes. */
static void keep_upto(const struct vault_state *st, uint64_t group, uint64_t upto, uint8_t *raw)
{
	for (unsigned i = 0; i < tags_count(group); i++) {
		uint8_t *entry = raw + i * TAG_ENTRY;

		for (int k = 0; k < 2; k++)
			if (META_SEQ(base_get64(entry + k * TAG_SLOT + 28)) > upto)
				memset(entry + k * TAG_SLOT, 0, TAG_SLOT);
		if (in_intent(st, tags_first(group) + i))
			memset(entry, 0, TAG_ENTRY);
	}
}

static void note_above(struct examining *x, const uint8_t *raw, uint64_t group)
{
	uint64_t s = x->f->state.horizon;

	for (unsigned i = 0; i < tags_count(group); i++) {
		int above = 0;

		for (int k = 0; k < 2; k++) {
			uint64_t seq = META_SEQ(base_get64(raw + i * TAG_ENTRY + k * TAG_SLOT + 28));

			if (seq <= s)
				continue;
			above++;
			if (seq > x->top)
				x->top = seq;
			if (seq - s <= ROW_MAX)
				x->row[(seq - s - 1) / 8] |= (uint8_t)(1 << (seq - s - 1) % 8);
		}
		x->above += (uint64_t)above;
		x->rewritten += above == 2;
	}
}

/* The sealed accumulator over what the seal covers. */
static int check_sealed(struct examining *x, char *why, size_t cap)
{
	uint8_t raw[TAG_GROUP * TAG_ENTRY], acc[16] = { 0 };
	int r;

	for (uint64_t g = 0; g == 0 || (g < GROUPS_MAX && tags_offset(g) < x->backing); g = vault_tags_data(x->f, g + 1, GROUPS_MAX)) {
		if ((r = vault_tags_read(x->f, g, raw)) != 0) {
			if (r == -EBADMSG)
				snprintf(why, cap, "the tag page of blocks %ju to %ju is not one", (uintmax_t)tags_first(g),
					 (uintmax_t)(tags_first(g) + tags_count(g) - 1));
			return r;
		}
		note_above(x, raw, g);
		keep_upto(&x->f->state, g, x->f->state.horizon, raw);
		if ((r = vault_tags_sum(x->f, x->c, g, raw, acc)) != 0)
			return r;
	}
	if (memcmp(acc, x->f->state.acc, sizeof(acc)) == 0)
		return 0;
	if (x->rewritten)
		snprintf(why, cap, "of up to %ju blocks the sealed version is missing: they were written again more than once while the copy was made",
			 (uintmax_t)x->rewritten);
	else
		snprintf(why, cap, "the tags of blocks that the sealed state covers are missing or were changed: they were cut off or punched out while the copy "
			 "was made, or the copy was altered");
	return -EBADMSG;
}

/* The end of the unbroken row of writes after the seal. */
static uint64_t row_end(const struct examining *x)
{
	uint64_t n = 0;

	while (n < ROW_MAX && (x->row[n / 8] & 1 << n % 8))
		n++;
	return x->f->state.horizon + n;
}

static int check_entry(struct examining *x, uint64_t block, const uint8_t *entry, struct vault_adoption *ret)
{
	int live = vault_entry_live(entry), r;
	uint8_t page[VAULT_PAGE];
	struct vault_slot slot;
	uint64_t end;

	if (live < 0)
		return 0;
	vault_slot_get(entry + live * TAG_SLOT, &slot);
	ret->blocks++;
	r = shape_ok(slot.meta) ? vault_read_block(x->f, x->c, block, &slot, page) : -EBADMSG;
	if (r == -EBADMSG) {
		if (x->missing++ == 0)
			x->first_missing = block;
		return 0;
	}
	if (r != 0)
		return r;
	end = block * VAULT_PAGE + META_LEN(slot.meta);
	if (META_SEQ(slot.meta) > x->f->state.horizon && end > ret->size)
		ret->size = end;
	/* A live slot that the seal covers and the size does not: no state that there ever was. */
	if (end > ret->size && x->missing++ == 0)
		x->first_missing = block;
	return 0;
}

static int check_data(struct examining *x, struct vault_adoption *ret, char *why, size_t cap)
{
	uint8_t raw[TAG_GROUP * TAG_ENTRY];
	int r = 0;

	for (uint64_t g = 0; r == 0 && (g == 0 || (g < GROUPS_MAX && tags_offset(g) < x->backing)); g = vault_tags_data(x->f, g + 1, GROUPS_MAX)) {
		if ((r = vault_tags_read(x->f, g, raw)) != 0)
			return r;
		keep_upto(&x->f->state, g, ret->upto, raw);
		for (unsigned i = 0; r == 0 && i < tags_count(g); i++)
			r = check_entry(x, tags_first(g) + i, raw + i * TAG_ENTRY, ret);
	}
	if (r == 0 && x->missing) {
		snprintf(why, cap, "the data of %ju blocks is missing, first of block %ju: they were written again while the copy was made",
			 (uintmax_t)x->missing, (uintmax_t)x->first_missing);
		r = -EBADMSG;
	}
	return r;
}

static int examine(struct examining *x, struct vault_adoption *ret, char *why, size_t cap)
{
	const struct vault_state *st = &x->f->state;
	int r = check_sealed(x, why, cap);

	if (r != 0)
		return r;
	if (st->flags & VAULT_STATE_INTENT) {
		snprintf(why, cap, "it was being cut or punched while the copy was made");
		return -EBADMSG;
	}
	ret->upto = row_end(x);
	ret->top = x->top;
	ret->taken = ret->upto - st->horizon;
	ret->size = st->size;
	if ((r = check_data(x, ret, why, cap)) != 0)
		return r;
	ret->dropped = x->above > ret->taken ? x->above - ret->taken : 0;
	return 0;
}

int vault_adopt_examine(struct vault_file *f, struct vault_cipher *c, struct vault_adoption *ret, char *why, size_t cap)
{
	struct examining x = { .f = f, .c = c };
	struct stat st;
	int r;

	*why = '\0';
	memset(ret, 0, sizeof(*ret));
	if (fstat(f->fd, &st) != 0)
		return -errno;
	x.backing = (uint64_t)st.st_size;
	x.row = calloc(1, ROW_MAX / 8 + 1);
	if (!x.row)
		return -ENOMEM;
	r = examine(&x, ret, why, cap);
	free(x.row);
	return r;
}

int vault_adopt(struct vault_file *f, struct vault_cipher *c, const struct vault_adoption *plan)
{
	uint8_t raw[TAG_GROUP * TAG_ENTRY], before[TAG_GROUP * TAG_ENTRY], acc[16] = { 0 };
	struct stat st;
	int r = 0;

	if (fstat(f->fd, &st) != 0)
		return -errno;
	for (uint64_t g = 0; r == 0 && (g == 0 || (g < GROUPS_MAX && tags_offset(g) < (uint64_t)st.st_size)); g = vault_tags_data(f, g + 1, GROUPS_MAX)) {
		if ((r = vault_tags_read(f, g, raw)) != 0)
			return r;
		memcpy(before, raw, sizeof(raw));
		keep_upto(&f->state, g, plan->upto, raw);
		if (memcmp(raw, before, sizeof(raw)) != 0)
			r = vault_pwrite_all(f->fd, raw, tags_count(g) * TAG_ENTRY, tags_offset(g), NULL);
		if (r == 0 && g == 0)
			memcpy(f->head->raw, raw, TAG_HEAD * TAG_ENTRY);
		if (r == 0)
			r = vault_tags_sum(f, c, g, raw, acc);
	}
	if (r != 0)
		return r;
	f->size = plan->size;
	memcpy(f->acc, acc, sizeof(acc));
	f->next_seq = plan->top + 1 > f->state.next_seq ? plan->top + 1 : f->state.next_seq;
	if (f->next_seq <= plan->upto)
		f->next_seq = plan->upto + 1;
	vault_tags_restart(f, tags_groups(vault_blocks(f->size)));
	if (ftruncate(f->fd, (off_t)vault_backing_size(f->size)) != 0)
		return -errno;
	r = vault_seal(f, c, 0, 0, 0);
	if (r == 0 && futimens(f->fd, (struct timespec[]){ st.st_atim, st.st_mtim }) != 0)
		base_log(LOG_DEBUG, "times of inode %ju not restored: %s", (uintmax_t)f->ino, strerror(errno));
	return r;
}
