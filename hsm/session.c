/*
 * The session pool: read-only sessions, opened when first needed, at most max_sessions. h->lock is held by every caller,
 * so the slot does not change underneath.
 */
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "internal.h"

#define WAIT_SECONDS 10

int hsm_session_init(struct hsm *h)
{
	pthread_condattr_t attr;

	h->idle = calloc(h->max_sessions, sizeof(*h->idle));
	if (!h->idle)
		return -ENOMEM;
	h->open_max = h->max_sessions;
	pthread_mutex_init(&h->pool_lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&h->pool_cond, &attr);
	pthread_condattr_destroy(&attr);
	return 0;
}

void hsm_session_done(struct hsm *h)
{
	if (!h->idle)
		return;
	free(h->idle);
	h->idle = NULL;
	pthread_mutex_destroy(&h->pool_lock);
	pthread_cond_destroy(&h->pool_cond);
}

/* Waits until a session is idle or one more may be opened. pool_lock is held. */
static int wait_for_room(struct hsm *h)
{
	struct timespec until;
	int ret = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += WAIT_SECONDS;
	while (ret == 0 && h->idle_count == 0 && h->open_count >= h->open_max)
		ret = pthread_cond_timedwait(&h->pool_cond, &h->pool_lock, &until);
	return h->idle_count > 0 || h->open_count < h->open_max ? 0 : -ETIMEDOUT;
}

/* Gives up the place of a session that was, or was to be, open. */
static void leave(struct hsm *h, CK_RV rv)
{
	pthread_mutex_lock(&h->pool_lock);
	h->open_count--;
	if (rv == CKR_SESSION_COUNT && h->open_count > 0 && h->open_count < h->open_max)
		h->open_max = h->open_count; /* the token has fewer than we may use */
	pthread_cond_signal(&h->pool_cond);
	pthread_mutex_unlock(&h->pool_lock);
}

int hsm_session_take(struct hsm *h, CK_SESSION_HANDLE *ret, CK_RV *rv, struct base_error *err)
{
	for (;;) {
		pthread_mutex_lock(&h->pool_lock);
		if (wait_for_room(h) < 0) {
			pthread_mutex_unlock(&h->pool_lock);
			return base_error_set(err, -ETIMEDOUT, BASE_EXIT_UNREACHABLE,
					      "no session of token \"%s\" became free within %d seconds; it is slow or overloaded, "
					      "try again", h->label, WAIT_SECONDS);
		}
		if (h->idle_count > 0) {
			*ret = h->idle[--h->idle_count];
			pthread_mutex_unlock(&h->pool_lock);
			return 0;
		}
		h->open_count++;
		pthread_mutex_unlock(&h->pool_lock);
		*rv = h->f->C_OpenSession(h->slot_id, CKF_SERIAL_SESSION, NULL, NULL, ret);
		if (*rv == CKR_OK)
			return 0;
		leave(h, *rv);
		if (*rv != CKR_SESSION_COUNT || h->open_max == h->max_sessions)
			return -EIO;
	}
}

void hsm_session_give(struct hsm *h, CK_SESSION_HANDLE session)
{
	pthread_mutex_lock(&h->pool_lock);
	h->idle[h->idle_count++] = session;
	pthread_cond_signal(&h->pool_cond);
	pthread_mutex_unlock(&h->pool_lock);
}

void hsm_session_drop(struct hsm *h, CK_SESSION_HANDLE session)
{
	h->f->C_CloseSession(session);
	leave(h, CKR_OK);
}

void hsm_session_drop_all(struct hsm *h)
{
	pthread_mutex_lock(&h->pool_lock);
	while (h->idle_count > 0) {
		h->idle_count--;
		h->open_count--;
		if (h->f)
			h->f->C_CloseSession(h->idle[h->idle_count]);
	}
	h->open_max = h->max_sessions;
	pthread_mutex_unlock(&h->pool_lock);
}
