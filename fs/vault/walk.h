/*
 * fs/vault/walk.h: every file of a vault, or of a subtree of it, straight from the backing directory. Few fds whatever the depth; no recursion.
 */
#ifndef VAULT_WALK_H
#define VAULT_WALK_H

#include <sys/stat.h>

#include "vault/path.h"

struct vault_walk_dir;

struct vault_walk_item {
	struct vault_walk_dir *in; /* its directory: for vault_walk_clear; NULL: it is the root */
	const char *backing;       /* relative to the vault's root */
	const char *name;          /* its last component */
	enum vault_name_kind kind;
	int dirfd;
	int fd;                    /* the open regular file, -1 when the walk opens none */
	struct stat st;            /* of fd; empty when the walk opens none */
};

struct vault_walk {
	int root_fd;
	struct vault *names; /* to decrypt names (vault_walk_clear); NULL: never */
	const char *start;   /* relative backing path of a directory or a file, "" for all */
	int flags;           /* O_RDONLY or O_RDWR for files; -1: do not open them */
	/* Per regular file but config, records and side records; a hard link's second name is left out when files are opened. Non-zero ends the
	 * walk and is returned. The fd is the walk's. */
	int (*file)(void *ctx, const struct vault_walk_item *item);
	/* Per directory from the start down, before what is in it; NULL: all are walked. record: NULL when it does not authenticate (names is
	 * needed). item->fd is the directory, item->dirfd the one that holds it. 0: go on in it; 1: leave it out; else as file. */
	int (*dir)(void *ctx, const struct vault_walk_item *item, const struct vault_dir *record);
	/* A file or directory that cannot be opened or listed (not: one that vanished). Non-zero ends the walk. */
	int (*error)(void *ctx, const char *backing, int code);
	void *ctx;
	bool vanished;       /* out: something was there when it was listed, and not when it was opened */
};

/* vault_walk(w): 0, what a callback returned, -ENOMEM, or the error of the start itself. */
int vault_walk(struct vault_walk *w);

/* vault_walk_clear(w, item, ret, cap): the item's clear path in the vault; -EBADMSG when a name or a record above it does not authenticate. */
int vault_walk_clear(const struct vault_walk *w, const struct vault_walk_item *item, char *ret, size_t cap);

#endif
