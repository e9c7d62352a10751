/*
 * One thread, started when first needed: refills the pools, and wipes cached DEKs whose time is over.
 */
#include "dek.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"

#define RETRY_NS 1000000000ull /* after the HSM has failed */

struct kms_worker {
	struct kms_core *core;
	pthread_mutex_t lock; /* guards started, failed, refill, expire, thread */
	pthread_cond_t woken;
	bool started, failed;
	bool refill, expire;
	atomic_bool stop;
	pthread_t thread;
};

int
kms_worker_new(struct kms_core *core, struct kms_worker **ret)
{
	struct kms_worker *worker = calloc(1, sizeof(*worker));
	pthread_condattr_t attr;

	if (!worker)
		return -ENOMEM;
	worker->core = core;
	pthread_mutex_init(&worker->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&worker->woken, &attr);
	pthread_condattr_destroy(&attr);
	*ret = worker;
	return 0;
}

/* The lock is held; it is released while waiting. ns 0: for as long as it takes. */
static void
wait_for(struct kms_worker *worker, uint64_t ns)
{
	struct timespec until;

	if (!ns) {
		pthread_cond_wait(&worker->woken, &worker->lock);
		return;
	}
	clock_gettime(CLOCK_MONOTONIC, &until);
	ns += (uint64_t) until.tv_nsec;
	until.tv_sec += (time_t) (ns / 1000000000u);
	until.tv_nsec = (long) (ns % 1000000000u);
	pthread_cond_timedwait(&worker->woken, &worker->lock, &until);
}

static void *
work(void *ctx)
{
	struct kms_worker *worker = ctx;
	struct kms_dek *dek = worker->core->dek;
	bool due = false; /* a refill that the HSM did not let through */

	pthread_mutex_lock(&worker->lock);
	while (!atomic_load(&worker->stop)) {
		bool refill = worker->refill || due;
		uint64_t wait;

		worker->refill = worker->expire = false;
		pthread_mutex_unlock(&worker->lock);
		if (refill)
			due = !kms_pools_refill(dek->pools, &worker->stop);
		wait = kms_cache_expire(dek->cache);
		pthread_mutex_lock(&worker->lock);
		if (due && (!wait || wait > RETRY_NS))
			wait = RETRY_NS;
		if (!worker->refill && !worker->expire && !atomic_load(&worker->stop))
			wait_for(worker, wait);
	}
	pthread_mutex_unlock(&worker->lock);
	return NULL;
}

void
kms_worker_wake(struct kms_worker *worker, bool refill)
{
	pthread_mutex_lock(&worker->lock);
	if (!worker->started && !worker->failed) {
		sigset_t all, old;

		/* Signals are for the threads of the program. */
		sigfillset(&all);
		pthread_sigmask(SIG_SETMASK, &all, &old);
		if (pthread_create(&worker->thread, NULL, work, worker) == 0) {
			worker->started = true;
		} else {
			worker->failed = true;
			base_log(LOG_WARNING, "no thread for the pool of data keys: creating files waits for the HSM");
		}
		pthread_sigmask(SIG_SETMASK, &old, NULL);
		worker->expire = true;
	}
	if (refill && !worker->refill) {
		worker->refill = true;
		pthread_cond_signal(&worker->woken);
	}
	pthread_mutex_unlock(&worker->lock);
}

void
kms_worker_free(struct kms_worker *worker)
{
	if (!worker)
		return;
	atomic_store(&worker->stop, true);
	pthread_mutex_lock(&worker->lock);
	pthread_cond_signal(&worker->woken);
	pthread_mutex_unlock(&worker->lock);
	if (worker->started)
		pthread_join(worker->thread, NULL);
	pthread_mutex_destroy(&worker->lock);
	pthread_cond_destroy(&worker->woken);
	free(worker);
}
