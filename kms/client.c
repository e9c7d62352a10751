/*
 * The client of the control API: one request over DIR/control.sock, result lines handed on as they arrive.
 */
#include "kms/kms.h"

#include <curl/curl.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "api.h"
#include "base/secret.h"

#define LINE_MAX_BYTES (16u << 20) /* a longer line is no answer of ours */

struct answer {
	CURL *curl;
	char *data;
	size_t len, cap;
	void (*line)(void *line_ctx, json_t *object);
	void *line_ctx;
	json_t *problem;
	bool garbled; /* a line that is no JSON object, or too long */
};

static CURLcode curl_ready;
static pthread_once_t curl_once = PTHREAD_ONCE_INIT;

/* Nothing of TLS: it would only start engines that a Unix socket never needs. */
static void
curl_setup(void)
{
	curl_ready = curl_global_init(CURL_GLOBAL_NOTHING);
}

static int
room_for(struct answer *answer, size_t more)
{
	size_t need = answer->len + more, cap = answer->cap ? answer->cap : 4096;
	char *data;

	if (need > LINE_MAX_BYTES)
		return -EMSGSIZE;
	if (need <= answer->cap)
		return 0;
	while (cap < need)
		cap *= 2;
	data = malloc(cap);
	if (!data)
		return -ENOMEM;
	if (answer->data) {
		memcpy(data, answer->data, answer->len);
		base_secret_wipe(answer->data, answer->cap);
		free(answer->data);
	}
	answer->data = data;
	answer->cap = cap;
	return 0;
}

/* The last line of a request that failed midway is {"problem": {...}} and nothing else. */
static void
take_line(struct answer *answer, const char *text, size_t len)
{
	json_t *object = json_loadb(text, len, 0, NULL);
	json_t *problem = json_object_get(object, "problem");

	if (!json_is_object(object)) {
		answer->garbled = true;
	} else if (json_is_object(problem) && json_object_size(object) == 1) {
		json_decref(answer->problem);
		answer->problem = json_incref(problem);
	} else if (answer->line) {
		answer->line(answer->line_ctx, object);
	}
	json_decref(object);
}

static size_t
on_body(char *data, size_t size, size_t count, void *ctx)
{
	struct answer *answer = ctx;
	size_t len = size * count, from = 0;
	long status = 0;
	char *end;

	if (room_for(answer, len) < 0) {
		answer->garbled = true;
		return 0;
	}
	memcpy(answer->data + answer->len, data, len);
	answer->len += len;
	curl_easy_getinfo(answer->curl, CURLINFO_RESPONSE_CODE, &status);
	if (status != 200)
		return len;
	while ((end = memchr(answer->data + from, '\n', answer->len - from))) {
		take_line(answer, answer->data + from, (size_t) (end - answer->data) - from);
		from = (size_t) (end - answer->data) + 1;
	}
	memmove(answer->data, answer->data + from, answer->len - from);
	answer->len -= from;
	return len;
}

static int
query_append(CURL *curl, FILE *out, json_t *params)
{
	const char *name, *between = "?";
	json_t *value;

	json_object_foreach(params, name, value) {
		char *plain = json_is_string(value) ? NULL : json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
		const char *text = plain ? plain : json_string_value(value);
		char *left = curl_easy_escape(curl, name, 0), *right = text ? curl_easy_escape(curl, text, 0) : NULL;

		if (left && right)
			fprintf(out, "%s%s=%s", between, left, right);
		curl_free(left);
		curl_free(right);
		free(plain);
		if (!left || !right)
			return -ENOMEM;
		between = "&";
	}
	return 0;
}

/* A body goes with POST; for the others the parameters are the query. */
static char *
url_make(CURL *curl, const char *method, const char *path, json_t *params)
{
	char *url = NULL;
	size_t len;
	FILE *out = open_memstream(&url, &len);
	int rc = 0;

	if (!out)
		return NULL;
	fprintf(out, "http://localhost%s", path);
	if (strcmp(method, "POST"))
		rc = query_append(curl, out, params);
	if (fclose(out) != 0 || rc < 0) {
		free(url);
		return NULL;
	}
	return url;
}

static void
options_set(CURL *curl, struct answer *answer, const char *socket, const char *url, const char *method, const char *body)
{
	curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, socket);
	curl_easy_setopt(curl, CURLOPT_URL, url);
	curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L);
	curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http");
	curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, 10L);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, answer);
	if (body) {
		curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, (long) strlen(body));
		curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
	} else if (strcmp(method, "GET")) {
		curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
	}
}

static int
problem_error(json_t *problem, struct base_error *err)
{
	json_int_t code = json_integer_value(json_object_get(problem, "errno"));
	json_int_t exit_code = json_integer_value(json_object_get(problem, "exit"));
	const char *detail = json_string_value(json_object_get(problem, "detail"));

	if (code <= 0 || code > 4095)
		code = EIO;
	if (exit_code <= BASE_EXIT_OK || exit_code > BASE_EXIT_PROPOSAL)
		exit_code = BASE_EXIT_FAILED;
	return base_error_set(err, -(int) code, (enum base_exit) exit_code, "%s", detail ? detail : "the service gives no reason");
}

static int
transport_error(CURL *curl, CURLcode code, const char *dir, const char *method, struct base_error *err)
{
	long os = 0;

	curl_easy_getinfo(curl, CURLINFO_OS_ERRNO, &os);
	if (code == CURLE_COULDNT_CONNECT && os == EACCES)
		return base_error_set(err, -EACCES, BASE_EXIT_UNREACHABLE, "no access to %s/" KMS_API_SOCKET, dir);
	if (code == CURLE_COULDNT_CONNECT && os == EAGAIN)
		return base_error_set(err, -EAGAIN, BASE_EXIT_UNREACHABLE, "the service of %s is busy; try again", dir);
	if (code == CURLE_COULDNT_CONNECT)
		return base_error_set(err, -ECONNREFUSED, BASE_EXIT_UNREACHABLE, "no service answers for the keystore %s", dir);
	/* Only what changes nothing may be asked twice without a thought. */
	if (code == CURLE_GOT_NOTHING && !strcmp(method, "GET"))
		return base_error_set(err, -EAGAIN, BASE_EXIT_UNREACHABLE, "the service of %s went away before it answered", dir);
	return base_error_set(err, -ECONNRESET, BASE_EXIT_UNREACHABLE,
			      "the service of %s went away before its answer was complete (%s); look at what was done, then ask again",
			      dir, curl_easy_strerror(code));
}

static int
answer_error(struct answer *answer, CURLcode code, const char *dir, const char *method, struct base_error *err)
{
	long status = 0;
	json_t *problem;
	int rc;

	curl_easy_getinfo(answer->curl, CURLINFO_RESPONSE_CODE, &status);
	if (answer->garbled)
		return base_error_set(err, -EPROTO, BASE_EXIT_FAILED, "what answers for the keystore %s is no keepfs service", dir);
	if (code != CURLE_OK)
		return transport_error(answer->curl, code, dir, method, err);
	if (status == 200)
		return answer->problem ? problem_error(answer->problem, err) : 0;
	problem = json_loadb(answer->data ? answer->data : "", answer->len, 0, NULL);
	if (json_is_object(problem))
		rc = problem_error(problem, err);
	else
		rc = base_error_set(err, -EPROTO, BASE_EXIT_FAILED, "the service of %s answers with HTTP status %ld", dir, status);
	json_decref(problem);
	return rc;
}

int
kms_client_call(const char *dir, const char *method, const char *path, json_t *params,
		void (*line)(void *line_ctx, json_t *object), void *line_ctx, struct base_error *err)
{
	struct answer answer = { .line = line, .line_ctx = line_ctx };
	char socket[sizeof(((struct sockaddr_un *) NULL)->sun_path)];
	char *url = NULL, *body = NULL;
	int rc = -ENOMEM;

	pthread_once(&curl_once, curl_setup);
	if (snprintf(socket, sizeof(socket), "%s/" KMS_API_SOCKET, dir) >= (int) sizeof(socket))
		return base_error_set(err, -ECONNREFUSED, BASE_EXIT_UNREACHABLE,
				      "%s is too long a path for a socket, so no service answers there", dir);
	answer.curl = curl_ready == CURLE_OK ? curl_easy_init() : NULL;
	if (answer.curl)
		url = url_make(answer.curl, method, path, params);
	if (!strcmp(method, "POST"))
		body = params ? json_dumps(params, JSON_COMPACT) : strdup("{}");
	if (url && (body || strcmp(method, "POST"))) {
		options_set(answer.curl, &answer, socket, url, method, body);
		rc = answer_error(&answer, curl_easy_perform(answer.curl), dir, method, err);
	} else {
		base_error_set(err, rc, BASE_EXIT_FAILED, "out of memory");
	}
	if (body)
		base_secret_wipe(body, strlen(body));
	if (answer.data)
		base_secret_wipe(answer.data, answer.cap);
	free(answer.data);
	free(body);
	free(url);
	json_decref(answer.problem);
	curl_easy_cleanup(answer.curl);
	return rc;
}
