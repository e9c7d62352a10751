/*
 * Workers take turns: one, the leader, reads requests and answers quick ones itself; nobody else waits in the kernel, so a request wakes one
 * thread at most. Before a long one (bulk data, fsync) it hands the lead to another worker. A request that turns out to be slow
 * (a cold disk, an HSM) is noticed by the sentinel, a thread that looks every millisecond while there is traffic: it takes the lead away and wakes
 * another worker, or makes one.
 *
 * A leader polls the device for SPIN_NS before it sleeps: that saves two wake-ups per request in a busy stretch. One thread of the process polls
 * at a time, never while another worker of the session is busy, never on one processor, less and less often when it was in vain, and not for a
 * while after it was preempted: then the processors have better work.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include <utlist.h>

#include "base/clock.h"
#include "base/log.h"
#include "creds.h"
#include "device.h"
#include "ops.h"
#include "raw.h"
#include "session.h"

#define WORKERS_FIRST 3
#define WORKERS_MAX 32
#define MAX_WRITE (1u << 20)
#define BUFFER_SIZE (MAX_WRITE + 8192)
#define SPIN_NS 100000
#define SPIN_SKIP_MAX 64
#define PREEMPTED_NS 30000
#define CALM_NS 20000000
#define TICK_NS 1000000
#define IDLE_TICKS 20
#define READY_SECONDS 30

struct worker {
	struct session *session;
	pthread_t thread;
	int blocking, polling; /* two clones of the connection; -1: none */
	char *in, *out;        /* BUFFER_SIZE each: they hold plaintext, so they are locked where that is allowed */
	unsigned missed, skip; /* polls in vain in a row, sleeps until the next try */
	uint64_t calm;         /* no polling before this time */
};

struct session {
	struct mount *mount;
	struct fuse_session *fuse;
	int fd;
	pthread_mutex_t lock;   /* guards leader, waiting, busy, count, alive, exit, ready */
	pthread_cond_t follow;  /* the lead is free, or exit */
	pthread_cond_t changed; /* alive, ready or exit changed */
	bool led;
	unsigned waiting, count, alive;
	bool ready;
	atomic_bool exit;
	atomic_uint busy;       /* workers in a long request */
	atomic_uint_fast64_t turn; /* of the leader: request number << 1 | being processed; the sentinel steals by changing it */
	atomic_bool parked;     /* the leader sleeps in the kernel */
	pthread_t sentinel;
	pthread_mutex_t nap_lock; /* guards napping */
	pthread_cond_t nap;
	atomic_bool napping;
	struct raw raw;         /* set while INIT is answered, constant then */
	struct worker workers[WORKERS_MAX];
	pthread_t later;        /* started by its first job; guarded by lock: later_runs and jobs */
	pthread_cond_t job_came;
	bool later_runs;
	struct job *jobs;
};

/* A request that waits for others: it must not take a worker, or all of them could wait for one another. */
struct job {
	struct job *prev, *next;
	session_later_fn fn;
	struct fuse_req *req;
	uint64_t ino;
	int64_t off;
	int whence, fd;
	struct content *content;
};

static atomic_flag spinner = ATOMIC_FLAG_INIT; /* held by the one thread of the process that polls */

static _Thread_local struct worker *self;
static _Thread_local int reply_fd = -1; /* answers go where the request came from */

char *session_buffer(size_t *size)
{
	if (*size > BUFFER_SIZE)
		*size = BUFFER_SIZE;
	return self->out;
}

/* ---- what libfuse calls ---- */

static bool backing_has_acl(int fd)
{
	return fgetxattr(fd, "system.posix_acl_access", NULL, 0) >= 0 || errno == ENODATA;
}

void session_init(void *userdata, struct fuse_conn_info *conn)
{
	struct mount *m = userdata;

	conn->max_write = MAX_WRITE;
	conn->max_background = 64;
	conn->want &= ~(unsigned)(FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_HANDLE_KILLPRIV); /* nobody else changes a vault that we hold */
	if (m->options.shared && (conn->capable & FUSE_CAP_AUTO_INVAL_DATA))
		conn->want |= FUSE_CAP_AUTO_INVAL_DATA;
	if (m->writeback && (conn->capable & FUSE_CAP_WRITEBACK_CACHE))
		conn->want |= FUSE_CAP_WRITEBACK_CACHE;
	/* With ACLs, what of umask applies is decided here. */
	m->acl = backing_has_acl(vault_root_fd(m->vault)) && (conn->capable & FUSE_CAP_POSIX_ACL) && (conn->capable & FUSE_CAP_DONT_MASK);
	if (m->acl)
		conn->want |= FUSE_CAP_POSIX_ACL | FUSE_CAP_DONT_MASK;
}

static ssize_t io_writev(int fd, struct iovec *iov, int count, void *userdata)
{
	struct mount *m = userdata;
	struct session *s = m->session;
	bool init = raw_answer(&s->raw, iov, count, m->options.cache_none, m->options.shared);
	ssize_t n = writev(reply_fd >= 0 ? reply_fd : fd, iov, count);

	if (init) {
		pthread_mutex_lock(&s->lock);
		s->ready = n >= 0;
		pthread_cond_broadcast(&s->changed);
		pthread_mutex_unlock(&s->lock);
	}
	return n;
}

static ssize_t io_read(int fd, void *buf, size_t size, void *userdata)
{
	return read(fd, buf, size);
}

static const struct fuse_custom_io io = { .writev = io_writev, .read = io_read };

/* ---- requests ---- */

static void leave(struct session *s)
{
	pthread_mutex_lock(&s->lock);
	atomic_store(&s->exit, true);
	pthread_cond_broadcast(&s->follow);
	pthread_cond_broadcast(&s->changed);
	pthread_cond_broadcast(&s->job_came);
	pthread_mutex_unlock(&s->lock);
}

/* Polls for a request: its size, 0 when none came in time, -errno. */
static ssize_t poll_request(struct worker *w)
{
	struct session *s = w->session;
	uint64_t now, before, end;
	ssize_t n;

	if (w->polling < 0 || atomic_load(&s->busy) > 0)
		return 0;
	now = base_clock_mono_ns();
	if (now < w->calm)
		return 0;
	if (w->skip > 0) {
		w->skip--;
		return 0;
	}
	if (atomic_flag_test_and_set(&spinner))
		return 0;
	end = now + SPIN_NS;
	do {
		n = read(w->polling, w->in, BUFFER_SIZE);
		if (n >= 0 || errno != EAGAIN)
			break;
		before = now;
		now = base_clock_mono_ns();
		if (now - before > PREEMPTED_NS) { /* somebody else needs this processor */
			w->calm = now + CALM_NS;
			break;
		}
	} while (now < end);
	if (n < 0)
		n = errno == EAGAIN ? 0 : -errno;
	atomic_flag_clear(&spinner);
	if (n > 0)
		w->missed = 0;
	else if (++w->missed > 4)
		w->skip = 1u << (w->missed < 10 ? w->missed - 4 : 6);
	if (w->skip > SPIN_SKIP_MAX)
		w->skip = SPIN_SKIP_MAX;
	return n;
}

static void wake_sentinel(struct session *s)
{
	pthread_mutex_lock(&s->nap_lock);
	atomic_store(&s->napping, false);
	pthread_cond_signal(&s->nap);
	pthread_mutex_unlock(&s->nap_lock);
}

/* The next request into w->in: its size, 0: try again, -errno: the connection is over. */
static ssize_t receive(struct worker *w)
{
	struct session *s = w->session;
	ssize_t n = poll_request(w);

	reply_fd = w->polling;
	if (n == 0) {
		atomic_store(&s->parked, true);
		reply_fd = w->blocking >= 0 ? w->blocking : s->fd;
		n = read(reply_fd, w->in, BUFFER_SIZE);
		if (n < 0)
			n = -errno;
		atomic_store(&s->parked, false);
		if (atomic_load(&s->napping))
			wake_sentinel(s);
	}
	if (n == -EINTR || n == -EAGAIN || n == -ENOENT)
		return 0;
	if (n >= 0 && (size_t)n < sizeof(struct fuse_in_header))
		return -EIO;
	return n;
}

static void process(struct worker *w, size_t size)
{
	struct fuse_buf buf = { .size = size, .mem = w->in };

	fuse_session_process_buf(w->session->fuse, &buf);
	if (fuse_session_exited(w->session->fuse))
		leave(w->session);
}

static int add_worker(struct session *s);

/* Somebody else leads from now on. The lock is held. */
static void free_lead(struct session *s)
{
	s->led = false;
	if (s->waiting > 0)
		pthread_cond_signal(&s->follow);
	else if (s->count < WORKERS_MAX)
		add_worker(s);
}

/* Reads and answers until the lead is gone. */
static void lead(struct worker *w)
{
	struct session *s = w->session;
	uint_fast64_t mine;
	ssize_t n;

	while (!atomic_load(&s->exit)) {
		n = receive(w);
		if (n < 0)
			leave(s);
		if (n <= 0)
			continue;
		n = (ssize_t)raw_request(&s->raw, (struct fuse_in_header *)w->in, (size_t)n);
		if (raw_long((struct fuse_in_header *)w->in)) {
			atomic_fetch_add(&s->busy, 1);
			pthread_mutex_lock(&s->lock);
			free_lead(s);
			pthread_mutex_unlock(&s->lock);
			process(w, (size_t)n);
			atomic_fetch_sub(&s->busy, 1);
			return;
		}
		mine = (atomic_load(&s->turn) | 1) + 2;
		atomic_store(&s->turn, mine);
		process(w, (size_t)n);
		if (!atomic_compare_exchange_strong(&s->turn, &mine, mine & ~(uint_fast64_t)1)) {
			atomic_fetch_sub(&s->busy, 1); /* the sentinel counted us */
			return;
		}
	}
}

static void *work(void *arg)
{
	struct worker *w = self = arg;
	struct session *s = w->session;

	creds_limited(true);
	for (;;) {
		pthread_mutex_lock(&s->lock);
		while (s->led && !atomic_load(&s->exit)) {
			s->waiting++;
			pthread_cond_wait(&s->follow, &s->lock);
			s->waiting--;
		}
		s->led = true;
		if (atomic_load(&s->exit))
			break;
		pthread_mutex_unlock(&s->lock);
		lead(w);
	}
	s->alive--;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

/* ---- the sentinel ---- */

/* Takes the lead from a worker that is still at the request which it had a tick ago. */
static void steal(struct session *s, uint_fast64_t seen)
{
	atomic_fetch_add(&s->busy, 1);
	if (!atomic_compare_exchange_strong(&s->turn, &seen, (seen & ~(uint_fast64_t)1) + 2)) {
		atomic_fetch_sub(&s->busy, 1);
		return;
	}
	pthread_mutex_lock(&s->lock);
	free_lead(s);
	pthread_mutex_unlock(&s->lock);
}

static void take_nap(struct session *s)
{
	pthread_mutex_lock(&s->nap_lock);
	atomic_store(&s->napping, true);
	while (atomic_load(&s->napping) && atomic_load(&s->parked) && !atomic_load(&s->exit))
		pthread_cond_wait(&s->nap, &s->nap_lock);
	atomic_store(&s->napping, false);
	pthread_mutex_unlock(&s->nap_lock);
}

static void *watch(void *arg)
{
	const struct timespec tick = { 0, TICK_NS };
	struct session *s = arg;
	uint_fast64_t before = 0, now;
	unsigned idle = 0;

	while (!atomic_load(&s->exit)) {
		nanosleep(&tick, NULL);
		now = atomic_load(&s->turn);
		if ((now & 1) && now == before)
			steal(s, now);
		before = now;
		idle = atomic_load(&s->parked) ? idle + 1 : 0;
		if (idle > IDLE_TICKS) {
			take_nap(s);
			idle = 0;
		}
	}
	return NULL;
}

/* ---- requests that wait for others ---- */

static void *work_later(void *arg)
{
	struct session *s = arg;
	struct job *job;

	pthread_mutex_lock(&s->lock);
	while (s->jobs || !atomic_load(&s->exit)) {
		job = s->jobs;
		if (!job) {
			pthread_cond_wait(&s->job_came, &s->lock);
			continue;
		}
		DL_DELETE(s->jobs, job);
		pthread_mutex_unlock(&s->lock);
		reply_fd = job->fd;
		job->fn(job->req, job->ino, job->off, job->whence, job->content);
		free(job);
		pthread_mutex_lock(&s->lock);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

int session_later(struct mount *m, session_later_fn fn, struct fuse_req *req, uint64_t ino, int64_t off, int whence, struct content *c)
{
	struct session *s = m->session;
	struct job *job = malloc(sizeof *job);
	int r = job ? 0 : -ENOMEM;

	pthread_mutex_lock(&s->lock);
	if (r == 0 && !s->later_runs) {
		r = -pthread_create(&s->later, NULL, work_later, s);
		s->later_runs = r == 0;
	}
	if (r == 0) {
		*job = (struct job){ .fn = fn, .req = req, .ino = ino, .off = off, .whence = whence, .fd = reply_fd, .content = c };
		DL_APPEND(s->jobs, job);
		pthread_cond_signal(&s->job_came);
	}
	pthread_mutex_unlock(&s->lock);
	if (r < 0)
		free(job);
	return r;
}

void session_forget_attr(struct mount *m, uint64_t ino)
{
	fuse_lowlevel_notify_inval_inode(m->session->fuse, ino, -1, 0);
}

void session_flush(struct mount *m, uint64_t ino)
{
	fuse_lowlevel_notify_inval_inode(m->session->fuse, ino, 0, 0);
}

/* ---- start and end ---- */

static char *buffer(void)
{
	char *p = mmap(NULL, BUFFER_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	madvise(p, BUFFER_SIZE, MADV_DONTDUMP);
	mlock2(p, BUFFER_SIZE, MLOCK_ONFAULT); /* a user's limit can be too small for this; the keys come first */
	return p;
}

static void worker_done(struct worker *w)
{
	if (w->blocking >= 0)
		close(w->blocking);
	if (w->polling >= 0)
		close(w->polling);
	if (w->in)
		munmap(w->in, BUFFER_SIZE);
	if (w->out)
		munmap(w->out, BUFFER_SIZE);
}

/* The lock is held, or no worker runs yet. */
static int add_worker(struct session *s)
{
	struct worker *w = &s->workers[s->count];
	sigset_t all, before;
	int r;

	w->session = s;
	w->in = buffer();
	w->out = buffer();
	w->blocking = device_clone(s->fd);
	w->polling = w->blocking >= 0 && sysconf(_SC_NPROCESSORS_ONLN) > 1 ? device_clone(s->fd) : -1;
	if (w->polling >= 0 && fcntl(w->polling, F_SETFL, O_RDWR | O_NONBLOCK) < 0) {
		close(w->polling);
		w->polling = -1;
	}
	sigfillset(&all);
	sigdelset(&all, SIGUSR1); /* session_stop interrupts a read with it */
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = w->in && w->out ? -pthread_create(&w->thread, NULL, work, w) : -ENOMEM;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r < 0) {
		worker_done(w);
		return r;
	}
	s->count++;
	s->alive++;
	return 0;
}

static void nothing(int sig)
{
}

static int start_threads(struct session *s)
{
	struct sigaction act = { .sa_handler = nothing };
	int i, r;

	sigaction(SIGUSR1, &act, NULL);
	r = -pthread_create(&s->sentinel, NULL, watch, s);
	if (r < 0)
		return r;
	pthread_mutex_lock(&s->lock);
	for (i = 0; i < WORKERS_FIRST && (r == 0 || i > 0); i++)
		r = add_worker(s);
	if (s->count > 0)
		r = 0;
	pthread_mutex_unlock(&s->lock);
	if (r < 0) {
		leave(s);
		wake_sentinel(s);
		pthread_join(s->sentinel, NULL);
	}
	return r;
}

static int await_ready(struct session *s)
{
	struct timespec until;
	int r = 0;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += READY_SECONDS;
	pthread_mutex_lock(&s->lock);
	while (!s->ready && !atomic_load(&s->exit) && r == 0)
		r = pthread_cond_timedwait(&s->changed, &s->lock, &until);
	r = s->ready ? 0 : -EIO; /* it may be over already: unmounted at once */
	pthread_mutex_unlock(&s->lock);
	return r;
}

static struct session *session_new(struct mount *m)
{
	char *argv[] = { (char *)"keepfs", NULL };
	struct fuse_args args = { .argc = 1, .argv = argv };
	struct session *s = calloc(1, sizeof *s);

	if (!s)
		return NULL;
	s->mount = m;
	s->fd = -1;
	pthread_mutex_init(&s->lock, NULL);
	pthread_mutex_init(&s->nap_lock, NULL);
	pthread_cond_init(&s->follow, NULL);
	pthread_cond_init(&s->changed, NULL);
	pthread_cond_init(&s->nap, NULL);
	pthread_cond_init(&s->job_came, NULL);
	s->fuse = fuse_session_new(&args, &ops_table, sizeof ops_table, m);
	fuse_opt_free_args(&args); /* libfuse made a copy of the list */
	if (!s->fuse) {
		free(s);
		return NULL;
	}
	return s;
}

void session_free(struct session *s)
{
	if (!s)
		return;
	fuse_session_destroy(s->fuse); /* closes the connection's fd once it has it */
	free(s);
}

int session_start(struct mount *m, struct base_error *err)
{
	struct session *s = session_new(m);
	int r;

	if (!s)
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "out of memory");
	m->session = s;
	r = device_mount(m, &s->fd, err);
	if (r < 0) {
		session_free(s);
		m->session = NULL;
		return r;
	}
	r = fuse_session_custom_io(s->fuse, &io, s->fd);
	if (r == 0)
		r = start_threads(s);
	if (r == 0) {
		r = await_ready(s);
		if (r == 0) {
			device_readahead(m->mountpoint, 1024);
			return 0;
		}
		device_unmount(m->mountpoint, true);
		session_stop(s);
		session_join(s);
	} else {
		device_unmount(m->mountpoint, true);
	}
	session_free(s);
	m->session = NULL;
	return base_error_set(err, r, BASE_EXIT_FAILED, "cannot mount at %s: the kernel did not accept the connection: %s", m->mountpoint, strerror(-r));
}

void session_join(struct session *s)
{
	unsigned i;

	pthread_mutex_lock(&s->lock);
	while (s->alive > 0)
		pthread_cond_wait(&s->changed, &s->lock);
	pthread_mutex_unlock(&s->lock);
	wake_sentinel(s);
	pthread_join(s->sentinel, NULL);
	if (s->later_runs)
		pthread_join(s->later, NULL);
	for (i = 0; i < s->count; i++) {
		pthread_join(s->workers[i].thread, NULL);
		worker_done(&s->workers[i]);
	}
}

void session_stop(struct session *s)
{
	const struct timespec pause = { 0, 10000000 };
	unsigned i, alive;

	leave(s);
	for (;;) { /* a signal that comes just before the read is lost, so it is sent again */
		pthread_mutex_lock(&s->lock);
		alive = s->alive;
		for (i = 0; alive > 0 && i < s->count; i++)
			pthread_kill(s->workers[i].thread, SIGUSR1);
		pthread_mutex_unlock(&s->lock);
		if (alive == 0)
			return;
		nanosleep(&pause, NULL);
	}
}

int session_unmount(struct session *s, bool lazy)
{
	return device_unmount(s->mount->mountpoint, lazy);
}
