/*
 * The keystore directory: where it is, and making it. What is made is on the disk before the caller hears of it, and is
 * removed again when something fails on the way.
 */
#include "keystore.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "api.h"
#include "base/crypto.h"
#include "base/secret.h"
#include "keys.h"
#include "pin.h"
#include "policy.h"
#include "store.h"

#define SYSTEM_DIR "/var/lib/keepfs/default"

/* ---- where ------------------------------------------------------------------------------------------------------------------ */

bool
kms_keystore_exists(const char *dir)
{
	char path[PATH_MAX + 32];
	struct stat st;

	return snprintf(path, sizeof(path), "%s/" KMS_CONF_FILE, dir) < (int) sizeof(path) && stat(path, &st) == 0;
}

static int
absolute(const char *text, char *ret, struct base_error *err)
{
	char cwd[PATH_MAX];
	int len;

	if (!*text)
		return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "the keystore's path is empty");
	if (*text == '/')
		len = snprintf(ret, PATH_MAX, "%s", text);
	else if (getcwd(cwd, sizeof(cwd)))
		len = snprintf(ret, PATH_MAX, "%s/%s", cwd, text);
	else
		return base_error_set(err, -errno, BASE_EXIT_FAILED, "the working directory: %s", strerror(errno));
	if (len >= PATH_MAX)
		return base_error_set(err, -ENAMETOOLONG, BASE_EXIT_USAGE, "the keystore's path is too long");
	while (len > 1 && ret[len - 1] == '/')
		ret[--len] = 0;
	return 0;
}

static int
home_default(char *ret, struct base_error *err)
{
	const char *data = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
	struct passwd entry, *found = NULL;
	char buffer[4096];
	int len;

	if (data && *data == '/') {
		len = snprintf(ret, PATH_MAX, "%s/keepfs/default", data);
	} else {
		if ((!home || *home != '/') && getpwuid_r(getuid(), &entry, buffer, sizeof(buffer), &found) == 0 && found)
			home = found->pw_dir;
		if (!home || *home != '/')
			return base_error_set(err, -ENOENT, BASE_EXIT_USAGE, "there is no home directory for a keystore; use --keystore DIR");
		len = snprintf(ret, PATH_MAX, "%s/.local/share/keepfs/default", home);
	}
	return len < PATH_MAX ? 0 : base_error_set(err, -ENAMETOOLONG, BASE_EXIT_USAGE, "the keystore's path is too long");
}

int
kms_keystore_path(const char *option, char *ret, struct base_error *err)
{
	const char *env = getenv("KEEPFS_KEYSTORE");
	int rc;

	if (option)
		return absolute(option, ret, err);
	if (env && *env)
		return absolute(env, ret, err);
	if (geteuid() == 0)
		return absolute(SYSTEM_DIR, ret, err);
	rc = home_default(ret, err);
	if (rc < 0)
		return rc;
	if (!kms_keystore_exists(ret) && kms_keystore_exists(SYSTEM_DIR))
		return absolute(SYSTEM_DIR, ret, err);
	return 0;
}

void
kms_keystore_hsm(const char *dir, const struct kms_conf *conf, struct kms_pin *pin, struct kms_hsm_paths *paths,
		 struct hsm_config *ret)
{
	memset(ret, 0, sizeof(*ret));
	snprintf(paths->token_dir, sizeof(paths->token_dir), "%s/tokens", dir);
	snprintf(paths->conf_path, sizeof(paths->conf_path), "%s/softhsm2.conf", dir);
	ret->module = *conf->module ? conf->module : NULL;
	ret->token = conf->token;
	ret->serial = *conf->serial ? conf->serial : NULL;
	if (!ret->module) {
		ret->token_dir = paths->token_dir;
		ret->conf_path = paths->conf_path;
	}
	ret->iv_mode = (enum hsm_iv_mode) conf->profile;
	ret->pin = kms_pin_get;
	ret->pin_ctx = pin;
}

/* ---- making ------------------------------------------------------------------------------------------------------------------ */

static int
sync_dir(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int rc = fd < 0 || fsync(fd) < 0 ? -errno : 0;

	if (fd >= 0)
		close(fd);
	return rc;
}

static int
make_parents(const char *dir, struct base_error *err)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s", dir);
	for (char *at = strchr(path + 1, '/'); at; at = strchr(at + 1, '/')) {
		*at = 0;
		if (mkdir(path, 0755) < 0 && errno != EEXIST)
			return base_error_set(err, -errno, BASE_EXIT_FAILED, "cannot make %s: %s", path, strerror(errno));
		*at = '/';
	}
	return 0;
}

static bool
is_empty(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *entry;
	bool empty = d != NULL;

	while (d && (entry = readdir(d)))
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
			empty = false;
	if (d)
		closedir(d);
	return empty;
}

static int
make_dir(const char *dir, bool *ret_made, struct base_error *err)
{
	struct stat st;
	int rc = make_parents(dir, err);

	if (rc < 0)
		return rc;
	*ret_made = mkdir(dir, 0711) == 0;
	if (!*ret_made && errno != EEXIST)
		return base_error_set(err, -errno, BASE_EXIT_FAILED, "cannot make the keystore directory %s: %s", dir, strerror(errno));
	if (!*ret_made && (stat(dir, &st) < 0 || !S_ISDIR(st.st_mode) || !is_empty(dir)))
		return base_error_set(err, -EEXIST, BASE_EXIT_FAILED, "%s exists and is not an empty directory: no keystore is made over it", dir);
	if (!*ret_made && st.st_uid != geteuid())
		return base_error_set(err, -EACCES, BASE_EXIT_FAILED, "%s belongs to uid %u", dir, (unsigned) st.st_uid);
	if (chmod(dir, 0711) < 0)
		return base_error_set(err, -errno, BASE_EXIT_FAILED, "%s: chmod: %s", dir, strerror(errno));
	return 0;
}

static int
remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
	if (at->level > 0)
		remove(path);
	return 0;
}

/* Only what a failed creation has made: the directory was empty before. */
static void
remove_made(const char *dir, bool made)
{
	nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	if (made)
		rmdir(dir);
}

static int
conf_from(const struct kms_create *options, struct kms_conf *conf, struct base_error *err)
{
	const char *source = options->pin_source;
	uint8_t salt[16];

	kms_conf_default(conf);
	if (!options->module != !options->token)
		return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "--module and --token go together: the module's path and the token's label");
	if (options->module) {
		if (*options->module != '/' || strlen(options->module) >= sizeof(conf->module))
			return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "--module takes an absolute path");
		if (!*options->token || strlen(options->token) >= sizeof(conf->token))
			return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "a token's label has 1 to %zu bytes", sizeof(conf->token) - 1);
		if (access(options->module, R_OK) < 0)
			return base_error_set(err, -ENOENT, BASE_EXIT_NOT_FOUND, "PKCS#11 module %s: %s", options->module, strerror(errno));
		if (!source)
			return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "with --module, --pin-source says where the token's PIN comes from: "
					      "prompt, file:PATH or credential:NAME");
		strcpy(conf->module, options->module);
		strcpy(conf->token, options->token);
	}
	if (!source)
		return 0;
	if (strcmp(source, "prompt") && strncmp(source, "file:/", 6) && (strncmp(source, "credential:", 11) || !source[11]))
		return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "--pin-source takes prompt, file:/ABSOLUTE/PATH or credential:NAME");
	if (strlen(source) >= sizeof(conf->pin_source))
		return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "--pin-source: the path is too long");
	strcpy(conf->pin_source, source);
	if (!strcmp(source, "prompt") && !options->module) {
		if (base_random(salt, sizeof(salt)) < 0)
			return base_error_set(err, -EIO, BASE_EXIT_FAILED, "no random numbers");
		base_hex(salt, sizeof(salt), conf->pin_salt);
		conf->pin_cost = kms_pin_cost();
	}
	return 0;
}

/* The embedded token, with its PIN from the source, and a security officer's PIN that nobody knows. */
static int
make_token(const char *dir, struct kms_conf *conf, struct kms_pin *pin, struct base_error *err)
{
	BASE_SECRET_AUTO char *user = base_secret_alloc(KMS_PIN_CAP);
	BASE_SECRET_AUTO char *officer = base_secret_alloc(KMS_PIN_CAP);
	struct kms_hsm_paths paths;
	struct hsm_config config;
	int rc = user && officer ? 0 : -ENOMEM;

	if (rc == 0 && !*conf->pin_source) {
		rc = kms_pin_random(user, KMS_PIN_CAP);
		if (rc == 0) {
			rc = kms_pin_write(dir, user, err);
			if (rc < 0)
				return rc;
		}
	}
	if (rc == 0)
		rc = kms_pin_random(officer, KMS_PIN_CAP);
	if (rc < 0)
		return base_error_set(err, rc, BASE_EXIT_FAILED, "no PIN can be made: %s; raise RLIMIT_MEMLOCK (ulimit -l)?", strerror(-rc));
	rc = kms_pin_get(pin, user, KMS_PIN_CAP, err);
	if (rc < 0)
		return rc;
	if (strlen(user) < 4)
		return base_error_set(err, -EINVAL, BASE_EXIT_PIN, "the PIN is shorter than 4 characters, which the token refuses");
	kms_keystore_hsm(dir, conf, pin, &paths, &config);
	return hsm_token_create(&config, officer, user, err);
}

static int
make_store(const char *dir, struct base_error *err)
{
	uint8_t id[BASE_ID_SIZE];
	struct kms_store *store;
	char path[PATH_MAX + 20];
	int rc;

	snprintf(path, sizeof(path), "%s/" KMS_STORE_FILE, dir);
	rc = kms_store_create(path, err);
	if (rc == 0)
		rc = kms_store_open(path, &store, err);
	if (rc < 0)
		return rc;
	rc = base_random(id, sizeof(id));
	if (rc == 0)
		rc = kms_store_begin(store, true);
	if (rc == 0) {
		rc = kms_store_meta_put(store, "keystore_id", id, sizeof(id));
		if (rc == 0)
			rc = kms_policy_init_rows(store, getuid());
		if (rc == 0)
			rc = kms_store_commit(store);
		else
			kms_store_rollback(store);
	}
	kms_store_close(store);
	return rc < 0 ? base_error_set(err, rc, BASE_EXIT_FAILED, "cannot write %s: %s", path, strerror(-rc)) : 0;
}

/* The kept prompt answer goes on to the opening, so that a person is asked once. */
struct replay {
	char *pin;
};

static int
replay_prompt(void *ctx, const char *text, bool again, char *pin, size_t cap, struct base_error *err)
{
	const struct replay *replay = ctx;

	if (strlen(replay->pin) >= cap)
		return -EINVAL;
	strcpy(pin, replay->pin);
	return 0;
}

/* First opening: the audit key, the key `default`, and the token's serial for keystore.conf. */
static int
furnish(const char *dir, struct replay *replay, struct kms_conf *conf, struct base_error *err)
{
	struct kms_prompt prompt = { .fn = replay_prompt, .ctx = replay };
	struct kms_caller self = kms_caller_self(KMS_VIA_CLI);
	struct kms_key_new new = { .name = "default", .kind = KMS_KIND_ROOT, .action = "key-create", .trusted = true };
	struct hsm_status status;
	struct kms_core *core;
	uint8_t id[BASE_ID_SIZE];
	int rc = kms_core_open_as(dir, &prompt, 0, true, &core, err);

	if (rc < 0)
		return rc;
	rc = kms_keys_create(core, &self, &new, id, err);
	if (rc == 0 && hsm_status(core->hsm, &status) == 0 && strlen(status.serial) < sizeof(conf->serial))
		strcpy(conf->serial, status.serial);
	kms_core_close(core);
	return rc;
}

/* Wraps the caller's prompt to keep its answer. */
struct keeping {
	const struct kms_prompt *prompt;
	struct replay *replay;
};

static int
keeping_prompt(void *ctx, const char *text, bool again, char *pin, size_t cap, struct base_error *err)
{
	struct keeping *keeping = ctx;
	int rc;

	if (!keeping->prompt || !keeping->prompt->fn)
		return base_error_set(err, -EACCES, BASE_EXIT_PIN, "--pin-source prompt needs a terminal to ask on; use file:PATH or credential:NAME");
	rc = keeping->prompt->fn(keeping->prompt->ctx, text, again, pin, cap, err);
	if (rc == 0 && strlen(pin) < KMS_PIN_CAP)
		strcpy(keeping->replay->pin, pin);
	return rc;
}

static int
make_inside(const char *dir, struct kms_conf *conf, const struct kms_prompt *prompt, struct base_error *err)
{
	BASE_SECRET_AUTO char *answer = base_secret_alloc(KMS_PIN_CAP);
	struct replay replay = { .pin = answer };
	struct keeping keeping = { .prompt = prompt, .replay = &replay };
	struct kms_prompt ask = { .fn = keeping_prompt, .ctx = &keeping };
	struct kms_pin *pin = NULL;
	char path[PATH_MAX + 32];
	int rc;

	if (!answer)
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "no memory can be locked; raise RLIMIT_MEMLOCK (ulimit -l)");
	rc = kms_pin_new(dir, conf, &pin, err);
	if (rc == 0)
		rc = kms_pin_ask(pin, &ask, !*conf->module, err);
	if (rc == 0 && !*conf->module)
		rc = make_token(dir, conf, pin, err);
	kms_pin_free(pin);
	if (rc == 0)
		rc = kms_conf_write(dir, conf, err);
	if (rc == 0)
		rc = make_store(dir, err);
	if (rc == 0)
		rc = furnish(dir, &replay, conf, err);
	if (rc == 0 && *conf->serial) {
		snprintf(path, sizeof(path), "%s/" KMS_CONF_FILE, dir);
		rc = unlink(path) < 0 ? base_error_set(err, -errno, BASE_EXIT_FAILED, "%s: %s", path, strerror(errno)) : kms_conf_write(dir, conf, err);
	}
	return rc;
}

int
kms_keystore_create(const char *dir, const struct kms_create *options, const struct kms_prompt *prompt, struct base_error *err)
{
	struct sockaddr_un address;
	char parent[PATH_MAX];
	struct kms_conf conf;
	bool made = false;
	int rc = conf_from(options, &conf, err);

	if (rc < 0)
		return rc;
	if (*dir != '/')
		return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "a keystore's path is absolute");
	if (strlen(dir) + 1 + strlen(KMS_API_SOCKET) >= sizeof(address.sun_path))
		return base_error_set(err, -ENAMETOOLONG, BASE_EXIT_USAGE, "%s: with /" KMS_API_SOCKET " the path is longer than the %zu bytes of a "
				      "socket address; choose a shorter one", dir, sizeof(address.sun_path) - 1);
	rc = make_dir(dir, &made, err);
	if (rc < 0) {
		if (made)
			rmdir(dir);
		return rc;
	}
	rc = make_inside(dir, &conf, prompt, err);
	if (rc == 0) {
		snprintf(parent, sizeof(parent), "%s", dir);
		*strrchr(parent, '/') = 0;
		rc = sync_dir(dir);
		if (rc == 0)
			rc = sync_dir(*parent ? parent : "/");
		if (rc < 0)
			base_error_set(err, rc, BASE_EXIT_FAILED, "%s cannot be made durable: %s", dir, strerror(-rc));
	}
	if (rc < 0)
		remove_made(dir, made);
	return rc;
}
