/*
 * fs/vault/tags.c: tag pages in memory, checked against the accumulator.
 *
 * The accumulator of a file is the XOR of one partial accumulator per tag page. A page's partial is remembered (16 bytes) from the first
 * time it is seen, so a page that is read again, after it left the cache, cannot be an older one.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "content.h"

void vault_slot_get(const uint8_t *raw, struct vault_slot *ret)
{
	memcpy(ret->nonce, raw, 12);
	memcpy(ret->tag, raw + 12, 16);
	ret->meta = base_get64(raw + 28);
}

void vault_slot_put(const struct vault_slot *slot, uint8_t *raw)
{
	memcpy(raw, slot->nonce, 12);
	memcpy(raw + 12, slot->tag, 16);
	base_put64(raw + 28, slot->meta);
}

int vault_entry_live(const uint8_t *entry)
{
	uint64_t a = META_SEQ(base_get64(entry + 28)), b = META_SEQ(base_get64(entry + TAG_SLOT + 28));

	if (a == 0 && b == 0)
		return -1;
	return b > a;
}

int vault_tags_init(struct vault_file *f, const uint8_t page[VAULT_PAGE])
{
	f->head = calloc(1, sizeof(*f->head));
	if (!f->head)
		return -ENOMEM;
	memcpy(f->head->raw, page + VAULT_TAGS_AT, TAG_HEAD * TAG_ENTRY);
	vault_tags_restart(f, tags_groups(vault_blocks(f->size)));
	return 0;
}

/* PARTS_CHUNK groups that were all seen and hold nothing. Never written: parts_get copies it before. */
static struct vault_tags_parts parts_empty;
static pthread_once_t parts_once = PTHREAD_ONCE_INIT;

static void parts_fill(void)
{
	memset(parts_empty.seen, 0xff, sizeof(parts_empty.seen));
}

static void parts_free(struct vault_file *f)
{
	for (size_t i = 0; i < f->parts_len; i++)
		if (f->parts[i] != &parts_empty)
			free(f->parts[i]);
	free(f->parts);
	f->parts = NULL;
	f->parts_len = 0;
}

static void cache_free(struct vault_file *f)
{
	if (f->cache)
		for (unsigned i = 0; i < TAGS_CACHE; i++)
			free(f->cache[i]);
	free(f->cache);
	f->cache = NULL;
}

void vault_tags_done(struct vault_file *f)
{
	parts_free(f);
	cache_free(f);
	free(f->head);
	f->head = NULL;
}

void vault_tags_restart(struct vault_file *f, uint64_t groups)
{
	parts_free(f);
	cache_free(f);
	f->groups_known_from = groups;
	f->unseen = groups;
	memset(f->seen_acc, 0, sizeof(f->seen_acc));
}

void vault_tags_cut(struct vault_file *f, uint64_t groups)
{
	/* A cut has looked at every group beyond it, or empties the file, so nothing there is unseen any more. */
	for (uint64_t g = groups; f->cache && g < groups + TAGS_CACHE; g++) {
		struct vault_tags_page **slot = &f->cache[g % TAGS_CACHE];

		if (*slot && (*slot)->group >= groups) {
			free(*slot);
			*slot = NULL;
		}
	}
	for (size_t i = 0; i < f->parts_len; i++) {
		uint64_t first = (uint64_t)i * PARTS_CHUNK;

		if (!f->parts[i] || f->parts[i] == &parts_empty || first + PARTS_CHUNK <= groups)
			continue;
		for (unsigned k = first < groups ? (unsigned)(groups - first) : 0; k < PARTS_CHUNK; k++)
			memset(f->parts[i]->acc[k], 0, 16);
	}
	if (groups < f->groups_known_from)
		f->groups_known_from = groups;
}

int vault_tags_read(const struct vault_file *f, uint64_t group, uint8_t raw[TAG_GROUP * TAG_ENTRY])
{
	uint8_t page[VAULT_PAGE];
	size_t len = group == 0 ? TAG_HEAD * TAG_ENTRY : VAULT_PAGE;
	int r = vault_pread_zero(f->fd, page, len, tags_offset(group));

	if (r != 0)
		return r;
	if (group != 0 && !base_is_zero(page + TAG_GROUP * TAG_ENTRY, VAULT_PAGE - TAG_GROUP * TAG_ENTRY))
		return -EBADMSG;
	memset(raw, 0, TAG_GROUP * TAG_ENTRY);
	memcpy(raw, page, group == 0 ? TAG_HEAD * TAG_ENTRY : TAG_GROUP * TAG_ENTRY);
	return 0;
}

int vault_tags_sum(struct vault_file *f, struct vault_cipher *c, uint64_t group, const uint8_t *raw, uint8_t acc[16])
{
	struct vault_slot slots[TAG_GROUP];
	uint64_t blocks[TAG_GROUP], first = tags_first(group);
	unsigned n = 0;

	for (unsigned i = 0; i < tags_count(group); i++) {
		int live = vault_entry_live(raw + i * TAG_ENTRY);

		if (live < 0)
			continue;
		vault_slot_get(raw + i * TAG_ENTRY + live * TAG_SLOT, &slots[n]);
		blocks[n++] = first + i;
	}
	return vault_cipher_acc(c, f, blocks, slots, n, acc);
}

/* Shape of both slots of an entry, and where the live one may lie. */
const char *vault_entry_fault(const struct vault_file *f, uint64_t block, const uint8_t *entry)
{
	uint64_t meta[2] = { base_get64(entry + 28), base_get64(entry + TAG_SLOT + 28) };
	int live = vault_entry_live(entry);
	uint64_t at = block * VAULT_PAGE;

	for (int i = 0; i < 2; i++) {
		if (META_SEQ(meta[i]) == 0) {
			if (!base_is_zero(entry + i * TAG_SLOT, TAG_SLOT))
				return "a tag without a sequence";
			continue;
		}
		if (META_FLAGS(meta[i]) || META_LEN(meta[i]) == 0 || META_LEN(meta[i]) > VAULT_PAGE)
			return "a tag whose length or flags make no sense";
		if (META_SEQ(meta[i]) >= f->next_seq)
			return "a tag above the sealed sequence";
	}
	if (live < 0)
		return NULL;
	if (META_SEQ(meta[0]) == META_SEQ(meta[1]))
		return "two tags of one sequence";
	return at < f->size && (f->cutting || META_LEN(meta[live]) <= f->size - at) ? NULL : "a tag beyond the size";
}

static bool parts_reach(struct vault_file *f, size_t i)
{
	size_t len = i + 1 > f->parts_len * 2 ? i + 1 : f->parts_len * 2;
	struct vault_tags_parts **grown;

	if (i < f->parts_len)
		return true;
	if (!(grown = realloc(f->parts, len * sizeof(*grown))))
		return false;
	memset(grown + f->parts_len, 0, (len - f->parts_len) * sizeof(*grown));
	f->parts = grown;
	f->parts_len = len;
	return true;
}

/* make: it is about to be written. */
static struct vault_tags_parts *parts_get(struct vault_file *f, uint64_t group, bool make)
{
	size_t i = group / PARTS_CHUNK;
	struct vault_tags_parts *p;

	if (!make)
		return i < f->parts_len ? f->parts[i] : NULL;
	if (!parts_reach(f, i))
		return NULL;
	if (f->parts[i] && f->parts[i] != &parts_empty)
		return f->parts[i];
	p = calloc(1, sizeof(*p));
	if (p && f->parts[i])
		*p = parts_empty;
	return p ? f->parts[i] = p : NULL;
}

static bool parts_seen(const struct vault_tags_parts *p, uint64_t group)
{
	return p->seen[group % PARTS_CHUNK / 8] & 1 << group % PARTS_CHUNK % 8;
}

/* The page's sum is what it must be: as remembered; nothing, where nothing was; or, with the last unseen page, what completes the total. */
static int parts_check(struct vault_file *f, uint64_t group, const uint8_t sum[16])
{
	struct vault_tags_parts *p = parts_get(f, group, false);
	unsigned k = group % PARTS_CHUNK;
	uint8_t total[16];

	if (p && (group >= f->groups_known_from || parts_seen(p, group)))
		return memcmp(p->acc[k], sum, 16) == 0 ? 0 : -EBADMSG;
	if (group >= f->groups_known_from)
		return base_is_zero(sum, 16) ? 0 : -EBADMSG;
	if (!(p = parts_get(f, group, true)))
		return -ENOMEM;
	memcpy(total, f->seen_acc, 16);
	acc_xor(total, sum);
	if (f->unseen == 1 && memcmp(total, f->acc, 16) != 0)
		return -EBADMSG;
	memcpy(f->seen_acc, total, 16);
	memcpy(p->acc[k], sum, 16);
	p->seen[k / 8] |= (uint8_t)(1 << k % 8);
	f->unseen--;
	return 0;
}

static int page_check(struct vault_file *f, struct vault_cipher *c, uint64_t group, const uint8_t *raw)
{
	uint8_t sum[16] = { 0 };
	uint64_t first = tags_first(group);
	int r;

	for (unsigned i = 0; i < tags_count(group); i++)
		if (vault_entry_fault(f, first + i, raw + i * TAG_ENTRY))
			return -EBADMSG;
	if ((r = vault_tags_sum(f, c, group, raw, sum)) != 0)
		return r;
	return parts_check(f, group, sum);
}

bool vault_tags_seen(struct vault_file *f, uint64_t group)
{
	struct vault_tags_parts *p = group < f->groups_known_from ? parts_get(f, group, false) : NULL;

	return group >= f->groups_known_from || (p && parts_seen(p, group));
}

/* Group 0 never leaves memory, so once seen it needs no second look. */
static int load_head(struct vault_file *f, struct vault_cipher *c, struct vault_tags_page **ret)
{
	int r = vault_tags_seen(f, 0) ? 0 : page_check(f, c, 0, f->head->raw);

	*ret = f->head;
	return r;
}

static int load_locked(struct vault_file *f, struct vault_cipher *c, uint64_t group, struct vault_tags_page **ret)
{
	struct vault_tags_page **slot, *page;
	int r;

	if (group == 0)
		return load_head(f, c, ret);
	if (!f->cache && !(f->cache = calloc(TAGS_CACHE, sizeof(*f->cache))))
		return -ENOMEM;
	slot = &f->cache[group % TAGS_CACHE];
	if (*slot && (*slot)->group == group) {
		*ret = *slot;
		return 0;
	}
	page = *slot ? *slot : malloc(sizeof(*page));
	if (!page)
		return -ENOMEM;
	*slot = NULL;
	page->group = group;
	r = vault_tags_read(f, group, page->raw);
	if (r == 0)
		r = page_check(f, c, group, page->raw);
	if (r != 0) {
		free(page);
		return r;
	}
	*ret = *slot = page;
	return 0;
}

int vault_tags_load(struct vault_file *f, struct vault_cipher *c, uint64_t group, struct vault_tags_page **ret)
{
	int r;

	pthread_mutex_lock(&f->tags_mutex);
	r = load_locked(f, c, group, ret);
	pthread_mutex_unlock(&f->tags_mutex);
	return r;
}

int vault_tags_recheck(struct vault_file *f, struct vault_cipher *c, uint64_t group, const uint8_t *raw)
{
	int r;

	pthread_mutex_lock(&f->tags_mutex);
	r = page_check(f, c, group, raw);
	pthread_mutex_unlock(&f->tags_mutex);
	return r;
}

uint64_t vault_tags_data(const struct vault_file *f, uint64_t group, uint64_t end)
{
	while (group > 0 && group < end && vault_holes(f->v)) {
		off_t at = lseek(f->fd, (off_t)tags_offset(group), SEEK_DATA);
		uint64_t page, in_run;

		if (at < 0)
			return errno == ENXIO ? end : group;
		page = (uint64_t)at / VAULT_PAGE - 1 - TAG_HEAD;
		in_run = page % TAG_RUN_PAGES;
		group = 1 + page / TAG_RUN_PAGES * TAG_RUN + (in_run < TAG_RUN ? in_run : TAG_RUN);
		if (in_run < TAG_RUN)
			break;
	}
	return group < end ? group : end;
}

/* Groups [from, to) are a hole: those not seen yet are now, as empty. *ret: the first that was seen and held something, or `to`. */
static int skip_hole(struct vault_file *f, uint64_t from, uint64_t to, uint64_t *ret)
{
	bool unseen = f->unseen > 0;
	uint64_t g = from;

	pthread_once(&parts_once, parts_fill);
	while (g < to) {
		uint64_t chunk = g / PARTS_CHUNK * PARTS_CHUNK, next = chunk + PARTS_CHUNK;
		struct vault_tags_parts *p = parts_get(f, g, false);

		if (p == &parts_empty || (!p && g >= f->groups_known_from)) {
			g = next;
			continue;
		}
		if (!p && g == chunk && next <= to && next <= f->groups_known_from) {
			if (!parts_reach(f, g / PARTS_CHUNK))
				return -ENOMEM;
			f->parts[g / PARTS_CHUNK] = &parts_empty;
			f->unseen -= PARTS_CHUNK;
			g = next;
			continue;
		}
		if (!p && !(p = parts_get(f, g, true)))
			return -ENOMEM;
		if (!base_is_zero(p->acc[g % PARTS_CHUNK], 16))
			break;
		if (g < f->groups_known_from && !parts_seen(p, g)) {
			p->seen[g % PARTS_CHUNK / 8] |= (uint8_t)(1 << g % PARTS_CHUNK % 8);
			f->unseen--;
		}
		g++;
	}
	*ret = g < to ? g : to;
	return unseen && f->unseen == 0 && memcmp(f->seen_acc, f->acc, 16) != 0 ? -EBADMSG : 0;
}

int vault_tags_next(struct vault_file *f, uint64_t group, uint64_t end, uint64_t *ret)
{
	int r;

	pthread_mutex_lock(&f->tags_mutex);
	r = skip_hole(f, group, vault_tags_data(f, group, end), ret);
	pthread_mutex_unlock(&f->tags_mutex);
	return r;
}

int vault_tags_verify(struct vault_file *f, struct vault_cipher *c)
{
	uint64_t groups = tags_groups(vault_blocks(f->size)), g = 0;
	struct vault_tags_page *page;
	int r = 0;

	while (r == 0 && (r = vault_tags_next(f, g, groups, &g)) == 0 && g < groups)
		r = vault_tags_load(f, c, g++, &page);
	return r;
}

int vault_tags_slots(struct vault_file *f, struct vault_cipher *c, uint64_t block, unsigned n, struct vault_slot *ret)
{
	struct vault_tags_page *page = NULL;
	int r = 0;

	pthread_mutex_lock(&f->tags_mutex);
	for (unsigned i = 0; i < n; i++) {
		uint64_t group = tags_group(block + i);
		const uint8_t *entry;
		int live;

		if ((!page || page->group != group) && (r = load_locked(f, c, group, &page)) != 0)
			break;
		entry = page->raw + (block + i - tags_first(group)) * TAG_ENTRY;
		live = vault_entry_live(entry);
		if (live < 0)
			memset(&ret[i], 0, sizeof(ret[i]));
		else
			vault_slot_get(entry + live * TAG_SLOT, &ret[i]);
	}
	pthread_mutex_unlock(&f->tags_mutex);
	return r;
}

int vault_tags_change(struct vault_file *f, uint64_t group, const uint8_t delta[16])
{
	struct vault_tags_parts *p;

	pthread_mutex_lock(&f->tags_mutex);
	p = parts_get(f, group, true);
	if (p) {
		acc_xor(p->acc[group % PARTS_CHUNK], delta);
		acc_xor(f->seen_acc, delta);
		acc_xor(f->acc, delta);
	}
	pthread_mutex_unlock(&f->tags_mutex);
	return p ? 0 : -ENOMEM;
}
