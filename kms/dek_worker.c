/*
 * One thread, started when first needed: refills the pools, wipes cached DEKs whose time is over, and syncs the store soon
 * after dirty rows were inserted, so that a file's header with DIRTY in it rarely reaches the disk before its row.
 */
#include "dek.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "store.h"

#define RETRY_NS 1000000000ull /* after the HSM has failed */

struct kms_worker {
	struct kms_core *core;
	pthread_mutex_t lock; /* guards started, failed, refill, expire, expire_timed, sync_at, thread */
	pthread_cond_t woken;
	bool started, failed;
	bool refill, expire;
	bool expire_timed; /* the thread knows when the cache is due next */
	uint64_t sync_at; /* monotonic; 0: nothing to sync */
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

/* Nanoseconds until the next thing to do: the least of those that are not 0. */
static uint64_t
least(uint64_t a, uint64_t b)
{
	return !a ? b : !b || a < b ? a : b;
}

/* The lock is held; it is released while syncing. Returns how long until a sync is due, 0: none is. */
static uint64_t
sync_step(struct kms_worker *worker)
{
	uint64_t now = base_clock_mono_ns();

	if (!worker->sync_at || worker->sync_at > now)
		return worker->sync_at ? worker->sync_at - now : 0;
	worker->sync_at = 0;
	pthread_mutex_unlock(&worker->lock);
	kms_store_sync(worker->core->store);
	pthread_mutex_lock(&worker->lock);
	return worker->sync_at ? KMS_WORK_SYNC_NS : 0;
}

static void *
work(void *ctx)
{
	struct kms_worker *worker = ctx;
	struct kms_dek *dek = worker->core->dek;
	uint64_t expire_at = 0; /* monotonic; the cache is walked then, not at every wake-up; 0: when told to */
	bool due = false;       /* a refill that the HSM did not let through */

	pthread_mutex_lock(&worker->lock);
	while (!atomic_load(&worker->stop)) {
		bool refill = worker->refill || due, expire = worker->expire || (expire_at && expire_at <= base_clock_mono_ns());
		uint64_t wait = 0, now;

		worker->refill = worker->expire = false;
		pthread_mutex_unlock(&worker->lock);
		if (refill)
			due = !kms_pools_refill(dek->pools, &worker->stop);
		if (expire)
			wait = kms_cache_expire(dek->cache);
		now = base_clock_mono_ns();
		if (expire)
			expire_at = wait ? now + wait : 0;
		else if (expire_at)
			wait = expire_at > now ? expire_at - now : 1;
		pthread_mutex_lock(&worker->lock);
		worker->expire_timed = expire_at != 0;
		wait = least(wait, sync_step(worker));
		if (due)
			wait = least(wait, RETRY_NS);
		if (!worker->refill && !worker->expire && !atomic_load(&worker->stop))
			wait_for(worker, wait);
	}
	pthread_mutex_unlock(&worker->lock);
	return NULL;
}

/* The lock is held. */
static void
start(struct kms_worker *worker)
{
	sigset_t all, old;

	/* Signals are for the threads of the program. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	if (pthread_create(&worker->thread, NULL, work, worker) == 0) {
		worker->started = true;
	} else {
		worker->failed = true;
		base_log(LOG_WARNING, "no thread beside the data keys: creating files waits for the HSM");
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

void
kms_worker_wake(struct kms_worker *worker, enum kms_work what)
{
	bool signal = false;

	pthread_mutex_lock(&worker->lock);
	if (!worker->started && !worker->failed) {
		start(worker);
		worker->expire = true;
	}
	if (what == KMS_WORK_REFILL && !worker->refill)
		signal = worker->refill = true;
	if (what == KMS_WORK_EXPIRE && !worker->expire && !worker->expire_timed)
		signal = worker->expire = true;
	if (what == KMS_WORK_SYNC && !worker->sync_at) {
		worker->sync_at = base_clock_mono_ns() + KMS_WORK_SYNC_NS;
		signal = true;
	}
	if (signal)
		pthread_cond_signal(&worker->woken);
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
