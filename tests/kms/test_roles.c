/* Roles: who gets one, where it holds, when it holds, and what is refused. */
#include <grp.h>
#include <pwd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common.h"

static int
role(struct fixture *f, const struct kms_caller *caller, const char *method, const char *principal, const char *name, const char *key,
     struct base_error *err)
{
	json_t *lines;
	int rc;

	memset(err, 0, sizeof(*err));
	rc = call(f->core, caller, method, "/v1/roles", json_pack("{s:s, s:s, s:s*}", "principal", principal, "role", name, "key", key), &lines, err);
	json_decref(lines);
	return rc;
}

#define GIVE(principal, name, key) MUST(role(f, &f->me, "POST", principal, name, key, &err))
#define TAKE(principal, name, key) MUST(role(f, &f->me, "DELETE", principal, name, key, &err))

/* A file of the fixture's vault under `key`, made by us. */
static struct kms_wrap
file_make(struct fixture *f, const uint8_t *key, struct kms_subject *ret)
{
	struct kms_subject subject = subject_of(f, NULL, "x");
	struct base_error err = { 0 };
	struct kms_new_dek new;

	MUST(kms_dek_create(f->core, &f->me, &subject, key, 0, &new, &err));
	kms_dek_created(f->core, new.lease);
	base_secret_free(new.dek);
	*ret = subject_of(f, new.file_id, "x");
	return new.wrap;
}

/* Every way to open: with and without a DEK that is held already (KMS_DEK_HAVE), for reading and for writing. */
static void
opens(struct fixture *f, const struct kms_caller *caller, const struct kms_subject *subject, const struct kms_wrap *wrap, bool reads, bool writes)
{
	BASE_SECRET_AUTO uint8_t *dek = base_secret_alloc(KMS_DEK_SIZE);

	for (int have = 0; have <= KMS_DEK_HAVE; have += KMS_DEK_HAVE) {
		uint8_t *to = have ? NULL : dek;
		unsigned flags = (unsigned) have;

		assert_int_equal(kms_dek_open(f->core, caller, subject, wrap, flags | KMS_DEK_READ, to, NULL), reads ? 0 : -EACCES);
		assert_int_equal(kms_dek_open(f->core, caller, subject, wrap, flags | KMS_DEK_READ | KMS_DEK_WRITE, to, NULL),
				 writes ? 0 : -EACCES);
	}
}

static void
test_principals(void **state)
{
	struct fixture *f = *state;
	struct kms_subject subject;
	struct kms_wrap wrap = file_make(f, f->key, &subject);
	struct base_error err = { 0 };
	struct kms_caller other = f->stranger;

	other.uid = 54322;
	other.gid = f->stranger.gid = 54399;
	opens(f, &f->stranger, &subject, &wrap, false, false);
	GIVE("user:54321", "Reader", NULL);
	opens(f, &f->stranger, &subject, &wrap, true, false);
	opens(f, &other, &subject, &wrap, false, false);
	GIVE("user:54321", "Writer", NULL);
	opens(f, &f->stranger, &subject, &wrap, true, true);
	TAKE("user:54321", "Writer", NULL);
	opens(f, &f->stranger, &subject, &wrap, true, false);
	TAKE("user:54321", "Reader", NULL);
	opens(f, &f->stranger, &subject, &wrap, false, false);

	GIVE("everyone", "Writer", NULL);
	opens(f, &f->stranger, &subject, &wrap, true, true);
	opens(f, &other, &subject, &wrap, true, true);
	TAKE("everyone", "Writer", NULL);
	opens(f, &other, &subject, &wrap, false, false);

	GIVE("group:54399", "reader", NULL);
	opens(f, &other, &subject, &wrap, true, false);
	other.gid = 54398;
	opens(f, &other, &subject, &wrap, false, false);
	TAKE("group:54399", "READER", NULL);
	opens(f, &f->stranger, &subject, &wrap, false, false);
}

/* The account database's groups count, the primary one and the others, whatever gid the caller has. */
static void
test_accounts(void **state)
{
	struct fixture *f = *state;
	struct kms_subject subject;
	struct kms_wrap wrap = file_make(f, f->key, &subject);
	struct base_error err = { 0 };
	struct kms_caller caller = f->stranger;
	struct passwd *account = getpwnam("daemon");
	struct group *group;
	char principal[300];

	if (account) {
		caller.uid = account->pw_uid;
		caller.gid = 54321;
		snprintf(principal, sizeof(principal), "group:%u", (unsigned) account->pw_gid);
		opens(f, &caller, &subject, &wrap, false, false);
		GIVE(principal, "Writer", NULL);
		opens(f, &caller, &subject, &wrap, true, true);
		opens(f, &f->stranger, &subject, &wrap, f->stranger.gid == account->pw_gid, f->stranger.gid == account->pw_gid);
		TAKE(principal, "Writer", NULL);
		opens(f, &caller, &subject, &wrap, false, false);
	}
	setgrent();
	while ((group = getgrent()))
		for (int i = 0; group->gr_mem[i]; i++) {
			account = getpwnam(group->gr_mem[i]);
			if (!account || account->pw_gid == group->gr_gid || account->pw_uid == f->me.uid)
				continue;
			caller.uid = account->pw_uid;
			snprintf(principal, sizeof(principal), "group:%s", group->gr_name);
			GIVE(principal, "Reader", NULL);
			opens(f, &caller, &subject, &wrap, true, false);
			TAKE(principal, "Reader", NULL);
			opens(f, &caller, &subject, &wrap, false, false);
		}
	endgrent();
}

static void
test_keys(void **state)
{
	struct fixture *f = *state;
	struct kms_subject on_default, on_papers;
	struct kms_wrap a, b;
	struct base_error err = { 0 };
	uint8_t papers[BASE_ID_SIZE];
	json_t *lines;

	MUST(call(f->core, &f->me, "POST", "/v1/keys", json_pack("{s:s}", "name", "papers"), &lines, &err));
	json_decref(lines);
	MUST(kms_key_find(f->core, "papers", papers));
	a = file_make(f, f->key, &on_default);
	b = file_make(f, papers, &on_papers);
	GIVE("user:54321", "Writer", "papers");
	opens(f, &f->stranger, &on_papers, &b, true, true);
	opens(f, &f->stranger, &on_default, &a, false, false);
	MUST(call(f->core, &f->stranger, "GET", "/v1/keys", NULL, &lines, &err));
	assert_int_equal(json_array_size(lines), 1);
	json_decref(lines);
	assert_int_equal(call(f->core, &f->stranger, "POST", "/v1/keys", json_pack("{s:s}", "name", "mine"), &lines, &err), -EACCES);
	json_decref(lines);
	/* The role on the key is not the one in the service. */
	assert_int_equal(role(f, &f->me, "DELETE", "user:54321", "Writer", NULL, &err), -ENOENT);
	assert_int_equal(role(f, &f->me, "POST", "user:54321", "Writer", "nothing", &err), -ENOENT);
	/* The Manager of a key gives roles on that key and nowhere else. */
	GIVE("user:54321", "Manager", "papers");
	MUST(role(f, &f->stranger, "POST", "user:54322", "Reader", "papers", &err));
	assert_int_equal(role(f, &f->stranger, "POST", "user:54322", "Reader", "default", &err), -EACCES);
	assert_int_equal(role(f, &f->stranger, "POST", "user:54321", "Manager", NULL, &err), -EACCES);
	assert_int_equal(role(f, &f->stranger, "POST", "user:54321", "Manager", "nothing", &err), -EACCES);
	TAKE("user:54321", "Manager", "papers");
	TAKE("user:54321", "Writer", "papers");
	opens(f, &f->stranger, &on_papers, &b, false, false);
}

static void
test_refusals(void **state)
{
	static const char *const bad[][2] = { { "everyone", "King" }, { "nobody", "Reader" }, { "user:", "Reader" }, { "everyone ", "Reader" },
		{ "user:4294967295", "Reader" }, { "group:99999999999", "Reader" }, { "", "Reader" }, { "everyone", "" } };
	struct fixture *f = *state;
	struct base_error err = { 0 };
	char me[300];
	json_t *lines;
	size_t before;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		int rc = role(f, &f->me, "POST", bad[i][0], bad[i][1], NULL, &err);

		assert_true(rc == -EINVAL || (rc == -ENOENT && strchr(bad[i][0], ':')));
		assert_true(err.text[0]);
	}
	assert_int_equal(role(f, &f->me, "POST", "user:no-such-account", "Reader", NULL, &err), -ENOENT);
	assert_int_equal(err.exit, BASE_EXIT_NOT_FOUND);
	assert_int_equal(role(f, &f->stranger, "POST", "user:54321", "Manager", NULL, &err), -EACCES);
	assert_int_equal(err.exit, BASE_EXIT_DENIED);
	assert_int_equal(role(f, &f->stranger, "POST", "user:no-such-account", "Manager", NULL, &err), -EACCES);
	assert_int_equal(count_records(f, "role-assign", "allowed"), 0);
	assert_int_equal(call(f->core, &f->stranger, "GET", "/v1/roles", NULL, &lines, &err), -EACCES);
	json_decref(lines);

	/* The last Manager stays; a group can be empty, so it does not count. */
	snprintf(me, sizeof(me), "user:%u", (unsigned) f->me.uid);
	GIVE("group:54321", "Manager", NULL);
	GIVE("user:54321", "Manager", "default");
	before = count_records(f, "role-remove", "failed");
	assert_int_equal(role(f, &f->me, "DELETE", me, "Manager", NULL, &err), -EPERM);
	assert_non_null(strstr(err.text, "last Manager"));
	assert_int_equal(count_records(f, "role-remove", "failed"), before + 1);
	GIVE("user:54321", "Manager", NULL);
	TAKE(me, "Manager", NULL);
	assert_int_equal(role(f, &f->me, "POST", me, "Manager", NULL, &err), -EACCES);
	MUST(role(f, &f->stranger, "POST", me, "Manager", NULL, &err));
	TAKE("user:54321", "Manager", NULL);
	assert_int_equal(role(f, &f->me, "DELETE", me, "Manager", NULL, &err), -EPERM);
}

static size_t
listed(struct fixture *f, const struct kms_caller *caller)
{
	struct base_error err = { 0 };
	json_t *lines;
	size_t count;

	MUST(call(f->core, caller, "GET", "/v1/roles", NULL, &lines, &err));
	count = json_array_size(lines);
	json_decref(lines);
	return count;
}

static void
test_list_and_restart(void **state)
{
	struct fixture *f = *state;
	struct kms_subject subject;
	struct kms_wrap wrap = file_make(f, f->key, &subject);
	struct base_error err = { 0 };
	json_t *lines;

	assert_int_equal(listed(f, &f->me), 2);
	GIVE("group:54321", "Reader", "default");
	GIVE("everyone", "Auditor", "default");
	GIVE("user:54321", "Reader", NULL);
	MUST(call(f->core, &f->me, "POST", "/v1/roles", json_pack("{s:s, s:s}", "principal", "user:54321", "role", "Reader"), &lines, &err));
	assert_true(json_is_false(json_object_get(json_array_get(lines, 0), "changed")));
	json_decref(lines);
	assert_int_equal(count_records(f, "role-assign", "allowed"), 3);
	assert_int_equal(listed(f, &f->me), 5);
	assert_int_equal(listed(f, &f->stranger), 2);
	f->stranger.gid = 54321;
	assert_int_equal(listed(f, &f->stranger), 3);
	fixture_close(f);
	fixture_open(f, false);
	assert_int_equal(listed(f, &f->me), 5);
	opens(f, &f->stranger, &subject, &wrap, true, false);
	TAKE("user:54321", "Reader", NULL);
	opens(f, &f->stranger, &subject, &wrap, true, false); /* by the group */
	TAKE("group:54321", "Reader", "default");
	fixture_close(f);
	fixture_open(f, false);
	opens(f, &f->stranger, &subject, &wrap, false, false);
	assert_int_equal(listed(f, &f->me), 3);
}

/* A keystore from before there were roles for groups. */
static void
test_older_keystore(void **state)
{
	struct fixture *f = *state;
	struct base_error err = { 0 };

	fixture_close(f);
	sql(f, "ALTER TABLE roles DROP COLUMN gid; PRAGMA user_version = 1");
	fixture_open(f, false);
	assert_int_equal(listed(f, &f->me), 2);
	GIVE("group:54321", "Reader", NULL);
	fixture_close(f);
	/* A row that names nobody would be everyone's. */
	sql(f, "UPDATE roles SET gid = -1 WHERE gid = 54321");
	assert_int_equal(kms_core_open(f->dir, NULL, 0, &f->core, &err), -EBADMSG);
	sql(f, "DELETE FROM roles WHERE uid = -1");
	fixture_open(f, false);
	assert_int_equal(listed(f, &f->me), 2);
}

/* While roles change, every decision is one of the two that there are, and the one after a change is the new one. */
static struct {
	struct fixture *f;
	struct kms_caller caller;
	struct kms_subject subject;
	struct kms_wrap wrap;
	atomic_bool stop;
	atomic_uint asked, wrong;
} busy;

static void *
asks(void *ctx)
{
	while (!atomic_load(&busy.stop)) {
		int rc = kms_dek_open(busy.f->core, &busy.caller, &busy.subject, &busy.wrap, KMS_DEK_READ | KMS_DEK_HAVE, NULL, NULL);

		atomic_fetch_add(&busy.asked, 1);
		if (rc != 0 && rc != -EACCES)
			atomic_fetch_add(&busy.wrong, 1);
	}
	return NULL;
}

static void
test_at_once(void **state)
{
	struct fixture *f = *state;
	struct base_error err = { 0 };
	pthread_t threads[2];

	memset(&busy, 0, sizeof(busy));
	busy.f = f;
	f->stranger.gid = 54321;
	busy.caller = f->stranger;
	busy.wrap = file_make(f, f->key, &busy.subject);
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, asks, NULL), 0);
	for (int i = 0; i < 30; i++) {
		const char *principal = i % 3 == 0 ? "everyone" : i % 3 == 1 ? "user:54321" : "group:54321";

		GIVE(principal, "Reader", NULL);
		opens(f, &f->stranger, &busy.subject, &busy.wrap, true, false);
		TAKE(principal, "Reader", NULL);
		opens(f, &f->stranger, &busy.subject, &busy.wrap, false, false);
	}
	atomic_store(&busy.stop, true);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	assert_true(atomic_load(&busy.asked) > 0);
	assert_int_equal(atomic_load(&busy.wrong), 0);
}

int
main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup_open, teardown)
	const struct CMUnitTest tests[] = {
		T(test_principals), T(test_accounts), T(test_keys), T(test_refusals), T(test_list_and_restart), T(test_older_keystore),
		T(test_at_once),
	};

	if (base_secret_setup(NULL) < 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
