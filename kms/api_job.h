/*
 * kms/api_job.h: one HTTP request at work, between api_http.c (the connection's thread) and the handler's own thread.
 */
#ifndef KMS_API_JOB_H
#define KMS_API_JOB_H

#include "api.h"

#define KMS_API_QUEUE 64 /* result lines that wait for a slow reader before the handler does */

struct kms_api_job {
	/* The connection's thread fills these before kms_api_job_start. */
	struct kms_api *api;
	struct kms_caller caller;
	char *method, *path;
	char *body;
	size_t body_len;
	bool body_too_large;
	json_t *params;

	pthread_t thread;
	bool started; /* thread is valid */

	pthread_mutex_t lock; /* guards all below */
	pthread_cond_t changed;
	char *lines[KMS_API_QUEUE]; /* ring, NUL-terminated, newline included */
	unsigned head, count;
	size_t sent; /* bytes of the first line that are out */
	bool lined;  /* a line was queued at some time */
	bool gone;   /* the client is */
	bool done;   /* the handler has returned rc and err */
	int rc;
	struct base_error err;
};

/* kms_api_job_new: NULL when out of memory. kms_api_job_free: tells the handler that the client is gone and waits for it. */
struct kms_api_job *kms_api_job_new(struct kms_api *api);
void kms_api_job_free(struct kms_api_job *job);

/* kms_api_job_start(job): run the handler. 0, -EAGAIN when the service is on its way out, or -errno. */
int kms_api_job_start(struct kms_api_job *job);

/* kms_api_job_wait(job): until a line is there (true), or the handler has returned and all lines are read (false). */
bool kms_api_job_wait(struct kms_api_job *job);

/* kms_api_job_read(job, buf, max): bytes of queued lines, 0 when there are none now. */
size_t kms_api_job_read(struct kms_api_job *job, char *buf, size_t max);

/* kms_api_status(rc, err): the HTTP status for a handler's failure. */
int kms_api_status(int rc, const struct base_error *err);

/* kms_api_problem(status, title, err): the object of RFC 9457; NULL when out of memory. */
json_t *kms_api_problem(int status, const char *title, const struct base_error *err);

#endif
