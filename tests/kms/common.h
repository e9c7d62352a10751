/* A keystore with a real SoftHSM token in a temporary directory. */
#ifndef TESTS_KMS_COMMON_H
#define TESTS_KMS_COMMON_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "base/secret.h"
#include "kms/kms.h"

struct fixture {
	char root[64], dir[96], db[128];
	struct kms_core *core;
	struct kms_caller me, stranger;
	uint8_t key[BASE_ID_SIZE], vault[BASE_ID_SIZE];
};

/* fixture_make: a keystore, closed. fixture_open: opened, with `key` = default, and a vault registered when new_vault. */
struct fixture *fixture_make(void);
void fixture_open(struct fixture *f, bool new_vault);
void fixture_close(struct fixture *f);
void fixture_free(struct fixture *f);

/* cmocka: a fresh open keystore per test. */
int setup_open(void **state);
int teardown(void **state);

struct kms_subject subject_of(const struct fixture *f, const uint8_t *file_id, const char *path);

/* The lines of a request, in process. Returns the handler's answer; *ret_lines is an array to decref. */
int call(struct kms_core *core, const struct kms_caller *caller, const char *method, const char *path, json_t *params,
	 json_t **ret_lines, struct base_error *err);

/* The number of audit records with this action and outcome. */
size_t count_records(struct fixture *f, const char *action, const char *outcome);

/* sql(f, text): run it on the closed keystore's database. */
void sql(const struct fixture *f, const char *text);

#define MUST(call_) do { \
		int must_rc = (call_); \
		if (must_rc < 0) \
			fail_msg("%s: %d: %s", #call_, must_rc, err.text); \
	} while (0)

#endif
