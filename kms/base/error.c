#include <stdarg.h>
#include <stdio.h>

#include "base/error.h"

int base_error_set(struct base_error *err, int code, enum base_exit exit, const char *fmt, ...)
{
	va_list ap;
	char *p;

	if (!err)
		return code;
	err->code = code;
	err->exit = exit;
	va_start(ap, fmt);
	vsnprintf(err->text, sizeof(err->text), fmt, ap);
	va_end(ap);
	/* One line: names from outside must not forge lines of a terminal or a log. */
	for (p = err->text; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			*p = ' ';
	return code;
}
