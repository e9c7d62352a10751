#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "device.h"
#include "mount.h"

#define HELPER "fusermount3"

extern char **environ;

/* Backslashes and commas would end an option of fusermount3. */
static void escape(const char *in, char *out, size_t cap)
{
	size_t at = 0;

	for (; *in && at + 3 < cap; in++) {
		if (*in == ',' || *in == '\\')
			out[at++] = '\\';
		out[at++] = *in;
	}
	out[at] = '\0';
}

static const char *source(const struct mount *m)
{
	return m->options.fsname ? m->options.fsname : vault_path(m->vault);
}

static int mount_directly(struct mount *m, int *ret_fd, struct base_error *err)
{
	char data[256];
	struct stat st;
	int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC), r;

	if (fd < 0)
		return base_error_set(err, -errno, BASE_EXIT_FAILED, "cannot open /dev/fuse: %s; is the fuse module loaded?", strerror(errno));
	if (stat(m->mountpoint, &st) < 0)
		st.st_mode = S_IFDIR;
	snprintf(data, sizeof data, "fd=%d,rootmode=%o,user_id=%u,group_id=%u,default_permissions%s", fd, st.st_mode & S_IFMT, geteuid(),
		 getegid(), m->options.allow_other ? ",allow_other" : "");
	if (mount(source(m), m->mountpoint, "fuse.keepfs", m->options.flags, data) == 0) {
		*ret_fd = fd;
		return 0;
	}
	r = base_error_set(err, -errno, BASE_EXIT_FAILED, "cannot mount at %s: %s", m->mountpoint, strerror(errno));
	close(fd);
	return r;
}

/* fusermount3 sends the descriptor over the socket that _FUSE_COMMFD names. */
static int receive_fd(int sock)
{
	char byte, control[CMSG_SPACE(sizeof(int))];
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
	struct cmsghdr *c;
	ssize_t n;
	int fd = -1;

	do
		n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	c = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
		memcpy(&fd, CMSG_DATA(c), sizeof fd);
	return fd;
}

/* posix_spawn, not fork: no copy of this process and its secrets comes to be. */
static int run_helper(char *const argv[], char *const envp[], int keep, int *status)
{
	posix_spawn_file_actions_t actions;
	pid_t pid;
	int r;

	posix_spawn_file_actions_init(&actions);
	if (keep >= 0)
		posix_spawn_file_actions_adddup2(&actions, keep, keep); /* clears its close-on-exec */
	r = posix_spawnp(&pid, HELPER, &actions, NULL, argv, envp);
	posix_spawn_file_actions_destroy(&actions);
	if (r != 0)
		return -r;
	while (waitpid(pid, status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

static char **with_variable(char *variable)
{
	size_t n = 0;
	char **copy;

	while (environ[n])
		n++;
	copy = calloc(n + 2, sizeof *copy);
	if (copy) {
		memcpy(copy, environ, n * sizeof *copy);
		copy[n] = variable;
	}
	return copy;
}

static const char *flag_words(unsigned long flags, char *ret, size_t cap)
{
	snprintf(ret, cap, "%s,%s,%s%s%s%s%s", flags & MS_RDONLY ? "ro" : "rw", flags & MS_NOSUID ? "nosuid" : "suid",
		 flags & MS_NODEV ? "nodev" : "dev", flags & MS_NOEXEC ? ",noexec" : "", flags & MS_NOATIME ? ",noatime" : "",
		 flags & MS_SYNCHRONOUS ? ",sync" : "", flags & MS_DIRSYNC ? ",dirsync" : "");
	return ret;
}

static int mount_by_helper(struct mount *m, int *ret_fd, struct base_error *err)
{
	char list[9000], name[8300], words[128], variable[32], **env;
	char *argv[] = { (char *)HELPER, (char *)"-o", list, (char *)"--", m->mountpoint, NULL };
	int pair[2], status = 0, r;

	escape(source(m), name, sizeof name);
	snprintf(list, sizeof list, "fsname=%s,subtype=keepfs,default_permissions,%s%s", name, flag_words(m->options.flags, words, sizeof words),
		 m->options.allow_other ? ",allow_other" : "");
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return base_error_set(err, -errno, BASE_EXIT_FAILED, "cannot make a socket: %s", strerror(errno));
	snprintf(variable, sizeof variable, "_FUSE_COMMFD=%d", pair[0]);
	env = with_variable(variable);
	r = env ? run_helper(argv, env, pair[0], &status) : -ENOMEM;
	free(env);
	close(pair[0]);
	*ret_fd = r == 0 ? receive_fd(pair[1]) : -1;
	close(pair[1]);
	if (r < 0)
		return base_error_set(err, r, BASE_EXIT_FAILED, "cannot run " HELPER ": %s; install the package fuse3", strerror(-r));
	if (*ret_fd < 0)
		return base_error_set(err, -EPERM, BASE_EXIT_FAILED, "cannot mount at %s: " HELPER " refused it%s", m->mountpoint,
				      m->options.allow_other ? " (allow_other needs user_allow_other in /etc/fuse.conf)" : "");
	return 0;
}

int device_mount(struct mount *m, int *ret_fd, struct base_error *err)
{
	return geteuid() == 0 ? mount_directly(m, ret_fd, err) : mount_by_helper(m, ret_fd, err);
}

int device_unmount(const char *mountpoint, bool lazy)
{
	char *argv[] = { (char *)HELPER, (char *)"-u", (char *)(lazy ? "-qz" : "-q"), (char *)"--", (char *)mountpoint, NULL };
	int status = 0, r;

	if (geteuid() == 0)
		return umount2(mountpoint, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) < 0 ? -errno : 0;
	r = run_helper(argv, environ, -1, &status);
	if (r < 0)
		return r;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EBUSY;
}

int device_clone(int fd)
{
	int clone = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	uint32_t master = (uint32_t)fd;

	if (clone < 0)
		return -errno;
	if (ioctl(clone, FUSE_DEV_IOC_CLONE, &master) < 0) {
		int r = -errno;

		close(clone);
		return r;
	}
	return clone;
}

void device_readahead(const char *mountpoint, unsigned kib)
{
	char path[128];
	struct stat st;
	FILE *f;

	if (geteuid() != 0 || stat(mountpoint, &st) < 0)
		return;
	snprintf(path, sizeof path, "/sys/class/bdi/%u:%u/read_ahead_kb", major(st.st_dev), minor(st.st_dev));
	f = fopen(path, "we");
	if (!f)
		return;
	fprintf(f, "%u\n", kib);
	fclose(f);
}

/* mountinfo knows bind mounts as well, which a look at device numbers misses. */
bool device_is_mount(const char *path)
{
	char *line = NULL, where[4200];
	size_t cap = 0;
	bool found = false;
	FILE *f = fopen("/proc/self/mountinfo", "re");

	if (!f)
		return false;
	while (!found && getline(&line, &cap, f) > 0) {
		char *in, *out = where;

		if (sscanf(line, "%*s %*s %*s %*s %4199s", where) != 1)
			continue;
		for (in = where; *in; in++) { /* octal escapes for space, tab, newline, backslash */
			if (in[0] == '\\' && in[1] && in[2] && in[3]) {
				*out++ = (char)((in[1] - '0') * 64 + (in[2] - '0') * 8 + (in[3] - '0'));
				in += 3;
			} else {
				*out++ = *in;
			}
		}
		*out = '\0';
		found = !strcmp(where, path);
	}
	free(line);
	fclose(f);
	return found;
}
