/*
 * fs/mount/mount.h: one mounted vault.
 */
#ifndef MOUNT_MOUNT_H
#define MOUNT_MOUNT_H

#include <pthread.h>
#include <stdatomic.h>

#include "content.h"
#include "inode.h"
#include "options.h"
#include "vault/file.h"
#include "vault/vault.h"

struct session;
struct handle;

struct mount {
	struct mount *prev, *next;   /* the service's list */
	struct kms_core *core;
	struct vault *vault;
	struct options_mount options;
	char *text;                  /* the options as given */
	char *mountpoint;
	double timeout;              /* entries and attributes, seconds */
	double absent_timeout;       /* names that there are not */
	bool writeback;              /* the kernel gathers writes, and owns size and mtime of open files */
	bool root;                   /* we may give files to others */
	bool acl;                    /* POSIX ACLs are enforced; set while INIT is answered */

	/* Names hold still for readers (walking from a name to a descriptor), renames are writers. Taken after the vault's
	 * names lock, before the table's. */
	pthread_rwlock_t tree;
	struct inode_table table;
	struct handle *handles;      /* open directories; guarded by the table's lock */
	atomic_uint bad_names;       /* entries that did not authenticate */

	struct session *session;
	pthread_t timer;
	pthread_mutex_t timer_lock;  /* guards timer_stop */
	pthread_cond_t timer_wake;
	bool timer_stop;
	unsigned users;              /* guarded by the service's lock: threads that end it; the reaper waits for them */
	bool ended;                  /* guarded by the service's lock: the end of the service has dealt with it */
};

#endif
