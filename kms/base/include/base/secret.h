/*
 * base/secret.h: memory for keys.
 *
 * All of it is locked (mlock), left out of core dumps (MADV_DONTDUMP), zeroed when handed out and wiped when given back.
 * base_secret_setup() also routes every OpenSSL allocation here, because cipher contexts hold key schedules.
 */
#ifndef BASE_SECRET_H
#define BASE_SECRET_H

#include <stddef.h>

#include "base/error.h"

/*
 * base_secret_setup(err): call first in main(), before anything touches OpenSSL. Installs the locked allocator in
 * OpenSSL (CRYPTO_set_mem_functions), makes the process undumpable (PR_SET_DUMPABLE 0) and sets RLIMIT_CORE to 0.
 * Returns 0, or -errno with err filled (-EALREADY-like misuse: OpenSSL already allocated). Calling it twice is fine.
 */
int base_secret_setup(struct base_error *err);

/*
 * base_secret_alloc(len): len bytes of zeroed locked memory, 16-byte aligned; NULL when no more can be locked.
 * base_secret_free(ptr): wipe and give back; NULL is fine. Both thread-safe.
 */
void *base_secret_alloc(size_t len);
void base_secret_free(void *ptr);

/* base_secret_wipe(ptr, len): zero memory in a way that the compiler keeps. For short-lived copies on the stack. */
void base_secret_wipe(void *ptr, size_t len);

/* base_secret_equal(a, b, len): non-zero when equal; constant time. */
int base_secret_equal(const void *a, const void *b, size_t len);

/* Scope attribute: `BASE_SECRET_AUTO uint8_t *dek = base_secret_alloc(32);` frees (and wipes) at scope exit. */
void base_secret_cleanup(void *pointer_to_pointer);
#define BASE_SECRET_AUTO __attribute__((cleanup(base_secret_cleanup)))

#endif
