#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/log.h"

/* Guards the two settings below and keeps the lines on stderr whole. */
static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static char log_program[64] = "keepfs";
static int log_to_syslog;

void base_log_setup(const char *program, int to_syslog)
{
	pthread_mutex_lock(&log_lock);
	snprintf(log_program, sizeof(log_program), "%s", program ? program : "keepfs");
	if (log_to_syslog)
		closelog();
	log_to_syslog = to_syslog;
	if (to_syslog)
		openlog(log_program, LOG_PID, LOG_DAEMON);
	pthread_mutex_unlock(&log_lock);
}

void base_log(int priority, const char *fmt, ...)
{
	int saved = errno;
	char text[1024];
	va_list ap;
	char *p;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	for (p = text; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			*p = ' ';
	pthread_mutex_lock(&log_lock);
	if (log_to_syslog)
		syslog(priority, "%s", text);
	else
		fprintf(stderr, "%s: %s\n", log_program, text);
	pthread_mutex_unlock(&log_lock);
	errno = saved;
}
