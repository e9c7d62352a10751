/* Directory records, mkdir and rmdir. */
#include "fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mkdir.h"
#include "small.h"

static struct vault_dir root;

static int read_root(void **state)
{
	return vault_dir_read(fx.v, vault_root_fd(fx.v), NULL, &root);
}

static struct vault_name name_of(const char *clear)
{
	struct vault_name name;

	assert_int_equal(vault_name_seal(fx.v, root.id, clear, &name), 0);
	return name;
}

static int make(const char *clear, mode_t mode, struct vault_dir *dir, int *fd)
{
	struct vault_name name = name_of(clear);

	return vault_dir_make(fx.v, vault_root_fd(fx.v), &root, &name, mode, (uid_t)-1, (gid_t)-1, dir, fd);
}

static int drop(const char *clear)
{
	struct vault_name name = name_of(clear);

	return vault_dir_remove(fx.v, vault_root_fd(fx.v), &name);
}

static void touch(int dirfd, const char *name)
{
	int fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL, 0600);

	assert_true(fd >= 0);
	close(fd);
}

static void test_make_remove(void **state)
{
	static const mode_t modes[] = { 0700, 0755, 0777, 01777, 0000, 0500, 02750 };
	int before = fixture_entries(fx.path), fd;
	struct vault_dir dir, read;
	struct stat st;
	size_t i;

	for (i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		assert_int_equal(make("sub", modes[i], &dir, &fd), 0);
		assert_int_equal(fstat(fd, &st), 0);
		assert_int_equal(st.st_mode & 07777, modes[i]);
		assert_int_equal(dir.generation, 1);
		assert_memory_equal(dir.parent, root.id, BASE_ID_SIZE);
		assert_memory_equal(dir.zone, root.zone, BASE_ID_SIZE);
		if (geteuid() == 0 || modes[i] & 0100) { /* else nobody may look into it */
			assert_int_equal(vault_dir_read(fx.v, fd, root.id, &read), 0);
			assert_memory_equal(&read, &dir, sizeof(dir));
		}
		assert_int_equal(make("sub", 0700, &dir, NULL), -EEXIST);
		close(fd);
		assert_int_equal(drop("sub"), 0);
		assert_int_equal(drop("sub"), -ENOENT);
	}
	assert_int_equal(fixture_entries(fx.path), before);
}

static void test_setgid(void **state)
{
	struct vault_dir dir;
	struct stat st;
	int fd;

	assert_int_equal(fchmod(vault_root_fd(fx.v), 02700), 0);
	assert_int_equal(make("sub", 0750, &dir, &fd), 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_mode & 07777, 02750);
	close(fd);
	assert_int_equal(drop("sub"), 0);
	assert_int_equal(fchmod(vault_root_fd(fx.v), 0700), 0);
}

static void test_long_name(void **state)
{
	int before = fixture_entries(fx.path);
	struct vault_dir dir;
	char name[256];

	memset(name, 'd', 255);
	name[255] = '\0';
	assert_int_equal(make(name, 0700, &dir, NULL), 0);
	assert_int_equal(fixture_entries(fx.path), before + 2);
	assert_int_equal(make(name, 0700, &dir, NULL), -EEXIST);
	assert_int_equal(fixture_entries(fx.path), before + 2);
	assert_int_equal(drop(name), 0);
	assert_int_equal(fixture_entries(fx.path), before);
}

static void test_not_empty(void **state)
{
	struct vault_dir dir, inner;
	struct vault_name name;
	int fd;

	assert_int_equal(make("sub", 0700, &dir, &fd), 0);
	assert_int_equal(vault_name_seal(fx.v, dir.id, "inner", &name), 0);
	assert_int_equal(vault_dir_make(fx.v, fd, &dir, &name, 0700, (uid_t)-1, (gid_t)-1, &inner, NULL), 0);
	assert_int_equal(vault_dir_empty(fd), -ENOTEMPTY);
	assert_int_equal(drop("sub"), -ENOTEMPTY);
	assert_int_equal(vault_dir_remove(fx.v, fd, &name), 0);
	touch(fd, "foreign.txt");
	assert_int_equal(drop("sub"), -ENOTEMPTY);
	assert_int_equal(vault_dir_read(fx.v, fd, root.id, &dir), 0);
	assert_int_equal(unlinkat(fd, "foreign.txt", 0), 0);
	assert_int_equal(drop("sub"), 0);
	close(fd);
}

/* What crashes leave in a directory goes with it: half a mkdir, half an rmdir, a half created file, an orphaned side record. */
static void test_leftovers(void **state)
{
	int before = fixture_entries(fx.path), fd, temp;
	struct vault_dir dir;

	assert_int_equal(make("sub", 0700, &dir, &fd), 0);
	assert_int_equal(mkdirat(fd, "tmp.0000000000000001", 0700), 0);
	assert_int_equal(mkdirat(fd, "tmp.0000000000000002", 0700), 0);
	temp = openat(fd, "tmp.0000000000000002", O_RDONLY | O_DIRECTORY);
	touch(temp, VAULT_RECORD_NAME);
	touch(temp, "tmp.00000000000000aa");
	touch(temp, "N.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
	close(temp);
	touch(fd, "tmp.0000000000000003");
	touch(fd, "N.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
	assert_int_equal(vault_dir_empty(fd), 0);
	assert_int_equal(drop("sub"), 0);
	assert_int_equal(fixture_entries(fx.path), before);
	close(fd);
}

/* A `tmp.` directory that holds more than mkdir ever makes is not emptied, and the directory around it comes back. */
static void test_comes_back(void **state)
{
	struct vault_dir dir, read;
	int fd;

	assert_int_equal(make("sub", 0700, &dir, &fd), 0);
	assert_int_equal(mkdirat(fd, "tmp.0000000000000001", 0700), 0);
	touch(fd, "tmp.0000000000000001/precious");
	assert_true(drop("sub") < 0);
	assert_int_equal(vault_dir_read(fx.v, fd, root.id, &read), 0);
	assert_int_equal(faccessat(fd, "tmp.0000000000000001/precious", F_OK, 0), 0);
	assert_int_equal(faccessat(vault_root_fd(fx.v), name_of("sub").entry, F_OK, 0), 0);
	assert_int_equal(unlinkat(fd, "tmp.0000000000000001/precious", 0), 0);
	assert_int_equal(drop("sub"), 0);
	close(fd);
}

static void test_not_a_directory(void **state)
{
	struct vault_name name = name_of("file");
	int rootfd = vault_root_fd(fx.v);

	touch(rootfd, name.entry);
	assert_int_equal(drop("file"), -ENOTDIR);
	assert_int_equal(unlinkat(rootfd, name.entry, 0), 0);
	assert_int_equal(symlinkat("/tmp", rootfd, name.entry), 0);
	assert_int_equal(drop("file"), -ENOTDIR);
	assert_int_equal(unlinkat(rootfd, name.entry, 0), 0);
}

static void test_record_bits(void **state)
{
	struct vault_dir dir, read;
	uint8_t record[160];
	char path[512];
	size_t bit;
	int fd;

	assert_int_equal(make("sub", 0700, &dir, &fd), 0);
	snprintf(path, sizeof(path), "%s/%s/" VAULT_RECORD_NAME, fx.path, name_of("sub").entry);
	assert_int_equal(fixture_read(path, record, sizeof(record)), 160);
	for (bit = 0; bit < 8 * sizeof(record); bit++) {
		record[bit / 8] ^= (uint8_t)(1 << bit % 8);
		fixture_write(path, record, sizeof(record));
		assert_int_equal(vault_dir_read(fx.v, fd, root.id, &read), -EBADMSG);
		record[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	fixture_write(path, record, 159);
	assert_int_equal(vault_dir_read(fx.v, fd, root.id, &read), -EBADMSG);
	fixture_write(path, record, 160);
	assert_int_equal(vault_dir_read(fx.v, fd, root.id, &read), 0);
	assert_int_equal(vault_dir_read(fx.v, fd, dir.id, &read), -EBADMSG); /* another parent */
	assert_int_equal(unlink(path), 0);
	assert_int_equal(vault_dir_read(fx.v, fd, root.id, &read), -EBADMSG);
	assert_int_equal(symlink("/etc/hostname", path), 0);
	assert_int_equal(vault_dir_read(fx.v, fd, root.id, &read), -EBADMSG);
	close(fd);
	assert_int_equal(drop("sub"), 0);
}

static void test_move(void **state)
{
	struct vault_dir dir, other, read;
	int fd;

	assert_int_equal(make("other", 0700, &other, NULL), 0);
	assert_int_equal(make("sub", 0700, &dir, &fd), 0);
	assert_int_equal(vault_dir_move(fx.v, fd, &dir, other.id, 0), 0);
	/* Under way: it may be found in either. */
	assert_int_equal(vault_dir_read(fx.v, fd, root.id, &read), 0);
	assert_int_equal(vault_dir_read(fx.v, fd, other.id, &read), 0);
	assert_memory_equal(read.parent, other.id, BASE_ID_SIZE);
	assert_int_equal(vault_dir_read(fx.v, fd, dir.id, &read), -EBADMSG);
	assert_int_equal(vault_dir_move(fx.v, fd, &dir, other.id, -1), 0);
	assert_int_equal(vault_dir_read(fx.v, fd, other.id, &read), -EBADMSG);
	assert_int_equal(vault_dir_move(fx.v, fd, &dir, other.id, 0), 0);
	assert_int_equal(vault_dir_move(fx.v, fd, &dir, other.id, 1), 0);
	assert_int_equal(vault_dir_read(fx.v, fd, root.id, &read), -EBADMSG);
	assert_int_equal(vault_dir_read(fx.v, fd, other.id, &read), 0);
	assert_int_equal(read.generation, dir.generation);
	assert_int_equal(dir.generation, 5);
	/* A record of zeros names no second parent. */
	assert_int_equal(vault_dir_read(fx.v, fd, (const uint8_t[BASE_ID_SIZE]){ 0 }, &read), -EBADMSG);
	close(fd);
	assert_int_equal(drop("sub"), 0);
	assert_int_equal(drop("other"), 0);
}

static void test_rename_new(void **state)
{
	int rootfd = vault_root_fd(fx.v);

	touch(rootfd, "tmp.a");
	touch(rootfd, "tmp.b");
	assert_int_equal(vault_rename_new(rootfd, "tmp.a", rootfd, "tmp.b"), -EEXIST);
	assert_int_equal(unlinkat(rootfd, "tmp.b", 0), 0);
	assert_int_equal(vault_rename_new(rootfd, "tmp.a", rootfd, "tmp.b"), 0);
	assert_int_equal(unlinkat(rootfd, "tmp.b", 0), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_make_remove, read_root), cmocka_unit_test(test_setgid), cmocka_unit_test(test_long_name),
		cmocka_unit_test(test_not_empty), cmocka_unit_test(test_leftovers), cmocka_unit_test(test_comes_back),
		cmocka_unit_test(test_not_a_directory), cmocka_unit_test(test_record_bits), cmocka_unit_test(test_move),
		cmocka_unit_test(test_rename_new),
	};

	return cmocka_run_group_tests(tests, fixture_up, fixture_down);
}
