/* Clear paths to backing paths, and back. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "internal.h"
#include "vault/path.h"

/* A growing path in the caller's buffer. */
struct out {
	char *text;
	size_t len, cap;
};

static int out_add(struct out *out, const char *component)
{
	size_t len = strlen(component);

	if (out->len + 1 + len + 1 > out->cap)
		return -ENAMETOOLONG;
	if (out->len == 0 || out->text[out->len - 1] != '/')
		out->text[out->len++] = '/';
	memcpy(out->text + out->len, component, len + 1);
	out->len += len;
	return 0;
}

/* The next component of *path, moved past it: its length (0 at the end), -ENAMETOOLONG. */
static int next_component(const char **path, char ret[NAME_MAX + 1])
{
	size_t len;

	while (**path == '/')
		(*path)++;
	len = strcspn(*path, "/");
	if (len > NAME_MAX)
		return -ENAMETOOLONG;
	memcpy(ret, *path, len);
	ret[len] = '\0';
	*path += len;
	while (**path == '/')
		(*path)++;
	return (int)len;
}

/* Where a descent is: an fd that it owns, and whether the directory's id is known. */
struct place {
	int fd;
	uint8_t id[BASE_ID_SIZE];
};

static int place_root(struct vault *v, struct place *at)
{
	at->fd = openat(vault_root_fd(v), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	memcpy(at->id, vault_root_dir_id(v), BASE_ID_SIZE);
	return at->fd < 0 ? -errno : 0;
}

static int place_enter(struct vault *v, struct place *at, const char *entry)
{
	struct vault_dir dir;
	int fd = openat(at->fd, entry, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), code;

	if (fd < 0)
		return -errno;
	close(at->fd);
	at->fd = fd;
	code = vault_dir_read(v, fd, at->id, &dir);
	if (code == 0)
		memcpy(at->id, dir.id, BASE_ID_SIZE);
	return code;
}

int vault_resolve(struct vault *v, const char *clear_path, char *backing, size_t cap)
{
	struct out out = { backing, 0, cap };
	char component[NAME_MAX + 1];
	struct vault_name name;
	struct place at;
	struct stat st;
	int code, n;

	if ((size_t)snprintf(backing, cap, "%s", vault_path(v)) >= cap)
		return -ENAMETOOLONG;
	out.len = strlen(backing);
	code = place_root(v, &at);
	while (code == 0 && (n = next_component(&clear_path, component)) != 0) {
		if (n < 0)
			code = n;
		else if (strcmp(component, ".") == 0)
			continue;
		else
			code = vault_name_seal(v, at.id, component, &name);
		if (code == 0)
			code = out_add(&out, name.entry);
		if (code == 0 && fstatat(at.fd, name.entry, &st, AT_SYMLINK_NOFOLLOW) < 0)
			code = -errno;
		if (code == 0 && *clear_path)
			code = S_ISDIR(st.st_mode) ? place_enter(v, &at, name.entry) : -ENOTDIR;
	}
	if (at.fd >= 0)
		close(at.fd);
	return code;
}

int vault_clear(struct vault *v, const char *relative, char *ret, size_t cap)
{
	struct out out = { ret, 0, cap };
	char component[NAME_MAX + 1], clear[VAULT_NAME_MAX + 1];
	struct place at;
	int code = place_root(v, &at), n;

	if (cap < 2) {
		if (at.fd >= 0)
			close(at.fd);
		return -ENAMETOOLONG;
	}
	memcpy(ret, "/", 2);
	while (code == 0 && (n = next_component(&relative, component)) != 0) {
		code = n < 0 ? n : vault_name_open(v, at.fd, at.id, component, clear);
		if (code == 0)
			code = out_add(&out, clear);
		if (code == 0 && *relative)
			code = place_enter(v, &at, component);
	}
	if (at.fd >= 0)
		close(at.fd);
	return code;
}

int vault_open_path(int root_fd, const char *relative, int flags)
{
	char component[NAME_MAX + 1];
	int at = root_fd, fd, n;

	n = next_component(&relative, component);
	if (n == 0)
		memcpy(component, ".", 2);
	for (;;) {
		bool last = *relative == '\0';

		fd = n < 0 ? (errno = -n, -1) :
			     openat(at, component, (last ? flags : O_PATH | O_DIRECTORY) | O_NOFOLLOW | O_CLOEXEC);
		n = fd < 0 ? -errno : 0;
		if (at != root_fd)
			close(at);
		if (n < 0 || last)
			return n < 0 ? n : fd;
		at = fd;
		n = next_component(&relative, component);
	}
}

/* The owner may change what a file's mode forbids him: the mode goes back at once. */
static int open_against_mode(int dirfd, const char *name, int flags)
{
	char proc[32];
	struct stat st;
	int path = openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC), fd = -1, code = 0;

	if (path < 0)
		return -errno;
	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", path);
	if (fstat(path, &st) < 0)
		code = -errno;
	else if (!S_ISREG(st.st_mode) || st.st_uid != geteuid() || chmod(proc, (st.st_mode & 07777) | 0600) < 0)
		code = -EACCES;
	if (code == 0) {
		fd = open(proc, flags | O_CLOEXEC);
		code = fd < 0 ? -errno : 0;
		if (chmod(proc, st.st_mode & 07777) < 0 && code == 0)
			code = -errno;
	}
	close(path);
	if (code < 0 && fd >= 0)
		close(fd);
	return code < 0 ? code : fd;
}

int vault_open_file(int dirfd, const char *name, int flags)
{
	/* A FIFO must not block us. */
	int fd = openat(dirfd, name, flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | O_NOATIME);

	if (fd < 0 && errno == EPERM)
		fd = openat(dirfd, name, flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd >= 0)
		return fd;
	return errno == EACCES ? open_against_mode(dirfd, name, flags) : -errno;
}

int vault_open_file_at(int root_fd, const char *relative, int flags)
{
	const char *slash = strrchr(relative, '/');
	char *parent;
	int dirfd, fd;

	if (!slash)
		return vault_open_file(root_fd, relative, flags);
	parent = strndup(relative, (size_t)(slash - relative));
	if (!parent)
		return -ENOMEM;
	dirfd = vault_open_path(root_fd, parent, O_RDONLY | O_DIRECTORY);
	free(parent);
	if (dirfd < 0)
		return dirfd;
	fd = vault_open_file(dirfd, slash + 1, flags);
	close(dirfd);
	return fd;
}
