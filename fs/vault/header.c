/* The header page and its wrap slots (fs/FORMAT.md, "Header page"). Every byte here may be hostile. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "vault/header.h"

#define FORMAT 1
#define SUITE 1
#define BLOB_AT 36
#define CHECKSUM_AT 760

enum slot { SLOT_EMPTY, SLOT_VALID, SLOT_TORN };

void vault_header_build(uint8_t page[VAULT_PAGE], const char magic[8], const uint8_t vault_id[BASE_ID_SIZE], const uint8_t file_id[BASE_ID_SIZE])
{
	memset(page, 0, VAULT_PAGE);
	memcpy(page, magic, 8);
	base_put16(page + 8, FORMAT);
	base_put16(page + 10, SUITE);
	memcpy(page + 16, vault_id, BASE_ID_SIZE);
	memcpy(page + 32, file_id, BASE_ID_SIZE);
}

/* Without a digest no slot is ever valid, so a failure of the library reads as a torn slot. */
static void slot_checksum(const uint8_t *slot, uint8_t out[8])
{
	uint8_t digest[32] = { 0 };

	if (base_sha256(slot, CHECKSUM_AT, digest) < 0)
		memset(digest, 0, sizeof(digest));
	memcpy(out, digest, 8);
}

void vault_wrap_encode(uint64_t seq, enum kms_purpose purpose, const struct kms_wrap *wrap, uint8_t out[VAULT_WRAP_SIZE])
{
	size_t len = wrap->blob_len <= KMS_BLOB_MAX ? wrap->blob_len : KMS_BLOB_MAX;

	memset(out, 0, VAULT_WRAP_SIZE);
	base_put64(out, seq);
	memcpy(out + 8, wrap->key_id, BASE_ID_SIZE);
	base_put32(out + 24, wrap->version);
	out[28] = wrap->mechanism;
	out[29] = wrap->hash;
	out[30] = wrap->iv_mode;
	out[31] = (uint8_t)purpose;
	base_put16(out + 32, (uint16_t)len);
	memcpy(out + BLOB_AT, wrap->blob, len);
	slot_checksum(out, out + CHECKSUM_AT);
}

static enum slot slot_parse(const uint8_t *slot, enum kms_purpose purpose, uint64_t *ret_seq, struct kms_wrap *ret)
{
	uint8_t sum[8];
	size_t len = base_get16(slot + 32);

	if (base_is_zero(slot, VAULT_WRAP_SIZE))
		return SLOT_EMPTY;
	slot_checksum(slot, sum);
	if (base_is_zero(sum, sizeof(sum)) || memcmp(sum, slot + CHECKSUM_AT, sizeof(sum)) != 0)
		return SLOT_TORN;
	if (base_get64(slot) == 0 || slot[31] != (uint8_t)purpose || len == 0 || len > KMS_BLOB_MAX)
		return SLOT_TORN;
	if (!base_is_zero(slot + 34, 2) || !base_is_zero(slot + BLOB_AT + len, CHECKSUM_AT - BLOB_AT - len))
		return SLOT_TORN;
	*ret_seq = base_get64(slot);
	memset(ret, 0, sizeof(*ret));
	memcpy(ret->key_id, slot + 8, BASE_ID_SIZE);
	ret->version = base_get32(slot + 24);
	ret->mechanism = slot[28];
	ret->hash = slot[29];
	ret->iv_mode = slot[30];
	ret->blob_len = (uint16_t)len;
	memcpy(ret->blob, slot + BLOB_AT, len);
	return SLOT_VALID;
}

bool vault_wrap_valid(const uint8_t slot[VAULT_WRAP_SIZE], enum kms_purpose purpose)
{
	struct kms_wrap wrap;
	uint64_t seq;

	return slot_parse(slot, purpose, &seq, &wrap) == SLOT_VALID;
}

static int check_fixed(const uint8_t *page, const char magic[8])
{
	bool config = memcmp(magic, VAULT_MAGIC_CONFIG, 8) == 0;

	if (memcmp(page, magic, 8) != 0 || base_get16(page + 8) != FORMAT || base_get16(page + 10) != SUITE || base_get32(page + 12) != 0)
		return -EBADMSG;
	if (!base_is_zero(page + 48, 16) || !base_is_zero(page + 96, VAULT_HEADER_AREA(0) - 96) || !base_is_zero(page + 4072, 24))
		return -EBADMSG;
	if (config && (!base_is_zero(page + VAULT_TAGS_AT, 4072 - VAULT_TAGS_AT) || memcmp(page + 16, page + 32, BASE_ID_SIZE) != 0))
		return -EBADMSG;
	return 0;
}

int vault_header_parse(const uint8_t page[VAULT_PAGE], const char magic[8], enum kms_purpose purpose, struct vault_header *ret)
{
	struct kms_wrap wrap[2];
	uint64_t seq[2] = { 0, 0 };
	enum slot slot[2];
	int i;

	if (check_fixed(page, magic) < 0)
		return -EBADMSG;
	for (i = 0; i < 2; i++)
		slot[i] = slot_parse(page + VAULT_HEADER_AREA(i), purpose, &seq[i], &wrap[i]);
	/* Only valid slots have a sequence other than zero; two of the same are nobody's work. */
	if (seq[0] == seq[1])
		return -EBADMSG;
	if (ret->page != page)
		memcpy(ret->page, page, VAULT_PAGE);
	memcpy(ret->vault_id, page + 16, BASE_ID_SIZE);
	memcpy(ret->file_id, page + 32, BASE_ID_SIZE);
	memcpy(ret->commitment, page + 64, 32);
	ret->live = seq[1] > seq[0];
	ret->wrap_seq = seq[ret->live];
	ret->wrap = wrap[ret->live];
	ret->other_used = slot[!ret->live] != SLOT_EMPTY;
	return 0;
}

int vault_header_read(int fd, const char magic[8], enum kms_purpose purpose, struct vault_header *ret)
{
	ssize_t n;

	do
		n = pread(fd, ret->page, VAULT_PAGE, 0);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	if (n != VAULT_PAGE)
		return -EBADMSG;
	return vault_header_parse(ret->page, magic, purpose, ret);
}

static int write_slot(int fd, struct vault_header *header, int area, const uint8_t slot[VAULT_WRAP_SIZE])
{
	ssize_t n;

	do
		n = pwrite(fd, slot, VAULT_WRAP_SIZE, VAULT_HEADER_AREA(area));
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	if (n != VAULT_WRAP_SIZE)
		return -EIO;
	memcpy(header->page + VAULT_HEADER_AREA(area), slot, VAULT_WRAP_SIZE);
	return 0;
}

int vault_header_rewrap(int fd, struct vault_header *header, enum kms_purpose purpose, const struct kms_wrap *wrap)
{
	uint8_t slot[VAULT_WRAP_SIZE];
	int code;

	/* The sequence is not authenticated: it may stand at its end. */
	if (header->wrap_seq == UINT64_MAX)
		return -EBADMSG;
	vault_wrap_encode(header->wrap_seq + 1, purpose, wrap, slot);
	code = write_slot(fd, header, !header->live, slot);
	if (code < 0)
		return code;
	header->live = !header->live;
	header->wrap_seq++;
	header->wrap = *wrap;
	header->other_used = true;
	return 0;
}

int vault_header_erase(int fd, struct vault_header *header)
{
	static const uint8_t empty[VAULT_WRAP_SIZE];
	int code;

	if (!header->other_used)
		return 0;
	code = write_slot(fd, header, !header->live, empty);
	if (code == 0)
		header->other_used = false;
	return code;
}
