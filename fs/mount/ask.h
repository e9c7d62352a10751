/*
 * fs/mount/ask.h: asks for a PIN on the controlling terminal.
 */
#ifndef MOUNT_ASK_H
#define MOUNT_ASK_H

#include "kms/kms.h"

/* ask_pin: a kms_prompt_fn. -EACCES, exit 3, when there is no terminal or nothing was given. */
int ask_pin(void *ctx, const char *text, bool again, char *pin, size_t cap, struct base_error *err);

#endif
