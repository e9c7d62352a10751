/*
 * From a path in a mount to the keystore behind it. The kernel's mount table tells the mount and who made it; which of the
 * running services serves it, they tell themselves: their sockets are in /proc/net/unix.
 */
#include "keepctl.h"

#include <errno.h>
#include <mntent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MOUNT_TYPE "fuse.keepfs"

static bool
below(const char *path, const char *dir)
{
	size_t len = strlen(dir);

	return !strcmp(dir, "/") || (!strncmp(path, dir, len) && (!path[len] || path[len] == '/'));
}

int
ctl_mount_of(const char *path, char *ret_mountpoint, unsigned *ret_uid)
{
	FILE *mounts = setmntent("/proc/self/mounts", "r");
	struct mntent entry;
	char buf[3 * PATH_MAX];
	size_t best = 0;
	bool ours = false;

	if (!mounts)
		return -ENOENT;
	while (getmntent_r(mounts, &entry, buf, sizeof(buf))) {
		const char *uid = hasmntopt(&entry, "user_id");
		size_t len = strlen(entry.mnt_dir);

		/* The deepest mount above the path holds it; of two at one place the later one. */
		if (!below(path, entry.mnt_dir) || len < best)
			continue;
		best = len;
		ours = !strcmp(entry.mnt_type, MOUNT_TYPE);
		if (!ours)
			continue;
		snprintf(ret_mountpoint, PATH_MAX, "%s", entry.mnt_dir);
		*ret_uid = uid ? (unsigned) strtoul(uid + strlen("user_id="), NULL, 10) : 0;
	}
	endmntent(mounts);
	return ours ? 0 : -ENOENT;
}

struct look {
	const char *mountpoint;
	bool found;
};

static void
look_line(void *ctx, json_t *line)
{
	struct look *look = ctx;
	const char *mountpoint = json_string_value(json_object_get(line, "mountpoint"));

	look->found |= mountpoint && !strcmp(mountpoint, look->mountpoint);
}

/* A socket that somebody else than the mount's owner listens on says nothing about it. */
static bool
serves(const char *dir, const char *mountpoint, unsigned uid)
{
	struct look look = { .mountpoint = mountpoint };
	struct stat st;

	if (stat(dir, &st) < 0 || st.st_uid != uid || (st.st_mode & 0022) || !kms_keystore_exists(dir))
		return false;
	return kms_client_call(dir, "GET", "/v1/mounts", NULL, look_line, &look, NULL) == 0 && look.found;
}

int
ctl_mount_keystore(const char *path, char *ret)
{
	char absolute[PATH_MAX], mountpoint[PATH_MAX], *line = NULL;
	size_t cap = 0;
	unsigned uid;
	bool found = false;
	FILE *sockets;
	struct base_error err;

	if (ctl_absolute(path, absolute, &err) < 0 || ctl_mount_of(absolute, mountpoint, &uid) < 0)
		return -ENOENT;
	sockets = fopen("/proc/net/unix", "re");
	while (sockets && !found && getline(&line, &cap, sockets) > 0) {
		char *dir = strchr(line, '/');
		char *name = dir ? strstr(dir, "/control.sock\n") : NULL;

		if (!name || name - dir >= PATH_MAX)
			continue;
		*name = 0;
		found = serves(dir, mountpoint, uid);
		if (found)
			snprintf(ret, PATH_MAX, "%s", dir);
	}
	free(line);
	if (sockets)
		fclose(sockets);
	return found ? 0 : -ENOENT;
}
