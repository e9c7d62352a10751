#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"

#define NS_PER_S UINT64_C(1000000000)

static uint64_t clock_ns(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

uint64_t base_clock_real_ns(void)
{
	return clock_ns(CLOCK_REALTIME);
}

uint64_t base_clock_mono_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

char *base_clock_format(uint64_t real_ns, char out[BASE_CLOCK_TEXT])
{
	time_t seconds = (time_t)(real_ns / NS_PER_S);
	struct tm tm;
	size_t n;

	gmtime_r(&seconds, &tm);
	n = strftime(out, BASE_CLOCK_TEXT, "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(out + n, BASE_CLOCK_TEXT - n, ".%06uZ", (unsigned)(real_ns % NS_PER_S / 1000));
	return out;
}

/* Reads exactly `digits` decimal digits and then the character `then` (0: none is needed). */
static int take_number(const char **p, int digits, char then, int *ret)
{
	int value = 0;

	for (; digits > 0; digits--, (*p)++) {
		if (**p < '0' || **p > '9')
			return -EINVAL;
		value = value * 10 + (**p - '0');
	}
	if (then && *(*p)++ != then)
		return -EINVAL;
	*ret = value;
	return 0;
}

/* "HH:MM:SS[.f...]Z"; fractions beyond nanoseconds are refused. */
static int parse_time(const char *p, struct tm *tm, uint64_t *ret_ns)
{
	uint64_t scale = NS_PER_S;

	*ret_ns = 0;
	if (take_number(&p, 2, ':', &tm->tm_hour) || take_number(&p, 2, ':', &tm->tm_min) ||
	    take_number(&p, 2, 0, &tm->tm_sec))
		return -EINVAL;
	if (tm->tm_hour > 23 || tm->tm_min > 59 || tm->tm_sec > 59)
		return -EINVAL;
	if (*p == '.') {
		if (p[1] < '0' || p[1] > '9')
			return -EINVAL;
		for (p++; *p >= '0' && *p <= '9'; p++) {
			scale /= 10;
			if (scale == 0)
				return -EINVAL;
			*ret_ns += (uint64_t)(*p - '0') * scale;
		}
	}
	return strcmp(p, "Z") == 0 || strcmp(p, "+00:00") == 0 ? 0 : -EINVAL;
}

static int parse_date(const char *p, uint64_t *ret_ns)
{
	struct tm tm = { 0 }, check;
	uint64_t fraction = 0;
	int year, month;
	time_t seconds;

	if (take_number(&p, 4, '-', &year) || take_number(&p, 2, '-', &month) || take_number(&p, 2, 0, &tm.tm_mday))
		return -EINVAL;
	if (year < 1970 || year > 2500) /* what 64 bits of nanoseconds since 1970 can say */
		return -EINVAL;
	tm.tm_year = year - 1900;
	tm.tm_mon = month - 1;
	if (*p == 'T') {
		if (parse_time(p + 1, &tm, &fraction) < 0)
			return -EINVAL;
	} else if (*p) {
		return -EINVAL;
	}
	check = tm;
	seconds = timegm(&check);
	if (check.tm_mday != tm.tm_mday || check.tm_mon != tm.tm_mon) /* 30 February becomes March */
		return -EINVAL;
	*ret_ns = (uint64_t)seconds * NS_PER_S + fraction;
	return 0;
}

int base_clock_parse(const char *text, uint64_t *ret_ns)
{
	uint64_t now = base_clock_real_ns();
	size_t len = strlen(text);
	int64_t back;

	if (len >= 5 && text[4] == '-')
		return parse_date(text, ret_ns);
	/* A bare number could be meant as a year: a duration needs its unit here. */
	if (len == 0 || (text[len - 1] >= '0' && text[len - 1] <= '9'))
		return -EINVAL;
	back = base_parse_duration(text);
	if (back < 0 || (uint64_t)back > now / NS_PER_S)
		return -EINVAL;
	*ret_ns = now - (uint64_t)back * NS_PER_S;
	return 0;
}

int base_clock_boot_id(uint8_t out[16])
{
	char text[37], hex[33];
	ssize_t got;
	int fd, i, n = 0;

	fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	got = read(fd, text, 36);
	if (got < 0)
		got = -errno;
	close(fd);
	if (got < 0)
		return (int)got;
	if (got != 36)
		return -EIO;
	for (i = 0; i < 36 && n < 32; i++)
		if (text[i] != '-')
			hex[n++] = text[i];
	hex[n] = '\0';
	return base_unhex(hex, out, 16) < 0 ? -EIO : 0;
}
