#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <termios.h>
#include <unistd.h>

#include "ask.h"
#include "base/secret.h"

/* Byte by byte, so that no buffer keeps a copy. */
static int read_secret(int fd, char *pin, size_t cap)
{
	size_t len = 0;
	char c;

	for (;;) {
		ssize_t n = read(fd, &c, 1);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0 || len >= cap)
			return -1;
		if (c == '\n')
			break;
		pin[len++] = c;
	}
	if (len == 0 || len >= cap)
		return -1;
	pin[len] = '\0';
	return 0;
}

static int ask_once(int fd, const char *text, char *pin, size_t cap)
{
	struct termios before, silent;
	int r;

	if (tcgetattr(fd, &before) < 0)
		return -1;
	silent = before;
	silent.c_lflag &= ~(tcflag_t)ECHO; /* signals that would leave it so are blocked since the service began */
	silent.c_lflag |= ICANON | ECHONL;
	base_secret_wipe(pin, cap);
	tcsetattr(fd, TCSAFLUSH, &silent);
	dprintf(fd, "%s: ", text);
	r = read_secret(fd, pin, cap);
	tcsetattr(fd, TCSAFLUSH, &before);
	if (r < 0)
		base_secret_wipe(pin, cap);
	return r;
}

int ask_pin(void *ctx, const char *text, bool again, char *pin, size_t cap, struct base_error *err)
{
	int fd = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC), r;

	if (fd < 0)
		return base_error_set(err, -EACCES, BASE_EXIT_PIN, "%s is needed, and there is no terminal to ask on", text);
	r = ask_once(fd, text, pin, cap);
	close(fd);
	if (r < 0)
		return base_error_set(err, -EACCES, BASE_EXIT_PIN, "%s: nothing was given, or it is too long", text);
	return 0;
}
