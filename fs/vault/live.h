/*
 * fs/vault/live.h: which backing files are open in this process, so that a check neither disturbs them nor is disturbed. A vault is open in one
 * process only (config.c), so what is not open here is open nowhere.
 */
#ifndef VAULT_LIVE_H
#define VAULT_LIVE_H

#include "content.h"
#include "vault/move.h"

/* An inode that somebody else than the mount works on. */
struct vault_claim {
	struct vault *v;
	dev_t dev;
	ino_t ino;
	struct vault_claim *next;
};

/* vault_live_add(f): f->v, f->dev and f->ino are set: lists it, after waiting for a claim on it to end. vault_live_drop(f): takes it out, after
 * waiting for holds to end; nothing when it is not listed. file.c calls both. */
void vault_live_add(struct vault_file *f);
void vault_live_drop(struct vault_file *f);

/* vault_live_hold(v, dev, ino): the open file, which is not freed until vault_live_release(f); NULL when it is not open. Hold it for one piece of
 * work at a time: its close waits. */
struct vault_file *vault_live_hold(struct vault *v, dev_t dev, ino_t ino);
void vault_live_release(struct vault_file *f);

/* vault_live_claim(v, dev, ino, claim): nobody has the inode open, and whoever opens it waits until vault_live_unclaim(claim). -EBUSY: it is
 * open, or claimed. claim is the caller's until then. */
int vault_live_claim(struct vault *v, dev_t dev, ino_t ino, struct vault_claim *claim);
void vault_live_unclaim(struct vault_claim *claim);

/* vault_live_move(m): listed from before its new wrap is written until vault_live_moved(m), after one of both is erased. vault_live_moving(v, ino):
 * asked under the header lock: the second wrap in a header is a move's, not a leftover. */
void vault_live_move(struct vault_move *m);
void vault_live_moved(struct vault_move *m);
bool vault_live_moving(struct vault *v, ino_t ino);

#endif
