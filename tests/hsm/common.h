/* tests/hsm/common.h: a fresh SoftHSM token in a temporary directory, and a PIN source that counts. */
#ifndef TESTS_HSM_COMMON_H
#define TESTS_HSM_COMMON_H

#include <errno.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/crypto.h"
#include "base/secret.h"
#include "hsm/hsm.h"

struct fixture {
	char dir[64];
	char token_dir[80], conf_path[96];
	char *so_pin, *pin; /* secret memory */
	int asked;
	int answer; /* 0, or what the PIN source fails with */
	struct hsm_config config;
};

static inline int fixture_pin(void *ctx, char *pin, size_t cap, struct base_error *err)
{
	struct fixture *f = ctx;

	f->asked++;
	if (f->answer < 0)
		return f->answer;
	snprintf(pin, cap, "%s", f->pin);
	return 0;
}

static inline void fixture_random_pin(char *pin, size_t len)
{
	size_t i;

	assert_int_equal(base_random(pin, len), 0);
	for (i = 0; i < len; i++)
		pin[i] = "abcdefghijklmnopqrstuvwxyz234567"[(uint8_t)pin[i] & 31];
	pin[len] = '\0';
}

static inline int fixture_make(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct base_error err = { 0 };

	assert_non_null(f);
	assert_int_equal(base_secret_setup(&err), 0);
	snprintf(f->dir, sizeof(f->dir), "/tmp/keepfs-test-hsm-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->token_dir, sizeof(f->token_dir), "%s/token", f->dir);
	snprintf(f->conf_path, sizeof(f->conf_path), "%s/softhsm2.conf", f->dir);
	f->so_pin = base_secret_alloc(64);
	f->pin = base_secret_alloc(64);
	assert_non_null(f->so_pin);
	assert_non_null(f->pin);
	fixture_random_pin(f->so_pin, 24);
	fixture_random_pin(f->pin, 24);
	f->config = (struct hsm_config){ .token = "test token", .token_dir = f->token_dir, .conf_path = f->conf_path,
					 .pin = fixture_pin, .pin_ctx = f };
	if (hsm_token_create(&f->config, f->so_pin, f->pin, &err) < 0)
		fail_msg("hsm_token_create: %s", err.text);
	*state = f;
	return 0;
}

static inline int fixture_remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

static inline int fixture_remove(void **state)
{
	struct fixture *f = *state;

	nftw(f->dir, fixture_remove_entry, 8, FTW_DEPTH | FTW_PHYS);
	base_secret_free(f->so_pin);
	base_secret_free(f->pin);
	free(f);
	return 0;
}

static inline struct hsm *fixture_open(struct fixture *f)
{
	struct base_error err = { 0 };
	struct hsm *h;

	if (hsm_open(&f->config, &h, &err) < 0)
		fail_msg("hsm_open: %s", err.text);
	return h;
}

static inline void fixture_key(struct hsm *h, uint8_t id[HSM_ID_SIZE])
{
	struct base_error err = { 0 };

	if (hsm_key_generate(h, "test key", id, &err) < 0)
		fail_msg("hsm_key_generate: %s", err.text);
}

#endif
