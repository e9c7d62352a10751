/*
 * The embedded SoftHSM2: its configuration file, the making of its token, and the durability that it lacks (it neither
 * fsyncs nor renames).
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "internal.h"

static int failed(struct base_error *err, const char *what, const char *path)
{
	return base_error_set(err, -EIO, BASE_EXIT_FAILED, "cannot %s %s: %s", what, path, strerror(errno));
}

static int write_file(const char *path, const char *text)
{
	size_t len = strlen(text);
	int fd, code = 0;

	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -1;
	if (write(fd, text, len) != (ssize_t)len || fsync(fd) < 0)
		code = errno ? errno : EIO;
	close(fd);
	errno = code;
	return code ? -1 : 0;
}

int hsm_softhsm_configure(const char *token_dir, const char *conf_path, struct base_error *err)
{
	char text[1024], aside[PATH_MAX];
	const char *now = getenv("SOFTHSM2_CONF");
	size_t len = strlen(token_dir);
	int n;

	/* The parser of softhsm2.conf knows no quoting. */
	if (len == 0 || len > 800 || strpbrk(token_dir, "#=\n\r") || strchr(" \t", token_dir[len - 1]))
		return base_error_set(err, -EINVAL, BASE_EXIT_FAILED,
				      "token directory \"%s\" cannot be named in softhsm2.conf; use a path without #, = and line ends",
				      token_dir);
	snprintf(text, sizeof(text),
		 "directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n", token_dir);
	n = snprintf(aside, sizeof(aside), "%s.new", conf_path);
	if (n < 0 || (size_t)n >= sizeof(aside))
		return base_error_set(err, -ENAMETOOLONG, BASE_EXIT_FAILED, "path %s is too long", conf_path);
	if (write_file(aside, text) < 0 || rename(aside, conf_path) < 0)
		return failed(err, "write", conf_path);
	/* setenv races with readers of the environment: only when it changes something. */
	if ((!now || strcmp(now, conf_path) != 0) && setenv("SOFTHSM2_CONF", conf_path, 1) < 0)
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "cannot set SOFTHSM2_CONF: %s", strerror(errno));
	return 0;
}

int hsm_softhsm_present(const struct hsm *h, struct base_error *err)
{
	const char *path = h->object_path[0] ? h->object_path : h->token_dir;
	int code;

	if (!path || access(path, R_OK) == 0)
		return 0;
	code = errno;
	return base_error_set(err, -ENOKEY, BASE_EXIT_UNREACHABLE,
			      "token \"%s\" cannot be reached: %s: %s; put the token directory back in its place", h->label, path,
			      strerror(code));
}

/* Runs fn for every token directory (one that holds a token.object) in token_dir; stops when it returns non-zero. */
static int each_token(const char *token_dir, int (*fn)(const char *path, const char *name, void *arg), void *arg)
{
	char path[PATH_MAX];
	struct dirent *e;
	DIR *dir = opendir(token_dir);
	int ret = 0;

	if (!dir)
		return -errno;
	while (ret == 0 && (e = readdir(dir))) {
		if (e->d_name[0] == '.')
			continue;
		if ((size_t)snprintf(path, sizeof(path), "%s/%s/token.object", token_dir, e->d_name) >= sizeof(path))
			continue;
		if (access(path, F_OK) == 0)
			ret = fn(path, e->d_name, arg);
	}
	closedir(dir);
	return ret;
}

/* The directory's name is a UUID whose last 16 digits are the token's serial. */
static int learn_one(const char *path, const char *name, void *arg)
{
	struct hsm *h = arg;
	char tail[32];
	size_t len = strlen(name);

	if (len != 36)
		return 0;
	snprintf(tail, sizeof(tail), "%.4s%.12s", name + 19, name + 24);
	if (strcmp(tail, h->serial) != 0 || strlen(path) >= sizeof(h->object_path))
		return 0;
	strcpy(h->object_path, path);
	return 1;
}

void hsm_softhsm_learn(struct hsm *h)
{
	if (h->token_dir && !h->object_path[0])
		each_token(h->token_dir, learn_one, h);
}

void hsm_softhsm_restore(const char *token_dir)
{
	each_token(token_dir, hsm_softhsm_restore_one, NULL);
}

static int sync_at(int dir, const char *name, int flags)
{
	int fd, code = 0;

	fd = openat(dir, name, flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno; /* destroyed since it was listed */
	if (fsync(fd) < 0)
		code = -errno;
	close(fd);
	return code;
}

static int sync_dir(const char *path, time_t since)
{
	DIR *dir = opendir(path);
	struct dirent *e;
	struct stat st;
	int code = 0;

	if (!dir)
		return -errno;
	while (code == 0 && (e = readdir(dir)))
		/* File times come from a coarse clock: two seconds of grace. */
		if (fstatat(dirfd(dir), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) &&
		    st.st_ctime + 2 >= since)
			code = sync_at(dirfd(dir), e->d_name, O_RDONLY);
	if (code == 0 && fsync(dirfd(dir)) < 0)
		code = -errno;
	closedir(dir);
	return code;
}

static int sync_one(const char *path, const char *name, void *arg)
{
	char dir[PATH_MAX];

	snprintf(dir, sizeof(dir), "%.*s", (int)(strlen(path) - strlen("/token.object")), path);
	return sync_dir(dir, *(const time_t *)arg);
}

static int sync_all(const char *token_dir, time_t since)
{
	int code = each_token(token_dir, sync_one, &since);

	return code < 0 ? code : sync_dir(token_dir, since);
}

int hsm_softhsm_sync(const struct hsm *h, time_t since, struct base_error *err)
{
	int code;

	if (!h->token_dir)
		return 0;
	code = sync_all(h->token_dir, since);
	return code < 0 ? base_error_set(err, code == -ENOENT ? -ENOKEY : -EIO, BASE_EXIT_FAILED,
					 "cannot make the token in %s durable: %s", h->token_dir, strerror(-code)) : 0;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

static int say_yes(const char *path, const char *name, void *arg)
{
	return 1;
}

/* In a fresh token directory SoftHSM shows one slot, with a token that waits to be initialised. */
static PKCS11_SLOT *blank_slot(struct hsm *h)
{
	unsigned i;

	for (i = 0; i < h->slot_count; i++)
		if (h->slots[i].token && !h->slots[i].token->initialized)
			return &h->slots[i];
	return NULL;
}

static int initialise_token(struct hsm *h, const char *so_pin, const char *pin, struct base_error *err)
{
	char label[33];
	PKCS11_SLOT *slot;

	if (PKCS11_enumerate_slots(h->ctx, &h->slots, &h->slot_count) < 0) {
		h->slots = NULL;
		return hsm_ckr_error(err, hsm_ckr_libp11(), "list the slots", h->label);
	}
	slot = blank_slot(h);
	if (!slot)
		return base_error_set(err, -EIO, BASE_EXIT_FAILED, "SoftHSM2 (%s) offers no slot for a new token", h->module);
	/* libp11 hands on 32 bytes of the label, however long it is. */
	snprintf(label, sizeof(label), "%-32.32s", h->label);
	if (PKCS11_init_token(slot->token, so_pin, label) < 0)
		return hsm_ckr_error(err, hsm_ckr_libp11(), "initialise the token", h->label);
	if (PKCS11_open_session(slot, 1) < 0 || PKCS11_login(slot, 1, so_pin) < 0)
		return hsm_ckr_error(err, hsm_ckr_libp11(), "log in to the new token", h->label);
	if (PKCS11_init_pin(slot->token, pin) < 0)
		return hsm_ckr_error(err, hsm_ckr_libp11(), "set the PIN of the token", h->label);
	PKCS11_logout(slot);
	return 0;
}

/* The first login must not be the one that loses the token. */
static int keep_first(const char *path, const char *name, void *arg)
{
	struct hsm *h = arg;

	snprintf(h->object_path, sizeof(h->object_path), "%s", path);
	hsm_softhsm_keep(h);
	return 1;
}

/* Makes the token in `aside`; nothing of the process keeps the module afterwards. */
static int make_aside(const struct hsm_config *config, char *aside, const char *so_pin, const char *pin, struct base_error *err)
{
	struct hsm h = { 0 };
	int ret;

	nftw(aside, remove_entry, 8, FTW_DEPTH | FTW_PHYS); /* what an interrupted try has left */
	if (mkdir(aside, 0700) < 0)
		return failed(err, "make", aside);
	h.module = (char *)(config->module ? config->module : hsm_module_default());
	h.label = (char *)config->token;
	h.token_dir = aside;
	h.conf_path = (char *)config->conf_path;
	ret = hsm_module_load(&h, err);
	if (ret < 0)
		return ret;
	ret = initialise_token(&h, so_pin, pin, err);
	hsm_module_unload(&h);
	hsm_scrub();
	if (ret == 0)
		each_token(aside, keep_first, &h);
	return ret < 0 ? ret : hsm_softhsm_sync(&h, 0, err);
}

int hsm_token_create(const struct hsm_config *config, const char *so_pin, const char *pin, struct base_error *err)
{
	struct base_error own;
	char aside[PATH_MAX], parent[PATH_MAX];
	int ret;

	if (!config->token || !config->token_dir || !config->conf_path || strlen(config->token) > 32 || !config->token[0])
		return base_error_set(err, -EINVAL, BASE_EXIT_FAILED,
				      "a token needs a directory, a configuration path and a label of 1 to 32 characters");
	if (each_token(config->token_dir, say_yes, NULL) == 1)
		return base_error_set(err, -EEXIST, BASE_EXIT_FAILED,
				      "%s already holds a token, which is never initialised again; remove it, or use another directory",
				      config->token_dir);
	snprintf(aside, sizeof(aside), "%s.new", config->token_dir);
	snprintf(parent, sizeof(parent), "%s/..", config->token_dir);
	ret = make_aside(config, aside, so_pin, pin, &own);
	/* In one step, so that a crash leaves either no token or a whole one; an empty directory gives way. */
	if (ret == 0 && rename(aside, config->token_dir) < 0)
		ret = failed(&own, "put the new token in place at", config->token_dir);
	if (ret < 0) {
		nftw(aside, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
		if (err)
			*err = own;
		return ret;
	}
	ret = sync_at(AT_FDCWD, parent, O_RDONLY | O_DIRECTORY);
	if (ret < 0)
		return base_error_set(err, -EIO, BASE_EXIT_FAILED, "cannot make %s durable: %s", config->token_dir, strerror(-ret));
	return hsm_softhsm_configure(config->token_dir, config->conf_path, err);
}
