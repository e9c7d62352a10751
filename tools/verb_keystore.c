/*
 * Verbs about the keystore as a whole: init, status, seal, config check.
 */
#include "keepctl.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "prompt.h"

enum { INIT_KEY, INIT_PIN_SOURCE, INIT_MODULE, INIT_TOKEN };

/* Looked at before a keystore is made for nothing; the vault library looks again. */
static int
vault_place_check(const char *path, struct base_error *err)
{
	DIR *dir = opendir(path);
	struct dirent *entry;
	bool empty = true;

	if (!dir && errno == ENOENT)
		return 0;
	if (!dir)
		return base_error_set(err, -errno, BASE_EXIT_FAILED, "%s cannot become a vault: %s", path, strerror(errno));
	while ((entry = readdir(dir)))
		empty &= !strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..");
	closedir(dir);
	if (!empty)
		return base_error_set(err, -ENOTEMPTY, BASE_EXIT_FAILED,
				      "%s is not empty; a vault is made in a new or an empty directory", path);
	return 0;
}

static int
keystore_make(struct ctl *ctl, struct base_error *err)
{
	struct kms_create create = {
		.module = ctl->options[INIT_MODULE], .token = ctl->options[INIT_TOKEN], .pin_source = ctl->options[INIT_PIN_SOURCE],
	};

	if (create.module && (!create.token || !create.pin_source))
		return base_error_set(err, -EINVAL, BASE_EXIT_USAGE,
				      "--module needs --token LABEL and --pin-source (prompt, file:PATH or credential:NAME)");
	if (create.token && !create.module)
		return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "--token names a token of the HSM in --module PATH, which is missing");
	return kms_keystore_create(ctl->dir, &create, &ctl->prompt, err);
}

static void
nothing_line(void *ctx, json_t *line)
{
}

/* A keystore that was just made has no key of that name yet; in an older one a wrong name is a mistake. */
static int
key_make(struct ctl *ctl, const char *name, struct base_error *err)
{
	if (!strcmp(name, "default"))
		return 0;
	return ctl_call(ctl, "POST", "/v1/keys", json_pack("{s:s}", "name", name), nothing_line, NULL, err);
}

struct made {
	struct ctl *ctl;
	const char *vault, *key;
	bool keystore;
};

static void
made_line(void *ctx, json_t *line)
{
	struct made *made = ctx;
	const char *id = json_string_value(json_object_get(line, "id"));
	const char *dir = made->ctl->dir;

	if (made->ctl->json) {
		json_object_set_new(line, "keystore", json_string(dir));
		json_object_set_new(line, "keystore_created", json_boolean(made->keystore));
		ctl_json(line);
		return;
	}
	printf("vault     %s%s%s\nkey       %s\nkeystore  %s%s\n", made->vault, id ? "  id " : "", id ? id : "", made->key, dir,
	       made->keystore ? " (new)" : "");
	printf("\nMount it:  keepfs %s MOUNTPOINT\n", made->vault);
	printf("Save both: %s and %s; without the keystore nobody opens the vault again.\n", dir, made->vault);
	fflush(stdout);
}

static void
warn_pin(const struct ctl *ctl)
{
	if (!ctl->options[INIT_PIN_SOURCE])
		ctl_say("warning: the token's PIN is random and lies in %s/pin (0600), beside the token: a stolen disk opens everything. "
			"Better: `init --pin-source prompt`, `--pin-source credential:NAME` (systemd), or a real HSM (--module, --token).",
			ctl->dir);
}

/* A relative path of a PIN file is one of this directory, not of the service's. */
static int
pin_source_absolute(struct ctl *ctl, char ret[PATH_MAX + 8], struct base_error *err)
{
	const char *source = ctl->options[INIT_PIN_SOURCE];

	if (!source || strncmp(source, "file:", 5) || source[5] == '/')
		return 0;
	strcpy(ret, "file:");
	ctl->options[INIT_PIN_SOURCE] = ret;
	return ctl_absolute(source + 5, ret + 5, err);
}

static int
init_at(struct ctl *ctl, const char *vault, const char *key, bool fresh, struct base_error *err)
{
	struct made made = { .ctl = ctl, .vault = vault, .key = key, .keystore = fresh };
	int rc = vault_place_check(vault, err);

	if (rc == 0 && fresh)
		rc = keystore_make(ctl, err);
	if (rc < 0)
		return rc;
	if (fresh)
		rc = key_make(ctl, key, err);
	if (rc == 0)
		rc = ctl_call(ctl, "POST", "/v1/vaults", json_pack("{s:s, s:s}", "path", vault, "key", key), made_line, &made, err);
	if (fresh && rc < 0)
		ctl_say("the keystore %s was made and stays; the vault was not made", ctl->dir);
	if (fresh)
		warn_pin(ctl);
	return rc;
}

int
ctl_init(struct ctl *ctl, struct base_error *err)
{
	const char *key = ctl->options[INIT_KEY] ? ctl->options[INIT_KEY] : "default";
	struct prompt_memory memory = { NULL };
	char vault[PATH_MAX], source[PATH_MAX + 8];
	int rc = ctl_absolute(ctl->args[0], vault, err);
	bool fresh;

	if (rc == 0)
		rc = ctl_keystore(ctl, NULL, err);
	if (rc == 0)
		rc = pin_source_absolute(ctl, source, err);
	if (rc < 0)
		return rc;
	fresh = !kms_keystore_exists(ctl->dir);
	if (!fresh && (ctl->options[INIT_MODULE] || ctl->options[INIT_TOKEN] || ctl->options[INIT_PIN_SOURCE]))
		return base_error_set(err, -EEXIST, BASE_EXIT_USAGE,
				      "the keystore %s exists already; --module, --token and --pin-source are for a new one", ctl->dir);
	/* Making the keystore and opening it for the vault are one question to the person. */
	ctl->prompt.ctx = &memory;
	rc = init_at(ctl, vault, key, fresh, err);
	ctl_done(ctl);
	ctl->prompt.ctx = NULL;
	prompt_memory_done(&memory);
	return rc;
}

int
ctl_config_check(struct ctl *ctl, struct base_error *err)
{
	char path[PATH_MAX + 16];
	int rc = ctl_keystore(ctl, NULL, err);

	if (rc == 0 && !kms_keystore_exists(ctl->dir))
		rc = base_error_set(err, -ENOENT, BASE_EXIT_NOT_FOUND, "there is no keystore at %s; `keepctl init VAULT` makes one",
				    ctl->dir);
	if (rc == 0)
		rc = kms_config_check(ctl->dir, err);
	if (rc < 0)
		return rc;
	snprintf(path, sizeof(path), "%s/keystore.conf", ctl->dir);
	if (ctl->json) {
		json_t *line = json_pack("{s:s, s:b}", "path", path, "ok", 1);

		ctl_json(line);
		json_decref(line);
	} else {
		printf("%s: good\n", path);
	}
	return 0;
}

struct status {
	struct ctl *ctl;
	bool available;
	char reason[300];
};

static void
status_mounts(json_t *mounts)
{
	size_t index;
	json_t *mount;

	printf("mounts    %zu\n", json_array_size(mounts));
	json_array_foreach(mounts, index, mount) {
		char vault[CTL_FIELD_MAX], point[CTL_FIELD_MAX];

		printf("          %s on %s\n", ctl_field(mount, "vault", CTL_TEXT, vault), ctl_field(mount, "mountpoint", CTL_TEXT, point));
	}
}

static void
status_text(json_t *line, const struct status *status)
{
	bool service = !json_is_false(json_object_get(line, "service"));
	char a[CTL_FIELD_MAX], b[CTL_FIELD_MAX];

	printf("keystore  %s\n", ctl_field(line, "keystore", CTL_TEXT, a));
	if (service)
		printf("service   pid %s, keepfs %s\n", ctl_field(line, "pid", CTL_NUMBER, a), ctl_field(line, "version", CTL_TEXT, b));
	else
		puts("service   no service");
	printf("hsm       %s, token %s, %s\n", status->available ? "reachable" : "UNREACHABLE", ctl_field(line, "hsm.label", CTL_TEXT, a),
	       ctl_field(line, "hsm.module", CTL_TEXT, b));
	if (!status->available && status->reason[0])
		printf("          %s\n", status->reason);
	status_mounts(json_object_get(line, "mounts"));
	printf("vaults    %s\n", ctl_field(line, "vaults", CTL_NUMBER, a));
	printf("keys      %s\n", ctl_field(line, "keys", CTL_NUMBER, a));
	printf("audit     record %s, head %s\n", ctl_field(line, "audit.seq", CTL_NUMBER, a), ctl_field(line, "audit.hash", CTL_TEXT, b));
}

static void
status_line(void *ctx, json_t *line)
{
	struct status *status = ctx;
	json_t *hsm = json_object_get(line, "hsm");
	const char *reason = json_string_value(json_object_get(hsm, "reason"));

	status->available = json_is_true(json_object_get(hsm, "available"));
	snprintf(status->reason, sizeof(status->reason), "%s", reason ? reason : "");
	if (status->ctl->json)
		ctl_json(line);
	else
		status_text(line, status);
}

int
ctl_status(struct ctl *ctl, struct base_error *err)
{
	struct status status = { .ctl = ctl };
	int rc = ctl_call(ctl, "GET", "/v1/status", NULL, status_line, &status, err);

	if (rc == 0 && !status.available)
		rc = base_error_set(err, -ENOKEY, BASE_EXIT_UNREACHABLE, "the HSM is unreachable%s%s", status.reason[0] ? ": " : "",
				    status.reason);
	return rc;
}

int
ctl_seal(struct ctl *ctl, struct base_error *err)
{
	int rc = ctl_call(ctl, "POST", "/v1/seal", NULL, nothing_line, NULL, err);

	if (rc == 0 && ctl->json)
		puts("{\"sealed\":true}");
	else if (rc == 0)
		puts("sealed: no data key is left in memory, and the HSM is logged out");
	return rc;
}
