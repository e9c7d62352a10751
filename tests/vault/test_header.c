/* Header page, state slots, arithmetic of pages: the codecs alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vault/header.h"

static const uint8_t VAULT[BASE_ID_SIZE] = "vault-id-16-byte", FILE_ID[BASE_ID_SIZE] = "file-id-16-bytes";

static struct kms_wrap sample_wrap(uint32_t version)
{
	struct kms_wrap w = { .version = version, .mechanism = 1, .iv_mode = 1, .blob_len = 60 };

	memset(w.key_id, 0x11, sizeof(w.key_id));
	memset(w.blob, 0x77, w.blob_len);
	return w;
}

static void sample_page(uint8_t page[VAULT_PAGE])
{
	struct kms_wrap w = sample_wrap(3);

	vault_header_build(page, VAULT_MAGIC_FILE, VAULT, FILE_ID);
	memset(page + 64, 0xcc, 32);
	vault_wrap_encode(5, KMS_PURPOSE_FILE, &w, page + VAULT_HEADER_AREA(0));
}

static int parse(const uint8_t page[VAULT_PAGE], struct vault_header *h)
{
	return vault_header_parse(page, VAULT_MAGIC_FILE, KMS_PURPOSE_FILE, h);
}

static void test_pages(void **state)
{
	uint64_t page = 1, block, back;
	int i;

	for (block = 0; block < 21; block++)
		assert_int_equal(vault_page_of(block), page++);
	for (; block < 21 + 896 * 3 + 5; block++) {
		if ((block - 21) % 896 == 0)
			page += 16;
		assert_int_equal(vault_page_of(block), page++);
	}
	assert_int_equal(vault_backing_size(0), 4096);
	assert_int_equal(vault_backing_size(1), 4097);
	assert_int_equal(vault_backing_size(4096), 8192);
	assert_int_equal(vault_backing_size(21 * 4096), 22 * 4096);
	assert_int_equal(vault_backing_size(21 * 4096 + 1), 38 * 4096 + 1);
	srandom(1);
	for (i = 0; i < 100000; i++) {
		uint64_t z = ((uint64_t)random() << 20 ^ (uint64_t)random()) >> (random() % 50);

		assert_int_equal(vault_plain_size(vault_backing_size(z), &back), 0);
		assert_int_equal(back, z);
	}
}

/* Every backing size of the first two runs: it has a plain size exactly when some plain size maps to it. */
static void test_sizes_never_given(void **state)
{
	uint64_t backing, z = 0, got;

	for (backing = 0; backing <= (22 + 912 + 20) * 4096; backing++) {
		int code = vault_plain_size(backing, &got);

		if (backing == vault_backing_size(z)) {
			assert_int_equal(code, 0);
			assert_int_equal(got, z++);
		} else {
			assert_int_equal(code, -EBADMSG);
		}
	}
}

static void test_parse(void **state)
{
	uint8_t page[VAULT_PAGE];
	struct vault_header h;

	sample_page(page);
	assert_int_equal(parse(page, &h), 0);
	assert_memory_equal(h.vault_id, VAULT, BASE_ID_SIZE);
	assert_memory_equal(h.file_id, FILE_ID, BASE_ID_SIZE);
	assert_int_equal(h.live, 0);
	assert_int_equal(h.wrap_seq, 5);
	assert_int_equal(h.wrap.version, 3);
	assert_int_equal(h.wrap.blob_len, 60);
	assert_int_equal(h.wrap.blob[59], 0x77);
	assert_false(h.other_used);
	assert_int_equal(vault_header_parse(page, VAULT_MAGIC_CONFIG, KMS_PURPOSE_FILE, &h), -EBADMSG);
	assert_int_equal(vault_header_parse(page, VAULT_MAGIC_FILE, KMS_PURPOSE_VAULT, &h), -EBADMSG);
}

/* Ids, commitment, states and tags are what keys authenticate; everything else is refused here. */
static bool opaque(size_t at)
{
	return (at >= 16 && at < 48) || (at >= 64 && at < 96) || (at >= 1280 && at < 1536) || (at >= 2304 && at < 2560) ||
	       (at >= 2560 && at < 4072);
}

static void test_bit_flips(void **state)
{
	uint8_t page[VAULT_PAGE];
	struct vault_header h;
	size_t bit;

	sample_page(page);
	for (bit = 0; bit < 8 * VAULT_PAGE; bit++) {
		size_t at = bit / 8;
		bool other = at >= 1536 && at < 1536 + VAULT_WRAP_SIZE;

		page[at] ^= (uint8_t)(1 << bit % 8);
		assert_int_equal(parse(page, &h), opaque(at) || other ? 0 : -EBADMSG);
		if (other)
			assert_true(h.other_used);
		page[at] ^= (uint8_t)(1 << bit % 8);
	}
}

static void test_config_bits(void **state)
{
	struct kms_wrap w = sample_wrap(1);
	uint8_t page[VAULT_PAGE];
	struct vault_header h;
	size_t at;

	vault_header_build(page, VAULT_MAGIC_CONFIG, VAULT, VAULT);
	vault_wrap_encode(1, KMS_PURPOSE_VAULT, &w, page + VAULT_HEADER_AREA(0));
	assert_int_equal(vault_header_parse(page, VAULT_MAGIC_CONFIG, KMS_PURPOSE_VAULT, &h), 0);
	for (at = 16; at < 48; at++) {
		page[at] ^= 1;
		assert_int_equal(vault_header_parse(page, VAULT_MAGIC_CONFIG, KMS_PURPOSE_VAULT, &h), -EBADMSG);
		page[at] ^= 1;
	}
	for (at = VAULT_TAGS_AT; at < VAULT_PAGE; at++) {
		page[at] ^= 1;
		assert_int_equal(vault_header_parse(page, VAULT_MAGIC_CONFIG, KMS_PURPOSE_VAULT, &h), -EBADMSG);
		page[at] ^= 1;
	}
}

/* A slot whose checksum is right and whose fields are not. */
static void reseal(uint8_t *slot)
{
	uint8_t digest[32];

	assert_int_equal(base_sha256(slot, 760, digest), 0);
	memcpy(slot + 760, digest, 8);
}

static void test_hostile_slots(void **state)
{
	uint8_t page[VAULT_PAGE], *slot = page + VAULT_HEADER_AREA(0);
	struct vault_header h;

	sample_page(page);
	base_put16(slot + 32, 0);
	reseal(slot);
	assert_int_equal(parse(page, &h), -EBADMSG);
	base_put16(slot + 32, 721);
	reseal(slot);
	assert_int_equal(parse(page, &h), -EBADMSG);
	base_put16(slot + 32, 65535);
	reseal(slot);
	assert_int_equal(parse(page, &h), -EBADMSG);
	base_put16(slot + 32, 59); /* a byte after the blob */
	reseal(slot);
	assert_int_equal(parse(page, &h), -EBADMSG);
	base_put16(slot + 32, 720);
	reseal(slot);
	assert_int_equal(parse(page, &h), 0);
	base_put64(slot, 0);
	reseal(slot);
	assert_int_equal(parse(page, &h), -EBADMSG);
	memset(slot, 0, VAULT_WRAP_SIZE);
	assert_int_equal(parse(page, &h), -EBADMSG);
}

static void test_two_slots(void **state)
{
	struct kms_wrap w = sample_wrap(4);
	uint8_t page[VAULT_PAGE];
	struct vault_header h;

	sample_page(page);
	vault_wrap_encode(6, KMS_PURPOSE_FILE, &w, page + VAULT_HEADER_AREA(1));
	assert_int_equal(parse(page, &h), 0);
	assert_int_equal(h.live, 1);
	assert_int_equal(h.wrap.version, 4);
	assert_true(h.other_used);
	page[VAULT_HEADER_AREA(1) + 40] ^= 1; /* torn: the older one counts */
	assert_int_equal(parse(page, &h), 0);
	assert_int_equal(h.live, 0);
	assert_true(h.other_used);
	vault_wrap_encode(5, KMS_PURPOSE_FILE, &w, page + VAULT_HEADER_AREA(1));
	assert_int_equal(parse(page, &h), -EBADMSG);
}

static void test_rewrap_and_erase(void **state)
{
	struct kms_wrap w = sample_wrap(9);
	uint8_t page[VAULT_PAGE], now[VAULT_PAGE];
	struct vault_header h;
	int fd = memfd_create("header", 0);

	sample_page(page);
	memset(page + VAULT_TAGS_AT, 0xaa, 100);
	memset(page + 1280, 0xbb, VAULT_STATE_SIZE);
	assert_int_equal(pwrite(fd, page, sizeof(page), 0), sizeof(page));
	assert_int_equal(vault_header_read(fd, VAULT_MAGIC_FILE, KMS_PURPOSE_FILE, &h), 0);
	assert_int_equal(vault_header_rewrap(fd, &h, KMS_PURPOSE_FILE, &w), 0);
	assert_int_equal(h.live, 1);
	assert_int_equal(vault_header_read(fd, VAULT_MAGIC_FILE, KMS_PURPOSE_FILE, &h), 0);
	assert_int_equal(h.wrap.version, 9);
	assert_int_equal(h.wrap_seq, 6);
	assert_true(h.other_used);
	assert_int_equal(vault_header_erase(fd, &h), 0);
	assert_int_equal(vault_header_read(fd, VAULT_MAGIC_FILE, KMS_PURPOSE_FILE, &h), 0);
	assert_false(h.other_used);
	assert_int_equal(pread(fd, now, sizeof(now), 0), sizeof(now));
	memset(page + 512, 0, VAULT_WRAP_SIZE);
	memcpy(page + 1536, now + 1536, VAULT_WRAP_SIZE);
	assert_memory_equal(page, now, VAULT_PAGE);
	assert_int_equal(ftruncate(fd, 4095), 0);
	assert_int_equal(vault_header_read(fd, VAULT_MAGIC_FILE, KMS_PURPOSE_FILE, &h), -EBADMSG);
	close(fd);
	base_put64(page + 1536, UINT64_MAX); /* a sequence that has no successor */
	reseal(page + 1536);
	assert_int_equal(parse(page, &h), 0);
	assert_int_equal(vault_header_rewrap(-1, &h, KMS_PURPOSE_FILE, &w), -EBADMSG);
}

static struct base_siv *sample_siv(uint8_t first)
{
	uint8_t key[BASE_SIV_KEY] = { first, 2, 3 };
	struct base_siv *siv;

	assert_int_equal(base_siv_new(key, &siv), 0);
	return siv;
}

static void test_state(void **state)
{
	struct vault_state s = { .n = 7, .horizon = 41, .size = 12345, .flags = VAULT_STATE_DIRTY | VAULT_STATE_INTENT, .session = { 9, 8, 7 },
				 .acc = { 1, 2 }, .intent_first = 3, .intent_end = UINT64_MAX, .next_seq = 42 };
	struct base_siv *siv = sample_siv(1), *wrong = sample_siv(2);
	uint8_t page[VAULT_PAGE] = { 0 };
	struct vault_state got;
	size_t bit;

	assert_int_equal(vault_state_open(siv, VAULT_MAGIC_FILE, FILE_ID, page, &got), -EBADMSG);
	assert_int_equal(vault_state_seal(siv, VAULT_MAGIC_FILE, FILE_ID, &s, page + 2304), 0);
	assert_int_equal(vault_state_open(siv, VAULT_MAGIC_FILE, FILE_ID, page, &got), 0);
	assert_int_equal(got.n, 7);
	assert_int_equal(got.horizon, 41);
	assert_int_equal(got.size, 12345);
	assert_int_equal(got.flags, s.flags);
	assert_int_equal(got.intent_first, 3);
	assert_true(got.intent_end == UINT64_MAX);
	assert_int_equal(got.next_seq, 42);
	assert_memory_equal(got.acc, s.acc, 16);
	assert_memory_equal(got.session, s.session, 16);
	assert_int_equal(vault_state_open(siv, VAULT_MAGIC_CONFIG, FILE_ID, page, &got), -EBADMSG);
	assert_int_equal(vault_state_open(siv, VAULT_MAGIC_FILE, VAULT, page, &got), -EBADMSG);
	assert_int_equal(vault_state_open(wrong, VAULT_MAGIC_FILE, FILE_ID, page, &got), -EBADMSG);
	for (bit = 0; bit < 8 * VAULT_STATE_SIZE; bit++) {
		page[2304 + bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_int_equal(vault_state_open(siv, VAULT_MAGIC_FILE, FILE_ID, page, &got), -EBADMSG);
		page[2304 + bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	memcpy(page + 1280, page + 2304, VAULT_STATE_SIZE); /* n is odd: area 0 is not its place */
	memset(page + 2304, 0, VAULT_STATE_SIZE);
	assert_int_equal(vault_state_open(siv, VAULT_MAGIC_FILE, FILE_ID, page, &got), -EBADMSG);
	base_siv_free(siv);
	base_siv_free(wrong);
}

static void test_state_order(void **state)
{
	struct vault_state s = { .n = 8, .size = 80 }, got;
	struct base_siv *siv = sample_siv(1);
	uint8_t page[VAULT_PAGE] = { 0 };

	assert_int_equal(vault_state_seal(siv, VAULT_MAGIC_FILE, FILE_ID, &s, page + 1280), 0);
	s.n = 9;
	s.size = 90;
	assert_int_equal(vault_state_seal(siv, VAULT_MAGIC_FILE, FILE_ID, &s, page + 2304), 0);
	assert_int_equal(vault_state_open(siv, VAULT_MAGIC_FILE, FILE_ID, page, &got), 0);
	assert_int_equal(got.size, 90);
	page[2304 + 100] ^= 1;
	assert_int_equal(vault_state_open(siv, VAULT_MAGIC_FILE, FILE_ID, page, &got), 0);
	assert_int_equal(got.size, 80);
	s.n = 0;
	assert_int_equal(vault_state_seal(siv, VAULT_MAGIC_FILE, FILE_ID, &s, page), -EINVAL);
	base_siv_free(siv);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pages), cmocka_unit_test(test_sizes_never_given), cmocka_unit_test(test_parse),
		cmocka_unit_test(test_bit_flips), cmocka_unit_test(test_config_bits), cmocka_unit_test(test_hostile_slots),
		cmocka_unit_test(test_two_slots), cmocka_unit_test(test_rewrap_and_erase), cmocka_unit_test(test_state),
		cmocka_unit_test(test_state_order),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
