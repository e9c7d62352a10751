/*
 * fs/vault/recover.c: a file that was open for writing when its session crashed (fs/FORMAT.md, "Recover").
 */
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "content.h"

struct recovery {
	struct vault_file *f;
	struct vault_cipher *c;
	bool same_boot;
	uint64_t backing;
	uint64_t limit; /* bytes: what the sealed state has, as far as the backing file reaches */
	uint64_t size;
	uint64_t top_seq;
	uint64_t taken, dropped, lost;
};

static bool in_intent(const struct vault_state *st, uint64_t block)
{
	return (st->flags & VAULT_STATE_INTENT) && block >= st->intent_first && block < st->intent_end;
}

static bool slot_shape_ok(uint64_t meta)
{
	return META_FLAGS(meta) == 0 && META_LEN(meta) > 0 && META_LEN(meta) <= VAULT_PAGE;
}

/* Keep, of a copy of the group, only each entry's base: the slot with the highest sequence at or below the horizon. */
static void keep_bases(const struct vault_state *st, uint64_t group, uint8_t *raw)
{
	for (unsigned i = 0; i < tags_count(group); i++) {
		uint8_t *entry = raw + i * TAG_ENTRY;

		for (int k = 0; k < 2; k++)
			if (META_SEQ(base_get64(entry + k * TAG_SLOT + 28)) > st->horizon)
				memset(entry + k * TAG_SLOT, 0, TAG_SLOT);
		if (in_intent(st, tags_first(group) + i))
			memset(entry, 0, TAG_ENTRY);
	}
}

static bool has_group(const struct recovery *rec, uint64_t group)
{
	return group == 0 || (group < GROUPS_MAX && tags_offset(group) < rec->backing);
}

/* A slot above the horizon proves nothing until its data authenticates. No session gets this far: who writes such a number wants to use up the rest. */
#define FORGED_ABOVE (UINT64_C(1) << 40)

static void note_top(struct recovery *rec, uint64_t group, const uint8_t *raw)
{
	for (unsigned i = 0; i < 2 * tags_count(group); i++) {
		uint64_t meta = base_get64(raw + i * TAG_SLOT + 28), seq = META_SEQ(meta);

		if (slot_shape_ok(meta) && seq > rec->top_seq && seq < rec->f->state.horizon + FORGED_ABOVE)
			rec->top_seq = seq;
	}
}

/* All slots before anything is changed: the highest sequence and, after SIGKILL, the sealed accumulator over what it covers. */
static int check_horizon(struct recovery *rec)
{
	const struct vault_state *st = &rec->f->state;
	uint8_t raw[TAG_GROUP * TAG_ENTRY], acc[16] = { 0 };

	for (uint64_t g = 0; has_group(rec, g); g = vault_tags_data(rec->f, g + 1, GROUPS_MAX)) {
		int r = vault_tags_read(rec->f, g, raw);

		if (r != 0)
			return r;
		note_top(rec, g, raw);
		if (!rec->same_boot)
			continue;
		keep_bases(st, g, raw);
		if ((r = vault_tags_sum(rec->f, rec->c, g, raw, acc)) != 0)
			return r;
	}
	return !rec->same_boot || memcmp(acc, st->acc, sizeof(acc)) == 0 ? 0 : -EBADMSG;
}

/* Does the data page hold what this slot says? 1, 0 or -errno. */
static int slot_verifies(struct recovery *rec, uint64_t block, const uint8_t *raw)
{
	uint8_t page[VAULT_PAGE];
	struct vault_slot slot;
	int r;

	vault_slot_get(raw, &slot);
	if (!slot_shape_ok(slot.meta))
		return 0;
	r = vault_read_block(rec->f, rec->c, block, &slot, page);
	return r == 0 ? 1 : r == -EBADMSG ? 0 : r;
}

static void drop_slot(struct recovery *rec, uint8_t *slot)
{
	memset(slot, 0, TAG_SLOT);
	rec->dropped++;
}

static void take_slot(struct recovery *rec, uint64_t block, const uint8_t *slot)
{
	uint64_t meta = base_get64(slot + 28), end = block * VAULT_PAGE + META_LEN(meta);

	if (META_SEQ(meta) <= rec->f->state.horizon)
		return;
	rec->taken++;
	if (end > rec->size)
		rec->size = end;
}

/* After SIGKILL nothing at or below the horizon can be torn; above it, what verifies is taken. */
static int settle_killed(struct recovery *rec, uint64_t block, uint8_t *entry)
{
	for (int live; (live = vault_entry_live(entry)) >= 0;) {
		uint8_t *slot = entry + live * TAG_SLOT;
		int ok;

		if (META_SEQ(base_get64(slot + 28)) <= rec->f->state.horizon)
			return 0;
		if ((ok = slot_verifies(rec, block, slot)) < 0)
			return ok;
		if (ok) {
			take_slot(rec, block, slot);
			return 0;
		}
		drop_slot(rec, slot);
	}
	return 0;
}

/* Slots of which sectors are missing, and those of blocks that the sealed state no longer has. */
static void drop_dead(struct recovery *rec, uint64_t block, uint8_t *entry)
{
	const struct vault_state *st = &rec->f->state;
	bool cut = in_intent(st, block) || block * VAULT_PAGE >= rec->limit;

	for (int k = 0; k < 2; k++) {
		uint8_t *slot = entry + k * TAG_SLOT;
		uint64_t meta = base_get64(slot + 28);

		if (base_is_zero(slot, TAG_SLOT))
			continue;
		if (META_SEQ(meta) == 0 || !slot_shape_ok(meta) || (cut && META_SEQ(meta) <= st->horizon))
			drop_slot(rec, slot);
	}
}

/*
 * No slot authenticates. What may have been promised stays, and the size covers it; what came after the seal never was. Two slots that came after
 * the seal have replaced one that may have been promised: both stay, or the block would turn into a hole.
 */
static void keep_lost(struct recovery *rec, uint64_t block, uint8_t *entry)
{
	uint64_t s = rec->f->state.horizon, seq[2] = { META_SEQ(base_get64(entry + 28)), META_SEQ(base_get64(entry + TAG_SLOT + 28)) };
	bool replaced = seq[0] > s && seq[1] > s && block * VAULT_PAGE < rec->limit && !in_intent(&rec->f->state, block);
	int live;

	for (int k = 0; k < 2; k++)
		if (seq[k] > s && !replaced)
			drop_slot(rec, entry + k * TAG_SLOT);
	if ((live = vault_entry_live(entry)) >= 0) {
		uint64_t end = block * VAULT_PAGE + META_LEN(base_get64(entry + live * TAG_SLOT + 28));

		rec->lost++;
		if (end > rec->size)
			rec->size = end;
	}
}

/* After a power cut pages went to the disk in any order: the newest slot that verifies. */
static int settle_power_cut(struct recovery *rec, uint64_t block, uint8_t *entry)
{
	int live, hi, lo;

	drop_dead(rec, block, entry);
	if ((live = vault_entry_live(entry)) < 0)
		return 0;
	if ((hi = slot_verifies(rec, block, entry + live * TAG_SLOT)) < 0)
		return hi;
	if (hi > 0) {
		take_slot(rec, block, entry + live * TAG_SLOT);
		return 0;
	}
	if ((lo = slot_verifies(rec, block, entry + !live * TAG_SLOT)) < 0)
		return lo;
	if (lo > 0) {
		drop_slot(rec, entry + live * TAG_SLOT);
		take_slot(rec, block, entry + !live * TAG_SLOT);
	} else {
		keep_lost(rec, block, entry);
	}
	return 0;
}

static int settle_group(struct recovery *rec, uint64_t group, uint8_t acc[16])
{
	uint8_t raw[TAG_GROUP * TAG_ENTRY], before[TAG_GROUP * TAG_ENTRY];
	uint64_t first = tags_first(group);
	int r = vault_tags_read(rec->f, group, raw);

	if (r != 0)
		return r;
	memcpy(before, raw, sizeof(before));
	for (unsigned i = 0; i < tags_count(group) && r == 0; i++) {
		uint8_t *entry = raw + i * TAG_ENTRY;

		if (!rec->same_boot)
			r = settle_power_cut(rec, first + i, entry);
		else if (in_intent(&rec->f->state, first + i))
			memset(entry, 0, TAG_ENTRY);
		else
			r = settle_killed(rec, first + i, entry);
	}
	if (r == 0 && memcmp(raw, before, sizeof(raw)) != 0)
		r = vault_pwrite_all(rec->f->fd, raw, tags_count(group) * TAG_ENTRY, tags_offset(group), NULL);
	if (r == 0 && group == 0)
		memcpy(rec->f->head->raw, raw, TAG_HEAD * TAG_ENTRY);
	return r ? r : vault_tags_sum(rec->f, rec->c, group, raw, acc);
}

/* A truncate was under way, or of a finished one the tags are missing: the block that it goes through may still be as long as before. */
static int finish_cut(struct recovery *rec)
{
	struct vault_file *f = rec->f;
	int r;

	if (f->size % VAULT_PAGE == 0)
		return 0;
	if (rec->same_boot && (!(f->state.flags & VAULT_STATE_INTENT) || f->state.intent_end != UINT64_MAX))
		return 0;
	f->cutting = true;
	r = vault_block_shorten(f, rec->c, f->size / VAULT_PAGE, f->size % VAULT_PAGE);
	f->cutting = false;
	if (r == 0 && !rec->same_boot && fdatasync(f->fd) != 0)
		r = -errno;
	return r == -EIO ? 0 : r; /* a block that no longer authenticates stays as it is */
}

static void report(const struct recovery *rec)
{
	struct kms_caller self = kms_caller_self(KMS_VIA_SERVICE);
	struct kms_subject subject = { .purpose = KMS_PURPOSE_FILE };
	char reason[160];

	memcpy(subject.vault_id, vault_id(rec->f->v), BASE_ID_SIZE);
	memcpy(subject.file_id, rec->f->id, BASE_ID_SIZE);
	snprintf(reason, sizeof(reason), "after %s: %ju block writes kept, %ju undone, %ju blocks unreadable", rec->f->adrift ? "a failed write" : rec->same_boot ? "a crash" : "a power cut",
		 (uintmax_t)rec->taken, (uintmax_t)rec->dropped, (uintmax_t)rec->lost);
	base_log(rec->lost ? LOG_ERR : LOG_INFO, "inode %ju recovered %s", (uintmax_t)rec->f->ino, reason);
	(void)kms_audit_write(vault_core(rec->f->v), &self, "recover", &subject, rec->lost ? EIO : 0, reason);
}

/* The size of a backing file that a crash left: what the blocks take that lie in it as a whole or in part. */
static uint64_t size_in(uint64_t backing)
{
	uint64_t size = 0;

	while (backing >= VAULT_PAGE && vault_plain_size(backing, &size) != 0)
		backing = (backing - 1) / VAULT_PAGE * VAULT_PAGE;
	return size;
}

int vault_recover(struct vault_file *f, struct vault_cipher *c, bool same_boot)
{
	struct recovery rec = { .f = f, .c = c, .same_boot = same_boot, .size = f->state.size };
	uint8_t acc[16] = { 0 };
	struct stat st;
	int r;

	if (!f->fd_writable)
		return -EROFS;
	if (fstat(f->fd, &st) != 0)
		return -errno;
	rec.backing = (uint64_t)st.st_size;
	/* A size that was synced is on the disk: a shorter file was cut, or what would have made it longer is missing. */
	if (!same_boot && rec.backing < vault_backing_size(rec.size))
		rec.size = size_in(rec.backing);
	rec.limit = rec.size;
	/* What is zeroed below must not come again, even when this recovery does not get to its end. */
	if ((r = check_horizon(&rec)) != 0 || (r = vault_seal_next(f, c, rec.top_seq + 1)) != 0)
		return r;
	for (uint64_t g = 0; has_group(&rec, g); g = vault_tags_data(f, g + 1, GROUPS_MAX))
		if ((r = settle_group(&rec, g, acc)) != 0)
			return r;
	f->size = rec.size;
	memcpy(f->acc, acc, sizeof(acc));
	f->next_seq = rec.top_seq + 1 > f->state.next_seq ? rec.top_seq + 1 : f->state.next_seq;
	vault_tags_restart(f, tags_groups(vault_blocks(f->size)));
	/* What is there may have been synced: Rule D holds for the block that is written below, should the power go once more. */
	f->promised_seq = f->next_seq - 1;
	f->promised_size = f->size;
	if ((r = finish_cut(&rec)) != 0)
		return r;
	f->resized = vault_backing_size(f->size) != rec.backing;
	if (f->resized && ftruncate(f->fd, (off_t)vault_backing_size(f->size)) != 0)
		return -errno;
	r = vault_seal(f, c, 0, 0, 0);
	if (r == 0 && futimens(f->fd, (struct timespec[]){ st.st_atim, st.st_mtim }) != 0)
		base_log(LOG_DEBUG, "times of inode %ju not restored: %s", (uintmax_t)f->ino, strerror(errno));
	if (r == 0)
		report(&rec);
	return r;
}
