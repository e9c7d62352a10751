/*
 * The life of mounts in a service.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <utlist.h>

#include "base/log.h"
#include "device.h"
#include "ops.h"
#include "service.h"
#include "session.h"
#include "vault/path.h"

#define SETTLE_SECONDS 30
#define TIMEOUT 3600.0
#define TIMEOUT_SHARED 1.0
#define ENDING_SECONDS 20

static int record(struct mount *m, const struct kms_caller *caller, const char *action, const char *reason)
{
	struct kms_subject about = { .purpose = KMS_PURPOSE_VAULT };

	memcpy(about.vault_id, vault_id(m->vault), BASE_ID_SIZE);
	memcpy(about.file_id, vault_id(m->vault), BASE_ID_SIZE);
	return kms_audit_write(m->core, caller, action, &about, 0, reason);
}

/* Rows of files that are sealed and closed go once all of it is durable. */
static void settle(struct mount *m)
{
	struct kms_dirty_batch *batch = NULL;

	if (kms_dirty_collect(m->core, vault_id(m->vault), &batch) < 0 || !batch)
		return;
	if (syncfs(vault_root_fd(m->vault)) < 0) {
		base_log(LOG_ERR, "%s: syncfs: %s", vault_path(m->vault), strerror(errno));
		free(batch);
		return; /* the rows stay: that costs a check of these files after a crash */
	}
	kms_dirty_forget(m->core, batch);
}

/* ---- the timer ---- */

static void *tick(void *arg)
{
	struct mount *m = arg;
	struct timespec next;
	unsigned n = 0;

	pthread_mutex_lock(&m->timer_lock);
	while (!m->timer_stop) {
		clock_gettime(CLOCK_REALTIME, &next);
		next.tv_sec++;
		if (pthread_cond_timedwait(&m->timer_wake, &m->timer_lock, &next) != ETIMEDOUT)
			continue;
		pthread_mutex_unlock(&m->timer_lock);
		content_idle(m);
		if (++n % SETTLE_SECONDS == 0)
			settle(m);
		pthread_mutex_lock(&m->timer_lock);
	}
	pthread_mutex_unlock(&m->timer_lock);
	return NULL;
}

static void stop_timer(struct mount *m)
{
	pthread_mutex_lock(&m->timer_lock);
	m->timer_stop = true;
	pthread_cond_signal(&m->timer_wake);
	pthread_mutex_unlock(&m->timer_lock);
	pthread_join(m->timer, NULL);
}

/* ---- making and ending ---- */

static void mount_free(struct mount *m)
{
	pthread_rwlock_destroy(&m->tree);
	pthread_mutex_destroy(&m->timer_lock);
	pthread_cond_destroy(&m->timer_wake);
	vault_put(m->vault);
	options_mount_done(&m->options);
	free(m->text);
	free(m->mountpoint);
	free(m);
}

struct reaping {
	struct service *service;
	struct mount *mount;
};

/* Waits for the end of a mount, whoever ended it, and settles what it left. */
static void *reap(void *arg)
{
	struct reaping *what = arg;
	struct service *s = what->service;
	struct mount *m = what->mount;
	struct kms_caller self = kms_caller_self(KMS_VIA_SERVICE);

	free(what);
	session_join(m->session);
	stop_timer(m);
	content_drop_all(m);
	ops_dir_drop_all(m);
	settle(m);
	record(m, &self, "unmount", m->mountpoint);
	inode_table_done(&m->table);
	pthread_mutex_lock(&s->lock);
	DL_DELETE(s->mounts, m);
	pthread_cond_broadcast(&s->changed);
	while (m->users > 0)
		pthread_cond_wait(&s->changed, &s->lock);
	pthread_mutex_unlock(&s->lock);
	session_free(m->session);
	mount_free(m);
	pthread_mutex_lock(&s->lock);
	s->count--;
	pthread_cond_broadcast(&s->changed);
	pthread_kill(s->main_thread, SIGUSR2);
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

/* Detached from the start: the mount can end, and be freed, before this returns. */
static int start_reaper(struct reaping *what)
{
	pthread_attr_t attr;
	pthread_t thread;
	int r;

	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	r = -pthread_create(&thread, &attr, reap, what);
	pthread_attr_destroy(&attr);
	return r;
}

int service_check_mountpoint(const char *path, bool nonempty, struct base_error *err)
{
	struct dirent *d;
	bool empty = true;
	DIR *dir;

	if (device_is_mount(path))
		return base_error_set(err, -EBUSY, BASE_EXIT_FAILED, "something is mounted at %s already; unmount it first", path);
	dir = opendir(path);
	if (!dir)
		return base_error_set(err, -errno, errno == ENOENT ? BASE_EXIT_NOT_FOUND : BASE_EXIT_FAILED, "mountpoint %s: %s", path, strerror(errno));
	while (empty && (d = readdir(dir)) != NULL)
		empty = !strcmp(d->d_name, ".") || !strcmp(d->d_name, "..");
	closedir(dir);
	if (!empty && !nonempty)
		return base_error_set(err, -ENOTEMPTY, BASE_EXIT_FAILED,
				      "mountpoint %s is not empty; choose an empty directory, or use -o nonempty", path);
	return 0;
}

static bool below(const char *path, const char *dir)
{
	size_t len = strlen(dir);

	return !strncmp(path, dir, len) && (path[len] == '\0' || path[len] == '/');
}

static struct mount *mount_new(struct service *s, const char *mountpoint, const char *text, struct base_error *err)
{
	struct mount *m = calloc(1, sizeof *m);
	pthread_rwlockattr_t attr;

	if (!m || !(m->mountpoint = strdup(mountpoint)) || !(m->text = strdup(text))) {
		base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "out of memory");
		goto fail;
	}
	if (options_mount_parse(text, &m->options, err) < 0)
		goto fail;
	m->core = s->core;
	m->root = geteuid() == 0;
	m->timeout = m->options.cache_none ? 0 : m->options.shared ? TIMEOUT_SHARED : TIMEOUT;
	m->absent_timeout = m->options.shared ? 0 : m->timeout;
	m->writeback = !m->options.cache_none && !m->options.shared;
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP); /* renames are not to starve */
	pthread_rwlock_init(&m->tree, &attr);
	pthread_rwlockattr_destroy(&attr);
	pthread_mutex_init(&m->timer_lock, NULL);
	pthread_cond_init(&m->timer_wake, NULL);
	return m;
fail:
	if (m) {
		free(m->mountpoint);
		free(m->text);
		free(m);
	}
	return NULL;
}

static struct mount *same_vault(struct service *s, const struct mount *m)
{
	struct mount *other;

	DL_FOREACH(s->mounts, other)
		if (!memcmp(vault_id(other->vault), vault_id(m->vault), BASE_ID_SIZE))
			return other;
	return NULL;
}

/* A mount of the same vault that has just been taken away is waited for: its files are being sealed. */
static int check_unused(struct service *s, const struct mount *m, struct base_error *err)
{
	struct timespec until;
	struct mount *other;
	int r = 0;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += ENDING_SECONDS;
	pthread_mutex_lock(&s->lock);
	while ((other = same_vault(s, m)) != NULL && r == 0) {
		if (device_is_mount(other->mountpoint))
			r = base_error_set(err, -EBUSY, BASE_EXIT_FAILED, "the vault %s is mounted at %s already; unmount it there first",
					   vault_path(m->vault), other->mountpoint);
		else if (pthread_cond_timedwait(&s->changed, &s->lock, &until) == ETIMEDOUT)
			r = base_error_set(err, -EBUSY, BASE_EXIT_FAILED, "files of the vault %s are still in use, though it is no longer mounted at %s",
					   vault_path(m->vault), other->mountpoint);
	}
	pthread_mutex_unlock(&s->lock);
	return r;
}

/* The parts that stand on an open vault; undone in reverse when one fails. */
static int bring_up(struct service *s, struct mount *m, const struct kms_caller *caller, struct base_error *err)
{
	struct reaping *what = malloc(sizeof *what);
	struct vault_dir root;
	int r;

	r = what ? vault_dir_read(m->vault, vault_root_fd(m->vault), NULL, &root) : -ENOMEM;
	if (r == 0)
		r = inode_table_init(&m->table, vault_root_fd(m->vault), &root);
	if (r < 0) {
		free(what);
		return base_error_set(err, r, r == -EBADMSG ? BASE_EXIT_INTEGRITY : BASE_EXIT_FAILED, "the root directory of %s cannot be read: %s",
				      vault_path(m->vault), r == -EBADMSG ? "its record does not authenticate" : strerror(-r));
	}
	vault_set_strict(m->vault, m->options.strict);
	vault_set_verify(m->vault, m->options.verify);
	r = record(m, caller, "mount", m->mountpoint);
	if (r < 0)
		base_error_set(err, r, BASE_EXIT_FAILED, "the audit trail cannot be written: %s; nothing is mounted", strerror(-r));
	else
		r = session_start(m, err);
	if (r < 0) {
		inode_table_done(&m->table);
		free(what);
		return r;
	}
	what->service = s;
	what->mount = m;
	r = -pthread_create(&m->timer, NULL, tick, m);
	if (r == 0) {
		pthread_mutex_lock(&s->lock);
		DL_APPEND(s->mounts, m);
		s->count++;
		pthread_mutex_unlock(&s->lock);
		r = start_reaper(what);
	}
	if (r < 0) { /* no thread to be had: the process cannot go on as it is */
		base_log(LOG_ERR, "cannot start a thread: %s", strerror(-r));
		device_unmount(m->mountpoint, true);
		_exit(BASE_EXIT_FAILED);
	}
	return 0;
}

static int mount_vault(struct service *s, const struct kms_caller *caller, const char *path, const char *mountpoint, const char *text,
		       struct base_error *err)
{
	struct mount *m = mount_new(s, mountpoint, text, err);
	int r;

	if (!m)
		return err->code;
	r = service_check_mountpoint(mountpoint, m->options.nonempty, err);
	if (r == 0 && below(mountpoint, path))
		r = base_error_set(err, -EINVAL, BASE_EXIT_FAILED, "the mountpoint %s lies in the vault %s; choose one outside", mountpoint, path);
	if (r == 0)
		r = vault_get_as(s->core, caller, path, m->options.shared, &m->vault, err);
	if (r == 0)
		r = check_unused(s, m, err);
	if (r == 0)
		r = bring_up(s, m, caller, err);
	if (r < 0)
		mount_free(m);
	return r;
}

int service_mount(struct service *s, const struct kms_caller *caller, const char *path, const char *mountpoint, const char *text, struct base_error *err)
{
	int r;

	pthread_mutex_lock(&s->lock);
	if (s->closing) {
		pthread_mutex_unlock(&s->lock);
		return base_error_set(err, -EAGAIN, BASE_EXIT_UNREACHABLE, "the service is about to end; try again");
	}
	s->making++;
	pthread_mutex_unlock(&s->lock);
	pthread_mutex_lock(&s->mounting);
	r = mount_vault(s, caller, path, mountpoint, text, err);
	pthread_mutex_unlock(&s->mounting);
	pthread_mutex_lock(&s->lock);
	s->making--;
	pthread_cond_broadcast(&s->changed);
	pthread_kill(s->main_thread, SIGUSR2);
	pthread_mutex_unlock(&s->lock);
	return r;
}

struct mount *service_find(struct service *s, const char *mountpoint)
{
	struct mount *m;

	DL_FOREACH(s->mounts, m)
		if (!strcmp(m->mountpoint, mountpoint))
			return m;
	return NULL;
}

/* ---- what the vault's routes ask ---- */

static int locate(void *ctx, const char *path, struct vault **ret, char *backing, size_t cap)
{
	struct service *s = ctx;
	struct kms_caller self = kms_caller_self(KMS_VIA_SERVICE);
	struct mount *m, *best = NULL;
	uint8_t id[BASE_ID_SIZE];
	size_t skip = 0;
	int r;

	pthread_mutex_lock(&s->lock);
	DL_FOREACH(s->mounts, m)
		if (below(path, m->mountpoint) && strlen(m->mountpoint) >= skip) {
			best = m;
			skip = strlen(m->mountpoint);
		}
	if (best)
		memcpy(id, vault_id(best->vault), sizeof id);
	pthread_mutex_unlock(&s->lock);
	if (!best)
		return -ENOENT;
	r = vault_get(s->core, &self, NULL, id, ret, NULL);
	if (r == 0) {
		r = vault_resolve(*ret, path + skip, backing, cap);
		vault_put(*ret); /* the mount holds it */
	}
	return r;
}

static void zone_changed(void *ctx, struct vault *v, const uint8_t *dir_id, const uint8_t *zone)
{
	struct service *s = ctx;
	struct mount *m;

	pthread_mutex_lock(&s->lock);
	DL_FOREACH(s->mounts, m)
		if (m->vault == v)
			inode_zone(&m->table, dir_id, zone);
	pthread_mutex_unlock(&s->lock);
}

int service_start(struct service *s, struct kms_core *core, bool stay, struct base_error *err)
{
	int r;

	memset(s, 0, sizeof *s);
	s->core = core;
	s->stay = stay;
	s->main_thread = pthread_self();
	pthread_mutex_init(&s->lock, NULL);
	pthread_mutex_init(&s->mounting, NULL);
	pthread_cond_init(&s->changed, NULL);
	r = vault_api_add(core);
	if (r == 0)
		r = service_routes(s);
	if (r < 0)
		return base_error_set(err, r, BASE_EXIT_FAILED, "cannot prepare the control API: %s", strerror(-r));
	vault_api_mounts(locate, zone_changed, s);
	return 0;
}

/* ---- the end ---- */

void service_signals(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGHUP);
	sigaddset(set, SIGUSR2);
}

/* Dirty pages go out while the workers still answer. */
static void push_out(const char *mountpoint)
{
	int fd = open(mountpoint, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return;
	syncfs(fd);
	close(fd);
}

int service_end(struct service *s, struct mount *m, bool force)
{
	int r;

	if (force)
		push_out(m->mountpoint);
	r = session_unmount(m->session, false);
	if (r < 0 && force) {
		base_log(LOG_WARNING, "%s is still in use; it is taken away from its users", m->mountpoint);
		session_unmount(m->session, true);
		session_stop(m->session);
		r = 0;
	}
	pthread_mutex_lock(&s->lock);
	m->users--;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	return r;
}

static void end_all(struct service *s)
{
	struct mount *m;

	pthread_mutex_lock(&s->lock);
	while (s->count > 0 || s->making > 0) { /* mounts being made are finished first; later ones see `closing` */
		m = s->mounts;
		while (m && m->ended)
			m = m->next;
		if (m) {
			m->ended = true;
			m->users++;
			pthread_mutex_unlock(&s->lock);
			service_end(s, m, true);
			pthread_mutex_lock(&s->lock);
		} else {
			pthread_cond_wait(&s->changed, &s->lock);
		}
	}
	pthread_mutex_unlock(&s->lock);
}

void service_abandon(struct service *s)
{
	pthread_mutex_lock(&s->lock);
	s->closing = true;
	pthread_mutex_unlock(&s->lock);
	end_all(s);
	vault_api_mounts(NULL, NULL, NULL);
}

void service_run(struct service *s)
{
	sigset_t set;
	bool done = false;
	int sig;

	service_signals(&set);
	while (!done) {
		pthread_mutex_lock(&s->lock);
		done = !s->stay && s->count == 0 && s->making == 0;
		s->closing = done;
		pthread_mutex_unlock(&s->lock);
		if (done || sigwait(&set, &sig) != 0 || sig == SIGUSR2)
			continue;
		pthread_mutex_lock(&s->lock);
		s->closing = done = true;
		pthread_mutex_unlock(&s->lock);
		end_all(s);
	}
	vault_api_mounts(NULL, NULL, NULL);
}
