/*
 * Reading and writing keystore.conf. inih as distributions build it tells handlers no line numbers, so the reader counts the lines
 * that it hands over: inih calls the handler for the line that it read last.
 */
#include "conf.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <ini.h>
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "hsm/hsm.h"
#include "kms/kms.h"

enum value_type { VALUE_TEXT, VALUE_DURATION, VALUE_COUNT, VALUE_CHOICE };

struct choice {
	const char *name;
	int value;
};

static const struct choice profiles[] = {
	{ "standard", HSM_IV_APP }, { "iv-zero", HSM_IV_ZERO }, { "iv-append", HSM_IV_APPEND }, { NULL, 0 },
};
static const struct choice durabilities[] = {
	{ "commit", KMS_DURABILITY_COMMIT }, { "fsync", KMS_DURABILITY_FSYNC }, { "batch", KMS_DURABILITY_BATCH }, { NULL, 0 },
};

#define TEXT(s, k, field) { s, k, VALUE_TEXT, offsetof(struct kms_conf, field), sizeof(((struct kms_conf *) 0)->field), NULL, 0 }
#define CHOICE(s, k, field, list) { s, k, VALUE_CHOICE, offsetof(struct kms_conf, field), 0, list, 0 }
#define NUMBER(s, k, type, field, max) { s, k, type, offsetof(struct kms_conf, field), 0, NULL, max }

static const struct setting {
	const char *section, *key;
	enum value_type type;
	size_t at, size;
	const struct choice *choices;
	int64_t max;
} settings[] = {
	TEXT("hsm", "module", module),
	TEXT("hsm", "token", token),
	TEXT("hsm", "serial", serial),
	TEXT("hsm", "pin-source", pin_source),
	TEXT("hsm", "pin-salt", pin_salt),
	NUMBER("hsm", "pin-cost", VALUE_COUNT, pin_cost, 20),
	CHOICE("hsm", "profile", profile, profiles),
	CHOICE("audit", "durability", durability, durabilities),
	NUMBER("kms", "dek-cache-ttl", VALUE_DURATION, dek_cache_ttl, 86400),
	NUMBER("kms", "dek-cache-size", VALUE_COUNT, dek_cache_size, 65536),
	NUMBER("kms", "pool-size", VALUE_COUNT, pool_size, 1024),
};
#define SETTINGS (sizeof(settings) / sizeof(settings[0]))

struct reading {
	FILE *file;
	unsigned line;
	struct kms_conf *conf;
	struct base_error *err;
	int rc; /* the first error; what follows is ignored */
	unsigned seen[SETTINGS]; /* line of each key, 0: not yet */
};

void
kms_conf_default(struct kms_conf *conf)
{
	memset(conf, 0, sizeof(*conf));
	strcpy(conf->token, KMS_CONF_TOKEN);
	conf->pin_cost = 17;
	conf->profile = HSM_IV_APP;
	conf->durability = KMS_DURABILITY_COMMIT;
	conf->dek_cache_ttl = 300;
	conf->dek_cache_size = 4096;
	conf->pool_size = 64;
}

static void fail_at(struct reading *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void
fail_at(struct reading *r, const char *fmt, ...)
{
	char text[400];
	va_list args;

	if (r->rc < 0)
		return;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	r->rc = base_error_set(r->err, -EINVAL, BASE_EXIT_FAILED, KMS_CONF_FILE ":%u: %s", r->line, text);
}

static bool
section_known(const char *name, size_t len)
{
	for (size_t i = 0; i < SETTINGS; i++)
		if (strlen(settings[i].section) == len && !memcmp(settings[i].section, name, len))
			return true;
	return false;
}

/* inih does not tell about a section without keys, so heads are looked at here. */
static char *
read_line(char *text, int size, void *stream)
{
	struct reading *r = stream;
	const char *at;

	if (r->rc < 0 || !fgets(text, size, r->file))
		return NULL;
	r->line++;
	if (strlen(text) == (size_t) size - 1 && text[size - 2] != '\n') {
		fail_at(r, "the line is longer than %d bytes", size - 2);
		return NULL;
	}
	at = text + strspn(text, " \t");
	if (*at == '[') {
		size_t len = strcspn(at + 1, "]\n");

		if (at[1 + len] != ']')
			fail_at(r, "a section head has no closing bracket");
		else if (!section_known(at + 1, len))
			fail_at(r, "unknown section [%.*s]; there are [hsm], [audit] and [kms]", (int) (len > 60 ? 60 : len), at + 1);
	}
	return r->rc < 0 ? NULL : text;
}

static void
number_set(struct reading *r, const struct setting *setting, const char *value)
{
	int64_t number;

	if (setting->type == VALUE_DURATION) {
		number = base_parse_duration(value);
	} else {
		char *end;

		errno = 0;
		number = isdigit((unsigned char) *value) ? strtoll(value, &end, 10) : -1;
		if (number >= 0 && (*end || errno))
			number = -1;
	}
	if (number < 0 || number > setting->max)
		fail_at(r, "%s: \"%.60s\" is not %s from 0 to %lld%s", setting->key, value,
		     setting->type == VALUE_DURATION ? "a time" : "a number", (long long) setting->max,
		     setting->type == VALUE_DURATION ? " seconds" : "");
	else
		memcpy((char *) r->conf + setting->at, &number, sizeof(number));
}

static void
choice_set(struct reading *r, const struct setting *setting, const char *value)
{
	char names[120] = "";

	for (const struct choice *c = setting->choices; c->name; c++) {
		if (!strcmp(c->name, value)) {
			memcpy((char *) r->conf + setting->at, &c->value, sizeof(c->value));
			return;
		}
		if (*names)
			strcat(names, ", ");
		strcat(names, c->name);
	}
	fail_at(r, "%s: \"%.60s\" is none of %s", setting->key, value, names);
}

static int
handle(void *user, const char *section, const char *key, const char *value)
{
	struct reading *r = user;

	if (r->rc < 0)
		return 0;
	if (!strcmp(section, "hsm") && !strcmp(key, "pin-value")) {
		fail_at(r, "pin-value is refused: a PIN does not belong into a configuration file; remove it, change that PIN, and "
		     "use pin-source = file:PATH, credential:NAME or prompt");
		return 0;
	}
	for (size_t i = 0; i < SETTINGS; i++) {
		const struct setting *setting = &settings[i];

		if (strcmp(setting->section, section) || strcmp(setting->key, key))
			continue;
		if (r->seen[i]) {
			fail_at(r, "%s is given a second time; the first is on line %u", key, r->seen[i]);
			return 0;
		}
		r->seen[i] = r->line;
		if (setting->type == VALUE_CHOICE)
			choice_set(r, setting, value);
		else if (setting->type != VALUE_TEXT)
			number_set(r, setting, value);
		else if (!*value || strlen(value) >= setting->size)
			fail_at(r, "%s: the value is empty or too long", key);
		else
			strcpy((char *) r->conf + setting->at, value);
		return r->rc == 0;
	}
	if (!*section)
		fail_at(r, "%.60s stands before any section; there are [hsm], [audit] and [kms]", key);
	else
		fail_at(r, "unknown key \"%.60s\" in section [%.60s]", key, section);
	return 0;
}

static int
conf_check(struct reading *r)
{
	const struct kms_conf *conf = r->conf;
	const char *source = conf->pin_source;
	uint8_t salt[16];

	if (*source && strcmp(source, "prompt") && strncmp(source, "file:/", 6) && strncmp(source, "credential:", 11))
		return base_error_set(r->err, -EINVAL, BASE_EXIT_FAILED, KMS_CONF_FILE ":%u: pin-source: \"%.60s\" is none of "
				      "prompt, file:/ABSOLUTE/PATH, credential:NAME", r->seen[3], source);
	if (*conf->module && *conf->module != '/')
		return base_error_set(r->err, -EINVAL, BASE_EXIT_FAILED, KMS_CONF_FILE ":%u: module: \"%.60s\" is not an "
				      "absolute path", r->seen[0], conf->module);
	if (*conf->module && !r->seen[1])
		return base_error_set(r->err, -EINVAL, BASE_EXIT_FAILED, KMS_CONF_FILE ":%u: a module needs its token's label: "
				      "add token = LABEL", r->seen[0]);
	if (*conf->pin_salt && base_unhex(conf->pin_salt, salt, sizeof(salt)) < 0)
		return base_error_set(r->err, -EINVAL, BASE_EXIT_FAILED, KMS_CONF_FILE ":%u: pin-salt is not 32 hexadecimal "
				      "digits", r->seen[4]);
	if (conf->pin_cost < 12)
		return base_error_set(r->err, -EINVAL, BASE_EXIT_FAILED, KMS_CONF_FILE ":%u: pin-cost is less than 12", r->seen[5]);
	if (!strcmp(source, "prompt") && !*conf->module && !*conf->pin_salt)
		return base_error_set(r->err, -EINVAL, BASE_EXIT_FAILED, KMS_CONF_FILE ":%u: pin-source = prompt needs the "
				      "pin-salt that init wrote; restore the file from a backup", r->seen[3]);
	return 0;
}

static pthread_once_t setup_once = PTHREAD_ONCE_INIT;

/* Paths are longer than inih's line of 200 bytes on the stack. */
static void
setup(void)
{
	ini_use_stack = false;
	ini_max_line = PATH_MAX + 64;
	ini_allow_multiline = false;
}

int
kms_conf_read(const char *dir, struct kms_conf *ret, struct base_error *err)
{
	struct reading r = { .conf = ret, .err = err };
	char path[PATH_MAX + 32];
	int rc;

	snprintf(path, sizeof(path), "%s/" KMS_CONF_FILE, dir);
	kms_conf_default(ret);
	r.file = fopen(path, "re");
	if (!r.file) {
		rc = -errno;
		return base_error_set(err, rc, rc == -ENOENT ? BASE_EXIT_NOT_FOUND : BASE_EXIT_FAILED,
				      rc == -ENOENT ? "%s: there is no keystore here (%s); `keepctl init` makes one"
						    : "%s: keystore.conf: %s", dir, strerror(-rc));
	}
	pthread_once(&setup_once, setup);
	rc = ini_parse_stream(read_line, &r, handle, &r);
	fclose(r.file);
	if (r.rc < 0)
		return r.rc;
	if (rc > 0) {
		r.line = (unsigned) rc;
		fail_at(&r, "neither a [section], a key = value nor a comment");
		return r.rc;
	}
	if (rc < 0)
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "out of memory while reading %s", path);
	return conf_check(&r);
}

int
kms_config_check(const char *dir, struct base_error *err)
{
	struct kms_conf conf;

	return kms_conf_read(dir, &conf, err);
}

static void
conf_print(FILE *out, const struct kms_conf *conf)
{
	fputs("; keystore of keepfs. Unknown and repeated keys are errors; `keepctl config check` reads this file alone.\n\n[hsm]\n", out);
	if (*conf->module)
		fprintf(out, "module = %s\n", conf->module);
	else
		fputs("; no module: the embedded SoftHSM2, with its token in tokens/ beside this file\n", out);
	fprintf(out, "token = %s\n", conf->token);
	if (*conf->serial)
		fprintf(out, "serial = %s\n", conf->serial);
	if (*conf->pin_source)
		fprintf(out, "pin-source = %s\n", conf->pin_source);
	else
		fputs("; no pin-source: a random PIN in the file pin beside this file. Whoever copies this directory has the keys.\n", out);
	if (*conf->pin_salt)
		fprintf(out, "pin-salt = %s\npin-cost = %lld\n", conf->pin_salt, (long long) conf->pin_cost);
	for (const struct choice *c = profiles; c->name; c++)
		if (c->value == conf->profile && conf->profile != HSM_IV_APP)
			fprintf(out, "profile = %s\n", c->name);
	fprintf(out, "\n[audit]\n; commit: a record survives a crash of the service; fsync: a power cut too; batch: neither for 0.1 s\n"
		"durability = commit\n\n[kms]\ndek-cache-ttl = %lld\ndek-cache-size = %lld\npool-size = %lld\n",
		(long long) conf->dek_cache_ttl, (long long) conf->dek_cache_size, (long long) conf->pool_size);
}

int
kms_conf_write(const char *dir, const struct kms_conf *conf, struct base_error *err)
{
	char path[PATH_MAX + 32];
	FILE *out;
	int fd, rc = 0;

	snprintf(path, sizeof(path), "%s/" KMS_CONF_FILE, dir);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 || !(out = fdopen(fd, "w"))) {
		rc = -errno;
		if (fd >= 0)
			close(fd);
		return base_error_set(err, rc, BASE_EXIT_FAILED, "cannot make %s: %s", path, strerror(-rc));
	}
	conf_print(out, conf);
	if (fflush(out) || fchmod(fd, 0600) < 0 || fsync(fd) < 0)
		rc = -errno;
	if (fclose(out) && rc == 0)
		rc = -errno;
	if (rc < 0)
		return base_error_set(err, rc, BASE_EXIT_FAILED, "cannot write %s: %s", path, strerror(-rc));
	return 0;
}
