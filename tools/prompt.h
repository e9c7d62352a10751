/*
 * tools/prompt.h: questions to the person at the terminal.
 */
#ifndef TOOLS_PROMPT_H
#define TOOLS_PROMPT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

/*
 * prompt_tty(ctx, text, again, pin, cap, err): a kms_prompt_fn. Asks "text: " on /dev/tty without echo, up to cap - 1 bytes;
 * again: asks twice, and refuses (-EINVAL) when the answers differ. -EACCES, exit 3: no terminal, or nothing was typed.
 * ctx is not used. Blocks. Not thread-safe (one terminal).
 */
int prompt_tty(void *ctx, const char *text, bool again, char *pin, size_t cap, struct base_error *err);

/* prompt_confirm(question, err): 0 when the person types "yes"; -ECANCELED, exit 7, for anything else and without a
 * terminal. */
int prompt_confirm(const char *question, struct base_error *err);

#endif
