/*
 * base/bytes.h: byte codecs. Everything on disk is little-endian.
 */
#ifndef BASE_BYTES_H
#define BASE_BYTES_H

#include <endian.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define BASE_ID_SIZE 16 /* vault, file, directory, key, session ids: 16 random bytes */
#define BASE_ID_TEXT 33 /* their hexadecimal text with its NUL */

static inline uint16_t base_get16(const void *p) { uint16_t v; memcpy(&v, p, 2); return le16toh(v); }
static inline uint32_t base_get32(const void *p) { uint32_t v; memcpy(&v, p, 4); return le32toh(v); }
static inline uint64_t base_get64(const void *p) { uint64_t v; memcpy(&v, p, 8); return le64toh(v); }
static inline void base_put16(void *p, uint16_t v) { v = htole16(v); memcpy(p, &v, 2); }
static inline void base_put32(void *p, uint32_t v) { v = htole32(v); memcpy(p, &v, 4); }
static inline void base_put64(void *p, uint64_t v) { v = htole64(v); memcpy(p, &v, 8); }

/* base_is_zero(p, len): non-zero when all bytes are zero. */
int base_is_zero(const void *p, size_t len);

/* base_hex(in, len, out): lower-case hexadecimal, 2 * len + 1 bytes with the NUL. Returns out. */
char *base_hex(const void *in, size_t len, char *out);

/* base_unhex(text, out, len): exactly 2 * len hexadecimal digits, then NUL. 0 or -EINVAL. */
int base_unhex(const char *text, void *out, size_t len);

/*
 * base64url without padding (RFC 4648 section 5).
 * base_b64_encode(in, len, out): out holds BASE_B64_SIZE(len) bytes with the NUL; returns the text's length.
 * base_b64_decode(text, text_len, out, cap): bytes written, or -EINVAL for any character, length or trailing bit that
 * base_b64_encode would not produce (canonical only), -ENOSPC when cap is too small.
 */
#define BASE_B64_SIZE(len) (((len) * 4 + 2) / 3 + 1)
size_t base_b64_encode(const void *in, size_t len, char *out);
int base_b64_decode(const char *text, size_t text_len, void *out, size_t cap);

/*
 * base_parse_duration("14d" | "12h" | "90s" | "5m" | "2w" | plain seconds): seconds, or -EINVAL / -ERANGE.
 * base_parse_size("1MiB" | "64KiB" | "2GiB" | "1M" | plain bytes): bytes, or -EINVAL / -ERANGE.
 */
int64_t base_parse_duration(const char *text);
int64_t base_parse_size(const char *text);

#endif
