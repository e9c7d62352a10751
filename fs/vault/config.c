/* keepfs.vault: reading, making and rewrapping the config (fs/FORMAT.md, "The config"). */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/secret.h"
#include "config.h"
#include "lock.h"

#define LABEL "keepfs v1 vault keys"
#define KEYS_LEN 416

int vault_config_peek(int dirfd, uint8_t ret_id[BASE_ID_SIZE])
{
	struct vault_header *header;
	struct stat st;
	int fd = openat(dirfd, VAULT_CONFIG_NAME, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	int code;

	if (fd < 0)
		return errno == ELOOP ? -EBADMSG : -errno;
	header = malloc(sizeof(*header));
	if (!header)
		code = -ENOMEM;
	else if (fstat(fd, &st) < 0)
		code = -errno;
	else
		code = S_ISREG(st.st_mode) ? vault_header_read(fd, VAULT_MAGIC_CONFIG, KMS_PURPOSE_VAULT, header) : -EBADMSG;
	if (code == 0)
		memcpy(ret_id, header->vault_id, BASE_ID_SIZE);
	free(header);
	close(fd);
	return code;
}

/* All keys that hang on the vault key, and the commitment; v keeps what was made on failure (vault_free). */
static int derive(struct vault *v, const uint8_t *dek, const uint8_t page[VAULT_PAGE], uint8_t commitment[32])
{
	BASE_SECRET_AUTO uint8_t *k = base_secret_alloc(KEYS_LEN);
	uint8_t info[sizeof(LABEL) - 1 + 64];
	int code;

	if (!k)
		return -ENOMEM;
	memcpy(info, LABEL, sizeof(LABEL) - 1);
	memcpy(info + sizeof(LABEL) - 1, page, 64);
	code = base_hkdf_expand(dek, KMS_DEK_SIZE, info, sizeof(info), k, KEYS_LEN);
	if (code < 0)
		return code;
	memcpy(commitment, k, 32);
	if ((code = base_siv_new(k + 32, &v->state)) < 0 || (code = base_siv_new(k + 96, &v->keys.name)) < 0 ||
	    (code = base_siv_new(k + 160, &v->keys.record)) < 0 || (code = base_siv_new(k + 224, &v->keys.link)) < 0)
		return code;
	return base_siv_new(k + 288, &v->keys.xattr);
}

/* Another process with the vault open is -EBUSY. On a read-only filesystem readers share. */
static int open_locked(struct vault *v, struct base_error *err)
{
	int code;

	v->config_fd = openat(v->root_fd, VAULT_CONFIG_NAME, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (v->config_fd < 0 && (errno == EROFS || errno == EACCES)) {
		v->read_only = true;
		v->config_fd = openat(v->root_fd, VAULT_CONFIG_NAME, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	}
	if (v->config_fd < 0) {
		code = -errno;
		return base_error_set(err, code, BASE_EXIT_FAILED, "cannot open %s/" VAULT_CONFIG_NAME ": %s", v->path, strerror(-code));
	}
	return vault_lock_config(v, v->shared, err);
}

static int damaged(const struct vault *v, struct base_error *err)
{
	return base_error_set(err, -EBADMSG, BASE_EXIT_INTEGRITY,
			      "the config %s/" VAULT_CONFIG_NAME " is damaged or was changed; bring it back from a backup", v->path);
}

static int other_keystore(const struct vault *v, struct base_error *err)
{
	return base_error_set(err, -ENOENT, BASE_EXIT_NOT_FOUND,
			      "%s is a vault of another keystore, not of %s; name its own with --keystore DIR", v->path, kms_core_dir(v->core));
}

/* The config's state, without its key: commitment compared before any key is used. */
static int unwrap(struct vault *v, const struct kms_caller *caller, const struct vault_header *header, struct base_error *err)
{
	BASE_SECRET_AUTO uint8_t *dek = base_secret_alloc(KMS_DEK_SIZE);
	struct kms_subject subject = { .purpose = KMS_PURPOSE_VAULT };
	uint8_t commitment[32];
	int code;

	if (!dek)
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "no more memory can be locked for keys; raise `ulimit -l`");
	memcpy(subject.vault_id, v->id, BASE_ID_SIZE);
	memcpy(subject.file_id, v->id, BASE_ID_SIZE);
	code = kms_dek_open(v->core, caller, &subject, &header->wrap, KMS_DEK_READ, dek, err);
	if (code == -ENOTSUP && err)
		err->exit = BASE_EXIT_INTEGRITY; /* format 1 has one way to wrap: another was written into it */
	if (code < 0)
		return code;
	code = derive(v, dek, header->page, commitment);
	if (code < 0)
		return base_error_set(err, code, BASE_EXIT_FAILED, "cannot derive the keys of vault %s: %s", v->path, strerror(-code));
	return base_secret_equal(commitment, header->commitment, sizeof(commitment)) ? 0 : damaged(v, err);
}

static int check_generation(struct vault *v, const struct kms_vault *known, uint64_t generation, struct base_error *err)
{
	int code;

	if (generation < known->generation)
		return base_error_set(err, -EBADMSG, BASE_EXIT_INTEGRITY,
				      "the config of vault %s was rolled back (generation %llu, the keystore has seen %llu); bring the newest one back",
				      v->path, (unsigned long long)generation, (unsigned long long)known->generation);
	if (generation - known->generation > 1)
		return base_error_set(err, -EBADMSG, BASE_EXIT_INTEGRITY,
				      "the config of vault %s is newer (generation %llu) than its keystore knows (%llu): was the keystore restored from an "
				      "old backup? Restore the newest one", v->path, (unsigned long long)generation,
				      (unsigned long long)known->generation);
	if (generation == known->generation)
		return 0;
	code = kms_vault_generation(v->core, v->id, generation);
	return code < 0 ? base_error_set(err, code, BASE_EXIT_FAILED, "cannot record the generation of vault %s: %s", v->path, strerror(-code)) : 0;
}

static int check_state(struct vault *v, const struct vault_header *header, struct vault_state *state, struct base_error *err)
{
	if (vault_state_open(v->state, VAULT_MAGIC_CONFIG, v->id, header->page, state) < 0)
		return damaged(v, err);
	if (state->flags != 0 || state->horizon != 0 || state->intent_first != 0 || state->intent_end != 0 || state->next_seq != 0)
		return damaged(v, err);
	if (memcmp(state->acc, kms_core_id(v->core), BASE_ID_SIZE) != 0)
		return other_keystore(v, err);
	memcpy(v->root_dir_id, state->session, BASE_ID_SIZE);
	return 0;
}

static int check_root(struct vault *v, struct base_error *err)
{
	struct vault_dir root;
	int code = vault_dir_read(v, v->root_fd, NULL, &root);

	if (code == 0 && memcmp(root.id, v->root_dir_id, BASE_ID_SIZE) != 0)
		code = -EBADMSG;
	if (code == 0)
		return 0;
	return base_error_set(err, code, code == -EBADMSG ? BASE_EXIT_INTEGRITY : BASE_EXIT_FAILED,
			      "the root record %s/" VAULT_RECORD_NAME " %s; bring it back from a backup", v->path,
			      code == -EBADMSG ? "is damaged or of another vault" : "cannot be read");
}

/* All checks of the config that v->config_fd is; fills v's keys and root_dir_id. */
static int examine(struct vault *v, const struct kms_caller *caller, struct vault_header *header, struct kms_vault *known, struct base_error *err)
{
	struct vault_state state;
	int code;

	if (vault_header_read(v->config_fd, VAULT_MAGIC_CONFIG, KMS_PURPOSE_VAULT, header) < 0 ||
	    memcmp(header->vault_id, v->id, BASE_ID_SIZE) != 0)
		return damaged(v, err);
	code = kms_vault_get(v->core, v->id, known);
	if (code == -ENOENT)
		return other_keystore(v, err);
	if (code < 0)
		return base_error_set(err, code, BASE_EXIT_FAILED, "cannot look up vault %s: %s", v->path, strerror(-code));
	if (memcmp(header->wrap.key_id, known->key_id, BASE_ID_SIZE) != 0)
		return damaged(v, err);
	if ((code = unwrap(v, caller, header, err)) < 0 || (code = check_state(v, header, &state, err)) < 0 ||
	    (code = check_root(v, err)) < 0 || (code = check_generation(v, known, state.size, err)) < 0)
		return code;
	return 0;
}

static int load(struct vault *v, const struct kms_caller *caller, struct vault_header *header, struct kms_vault *known, struct base_error *err)
{
	int code = open_locked(v, err);

	if (code == 0)
		code = examine(v, caller, header, known, err);
	if (code < 0)
		return code;
	if (strcmp(known->path, v->path) != 0)
		code = kms_vault_path(v->core, v->id, v->path);
	return code < 0 ? base_error_set(err, code, BASE_EXIT_FAILED, "cannot record where vault %s is: %s", v->path, strerror(-code)) : 0;
}

int vault_config_load(struct vault *v, const struct kms_caller *caller, struct base_error *err)
{
	struct vault_header *header = malloc(sizeof(*header));
	struct kms_vault *known = malloc(sizeof(*known));
	int code = -ENOMEM;

	if (header && known)
		code = load(v, caller, header, known, err);
	else
		base_error_set(err, code, BASE_EXIT_FAILED, "out of memory");
	free(header);
	free(known);
	return code;
}

static int seal_state(const struct vault *v, uint64_t n, uint64_t generation, uint8_t out[VAULT_STATE_SIZE])
{
	struct vault_state state = { .n = n, .size = generation };

	memcpy(state.acc, kms_core_id(v->core), BASE_ID_SIZE);
	memcpy(state.session, v->root_dir_id, BASE_ID_SIZE);
	return vault_state_seal(v->state, VAULT_MAGIC_CONFIG, v->id, &state, out);
}

int vault_config_make(struct vault *v, const struct kms_caller *caller, const uint8_t key_id[BASE_ID_SIZE], const uint8_t *dek,
		      uint8_t page[VAULT_PAGE], struct base_error *err)
{
	struct kms_wrap wrap;
	int code;

	code = kms_dek_wrap_vault(v->core, caller, v->id, key_id, dek, &wrap, err);
	if (code < 0)
		return code;
	vault_header_build(page, VAULT_MAGIC_CONFIG, v->id, v->id);
	code = derive(v, dek, page, page + 64);
	if (code == 0)
		code = seal_state(v, 1, 1, page + VAULT_HEADER_AREA(1) + VAULT_WRAP_SIZE);
	if (code < 0)
		return base_error_set(err, code, BASE_EXIT_FAILED, "cannot make the config of vault %s: %s", v->path, strerror(-code));
	vault_wrap_encode(1, KMS_PURPOSE_VAULT, &wrap, page + VAULT_HEADER_AREA(0));
	return 0;
}

/* The generation goes up before the wrap moves: whatever a crash leaves is at most one above what the keystore knows. */
static int move_wrap(struct vault *v, struct vault_header *header, const struct kms_wrap *wrap)
{
	uint8_t slot[VAULT_STATE_SIZE];
	struct vault_state state;
	int code = vault_state_open(v->state, VAULT_MAGIC_CONFIG, v->id, header->page, &state);
	off_t at;

	if (code < 0)
		return code;
	/* One step that an earlier run left untold is told first, so that two are never open. */
	code = kms_vault_generation(v->core, v->id, state.size);
	if (code == 0)
		code = seal_state(v, state.n + 1, state.size + 1, slot);
	if (code < 0)
		return code;
	at = VAULT_HEADER_AREA((state.n + 1) & 1) + VAULT_WRAP_SIZE;
	if (pwrite(v->config_fd, slot, sizeof(slot), at) != (ssize_t)sizeof(slot))
		return errno ? -errno : -EIO;
	memcpy(header->page + at, slot, sizeof(slot));
	code = vault_header_rewrap(v->config_fd, header, KMS_PURPOSE_VAULT, wrap);
	if (code < 0)
		return code;
	if (fdatasync(v->config_fd) < 0)
		return -errno;
	return kms_vault_generation(v->core, v->id, state.size + 1);
}

static int rewrap_locked(struct vault *v, const struct kms_caller *caller, struct vault_header *header, struct base_error *err)
{
	struct kms_subject subject = { .purpose = KMS_PURPOSE_VAULT };
	struct kms_wrap wrap;
	unsigned hold;
	int code, moved = 0;

	if (kms_key_current(v->core, header->wrap.key_id) != header->wrap.version) {
		memcpy(subject.vault_id, v->id, BASE_ID_SIZE);
		memcpy(subject.file_id, v->id, BASE_ID_SIZE);
		hold = kms_wrap_hold(v->core);
		code = kms_dek_rewrap(v->core, caller, &subject, &header->wrap, &wrap, err);
		if (code == 0 && (code = move_wrap(v, header, &wrap)) < 0)
			base_error_set(err, code, BASE_EXIT_FAILED, "cannot rewrap the config of vault %s: %s", v->path, strerror(-code));
		kms_wrap_release(v->core, hold);
		if (code < 0 && code != -EALREADY)
			return code;
		moved = code == 0;
	}
	if (!header->other_used)
		return moved;
	/* The live slot may be an earlier run's, not yet durable. */
	if (fdatasync(v->config_fd) < 0)
		code = -errno;
	else if ((code = kms_audit_barrier(v->core)) == 0 && (code = vault_header_erase(v->config_fd, header)) == 0 &&
		 fdatasync(v->config_fd) < 0)
		code = -errno;
	if (code < 0)
		return base_error_set(err, code, BASE_EXIT_FAILED, "cannot erase the old wrap of the config of vault %s: %s", v->path,
				      strerror(-code));
	return moved;
}

/* Nobody else has the vault meanwhile, also when it is shared. v->shared stays: files that are opened meanwhile keep their locks after it. */
static int rewrap_alone(struct vault *v, const struct kms_caller *caller, struct vault_header *header, struct base_error *err)
{
	struct base_error ignored = { 0 };
	bool shared = v->shared;
	int code;

	if (!header->other_used && kms_key_current(v->core, header->wrap.key_id) == header->wrap.version)
		return 0;
	code = shared ? vault_lock_config(v, false, err) : 0;
	if (code == 0)
		code = rewrap_locked(v, caller, header, err);
	if (shared)
		(void)vault_lock_config(v, true, &ignored);
	return code;
}

int vault_config_rewrap(struct vault *v, const struct kms_caller *caller, const uint8_t *only_key, bool *ret_counted, struct base_error *err)
{
	struct vault_header *header = malloc(sizeof(*header));
	int code;

	*ret_counted = true;
	if (!header)
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "out of memory");
	pthread_mutex_lock(&v->config);
	code = vault_header_read(v->config_fd, VAULT_MAGIC_CONFIG, KMS_PURPOSE_VAULT, header);
	if (code < 0)
		damaged(v, err);
	else if (only_key && memcmp(only_key, header->wrap.key_id, BASE_ID_SIZE) != 0)
		*ret_counted = false;
	else if (v->read_only && (header->other_used || kms_key_current(v->core, header->wrap.key_id) != header->wrap.version))
		code = base_error_set(err, -EROFS, BASE_EXIT_FAILED, "vault %s is on a read-only filesystem", v->path);
	else
		code = rewrap_alone(v, caller, header, err);
	pthread_mutex_unlock(&v->config);
	free(header);
	return code;
}

/* The config under v's name, opened again, by a vault of its own that nobody sees. */
static int check_again(struct vault *v, struct vault *again, const struct kms_caller *caller, struct vault_header *header, struct kms_vault *known,
		       struct base_error *err)
{
	memcpy(again->id, v->id, BASE_ID_SIZE);
	memcpy(again->path, v->path, sizeof(again->path));
	again->root_fd = fcntl(v->root_fd, F_DUPFD_CLOEXEC, 0);
	again->config_fd = openat(v->root_fd, VAULT_CONFIG_NAME, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (again->root_fd < 0 || again->config_fd < 0)
		return errno == ENOENT || errno == ELOOP ? damaged(v, err) :
							   base_error_set(err, -errno, BASE_EXIT_FAILED, "cannot open %s/" VAULT_CONFIG_NAME ": %s",
									  v->path, strerror(errno));
	return examine(again, caller, header, known, err);
}

int vault_config_check(struct vault *v, const struct kms_caller *caller, bool *ret_leftover, struct base_error *err)
{
	struct vault_header *header = malloc(sizeof(*header));
	struct kms_vault *known = malloc(sizeof(*known));
	struct vault *again = vault_alloc(v->core);
	int code = -ENOMEM;

	*ret_leftover = false;
	if (header && known && again) {
		pthread_mutex_lock(&v->config);
		code = check_again(v, again, caller, header, known, err);
		pthread_mutex_unlock(&v->config);
		*ret_leftover = code == 0 && header->other_used;
	} else {
		base_error_set(err, code, BASE_EXIT_FAILED, "out of memory");
	}
	vault_free(again);
	free(header);
	free(known);
	return code;
}

int vault_config_erase(struct vault *v)
{
	struct vault_header *header = malloc(sizeof(*header));
	int code = header ? 0 : -ENOMEM;

	pthread_mutex_lock(&v->config);
	if (code == 0)
		code = vault_header_read(v->config_fd, VAULT_MAGIC_CONFIG, KMS_PURPOSE_VAULT, header);
	if (code == 0 && fdatasync(v->config_fd) < 0)
		code = -errno;
	if (code == 0)
		code = kms_audit_barrier(v->core);
	if (code == 0)
		code = vault_header_erase(v->config_fd, header);
	if (code == 0 && fdatasync(v->config_fd) < 0)
		code = -errno;
	pthread_mutex_unlock(&v->config);
	free(header);
	return code;
}

int vault_config_share(struct vault *v, bool shared, struct base_error *err)
{
	bool before;
	int code = 0;

	pthread_mutex_lock(&v->config);
	before = v->shared;
	if (before != shared) {
		v->shared = true; /* on the way from one to the other files are locked one by one */
		code = vault_lock_config(v, shared, err);
		v->shared = code == 0 ? shared : before;
	}
	pthread_mutex_unlock(&v->config);
	return code;
}
