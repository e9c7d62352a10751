/*
 * base/clock.h: clocks and the boot id.
 */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

#define BASE_CLOCK_TEXT 32

uint64_t base_clock_real_ns(void); /* CLOCK_REALTIME, nanoseconds since 1970 */
uint64_t base_clock_mono_ns(void); /* CLOCK_MONOTONIC, nanoseconds */

/* base_clock_format(real_ns, out): RFC 3339, UTC, microseconds: "2026-11-21T22:19:48.123456Z". Returns out. */
char *base_clock_format(uint64_t real_ns, char out[BASE_CLOCK_TEXT]);

/* base_clock_parse(text, ret_ns): RFC 3339 in UTC, "YYYY-MM-DD", or a duration back from now ("2h"). 0 or -EINVAL. */
int base_clock_parse(const char *text, uint64_t *ret_ns);

/* base_clock_boot_id(out): the kernel's 16-byte boot id (/proc/sys/kernel/random/boot_id). 0 or -errno. */
int base_clock_boot_id(uint8_t out[16]);

#endif
