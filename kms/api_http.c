/*
 * HTTP over DIR/control.sock: one thread per connection (libmicrohttpd), one more per running handler (api_job.c).
 */
#include "api_job.h"

#include <errno.h>
#include <microhttpd.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/secret.h"

#define STOP_GRACE_NS 3000000000ull /* for answers that are still being read when the service stops */

int
kms_api_status(int rc, const struct base_error *err)
{
	if (err->exit == BASE_EXIT_DENIED)
		return MHD_HTTP_FORBIDDEN;
	if (err->exit == BASE_EXIT_USAGE)
		return MHD_HTTP_BAD_REQUEST;
	if (err->exit == BASE_EXIT_NOT_FOUND)
		return MHD_HTTP_NOT_FOUND;
	if (err->exit == BASE_EXIT_UNREACHABLE)
		return MHD_HTTP_SERVICE_UNAVAILABLE;
	switch (-rc) {
	case EACCES: case EPERM:
		return MHD_HTTP_FORBIDDEN;
	case ENOENT:
		return MHD_HTTP_NOT_FOUND;
	case EINVAL: case ERANGE: case ENAMETOOLONG:
		return MHD_HTTP_BAD_REQUEST;
	case EBUSY: case EEXIST: case EALREADY: case ENOTEMPTY:
		return MHD_HTTP_CONFLICT;
	case EAGAIN: case ETIMEDOUT:
		return MHD_HTTP_SERVICE_UNAVAILABLE;
	case E2BIG:
		return MHD_HTTP_CONTENT_TOO_LARGE;
	case EIO: case ENOMEM: case ENOSPC:
		return MHD_HTTP_INTERNAL_SERVER_ERROR;
	default:
		return MHD_HTTP_UNPROCESSABLE_CONTENT;
	}
}

static enum MHD_Result
answer_problem(struct MHD_Connection *connection, int rc, const struct base_error *err)
{
	int status = kms_api_status(rc, err);
	json_t *problem = kms_api_problem(status, MHD_get_reason_phrase_for((unsigned) status), err);
	char *text = problem ? json_dumps(problem, JSON_COMPACT) : NULL;
	struct MHD_Response *response;
	enum MHD_Result result;

	json_decref(problem);
	if (!text)
		return MHD_NO;
	response = MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE);
	if (!response) {
		free(text);
		return MHD_NO;
	}
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "application/problem+json");
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
	result = MHD_queue_response(connection, (unsigned) status, response);
	MHD_destroy_response(response);
	return result;
}

static enum MHD_Result
answer_error(struct MHD_Connection *connection, int rc, enum base_exit code, const char *text)
{
	struct base_error err;

	base_error_set(&err, rc, code, "%s", text);
	return answer_problem(connection, rc, &err);
}

/* The handler may be silent for long: the idle limit counts only while the peer has something to do. */
static bool
wait_line(struct kms_api_job *job, struct MHD_Connection *connection)
{
	bool lined;

	MHD_set_connection_option(connection, MHD_CONNECTION_OPTION_TIMEOUT, 0u);
	lined = kms_api_job_wait(job);
	MHD_set_connection_option(connection, MHD_CONNECTION_OPTION_TIMEOUT, (unsigned) KMS_API_IDLE_SECONDS);
	return lined;
}

struct reader {
	struct kms_api_job *job;
	struct MHD_Connection *connection;
};

static ssize_t
reader_read(void *ctx, uint64_t pos, char *buf, size_t max)
{
	struct reader *reader = ctx;

	if (!wait_line(reader->job, reader->connection))
		return MHD_CONTENT_READER_END_OF_STREAM;
	return (ssize_t) kms_api_job_read(reader->job, buf, max);
}

static enum MHD_Result
answer_stream(struct MHD_Connection *connection, struct kms_api_job *job)
{
	struct reader *reader = malloc(sizeof(*reader));
	struct MHD_Response *response;
	enum MHD_Result result;

	if (!reader)
		return MHD_NO;
	*reader = (struct reader) { job, connection };
	response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16384, reader_read, reader, free);
	if (!response) {
		free(reader);
		return MHD_NO;
	}
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "application/x-ndjson");
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
	result = MHD_queue_response(connection, MHD_HTTP_OK, response);
	MHD_destroy_response(response);
	return result;
}

static int
peer(struct MHD_Connection *connection, struct kms_caller *ret)
{
	const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (!info || getsockopt(info->connect_fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return -EACCES;
	*ret = (struct kms_caller) { .uid = cred.uid, .gid = cred.gid, .pid = cred.pid, .via = KMS_VIA_API };
	return 0;
}

/* Members of the body win over query parameters of the same name. */
static enum MHD_Result
query_parameter(void *ctx, enum MHD_ValueKind kind, const char *key, const char *value)
{
	json_t *params = ctx;
	char *name = strdup(key), *text = strdup(value ? value : "");
	int rc = name && text ? 0 : -1;

	if (rc == 0 && (kms_api_unescape(name) < 0 || kms_api_unescape(text) < 0))
		rc = -1;
	if (rc == 0 && !json_object_get(params, name))
		rc = json_object_set_new(params, name, json_string(text));
	if (rc < 0)
		json_object_clear(params);
	free(name);
	free(text);
	return rc < 0 ? MHD_NO : MHD_YES;
}

static int
params_read(struct MHD_Connection *connection, struct kms_api_job *job)
{
	json_error_t error;
	int given = MHD_get_connection_values(connection, MHD_GET_ARGUMENT_KIND, NULL, NULL);

	job->params = job->body_len ? json_loadb(job->body, job->body_len, JSON_REJECT_DUPLICATES, &error) : json_object();
	if (!json_is_object(job->params))
		return -EINVAL;
	if (given > 0 && MHD_get_connection_values(connection, MHD_GET_ARGUMENT_KIND, query_parameter, job->params) != given)
		return -EINVAL;
	return json_object_size(job->params) || !given ? 0 : -EINVAL;
}

static enum MHD_Result
request_run(struct MHD_Connection *connection, struct kms_api_job *job)
{
	int rc;

	if (job->body_too_large)
		return answer_error(connection, -E2BIG, BASE_EXIT_FAILED, "the request's body is longer than 64 KiB");
	if (peer(connection, &job->caller) < 0)
		return answer_error(connection, -EACCES, BASE_EXIT_DENIED, "the kernel does not tell who calls");
	if (params_read(connection, job) < 0)
		return answer_error(connection, -EINVAL, BASE_EXIT_USAGE,
				    "the request's body is not one JSON object, or its query is not percent-encoded UTF-8");
	rc = kms_api_job_start(job);
	if (rc == -EAGAIN)
		return answer_error(connection, rc, BASE_EXIT_UNREACHABLE, "the service is on its way out; ask again");
	if (rc < 0)
		return answer_error(connection, rc, BASE_EXIT_FAILED, "the service cannot start a thread for this request");
	if (wait_line(job, connection) || job->rc == 0)
		return answer_stream(connection, job);
	return answer_problem(connection, job->rc, &job->err);
}

static void
body_add(struct kms_api_job *job, const char *data, size_t size)
{
	char *body;

	if (job->body_too_large || job->body_len + size > KMS_API_BODY_MAX) {
		job->body_too_large = true;
		return;
	}
	/* One block from the start: growing it would leave copies of what may be secret. */
	body = job->body ? job->body : malloc(KMS_API_BODY_MAX);
	if (!body) {
		job->body_too_large = true;
		return;
	}
	memcpy(body + job->body_len, data, size);
	job->body = body;
	job->body_len += size;
}

static enum MHD_Result
access_handler(void *ctx, struct MHD_Connection *connection, const char *url, const char *method, const char *version,
	       const char *upload_data, size_t *upload_data_size, void **request_ctx)
{
	struct kms_api_job *job = *request_ctx;

	if (!job) {
		job = kms_api_job_new(ctx);
		if (!job)
			return MHD_NO;
		*request_ctx = job;
		job->method = strdup(method);
		job->path = strdup(url);
		return job->method && job->path ? MHD_YES : MHD_NO;
	}
	if (*upload_data_size) {
		body_add(job, upload_data, *upload_data_size);
		*upload_data_size = 0;
		return MHD_YES;
	}
	return request_run(connection, job);
}

static void
request_completed(void *ctx, struct MHD_Connection *connection, void **request_ctx, enum MHD_RequestTerminationCode code)
{
	kms_api_job_free(*request_ctx);
	*request_ctx = NULL;
}

/* The dispatch table decodes segments itself: a name may hold an escaped '/'. */
static size_t
keep_escaped(void *ctx, struct MHD_Connection *connection, char *text)
{
	return strlen(text);
}

static int
listen_at(const char *path, struct base_error *err)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int rc;

	if (fd < 0)
		return base_error_set(err, -errno, BASE_EXIT_FAILED, "cannot make a socket: %s", strerror(errno));
	memcpy(address.sun_path, path, strlen(path) + 1);
	/* The keystore's lock is ours, so a socket that is still there belongs to nobody. */
	unlink(path);
	if (bind(fd, (struct sockaddr *) &address, sizeof(address)) < 0 || chmod(path, 0666) < 0 || listen(fd, SOMAXCONN) < 0) {
		rc = base_error_set(err, -errno, BASE_EXIT_FAILED, "cannot listen on %s: %s", path, strerror(errno));
		close(fd);
		return rc;
	}
	return fd;
}

int
kms_api_http_start(struct kms_api *api, struct base_error *err)
{
	sigset_t all, before;
	int fd, len;

	if (api->http)
		return base_error_set(err, -EALREADY, BASE_EXIT_FAILED, "the control socket is served already");
	len = snprintf(api->socket_path, sizeof(api->socket_path), "%s/" KMS_API_SOCKET, kms_core_dir(api->core));
	if (len >= (int) sizeof(api->socket_path))
		return base_error_set(err, -ENAMETOOLONG, BASE_EXIT_FAILED,
				      "%s is too long a path for a socket; move the keystore to a shorter one", kms_core_dir(api->core));
	fd = listen_at(api->socket_path, err);
	if (fd < 0)
		return fd;
	api->stopping = false;
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &before);
	api->http = MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_THREAD_PER_CONNECTION | MHD_USE_POLL | MHD_USE_ITC, 0,
				     NULL, NULL, access_handler, api,
				     MHD_OPTION_LISTEN_SOCKET, fd,
				     MHD_OPTION_CONNECTION_LIMIT, (unsigned) KMS_API_CONNECTIONS,
				     MHD_OPTION_CONNECTION_TIMEOUT, (unsigned) KMS_API_IDLE_SECONDS,
				     MHD_OPTION_UNESCAPE_CALLBACK, keep_escaped, NULL,
				     MHD_OPTION_NOTIFY_COMPLETED, request_completed, NULL,
				     MHD_OPTION_END);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (!api->http) {
		unlink(api->socket_path);
		close(fd);
		return base_error_set(err, -EIO, BASE_EXIT_FAILED, "the HTTP server does not start on %s", api->socket_path);
	}
	return 0;
}

/* Nothing waits in the backlog and no connection is open. */
static bool
drained(struct MHD_Daemon *http)
{
	const union MHD_DaemonInfo *open = MHD_get_daemon_info(http, MHD_DAEMON_INFO_CURRENT_CONNECTIONS);
	const union MHD_DaemonInfo *listening;
	struct pollfd waiting = { .events = POLLIN };

	if (open && open->num_connections)
		return false;
	listening = MHD_get_daemon_info(http, MHD_DAEMON_INFO_LISTEN_FD);
	waiting.fd = listening ? listening->listen_fd : -1;
	return poll(&waiting, 1, 0) <= 0;
}

void
kms_api_http_stop(struct kms_api *api)
{
	uint64_t end;

	if (!api->http)
		return;
	unlink(api->socket_path);
	pthread_mutex_lock(&api->lock);
	api->stopping = true;
	while (api->running)
		pthread_cond_wait(&api->idle, &api->lock);
	pthread_mutex_unlock(&api->lock);
	/* Who is connected by now gets its answer, if only the one to ask again. */
	end = base_clock_mono_ns() + STOP_GRACE_NS;
	while (!drained(api->http) && base_clock_mono_ns() < end)
		usleep(5000);
	MHD_stop_daemon(api->http);
	api->http = NULL;
}
