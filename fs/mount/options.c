/*
 * Options are a table: name, what it sets, and what it clears.
 */
#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "options.h"

struct flag {
	const char *name;
	unsigned long set, clear;
};

static const struct flag flags[] = {
	{ "ro", MS_RDONLY, 0 },           { "rw", 0, MS_RDONLY },
	{ "nosuid", MS_NOSUID, 0 },       { "suid", 0, MS_NOSUID },
	{ "nodev", MS_NODEV, 0 },         { "dev", 0, MS_NODEV },
	{ "noexec", MS_NOEXEC, 0 },       { "exec", 0, MS_NOEXEC },
	{ "sync", MS_SYNCHRONOUS, 0 },    { "async", 0, MS_SYNCHRONOUS },
	{ "dirsync", MS_DIRSYNC, 0 },
	{ "noatime", MS_NOATIME, 0 },     { "atime", 0, MS_NOATIME },
	{ "nodiratime", MS_NODIRATIME, 0 }, { "diratime", 0, MS_NODIRATIME },
	{ "relatime", MS_RELATIME, 0 },   { "norelatime", 0, MS_RELATIME },
	{ "strictatime", MS_STRICTATIME, MS_NOATIME | MS_RELATIME },
};

/* Words of fstab and systemd that mean nothing to a file system; default_permissions is always on. */
static const char *const ignored[] = {
	"default_permissions", "defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "_netdev", "nofail",
	"bg", "fg", "intr", "nointr", NULL,
};

static int usage(struct base_error *err, const char *what, const char *name)
{
	return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "%s `%s`: see keepfs --help", what, name);
}

static int take(char **where, const char *value)
{
	char *copy = strdup(value);

	if (!copy)
		return -ENOMEM;
	free(*where);
	*where = copy;
	return 0;
}

static int parse_value(const char *name, const char *value, struct options_mount *ret, struct base_error *err)
{
	if (!strcmp(name, "keystore") && *value)
		return take(&ret->keystore, value);
	if (!strcmp(name, "fsname") && *value)
		return take(&ret->fsname, value);
	if (!strcmp(name, "subtype") || !strcmp(name, "comment") || !strncmp(name, "x-", 2))
		return 0;
	if (!strcmp(name, "cache")) {
		if (strcmp(value, "none") && strcmp(value, "auto"))
			return usage(err, "cache takes none or auto, not", value);
		ret->cache_none = !strcmp(value, "none");
		return 0;
	}
	if (!strcmp(name, "crash")) {
		if (strcmp(value, "strict") && strcmp(value, "auto"))
			return usage(err, "crash takes strict or auto, not", value);
		ret->strict = !strcmp(value, "strict");
		return 0;
	}
	if (!strcmp(name, "verify")) {
		if (strcmp(value, "always") && strcmp(value, "auto"))
			return usage(err, "verify takes always or auto, not", value);
		ret->verify = !strcmp(value, "always");
		return 0;
	}
	return usage(err, "unknown mount option", name);
}

static int parse_word(const char *word, struct options_mount *ret, struct base_error *err)
{
	size_t i;

	for (i = 0; i < sizeof flags / sizeof flags[0]; i++)
		if (!strcmp(word, flags[i].name)) {
			ret->flags = (ret->flags & ~flags[i].clear) | flags[i].set;
			return 0;
		}
	for (i = 0; ignored[i]; i++)
		if (!strcmp(word, ignored[i]))
			return 0;
	if (!strncmp(word, "x-", 2))
		return 0;
	if (!strcmp(word, "allow_other"))
		ret->allow_other = true;
	else if (!strcmp(word, "nonempty"))
		ret->nonempty = true;
	else if (!strcmp(word, "shared"))
		ret->shared = true;
	else
		return usage(err, "unknown mount option", word);
	return 0;
}

int options_mount_parse(const char *text, struct options_mount *ret, struct base_error *err)
{
	char *copy = strdup(text ? text : ""), *word, *save = NULL, *value;
	int r = 0;

	memset(ret, 0, sizeof *ret);
	if (!copy)
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "out of memory");
	ret->flags = MS_NOSUID | MS_NODEV;
	for (word = strtok_r(copy, ",", &save); word && r == 0; word = strtok_r(NULL, ",", &save)) {
		value = strchr(word, '=');
		if (value)
			*value++ = '\0';
		r = value ? parse_value(word, value, ret, err) : parse_word(word, ret, err);
	}
	free(copy);
	if (r == -ENOMEM)
		base_error_set(err, r, BASE_EXIT_FAILED, "out of memory");
	if (r < 0)
		options_mount_done(ret);
	return r;
}

void options_mount_done(struct options_mount *o)
{
	free(o->fsname);
	free(o->keystore);
	o->fsname = o->keystore = NULL;
}

/* The name of a process and its parent's pid; -1 when they cannot be read. */
static pid_t process_name(pid_t pid, char name[32])
{
	char path[64], line[512];
	pid_t parent = -1;
	const char *end;
	FILE *f;

	name[0] = '\0';
	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	f = fopen(path, "re");
	if (!f)
		return -1;
	if (fgets(line, sizeof line, f) && sscanf(line, "%*d (%31[^)]", name) == 1) {
		end = strrchr(line, ')');
		if (!end || sscanf(end + 1, " %*c %d", &parent) != 1)
			parent = -1;
	}
	fclose(f);
	return parent;
}

/* mount(8) runs us through its helper, which adds "dev,suid" unasked, and a shell, which may replace itself or not. */
static bool parent_is_mount(void)
{
	pid_t above = getppid();
	char name[32];

	above = process_name(above, name);
	if (above > 0 && (!strcmp(name, "sh") || !strcmp(name, "dash") || !strcmp(name, "bash")))
		process_name(above, name);
	return !strcmp(name, "mount");
}

static int join(char **text, const char *more)
{
	char *both;

	if (asprintf(&both, "%s%s%s", *text, **text ? "," : "", more) < 0)
		return -ENOMEM;
	free(*text);
	*text = both;
	return 0;
}

static int absolute(const char *what, const char *path, char **ret, struct base_error *err)
{
	*ret = realpath(path, NULL);
	if (*ret)
		return 0;
	return base_error_set(err, -errno, errno == ENOENT ? BASE_EXIT_NOT_FOUND : BASE_EXIT_FAILED, "%s %s: %s", what, path,
			      strerror(errno));
}

/* Words of the command line before they are checked. */
struct words {
	const char *place[2];
	int places;
	char *list; /* of -o, owned */
};

static int take_argument(int argc, char **argv, int *at, struct options *ret, struct words *w, struct base_error *err)
{
	const char *arg = argv[*at], *value = NULL;

	if (!strcmp(arg, "--help") || !strcmp(arg, "-h"))
		ret->help = true;
	else if (!strcmp(arg, "--version") || !strcmp(arg, "-V"))
		ret->version = true;
	else if (!strcmp(arg, "--serve"))
		ret->serve = true;
	else if (!strcmp(arg, "-f") || !strcmp(arg, "--foreground"))
		ret->foreground = true;
	else if (!strcmp(arg, "-n") || !strcmp(arg, "-v") || !strcmp(arg, "-s"))
		return 0; /* mount(8) passes them on */
	else if (!strncmp(arg, "--keystore=", 11))
		return take(&ret->keystore, arg + 11);
	else if (!strncmp(arg, "-o", 2) && arg[2])
		return join(&w->list, arg + 2);
	else if (!strcmp(arg, "-o") || !strcmp(arg, "--keystore") || !strcmp(arg, "-t")) {
		if (*at + 1 >= argc)
			return usage(err, "an argument is missing after", arg);
		value = argv[++*at];
		if (arg[1] == 't')
			return 0;
		return arg[1] == 'o' ? join(&w->list, value) : take(&ret->keystore, value);
	} else if (arg[0] == '-')
		return usage(err, "unknown option", arg);
	else if (w->places >= 2)
		return usage(err, "one argument too many:", arg);
	else
		w->place[w->places++] = arg;
	return 0;
}

/* The list without `dev` and `suid`. */
static char *without_devices(const char *list)
{
	char *copy = strdup(list), *ret = strdup(""), *word, *save = NULL;

	for (word = copy ? strtok_r(copy, ",", &save) : NULL; word && ret; word = strtok_r(NULL, ",", &save))
		if (strcmp(word, "dev") && strcmp(word, "suid") && join(&ret, word) < 0) {
			free(ret);
			ret = NULL;
		}
	free(copy);
	return ret;
}

static int finish(struct options *ret, struct words *w, struct base_error *err)
{
	int r;

	ret->text = parent_is_mount() ? without_devices(w->list) : strdup(w->list);
	if (!ret->text)
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "out of memory");
	r = options_mount_parse(ret->text, &ret->mount, err);
	if (r < 0)
		return r;
	if (!ret->keystore && ret->mount.keystore && take(&ret->keystore, ret->mount.keystore) < 0)
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "out of memory");
	if (ret->serve) {
		if (w->places > 0)
			return usage(err, "--serve takes no mount, remove", w->place[0]);
		return 0;
	}
	if (w->places < 2)
		return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "a vault and a mountpoint are needed: keepfs VAULT MOUNTPOINT (see keepfs --help)");
	r = absolute("vault", w->place[0], &ret->vault, err);
	return r < 0 ? r : absolute("mountpoint", w->place[1], &ret->mountpoint, err);
}

int options_parse(int argc, char **argv, struct options *ret, struct base_error *err)
{
	struct words w = { .list = strdup("") };
	int i, r = w.list ? 0 : -ENOMEM;

	memset(ret, 0, sizeof *ret);
	for (i = 1; i < argc && r == 0; i++)
		r = take_argument(argc, argv, &i, ret, &w, err);
	if (r == 0 && !ret->help && !ret->version)
		r = finish(ret, &w, err);
	if (r == -ENOMEM)
		base_error_set(err, r, BASE_EXIT_FAILED, "out of memory");
	free(w.list);
	return r;
}

void options_done(struct options *o)
{
	free(o->vault);
	free(o->mountpoint);
	free(o->keystore);
	free(o->text);
	options_mount_done(&o->mount);
}

void options_help(void)
{
	puts("usage: keepfs VAULT MOUNTPOINT [-f] [-o OPTIONS] [--keystore DIR]\n"
	     "       keepfs --serve [-f] [--keystore DIR]\n"
	     "\n"
	     "Mounts the vault (an encrypted directory made by `keepctl init`) and returns when it is usable.\n"
	     "umount or fusermount3 -u ends the mount; the service ends with its last mount.\n"
	     "\n"
	     "  -f, --foreground   stay in the foreground, messages on stderr\n"
	     "  --serve            the service without a mount, until it is told to end (SIGTERM)\n"
	     "  --keystore DIR     where the keys are; else $KEEPFS_KEYSTORE, else the default keystore\n"
	     "  -o OPTIONS         comma-separated:\n"
	     "       keystore=DIR          as --keystore (for fstab)\n"
	     "       ro, rw                read-only or not\n"
	     "       allow_other           other users may enter; their key roles decide what they can read\n"
	     "       nonempty              mount over a directory that is not empty\n"
	     "       shared                others change the vault's directory meanwhile (a synchroniser, another keepfs)\n"
	     "       suid, dev             honour set-uid bits and device files (off by default)\n"
	     "       noexec, noatime, nodiratime, relatime, strictatime, sync, dirsync\n"
	     "       cache=none            keep no plaintext in the kernel's cache (slower)\n"
	     "       crash=strict          synced blocks survive a power cut even while they are overwritten (slower)\n"
	     "       verify=always         every open of a file checks that none of its blocks is an old one (slower for large files)\n"
	     "       fsname=NAME           the source that mount tables show; default: the vault's path\n"
	     "  --help, --version\n"
	     "\n"
	     "Exit codes: 0 done, 1 failed, 2 usage, 3 PIN refused or needed, 4 not found, 5 HSM or service unreachable,\n"
	     "6 integrity, 8 denied by policy.");
}
