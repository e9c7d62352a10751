/* Findings of fsck on their way out, and the objects that go to the quarantine with them. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fsck.h"
#include "object.h"
#include "vault/path.h"

static char *join(const char *dir, const char *name)
{
	char *text = NULL;

	if (!name)
		return strdup(dir);
	return asprintf(&text, "%s%s%s", dir, *dir && dir[strlen(dir) - 1] != '/' ? "/" : "", name) < 0 ? NULL : text;
}

char *vault_fsck_path(const struct fsck *j, const struct fsck_name *name)
{
	if (!j->dir->clear || (name->entry && !name->clear))
		return NULL;
	return join(j->dir->clear, name->entry ? name->clear : NULL);
}

char *vault_fsck_backing(const struct fsck *j, const struct fsck_name *name)
{
	return join(j->dir->backing, name->entry);
}

static void found_free(struct fsck_found *found)
{
	free(found->path);
	free(found->backing);
	free(found->detail);
	free(found);
}

struct fsck_found *vault_fsck_found(struct fsck *j, const struct fsck_name *name, const char *problem, const char *format, ...)
{
	struct fsck_found *found = calloc(1, sizeof(*found));
	va_list ap;
	int n;

	if (!found)
		return NULL;
	va_start(ap, format);
	n = vasprintf(&found->detail, format, ap);
	va_end(ap);
	if (n < 0)
		found->detail = NULL;
	found->path = vault_fsck_path(j, name);
	found->backing = vault_fsck_backing(j, name);
	if (!found->detail || !found->backing) {
		found_free(found);
		return NULL;
	}
	found->object = name->object;
	found->f = (struct vault_finding){ .path = found->path, .backing = found->backing, .problem = problem, .detail = found->detail };
	j->finds++;
	*j->found_end = found;
	j->found_end = &found->next;
	return found;
}

int vault_fsck_audit(struct fsck *j, const uint8_t *file_id, const struct fsck_name *name, const char *what)
{
	char *path = vault_fsck_path(j, name), *backing = vault_fsck_backing(j, name), *reason = NULL;
	int code = -ENOMEM;

	if (backing && asprintf(&reason, "%s: %s", what, backing) >= 0)
		code = vault_check_audit(&j->check, file_id, path, reason);
	if (code < 0)
		base_error_set(j->err, code, BASE_EXIT_FAILED, "nothing is repaired, because the record of it cannot be written: %s", strerror(-code));
	free(reason);
	free(path);
	free(backing);
	return code;
}

static void say(struct fsck_found *found, const char *more)
{
	char *text;

	if (asprintf(&text, "%s (%s)", found->detail, more) < 0)
		return;
	free(found->detail);
	found->detail = text;
	found->f.detail = text;
}

static void move(struct fsck *j, int dirfd, struct fsck_found *found)
{
	struct base_error err = { 0 };

	if (vault_check_quarantine(&j->check, dirfd, &found->f, &err) == 0)
		found->f.action = VAULT_FINDING_QUARANTINED;
	else
		say(found, err.text);
}

/* Only the object that was found, and only when nobody has it open. */
static void set_aside(struct fsck *j, struct fsck_found *found)
{
	char *slash = strrchr(found->backing, '/');
	struct vault *v = j->check.at.v;
	struct vault_claim claim;
	struct stat st;
	int dirfd;

	if (slash)
		*slash = '\0';
	dirfd = vault_open_path(v->root_fd, slash ? found->backing : "", O_RDONLY | O_DIRECTORY);
	if (slash)
		*slash = '/';
	if (dirfd < 0)
		return;
	if (fstatat(dirfd, slash ? slash + 1 : found->backing, &st, AT_SYMLINK_NOFOLLOW) < 0 || st.st_dev != found->object.dev ||
	    st.st_ino != found->object.ino)
		say(found, "left where it is: it changed meanwhile");
	else if (S_ISDIR(st.st_mode) && vault_shared(v))
		say(found, "left where it is: directories are moved while the vault is not mounted");
	else if (!S_ISREG(st.st_mode))
		move(j, dirfd, found);
	else if (vault_live_claim(v, st.st_dev, st.st_ino, &claim) < 0)
		say(found, "left where it is: it is open");
	else {
		move(j, dirfd, found);
		vault_live_unclaim(&claim);
	}
	close(dirfd);
}

int vault_fsck_flush(struct fsck *j)
{
	struct fsck_found *found;
	int code = 0;

	while ((found = j->found)) {
		j->found = found->next;
		if (code == 0 && found->aside && j->check.quarantine && found->f.action == VAULT_FINDING_NONE)
			set_aside(j, found);
		if (code == 0)
			code = vault_check_finding(&j->check, &found->f);
		found_free(found);
	}
	j->found_end = &j->found;
	return code;
}
