/*
 * The progress bar of long verbs, on stderr when that is a terminal.
 */
#include "keepctl.h"

#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"

void
ctl_progress_init(struct ctl_progress *progress, const struct ctl *ctl)
{
	progress->bar = !ctl->json && isatty(STDERR_FILENO);
	progress->shown_ns = 0;
}

void
ctl_progress_draw(struct ctl_progress *progress, json_t *line)
{
	enum { WIDTH = 40 };
	json_int_t done = json_integer_value(json_object_get(line, "progress"));
	json_int_t total = json_integer_value(json_object_get(line, "total"));
	uint64_t now = base_clock_mono_ns();
	int filled = total > 0 ? (int) (done * WIDTH / total) : 0;

	if (!progress->bar || (done < total && now - progress->shown_ns < 100000000))
		return;
	progress->shown_ns = now;
	fprintf(stderr, "\r[%.*s%*s] %lld of %lld", filled, "########################################", WIDTH - filled, "",
		(long long) done, (long long) total);
}

void
ctl_progress_clear(struct ctl_progress *progress)
{
	if (progress->shown_ns)
		fputs("\r\033[K", stderr);
	progress->shown_ns = 0;
}
