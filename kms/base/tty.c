#include "base/tty.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "base/secret.h"

#define INTERRUPT 3 /* ^C */

ssize_t
base_tty_line(int fd, char *out, size_t cap)
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

/* The question without its ": ". */
static int
subject(const char *text)
{
	return (int) strcspn(text, ":");
}

static int
no_terminal(const char *text, struct base_error *err)
{
	return base_error_set(err, -EACCES, BASE_EXIT_PIN, "%.*s: there is no terminal to ask on", subject(text), text);
}

static int
ask(int fd, const char *prefix, const char *text, char *pin, size_t cap, struct base_error *err)
{
	struct termios before, silent;
	sigset_t block, old;
	ssize_t len;

	if (tcgetattr(fd, &before) < 0)
		return no_terminal(text, err);
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
	dprintf(fd, "%s%s", prefix, text);
	len = base_tty_line(fd, pin, cap);
	tcsetattr(fd, TCSAFLUSH, &before);
	sigprocmask(SIG_SETMASK, &old, NULL);
	if (len <= 0) {
		base_secret_wipe(pin, cap);
		return base_error_set(err, -EACCES, BASE_EXIT_PIN, "%.*s: nothing was given, or it is too long", subject(text), text);
	}
	return 0;
}

static int
ask_twice(int fd, const char *text, bool again, char *pin, size_t cap, struct base_error *err)
{
	BASE_SECRET_AUTO char *second = base_secret_alloc(cap);
	int rc;

	if (!second)
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "no locked memory is left");
	rc = ask(fd, "", text, pin, cap, err);
	if (rc < 0 || !again)
		return rc;
	rc = ask(fd, "Again. ", text, second, cap, err);
	if (rc == 0 && !base_secret_equal(pin, second, cap))
		rc = base_error_set(err, -EINVAL, BASE_EXIT_PIN, "%.*s: the two answers differ", subject(text), text);
	if (rc < 0)
		base_secret_wipe(pin, cap);
	return rc;
}

int
base_tty_ask(const char *text, bool again, char *pin, size_t cap, struct base_error *err)
{
	int fd = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC), rc;

	if (fd < 0)
		return no_terminal(text, err);
	rc = ask_twice(fd, text, again, pin, cap, err);
	close(fd);
	return rc;
}
