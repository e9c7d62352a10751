#include "prompt.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "base/secret.h"

#define INTERRUPT 3 /* ^C */

/* Byte by byte, so that no buffer keeps a copy. The length, or -1: nothing was typed, too long, interrupted. */
static ssize_t
read_line(int fd, char *out, size_t cap)
{
	size_t len = 0;
	char c;

	for (;;) {
		ssize_t got = read(fd, &c, 1);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0 || len >= cap || c == INTERRUPT)
			return -1;
		if (c == '\n')
			break;
		out[len++] = c;
	}
	c = 0;
	if (len >= cap)
		return -1;
	out[len] = 0;
	return (ssize_t) len;
}

static int
ask(int fd, const char *prefix, const char *text, char *pin, size_t cap, struct base_error *err)
{
	struct termios before, silent;
	sigset_t block, old;
	ssize_t len;

	if (tcgetattr(fd, &before) < 0)
		return base_error_set(err, -EACCES, BASE_EXIT_PIN, "%s is needed, and there is no terminal to ask on", text);
	silent = before;
	silent.c_lflag &= ~(tcflag_t) (ECHO | ISIG);
	silent.c_lflag |= ICANON | ECHONL;
	/* A signal in between must not leave the terminal silent: ^C is typed and ends the line. */
	silent.c_cc[VEOL] = INTERRUPT;
	sigemptyset(&block);
	sigaddset(&block, SIGTSTP);
	sigaddset(&block, SIGINT);
	sigaddset(&block, SIGQUIT);
	sigaddset(&block, SIGTERM);
	sigprocmask(SIG_BLOCK, &block, &old);
	base_secret_wipe(pin, cap);
	tcsetattr(fd, TCSAFLUSH, &silent);
	dprintf(fd, "%s%s: ", prefix, text);
	len = read_line(fd, pin, cap);
	tcsetattr(fd, TCSAFLUSH, &before);
	sigprocmask(SIG_SETMASK, &old, NULL);
	if (len <= 0) {
		base_secret_wipe(pin, cap);
		return base_error_set(err, -EACCES, BASE_EXIT_PIN, "%s: nothing was given, or it is too long", text);
	}
	return 0;
}

int
prompt_tty(void *ctx, const char *text, bool again, char *pin, size_t cap, struct base_error *err)
{
	BASE_SECRET_AUTO char *second = base_secret_alloc(cap);
	int fd = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC);
	int rc;

	if (fd < 0)
		return base_error_set(err, -EACCES, BASE_EXIT_PIN, "%s is needed, and there is no terminal to ask on", text);
	rc = second ? ask(fd, "", text, pin, cap, err) : base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "no locked memory is left");
	if (rc == 0 && again) {
		rc = ask(fd, "Again, ", text, second, cap, err);
		if (rc == 0 && !base_secret_equal(pin, second, cap))
			rc = base_error_set(err, -EINVAL, BASE_EXIT_PIN, "%s: the two answers differ", text);
		if (rc < 0)
			base_secret_wipe(pin, cap);
	}
	close(fd);
	return rc;
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
	len = read_line(fd, answer, sizeof(answer));
	close(fd);
	if (len < 0 || strcmp(answer, "yes"))
		return base_error_set(err, -ECANCELED, BASE_EXIT_UNCONFIRMED, "not confirmed; nothing was done");
	return 0;
}
