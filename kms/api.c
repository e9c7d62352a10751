/*
 * The dispatch table of the control API: routes, their `{}` segments, and the requests that are running.
 */
#include "api.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define MATCH_MAX (sizeof(((struct kms_request *) NULL)->match) / sizeof(char *))

int
kms_api_new(struct kms_core *core, struct kms_api **ret)
{
	struct kms_api *api = calloc(1, sizeof(*api));

	if (!api)
		return -ENOMEM;
	api->core = core;
	pthread_mutex_init(&api->lock, NULL);
	pthread_cond_init(&api->idle, NULL);
	*ret = api;
	return 0;
}

void
kms_api_free(struct kms_api *api)
{
	if (!api)
		return;
	kms_api_http_stop(api);
	for (size_t i = 0; i < api->count; i++) {
		free(api->routes[i].method);
		free(api->routes[i].path);
	}
	free(api->routes);
	pthread_cond_destroy(&api->idle);
	pthread_mutex_destroy(&api->lock);
	free(api);
}

static int
grow(struct kms_api *api)
{
	size_t cap = api->cap ? api->cap * 2 : 32;
	struct kms_api_route *routes;

	if (api->count < api->cap)
		return 0;
	routes = reallocarray(api->routes, cap, sizeof(*routes));
	if (!routes)
		return -ENOMEM;
	api->routes = routes;
	api->cap = cap;
	return 0;
}

int
kms_api_add(struct kms_core *core, const char *method, const char *route, kms_handler_fn handler, void *ctx)
{
	struct kms_api *api = core->api;
	struct kms_api_route *add;

	for (size_t i = 0; i < api->count; i++)
		if (!strcmp(api->routes[i].method, method) && !strcmp(api->routes[i].path, route))
			return -EEXIST;
	if (grow(api) < 0)
		return -ENOMEM;
	add = &api->routes[api->count];
	add->method = strdup(method);
	add->path = strdup(route);
	if (!add->method || !add->path) {
		free(add->method);
		free(add->path);
		return -ENOMEM;
	}
	add->handler = handler;
	add->ctx = ctx;
	api->count++;
	return 0;
}

int
kms_api_unescape(char *text)
{
	char *out = text;

	for (const char *in = text; *in; in++) {
		if (*in != '%') {
			*out++ = *in;
			continue;
		}
		char digits[3] = { in[1], in[1] ? in[2] : 0, 0 };
		char byte;

		if (base_unhex(digits, &byte, 1) < 0 || byte == 0)
			return -EINVAL;
		*out++ = byte;
		in += 2;
	}
	*out = 0;
	return 0;
}

/* Where `{}` stands in the route, ret_at and ret_len get the path's segment. The number of captures, or -1: no match. */
static int
route_match(const char *route, const char *path, const char *ret_at[MATCH_MAX], size_t ret_len[MATCH_MAX])
{
	int captures = 0;

	for (;;) {
		size_t want = strcspn(route, "/"), have = strcspn(path, "/");

		if (want == 2 && !memcmp(route, "{}", 2)) {
			if (!have || captures == MATCH_MAX)
				return -1;
			ret_at[captures] = path;
			ret_len[captures++] = have;
		} else if (want != have || memcmp(route, path, want)) {
			return -1;
		}
		route += want;
		path += have;
		if (!*route || !*path)
			return *route == *path ? captures : -1;
		route++;
		path++;
	}
}

static int
captures_fill(struct kms_request *request, int captures, const char *at[MATCH_MAX], const size_t len[MATCH_MAX],
	      char *copies[MATCH_MAX], struct base_error *err)
{
	for (int i = 0; i < captures; i++) {
		json_t *check;

		copies[i] = strndup(at[i], len[i]);
		if (!copies[i])
			return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "out of memory");
		check = kms_api_unescape(copies[i]) < 0 ? NULL : json_string(copies[i]);
		if (!check)
			return base_error_set(err, -EINVAL, BASE_EXIT_USAGE,
					      "segment %d of the request's path is not percent-encoded UTF-8", i + 1);
		json_decref(check);
		request->match[i] = copies[i];
	}
	return 0;
}

static const struct kms_api_route *
route_find(const struct kms_api *api, const struct kms_request *request, const char *at[MATCH_MAX], size_t len[MATCH_MAX],
	   int *ret_captures)
{
	const struct kms_api_route *best = NULL;

	for (size_t i = 0; i < api->count; i++) {
		const struct kms_api_route *route = &api->routes[i];
		const char *try_at[MATCH_MAX];
		size_t try_len[MATCH_MAX];
		int captures;

		if (strcmp(route->method, request->method))
			continue;
		captures = route_match(route->path, request->path, try_at, try_len);
		if (captures < 0 || (best && captures >= *ret_captures))
			continue;
		best = route;
		*ret_captures = captures;
		memcpy(at, try_at, sizeof(try_at[0]) * (size_t) captures);
		memcpy(len, try_len, sizeof(try_len[0]) * (size_t) captures);
	}
	return best;
}

int
kms_api_dispatch(struct kms_api *api, struct kms_request *request, struct base_error *err)
{
	const struct kms_api_route *route;
	const char *at[MATCH_MAX];
	size_t len[MATCH_MAX];
	char *copies[MATCH_MAX] = { NULL };
	int captures = 0;
	int rc;

	memset(request->match, 0, sizeof(request->match));
	route = route_find(api, request, at, len, &captures);
	if (!route)
		return base_error_set(err, -ENOENT, BASE_EXIT_FAILED, "this service has no %s %.200s: is it an older version?",
				      request->method, request->path);
	rc = captures_fill(request, captures, at, len, copies, err);
	if (rc == 0) {
		err->code = 0;
		rc = route->handler(api->core, route->ctx, request, err);
		if (rc < 0 && !err->code)
			base_error_set(err, rc, rc == -EACCES ? BASE_EXIT_DENIED : BASE_EXIT_FAILED, "%s", strerror(-rc));
	}
	memset(request->match, 0, sizeof(request->match));
	for (int i = 0; i < captures; i++)
		free(copies[i]);
	return rc;
}

int
kms_api_call(struct kms_core *core, struct kms_request *request, struct base_error *err)
{
	struct base_error local = { 0 };

	return kms_api_dispatch(core->api, request, err ? err : &local);
}

int
kms_api_begin(struct kms_api *api)
{
	int rc = 0;

	pthread_mutex_lock(&api->lock);
	if (api->stopping)
		rc = -EAGAIN;
	else
		api->running++;
	pthread_mutex_unlock(&api->lock);
	return rc;
}

void
kms_api_end(struct kms_api *api)
{
	pthread_mutex_lock(&api->lock);
	if (--api->running == 0)
		pthread_cond_broadcast(&api->idle);
	pthread_mutex_unlock(&api->lock);
}

int
kms_api_serve(struct kms_core *core, struct base_error *err)
{
	return kms_api_http_start(core->api, err);
}

void
kms_api_stop(struct kms_core *core)
{
	kms_api_http_stop(core->api);
}
