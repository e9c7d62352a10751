/*
 * Locks on the config and on files.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "lock.h"
#include "object.h"

static int lock(int fd, short type)
{
	struct flock range = { .l_type = type, .l_whence = SEEK_SET };

	if (fcntl(fd, F_OFD_SETLK, &range) == 0)
		return 0;
	return errno == EAGAIN || errno == EACCES ? -EBUSY : -errno;
}

/* Does an fd of another process carry a lock? */
static bool is_lock(const char *pid, const char *fd)
{
	char path[64], line[256];
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%.20s/fdinfo/%.20s", pid, fd);
	f = fopen(path, "re");
	while (f && !found && fgets(line, sizeof(line), f))
		found = strncmp(line, "lock:", 5) == 0;
	if (f)
		fclose(f);
	return found;
}

/* Has this process the file locked? Of other users' processes nobody but root is told. */
static bool has_locked(const char *pid, const struct stat *file)
{
	char path[64];
	struct dirent *e;
	struct stat st;
	bool found = false;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%.20s/fd", pid);
	dir = opendir(path);
	while (dir && !found && (e = readdir(dir)))
		found = fstatat(dirfd(dir), e->d_name, &st, 0) == 0 && st.st_ino == file->st_ino && st.st_dev == file->st_dev && is_lock(pid, e->d_name);
	if (dir)
		closedir(dir);
	return found;
}

/* The kernel does not say whose an OFD lock is, but shows it with its fd. 0: none is found (another host, or another user's). */
static long holder(int fd)
{
	struct dirent *e;
	struct stat file;
	long pid = 0;
	DIR *dir;

	if (fstat(fd, &file) < 0)
		return 0;
	dir = opendir("/proc");
	while (dir && pid == 0 && (e = readdir(dir)))
		if (e->d_name[0] >= '1' && e->d_name[0] <= '9' && strtol(e->d_name, NULL, 10) != getpid() && has_locked(e->d_name, &file))
			pid = strtol(e->d_name, NULL, 10);
	if (dir)
		closedir(dir);
	return pid;
}

int vault_lock_config(struct vault *v, bool shared, struct base_error *err)
{
	int code = lock(v->config_fd, v->read_only || shared ? F_RDLCK : F_WRLCK);
	char who[96] = "another host, or another user's process,";
	long pid;

	if (code == 0)
		return 0;
	if (code != -EBUSY)
		return base_error_set(err, code, BASE_EXIT_FAILED, "cannot lock %s/" VAULT_CONFIG_NAME ": %s", v->path, strerror(-code));
	pid = holder(v->config_fd);
	if (pid)
		snprintf(who, sizeof(who), "process %ld", pid);
	return base_error_set(err, code, BASE_EXIT_FAILED, "the vault %s is in use: %s has it open; unmount it there first (a service may hold it for a "
			      "moment longer)%s", v->path, who, shared ? ", or mount it with -o shared there as well" : "");
}

int vault_lock_file(struct vault_file *f, bool write)
{
	int code;

	if (!vault_others(f->v))
		return 0;
	code = lock(f->fd, write ? F_WRLCK : F_RDLCK);
	if (code == -EBUSY)
		base_log(LOG_NOTICE, "inode %ju: another process %s this file; it can be opened %safter that", (uintmax_t)f->ino,
			 write ? "uses" : "writes", write ? "for writing " : "");
	return code;
}
