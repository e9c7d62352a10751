/*
 * fs/mount/options.h: the command line and the -o options of a mount.
 */
#ifndef MOUNT_OPTIONS_H
#define MOUNT_OPTIONS_H

#include <stdbool.h>

#include "base/error.h"

/* What -o says. The strings are owned. */
struct options_mount {
	unsigned long flags; /* MS_RDONLY, MS_NOSUID, ... for mount(2) */
	bool allow_other;
	bool nonempty;
	bool shared;         /* others change the backing directory */
	bool cache_none;     /* no plaintext stays in the kernel's cache */
	bool strict;         /* crash=strict */
	bool verify;         /* verify=always */
	char *fsname;        /* NULL: the vault's path */
	char *keystore;      /* NULL: not given here */
};

struct options {
	bool help, version, serve, foreground;
	char *vault;      /* absolute path */
	char *mountpoint; /* absolute path */
	char *keystore;   /* from --keystore or -o keystore=; NULL: the default one */
	char *text;       /* all -o lists joined by commas, for the service; "" when there are none. When mount(8) called
			   * us, without the "dev,suid" that its helper adds unasked */
	struct options_mount mount;
};

/* options_mount_parse(text, ret, err): text is a comma-separated list. -EINVAL, exit 2 for unknown or malformed options. */
int options_mount_parse(const char *text, struct options_mount *ret, struct base_error *err);
/* options_mount_done(o): frees the strings. */
void options_mount_done(struct options_mount *o);

/* options_parse(argc, argv, ret, err): -EINVAL with exit 2. Paths are made absolute (realpath; what is missing is -ENOENT). */
int options_parse(int argc, char **argv, struct options *ret, struct base_error *err);
void options_done(struct options *o);

void options_help(void); /* usage on stdout */

#endif
