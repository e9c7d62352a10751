/*
 * fs/mount/daemon.h: from a command on a terminal to a service in the background.
 */
#ifndef MOUNT_DAEMON_H
#define MOUNT_DAEMON_H

#include <stdbool.h>

#include "base/error.h"

/* The way back to the command that a person typed. */
struct daemon_report {
	int fd; /* -1: in the foreground */
};

/*
 * daemon_run(foreground, body, ctx): runs body, in a child unless in the foreground. The HSM's module must be loaded after this and nothing forks
 * later. body reports once with daemon_ready or daemon_failed; the command that was typed then ends with that, while the child goes on.
 * Until daemon_ready the child has the terminal (a PIN may be asked for); after it, it has none, and logs to syslog. Returns the exit code.
 */
int daemon_run(bool foreground, int (*body)(void *ctx, struct daemon_report *report), void *ctx);
void daemon_ready(struct daemon_report *report, bool go_on);
int daemon_failed(struct daemon_report *report, const struct base_error *err);

#endif
