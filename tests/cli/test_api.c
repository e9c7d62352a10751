/*
 * The control API by itself: dispatch, transport, client. The handlers are the test's own; no keystore is opened.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "api.h"
#include "internal.h"

static struct kms_core core;

static pthread_mutex_t gate_lock = PTHREAD_MUTEX_INITIALIZER; /* guards what follows */
static pthread_cond_t gate_changed = PTHREAD_COND_INITIALIZER;
static bool entered, open_gate;
static int emitted, emit_failed;

static int
echo(struct kms_core *c, void *ctx, struct kms_request *request, struct base_error *err)
{
	json_t *line = json_pack("{s:s, s:O, s:i, s:i, s:s*, s:s*}", "route", ctx, "params", request->params, "uid",
				 (int) request->caller.uid, "pid", (int) request->caller.pid, "m0", request->match[0], "m1", request->match[1]);

	assert_ptr_equal(c, &core);
	return request->emit(request->emit_ctx, line);
}

static int
deny(struct kms_core *c, void *ctx, struct kms_request *request, struct base_error *err)
{
	return base_error_set(err, -EACCES, BASE_EXIT_DENIED, "rule 7: not you, \xff");
}

static int
late(struct kms_core *c, void *ctx, struct kms_request *request, struct base_error *err)
{
	for (int i = 0; i < 1000; i++)
		request->emit(request->emit_ctx, json_pack("{s:i}", "n", i));
	return base_error_set(err, -EBADMSG, BASE_EXIT_INTEGRITY, "record 1000 is bad");
}

static int
flood(struct kms_core *c, void *ctx, struct kms_request *request, struct base_error *err)
{
	int rc = 0;

	for (int i = 0; rc == 0 && i < 10000000; i++) {
		rc = request->emit(request->emit_ctx, json_pack("{s:i}", "n", i));
		pthread_mutex_lock(&gate_lock);
		emitted = i;
		emit_failed = rc;
		pthread_cond_broadcast(&gate_changed);
		pthread_mutex_unlock(&gate_lock);
	}
	return rc;
}

static int
wait_gate(struct kms_core *c, void *ctx, struct kms_request *request, struct base_error *err)
{
	pthread_mutex_lock(&gate_lock);
	entered = true;
	pthread_cond_broadcast(&gate_changed);
	while (!open_gate)
		pthread_cond_wait(&gate_changed, &gate_lock);
	pthread_mutex_unlock(&gate_lock);
	return request->emit(request->emit_ctx, json_pack("{s:b}", "done", 1));
}

static void
take(void *ctx, json_t *line)
{
	json_array_append(ctx, line);
}

/* The result lines as an array; *ret and err say how the call ended. */
static json_t *
call(const char *method, const char *path, json_t *params, int *ret, struct base_error *err)
{
	json_t *lines = json_array();

	memset(err, 0, sizeof(*err));
	*ret = kms_client_call(core.dir, method, path, params, take, lines, err);
	json_decref(params);
	return lines;
}

static void
expect_echo(const char *method, const char *path, json_t *params, const char *route, const char *m0, const char *m1, json_t *seen)
{
	struct base_error err;
	int rc;
	json_t *lines = call(method, path, params, &rc, &err);
	json_t *line = json_array_get(lines, 0);
	const char *got0 = json_string_value(json_object_get(line, "m0")), *got1 = json_string_value(json_object_get(line, "m1"));

	assert_int_equal(rc, 0);
	assert_int_equal(json_array_size(lines), 1);
	assert_string_equal(json_string_value(json_object_get(line, "route")), route);
	assert_string_equal(got0 ? got0 : "-", m0 ? m0 : "-");
	assert_string_equal(got1 ? got1 : "-", m1 ? m1 : "-");
	assert_true(json_equal(json_object_get(line, "params"), seen));
	assert_int_equal(json_integer_value(json_object_get(line, "uid")), getuid());
	assert_int_equal(json_integer_value(json_object_get(line, "pid")), getpid());
	json_decref(seen);
	json_decref(lines);
}

static void
expect_error(const char *method, const char *path, json_t *params, int code, int exit_code)
{
	struct base_error err;
	int rc;

	json_decref(call(method, path, params, &rc, &err));
	assert_int_equal(rc, code);
	assert_int_equal(err.code, code);
	assert_int_equal(err.exit, exit_code);
	assert_true(err.text[0] != 0);
}

static void
test_routes(void **state)
{
	expect_echo("GET", "/v1/keys/a%2Fb%20%25", NULL, "one", "a/b %", NULL, json_object());
	expect_echo("GET", "/v1/keys/..", NULL, "one", "..", NULL, json_object());
	expect_echo("GET", "/v1/keys/verify", NULL, "literal", NULL, NULL, json_object());
	expect_echo("POST", "/v1/keys/k/versions/7", NULL, "two", "k", "7", json_object());
	expect_error("GET", "/v1/keys", NULL, -ENOENT, BASE_EXIT_FAILED);
	expect_error("GET", "/v1/keys/", NULL, -ENOENT, BASE_EXIT_FAILED);
	expect_error("GET", "/v1/keys/a/b", NULL, -ENOENT, BASE_EXIT_FAILED);
	expect_error("PATCH", "/v1/keys/a", NULL, -ENOENT, BASE_EXIT_FAILED);
	expect_error("GET", "/v1/keys/%00", NULL, -EINVAL, BASE_EXIT_USAGE);
	expect_error("GET", "/v1/keys/%4", NULL, -EINVAL, BASE_EXIT_USAGE);
	expect_error("GET", "/v1/keys/%ff", NULL, -EINVAL, BASE_EXIT_USAGE);
	assert_int_equal(kms_api_add(&core, "GET", "/v1/late", late, NULL), -EEXIST);
}

static void
test_parameters(void **state)
{
	expect_echo("GET", "/v1/keys/k", json_pack("{s:s, s:i, s:b}", "a b&", "+%=&\xc3\xa4", "n", 5, "t", 1), "one", "k", NULL,
		    json_pack("{s:s, s:s, s:s}", "a b&", "+%=&\xc3\xa4", "n", "5", "t", "true"));
	expect_echo("POST", "/v1/keys/k/versions/7", json_pack("{s:s, s:[i]}", "a", "b", "l", 1), "two", "k", "7",
		    json_pack("{s:s, s:[i]}", "a", "b", "l", 1));
	expect_echo("POST", "/v1/keys/k/versions/7?a=query&c=%2B", json_pack("{s:s}", "a", "body"), "two", "k", "7",
		    json_pack("{s:s, s:s}", "a", "body", "c", "+"));
	expect_error("GET", "/v1/keys/k?a=%ff", NULL, -EINVAL, BASE_EXIT_USAGE);
}

static void
test_body_limit(void **state)
{
	char *text = malloc(KMS_API_BODY_MAX + 1);

	memset(text, 'x', KMS_API_BODY_MAX);
	text[KMS_API_BODY_MAX - 100] = 0;
	expect_echo("POST", "/v1/keys/k/versions/7", json_pack("{s:s}", "a", text), "two", "k", "7", json_pack("{s:s}", "a", text));
	text[KMS_API_BODY_MAX - 100] = 'x';
	text[KMS_API_BODY_MAX] = 0;
	expect_error("POST", "/v1/keys/k/versions/7", json_pack("{s:s}", "a", text), -E2BIG, BASE_EXIT_FAILED);
	free(text);
}

static void
test_errors(void **state)
{
	struct base_error err;
	json_t *lines;
	int rc;

	lines = call("DELETE", "/v1/keys/k", NULL, &rc, &err);
	assert_int_equal(rc, -EACCES);
	assert_int_equal(err.exit, BASE_EXIT_DENIED);
	assert_string_equal(err.text, "rule 7: not you, ?");
	json_decref(lines);
	/* A thousand lines, in order, and then the error. */
	lines = call("GET", "/v1/late", NULL, &rc, &err);
	assert_int_equal(rc, -EBADMSG);
	assert_int_equal(err.exit, BASE_EXIT_INTEGRITY);
	assert_int_equal(json_array_size(lines), 1000);
	for (int i = 0; i < 1000; i++)
		assert_int_equal(json_integer_value(json_object_get(json_array_get(lines, (size_t) i), "n")), i);
	json_decref(lines);
}

/* A client that reads nothing holds the handler back; one that leaves makes its emit fail. */
static void
test_client_gone(void **state)
{
	static const char text[] = "GET /v1/flood HTTP/1.1\r\nHost: localhost\r\n\r\n";
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	int before, after;

	snprintf(address.sun_path, sizeof(address.sun_path), "%.80s/" KMS_API_SOCKET, core.dir);
	assert_int_equal(connect(fd, (struct sockaddr *) &address, sizeof(address)), 0);
	assert_int_equal(write(fd, text, sizeof(text) - 1), sizeof(text) - 1);
	usleep(500000);
	pthread_mutex_lock(&gate_lock);
	before = emitted;
	pthread_mutex_unlock(&gate_lock);
	usleep(200000);
	pthread_mutex_lock(&gate_lock);
	after = emitted;
	pthread_mutex_unlock(&gate_lock);
	assert_true(before > 0);
	assert_int_equal(after, before);
	close(fd);
	pthread_mutex_lock(&gate_lock);
	while (!emit_failed)
		pthread_cond_wait(&gate_changed, &gate_lock);
	pthread_mutex_unlock(&gate_lock);
}

static void *
stop_thread(void *ctx)
{
	kms_api_stop(&core);
	return NULL;
}

static void *
gate_thread(void *ctx)
{
	struct base_error err;
	int *rc = ctx;

	json_decref(call("POST", "/v1/gate", NULL, rc, &err));
	return NULL;
}

/* Stopping waits for the running request, and tells new ones to ask elsewhere. */
static void
test_stop(void **state)
{
	pthread_t request, stopper;
	struct base_error err;
	int first = -1, rc;

	pthread_create(&request, NULL, gate_thread, &first);
	pthread_mutex_lock(&gate_lock);
	while (!entered)
		pthread_cond_wait(&gate_changed, &gate_lock);
	pthread_mutex_unlock(&gate_lock);
	pthread_create(&stopper, NULL, stop_thread, NULL);
	usleep(200000);
	json_decref(call("GET", "/v1/keys/k", NULL, &rc, &err));
	assert_true(rc == -ECONNREFUSED || rc == -EAGAIN);
	assert_int_equal(err.exit, BASE_EXIT_UNREACHABLE);
	pthread_mutex_lock(&gate_lock);
	open_gate = true;
	pthread_cond_broadcast(&gate_changed);
	pthread_mutex_unlock(&gate_lock);
	pthread_join(request, NULL);
	pthread_join(stopper, NULL);
	assert_int_equal(first, 0);
	expect_error("GET", "/v1/keys/k", NULL, -ECONNREFUSED, BASE_EXIT_UNREACHABLE);
}

static int
setup(void **state)
{
	struct base_error err;

	strcpy(core.dir, "/tmp/keepfs-api-XXXXXX");
	if (!mkdtemp(core.dir) || kms_api_new(&core, &core.api) < 0)
		return -1;
	kms_api_add(&core, "GET", "/v1/keys/{}", echo, "one");
	kms_api_add(&core, "GET", "/v1/keys/verify", echo, "literal");
	kms_api_add(&core, "POST", "/v1/keys/{}/versions/{}", echo, "two");
	kms_api_add(&core, "DELETE", "/v1/keys/{}", deny, NULL);
	kms_api_add(&core, "GET", "/v1/late", late, NULL);
	kms_api_add(&core, "GET", "/v1/flood", flood, NULL);
	kms_api_add(&core, "POST", "/v1/gate", wait_gate, NULL);
	return kms_api_serve(&core, &err);
}

static int
teardown(void **state)
{
	kms_api_free(core.api);
	return rmdir(core.dir); /* the socket is gone */
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_routes),      cmocka_unit_test(test_parameters),  cmocka_unit_test(test_body_limit),
		cmocka_unit_test(test_errors),      cmocka_unit_test(test_client_gone), cmocka_unit_test(test_stop),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
