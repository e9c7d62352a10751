#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "daemon.h"

static void say(const char *text)
{
	fprintf(stderr, "keepfs: %s\n", text);
}

static int send_report(struct daemon_report *report, const struct base_error *err)
{
	ssize_t n;

	do
		n = write(report->fd, err, sizeof *err);
	while (n < 0 && errno == EINTR);
	close(report->fd);
	report->fd = -1;
	return n == (ssize_t)sizeof *err ? 0 : -EPIPE;
}

static void detach(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	setsid();
	if (chdir("/") < 0)
		base_log(LOG_WARNING, "cannot change to /: %s", strerror(errno));
	base_log_setup("keepfs", 1);
	if (null < 0)
		return;
	dup2(null, STDIN_FILENO);
	dup2(null, STDOUT_FILENO);
	dup2(null, STDERR_FILENO);
	if (null > STDERR_FILENO)
		close(null);
}

void daemon_ready(struct daemon_report *report, bool go_on)
{
	struct base_error fine = { 0 };

	if (report->fd < 0)
		return;
	if (go_on)
		detach();
	send_report(report, &fine);
}

int daemon_failed(struct daemon_report *report, const struct base_error *err)
{
	struct base_error sent = *err;

	if (sent.exit == BASE_EXIT_OK)
		sent.exit = BASE_EXIT_FAILED;
	if (report->fd < 0)
		say(sent.text);
	else
		send_report(report, &sent);
	return sent.exit;
}

static int await(int fd, pid_t child)
{
	struct base_error err;
	ssize_t n;
	int status = 0;

	do
		n = read(fd, &err, sizeof err);
	while (n < 0 && errno == EINTR);
	if (n == (ssize_t)sizeof err) {
		if (err.exit != BASE_EXIT_OK)
			say(err.text);
		return err.exit;
	}
	waitpid(child, &status, 0);
	if (WIFSIGNALED(status))
		fprintf(stderr, "keepfs: the service ended before it was ready, by signal %d\n", WTERMSIG(status));
	else
		say("the service ended before it was ready; the system log may say why");
	return BASE_EXIT_FAILED;
}

int daemon_run(bool foreground, int (*body)(void *ctx, struct daemon_report *report), void *ctx)
{
	struct daemon_report report = { -1 };
	int pair[2];
	pid_t child;

	if (foreground)
		return body(ctx, &report);
	if (pipe2(pair, O_CLOEXEC) < 0) {
		say(strerror(errno));
		return BASE_EXIT_FAILED;
	}
	child = fork();
	if (child < 0) {
		say(strerror(errno));
		return BASE_EXIT_FAILED;
	}
	if (child > 0) {
		close(pair[1]);
		return await(pair[0], child);
	}
	close(pair[0]);
	report.fd = pair[1];
	return body(ctx, &report);
}
