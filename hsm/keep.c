/*
 * A second copy of SoftHSM2's token.object. Every login truncates that file and writes it again in place: a process killed
 * in between leaves it short, and with it every key of the token is lost. So a copy (token.object.keep, which SoftHSM2
 * ignores) is made after each login that changed it, and put back when token.object is found shorter than the copy.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "internal.h"

#define CONTENT_MAX 65536 /* a token.object has 320 bytes */

/* Bytes read into buf (CONTENT_MAX bytes), or -1. */
static ssize_t read_content(const char *path, char *buf)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	ssize_t n;

	if (fd < 0)
		return -1;
	n = read(fd, buf, CONTENT_MAX);
	close(fd);
	return n == CONTENT_MAX ? -1 : n;
}

static int sync_parent(const char *path)
{
	char parent[PATH_MAX];
	char *slash;
	int fd, ret;

	snprintf(parent, sizeof(parent), "%s", path);
	slash = strrchr(parent, '/');
	if (slash)
		*slash = '\0';
	fd = open(slash ? parent : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	ret = fsync(fd);
	close(fd);
	return ret;
}

/* Whole or not at all, and durable. */
static int replace_content(const char *path, const char *buf, size_t len)
{
	char aside[PATH_MAX];
	int fd, ret = -1;

	if ((size_t)snprintf(aside, sizeof(aside), "%s.new", path) >= sizeof(aside))
		return -1;
	fd = open(aside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -1;
	if (write(fd, buf, len) == (ssize_t)len && fsync(fd) == 0)
		ret = 0;
	close(fd);
	if (ret == 0 && rename(aside, path) == 0)
		return sync_parent(path);
	unlink(aside);
	return -1;
}

static void copy_path(char out[PATH_MAX], const char *object_path)
{
	snprintf(out, PATH_MAX, "%s.keep", object_path);
}

void hsm_softhsm_keep(const struct hsm *h)
{
	char *now, *kept, path[PATH_MAX];
	ssize_t len;

	if (!h->object_path[0])
		return;
	copy_path(path, h->object_path);
	now = malloc(CONTENT_MAX);
	kept = malloc(CONTENT_MAX);
	len = now && kept ? read_content(h->object_path, now) : -1;
	if (len <= 0)
		base_log(LOG_WARNING, "cannot read %s to keep a copy of it", h->object_path);
	else if ((read_content(path, kept) != len || memcmp(now, kept, (size_t)len) != 0) &&
		 replace_content(path, now, (size_t)len) < 0)
		base_log(LOG_WARNING, "cannot keep a copy of %s: %s", h->object_path, strerror(errno));
	free(now);
	free(kept);
}

int hsm_softhsm_restore_one(const char *object_path, const char *name, void *arg)
{
	char path[PATH_MAX], *buf;
	struct stat now, kept;
	ssize_t len;
	int ret = -1;

	copy_path(path, object_path);
	if (stat(object_path, &now) < 0 || stat(path, &kept) < 0 || now.st_size >= kept.st_size)
		return 0;
	buf = malloc(CONTENT_MAX);
	len = buf ? read_content(path, buf) : -1;
	if (len > 0)
		ret = replace_content(object_path, buf, (size_t)len);
	free(buf);
	base_log(LOG_WARNING, ret == 0 ? "%s was cut short (an interrupted login); its kept copy is back in place" :
		 "%s is cut short (an interrupted login), and its kept copy cannot be put back", object_path);
	return 0;
}
