/* A set of inode numbers: open addressing, at most half full. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "inodes.h"

#define FIRST_CAP 1024

static ino_t *place(const struct vault_inodes *set, ino_t ino)
{
	size_t i = (size_t)(((uint64_t)ino * UINT64_C(0x9e3779b97f4a7c15)) >> 20);

	for (;; i++) {
		ino_t *slot = &set->slot[i & (set->cap - 1)];

		if (*slot == 0 || *slot == ino)
			return slot;
	}
}

static int grow(struct vault_inodes *set)
{
	struct vault_inodes wider = { .cap = set->cap ? set->cap * 2 : FIRST_CAP, .count = set->count };

	wider.slot = calloc(wider.cap, sizeof(*wider.slot));
	if (!wider.slot)
		return -ENOMEM;
	for (size_t i = 0; i < set->cap; i++)
		if (set->slot[i])
			*place(&wider, set->slot[i]) = set->slot[i];
	free(set->slot);
	*set = wider;
	return 0;
}

int vault_inodes_add(struct vault_inodes *set, ino_t ino)
{
	ino_t *slot;
	int code;

	if (set->count * 2 >= set->cap && (code = grow(set)) < 0)
		return code;
	slot = place(set, ino);
	if (*slot)
		return 1;
	*slot = ino;
	set->count++;
	return 0;
}

void vault_inodes_done(struct vault_inodes *set)
{
	free(set->slot);
	memset(set, 0, sizeof(*set));
}
