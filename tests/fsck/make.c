/*
 * Makes what only a crash or the owner of the keys can make in a vault, for fsck to find. Only with no service running.
 *
 *   make KEYSTORE VAULT name DIR NAME      prints the backing name that NAME has in the backing directory DIR (relative to VAULT)
 *   make KEYSTORE VAULT rename DIR TO      the record of DIR gets the id of TO as its second parent, as a rename does first
 *   make KEYSTORE VAULT longform DIR NAME  prints a name in the form of a long one for NAME, which is short, with its side record written
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/crypto.h"
#include "base/secret.h"
#include "kms/kms.h"
#include "vault/dir.h"
#include "vault/path.h"

static int say(const char *what, int code)
{
	fprintf(stderr, "make: %s: %s\n", what, strerror(-code));
	return 1;
}

static int open_dir(struct vault *v, const char *relative, struct vault_dir *ret)
{
	int fd = vault_open_path(vault_root_fd(v), relative, O_RDONLY | O_DIRECTORY), code;

	if (fd < 0)
		return fd;
	code = vault_dir_read(v, fd, NULL, ret);
	if (code < 0) {
		close(fd);
		return code;
	}
	return fd;
}

static int longform(int fd, const struct vault_name *name)
{
	char entry[64];
	uint8_t hash[32];
	int side;

	if (base_sha256(name->sealed, name->sealed_len, hash) < 0)
		return 1;
	memcpy(entry, "N.", 2);
	base_b64_encode(hash, sizeof(hash), entry + 2);
	side = openat(fd, entry, O_WRONLY | O_CREAT | O_EXCL, 0600);
	if (side < 0 || write(side, name->sealed, name->sealed_len) != name->sealed_len)
		return 1;
	close(side);
	printf("L%s\n", entry + 1);
	return 0;
}

static int act(struct vault *v, char **argv)
{
	struct vault_dir dir, to;
	struct vault_name name;
	int fd = open_dir(v, argv[4], &dir), code;

	if (fd < 0)
		return say(argv[4], fd);
	if (strcmp(argv[3], "rename") == 0) {
		code = open_dir(v, argv[5], &to);
		if (code < 0)
			return say(argv[5], code);
		close(code);
		code = vault_dir_move(v, fd, &dir, to.id, 0);
		return code < 0 ? say(argv[4], code) : 0;
	}
	code = vault_name_seal(v, dir.id, argv[5], &name);
	if (code < 0)
		return say(argv[5], code);
	if (strcmp(argv[3], "longform") == 0)
		return longform(fd, &name);
	printf("%s\n", name.entry);
	return 0;
}

int main(int argc, char **argv)
{
	struct kms_caller caller = kms_caller_self(KMS_VIA_CLI);
	struct base_error err = { 0 };
	struct kms_core *core = NULL;
	struct vault *v = NULL;
	int ret = 1;

	if (argc != 6)
		return 2;
	if (base_secret_setup(&err) < 0 || kms_core_open(argv[1], NULL, KMS_OPEN_WAIT, &core, &err) < 0 || vault_open(core, &caller, argv[2], &v, &err) < 0)
		fprintf(stderr, "make: %s\n", err.text);
	else
		ret = act(v, argv);
	vault_put(v);
	kms_core_close(core);
	return ret;
}
