/*
 * Prints the keys of backing files, for tests that search for them where they must not be. Only with no service running.
 *
 *   unwrap KEYSTORE FILE...      one line per file: path, then `name=hex` for the DEK and every key that it gives (fs/FORMAT.md, "Keys")
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/crypto.h"
#include "base/secret.h"
#include "kms/kms.h"
#include "vault/header.h"
#include "vault/vault.h"

struct part {
	const char *name;
	size_t len;
};

static const struct part file_parts[] = {{"commitment", 32}, {"state", 64}, {"xattr", 64}, {"content-master", 32}, {"accumulator", 32}, {NULL, 0}};
static const struct part vault_parts[] = {{"commitment", 32}, {"state", 64}, {"name", 64}, {"dir-record", 64}, {"link", 64},
					  {"dir-xattr", 64}, {"reserved", 64}, {NULL, 0}};

static void print_hex(const char *name, const uint8_t *key, size_t len)
{
	char *text = malloc(2 * len + 1);
	if (!text)
		exit(1);
	printf(" %s=%s", name, base_hex(key, len, text));
	free(text);
}

static int print_parts(const struct vault_header *h, enum kms_purpose purpose, const uint8_t *dek)
{
	const char *label = purpose == KMS_PURPOSE_VAULT ? "keepfs v1 vault keys" : "keepfs v1 file keys";
	const struct part *part = purpose == KMS_PURPOSE_VAULT ? vault_parts : file_parts;
	uint8_t info[128], keys[416], content[32], *at = keys;
	size_t n = strlen(label), len = purpose == KMS_PURPOSE_VAULT ? 416 : 224;
	memcpy(info, label, n);
	memcpy(info + n, h->page, 64);
	if (base_hkdf_expand(dek, KMS_DEK_SIZE, info, n + 64, keys, len))
		return -EIO;
	if (memcmp(keys, h->commitment, 32))
		return -EBADMSG;
	print_hex("dek", dek, KMS_DEK_SIZE);
	for (; part->name; at += part->len, part++) {
		print_hex(part->name, at, part->len);
		if (!strcmp(part->name, "content-master")) {
			uint8_t epoch[18 + 8] = "keepfs v1 content";
			memset(epoch + 17, 0, 8);
			if (base_hkdf_expand(at, 32, epoch, 17 + 8, content, 32))
				return -EIO;
			print_hex("content", content, 32);
		}
	}
	putchar('\n');
	return 0;
}

static int one(struct kms_core *core, char *path, uint8_t *dek)
{
	struct kms_caller caller = kms_caller_self(KMS_VIA_CLI);
	struct vault_header h;
	struct base_error err = {0};
	char *copy = strdup(path);
	enum kms_purpose purpose = copy && !strcmp(basename(copy), VAULT_CONFIG_NAME) ? KMS_PURPOSE_VAULT : KMS_PURPOSE_FILE;
	free(copy);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	int r = vault_header_read(fd, purpose == KMS_PURPOSE_VAULT ? VAULT_MAGIC_CONFIG : VAULT_MAGIC_FILE, purpose, &h);
	close(fd);
	if (r < 0)
		return r;
	struct kms_subject subject = {.purpose = purpose};
	memcpy(subject.vault_id, h.vault_id, BASE_ID_SIZE);
	memcpy(subject.file_id, h.file_id, BASE_ID_SIZE);
	r = kms_dek_open(core, &caller, &subject, &h.wrap, KMS_DEK_READ, dek, &err);
	if (r < 0) {
		fprintf(stderr, "unwrap: %s: %s\n", path, err.text);
		return r;
	}
	printf("%s", path);
	return print_parts(&h, purpose, dek);
}

int main(int argc, char **argv)
{
	struct base_error err = {0};
	struct kms_core *core = NULL;
	int worst = 0;
	if (argc < 3) {
		fprintf(stderr, "usage: unwrap KEYSTORE FILE...\n");
		return 2;
	}
	if (base_secret_setup(&err) < 0 || kms_core_open(argv[1], NULL, 0, &core, &err) < 0) {
		fprintf(stderr, "unwrap: %s\n", err.text);
		return 1;
	}
	uint8_t *dek = base_secret_alloc(KMS_DEK_SIZE);
	for (int i = 2; dek && i < argc; i++) {
		int r = one(core, argv[i], dek);
		if (r < 0) {
			fprintf(stderr, "unwrap: %s: %s\n", argv[i], strerror(-r));
			worst = 1;
		}
	}
	base_secret_free(dek);
	kms_core_close(core);
	return worst;
}
