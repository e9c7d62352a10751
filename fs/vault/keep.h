/*
 * fs/vault/keep.h: what the kernel takes from a file that is written (mtime, set-id bits, capabilities), kept over our own writes of its header.
 * From save to restore under vault_header_lock, which others who change these take as well.
 */
#ifndef VAULT_KEEP_H
#define VAULT_KEEP_H

#include <sys/stat.h>
#include <sys/types.h>

struct vault_keep {
	struct stat st;
	ssize_t caps_len; /* <= 0: none */
	char caps[64];
};

/* vault_keep_save(fd, ret): -errno of fstat. vault_keep_restore(fd, keep, mtime): mtime NULL: as it was. -errno of the first that failed; capabilities that a
 * service without privileges cannot give back are no failure. */
int vault_keep_save(int fd, struct vault_keep *ret);
int vault_keep_restore(int fd, const struct vault_keep *keep, const struct timespec *mtime);

#endif
