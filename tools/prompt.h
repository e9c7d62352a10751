/*
 * tools/prompt.h: questions to the person at the terminal.
 */
#ifndef TOOLS_PROMPT_H
#define TOOLS_PROMPT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

/* An answer that one run of a program needs twice. pin is secret memory, or NULL before the first answer. */
struct prompt_memory {
	char *pin;
};
void prompt_memory_done(struct prompt_memory *memory); /* wipes */

/* prompt_tty(ctx, text, again, pin, cap, err): a kms_prompt_fn over base_tty_ask. ctx: NULL, or a struct prompt_memory, which keeps the first
 * answer and gives it to later calls. */
int prompt_tty(void *ctx, const char *text, bool again, char *pin, size_t cap, struct base_error *err);

/* prompt_confirm(question, err): 0 when the person types "yes"; -ECANCELED, exit 7, for anything else and without a
 * terminal. */
int prompt_confirm(const char *question, struct base_error *err);

#endif
