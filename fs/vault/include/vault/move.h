/*
 * vault/move.h: a file's DEK under another key: the file goes into another zone (fs/FORMAT.md, "Rewrap"). Thread-safe.
 */
#ifndef VAULT_MOVE_H
#define VAULT_MOVE_H

#include "vault/vault.h"

/* A move that is begun: the header has both wraps, and the new one is live. */
struct vault_move {
	struct vault *v;
	int fd;        /* borrowed */
	ino_t ino;
	uint64_t seq;  /* of the new slot */
	struct vault_move *next; /* in the vault's list, from begin to end: it stays where it is */
};

/*
 * vault_move_begin(v, caller, path, fd, zone, ret, err): wraps the DEK of the file fd (O_RDWR; it must stay open until the end) under the current
 * version of key zone, as kms_dek_move decides and records (path: its clear path, for the record). On return the new wrap is live and durable,
 * the record too, and the old wrap is still in the header. Blocks (HSM, disk). -EALREADY: it is under zone; there is nothing to end.
 * vault_move_end(m, stays): erases the old wrap, or, when the file did not get into its new zone after all, the new one, so that the old is live
 * again. What somebody has written into the header since stays as it is. What cannot be erased is logged: a rewrap finishes it.
 */
int vault_move_begin(struct vault *v, const struct kms_caller *caller, const char *path, int fd, const uint8_t zone[BASE_ID_SIZE],
		     struct vault_move *ret, struct base_error *err);
void vault_move_end(struct vault_move *m, bool stays);

#endif
