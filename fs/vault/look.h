/*
 * fs/vault/look.h: a file that is being verified, a slice at a time (verify.c, verify_blocks.c).
 */
#ifndef VAULT_LOOK_H
#define VAULT_LOOK_H

#include "live.h"
#include "verify.h"

#define LOOK_DETAIL 480
#define LOOK_FINDINGS 32 /* of one kind and file; the rest is counted */

struct vault_look {
	struct vault_verify *w;
	int fd;
	const struct stat *st;
	const char *clear;

	/* One of the two: the file as we opened it, apart from everybody; or the serial of the one that the mount has open. */
	struct vault_file *own;
	uint64_t serial;

	/* Within a slice: the file, locked against writers, and its ciphers. */
	struct vault_file *f;
	struct vault_cipher *c;
	struct vault_claim claim;

	/* What was done, so that a second beginning neither tells nor reads again. */
	bool granted, header_told, size_told, total_told, recovered;
	uint64_t tags_told;  /* groups below were told of */
	uint64_t data_group; /* groups below were read */
	uint64_t covered;    /* bytes that progress knows of */

	/* Blocks side by side with the same fault, told as one. */
	uint64_t bad_from, bad_to;
	const char *bad_what;
	unsigned told;       /* findings of the current kind */
	uint64_t untold;     /* blocks past LOOK_FINDINGS */
};

/*
 * vault_look_begin(l): a slice: l->f is what the disk holds until vault_look_end. -EAGAIN: the file changed hands, or was written since it was
 * opened apart: begin again.
 */
int vault_look_begin(struct vault_look *l);
void vault_look_end(struct vault_look *l);

/* vault_look_tell(l, problem, format...): one finding, with the advice what to do. Not within a slice. */
int vault_look_tell(struct vault_look *l, const char *problem, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* All tags with their accumulator; all blocks. 0, -EAGAIN, what a callback returned, another -errno. */
int vault_look_tags(struct vault_look *l);
int vault_look_data(struct vault_look *l);

#endif
