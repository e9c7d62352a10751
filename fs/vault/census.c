/* The census: every wrap slot of a vault, counted. Whatever cannot be read is an error, because a key may be destroyed on its result. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "jobs.h"
#include "object.h"
#include "walk.h"

struct census {
	const struct kms_vault *vault;
	kms_census_count_fn count;
	void *count_ctx;
	struct base_error *err;
	struct vault_header header; /* scratch */
};

/* The live slot, and the other one while it is used: until it is erased its version has to stay. */
static int count_header(struct census *c, const char *backing, enum kms_purpose purpose)
{
	struct vault_header *h = &c->header;
	const char *magic = purpose == KMS_PURPOSE_VAULT ? VAULT_MAGIC_CONFIG : VAULT_MAGIC_FILE;
	struct kms_wrap live = h->wrap;

	c->count(c->count_ctx, live.key_id, live.version, backing);
	if (!h->other_used)
		return 0;
	memset(h->page + VAULT_HEADER_AREA(h->live), 0, VAULT_WRAP_SIZE);
	if (vault_header_parse(h->page, magic, purpose, h) < 0)
		return 0; /* torn: it names no version */
	if (h->wrap.version != live.version || memcmp(h->wrap.key_id, live.key_id, BASE_ID_SIZE) != 0)
		c->count(c->count_ctx, h->wrap.key_id, h->wrap.version, backing);
	return 0;
}

static int unreadable(struct census *c, const char *backing, int code)
{
	return base_error_set(c->err, code, code == -EBADMSG ? BASE_EXIT_INTEGRITY : BASE_EXIT_FAILED,
			      "the header of %s in vault %s %s; nothing may be destroyed until it can be counted: restore or delete it", backing,
			      c->vault->path, code == -EBADMSG ? "is damaged" : strerror(-code));
}

static int census_file(void *ctx, const struct vault_walk_item *item)
{
	struct census *c = ctx;
	int code;

	if (item->st.st_size == 0)
		return 0;
	code = vault_header_read(item->fd, VAULT_MAGIC_FILE, KMS_PURPOSE_FILE, &c->header);
	if (code == 0)
		return count_header(c, item->backing, KMS_PURPOSE_FILE);
	/* What is not an entry and not a header is none of ours. */
	if (code == -EBADMSG && item->kind != VAULT_NAME_ENTRY)
		return 0;
	return unreadable(c, item->backing, code);
}

static int census_error(void *ctx, const char *backing, int code)
{
	return unreadable(ctx, *backing ? backing : ".", code);
}

static int census_config(struct census *c, int root_fd)
{
	int fd = openat(root_fd, VAULT_CONFIG_NAME, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC), code;

	if (fd < 0)
		return unreadable(c, VAULT_CONFIG_NAME, -errno);
	code = vault_header_read(fd, VAULT_MAGIC_CONFIG, KMS_PURPOSE_VAULT, &c->header);
	close(fd);
	if (code == 0 && memcmp(c->header.vault_id, c->vault->id, BASE_ID_SIZE) != 0)
		return base_error_set(c->err, -ENOENT, BASE_EXIT_NOT_FOUND,
				      "another vault is at %s than the one that is registered there; mount that one once from where it is now",
				      c->vault->path);
	if (code < 0)
		return unreadable(c, VAULT_CONFIG_NAME, code);
	return count_header(c, VAULT_CONFIG_NAME, KMS_PURPOSE_VAULT);
}

static int scan(struct census *c, int root_fd)
{
	struct vault_walk walk = { .root_fd = root_fd, .flags = O_RDONLY, .file = census_file, .error = census_error, .ctx = c };
	int code = census_config(c, root_fd);

	if (code < 0)
		return code;
	code = vault_walk(&walk);
	if (code == 0 || c->err == NULL || c->err->code == code)
		return code;
	return base_error_set(c->err, code, BASE_EXIT_FAILED, "cannot read vault %s: %s", c->vault->path, strerror(-code));
}

static int scan_closed(struct census *c)
{
	int fd = open(c->vault->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), code;

	if (fd < 0) {
		code = -errno;
		return base_error_set(c->err, code, code == -ENOENT ? BASE_EXIT_NOT_FOUND : BASE_EXIT_FAILED,
				      "vault %s cannot be reached (%s); bring it back, or `keepctl vault forget` it", c->vault->path,
				      strerror(-code));
	}
	code = scan(c, fd);
	close(fd);
	return code;
}

int vault_census(void *ctx, const struct kms_vault *vault, kms_census_count_fn count, void *count_ctx, struct base_error *err)
{
	struct census *c = calloc(1, sizeof(*c));
	struct vault *v;
	int code;

	if (!c || vault_scan_begin(vault->id, &v) < 0) {
		free(c);
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "out of memory");
	}
	c->vault = vault;
	c->count = count;
	c->count_ctx = count_ctx;
	c->err = err;
	if (v) {
		vault_names_wrlock(v);
		code = scan(c, v->root_fd);
		vault_names_unlock(v);
		vault_put(v);
	} else {
		code = scan_closed(c);
		vault_scan_end(vault->id);
	}
	free(c);
	return code;
}
