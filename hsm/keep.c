/*
 * A second copy of SoftHSM2's token.object. Every login truncates that file and writes it again in place: a process killed
 * in between leaves it short, and with it every key of the token is lost. So a copy (token.object.keep, which SoftHSM2
 * ignores) is made after each login that changed it, and put back when token.object is found shorter than the copy, or, as a
 * power cut can leave it, of its size and without its bytes.
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
#define SECTOR 512        /* reaches the disk as a whole, or not */

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

/* Both have len bytes. A sector of zeros that the copy does not have never got its bytes. */
static bool has_gap(const char *now, const char *kept, size_t len)
{
	static const char zeros[SECTOR];

	for (size_t at = 0; at < len; at += SECTOR) {
		size_t n = len - at < SECTOR ? len - at : SECTOR;

		if (memcmp(now + at, zeros, n) == 0 && memcmp(kept + at, zeros, n) != 0)
			return true;
	}
	return false;
}

int hsm_softhsm_restore_one(const char *object_path, const char *name, void *arg)
{
	char path[PATH_MAX], *now = malloc(CONTENT_MAX), *kept = malloc(CONTENT_MAX);
	ssize_t now_len = now ? read_content(object_path, now) : -1, len = -1;
	bool damaged;
	int ret = -1;

	copy_path(path, object_path);
	if (now_len >= 0 && kept)
		len = read_content(path, kept);
	damaged = len > 0 && (now_len < len || has_gap(now, kept, (size_t)len));
	if (damaged)
		ret = replace_content(object_path, kept, (size_t)len);
	free(now);
	free(kept);
	if (!damaged)
		return 0;
	base_log(LOG_WARNING, ret == 0 ? "%s was cut short (an interrupted login); its kept copy is back in place" :
		 "%s is cut short (an interrupted login), and its kept copy cannot be put back", object_path);
	return 0;
}
