/*
 * fs/vault/lock.h: OFD locks that tell other processes, and other hosts where the filesystem passes locks on, what this one has open.
 */
#ifndef VAULT_LOCK_H
#define VAULT_LOCK_H

#include "content.h"

/* vault_lock_config(v, shared, err): locks v->config_fd: for itself, or beside others that share. Changes the lock that it has. -EBUSY with a
 * text that names the process, where it can be found, and what to do. */
int vault_lock_config(struct vault *v, bool shared, struct base_error *err);

/* vault_lock_file(f, write): with -o shared: the backing file is locked as a reader's or as the one writer's; changes the lock that f has. It goes with
 * the fd. Nothing is done without -o shared. -EBUSY: another process has it. */
int vault_lock_file(struct vault_file *f, bool write);

#endif
