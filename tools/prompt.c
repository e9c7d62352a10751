#include "prompt.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/secret.h"
#include "base/tty.h"

int
prompt_tty(void *ctx, const char *text, bool again, char *pin, size_t cap, struct base_error *err)
{
	struct prompt_memory *memory = ctx;
	int rc;

	if (memory && memory->pin && strlen(memory->pin) < cap) {
		strcpy(pin, memory->pin);
		return 0;
	}
	rc = base_tty_ask(text, again, pin, cap, err);
	if (rc == 0 && memory && !memory->pin) {
		memory->pin = base_secret_alloc(strlen(pin) + 1);
		if (memory->pin)
			strcpy(memory->pin, pin);
	}
	return rc;
}

void
prompt_memory_done(struct prompt_memory *memory)
{
	base_secret_free(memory->pin);
	memory->pin = NULL;
}

int
prompt_confirm(const char *question, struct base_error *err)
{
	char answer[16];
	ssize_t len = -1;
	int fd = -1;

	/* The question must reach the person who typed the command: a script in a terminal has no stdin of theirs. */
	if (isatty(STDIN_FILENO))
		fd = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		return base_error_set(err, -ECANCELED, BASE_EXIT_UNCONFIRMED, "not confirmed: without a terminal this needs --yes");
	dprintf(fd, "%s\nType yes to go on: ", question);
	len = base_tty_line(fd, answer, sizeof(answer));
	close(fd);
	if (len < 0 || strcmp(answer, "yes"))
		return base_error_set(err, -ECANCELED, BASE_EXIT_UNCONFIRMED, "not confirmed; nothing was done");
	return 0;
}
