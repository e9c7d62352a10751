/*
 * base/error.h: errors that a person reads.
 *
 * Functions return 0 or -errno. Where the caller will show the failure to a person, they also take a
 * struct base_error and fill it once, where the cause is known: the thing, the cause, the next step.
 * No secret ever goes into the text.
 */
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

/* Exit codes of keepfs and keepctl, as users see them. */
enum base_exit {
	BASE_EXIT_OK = 0,
	BASE_EXIT_FAILED = 1,
	BASE_EXIT_USAGE = 2,
	BASE_EXIT_PIN = 3,
	BASE_EXIT_NOT_FOUND = 4,
	BASE_EXIT_UNREACHABLE = 5,
	BASE_EXIT_INTEGRITY = 6,
	BASE_EXIT_UNCONFIRMED = 7,
	BASE_EXIT_DENIED = 8,
	BASE_EXIT_PROPOSAL = 9,
};

struct base_error {
	int code;            /* -errno, 0 when nothing went wrong */
	enum base_exit exit; /* what a program should exit with */
	char text[640];      /* one sentence for a person, no newline */
};

/*
 * base_error_set(err, code, exit, fmt, ...): fill err (which may be NULL) and return code, which is -errno.
 * A later call overwrites an earlier one. Thread-safe as long as err is not shared.
 */
int base_error_set(struct base_error *err, int code, enum base_exit exit, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

#endif
