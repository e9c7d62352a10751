/*
 * fs/vault/inodes.h: a set of inode numbers in little memory: 16 to 32 bytes for each.
 */
#ifndef VAULT_INODES_H
#define VAULT_INODES_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* All zero is an empty set. */
struct vault_inodes {
	ino_t *slot; /* 0: free */
	size_t cap, count;
};

/* vault_inodes_add(set, ino): 0: new, 1: was there, -ENOMEM. vault_inodes_done frees. */
int vault_inodes_add(struct vault_inodes *set, ino_t ino);
void vault_inodes_done(struct vault_inodes *set);

#endif
