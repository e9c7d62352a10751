/*
 * kms/api.h: the control API inside kms/: one dispatch table (api.c) and its HTTP transport (api_http.c). What other rooms
 * call (kms_api_add, kms_api_call, kms_api_serve, kms_api_stop) is in kms.h.
 *
 * struct kms_core has a member `struct kms_api *api`. Opening a core makes it with kms_api_new and adds the core's own
 * routes; closing one calls kms_api_free, which stops the socket first.
 */
#ifndef KMS_API_H
#define KMS_API_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#include "kms/kms.h"

#define KMS_API_BODY_MAX 65536    /* bytes of a request's body; larger ones are refused with 413 */
#define KMS_API_CONNECTIONS 64    /* at once; more wait in the socket's backlog */
#define KMS_API_IDLE_SECONDS 30   /* a peer that neither sends nor reads for so long is dropped */
#define KMS_API_SOCKET "control.sock"

struct MHD_Daemon;

struct kms_api_route {
	char *method;
	char *path;            /* as given to kms_api_add */
	kms_handler_fn handler;
	void *ctx;
};

struct kms_api {
	struct kms_core *core;
	struct kms_api_route *routes; /* written before kms_api_serve only, read without a lock after it */
	size_t count, cap;

	pthread_mutex_t lock; /* guards running and stopping */
	pthread_cond_t idle;  /* running became 0 */
	unsigned running;     /* handlers that the HTTP transport runs */
	bool stopping;        /* new requests get 503 -EAGAIN */

	struct MHD_Daemon *http; /* NULL: not served; set and cleared by the owner of the core */
	char socket_path[108];
};

/* kms_api_new(core, ret): an empty table. 0 or -ENOMEM. kms_api_free: kms_api_http_stop first; NULL is fine. */
int kms_api_new(struct kms_core *core, struct kms_api **ret);
void kms_api_free(struct kms_api *api);

/*
 * kms_api_dispatch(api, request, err): find the route of request->method and request->path, fill request->match and run
 * the handler. A literal segment wins over `{}`. -ENOENT no such route, -EINVAL a segment that is not percent-encoded
 * UTF-8, else what the handler returns (err is always filled then).
 */
int kms_api_dispatch(struct kms_api *api, struct kms_request *request, struct base_error *err);

/* kms_api_unescape(text): decode %XX in place. 0, or -EINVAL for a broken escape or an escaped NUL. */
int kms_api_unescape(char *text);

/* kms_api_begin(api): count a request in; -EAGAIN when the service is on its way out. kms_api_end: count it out. */
int kms_api_begin(struct kms_api *api);
void kms_api_end(struct kms_api *api);

/* kms_api_http_start(api, err): bind the socket and answer. kms_api_http_stop(api): unlink the socket, refuse what still
 * comes, wait for the running requests, end all threads. Fine when not started. Not from within a handler. */
int kms_api_http_start(struct kms_api *api, struct base_error *err);
void kms_api_http_stop(struct kms_api *api);

#endif
