/* Where blocks and tags lie in the backing file (fs/FORMAT.md, "Blocks and tags"). */
#include <errno.h>

#include "vault/header.h"

#define FIRST_BLOCKS 21 /* blocks whose tags are in page 0 */
#define RUN_TAGS 16     /* tag pages of a run */
#define RUN_BLOCKS 896  /* data pages of a run */
#define RUN_PAGES (RUN_TAGS + RUN_BLOCKS)
#define FIRST_RUN (1 + FIRST_BLOCKS)

uint64_t vault_page_of(uint64_t block)
{
	uint64_t rest;

	if (block < FIRST_BLOCKS)
		return 1 + block;
	rest = block - FIRST_BLOCKS;
	return FIRST_RUN + RUN_PAGES * (rest / RUN_BLOCKS) + RUN_TAGS + rest % RUN_BLOCKS;
}

uint64_t vault_backing_size(uint64_t size)
{
	if (size == 0)
		return VAULT_PAGE;
	return VAULT_PAGE * vault_page_of((size - 1) / VAULT_PAGE) + (size - 1) % VAULT_PAGE + 1;
}

int vault_plain_size(uint64_t backing, uint64_t *ret)
{
	uint64_t page, in_run, block;

	if (backing == VAULT_PAGE) {
		*ret = 0;
		return 0;
	}
	if (backing < VAULT_PAGE)
		return -EBADMSG;
	page = (backing - 1) / VAULT_PAGE;
	if (page < FIRST_RUN) {
		block = page - 1;
	} else {
		in_run = (page - FIRST_RUN) % RUN_PAGES;
		if (in_run < RUN_TAGS)
			return -EBADMSG;
		block = FIRST_BLOCKS + (page - FIRST_RUN) / RUN_PAGES * RUN_BLOCKS + in_run - RUN_TAGS;
	}
	*ret = block * VAULT_PAGE + (backing - 1) % VAULT_PAGE + 1;
	return 0;
}
