/*
 * vault/header.h: the header page and the arithmetic of pages (fs/FORMAT.md). Pure codecs and single reads and writes; thread-safe.
 */
#ifndef VAULT_HEADER_H
#define VAULT_HEADER_H

#include "base/crypto.h"
#include "kms/kms.h"

#define VAULT_PAGE 4096
#define VAULT_HEADER_AREA(i) (512 + 1024 * (i))
#define VAULT_WRAP_SIZE 768
#define VAULT_STATE_SIZE 256
#define VAULT_TAGS_AT 2560
#define VAULT_MAGIC_FILE "KEEPFSF1"
#define VAULT_MAGIC_CONFIG "KEEPFSV1"

/* The immutable fields and both wrap slots of a page. */
struct vault_header {
	uint8_t page[VAULT_PAGE];        /* as read */
	uint8_t vault_id[BASE_ID_SIZE];
	uint8_t file_id[BASE_ID_SIZE];
	uint8_t commitment[32];
	int live;                        /* 0 or 1: area of the live wrap slot */
	uint64_t wrap_seq;               /* of the live one */
	struct kms_wrap wrap;            /* the live one */
	bool other_used;                 /* the other slot is not all zero */
};

/* vault_header_parse(page, magic, purpose, ret): -EBADMSG for a wrong magic, format, suite, flag, non-zero reserved bytes, or no valid wrap slot. */
int vault_header_parse(const uint8_t page[VAULT_PAGE], const char magic[8], enum kms_purpose purpose, struct vault_header *ret);
/* vault_header_read(fd, magic, purpose, ret): pread of page 0, then parse. A file shorter than a page is -EBADMSG. */
int vault_header_read(int fd, const char magic[8], enum kms_purpose purpose, struct vault_header *ret);
/* vault_header_build(page, magic, vault_id, file_id): a fresh page without commitment, slots and state. */
void vault_header_build(uint8_t page[VAULT_PAGE], const char magic[8], const uint8_t vault_id[BASE_ID_SIZE], const uint8_t file_id[BASE_ID_SIZE]);
/* vault_wrap_encode(seq, purpose, wrap, out): a wrap slot with its checksum. */
void vault_wrap_encode(uint64_t seq, enum kms_purpose purpose, const struct kms_wrap *wrap, uint8_t out[VAULT_WRAP_SIZE]);
/* vault_wrap_valid(slot, purpose): a whole wrap slot, neither empty nor damaged. */
bool vault_wrap_valid(const uint8_t slot[VAULT_WRAP_SIZE], enum kms_purpose purpose);
/* vault_header_rewrap(fd, header, purpose, wrap): write wrap into the other slot with sequence + 1 and update header. One pwrite.
 * vault_header_erase(fd, header): zero the slot that is not live, when it is used. Both leave times to the caller. */
int vault_header_rewrap(int fd, struct vault_header *header, enum kms_purpose purpose, const struct kms_wrap *wrap);
int vault_header_erase(int fd, struct vault_header *header);

/* What a state slot seals (for the config: size = generation, acc = keystore id, session = root directory id). */
#define VAULT_STATE_DIRTY 1u
#define VAULT_STATE_INTENT 2u
struct vault_state {
	uint64_t n;
	uint64_t horizon;  /* s */
	uint64_t size;
	uint8_t acc[16];
	uint32_t flags;
	uint8_t session[BASE_ID_SIZE];
	uint64_t intent_first, intent_end;
	uint64_t next_seq;
};
/* vault_state_seal(siv, magic, file_id, state, out): out is a whole slot. vault_state_open: the valid one with the higher n; -EBADMSG. */
int vault_state_seal(const struct base_siv *siv, const char magic[8], const uint8_t file_id[BASE_ID_SIZE], const struct vault_state *state,
		     uint8_t out[VAULT_STATE_SIZE]);
int vault_state_open(const struct base_siv *siv, const char magic[8], const uint8_t file_id[BASE_ID_SIZE], const uint8_t page[VAULT_PAGE],
		     struct vault_state *ret);

/* Where things are. */
uint64_t vault_page_of(uint64_t block);                  /* page of a data block */
uint64_t vault_backing_size(uint64_t size);              /* map(z) */
int vault_plain_size(uint64_t backing, uint64_t *ret);   /* its inverse; -EBADMSG for sizes that map() never gives */

#endif
