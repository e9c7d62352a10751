/*
 * Opening and closing a keystore: lock, configuration, database, HSM, and what is built on them, in this order.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "api.h"
#include "audit.h"
#include "base/clock.h"
#include "base/crypto.h"
#include "base/log.h"
#include "dek.h"
#include "dirty.h"
#include "hsm/hsm.h"
#include "internal.h"
#include "keys.h"
#include "keystore.h"
#include "leases.h"
#include "pin.h"
#include "policy.h"
#include "store.h"

#define LOCK_WAIT_SECONDS 30

struct kms_caller
kms_caller_self(enum kms_via via)
{
	return (struct kms_caller) { .uid = getuid(), .gid = getgid(), .pid = getpid(), .via = via };
}

const char *
kms_core_dir(const struct kms_core *core)
{
	return core->dir;
}

const uint8_t *
kms_core_id(const struct kms_core *core)
{
	return core->id;
}

const uint8_t *
kms_session(const struct kms_core *core)
{
	return core->session;
}

/* ---- owner, modes, lock -------------------------------------------------------------------------------------------------- */

static int
check_file(const char *dir, const char *name, struct base_error *err)
{
	char path[PATH_MAX + 40];
	struct stat st;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	if (lstat(path, &st) < 0)
		return 0; /* who needs it says so */
	if (!S_ISREG(st.st_mode) || st.st_uid != geteuid() || st.st_mode & 0077)
		return base_error_set(err, -EPERM, BASE_EXIT_FAILED, "%s is not a file of uid %u alone (mode %04o, uid %u); make it so with "
				      "chown and chmod 600, after thinking about who may have changed it", path, (unsigned) geteuid(),
				      st.st_mode & 07777, (unsigned) st.st_uid);
	return 0;
}

static int
check_owner(const char *dir, struct base_error *err)
{
	struct stat st;
	int rc;

	if (stat(dir, &st) < 0) {
		rc = -errno;
		return base_error_set(err, rc, rc == -ENOENT ? BASE_EXIT_NOT_FOUND : BASE_EXIT_FAILED, "there is no keystore at %s (%s); `keepctl init` "
				      "makes one, --keystore names another", dir, strerror(-rc));
	}
	if (!S_ISDIR(st.st_mode))
		return base_error_set(err, -ENOTDIR, BASE_EXIT_NOT_FOUND, "%s is not a keystore: not a directory", dir);
	if (st.st_uid != geteuid())
		return base_error_set(err, -EACCES, BASE_EXIT_DENIED, "keystore %s belongs to uid %u; only its owner may open it, others ask its "
				      "service", dir, (unsigned) st.st_uid);
	if (st.st_mode & 0022)
		return base_error_set(err, -EPERM, BASE_EXIT_FAILED, "keystore %s can be written by others (mode %04o); chmod 711 it", dir,
				      st.st_mode & 07777);
	rc = check_file(dir, KMS_CONF_FILE, err);
	return rc < 0 ? rc : check_file(dir, KMS_STORE_FILE, err);
}

/* A service that answers is not on its way out. */
static bool
service_listens(const char *dir)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	bool listens;
	int fd;

	if (snprintf(address.sun_path, sizeof(address.sun_path), "%s/" KMS_API_SOCKET, dir) >= (int) sizeof(address.sun_path))
		return false;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return false;
	listens = connect(fd, (struct sockaddr *) &address, sizeof(address)) == 0 || errno == EAGAIN;
	close(fd);
	return listens;
}

static int
lock_wait(int fd, const char *dir, bool wait)
{
	uint64_t end = base_clock_mono_ns() + LOCK_WAIT_SECONDS * 1000000000ull;

	while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK && errno != EINTR)
			return -errno;
		if (errno == EWOULDBLOCK && (!wait || base_clock_mono_ns() > end || service_listens(dir)))
			return -EBUSY;
		usleep(20000);
	}
	return 0;
}

int
kms_core_lock(const char *dir, unsigned flags, int *ret_fd, struct base_error *err)
{
	char path[PATH_MAX + 8], text[24];
	int fd, rc, len;

	snprintf(path, sizeof(path), "%s/" KMS_LOCK_FILE, dir);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0) {
		rc = -errno;
		return base_error_set(err, rc, BASE_EXIT_FAILED, "the lock %s cannot be opened: %s", path, strerror(-rc));
	}
	rc = lock_wait(fd, dir, flags & KMS_OPEN_WAIT);
	if (rc < 0) {
		ssize_t got = rc == -EBUSY ? read(fd, text, sizeof(text) - 1) : 0;

		text[got > 0 ? got : 0] = 0;
		text[strcspn(text, "\n")] = 0;
		close(fd);
		return base_error_set(err, rc, BASE_EXIT_FAILED, rc == -EBUSY ? "keystore %s is in use by process %s" :
				      "keystore %s cannot be locked: %s", dir, rc == -EBUSY ? (*text ? text : "(unknown)") : strerror(-rc));
	}
	len = snprintf(text, sizeof(text), "%d\n", (int) getpid());
	if (ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t) len, 0) != len)
		base_log(LOG_WARNING, "%s: the pid cannot be written: %s", path, strerror(errno));
	*ret_fd = fd;
	return 0;
}

/* ---- opening --------------------------------------------------------------------------------------------------------------- */

static int
open_store(struct kms_core *core, struct base_error *err)
{
	char path[PATH_MAX + 20];
	size_t len = 0;
	int rc;

	snprintf(path, sizeof(path), "%s/" KMS_STORE_FILE, core->dir);
	rc = kms_store_open(path, &core->store, err);
	if (rc < 0)
		return rc;
	rc = kms_store_meta_get(core->store, "keystore_id", core->id, sizeof(core->id), &len);
	if (rc < 0 || len != sizeof(core->id))
		return base_error_set(err, -EBADMSG, BASE_EXIT_INTEGRITY, "%s does not say which keystore it is; restore the keystore directory "
				      "from a backup", path);
	return 0;
}

static int
open_hsm(struct kms_core *core, const struct kms_prompt *prompt, struct base_error *err)
{
	struct base_error why = { 0 };
	struct kms_hsm_paths paths;
	struct hsm_config config;
	int rc = kms_pin_new(core->dir, &core->conf, &core->pin, err);

	if (rc == 0)
		rc = kms_pin_ask(core->pin, prompt, false, err);
	if (rc < 0)
		return rc;
	kms_keystore_hsm(core->dir, &core->conf, core->pin, &paths, &config);
	rc = hsm_open(&config, &core->hsm, &why);
	if (rc == -ENOKEY && core->hsm) {
		base_log(LOG_WARNING, "the HSM cannot be reached, files cannot be opened until it can: %s", why.text);
		return 0;
	}
	if (rc == -ENOENT) /* not what a keystore's user would call not found */
		return base_error_set(err, -ENOKEY, BASE_EXIT_UNREACHABLE, "%s", why.text);
	if (rc < 0 && err)
		*err = why;
	return rc;
}

static int
start_session(struct kms_core *core)
{
	int rc = base_random(core->session, sizeof(core->session));

	if (rc < 0)
		return rc;
	rc = kms_store_begin(core->store, true);
	if (rc < 0)
		return rc;
	rc = kms_store_session_sweep(core->store);
	if (rc == 0)
		rc = kms_store_session_start(core->store, core->session, core->boot, &core->session_row);
	if (rc == 0)
		return kms_store_commit(core->store);
	kms_store_rollback(core->store);
	return rc;
}

static int
build(struct kms_core *core)
{
	int rc = base_clock_boot_id(core->boot);

	if (rc == 0)
		rc = kms_dirty_new(core, &core->dirty); /* before this session has a row, and told the running boot's id */
	if (rc == 0)
		rc = start_session(core);
	if (rc == 0)
		rc = kms_policy_new(core, &core->policy);
	if (rc == 0)
		rc = kms_leases_new(&core->leases);
	if (rc == 0)
		rc = kms_keys_new(core, &core->keys);
	if (rc == 0)
		rc = kms_dek_new(core, &core->dek);
	if (rc == 0)
		rc = kms_api_new(core, &core->api);
	if (rc == 0)
		rc = kms_api_builtin(core);
	return rc;
}

static int
open_all(struct kms_core *core, const struct kms_prompt *prompt, unsigned flags, bool making, struct base_error *err)
{
	int rc = check_owner(core->dir, err);

	if (rc == 0)
		rc = kms_conf_read(core->dir, &core->conf, err);
	if (rc == 0)
		rc = kms_core_lock(core->dir, flags, &core->lock_fd, err);
	if (rc == 0)
		rc = open_store(core, err);
	if (rc == 0)
		rc = open_hsm(core, prompt, err);
	if (rc < 0)
		return rc;
	rc = build(core);
	if (rc < 0)
		return base_error_set(err, rc, rc == -EBADMSG ? BASE_EXIT_INTEGRITY : BASE_EXIT_FAILED, "%s/" KMS_STORE_FILE ": %s", core->dir,
				      rc == -EBADMSG ? "a row is not as keepfs writes it; restore the keystore directory from a backup"
						     : strerror(-rc));
	if (making)
		rc = kms_audit_key_make(core, err);
	if (rc == 0)
		rc = kms_audit_new(core, err);
	if (rc == 0)
		rc = kms_audit_start(core, err);
	return rc;
}

int
kms_core_open_as(const char *dir, const struct kms_prompt *prompt, unsigned flags, bool making, struct kms_core **ret,
		 struct base_error *err)
{
	struct kms_core *core = calloc(1, sizeof(*core));
	int rc;

	*ret = NULL;
	if (!core)
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "out of memory");
	core->lock_fd = -1;
	pthread_mutex_init(&core->census_lock, NULL);
	if (!realpath(dir, core->dir))
		snprintf(core->dir, sizeof(core->dir), "%s", dir);
	rc = open_all(core, prompt, flags, making, err);
	if (rc < 0) {
		kms_core_close(core);
		return rc;
	}
	*ret = core;
	return 0;
}

int
kms_core_open(const char *dir, const struct kms_prompt *prompt, unsigned flags, struct kms_core **ret, struct base_error *err)
{
	return kms_core_open_as(dir, prompt, flags, false, ret, err);
}

/* ---- closing ----------------------------------------------------------------------------------------------------------------- */

/* Sessions with dirty rows stay open: their files are recovered by the next one. */
static void
end_session(struct kms_core *core)
{
	int rc = kms_keys_files_flush(core);

	if (rc == 0)
		rc = kms_store_begin(core->store, true);
	if (rc < 0)
		return;
	rc = kms_store_session_sweep(core->store);
	if (rc == 0)
		rc = kms_store_commit(core->store);
	else
		kms_store_rollback(core->store);
	if (rc < 0)
		base_log(LOG_ERR, "%s: the session's end could not be stored: %s", core->dir, strerror(-rc));
}

void
kms_core_close(struct kms_core *core)
{
	if (!core)
		return;
	kms_api_free(core->api);
	kms_dek_free(core);
	kms_audit_free(core);
	if (core->keys && core->session_row)
		end_session(core);
	kms_dirty_free(core->dirty);
	kms_keys_free(core->keys);
	kms_leases_free(core->leases);
	kms_policy_free(core->policy);
	hsm_close(core->hsm);
	kms_pin_free(core->pin);
	kms_store_close(core->store);
	if (core->lock_fd >= 0)
		close(core->lock_fd);
	pthread_mutex_destroy(&core->census_lock);
	free(core);
}
