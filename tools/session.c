/*
 * Where a request goes: to the service that owns the keystore, or to the same handlers in this process when there is none.
 */
#include "keepctl.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "vault/vault.h"

#define WAIT_NS 30000000000ull /* for a service that comes or goes, or another keepctl at work */

int
ctl_keystore(struct ctl *ctl, const char *path, struct base_error *err)
{
	if (ctl->dir[0])
		return 0;
	if (!ctl->keystore && !getenv("KEEPFS_KEYSTORE") && path && ctl_mount_keystore(path, ctl->dir) == 0)
		return 0;
	return kms_keystore_path(ctl->keystore, ctl->dir, err);
}

/* The same work in this process: only the keystore's owner may, and only while no service does. */
static int
open_here(struct ctl *ctl, struct base_error *err)
{
	struct stat st;
	int rc;

	if (stat(ctl->dir, &st) < 0 && errno == EACCES)
		return base_error_set(err, -EACCES, BASE_EXIT_UNREACHABLE, "no access to the keystore %s", ctl->dir);
	if (!kms_keystore_exists(ctl->dir))
		return base_error_set(err, -ENOENT, BASE_EXIT_NOT_FOUND, "there is no keystore at %s; `keepctl init VAULT` makes one",
				      ctl->dir);
	if (stat(ctl->dir, &st) == 0 && st.st_uid != geteuid())
		return base_error_set(err, -ECONNREFUSED, BASE_EXIT_UNREACHABLE,
				      "no service runs for the keystore %s, and only its owner (uid %u) works without one", ctl->dir,
				      (unsigned) st.st_uid);
	rc = kms_core_open(ctl->dir, &ctl->prompt, 0, &ctl->core, err);
	if (rc < 0)
		return rc;
	rc = vault_api_add(ctl->core);
	if (rc < 0) {
		base_error_set(err, rc, BASE_EXIT_FAILED, "cannot prepare the requests about vaults: %s", strerror(-rc));
		ctl_done(ctl);
	}
	return rc;
}

struct here {
	ctl_line_fn line;
	void *ctx;
};

static int
emit_here(void *ctx, json_t *line)
{
	struct here *here = ctx;

	if (line && here->line)
		here->line(here->ctx, line);
	json_decref(line);
	return line ? 0 : -ENOMEM;
}

static int
call_here(struct ctl *ctl, const char *method, const char *path, json_t *params, ctl_line_fn line, void *ctx,
	  struct base_error *err)
{
	struct here here = { line, ctx };
	struct kms_request request = {
		.method = method, .path = path, .params = params, .caller = kms_caller_self(KMS_VIA_CLI), .emit = emit_here,
		.emit_ctx = &here, .prompt = &ctl->prompt,
	};

	return kms_api_call(ctl->core, &request, err);
}

int
ctl_call(struct ctl *ctl, const char *method, const char *path, json_t *params, ctl_line_fn line, void *ctx,
	 struct base_error *err)
{
	uint64_t end = base_clock_mono_ns() + WAIT_NS;
	json_t *query = params ? params : json_object();
	int rc = ctl_keystore(ctl, NULL, err);

	while (rc == 0 && !ctl->core) {
		bool again;

		rc = kms_client_call(ctl->dir, method, path, query, line, ctx, err);
		again = rc == -EAGAIN;
		if (rc == -ECONNREFUSED) {
			rc = open_here(ctl, err);
			again = rc == -EBUSY;
		}
		/* Somebody has the lock and no socket yet, or no more: one of the two changes soon. */
		if (!again || base_clock_mono_ns() >= end)
			break;
		usleep(100000);
		rc = 0;
	}
	if (rc == 0 && ctl->core)
		rc = call_here(ctl, method, path, query, line, ctx, err);
	json_decref(query);
	return rc;
}

void
ctl_done(struct ctl *ctl)
{
	kms_core_close(ctl->core);
	ctl->core = NULL;
}

static bool
put(char *ret, size_t size, size_t *at, const char *text, size_t len)
{
	if (*at + len >= size)
		return false;
	memcpy(ret + *at, text, len);
	*at += len;
	ret[*at] = 0;
	return true;
}

static bool
put_escaped(char *ret, size_t size, size_t *at, const char *text)
{
	bool fits = true;

	for (; *text && fits; text++) {
		char hex[4];

		if (isalnum((unsigned char) *text) || strchr("-._~", *text)) {
			fits = put(ret, size, at, text, 1);
		} else {
			snprintf(hex, sizeof(hex), "%%%02X", (unsigned char) *text);
			fits = put(ret, size, at, hex, 3);
		}
	}
	return fits;
}

int
ctl_path(char *ret, size_t size, const char *format, ...)
{
	bool fits = true;
	size_t at = 0;
	va_list ap;

	ret[0] = 0;
	va_start(ap, format);
	while (*format && fits) {
		size_t literal = strcspn(format, "%");

		fits = put(ret, size, &at, format, literal);
		format += literal;
		if (fits && !strncmp(format, "%s", 2)) {
			fits = put_escaped(ret, size, &at, va_arg(ap, const char *));
			format += 2;
		}
	}
	va_end(ap);
	return fits ? 0 : -ENAMETOOLONG;
}

int
ctl_absolute(const char *path, char *ret, struct base_error *err)
{
	char parent[PATH_MAX], resolved[PATH_MAX];
	const char *last;
	size_t len = strlen(path);

	if (realpath(path, ret))
		return 0;
	while (len > 1 && path[len - 1] == '/')
		len--;
	if (errno != ENOENT || !len || len >= sizeof(parent))
		return base_error_set(err, -errno, errno == ENOENT ? BASE_EXIT_NOT_FOUND : BASE_EXIT_FAILED, "%s: %s", path,
				      strerror(len ? errno : ENOENT));
	memcpy(parent, path, len);
	parent[len] = 0;
	last = strrchr(parent, '/');
	last = last ? last + 1 : parent;
	if (!strcmp(last, ".") || !strcmp(last, ".."))
		return base_error_set(err, -ENOENT, BASE_EXIT_NOT_FOUND, "%s: there is no such directory", path);
	snprintf(resolved, sizeof(resolved), "%.*s", last > parent ? (int) (last - parent) : 1, last > parent ? parent : ".");
	if (!realpath(resolved, ret))
		return base_error_set(err, -errno, BASE_EXIT_NOT_FOUND, "%s: %s", resolved, strerror(errno));
	len = strlen(ret);
	if (len + strlen(last) + 2 > PATH_MAX)
		return base_error_set(err, -ENAMETOOLONG, BASE_EXIT_USAGE, "%s: the path is too long", path);
	snprintf(ret + len, PATH_MAX - len, "%s%s", ret[len - 1] == '/' ? "" : "/", last);
	return 0;
}
