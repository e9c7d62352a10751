/*
 * PIN sources. A passphrase for the embedded token is stretched with scrypt (RFC 7914) to the token's PIN, because
 * SoftHSM's own hardening is weak; for other tokens it is the PIN.
 */
#include "pin.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crypto.h"
#include "base/secret.h"

enum source { SOURCE_PROMPT, SOURCE_FILE };

#define COST_FULL 17 /* with r = 8: 128 MiB */
#define COST_LEAST 12
#define COST_MEMORY(cost) ((uint64_t) 1024 << (cost)) /* 128 * r * N */

struct kms_pin {
	enum source source;
	char path[PATH_MAX];
	bool stretch;
	int cost;
	uint8_t salt[16];
	char *kept; /* secret memory; NULL until asked. Written before other threads see the PIN */
};

int
kms_pin_cost(void)
{
	struct rlimit limit;
	int cost = COST_FULL;

	if (geteuid() == 0 || getrlimit(RLIMIT_MEMLOCK, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY)
		return cost;
	while (cost > COST_LEAST && COST_MEMORY(cost) > limit.rlim_cur / 2)
		cost--;
	return cost;
}

static int
credential_path(const char *name, char ret[PATH_MAX], struct base_error *err)
{
	const char *dir = getenv("CREDENTIALS_DIRECTORY");

	if (!*name || strchr(name, '/'))
		return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "pin-source credential:%.80s: a credential's name has no '/'", name);
	if (!dir)
		return base_error_set(err, -EACCES, BASE_EXIT_PIN, "pin-source credential:%.80s: CREDENTIALS_DIRECTORY is not set; start "
				      "the service by systemd with LoadCredential=%.80s:PATH", name, name);
	if (snprintf(ret, PATH_MAX, "%s/%s", dir, name) >= PATH_MAX)
		return base_error_set(err, -ENAMETOOLONG, BASE_EXIT_FAILED, "pin-source credential:%.80s: the path is too long", name);
	return 0;
}

int
kms_pin_new(const char *dir, const struct kms_conf *conf, struct kms_pin **ret, struct base_error *err)
{
	struct kms_pin *pin = calloc(1, sizeof(*pin));
	const char *source = conf->pin_source;
	int rc = 0;

	if (!pin)
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "out of memory");
	pin->source = SOURCE_FILE;
	if (!*source) {
		if (snprintf(pin->path, sizeof(pin->path), "%s/" KMS_PIN_FILE, dir) >= (int) sizeof(pin->path))
			rc = base_error_set(err, -ENAMETOOLONG, BASE_EXIT_FAILED, "%.80s...: the path is too long", dir);
	} else if (!strcmp(source, "prompt")) {
		pin->source = SOURCE_PROMPT;
		pin->stretch = !*conf->module;
		pin->cost = (int) conf->pin_cost;
		base_unhex(conf->pin_salt, pin->salt, sizeof(pin->salt));
	} else if (!strncmp(source, "file:", 5)) {
		strcpy(pin->path, source + 5);
	} else if (!strncmp(source, "credential:", 11)) {
		rc = credential_path(source + 11, pin->path, err);
	} else {
		rc = base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "pin-source \"%.60s\" is none of prompt, file:PATH, credential:NAME", source);
	}
	if (rc < 0) {
		free(pin);
		return rc;
	}
	*ret = pin;
	return 0;
}

void
kms_pin_free(struct kms_pin *pin)
{
	if (!pin)
		return;
	base_secret_free(pin->kept);
	free(pin);
}

static int
scrypt(const struct kms_pin *pin, const char *pass, uint8_t *out, size_t len)
{
	uint64_t n = 1ull << pin->cost, memory = COST_MEMORY(pin->cost) + (8u << 20);
	uint32_t r = 8, p = pin->cost < COST_FULL ? 1u << (COST_FULL - pin->cost) : 1;
	EVP_KDF *kdf = EVP_KDF_fetch(NULL, "SCRYPT", NULL);
	EVP_KDF_CTX *ctx = kdf ? EVP_KDF_CTX_new(kdf) : NULL;
	OSSL_PARAM params[] = {
		OSSL_PARAM_octet_string(OSSL_KDF_PARAM_PASSWORD, (void *) pass, strlen(pass)),
		OSSL_PARAM_octet_string(OSSL_KDF_PARAM_SALT, (void *) pin->salt, sizeof(pin->salt)),
		OSSL_PARAM_uint64(OSSL_KDF_PARAM_SCRYPT_N, &n),
		OSSL_PARAM_uint32(OSSL_KDF_PARAM_SCRYPT_R, &r),
		OSSL_PARAM_uint32(OSSL_KDF_PARAM_SCRYPT_P, &p),
		OSSL_PARAM_uint64(OSSL_KDF_PARAM_SCRYPT_MAXMEM, &memory),
		OSSL_PARAM_END,
	};
	int ok = ctx && EVP_KDF_derive(ctx, out, len, params) == 1;

	EVP_KDF_CTX_free(ctx);
	EVP_KDF_free(kdf);
	return ok ? 0 : -ENOMEM;
}

int
kms_pin_ask(struct kms_pin *pin, const struct kms_prompt *prompt, bool again, struct base_error *err)
{
	BASE_SECRET_AUTO char *text = NULL;
	BASE_SECRET_AUTO uint8_t *key = NULL;
	int rc;

	if (pin->source != SOURCE_PROMPT)
		return 0;
	if (!prompt || !prompt->fn)
		return base_error_set(err, -EACCES, BASE_EXIT_PIN, "the keystore's PIN has to be asked for (pin-source = prompt), and there "
				      "is no terminal; run this on a terminal, or use pin-source = credential:NAME");
	text = base_secret_alloc(KMS_PIN_CAP);
	key = base_secret_alloc(16);
	base_secret_free(pin->kept);
	pin->kept = base_secret_alloc(KMS_PIN_CAP);
	if (!text || !key || !pin->kept)
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "no memory can be locked for the PIN; raise RLIMIT_MEMLOCK (ulimit -l)");
	rc = prompt->fn(prompt->ctx, pin->stretch ? "Passphrase of the keystore: " : "PIN of the token: ", again, text, KMS_PIN_CAP, err);
	if (rc == 0 && !*text)
		rc = base_error_set(err, -EACCES, BASE_EXIT_PIN, "an empty passphrase is refused");
	if (rc == 0 && !pin->stretch)
		strcpy(pin->kept, text);
	if (rc == 0 && pin->stretch) {
		rc = scrypt(pin, text, key, 16);
		if (rc < 0)
			base_error_set(err, rc, BASE_EXIT_FAILED, "stretching the passphrase needs %llu MiB of lockable memory; raise "
				       "RLIMIT_MEMLOCK (ulimit -l)", (unsigned long long) (COST_MEMORY(pin->cost) >> 20) + 8);
		else
			base_hex(key, 16, pin->kept);
	}
	if (rc < 0) {
		base_secret_free(pin->kept);
		pin->kept = NULL;
	}
	return rc;
}

static int
file_check(const char *path, const struct stat *st, struct base_error *err)
{
	if (!S_ISREG(st->st_mode))
		return base_error_set(err, -EACCES, BASE_EXIT_PIN, "PIN file %s is not a regular file", path);
	if (st->st_mode & 0077)
		return base_error_set(err, -EACCES, BASE_EXIT_PIN, "PIN file %s can be used by others (mode %04o); chmod 600 it, and "
				      "think of the PIN as known to them", path, st->st_mode & 07777);
	if (st->st_uid != geteuid() && st->st_uid != 0)
		return base_error_set(err, -EACCES, BASE_EXIT_PIN, "PIN file %s belongs to uid %u, not to the keystore's owner", path,
				      (unsigned) st->st_uid);
	return 0;
}

static int
file_get(const char *path, char *pin, size_t cap, struct base_error *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	int rc = -errno;
	struct stat st;
	size_t len = 0;
	ssize_t got;

	if (fd < 0)
		return base_error_set(err, -EACCES, BASE_EXIT_PIN, "PIN file %s: %s", path, strerror(-rc));
	rc = fstat(fd, &st) < 0 ? -errno : file_check(path, &st, err);
	while (rc == 0 && (got = read(fd, pin + len, cap - len)) != 0) {
		if (got < 0)
			rc = base_error_set(err, -errno, BASE_EXIT_PIN, "PIN file %s: %s", path, strerror(errno));
		else if ((len += (size_t) got) == cap)
			rc = base_error_set(err, -EACCES, BASE_EXIT_PIN, "PIN file %s is longer than %zu bytes", path, cap - 1);
	}
	close(fd);
	if (rc == 0) {
		while (len && isspace((unsigned char) pin[len - 1]))
			len--;
		pin[len] = 0;
		if (!len || strlen(pin) != len)
			rc = base_error_set(err, -EACCES, BASE_EXIT_PIN, "PIN file %s is empty or not text", path);
	}
	return rc;
}

int
kms_pin_get(void *ctx, char *pin, size_t cap, struct base_error *err)
{
	const struct kms_pin *p = ctx;

	if (p->source == SOURCE_FILE)
		return file_get(p->path, pin, cap, err);
	if (!p->kept)
		return base_error_set(err, -EACCES, BASE_EXIT_PIN, "the keystore's PIN was not asked for");
	if (strlen(p->kept) >= cap)
		return base_error_set(err, -EACCES, BASE_EXIT_PIN, "the PIN is too long");
	strcpy(pin, p->kept);
	return 0;
}

int
kms_pin_random(char *ret, size_t cap)
{
	uint8_t bytes[16];
	int rc = cap < 33 ? -EINVAL : base_random(bytes, sizeof(bytes));

	if (rc == 0)
		base_hex(bytes, sizeof(bytes), ret);
	base_secret_wipe(bytes, sizeof(bytes));
	return rc;
}

int
kms_pin_write(const char *dir, const char *text, struct base_error *err)
{
	char path[PATH_MAX + 8];
	size_t len = strlen(text);
	int fd, rc = 0;

	snprintf(path, sizeof(path), "%s/" KMS_PIN_FILE, dir);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		rc = -errno;
	else if (fchmod(fd, 0600) < 0 || write(fd, text, len) != (ssize_t) len || write(fd, "\n", 1) != 1 || fsync(fd) < 0)
		rc = errno ? -errno : -EIO;
	if (fd >= 0)
		close(fd);
	if (rc < 0)
		return base_error_set(err, rc, BASE_EXIT_FAILED, "cannot make the PIN file %s: %s", path, strerror(-rc));
	return 0;
}
