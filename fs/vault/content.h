/*
 * fs/vault/content.h: what the files that implement vault/file.h share: the open file, its cipher contexts, its tags, its seals.
 */
#ifndef VAULT_CONTENT_H
#define VAULT_CONTENT_H

#include <uthash.h>

#include "internal.h"

#define TAG_SLOT 36
#define TAG_ENTRY 72
#define TAG_HEAD 21             /* entries in page 0 */
#define TAG_GROUP 56            /* entries of a tag page */
#define TAG_RUN 16              /* tag pages of a run */
#define TAG_RUN_BLOCKS 896      /* TAG_GROUP * TAG_RUN */
#define TAG_RUN_PAGES 912
#define VERIFY_AT_OPEN (64u << 20) /* files that are not larger, or take no more room, are verified as a whole at open */

#define META_SEQ_BITS 48
#define META_SEQ(meta) ((meta) & ((1ULL << META_SEQ_BITS) - 1))
#define META_LEN(meta) ((unsigned)((meta) >> META_SEQ_BITS) & 0x1fff)
#define META_FLAGS(meta) ((unsigned)((meta) >> 61))
#define META(seq, len) ((uint64_t)(seq) | (uint64_t)(len) << META_SEQ_BITS)

/* HKDF's output for a file, cut as fs/FORMAT.md says. Lives in secret memory. */
struct vault_file_keys {
	uint8_t commitment[32];
	uint8_t state[64];
	uint8_t xattr[64];
	uint8_t master[32];
	uint8_t acc[32];
};

/* One slot of a tag entry, decoded. meta 0: empty. */
struct vault_slot {
	uint8_t nonce[12];
	uint8_t tag[16];
	uint64_t meta;
};

/* A tag page (or the 21 entries of page 0) in memory, raw. */
struct vault_tags_page {
	uint64_t group;
	uint8_t raw[TAG_GROUP * TAG_ENTRY];
};

#define TAGS_CACHE 64    /* tag pages kept per file, direct-mapped: 14 MiB of content */
#define PARTS_CHUNK 256
struct vault_tags_parts {
	uint8_t seen[PARTS_CHUNK / 8];
	uint8_t acc[PARTS_CHUNK][16];
};

/* A backing inode (live.h). */
struct vault_file_key {
	dev_t dev;
	ino_t ino;
};

struct vault_file {
	struct vault *v;
	int fd;
	bool fd_writable;
	bool resized;    /* by the recovery at its opening */
	dev_t dev;
	ino_t ino;
	uint64_t serial; /* names this file in the cipher pool */
	uint8_t id[BASE_ID_SIZE];
	uint8_t zone[BASE_ID_SIZE];
	struct vault_file_keys *keys;
	uint64_t lease;     /* of a file not yet linked */
	bool has_lease;
	char temp[32];      /* `tmp.` name of a file not yet linked, where there is no O_TMPFILE */
	int temp_dirfd;

	/* In the vault's list of open files; guarded by its mutex (live.c), but for listed, which only the file's owner changes. */
	UT_hash_handle hh;
	struct vault_file_key live_key;
	unsigned holds;
	bool listed;
	_Atomic bool ready; /* opened or made to the end: before that, whoever holds it keeps off */

	/* Guards everything below. Held for writing from the choice of a sequence number to the end of the data's write, and for seals; for
	 * reading while content is read. Taken before tags_mutex and vault_header_lock. */
	pthread_rwlock_t lock;
	struct vault_state state; /* as last sealed on disk */
	uint64_t size;
	uint8_t acc[16];          /* over the live slots of all groups */
	uint64_t next_seq;
	uint64_t promised_seq;    /* slots up to here were there at the open, or an fsync of them has begun: a power cut must not take them */
	uint64_t promised_size;   /* so many bytes had the file then: below it holes are promised as well */
	uint64_t durable_seq;     /* slots up to here are on the disk for certain */
	bool fresh;               /* made here and never fsynced: a power cut may take all of it */
	uint64_t last_write_ns;
	bool has_mtime;           /* mtime is what the kernel set last */
	struct timespec mtime;
	bool cutting;             /* recovery finishes a truncate: the last block may be longer than the size */
	bool changed;             /* since the last seal */
	bool unsynced;            /* since the last fsync */
	bool row_durable;         /* the dirty set's row was made durable */
	bool adrift;              /* a write of tags or state failed: the disk decides (vault_mend) before anything else is done */
	bool left;                /* the last writer went and the file could not be sealed CLEAN: kms_dirty_left was called */
	unsigned writers;

	/* Guards the tag cache and the partial accumulators while `lock` is held for reading; alone, leaf. */
	pthread_mutex_t tags_mutex;
	struct vault_tags_page *head;     /* group 0; always there */
	struct vault_tags_page **cache;   /* TAGS_CACHE pointers, or NULL */
	struct vault_tags_parts **parts;  /* partial accumulators of groups seen */
	size_t parts_len;
	uint64_t groups_known_from;       /* groups from here on held nothing at open: known without a look */
	uint64_t unseen;                  /* groups below that not yet seen */
	uint8_t seen_acc[16];             /* XOR of the partial accumulators of the groups that are known */

	pthread_mutex_t xattr_mutex;      /* guards the creation of xattr */
	struct base_siv *xattr;
	_Atomic bool reported;            /* one audit record per open file about broken integrity */
};

/* ---- cipher.c: keyed contexts. A pool of a few dozen, so that key schedules take bounded locked memory. ---- */

struct vault_cipher;
/* vault_cipher_get(f): keyed for f; NULL without memory. vault_cipher_put: back to the pool. vault_cipher_forget: wipe what is keyed for serial. */
struct vault_cipher *vault_cipher_get(const struct vault_file *f);
void vault_cipher_put(struct vault_cipher *c);
void vault_cipher_forget(uint64_t serial);
const struct base_siv *vault_cipher_state(struct vault_cipher *c, const struct vault_file *f); /* NULL without memory */
/* One block: in and out may be the same. 0, -EIO when OpenSSL fails, -EBADMSG when it does not authenticate. */
int vault_cipher_seal(struct vault_cipher *c, const struct vault_file *f, uint64_t block, struct vault_slot *slot, const uint8_t *in, uint8_t *out);
int vault_cipher_open(struct vault_cipher *c, const struct vault_file *f, uint64_t block, const struct vault_slot *slot, const uint8_t *in, uint8_t *out);
/* vault_cipher_acc(c, f, blocks, slots, n, acc): XOR F(blocks[i], slots[i]) into acc for n <= TAG_GROUP slots. */
int vault_cipher_acc(struct vault_cipher *c, const struct vault_file *f, const uint64_t *blocks, const struct vault_slot *slots, unsigned n,
		     uint8_t acc[16]);

/* ---- tags.c ---- */

static inline uint64_t tags_group(uint64_t block)
{
	return block < TAG_HEAD ? 0 : 1 + (block - TAG_HEAD) / TAG_GROUP;
}
static inline uint64_t tags_first(uint64_t group)
{
	return group == 0 ? 0 : TAG_HEAD + (group - 1) * TAG_GROUP;
}
static inline unsigned tags_count(uint64_t group)
{
	return group == 0 ? TAG_HEAD : TAG_GROUP;
}
/* Byte offset of a group's first entry in the backing file. */
static inline uint64_t tags_offset(uint64_t group)
{
	if (group == 0)
		return VAULT_TAGS_AT;
	return VAULT_PAGE * (1 + TAG_HEAD + (group - 1) / TAG_RUN * TAG_RUN_PAGES + (group - 1) % TAG_RUN);
}
static inline uint64_t vault_blocks(uint64_t size)
{
	return (size + VAULT_PAGE - 1) / VAULT_PAGE;
}
/* The first block after `block` whose data page does not follow on the one before. */
static inline uint64_t vault_run_end(uint64_t block)
{
	return block < TAG_HEAD ? TAG_HEAD : TAG_HEAD + ((block - TAG_HEAD) / TAG_RUN_BLOCKS + 1) * TAG_RUN_BLOCKS;
}
/* Groups that a file of this many blocks has; at least 1. */
static inline uint64_t tags_groups(uint64_t blocks)
{
	return blocks <= TAG_HEAD ? 1 : 1 + (blocks - TAG_HEAD + TAG_GROUP - 1) / TAG_GROUP;
}
/* No file has this many. */
#define GROUPS_MAX (tags_groups(vault_blocks(VAULT_FILE_MAX)) + 1)
static inline void acc_xor(uint8_t a[16], const uint8_t b[16])
{
	for (int i = 0; i < 16; i++)
		a[i] ^= b[i];
}

void vault_slot_get(const uint8_t *raw, struct vault_slot *ret);
void vault_slot_put(const struct vault_slot *slot, uint8_t *raw);
/* vault_entry_live(entry): index of the slot with the higher sequence, -1 when both are empty. */
int vault_entry_live(const uint8_t *entry);

/* vault_entry_fault(f, block, entry): what is wrong in the shape of an entry, or in where it lies; NULL: nothing. */
const char *vault_entry_fault(const struct vault_file *f, uint64_t block, const uint8_t *entry);

/* vault_tags_init(f, head): f->head from the header page; nothing seen yet. vault_tags_done frees. */
int vault_tags_init(struct vault_file *f, const uint8_t page[VAULT_PAGE]);
void vault_tags_done(struct vault_file *f);
/* vault_tags_read(f, group, raw): from disk, zeros beyond its end; -EBADMSG when the padding is not zero. */
int vault_tags_read(const struct vault_file *f, uint64_t group, uint8_t raw[TAG_GROUP * TAG_ENTRY]);
/* vault_tags_sum(f, c, group, raw, acc): XOR F of the live slots. */
int vault_tags_sum(struct vault_file *f, struct vault_cipher *c, uint64_t group, const uint8_t *raw, uint8_t acc[16]);
/*
 * vault_tags_load(f, c, group, ret): the checked page of a group, from the cache or the disk. Checks the shape of entries, that no slot is
 * above next_seq or beyond the size, and the partial accumulator: against the one known, or, when this is the last unseen group, the total.
 * Call with `lock` held; the page stays until TAGS_CACHE other groups are loaded. -EBADMSG.
 */
int vault_tags_load(struct vault_file *f, struct vault_cipher *c, uint64_t group, struct vault_tags_page **ret);
/* vault_tags_recheck(f, c, group, raw): a group as the disk has it now, checked as vault_tags_load does, past the cache. Call with `lock` held. */
int vault_tags_recheck(struct vault_file *f, struct vault_cipher *c, uint64_t group, const uint8_t *raw);
/* vault_tags_seen(f, group): the group's sum is known. With tags_mutex held. */
bool vault_tags_seen(struct vault_file *f, uint64_t group);
/* vault_tags_data(f, group, end): the first group in [group, end) whose tag page the backing file may have; end: none. Those in holes are empty.
 * vault_tags_next(f, group, end, ret): the same, and the groups passed over count as seen; one that held something before is not passed over.
 * With `lock` held. -EBADMSG: these were the last unseen ones, and the total does not match. */
uint64_t vault_tags_data(const struct vault_file *f, uint64_t group, uint64_t end);
int vault_tags_next(struct vault_file *f, uint64_t group, uint64_t end, uint64_t *ret);
/* vault_tags_verify(f, c): load every group. */
int vault_tags_verify(struct vault_file *f, struct vault_cipher *c);
/* vault_tags_slots(f, c, block, n, ret): live slots of n blocks; safe with `lock` held for reading. */
int vault_tags_slots(struct vault_file *f, struct vault_cipher *c, uint64_t block, unsigned n, struct vault_slot *ret);
/* vault_tags_change(f, group, delta): a write changed the group's live slots: XOR delta into partial, seen and total accumulator. */
int vault_tags_change(struct vault_file *f, uint64_t group, const uint8_t delta[16]);
/* vault_tags_known(f): after recovery: every group was just summed; start over with the disk's content as known total acc. */
void vault_tags_restart(struct vault_file *f, uint64_t groups);
/* vault_tags_cut(f, groups): forget the pages and partial accumulators of groups from `groups` on: they are empty now. */
void vault_tags_cut(struct vault_file *f, uint64_t groups);

/* ---- file.c ---- */

/* vault_file_new(v, fd): an object for a backing file; fd is taken over unless it fails. NULL without memory. vault_file_derive(f, dek, page): f->keys
 * from the DEK and the immutable fields of the header page. vault_file_subject: what f's DEK belongs to; path may be NULL. */
struct vault_file *vault_file_new(struct vault *v, int fd);
int vault_file_derive(struct vault_file *f, const uint8_t *dek, const uint8_t *page);
void vault_file_subject(const struct vault_file *f, const char *path, struct kms_subject *ret);

/* ---- open.c ---- */

/* vault_file_open_apart(v, caller, path, fd, check, ret, err): as vault_file_open for reading, but not listed: whoever else opens the file knows
 * nothing of this one. check false: no more than header, keys and state are looked at, nothing is logged or recovered. err is filled. */
int vault_file_open_apart(struct vault *v, const struct kms_caller *caller, const char *path, int fd, bool check, struct vault_file **ret,
			  struct base_error *err);

/* The same in two steps, for who tells what is wrong. vault_file_unlock(v, caller, path, fd, h, ret, err): the keys that h, read from fd, wraps; fd is
 * taken over. -EBADMSG with err->code 0: they do not belong to this header (commitment); others with err filled. vault_file_load(f, h): state and
 * the tags of page 0; -EBADMSG. Nothing is logged. */
int vault_file_unlock(struct vault *v, const struct kms_caller *caller, const char *path, int fd, const struct vault_header *h, struct vault_file **ret,
		      struct base_error *err);
int vault_file_load(struct vault_file *f, const struct vault_header *h);

/* ---- seal.c; all with `lock` held for writing ---- */

/* vault_seal(f, c, flags, first, end): write the next state: horizon, size and acc as in memory. first, end: intent's range. A failure leaves
 * the file adrift. */
int vault_seal(struct vault_file *f, struct vault_cipher *c, uint32_t flags, uint64_t first, uint64_t end);
/* vault_seal_next(f, c, next): the same state once more, but for its next sequence, which becomes at least `next`: before slots of used sequences
 * are zeroed. A failure leaves the file adrift. */
int vault_seal_next(struct vault_file *f, struct vault_cipher *c, uint64_t next);
/* vault_seal_begin(f, c): DIRTY if it is CLEAN. vault_seal_quiet(f, c, flags): a seal that leaves the times alone, for those that come after the
 * kernel has set them: at fsync and close. */
int vault_seal_begin(struct vault_file *f, struct vault_cipher *c);
int vault_seal_quiet(struct vault_file *f, struct vault_cipher *c, uint32_t flags);

/* ---- recover.c ---- */
int vault_recover(struct vault_file *f, struct vault_cipher *c, bool same_boot);

/* ---- mend.c ---- */
/* vault_mend(f, c): with `lock` held for writing: when a write had failed, take state and tags from the disk and recover. Nothing to do else. */
int vault_mend(struct vault_file *f, struct vault_cipher *c);
/* vault_read_lock(f, c): `lock` for reading, mended before; not held when this fails. */
int vault_read_lock(struct vault_file *f, struct vault_cipher *c);

/* ---- write.c, cut.c: internals with `lock` held for writing ---- */
int vault_write_locked(struct vault_file *f, struct vault_cipher *c, const uint8_t *buf, size_t len, uint64_t off);
/* vault_block_shorten(f, c, block, len): write a block again with at most len bytes (len >= 1), when its live slot is longer. */
int vault_block_shorten(struct vault_file *f, struct vault_cipher *c, uint64_t block, unsigned len);
/* vault_read_block(f, c, block, slot, out): one block, zero-extended to a page. */
int vault_read_block(struct vault_file *f, struct vault_cipher *c, uint64_t block, const struct vault_slot *slot, uint8_t out[VAULT_PAGE]);

/* vault_broken(f, block, what): log and record once that something does not authenticate. Returns -EIO. */
int vault_broken(struct vault_file *f, int64_t block, const char *what);
/* vault_iobuf(len): this thread's buffer of at least len bytes (page aligned), freed with the thread; NULL without memory. Ciphertext and content, never keys. */
uint8_t *vault_iobuf(size_t len);
/* Whole-buffer I/O: -errno, and *done bytes on a short end. pread beyond the end gives zeros. */
int vault_pread_zero(int fd, void *buf, size_t len, uint64_t off);
int vault_pwrite_all(int fd, const void *buf, size_t len, uint64_t off, size_t *done);

#endif
