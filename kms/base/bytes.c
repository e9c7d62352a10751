#include <errno.h>
#include <limits.h>

#include "base/bytes.h"

int base_is_zero(const void *p, size_t len)
{
	const uint8_t *b = p;

	/* All bytes equal the first one, and that one is zero. */
	return len == 0 || (b[0] == 0 && memcmp(b, b + 1, len - 1) == 0);
}

char *base_hex(const void *in, size_t len, char *out)
{
	static const char digits[] = "0123456789abcdef";
	const uint8_t *b = in;
	size_t i;

	for (i = 0; i < len; i++) {
		out[2 * i] = digits[b[i] >> 4];
		out[2 * i + 1] = digits[b[i] & 15];
	}
	out[2 * len] = '\0';
	return out;
}

static int hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

int base_unhex(const char *text, void *out, size_t len)
{
	uint8_t *b = out;
	size_t i;

	for (i = 0; i < len; i++) {
		int high = hex_value(text[2 * i]);
		int low = high < 0 ? -1 : hex_value(text[2 * i + 1]);

		if (low < 0)
			return -EINVAL;
		b[i] = (uint8_t)(high << 4 | low);
	}
	return text[2 * len] == '\0' ? 0 : -EINVAL;
}

size_t base_b64_encode(const void *in, size_t len, char *out)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
	const uint8_t *b = in;
	uint32_t bits = 0;
	unsigned have = 0;
	size_t i, n = 0;

	for (i = 0; i < len; i++) {
		bits = bits << 8 | b[i];
		have += 8;
		while (have >= 6) {
			have -= 6;
			out[n++] = digits[bits >> have & 63];
		}
	}
	if (have)
		out[n++] = digits[bits << (6 - have) & 63];
	out[n] = '\0';
	return n;
}

static int b64_value(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '-' ? 62 : c == '_' ? 63 : -1;
}

int base_b64_decode(const char *text, size_t text_len, void *out, size_t cap)
{
	uint8_t *b = out;
	uint32_t bits = 0;
	unsigned have = 0;
	size_t i, n = 0;

	if (text_len % 4 == 1 || text_len > INT_MAX)
		return -EINVAL;
	for (i = 0; i < text_len; i++) {
		int v = b64_value(text[i]);

		if (v < 0)
			return -EINVAL;
		bits = bits << 6 | (uint32_t)v;
		have += 6;
		if (have >= 8) {
			have -= 8;
			if (n >= cap)
				return -ENOSPC;
			b[n++] = (uint8_t)(bits >> have);
		}
	}
	/* What is left over are bits that the encoder sets to zero. */
	if (bits & ((1u << have) - 1))
		return -EINVAL;
	return (int)n;
}

/* Decimal digits at *text, moved past them: the value, -EINVAL without a digit, -ERANGE above INT64_MAX. */
static int64_t parse_digits(const char **text)
{
	const char *p = *text;
	int64_t value = 0;

	if (*p < '0' || *p > '9')
		return -EINVAL;
	for (; *p >= '0' && *p <= '9'; p++)
		if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, *p - '0', &value))
			return -ERANGE;
	*text = p;
	return value;
}

struct unit {
	const char *name;
	int64_t factor;
};

static int64_t parse_with_units(const char *text, const struct unit *units)
{
	int64_t value = parse_digits(&text);

	if (value < 0)
		return value;
	for (; units->name; units++)
		if (strcmp(text, units->name) == 0)
			return __builtin_mul_overflow(value, units->factor, &value) ? -ERANGE : value;
	return -EINVAL;
}

int64_t base_parse_duration(const char *text)
{
	static const struct unit units[] = {
		{ "", 1 }, { "s", 1 }, { "m", 60 }, { "h", 3600 }, { "d", 86400 }, { "w", 604800 }, { NULL, 0 },
	};

	return parse_with_units(text, units);
}

int64_t base_parse_size(const char *text)
{
	/* Powers of two only; "KB" is refused, since half of its readers mean 1000. */
	static const struct unit units[] = {
		{ "", 1 }, { "K", 1 << 10 }, { "KiB", 1 << 10 }, { "M", 1 << 20 }, { "MiB", 1 << 20 },
		{ "G", 1 << 30 }, { "GiB", 1 << 30 }, { "T", INT64_C(1) << 40 }, { "TiB", INT64_C(1) << 40 }, { NULL, 0 },
	};

	return parse_with_units(text, units);
}
