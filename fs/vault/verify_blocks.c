/* Verifying the tags and the blocks of a file (fs/FORMAT.md, "Blocks and tags"). */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "look.h"

#define SLICE_GROUPS 4 /* tag pages of a slice of data: 224 blocks; divides TAG_RUN */
#define SLICE_BLOCKS (SLICE_GROUPS * TAG_GROUP)
#define AHEAD (2 << 20)
#define ADVICE "restore the file from a backup"

static const char not_read[] = "cannot be read from the disk";
static const char not_authentic[] = "do not authenticate";

/* ---- runs of bad blocks ---- */

static int bad_tell(struct vault_look *l)
{
	uint64_t from = l->bad_from, to = l->bad_to;
	const char *what = l->bad_what;

	l->bad_from = l->bad_to = 0;
	if (from == to)
		return 0;
	if (l->told >= LOOK_FINDINGS) {
		l->untold += to - from;
		return 0;
	}
	l->told++;
	if (to - from == 1)
		return vault_look_tell(l, what == not_read ? "unreadable" : "data-damaged", "block %ju (bytes %ju to %ju of the content): %s; " ADVICE,
				       (uintmax_t)from, (uintmax_t)(from * VAULT_PAGE), (uintmax_t)(to * VAULT_PAGE - 1),
				       what == not_authentic ? "does not authenticate" : what);
	return vault_look_tell(l, what == not_read ? "unreadable" : "data-damaged", "blocks %ju to %ju (bytes %ju to %ju of the content): %s; " ADVICE,
			       (uintmax_t)from, (uintmax_t)(to - 1), (uintmax_t)(from * VAULT_PAGE), (uintmax_t)(to * VAULT_PAGE - 1), what);
}

static int bad_add(struct vault_look *l, uint64_t block, const char *what)
{
	int r = 0;

	if (l->bad_from == l->bad_to || l->bad_to != block || l->bad_what != what) {
		r = bad_tell(l);
		l->bad_from = block;
		l->bad_what = what;
	}
	l->bad_to = block + 1;
	return r;
}

static int bad_end(struct vault_look *l)
{
	int r = bad_tell(l);

	if (r == 0 && l->untold > 0)
		r = vault_look_tell(l, "data-damaged", "%ju more blocks: do not authenticate or cannot be read; " ADVICE, (uintmax_t)l->untold);
	l->untold = 0;
	l->told = 0;
	return r;
}

static int pass(struct vault_look *l, uint64_t bytes)
{
	l->covered += bytes;
	return l->w->progress(l->w->ctx, bytes);
}

/* ---- tags ---- */

/* What is wrong with a tag page; block UINT64_MAX: the page as a whole. */
struct fault {
	const char *what;
	uint64_t block;
};

struct tags_slice {
	uint64_t group;
	unsigned n;
	bool total;                /* the sum over all of them is not the sealed one */
	struct fault fault[TAG_RUN];
};

/* Tag pages that the backing file has room for: the last run's reach beyond its last block. */
static uint64_t all_groups(uint64_t blocks)
{
	return blocks <= TAG_HEAD ? 1 : 1 + TAG_RUN * ((blocks - TAG_HEAD + TAG_RUN_BLOCKS - 1) / TAG_RUN_BLOCKS);
}

static bool group_known(struct vault_file *f, uint64_t group)
{
	bool known;

	pthread_mutex_lock(&f->tags_mutex);
	known = vault_tags_seen(f, group);
	pthread_mutex_unlock(&f->tags_mutex);
	return known;
}

/* raw: the entries as read. acc: running sum of a file of our own. */
static int group_check(struct vault_look *l, struct tags_slice *s, unsigned i, const uint8_t *raw, size_t len, uint8_t acc[16])
{
	uint64_t group = s->group + i, first = tags_first(group);
	struct fault *fault = &s->fault[i];
	bool known;
	int r;

	*fault = (struct fault){ NULL, UINT64_MAX };
	for (unsigned k = 0; k < tags_count(group) && !fault->what; k++) {
		fault->what = vault_entry_fault(l->f, first + k, raw + k * TAG_ENTRY);
		fault->block = first + k;
	}
	if (!fault->what && !base_is_zero(raw + tags_count(group) * TAG_ENTRY, len - tags_count(group) * TAG_ENTRY))
		*fault = (struct fault){ "bytes at its end that are reserved are not zero", UINT64_MAX };
	if (fault->what)
		return 0;
	if (l->own)
		return vault_tags_sum(l->f, l->c, group, raw, acc);
	known = group_known(l->f, group);
	r = vault_tags_recheck(l->f, l->c, group, raw);
	if (r != -EBADMSG)
		return r;
	if (known)
		*fault = (struct fault){ "it is not what it was when it was read before", UINT64_MAX };
	else
		s->total = true;
	return 0;
}

static int tags_read(struct vault_look *l, struct tags_slice *s, uint8_t acc[16])
{
	size_t len = s->group == 0 ? TAG_HEAD * TAG_ENTRY : VAULT_PAGE;
	uint8_t *buf = vault_iobuf((size_t)TAG_RUN * VAULT_PAGE);
	int r, bulk;

	if (!buf)
		return -ENOMEM;
	bulk = vault_pread_zero(l->fd, buf, s->n * len, tags_offset(s->group));
	for (unsigned i = 0; i < s->n; i++) {
		r = bulk == 0 ? 0 : vault_pread_zero(l->fd, buf + i * len, len, tags_offset(s->group + i));
		if (r != 0)
			s->fault[i] = (struct fault){ not_read, UINT64_MAX };
		else if ((r = group_check(l, s, i, buf + i * len, len, acc)) != 0)
			return r;
	}
	l->w->bytes += s->n * len;
	return 0;
}

static int fault_tell(struct vault_look *l, uint64_t group, const struct fault *fault)
{
	uint64_t first = tags_first(group), last = first + tags_count(group) - 1, at = tags_offset(group);

	if (group < l->tags_told)
		return 0;
	l->tags_told = group + 1;
	if (l->told++ >= LOOK_FINDINGS)
		return 0;
	if (fault->block != UINT64_MAX)
		return vault_look_tell(l, "tags-damaged", "the tag of block %ju (byte %ju of the content; backing byte %ju): %s; " ADVICE,
				       (uintmax_t)fault->block, (uintmax_t)(fault->block * VAULT_PAGE),
				       (uintmax_t)(at + (fault->block - first) * TAG_ENTRY), fault->what);
	return vault_look_tell(l, fault->what == not_read ? "unreadable" : "tags-damaged",
			       "the tags of blocks %ju to %ju (bytes %ju to %ju of the content; backing byte %ju): %s; " ADVICE, (uintmax_t)first,
			       (uintmax_t)last, (uintmax_t)(first * VAULT_PAGE), (uintmax_t)((last + 1) * VAULT_PAGE - 1), (uintmax_t)at, fault->what);
}

static int total_tell(struct vault_look *l)
{
	if (l->total_told)
		return 0;
	l->total_told = true;
	return vault_look_tell(l, "tags-damaged", "the tags as a whole are not those that were sealed: one of the %ju blocks, or more, are older ones or "
			       "were taken away; " ADVICE, (uintmax_t)vault_blocks((uint64_t)l->st->st_size));
}

static int slice_tell(struct vault_look *l, const struct tags_slice *s, bool *faulty)
{
	int r = 0;

	for (unsigned i = 0; i < s->n && r == 0; i++)
		if (s->fault[i].what) {
			*faulty = true;
			r = fault_tell(l, s->group + i, &s->fault[i]);
		}
	return r == 0 && s->total ? total_tell(l) : r;
}

int vault_look_tags(struct vault_look *l)
{
	struct tags_slice s = { .group = 0 };
	uint8_t acc[16] = { 0 };
	bool faulty = false, wrong = false;
	int r = 0;

	l->told = 0;
	for (;;) {
		if ((r = vault_look_begin(l)) != 0)
			return r;
		s.n = s.group == 0 ? 1 : TAG_RUN;
		s.total = false;
		if (s.group >= all_groups(vault_blocks(l->f->size))) {
			wrong = l->own && memcmp(acc, l->f->state.acc, sizeof(acc)) != 0;
			vault_look_end(l);
			break;
		}
		r = tags_read(l, &s, acc);
		vault_look_end(l);
		if (r == 0)
			r = slice_tell(l, &s, &faulty);
		if (r == 0)
			r = l->w->progress(l->w->ctx, 0);
		if (r != 0)
			return r;
		s.group += s.n;
	}
	return wrong && !faulty ? total_tell(l) : 0;
}

/* ---- data ---- */

struct data_slice {
	uint64_t group, block;
	unsigned n;                         /* groups */
	unsigned blocks;
	struct vault_slot slot[SLICE_BLOCKS]; /* the live ones; meta 0: a hole, or a tag that was told of */
	const char *bad[SLICE_BLOCKS];
};

static int slots_read(struct vault_look *l, struct data_slice *s)
{
	size_t len = s->group == 0 ? TAG_HEAD * TAG_ENTRY : VAULT_PAGE;
	uint8_t raw[SLICE_GROUPS * VAULT_PAGE];
	uint64_t end = vault_blocks(l->f->size);
	int r = vault_pread_zero(l->fd, raw, s->n * len, tags_offset(s->group));

	s->block = tags_first(s->group);
	s->blocks = 0;
	memset(s->bad, 0, sizeof(s->bad));
	for (unsigned g = 0; g < s->n; g++)
		for (unsigned k = 0; k < tags_count(s->group + g) && s->block + s->blocks < end; k++) {
			const uint8_t *entry = raw + g * len + k * TAG_ENTRY;
			struct vault_slot *slot = &s->slot[s->blocks];
			int live = vault_entry_live(entry);

			slot->meta = 0;
			if (r == 0 && live >= 0 && !vault_entry_fault(l->f, s->block + s->blocks, entry))
				vault_slot_get(entry + live * TAG_SLOT, slot);
			s->blocks++;
		}
	return r == -EIO ? 0 : r; /* told of with the tags */
}

/* One pread for all; block for block where the disk refuses that. */
static int pages_read(struct vault_look *l, struct data_slice *s, unsigned first, unsigned last, uint8_t *pages)
{
	uint64_t at = vault_page_of(s->block) * VAULT_PAGE;
	size_t len = (size_t)(last - first) * VAULT_PAGE + META_LEN(s->slot[last].meta);
	int r = vault_pread_zero(l->fd, pages + (size_t)first * VAULT_PAGE, len, at + (size_t)first * VAULT_PAGE);

	l->w->bytes += len;
	if (r != -EIO)
		return r;
	for (unsigned i = first; i <= last; i++)
		if (s->slot[i].meta && vault_pread_zero(l->fd, pages + (size_t)i * VAULT_PAGE, META_LEN(s->slot[i].meta), at + (size_t)i * VAULT_PAGE) != 0)
			s->bad[i] = not_read;
	return 0;
}

static int blocks_check(struct vault_look *l, struct data_slice *s)
{
	uint8_t *pages = vault_iobuf((size_t)SLICE_BLOCKS * VAULT_PAGE);
	unsigned first = s->blocks, last = 0;
	int r;

	if (!pages)
		return -ENOMEM;
	for (unsigned i = 0; i < s->blocks; i++)
		if (s->slot[i].meta) {
			first = first == s->blocks ? i : first;
			last = i;
		}
	if (first == s->blocks)
		return 0;
	if ((r = pages_read(l, s, first, last, pages)) != 0)
		return r;
	/* What comes is read while this is decrypted. */
	(void)posix_fadvise(l->fd, (off_t)((vault_page_of(s->block) + s->blocks) * VAULT_PAGE), AHEAD, POSIX_FADV_WILLNEED);
	for (unsigned i = first; i <= last; i++) {
		uint8_t *page = pages + (size_t)i * VAULT_PAGE;

		if (!s->slot[i].meta || s->bad[i])
			continue;
		r = vault_cipher_open(l->c, l->f, s->block + i, &s->slot[i], page, page);
		if (r == -EBADMSG)
			s->bad[i] = not_authentic;
		else if (r != 0)
			return r;
		l->w->blocks++;
	}
	return 0;
}

static int data_tell(struct vault_look *l, const struct data_slice *s)
{
	int r = 0;

	for (unsigned i = 0; i < s->blocks && r == 0; i++)
		if (s->bad[i])
			r = bad_add(l, s->block + i, s->bad[i]);
	return r;
}

int vault_look_data(struct vault_look *l)
{
	struct data_slice s;
	int r;

	for (;;) {
		s.group = l->data_group;
		if ((r = vault_look_begin(l)) != 0)
			return r;
		if (s.group >= tags_groups(vault_blocks(l->f->size))) {
			vault_look_end(l);
			break;
		}
		s.n = s.group == 0 ? 1 : SLICE_GROUPS;
		r = slots_read(l, &s);
		if (r == 0)
			r = blocks_check(l, &s);
		vault_look_end(l);
		if (s.blocks > 0)
			(void)posix_fadvise(l->fd, (off_t)(vault_page_of(s.block) * VAULT_PAGE), (off_t)s.blocks * VAULT_PAGE, POSIX_FADV_DONTNEED);
		if (r == 0)
			r = data_tell(l, &s);
		if (r == 0)
			r = pass(l, (uint64_t)s.blocks * VAULT_PAGE);
		if (r != 0)
			return r;
		l->data_group += s.n;
	}
	return bad_end(l);
}
