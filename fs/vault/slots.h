/*
 * fs/vault/slots.h: writing wrap slots, for rewrap and for moves between zones.
 */
#ifndef VAULT_SLOTS_H
#define VAULT_SLOTS_H

#include "internal.h"

/*
 * vault_slots_move(v, caller, path, fd, ino, zone, header, err): the DEK that header (as read) wraps goes under the current version of its key, or
 * of the key zone: decided and recorded, the new slot written beside the old one, times kept; header is what is there now. -EALREADY: nothing to
 * do; -EAGAIN: somebody else wrote the header meanwhile. Not durable on return.
 * vault_slots_erase(v, fd, ino, seq, header): erases the slot that is not live, if the live one is still seq. -ESTALE: fd is another inode.
 * header is scratch.
 */
int vault_slots_move(struct vault *v, const struct kms_caller *caller, const char *path, int fd, ino_t ino, const uint8_t *zone,
		     struct vault_header *header, struct base_error *err);
int vault_slots_erase(struct vault *v, int fd, ino_t ino, uint64_t seq, struct vault_header *header);

#endif
