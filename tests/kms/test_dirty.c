/* The dirty set, over crashes that are real: a process that dies without closing. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/crypto.h"
#include "common.h"

struct told {
	uint8_t session[BASE_ID_SIZE];
	uint8_t vault[BASE_ID_SIZE];
	uint8_t left[BASE_ID_SIZE], closed[BASE_ID_SIZE], forgotten[BASE_ID_SIZE], again[BASE_ID_SIZE];
	struct kms_wrap left_wrap;
};

static void
make_dirty(struct fixture *f, uint8_t id[BASE_ID_SIZE], struct kms_wrap *wrap)
{
	struct kms_subject subject = subject_of(f, NULL, "x");
	struct base_error err = { 0 };
	struct kms_new_dek new;

	MUST(kms_dek_create(f->core, &f->me, &subject, f->key, KMS_DEK_DIRTY, &new, &err));
	kms_dek_created(f->core, new.lease);
	base_secret_free(new.dek);
	memcpy(id, new.file_id, BASE_ID_SIZE);
	if (wrap)
		*wrap = new.wrap;
}

static void
open_dirty(struct fixture *f, const uint8_t *id, const struct kms_wrap *wrap)
{
	struct kms_subject subject = subject_of(f, id, "x");
	struct base_error err = { 0 };

	MUST(kms_dek_open(f->core, &f->me, &subject, wrap, KMS_DEK_WRITE | KMS_DEK_DIRTY | KMS_DEK_HAVE, NULL, &err));
}

static void
collect_and_forget(struct fixture *f, bool expect)
{
	struct kms_dirty_batch *batch;

	assert_int_equal(kms_dirty_collect(f->core, f->vault, &batch), 0);
	assert_int_equal(batch != NULL, expect);
	assert_int_equal(kms_dirty_forget(f->core, batch), 0);
}

/* A session that dies with four files: written, closed but not synced, forgotten, and opened again before it was forgotten. */
static void
crash(struct fixture *f, struct told *told)
{
	struct kms_dirty_batch *batch;
	struct kms_wrap wrap;

	fixture_open(f, true);
	memcpy(told->session, kms_session(f->core), BASE_ID_SIZE);
	memcpy(told->vault, f->vault, BASE_ID_SIZE);
	make_dirty(f, told->forgotten, NULL);
	make_dirty(f, told->again, &wrap);
	kms_dirty_close(f->core, f->vault, told->forgotten);
	kms_dirty_close(f->core, f->vault, told->again);
	assert_int_equal(kms_dirty_collect(f->core, f->vault, &batch), 0);
	open_dirty(f, told->again, &wrap);
	assert_int_equal(kms_dirty_forget(f->core, batch), 0);
	make_dirty(f, told->left, &told->left_wrap);
	make_dirty(f, told->closed, NULL);
	kms_dirty_close(f->core, f->vault, told->closed);
}

static void
run_crash(struct fixture *f, struct told *told)
{
	int pipe_fds[2], status;
	pid_t child;

	assert_int_equal(pipe(pipe_fds), 0);
	child = fork();
	if (child == 0) {
		crash(f, told);
		_exit(write(pipe_fds[1], told, sizeof(*told)) != sizeof(*told));
	}
	assert_int_equal(read(pipe_fds[0], told, sizeof(*told)), sizeof(*told));
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
	memcpy(f->vault, told->vault, BASE_ID_SIZE);
}

static int
crashed(struct fixture *f, const uint8_t *id, const uint8_t *session)
{
	bool same_boot = false;
	int rc = kms_dirty_crashed(f->core, f->vault, id, session, &same_boot);

	if (rc == 0)
		assert_true(same_boot);
	return rc;
}

static void
test_crash(void **state)
{
	struct fixture *f = fixture_make();
	struct told told = { 0 };
	uint8_t other[BASE_ID_SIZE] = { 1 };

	run_crash(f, &told);
	fixture_open(f, false);
	assert_int_equal(crashed(f, told.left, told.session), 0);
	assert_int_equal(crashed(f, told.left, NULL), 0);
	assert_int_equal(crashed(f, told.left, other), -ENOENT);
	assert_int_equal(crashed(f, told.closed, told.session), 0);
	assert_int_equal(crashed(f, told.again, told.session), 0);
	assert_int_equal(crashed(f, told.forgotten, NULL), -ENOENT);
	assert_int_equal(crashed(f, other, NULL), -ENOENT);
	collect_and_forget(f, false);

	/* Recovered and forgotten: gone for good. Another one stays over a clean end of this session. */
	kms_dirty_recovered(f->core, f->vault, told.left);
	assert_int_equal(crashed(f, told.left, told.session), 0);
	open_dirty(f, told.left, &told.left_wrap);
	collect_and_forget(f, true);
	assert_int_equal(crashed(f, told.left, NULL), -ENOENT);
	kms_dirty_close(f->core, f->vault, told.left);
	collect_and_forget(f, true);
	collect_and_forget(f, false);
	fixture_close(f);
	fixture_open(f, false);
	assert_int_equal(crashed(f, told.left, NULL), -ENOENT);
	assert_int_equal(crashed(f, told.again, told.session), 0);
	fixture_free(f);
}

static void
test_two_crashes(void **state)
{
	struct fixture *f = fixture_make();
	struct told first = { 0 };
	uint8_t second[BASE_ID_SIZE];
	int pipe_fds[2], status;
	pid_t child;

	run_crash(f, &first);
	assert_int_equal(pipe(pipe_fds), 0);
	child = fork();
	if (child == 0) {
		fixture_open(f, false);
		open_dirty(f, first.left, &first.left_wrap);
		_exit(write(pipe_fds[1], kms_session(f->core), BASE_ID_SIZE) != BASE_ID_SIZE);
	}
	assert_int_equal(read(pipe_fds[0], second, sizeof(second)), sizeof(second));
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	fixture_open(f, false);
	assert_int_equal(crashed(f, first.left, first.session), 0);
	assert_int_equal(crashed(f, first.left, second), 0);
	kms_dirty_recovered(f->core, f->vault, first.left);
	collect_and_forget(f, true);
	assert_int_equal(crashed(f, first.left, NULL), -ENOENT);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
	fixture_free(f);
}

static void
test_other_boot(void **state)
{
	struct fixture *f = fixture_make();
	struct told told = { 0 };
	bool same_boot = true;

	run_crash(f, &told);
	sql(f, "UPDATE sessions SET boot_id = zeroblob(16)");
	fixture_open(f, false);
	assert_int_equal(kms_dirty_crashed(f->core, f->vault, told.left, told.session, &same_boot), 0);
	assert_false(same_boot);
	fixture_free(f);
}

/* A denied or failed open leaves nothing in the set. */
static void
test_denied(void **state)
{
	struct fixture *f = *state;
	struct kms_subject subject = subject_of(f, NULL, "x");
	struct kms_dirty_batch *batch;
	struct base_error err = { 0 };
	struct kms_new_dek new;

	assert_int_equal(kms_dek_create(f->core, &f->stranger, &subject, f->key, KMS_DEK_DIRTY, &new, &err), -EACCES);
	assert_int_equal(kms_dirty_collect(f->core, f->vault, &batch), 0);
	assert_null(batch);
}

/* Opening, closing and forgetting at once: a file that is open in the end has its row, and a crash finds it. */
#define FILES 8
#define ROUNDS 150

struct racing {
	struct fixture *f;
	uint8_t ids[FILES][BASE_ID_SIZE];
	struct kms_wrap wraps[FILES];
	int stop;
};

static void *
forget_often(void *ctx)
{
	struct racing *r = ctx;

	while (!__atomic_load_n(&r->stop, __ATOMIC_RELAXED)) {
		struct kms_dirty_batch *batch;

		if (kms_dirty_collect(r->f->core, r->f->vault, &batch) < 0 || kms_dirty_forget(r->f->core, batch) < 0)
			abort();
	}
	return NULL;
}

static void *
open_often(void *ctx)
{
	struct racing *r = ctx;

	for (int i = 0; i < ROUNDS; i++) {
		open_dirty(r->f, r->ids[i % FILES], &r->wraps[i % FILES]);
		if (i < ROUNDS - FILES)
			kms_dirty_close(r->f->core, r->f->vault, r->ids[i % FILES]);
	}
	return NULL;
}

static void
race(struct fixture *f, struct racing *r)
{
	pthread_t forgets, opens[2];

	fixture_open(f, true);
	r->f = f;
	for (int i = 0; i < FILES; i++) {
		make_dirty(f, r->ids[i], &r->wraps[i]);
		kms_dirty_close(f->core, f->vault, r->ids[i]);
	}
	pthread_create(&forgets, NULL, forget_often, r);
	for (int i = 0; i < 2; i++)
		pthread_create(&opens[i], NULL, open_often, r);
	for (int i = 0; i < 2; i++)
		pthread_join(opens[i], NULL);
	__atomic_store_n(&r->stop, 1, __ATOMIC_RELAXED);
	pthread_join(forgets, NULL);
}

static void
test_race(void **state)
{
	struct fixture *f = fixture_make();
	struct { uint8_t vault[BASE_ID_SIZE]; uint8_t ids[FILES][BASE_ID_SIZE]; } told;
	int pipe_fds[2], status;
	pid_t child;

	assert_int_equal(pipe(pipe_fds), 0);
	child = fork();
	if (child == 0) {
		struct racing r = { 0 };

		race(f, &r);
		memcpy(told.vault, f->vault, sizeof(told.vault));
		memcpy(told.ids, r.ids, sizeof(told.ids));
		_exit(write(pipe_fds[1], &told, sizeof(told)) != sizeof(told));
	}
	assert_int_equal(read(pipe_fds[0], &told, sizeof(told)), sizeof(told));
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	memcpy(f->vault, told.vault, sizeof(told.vault));
	fixture_open(f, false);
	for (int i = 0; i < FILES; i++)
		assert_int_equal(crashed(f, told.ids[i], NULL), 0);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
	fixture_free(f);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_crash), cmocka_unit_test(test_two_crashes), cmocka_unit_test(test_other_boot),
		cmocka_unit_test_setup_teardown(test_denied, setup_open, teardown), cmocka_unit_test(test_race),
	};

	if (base_secret_setup(NULL) < 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
