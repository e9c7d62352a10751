/*
 * fs/mount/service.h: the service: one process, one keystore, any number of mounts.
 */
#ifndef MOUNT_SERVICE_H
#define MOUNT_SERVICE_H

#include <pthread.h>
#include <signal.h>

#include "kms/kms.h"
#include "mount.h"

struct service {
	struct kms_core *core;
	pthread_mutex_t lock;     /* guards mounts, count, making, closing */
	pthread_cond_t changed;   /* count changed */
	pthread_mutex_t mounting; /* one mount is made at a time; before lock */
	struct mount *mounts;
	unsigned count;
	unsigned making;          /* mounts on their way: the service does not end meanwhile */
	bool closing;             /* no new mounts */
	bool stay;                /* --serve: does not end with the last mount */
	pthread_t main_thread;    /* SIGUSR2 tells it that a mount ended */
};

/* service_start(s, core, stay, err): registers the routes. The caller has blocked the signals that service_run waits for. */
int service_start(struct service *s, struct kms_core *core, bool stay, struct base_error *err);

/* service_mount(s, caller, vault, mountpoint, text, err): usable on return. -EBUSY, -ENOTDIR, -ENOTEMPTY, -EINVAL. Blocks. */
int service_mount(struct service *s, const struct kms_caller *caller, const char *path, const char *mountpoint, const char *text, struct base_error *err);

/* service_run(s): until the last mount ended or a signal says so; then everything is unmounted and settled. */
void service_run(struct service *s);

/* service_abandon(s): ends whatever was mounted before the start failed. */
void service_abandon(struct service *s);

/* service_signals(set): the signals that it waits for. */
void service_signals(sigset_t *set);

/* service_check_mountpoint(path, nonempty, err): an existing empty directory where nothing is mounted. */
int service_check_mountpoint(const char *path, bool nonempty, struct base_error *err);

/* service_routes(s): POST, GET, DELETE /v1/mounts (routes.c). 0 or -errno. */
int service_routes(struct service *s);
/* service_end(s, m, force): unmounts; the caller has counted itself in m->users, which ends here. -EBUSY; with force, dirty pages are pushed out
 * first and a mount in use is taken away from its users. */
int service_end(struct service *s, struct mount *m, bool force);
/* service_find(s, mountpoint): the mount at exactly this place; the lock is held. */
struct mount *service_find(struct service *s, const char *mountpoint);

#endif
