/*
 * fs/vault/verify.h: every byte of one file against what was sealed: the header page, every tag, their accumulator, every block, the xattrs.
 *
 * Works beside a mount. A file that is open is read through its lock, one that is not is claimed, a slice of about a MiB at a time (live.h), so
 * that what is looked at together belongs together and writers wait no longer than one slice. A file that changes hands between two slices is
 * begun again where that is needed. Nothing is told under a lock.
 */
#ifndef VAULT_VERIFY_H
#define VAULT_VERIFY_H

#include <sys/stat.h>

#include "content.h"

struct vault_verify {
	struct vault *v;
	const struct kms_caller *caller; /* whose rights decide */
	/* A problem of the file at hand: its code word and a sentence. Non-zero ends the work and is returned. */
	int (*problem)(void *ctx, const char *problem, const char *detail);
	/* Bytes of the backing file that were passed since the last call. The same. */
	int (*progress)(void *ctx, uint64_t bytes);
	void *ctx;
	uint64_t bytes, blocks, recovered; /* out, added up over files: bytes read, blocks that hold data, files recovered at their opening */
};

/*
 * vault_verify_file(w, fd, st, clear): fd is the backing file, open for reading, and for writing where it may be (a file of a crashed session is
 * recovered); it stays the caller's. clear: its clear path or NULL. Its pages leave the page cache. 0 when all problems were told, what a
 * callback returned, -ENOMEM.
 */
int vault_verify_file(struct vault_verify *w, int fd, const struct stat *st, const char *clear);

/*
 * vault_verify_page(page, magic, purpose, vault_id, ret, cap): what is wrong in the parts of a header page that need no key, as text; "" when
 * nothing is. The wrap slot that is not live may hold an older wrap, but not rubbish. Returns true when the page can be used all the same.
 */
bool vault_verify_page(const uint8_t page[VAULT_PAGE], const char magic[8], enum kms_purpose purpose, const uint8_t vault_id[BASE_ID_SIZE],
		       char *ret, size_t cap);

#endif
