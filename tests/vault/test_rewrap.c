/* Rewrap, census, walk, and what is shown of files and directories. */
#include "fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "jobs.h"
#include "vault/move.h"
#include "walk.h"

#define FILES 1000

static struct vault_dir root;

static int set_up(void **state)
{
	fixture_up(state);
	return vault_dir_read(fx.v, vault_root_fd(fx.v), NULL, &root);
}

static void create_in(int dirfd, const struct vault_dir *dir, const char *clear, const char *text)
{
	struct vault_name name;
	struct vault_file *f;
	int code = vault_file_create(fx.v, &fx.caller, clear, dirfd, dir, 0644, (uid_t)-1, (gid_t)-1, &f);

	if (code != 0)
		fail_msg("create %s: %s", clear, strerror(-code));
	assert_int_equal(vault_name_seal(fx.v, dir->id, clear, &name), 0);
	assert_int_equal(vault_file_link(f, dirfd, &name), 0);
	assert_int_equal(vault_file_write(f, text, strlen(text), 0), 0);
	vault_file_release(f, true);
	vault_file_free(f);
}

static void create(const char *clear)
{
	create_in(vault_root_fd(fx.v), &root, clear, "the content of a file");
}

static void backing_of(const char *clear, char path[PATH_MAX])
{
	assert_int_equal(vault_resolve(fx.v, clear, path, PATH_MAX), 0);
}

static void rotate(const char *key)
{
	struct base_error err;
	char route[128];

	snprintf(route, sizeof(route), "/v1/keys/%s/rotate", key);
	if (fixture_call("POST", route, json_object(), NULL, &err) != 0)
		fail_msg("rotate %s: %s", key, err.text);
}

struct counts {
	int rewrapped, current, failed, code;
};

static struct counts rewrap(json_t *params)
{
	struct counts c = { -1, -1, -1, 0 };
	struct base_error err;
	json_t *last;

	c.code = fixture_call("POST", "/v1/rewrap", params, &last, &err);
	if (last) {
		c.rewrapped = (int)json_integer_value(json_object_get(last, "rewrapped"));
		c.current = (int)json_integer_value(json_object_get(last, "current"));
		c.failed = (int)json_integer_value(json_object_get(last, "failed"));
	}
	json_decref(last);
	return c;
}

static void expect(struct counts c, int code, int rewrapped, int current, int failed)
{
	assert_int_equal(c.code, code);
	assert_int_equal(c.rewrapped, rewrapped);
	assert_int_equal(c.current, current);
	assert_int_equal(c.failed, failed);
}

/* A whole backing file, and its times. */
struct shot {
	uint8_t bytes[3 * VAULT_PAGE];
	size_t len;
	struct stat st;
};

static void take(const char *clear, struct shot *shot)
{
	char path[PATH_MAX];

	backing_of(clear, path);
	shot->len = fixture_read(path, shot->bytes, sizeof(shot->bytes));
	assert_int_equal(stat(path, &shot->st), 0);
}

static void compare(const struct shot *a, struct shot *b)
{
	struct vault_header h;

	assert_int_equal(a->len, b->len);
	assert_int_equal(vault_header_parse(b->bytes, VAULT_MAGIC_FILE, KMS_PURPOSE_FILE, &h), 0);
	assert_int_equal(h.wrap_seq, 2);
	assert_false(h.other_used);
	assert_int_equal(h.wrap.version, kms_key_current(fx.core, h.wrap.key_id));
	memcpy(b->bytes + 512, a->bytes + 512, VAULT_WRAP_SIZE);
	memcpy(b->bytes + 1536, a->bytes + 1536, VAULT_WRAP_SIZE);
	assert_memory_equal(a->bytes, b->bytes, a->len);
	assert_memory_equal(&a->st.st_mtim, &b->st.st_mtim, sizeof(a->st.st_mtim));
	assert_int_equal(a->st.st_mode, b->st.st_mode);
}

static void open_as(const char *clear, const char *text)
{
	char path[PATH_MAX], got[64];
	struct vault_file *f;
	int fd;

	backing_of(clear, path);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(vault_file_open(fx.v, &fx.caller, clear, fd, false, &f), 0);
	assert_int_equal(vault_file_read(f, got, sizeof(got), 0), strlen(text));
	assert_memory_equal(got, text, strlen(text));
	vault_file_free(f);
}

/* A move into another zone: both wraps until it ends, either way; everything else as before. */
static void test_move(void **state)
{
	static struct shot before, both, after;
	uint8_t zone[BASE_ID_SIZE], none[BASE_ID_SIZE] = { 7 };
	struct vault_header h;
	struct vault_move m;
	struct base_error err;
	char path[PATH_MAX];
	int fd;

	create("mover");
	take("mover", &before);
	assert_int_equal(fixture_call("POST", "/v1/keys", json_pack("{s:s}", "name", "elsewhere"), NULL, &err), 0);
	assert_int_equal(kms_key_find(fx.core, "elsewhere", zone), 0);
	backing_of("mover", path);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_int_equal(vault_move_begin(fx.v, &fx.caller, "/mover", fd, root.zone, &m, &err), -EALREADY);
	assert_int_equal(vault_move_begin(fx.v, &fx.caller, "/mover", fd, none, &m, &err), -ENOKEY);
	take("mover", &after);
	assert_memory_equal(before.bytes, after.bytes, before.len);

	assert_int_equal(vault_move_begin(fx.v, &fx.caller, "/mover", fd, zone, &m, &err), 0);
	take("mover", &both);
	assert_int_equal(vault_header_parse(both.bytes, VAULT_MAGIC_FILE, KMS_PURPOSE_FILE, &h), 0);
	assert_true(h.other_used);
	assert_memory_equal(h.wrap.key_id, zone, sizeof(zone));
	open_as("mover", "the content of a file");
	vault_move_end(&m, false);
	take("mover", &after);
	assert_memory_equal(before.bytes, after.bytes, before.len);
	open_as("mover", "the content of a file");

	assert_int_equal(vault_move_begin(fx.v, &fx.caller, "/mover", fd, zone, &m, &err), 0);
	vault_move_end(&m, true);
	take("mover", &after);
	assert_int_equal(vault_header_parse(after.bytes, VAULT_MAGIC_FILE, KMS_PURPOSE_FILE, &h), 0);
	assert_memory_equal(h.wrap.key_id, zone, sizeof(zone));
	compare(&before, &after);
	open_as("mover", "the content of a file");
	close(fd);
	assert_int_equal(unlink(path), 0);
}

static void test_thousand(void **state)
{
	struct shot *before = calloc(FILES, sizeof(*before)), *after = calloc(1, sizeof(*after));
	char name[32], path[PATH_MAX];
	int i;

	assert_true(before && after);
	for (i = 0; i < FILES; i++) {
		snprintf(name, sizeof(name), "file %d", i);
		create(name);
		if (i % 10 == 0) {
			backing_of(name, path);
			assert_int_equal(chmod(path, i % 20 ? 0444 : 0), 0);
			assert_int_equal(utimensat(AT_FDCWD, path, (struct timespec[2]){ { 1, 2 }, { 3, 4 } }, 0), 0);
		}
		take(name, &before[i]);
	}
	expect(rewrap(json_object()), 0, 0, FILES + 1, 0);
	rotate("default");
	expect(rewrap(json_object()), 0, FILES, 1, 0);
	for (i = 0; i < FILES; i++) {
		snprintf(name, sizeof(name), "file %d", i);
		take(name, after);
		compare(&before[i], after);
	}
	expect(rewrap(json_object()), 0, 0, FILES + 1, 0);
	free(before);
	free(after);
}

struct tally {
	uint32_t version[32];
};

static void tally_one(void *ctx, const uint8_t key_id[BASE_ID_SIZE], uint32_t version, const char *backing)
{
	struct tally *t = ctx;

	(void)backing;
	if (memcmp(key_id, root.zone, BASE_ID_SIZE) == 0 && version < 32)
		t->version[version]++;
}

static int census(struct tally *t, struct base_error *err)
{
	struct kms_vault *known = malloc(sizeof(*known));
	int code;

	memset(t, 0, sizeof(*t));
	memset(err, 0, sizeof(*err));
	assert_int_equal(kms_vault_get(fx.core, fx.id, known), 0);
	code = vault_census(NULL, known, tally_one, t, err);
	free(known);
	return code;
}

static uint32_t version_now(void)
{
	return kms_key_current(fx.core, root.zone);
}

static void test_census(void **state)
{
	struct base_error err;
	struct tally t;
	uint32_t old = version_now();

	assert_int_equal(census(&t, &err), 0);
	assert_int_equal(t.version[old], FILES);
	rotate("default");
	assert_int_equal(census(&t, &err), 0);
	assert_int_equal(t.version[old], FILES);
	assert_int_equal(t.version[old + 1], 0);
	expect(rewrap(json_pack("{s:s}", "key", "default")), 0, FILES, 0, 0);
	assert_int_equal(census(&t, &err), 0);
	assert_int_equal(t.version[old], 0);
	assert_int_equal(t.version[old + 1], FILES);
	/* The same of a vault that is not open. */
	vault_put(fx.v);
	assert_int_equal(census(&t, &err), 0);
	assert_int_equal(t.version[old + 1], FILES);
	if (vault_open(fx.core, &fx.caller, fx.path, &fx.v, &err) != 0)
		fail_msg("%s", err.text);
}

/* What a kill between the new slot and the erased old one leaves. */
static void test_resume(void **state)
{
	struct kms_subject subject = { .purpose = KMS_PURPOSE_FILE };
	uint32_t old = version_now();
	struct vault_header h;
	struct base_error err;
	struct kms_wrap wrap;
	char path[PATH_MAX];
	struct tally t;
	int fd;

	backing_of("file 7", path);
	fd = open(path, O_RDWR);
	assert_int_equal(vault_header_read(fd, VAULT_MAGIC_FILE, KMS_PURPOSE_FILE, &h), 0);
	rotate("default");
	memcpy(subject.vault_id, h.vault_id, BASE_ID_SIZE);
	memcpy(subject.file_id, h.file_id, BASE_ID_SIZE);
	assert_int_equal(kms_dek_rewrap(fx.core, &fx.caller, &subject, &h.wrap, &wrap, &err), 0);
	assert_int_equal(vault_header_rewrap(fd, &h, KMS_PURPOSE_FILE, &wrap), 0);
	/* Both slots count: the old version has to stay. */
	assert_int_equal(census(&t, &err), 0);
	assert_int_equal(t.version[old], FILES);
	assert_int_equal(t.version[old + 1], 1);
	expect(rewrap(json_pack("{s:s}", "path", path)), 0, 0, 1, 0);
	assert_int_equal(vault_header_read(fd, VAULT_MAGIC_FILE, KMS_PURPOSE_FILE, &h), 0);
	assert_false(h.other_used);
	assert_int_equal(h.wrap.version, old + 1);
	assert_int_equal(census(&t, &err), 0);
	assert_int_equal(t.version[old], FILES - 1);
	/* A torn slot beside a good one goes as well. */
	assert_int_equal(pwrite(fd, "torn", 4, VAULT_HEADER_AREA(!h.live) + 100), 4);
	expect(rewrap(json_pack("{s:s}", "path", path)), 0, 0, 1, 0);
	assert_int_equal(vault_header_read(fd, VAULT_MAGIC_FILE, KMS_PURPOSE_FILE, &h), 0);
	assert_false(h.other_used);
	close(fd);
	expect(rewrap(json_object()), 0, FILES - 1, 2, 0);
}

static void test_foreign(void **state)
{
	char path[PATH_MAX], damaged[PATH_MAX], empty[PATH_MAX], link_path[PATH_MAX];
	struct base_error err;
	struct vault_name name;
	uint8_t byte;
	struct tally t;
	int fd;

	snprintf(path, sizeof(path), "%s/notes.txt", fx.path);
	fixture_write(path, "not ours", 8);
	assert_int_equal(vault_name_seal(fx.v, root.id, "empty", &name), 0);
	snprintf(empty, sizeof(empty), "%s/%s", fx.path, name.entry);
	fixture_write(empty, "", 0);
	assert_int_equal(vault_name_seal(fx.v, root.id, "second name", &name), 0);
	snprintf(link_path, sizeof(link_path), "%s/%s", fx.path, name.entry);
	backing_of("file 3", path);
	assert_int_equal(link(path, link_path), 0);
	expect(rewrap(json_object()), 0, 0, FILES + 1, 0);
	assert_int_equal(census(&t, &err), 0);
	assert_int_equal(t.version[version_now()], FILES);
	assert_int_equal(unlink(link_path), 0);
	assert_int_equal(unlink(empty), 0);
	/* One damaged header: the rest goes on, nothing may be destroyed. */
	backing_of("file 5", damaged);
	fd = open(damaged, O_RDWR);
	assert_int_equal(pread(fd, &byte, 1, 12), 1);
	byte ^= 1;
	assert_int_equal(pwrite(fd, &byte, 1, 12), 1);
	rotate("default");
	expect(rewrap(json_object()), -EIO, FILES - 1, 1, 1);
	assert_int_equal(census(&t, &err), -EBADMSG);
	assert_int_equal(err.exit, BASE_EXIT_INTEGRITY);
	byte ^= 1;
	assert_int_equal(pwrite(fd, &byte, 1, 12), 1);
	close(fd);
	/* A header of another file authenticates nothing. */
	expect(rewrap(json_object()), 0, 1, FILES, 0);
}

static void test_swapped_wrap(void **state)
{
	char a[PATH_MAX], b[PATH_MAX];
	uint8_t page[VAULT_PAGE], own[VAULT_PAGE];

	create("a");
	create("b");
	backing_of("a", a);
	backing_of("b", b);
	fixture_read(a, page, sizeof(page));
	fixture_read(b, own, sizeof(own));
	memcpy(own + 512, page + 512, 1024); /* the wrap of a in b */
	int fd = open(b, O_RDWR);
	assert_int_equal(pwrite(fd, own, sizeof(own), 0), sizeof(own));
	close(fd);
	rotate("default");
	expect(rewrap(json_pack("{s:s}", "path", b)), -EIO, 0, 0, 1);
	expect(rewrap(json_pack("{s:s}", "path", a)), 0, 1, 0, 0);
	assert_int_equal(unlink(a), 0);
	assert_int_equal(unlink(b), 0);
	expect(rewrap(json_object()), 0, FILES, 1, 0);
}

#define DEPTH 40

/* Deeper than any path that a system call takes. */
static void test_deep(void **state)
{
	struct vault_name names[DEPTH + 1];
	struct vault_dir dirs[DEPTH + 1];
	char clear[171], path[PATH_MAX];
	int fds[DEPTH + 1], i;

	memset(clear, 'z', 170);
	clear[170] = '\0';
	fds[0] = vault_root_fd(fx.v);
	dirs[0] = root;
	for (i = 0; i < DEPTH; i++) {
		assert_int_equal(vault_name_seal(fx.v, dirs[i].id, clear, &names[i]), 0);
		assert_int_equal(vault_dir_make(fx.v, fds[i], &dirs[i], &names[i], 0700, (uid_t)-1, (gid_t)-1, &dirs[i + 1], &fds[i + 1]), 0);
	}
	create_in(fds[DEPTH], &dirs[DEPTH], "deep", "deep");
	rotate("default");
	expect(rewrap(json_object()), 0, FILES + 1, 1, 0);
	snprintf(path, sizeof(path), "%s/%s", fx.path, names[0].entry);
	expect(rewrap(json_pack("{s:s}", "path", path)), 0, 0, 1, 0);
	assert_int_equal(vault_name_seal(fx.v, dirs[DEPTH].id, "deep", &names[DEPTH]), 0);
	assert_int_equal(unlinkat(fds[DEPTH], names[DEPTH].entry, 0), 0);
	for (i = DEPTH; i > 0; i--) {
		close(fds[i]);
		assert_int_equal(vault_dir_remove(fx.v, fds[i - 1], &names[i - 1]), 0);
	}
}

struct clear_names {
	struct vault_walk *walk;
	int found;
};

static int see_clear(void *ctx, const struct vault_walk_item *item)
{
	struct clear_names *c = ctx;
	char clear[PATH_MAX], backing[PATH_MAX], again[PATH_MAX];

	if (item->kind != VAULT_NAME_ENTRY)
		return 0;
	assert_int_equal(vault_walk_clear(c->walk, item, clear, sizeof(clear)), 0);
	snprintf(backing, sizeof(backing), "%s/%s", fx.path, item->backing);
	assert_int_equal(vault_resolve(fx.v, clear, again, sizeof(again)), 0);
	assert_string_equal(again, backing);
	assert_int_equal(vault_clear(fx.v, item->backing, again, sizeof(again)), 0);
	assert_string_equal(again, clear);
	c->found += strcmp(clear, "/dir/inner/leaf") == 0;
	return 0;
}

static void test_paths(void **state)
{
	struct vault_walk walk = { .root_fd = vault_root_fd(fx.v), .names = fx.v, .flags = O_RDONLY, .file = see_clear };
	struct clear_names c = { &walk, 0 };
	struct vault_dir dir, inner;
	struct vault_name name;
	char path[PATH_MAX];
	int fd, fd2;

	assert_int_equal(vault_name_seal(fx.v, root.id, "dir", &name), 0);
	assert_int_equal(vault_dir_make(fx.v, vault_root_fd(fx.v), &root, &name, 0755, (uid_t)-1, (gid_t)-1, &dir, &fd), 0);
	assert_int_equal(vault_name_seal(fx.v, dir.id, "inner", &name), 0);
	assert_int_equal(vault_dir_make(fx.v, fd, &dir, &name, 0755, (uid_t)-1, (gid_t)-1, &inner, &fd2), 0);
	create_in(fd2, &inner, "leaf", "leaf");
	walk.ctx = &c;
	assert_int_equal(vault_walk(&walk), 0);
	assert_int_equal(c.found, 1);
	backing_of("/dir/inner/leaf", path);
	walk.start = path + strlen(fx.path) + 1;
	assert_int_equal(vault_walk(&walk), 0);
	assert_int_equal(c.found, 2);
	backing_of("dir//inner/", path);
	assert_int_equal(vault_walk(&walk), 0);
	assert_int_equal(c.found, 3);
	backing_of("/", path);
	assert_string_equal(path, fx.path);
	assert_int_equal(vault_resolve(fx.v, "dir/none", path, sizeof(path)), -ENOENT);
	assert_int_equal(vault_resolve(fx.v, "dir/inner/leaf/x", path, sizeof(path)), -ENOTDIR);
	assert_int_equal(vault_resolve(fx.v, "dir/../dir", path, sizeof(path)), -EINVAL);
	assert_int_equal(vault_resolve(fx.v, "dir/inner", path, 20), -ENAMETOOLONG);
	walk.start = "none";
	assert_int_equal(vault_walk(&walk), -ENOENT);
	close(fd);
	close(fd2);
}

static void test_file_show(void **state)
{
	char path[PATH_MAX];
	struct base_error err;
	json_t *line;

	backing_of("file 9", path);
	if (fixture_call("GET", "/v1/files", json_pack("{s:s}", "path", path), &line, &err) != 0)
		fail_msg("%s", err.text);
	assert_string_equal(json_string_value(json_object_get(line, "key")), "default");
	assert_int_equal(json_integer_value(json_object_get(line, "key_version")), version_now());
	assert_int_equal(json_integer_value(json_object_get(line, "size")), 21);
	assert_int_equal(json_integer_value(json_object_get(line, "header_bytes")), 4096);
	assert_string_equal(json_string_value(json_object_get(line, "suite")), "AES-256-GCM");
	assert_string_equal(json_string_value(json_object_get(line, "mechanism")), "AES-GCM");
	assert_string_equal(json_string_value(json_object_get(line, "backing_path")), path);
	json_decref(line);
	assert_int_equal(fixture_call("GET", "/v1/files", json_pack("{s:s}", "path", "/etc/hostname"), NULL, &err), -ENOENT);
	assert_int_equal(err.exit, BASE_EXIT_NOT_FOUND);
	assert_int_equal(fixture_call("GET", "/v1/files", json_pack("{s:s}", "path", fx.path), NULL, &err), -EISDIR);
	assert_int_equal(fixture_call("GET", "/v1/files", json_object(), NULL, &err), -EINVAL);
	snprintf(path, sizeof(path), "%s/" VAULT_CONFIG_NAME, fx.path);
	assert_int_equal(fixture_call("GET", "/v1/files", json_pack("{s:s}", "path", path), NULL, &err), -EBADMSG);
}

static void test_dir_key(void **state)
{
	uint8_t want[BASE_ID_SIZE];
	struct vault_dir dir, sub;
	struct vault_name name;
	struct base_error err;
	char path[PATH_MAX];
	json_t *line;
	int fd;

	if (fixture_call("POST", "/v1/keys", json_pack("{s:s}", "name", "payroll"), NULL, &err) != 0)
		fail_msg("%s", err.text);
	assert_int_equal(vault_name_seal(fx.v, root.id, "zone", &name), 0);
	assert_int_equal(vault_dir_make(fx.v, vault_root_fd(fx.v), &root, &name, 0755, (uid_t)-1, (gid_t)-1, &dir, &fd), 0);
	backing_of("zone", path);
	if (fixture_call("POST", "/v1/directories/key", json_pack("{s:s, s:s}", "path", path, "key", "payroll"), &line, &err) != 0)
		fail_msg("%s", err.text);
	assert_string_equal(json_string_value(json_object_get(line, "key")), "payroll");
	json_decref(line);
	assert_int_equal(kms_key_find(fx.core, "payroll", want), 0);
	assert_int_equal(vault_dir_read(fx.v, fd, root.id, &dir), 0);
	assert_memory_equal(dir.zone, want, BASE_ID_SIZE);
	assert_int_equal(fixture_call("GET", "/v1/directories", json_pack("{s:s}", "path", path), &line, &err), 0);
	assert_string_equal(json_string_value(json_object_get(line, "key")), "payroll");
	json_decref(line);
	assert_int_equal(vault_name_seal(fx.v, dir.id, "sub", &name), 0);
	assert_int_equal(vault_dir_make(fx.v, fd, &dir, &name, 0755, (uid_t)-1, (gid_t)-1, &sub, NULL), 0);
	assert_memory_equal(sub.zone, want, BASE_ID_SIZE);
	assert_int_equal(fixture_call("POST", "/v1/directories/key", json_pack("{s:s, s:s}", "path", path, "key", "default"), NULL, &err), -ENOTEMPTY);
	assert_int_equal(fixture_call("POST", "/v1/directories/key", json_pack("{s:s, s:s}", "path", path, "key", "nope"), NULL, &err), -ENOENT);
	/* Only what hangs on the key that was named. */
	create_in(fd, &dir, "salary", "1");
	rotate("payroll");
	rotate("default");
	expect(rewrap(json_pack("{s:s}", "key", "payroll")), 0, 1, 0, 0);
	expect(rewrap(json_pack("{s:s, s:s}", "key", "payroll", "path", path)), 0, 0, 1, 0);
	close(fd);
}

static void test_vault_routes(void **state)
{
	struct base_error err;
	char path[128], hex[BASE_ID_TEXT];
	json_t *line;

	snprintf(path, sizeof(path), "%s/third", fx.dir);
	if (fixture_call("POST", "/v1/vaults", json_pack("{s:s, s:s}", "path", path, "key", "payroll"), &line, &err) != 0)
		fail_msg("%s", err.text);
	assert_string_equal(json_string_value(json_object_get(line, "path")), path);
	assert_int_equal(json_integer_value(json_object_get(line, "generation")), 1);
	snprintf(hex, sizeof(hex), "%s", json_string_value(json_object_get(line, "id")));
	json_decref(line);
	assert_int_equal(fixture_call("GET", "/v1/vaults", json_object(), &line, &err), 0);
	assert_int_equal(strlen(json_string_value(json_object_get(line, "id"))), 32);
	assert_memory_equal(json_string_value(json_object_get(line, "key")), "vault:", 6);
	json_decref(line);
	assert_int_equal(fixture_call("POST", "/v1/vaults", json_pack("{s:s}", "path", path), NULL, &err), -ENOTEMPTY);
	assert_int_equal(fixture_call("POST", "/v1/vaults", json_pack("{s:s}", "path", "relative"), NULL, &err), -EINVAL);
	fx.caller.uid++; /* the service's rights are not for everybody */
	assert_int_equal(fixture_call("POST", "/v1/vaults", json_pack("{s:s}", "path", path), NULL, &err), -EACCES);
	assert_int_equal(err.exit, BASE_EXIT_DENIED);
	fx.caller.uid--;
	assert_int_equal(fixture_call("GET", "/v1/directories", json_pack("{s:s}", "path", path), &line, &err), 0);
	assert_string_equal(json_string_value(json_object_get(line, "key")), "payroll");
	json_decref(line);
}

/* A mount at /mnt/keep, which is nowhere else. */
static int locate(void *ctx, const char *path, struct vault **ret, char *backing, size_t cap)
{
	if (strncmp(path, "/mnt/keep", 9) != 0)
		return -ENOENT;
	*ret = fx.v;
	return vault_resolve(fx.v, path + 9, backing, cap);
}

static uint8_t told_zone[BASE_ID_SIZE];

static void zone_changed(void *ctx, struct vault *v, const uint8_t dir_id[BASE_ID_SIZE], const uint8_t zone[BASE_ID_SIZE])
{
	assert_ptr_equal(v, fx.v);
	assert_int_equal(*(int *)ctx, 42);
	memcpy(told_zone, zone, BASE_ID_SIZE);
}

static void test_in_a_mount(void **state)
{
	uint8_t want[BASE_ID_SIZE];
	char path[PATH_MAX];
	struct vault_name name;
	struct vault_dir dir;
	struct base_error err;
	json_t *line;
	int ctx = 42;

	vault_api_mounts(locate, zone_changed, &ctx);
	backing_of("dir/inner/leaf", path);
	if (fixture_call("GET", "/v1/files", json_pack("{s:s}", "path", "/mnt/keep/dir/inner/leaf"), &line, &err) != 0)
		fail_msg("%s", err.text);
	assert_string_equal(json_string_value(json_object_get(line, "backing_path")), path);
	json_decref(line);
	assert_int_equal(fixture_call("GET", "/v1/files", json_pack("{s:s}", "path", "/mnt/keep/dir/none"), NULL, &err), -ENOENT);
	expect(rewrap(json_pack("{s:s}", "path", "/mnt/keep/dir")), 0, 0, 1, 0);
	assert_int_equal(vault_name_seal(fx.v, root.id, "zone two", &name), 0);
	assert_int_equal(vault_dir_make(fx.v, vault_root_fd(fx.v), &root, &name, 0755, (uid_t)-1, (gid_t)-1, &dir, NULL), 0);
	assert_int_equal(fixture_call("POST", "/v1/directories/key", json_pack("{s:s, s:s}", "path", "/mnt/keep/zone two", "key", "payroll"), NULL,
				      &err), 0);
	assert_int_equal(kms_key_find(fx.core, "payroll", want), 0);
	assert_memory_equal(told_zone, want, BASE_ID_SIZE);
	vault_api_mounts(NULL, NULL, NULL);
}

static void *rename_forever(void *arg)
{
	atomic_bool *stop = arg;
	struct vault_name a, b, t;
	int fd = vault_root_fd(fx.v);

	vault_name_seal(fx.v, root.id, "file 11", &a);
	vault_name_seal(fx.v, root.id, "file 11 elsewhere", &b);
	while (!atomic_load(stop)) {
		vault_names_rdlock(fx.v);
		renameat(fd, a.entry, fd, b.entry);
		vault_names_unlock(fx.v);
		t = a;
		a = b;
		b = t;
	}
	return NULL;
}

/* A file that is renamed all the time is neither missed nor failed. */
static void test_renames(void **state)
{
	uint32_t old = version_now() - 1;
	atomic_bool stop = false;
	struct base_error err;
	struct counts c;
	struct tally t;
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, rename_forever, &stop), 0);
	c = rewrap(json_object());
	atomic_store(&stop, true);
	pthread_join(thread, NULL);
	assert_int_equal(c.code, 0);
	assert_int_equal(c.failed, 0);
	assert_int_equal(census(&t, &err), 0);
	assert_int_equal(t.version[old], 0);
}

/* Killed anywhere, and run again: no slot is left over, no file lost. */
static void test_killed(void **state)
{
	struct base_error err;
	struct counts c;
	struct tally t;
	int round, status, total;
	pid_t child;

	c = rewrap(json_object());
	total = c.rewrapped + c.current;
	srandom((unsigned)getpid());
	for (round = 0; round < 6; round++) {
		fixture_close();
		child = fork();
		assert_true(child >= 0);
		if (child == 0) {
			fixture_open();
			rotate("default");
			rewrap(json_object());
			_exit(0);
		}
		usleep((useconds_t)(20000 + random() % 300000));
		kill(child, SIGKILL);
		assert_int_equal(waitpid(child, &status, 0), child);
		fixture_open();
		c = rewrap(json_object());
		assert_int_equal(c.code, 0);
		assert_int_equal(c.rewrapped + c.current, total);
		assert_int_equal(census(&t, &err), 0);
		assert_int_equal(t.version[version_now() - 1], 0);
		test_file_show(state);
	}
}

static void test_unreachable(void **state)
{
	uint8_t id[BASE_ID_SIZE];
	struct base_error err = { 0 };
	char path[128], away[128];
	struct counts c;

	snprintf(path, sizeof(path), "%s/second", fx.dir);
	snprintf(away, sizeof(away), "%s/away", fx.dir);
	assert_int_equal(vault_create(fx.core, &fx.caller, path, "default", id, &err), 0);
	c = rewrap(json_object());
	assert_int_equal(c.code, 0);
	assert_int_equal(rename(path, away), 0);
	c = rewrap(json_object());
	assert_int_equal(c.code, -EIO);
	assert_int_equal(c.failed, 1);
	assert_int_equal(c.rewrapped, 0);
	assert_int_equal(rename(away, path), 0);
	c = rewrap(json_object());
	assert_int_equal(c.code, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_move), cmocka_unit_test(test_thousand), cmocka_unit_test(test_census), cmocka_unit_test(test_resume), cmocka_unit_test(test_foreign),
		cmocka_unit_test(test_swapped_wrap), cmocka_unit_test(test_deep), cmocka_unit_test(test_paths), cmocka_unit_test(test_file_show),
		cmocka_unit_test(test_dir_key), cmocka_unit_test(test_renames), cmocka_unit_test(test_vault_routes), cmocka_unit_test(test_in_a_mount), cmocka_unit_test(test_killed), cmocka_unit_test(test_unreachable),
	};

	return cmocka_run_group_tests(tests, set_up, fixture_down);
}
