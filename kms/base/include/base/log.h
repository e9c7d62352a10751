/*
 * base/log.h: what the daemon says to its operator. Never a key, a PIN, or a clear-text file name.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <syslog.h>

/* base_log_setup(program, to_syslog): messages go to stderr as "program: text", or to syslog(3) (LOG_DAEMON). */
void base_log_setup(const char *program, int to_syslog);

/* base_log(priority, fmt, ...): priority is LOG_ERR, LOG_WARNING, LOG_NOTICE, LOG_INFO or LOG_DEBUG. Thread-safe. */
void base_log(int priority, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
