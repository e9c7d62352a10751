/*
 * fs/vault/object.h: an open vault, and the list of those that this process has open.
 */
#ifndef VAULT_OBJECT_H
#define VAULT_OBJECT_H

#include <limits.h>
#include <stdatomic.h>

#include "internal.h"

#define VAULT_STRIPES 64

struct vault {
	struct kms_core *core;
	uint8_t id[BASE_ID_SIZE];
	uint8_t root_dir_id[BASE_ID_SIZE];
	char path[PATH_MAX];
	int root_fd;
	int config_fd;  /* carries the OFD lock that says this process has the vault */
	bool read_only; /* the backing filesystem is */
	bool holes;     /* vault_holes */
	atomic_bool shared; /* -o shared: others may have the vault as well, and files are locked one by one */
	struct vault_keys keys;
	struct base_siv *state; /* of the config's state slots */
	atomic_bool strict;
	atomic_bool verify;
	atomic_ulong renames;                  /* times that vault_names_rdlock was taken */
	pthread_mutex_t config;                /* guards the read-modify-write of the config page */
	pthread_mutex_t stripes[VAULT_STRIPES]; /* vault_header_lock */
	pthread_rwlock_t names;                /* vault_names_* */
	pthread_rwlock_t halves;               /* vault_half_* */
	pthread_mutex_t live;                  /* guards files, claims and moves (live.h); a leaf */
	pthread_cond_t live_changed;
	struct vault_file *files;              /* open ones, by inode */
	struct vault_claim *claims;
	struct vault_move *moves;              /* between zones, under way */
	unsigned refs;                         /* guarded by the list's mutex */
	struct vault *next;
};

/* vault_alloc(core): no fds, no keys, one reference; NULL without memory. vault_free closes, wipes; not for a listed vault. */
struct vault *vault_alloc(struct kms_core *core);
void vault_free(struct vault *v);

/* vault_shared(v): somebody else than the caller has a reference: a mount, as jobs exclude each other. */
bool vault_shared(struct vault *v);

/*
 * vault_scan_begin(id, ret): the open vault with this id and one more reference (vault_put), or NULL: then a vault_open of it waits, with its
 * work done, until vault_scan_end(id). Never waits itself, so that a scan may run under locks of the core. 0 or -ENOMEM.
 */
int vault_scan_begin(const uint8_t id[BASE_ID_SIZE], struct vault **ret);
void vault_scan_end(const uint8_t id[BASE_ID_SIZE]);

#endif
