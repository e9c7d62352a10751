/*
 * fs/vault/adopt.h: a file that was copied while it was being written, and whose session is none that the dirty set knows (fs/FORMAT.md, "Open, DIRTY").
 *
 * What the copy must be to be taken: a state that the file has been in. So the slots at or below the sealed horizon must give the sealed
 * accumulator, to the last one; of those above it only an unbroken row of sequence numbers is taken, as these are writes in their order; and
 * the data of every block that lives then must authenticate. Anything else is refused: nothing is changed.
 */
#ifndef VAULT_ADOPT_H
#define VAULT_ADOPT_H

#include "content.h"

struct vault_adoption {
	uint64_t upto;      /* the last sequence number that is taken */
	uint64_t top;       /* the highest that was seen */
	uint64_t size;
	uint64_t blocks;    /* that hold data */
	uint64_t taken;     /* writes beyond the sealed state that are kept */
	uint64_t dropped;   /* slots beyond those */
};

/* vault_adopt_examine(f, c, ret, why, cap): reads all of f, whose keys and state are loaded; -EBADMSG: refused, why says what is missing. */
int vault_adopt_examine(struct vault_file *f, struct vault_cipher *c, struct vault_adoption *ret, char *why, size_t cap);
/* vault_adopt(f, c, plan): makes it so: seals it CLEAN, times kept. f is open for writing and claimed. */
int vault_adopt(struct vault_file *f, struct vault_cipher *c, const struct vault_adoption *plan);

#endif
