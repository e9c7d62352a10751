/*
 * tests/vault/fixture.h: a keystore and a vault in a temporary directory, for tests that need real keys.
 */
#ifndef TEST_VAULT_FIXTURE_H
#define TEST_VAULT_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "object.h"
#include "vault/path.h"

struct fixture {
	char dir[64];       /* temporary directory */
	char keystore[96];
	char path[96];      /* the vault */
	struct kms_core *core;
	struct kms_caller caller;
	struct vault *v;
	uint8_t id[BASE_ID_SIZE];
};

extern struct fixture fx;

/* Group setup and teardown: keystore, core with the room's routes, vault with zone `default`, opened. */
int fixture_up(void **state);
int fixture_down(void **state);

/* fixture_close: the vault and the core. fixture_open: both again. */
void fixture_close(void);
void fixture_open(void);

/* fixture_call(method, route, params, ret_last): kms_api_call; params is taken over. The last emitted line or NULL (json_decref). */
int fixture_call(const char *method, const char *route, json_t *params, json_t **ret_last, struct base_error *err);

/* Whole files. fixture_read: bytes read. */
size_t fixture_read(const char *path, void *buf, size_t cap);
void fixture_write(const char *path, const void *buf, size_t len);
/* fixture_entries(path): entries of a directory but "." and "..". */
int fixture_entries(const char *path);

#endif
