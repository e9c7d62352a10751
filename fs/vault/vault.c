/* Open vaults: their life, their list, their locks. */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "config.h"

/* An id that is being opened or scanned; lives on the stack of who does it, or on the heap (scans). */
struct mark {
	uint8_t id[BASE_ID_SIZE];
	bool scan;
	struct mark *next;
};

/* list_lock guards all three: the vaults that are open with their reference counts, and the ids somebody works on. */
static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t list_changed = PTHREAD_COND_INITIALIZER;
static struct vault *open_vaults;
static struct mark *marks;

struct vault *vault_alloc(struct kms_core *core)
{
	struct vault *v = calloc(1, sizeof(*v));
	pthread_rwlockattr_t attr;
	int i;

	if (!v)
		return NULL;
	v->core = core;
	v->root_fd = v->config_fd = -1;
	v->refs = 1;
	pthread_mutex_init(&v->config, NULL);
	for (i = 0; i < VAULT_STRIPES; i++)
		pthread_mutex_init(&v->stripes[i], NULL);
	/* A scan must get its turn although renames never cease. */
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&v->names, &attr);
	pthread_rwlock_init(&v->halves, &attr);
	pthread_rwlockattr_destroy(&attr);
	pthread_mutex_init(&v->live, NULL);
	pthread_cond_init(&v->live_changed, NULL);
	return v;
}

void vault_free(struct vault *v)
{
	int i;

	if (!v)
		return;
	base_siv_free(v->keys.name);
	base_siv_free(v->keys.record);
	base_siv_free(v->keys.link);
	base_siv_free(v->keys.xattr);
	base_siv_free(v->state);
	if (v->root_fd >= 0)
		close(v->root_fd);
	if (v->config_fd >= 0)
		close(v->config_fd);
	pthread_mutex_destroy(&v->config);
	for (i = 0; i < VAULT_STRIPES; i++)
		pthread_mutex_destroy(&v->stripes[i]);
	pthread_rwlock_destroy(&v->names);
	pthread_rwlock_destroy(&v->halves);
	pthread_mutex_destroy(&v->live);
	pthread_cond_destroy(&v->live_changed);
	free(v);
}

static struct vault *list_find(const uint8_t id[BASE_ID_SIZE])
{
	struct vault *v;

	for (v = open_vaults; v; v = v->next)
		if (memcmp(v->id, id, BASE_ID_SIZE) == 0)
			return v;
	return NULL;
}

static struct mark *mark_find(const uint8_t id[BASE_ID_SIZE], bool scan)
{
	struct mark *m;

	for (m = marks; m; m = m->next)
		if (m->scan == scan && memcmp(m->id, id, BASE_ID_SIZE) == 0)
			return m;
	return NULL;
}

static void mark_drop(struct mark *mark)
{
	struct mark **p;

	for (p = &marks; *p; p = &(*p)->next)
		if (*p == mark) {
			*p = mark->next;
			break;
		}
	pthread_cond_broadcast(&list_changed);
}

/* The open vault with this id and a reference, or NULL with the id marked as being opened by the caller. */
static struct vault *list_claim(const uint8_t id[BASE_ID_SIZE], struct mark *mark)
{
	struct vault *v;

	pthread_mutex_lock(&list_lock);
	while (mark_find(id, false))
		pthread_cond_wait(&list_changed, &list_lock);
	v = list_find(id);
	if (v) {
		v->refs++;
	} else {
		memcpy(mark->id, id, BASE_ID_SIZE);
		mark->scan = false;
		mark->next = marks;
		marks = mark;
	}
	pthread_mutex_unlock(&list_lock);
	return v;
}

/* Ends a claim; v is listed when it is not NULL. */
static void list_settle(struct mark *mark, struct vault *v)
{
	pthread_mutex_lock(&list_lock);
	if (v) {
		while (mark_find(v->id, true))
			pthread_cond_wait(&list_changed, &list_lock);
		v->next = open_vaults;
		open_vaults = v;
	}
	mark_drop(mark);
	pthread_mutex_unlock(&list_lock);
}

int vault_scan_begin(const uint8_t id[BASE_ID_SIZE], struct vault **ret)
{
	struct mark *mark = calloc(1, sizeof(*mark));
	int code = 0;

	pthread_mutex_lock(&list_lock);
	*ret = list_find(id);
	if (*ret) {
		(*ret)->refs++;
	} else if (mark) {
		memcpy(mark->id, id, BASE_ID_SIZE);
		mark->scan = true;
		mark->next = marks;
		marks = mark;
		mark = NULL;
	} else {
		code = -ENOMEM;
	}
	pthread_mutex_unlock(&list_lock);
	free(mark);
	return code;
}

void vault_scan_end(const uint8_t id[BASE_ID_SIZE])
{
	struct mark *mark;

	pthread_mutex_lock(&list_lock);
	mark = mark_find(id, true);
	if (mark)
		mark_drop(mark);
	pthread_mutex_unlock(&list_lock);
	free(mark);
}

/* Filesystems whose SEEK_DATA knows of what is still in the kernel's cache. FUSE does not; others have had bugs there. */
static bool tells_holes(int fd)
{
	struct statfs fs;

	if (fstatfs(fd, &fs) < 0)
		return false;
	switch ((unsigned long)fs.f_type) {
	case EXT4_SUPER_MAGIC: /* ext2 and ext3 as well */
	case XFS_SUPER_MAGIC:
	case BTRFS_SUPER_MAGIC:
	case F2FS_SUPER_MAGIC:
	case TMPFS_MAGIC:
	case NFS_SUPER_MAGIC:
	case OVERLAYFS_SUPER_MAGIC:
		return true;
	default:
		return false;
	}
}

/* Resolve and open the directory, and learn which vault it claims to be. */
static int find_root(struct vault *v, const char *path, struct base_error *err)
{
	char real[PATH_MAX];
	int code;

	if (!realpath(path, real)) {
		code = -errno;
		return base_error_set(err, code, code == -ENOENT ? BASE_EXIT_NOT_FOUND : BASE_EXIT_FAILED, "cannot open vault %s: %s",
				      path, strerror(-code));
	}
	memcpy(v->path, real, sizeof(real));
	v->root_fd = open(real, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (v->root_fd < 0) {
		code = -errno;
		return base_error_set(err, code, BASE_EXIT_FAILED, "cannot open vault %s: %s", path, strerror(-code));
	}
	v->holes = tells_holes(v->root_fd);
	code = vault_config_peek(v->root_fd, v->id);
	if (code == -ENOENT)
		return base_error_set(err, -EINVAL, BASE_EXIT_FAILED,
				      "%s is not a vault (it has no " VAULT_CONFIG_NAME "); make one with `keepctl init %s`", path, path);
	if (code == -EBADMSG)
		return base_error_set(err, code, BASE_EXIT_INTEGRITY,
				      "the config %s/" VAULT_CONFIG_NAME " is damaged; bring it back from a backup", path);
	if (code < 0)
		return base_error_set(err, code, BASE_EXIT_FAILED, "cannot read %s/" VAULT_CONFIG_NAME ": %s", path, strerror(-code));
	return 0;
}

/* share: an open vault is what the caller wants; else it is -EBUSY. */
static int open_path(struct kms_core *core, const struct kms_caller *caller, const char *path, const uint8_t *want, bool share, bool shared,
		     struct vault **ret, struct base_error *err)
{
	struct vault *v = vault_alloc(core), *open;
	struct mark mark;
	int code;

	if (!v)
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "out of memory");
	code = find_root(v, path, err);
	if (code == 0 && want && memcmp(v->id, want, BASE_ID_SIZE) != 0)
		code = base_error_set(err, -ENOENT, BASE_EXIT_NOT_FOUND, "another vault is at %s now; mount the right one once from its new place",
				      path);
	if (code < 0) {
		vault_free(v);
		return code;
	}
	open = list_claim(v->id, &mark);
	if (open) {
		vault_free(v);
		if (share) {
			*ret = open;
			return 0;
		}
		code = base_error_set(err, -EBUSY, BASE_EXIT_FAILED, "vault %s is open already, from %s; unmount it first", path, open->path);
		vault_put(open);
		return code;
	}
	v->shared = shared;
	code = vault_config_load(v, caller, err);
	list_settle(&mark, code == 0 ? v : NULL);
	if (code < 0)
		vault_free(v);
	else
		*ret = v;
	return code;
}

int vault_open(struct kms_core *core, const struct kms_caller *caller, const char *path, struct vault **ret, struct base_error *err)
{
	*ret = NULL;
	return open_path(core, caller, path, NULL, false, false, ret, err);
}

int vault_get(struct kms_core *core, const struct kms_caller *caller, const char *path, const uint8_t *vault_id, struct vault **ret,
	      struct base_error *err)
{
	struct kms_vault *known;
	int code;

	*ret = NULL;
	if (vault_id) {
		pthread_mutex_lock(&list_lock);
		*ret = list_find(vault_id);
		if (*ret)
			(*ret)->refs++;
		pthread_mutex_unlock(&list_lock);
		if (*ret)
			return 0;
	}
	if (path)
		return open_path(core, caller, path, vault_id, true, false, ret, err);
	if (!vault_id)
		return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "no vault was named");
	known = malloc(sizeof(*known));
	if (!known)
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "out of memory");
	code = kms_vault_get(core, vault_id, known);
	if (code < 0)
		base_error_set(err, code, code == -ENOENT ? BASE_EXIT_NOT_FOUND : BASE_EXIT_FAILED, "this keystore does not know that vault: %s",
			       strerror(-code));
	else
		code = open_path(core, caller, known->path, vault_id, true, false, ret, err);
	free(known);
	return code;
}

int vault_get_as(struct kms_core *core, const struct kms_caller *caller, const char *path, bool shared, struct vault **ret, struct base_error *err)
{
	int code;

	*ret = NULL;
	code = open_path(core, caller, path, NULL, true, shared, ret, err);
	if (code == 0 && (code = vault_config_share(*ret, shared, err)) < 0) {
		vault_put(*ret);
		*ret = NULL;
	}
	return code;
}

void vault_put(struct vault *v)
{
	struct vault **p;

	if (!v)
		return;
	pthread_mutex_lock(&list_lock);
	if (--v->refs == 0) {
		for (p = &open_vaults; *p; p = &(*p)->next)
			if (*p == v) {
				*p = v->next;
				break;
			}
		/* Under the lock: who opens it next must find the OFD lock given back. */
		vault_free(v);
	}
	pthread_mutex_unlock(&list_lock);
}

bool vault_shared(struct vault *v)
{
	bool shared;

	pthread_mutex_lock(&list_lock);
	shared = v->refs > 1;
	pthread_mutex_unlock(&list_lock);
	return shared;
}

struct kms_core *vault_core(const struct vault *v)
{
	return v->core;
}

const uint8_t *vault_id(const struct vault *v)
{
	return v->id;
}

const uint8_t *vault_root_dir_id(const struct vault *v)
{
	return v->root_dir_id;
}

int vault_root_fd(const struct vault *v)
{
	return v->root_fd;
}

const char *vault_path(const struct vault *v)
{
	return v->path;
}

const struct vault_keys *vault_keys(const struct vault *v)
{
	return &v->keys;
}

void vault_set_strict(struct vault *v, bool on)
{
	atomic_store_explicit(&v->strict, on, memory_order_relaxed);
}

bool vault_strict(const struct vault *v)
{
	return atomic_load_explicit(&v->strict, memory_order_relaxed);
}

void vault_set_verify(struct vault *v, bool on)
{
	atomic_store_explicit(&v->verify, on, memory_order_relaxed);
}

bool vault_verify(const struct vault *v)
{
	return atomic_load_explicit(&v->verify, memory_order_relaxed);
}

bool vault_others(const struct vault *v)
{
	return v->shared;
}

bool vault_holes(const struct vault *v)
{
	return v->holes;
}

/* Inode numbers of one directory are neighbours: mix before cutting. */
static pthread_mutex_t *stripe(struct vault *v, ino_t ino)
{
	return &v->stripes[((uint64_t)ino * UINT64_C(0x9e3779b97f4a7c15)) >> 58];
}

void vault_header_lock(struct vault *v, ino_t ino)
{
	pthread_mutex_lock(stripe(v, ino));
}

void vault_header_unlock(struct vault *v, ino_t ino)
{
	pthread_mutex_unlock(stripe(v, ino));
}

void vault_names_rdlock(struct vault *v)
{
	pthread_rwlock_rdlock(&v->names);
	atomic_fetch_add(&v->renames, 1);
}

void vault_names_wrlock(struct vault *v)
{
	pthread_rwlock_wrlock(&v->names);
}

void vault_names_unlock(struct vault *v)
{
	pthread_rwlock_unlock(&v->names);
}

void vault_half_begin(struct vault *v)
{
	pthread_rwlock_rdlock(&v->halves);
}

void vault_half_exclude(struct vault *v)
{
	pthread_rwlock_wrlock(&v->halves);
}

void vault_half_end(struct vault *v)
{
	pthread_rwlock_unlock(&v->halves);
}
