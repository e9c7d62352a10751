/* What can be wrong with a header page, in words (fs/FORMAT.md, "Header page"). */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "verify.h"

struct words {
	char *text;
	size_t len, cap;
};

static void __attribute__((format(printf, 2, 3))) say(struct words *w, const char *format, ...)
{
	va_list ap;
	int n;

	if (w->len > 0)
		w->len += (size_t)snprintf(w->text + w->len, w->cap - w->len, "; ");
	if (w->len >= w->cap)
		w->len = w->cap - 1;
	va_start(ap, format);
	n = vsnprintf(w->text + w->len, w->cap - w->len, format, ap);
	va_end(ap);
	w->len = n > 0 && (size_t)n < w->cap - w->len ? w->len + (size_t)n : w->cap - 1;
}

static void zeros(struct words *w, const uint8_t *page, unsigned from, unsigned to)
{
	for (unsigned i = from; i < to; i++)
		if (page[i]) {
			say(w, "byte %u is reserved and not zero", i);
			return;
		}
}

static void fixed(struct words *w, const uint8_t *page, const char magic[8], const uint8_t vault_id[BASE_ID_SIZE])
{
	bool config = memcmp(magic, VAULT_MAGIC_CONFIG, 8) == 0;

	if (memcmp(page, magic, 8) != 0)
		say(w, "bytes 0 to 7 are not %.8s", magic);
	if (base_get16(page + 8) != 1 || base_get16(page + 10) != 1 || base_get32(page + 12) != 0)
		say(w, "format, suite or flags (bytes 8 to 15) are none that this version knows");
	if (memcmp(page + 16, vault_id, BASE_ID_SIZE) != 0)
		say(w, "bytes 16 to 31 name another vault");
	if (config && memcmp(page + 32, page + 16, BASE_ID_SIZE) != 0)
		say(w, "bytes 32 to 47 are not the vault's id");
	zeros(w, page, 48, 64);
	zeros(w, page, 96, VAULT_HEADER_AREA(0));
	zeros(w, page, 4072, VAULT_PAGE);
	if (config)
		zeros(w, page, VAULT_TAGS_AT, 4072);
}

bool vault_verify_page(const uint8_t page[VAULT_PAGE], const char magic[8], enum kms_purpose purpose, const uint8_t vault_id[BASE_ID_SIZE],
		       char *ret, size_t cap)
{
	struct words w = { ret, 0, cap };
	int valid = 0;
	uint64_t seq[2];

	*ret = '\0';
	fixed(&w, page, magic, vault_id);
	if (w.len > 0)
		return false;
	for (int i = 0; i < 2; i++) {
		const uint8_t *slot = page + VAULT_HEADER_AREA(i);

		seq[i] = 0;
		if (base_is_zero(slot, VAULT_WRAP_SIZE))
			continue;
		if (vault_wrap_valid(slot, purpose)) {
			seq[i] = base_get64(slot);
			valid++;
		} else {
			say(&w, "wrap slot %d (bytes %d to %d) is damaged", i, VAULT_HEADER_AREA(i), VAULT_HEADER_AREA(i) + VAULT_WRAP_SIZE - 1);
		}
	}
	if (valid == 0)
		say(&w, "no wrap slot holds the file's key");
	else if (seq[0] == seq[1])
		say(&w, "both wrap slots have one sequence");
	return valid > 0 && seq[0] != seq[1];
}
