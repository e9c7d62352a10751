/*
 * One HTTP request at work: its handler in a thread of its own, and the bounded queue of result lines between that thread
 * and the connection's.
 */
#include "api_job.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/secret.h"

struct kms_api_job *
kms_api_job_new(struct kms_api *api)
{
	struct kms_api_job *job = calloc(1, sizeof(*job));

	if (!job)
		return NULL;
	job->api = api;
	pthread_mutex_init(&job->lock, NULL);
	pthread_cond_init(&job->changed, NULL);
	return job;
}

static void
line_free(char *line)
{
	base_secret_wipe(line, strlen(line));
	free(line);
}

void
kms_api_job_free(struct kms_api_job *job)
{
	if (!job)
		return;
	if (job->started) {
		pthread_mutex_lock(&job->lock);
		job->gone = true;
		pthread_cond_broadcast(&job->changed);
		pthread_mutex_unlock(&job->lock);
		pthread_join(job->thread, NULL);
	}
	while (job->count) {
		line_free(job->lines[job->head]);
		job->head = (job->head + 1) % KMS_API_QUEUE;
		job->count--;
	}
	if (job->body)
		base_secret_wipe(job->body, job->body_len);
	free(job->body);
	json_decref(job->params);
	free(job->method);
	free(job->path);
	pthread_cond_destroy(&job->changed);
	pthread_mutex_destroy(&job->lock);
	free(job);
}

/* Texts may carry file names, which need not be UTF-8; JSON must be. */
static json_t *
text_json(const char *text)
{
	json_t *value = json_string(text);
	char copy[sizeof(((struct base_error *) NULL)->text)];
	size_t i;

	if (value)
		return value;
	for (i = 0; text[i] && i < sizeof(copy) - 1; i++)
		copy[i] = (unsigned char) text[i] < 0x80 ? text[i] : '?';
	copy[i] = 0;
	return json_string(copy);
}

json_t *
kms_api_problem(int status, const char *title, const struct base_error *err)
{
	return json_pack("{s:s, s:s, s:i, s:o, s:i, s:i}", "type", "about:blank", "title", title, "status", status, "detail",
			 text_json(err->text[0] ? err->text : title), "errno", -err->code, "exit", (int) err->exit);
}

/* The queue's only writer is the handler's thread. Takes line. */
static int
push(struct kms_api_job *job, json_t *line)
{
	size_t len = line ? json_dumpb(line, NULL, 0, JSON_COMPACT) : 0;
	char *text = len ? malloc(len + 2) : NULL;
	int rc = -EPIPE;

	if (!text) {
		json_decref(line);
		return -ENOMEM;
	}
	json_dumpb(line, text, len, JSON_COMPACT);
	memcpy(text + len, "\n", 2);
	json_decref(line);

	pthread_mutex_lock(&job->lock);
	while (job->count == KMS_API_QUEUE && !job->gone)
		pthread_cond_wait(&job->changed, &job->lock);
	if (!job->gone) {
		job->lines[(job->head + job->count) % KMS_API_QUEUE] = text;
		job->count++;
		job->lined = true;
		text = NULL;
		rc = 0;
		pthread_cond_broadcast(&job->changed);
	}
	pthread_mutex_unlock(&job->lock);
	if (text)
		line_free(text);
	return rc;
}

static int
emit(void *ctx, json_t *line)
{
	return push(ctx, line);
}

static void *
run(void *ctx)
{
	struct kms_api_job *job = ctx;
	struct kms_request request = {
		.method = job->method, .path = job->path, .params = job->params, .caller = job->caller, .emit = emit, .emit_ctx = job,
	};
	struct base_error err = { 0 };
	int rc = kms_api_dispatch(job->api, &request, &err);

	if (rc != 0 && job->lined)
		push(job, json_pack("{s:o}", "problem", kms_api_problem(kms_api_status(rc, &err), "the request failed", &err)));
	pthread_mutex_lock(&job->lock);
	job->rc = rc;
	job->err = err;
	job->done = true;
	pthread_cond_broadcast(&job->changed);
	pthread_mutex_unlock(&job->lock);
	kms_api_end(job->api);
	return NULL;
}

int
kms_api_job_start(struct kms_api_job *job)
{
	sigset_t all, before;
	int rc = kms_api_begin(job->api);

	if (rc < 0)
		return rc;
	/* Signals are the program's: its own threads take them. */
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &before);
	rc = -pthread_create(&job->thread, NULL, run, job);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc < 0)
		kms_api_end(job->api);
	job->started = rc == 0;
	return rc;
}

bool
kms_api_job_wait(struct kms_api_job *job)
{
	bool lined;

	pthread_mutex_lock(&job->lock);
	while (!job->done && !job->count)
		pthread_cond_wait(&job->changed, &job->lock);
	lined = job->count > 0;
	pthread_mutex_unlock(&job->lock);
	return lined;
}

size_t
kms_api_job_read(struct kms_api_job *job, char *buf, size_t max)
{
	size_t filled = 0;

	pthread_mutex_lock(&job->lock);
	while (job->count && filled < max) {
		char *line = job->lines[job->head];
		size_t len = strlen(line + job->sent);
		size_t part = len < max - filled ? len : max - filled;

		memcpy(buf + filled, line + job->sent, part);
		filled += part;
		job->sent += part;
		if (part < len)
			break;
		line_free(line);
		job->sent = 0;
		job->head = (job->head + 1) % KMS_API_QUEUE;
		job->count--;
	}
	pthread_cond_broadcast(&job->changed);
	pthread_mutex_unlock(&job->lock);
	return filled;
}
