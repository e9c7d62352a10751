/*
 * vault/name.h: encrypted names, long names, symlink targets (fs/FORMAT.md, "Directories"). Thread-safe.
 */
#ifndef VAULT_NAME_H
#define VAULT_NAME_H

#include "vault/vault.h"

#define VAULT_NAME_SHORT 175 /* longest clear name whose sealed form fits a backing name */
#define VAULT_NAME_MAX 255
#define VAULT_LINK_MAX 3043

struct vault_name {
	char entry[256]; /* backing name of the entry */
	char side[48];   /* `N.HASH` when the name is long, else "" */
	uint16_t sealed_len;
	uint8_t sealed[VAULT_NAME_MAX + 16];
};

/* vault_name_seal(v, dir_id, name, ret): name is 1 to 255 bytes; -ENAMETOOLONG, -EINVAL ("", ".", "..", a slash). */
int vault_name_seal(struct vault *v, const uint8_t dir_id[BASE_ID_SIZE], const char *name, struct vault_name *ret);

/* vault_name_open(v, dirfd, dir_id, entry, ret): clear name (VAULT_NAME_MAX + 1) of a backing entry. -ENOENT: not an entry (config,
 * record, tmp., side record, foreign names with a dot); -EBADMSG: does not authenticate or is not canonical. dirfd is for side records. */
int vault_name_open(struct vault *v, int dirfd, const uint8_t dir_id[BASE_ID_SIZE], const char *entry, char *ret);

/* vault_name_side_write(dirfd, name): before the entry appears; nothing for short names; an equal side record is fine.
 * vault_name_side_drop(dirfd, name): after the entry is gone. */
int vault_name_side_write(int dirfd, const struct vault_name *name);
void vault_name_side_drop(int dirfd, const struct vault_name *name);

/* vault_name_temp(ret): "tmp." and 16 random hex digits. */
int vault_name_temp(char ret[32]);

/* Symlinks: sealed text of a target, and back. vault_link_seal: ret holds 4096 bytes. -ENAMETOOLONG beyond VAULT_LINK_MAX.
 * vault_link_size(backing_size): length of the clear target, for st_size. */
int vault_link_seal(struct vault *v, const char *target, char *ret);
int vault_link_open(struct vault *v, const char *sealed, char *ret, size_t cap);
off_t vault_link_size(off_t backing_size);

#endif
