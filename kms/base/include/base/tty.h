/*
 * base/tty.h: questions to the person at the controlling terminal.
 */
#ifndef BASE_TTY_H
#define BASE_TTY_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/error.h"

/*
 * base_tty_ask(text, again, pin, cap, err): writes text to /dev/tty and reads up to cap - 1 bytes into pin (secret memory) without echo;
 * again: asks twice, and refuses (-EINVAL, exit 3) when the answers differ. -EACCES, exit 3: no terminal, or nothing was typed. Blocks.
 * Not thread-safe (one terminal).
 */
int base_tty_ask(const char *text, bool again, char *pin, size_t cap, struct base_error *err);

/* base_tty_line(fd, out, cap): one line, byte by byte, so that no buffer keeps a copy. Its length, or -1: nothing came, too long, ^C. */
ssize_t base_tty_line(int fd, char *out, size_t cap);

#endif
