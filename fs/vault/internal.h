/*
 * fs/vault/internal.h: what the vault's files share. Not seen outside this room.
 */
#ifndef VAULT_INTERNAL_H
#define VAULT_INTERNAL_H

#include <pthread.h>

#include "vault/file.h"
#include "vault/header.h"

/* Derived keys of an open vault (fs/FORMAT.md, "Header page", Keys). */
struct vault_keys {
	struct base_siv *name;
	struct base_siv *record;
	struct base_siv *link;
	struct base_siv *xattr;
};

const struct vault_keys *vault_keys(const struct vault *v);

/* vault_strict(v): crash=strict; set with vault_set_strict. */
bool vault_strict(const struct vault *v);
/* vault_verify(v): verify=always; set with vault_set_verify. */
bool vault_verify(const struct vault *v);
/* vault_others(v): other processes may have it open as well (-o shared). */
bool vault_others(const struct vault *v);
/* vault_holes(v): where the backing filesystem says that a hole is, there is one. */
bool vault_holes(const struct vault *v);

#endif
