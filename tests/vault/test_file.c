/*
 * test_file.c: random writes, truncates, punches and syncs on one file against a model in memory, with the process ended at a random backing
 * write (in the middle of it, at a page boundary), again during recovery, then checked: every block is what the model says before or after the
 * operation that was under way.
 *
 * test_file ROUNDS [SEED]; each round is a file of its own. Prints a line per failure and exits non-zero.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/secret.h"
#include "vault/file.h"
#include "vault/header.h"

#define MAX_SIZE (6u << 20)
#define OPS 60

/* ---- the end at a given backing write ---- */

static long writes_left = -1;
static unsigned cut_pages;

ssize_t __real_pwrite64(int fd, const void *buf, size_t len, off_t off);
ssize_t __wrap_pwrite64(int fd, const void *buf, size_t len, off_t off);
ssize_t __real_pwritev64(int fd, const struct iovec *iov, int n, off_t off);
ssize_t __wrap_pwritev64(int fd, const struct iovec *iov, int n, off_t off);
int __real_ftruncate64(int fd, off_t len);
int __wrap_ftruncate64(int fd, off_t len);

/* How many of len bytes at off reach the disk before the end: whole pages only. */
static size_t cut(size_t len, off_t off)
{
	size_t first = 4096 - (size_t)(off % 4096), keep = cut_pages == 0 ? 0 : first + (size_t)(cut_pages - 1) * 4096;

	return keep < len ? keep : len;
}

ssize_t __wrap_pwrite64(int fd, const void *buf, size_t len, off_t off)
{
	if (writes_left > 0 && --writes_left == 0) {
		if (cut(len, off) > 0 && __real_pwrite64(fd, buf, cut(len, off), off) < 0)
			_exit(3);
		_exit(9);
	}
	return __real_pwrite64(fd, buf, len, off);
}

ssize_t __wrap_pwritev64(int fd, const struct iovec *iov, int n, off_t off)
{
	if (writes_left > 0 && --writes_left == 0) {
		size_t total = 0, keep, at = 0;
		uint8_t *all;

		for (int i = 0; i < n; i++)
			total += iov[i].iov_len;
		all = malloc(total);
		for (int i = 0; i < n; at += iov[i++].iov_len)
			memcpy(all + at, iov[i].iov_base, iov[i].iov_len);
		keep = cut(total, off);
		if (keep > 0 && __real_pwrite64(fd, all, keep, off) < 0)
			_exit(3);
		_exit(9);
	}
	return __real_pwritev64(fd, iov, n, off);
}

int __wrap_ftruncate64(int fd, off_t len)
{
	if (writes_left > 0 && --writes_left == 0)
		_exit(9);
	return __real_ftruncate64(fd, len);
}

/* ---- the model ---- */

struct model {
	uint64_t size;
	uint8_t bytes[MAX_SIZE];
};

struct op {
	enum { OP_WRITE, OP_TRUNCATE, OP_PUNCH, OP_SYNC, OP_REOPEN, OP_IDLE } kind;
	uint64_t off, len;
	uint64_t fill;
};

static uint64_t rnd(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

static void op_make(uint64_t *s, struct op *op)
{
	static const uint64_t spans[] = { 100, 5000, 90000, 400000, MAX_SIZE };
	uint64_t span = spans[rnd(s) % 5], kind = rnd(s) % 100;

	op->kind = kind < 60 ? OP_WRITE : kind < 75 ? OP_TRUNCATE : kind < 83 ? OP_PUNCH : kind < 90 ? OP_SYNC : kind < 96 ? OP_REOPEN : OP_IDLE;
	op->off = rnd(s) % span;
	op->len = rnd(s) % (rnd(s) % 4 ? 9000 : 600000) + 1;
	if (rnd(s) % 2) {
		op->off &= ~4095ULL;
		op->len = (op->len + 4095) & ~4095ULL;
	}
	if (op->off + op->len > MAX_SIZE)
		op->len = MAX_SIZE - op->off;
	if (op->kind == OP_TRUNCATE && rnd(s) % 4 == 0)
		op->off = 0;
	op->fill = rnd(s) | 1;
}

static void fill(uint8_t *buf, size_t len, uint64_t seed)
{
	for (size_t i = 0; i < len; i++) {
		if (i % 8 == 0)
			rnd(&seed);
		buf[i] = (uint8_t)(seed >> i % 8 * 8);
	}
}

static void model_apply(struct model *m, const struct op *op)
{
	switch (op->kind) {
	case OP_WRITE:
		fill(m->bytes + op->off, op->len, op->fill);
		if (op->off + op->len > m->size)
			m->size = op->off + op->len;
		break;
	case OP_TRUNCATE:
		if (op->off < m->size)
			memset(m->bytes + op->off, 0, m->size - op->off);
		m->size = op->off;
		break;
	case OP_PUNCH:
		if (op->off < m->size)
			memset(m->bytes + op->off, 0, op->off + op->len < m->size ? op->len : m->size - op->off);
		break;
	default:
		break;
	}
}

/* ---- the file ---- */

static char root[64], keystore[96], vault_dir_path[96];

struct ctx {
	struct kms_core *core;
	struct vault *v;
	struct vault_dir dir;
	struct kms_caller me;
};

#define NEED(call) \
	do { \
		int need_r = (call); \
		if (need_r != 0) { \
			fprintf(stderr, "%s:%d: %s: %s %s\n", __FILE__, __LINE__, #call, strerror(-need_r), err.text); \
			_exit(4); \
		} \
	} while (0)

static void ctx_open(struct ctx *x)
{
	struct kms_prompt none = { NULL, NULL };
	struct base_error err = { .code = 0 };

	NEED(base_secret_setup(&err));
	NEED(kms_core_open(keystore, &none, KMS_OPEN_WAIT, &x->core, &err));
	x->me = kms_caller_self(KMS_VIA_CLI);
	NEED(vault_open(x->core, &x->me, vault_dir_path, &x->v, &err));
	NEED(vault_dir_read(x->v, vault_root_fd(x->v), NULL, &x->dir));
}

static void ctx_close(struct ctx *x)
{
	vault_put(x->v);
	kms_core_close(x->core);
}

static int file_open(struct ctx *x, const char *name, struct vault_file **ret)
{
	struct vault_name sealed;
	int r = vault_name_seal(x->v, x->dir.id, name, &sealed), fd;

	if (r != 0)
		return r;
	fd = openat(vault_root_fd(x->v), sealed.entry, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (fd >= 0)
		return vault_file_open(x->v, &x->me, name, fd, true, ret);
	r = vault_file_create(x->v, &x->me, name, vault_root_fd(x->v), &x->dir, 0600, (uid_t)-1, (gid_t)-1, ret);
	return r ? r : vault_file_link(*ret, vault_root_fd(x->v), &sealed);
}

static int op_run(struct ctx *x, const char *name, struct vault_file **f, const struct op *op)
{
	static uint8_t buf[MAX_SIZE];

	switch (op->kind) {
	case OP_WRITE:
		fill(buf, op->len, op->fill);
		return vault_file_write(*f, buf, op->len, op->off);
	case OP_TRUNCATE:
		return vault_file_truncate(*f, op->off);
	case OP_PUNCH:
		return vault_file_punch(*f, op->off, op->len);
	case OP_SYNC:
		return vault_file_sync(*f, op->fill & 2);
	case OP_IDLE:
		vault_file_idle(*f, base_clock_mono_ns() + 10000000000ULL);
		return 0;
	case OP_REOPEN:
		vault_file_release(*f, true);
		vault_file_free(*f);
		*f = NULL;
		return file_open(x, name, f);
	}
	return -EINVAL;
}

static bool same(struct vault_file *f, const struct model *m, const char *what, int op)
{
	static uint8_t buf[MAX_SIZE + 4096];
	ssize_t n = vault_file_read(f, buf, sizeof(buf), 0);

	if (n < 0 || (uint64_t)n != m->size || memcmp(buf, m->bytes, m->size) != 0) {
		size_t at = 0;

		while (n > 0 && at < (size_t)n && at < m->size && buf[at] == m->bytes[at])
			at++;
		fprintf(stderr, "%s after operation %d: read %zd, expected %ju, first difference at %zu\n", what, op, n, (uintmax_t)m->size, at);
		return false;
	}
	return true;
}

/* The child: operations until the end comes. progress: 2 * done, + 1 while one is under way. */
static void work(const char *name, uint64_t seed, volatile int *progress, long end_at)
{
	static struct model m;
	struct base_error err = { .code = 0 };
	struct vault_file *f;
	struct ctx x;

	ctx_open(&x);
	NEED(file_open(&x, name, &f));
	cut_pages = (unsigned)(rnd(&seed) % 5);
	writes_left = end_at;
	for (int i = 0; i < OPS; i++) {
		struct op op;

		op_make(&seed, &op);
		*progress = 2 * i + 1;
		NEED(op_run(&x, name, &f, &op));
		model_apply(&m, &op);
		*progress = 2 * i + 2;
		if (i % 7 == 0 && !same(f, &m, "while running", i))
			_exit(5);
	}
	if (!same(f, &m, "at the end", OPS))
		_exit(5);
	vault_file_release(f, true);
	vault_file_free(f);
	writes_left = -1;
	ctx_close(&x);
	_exit(0);
}

/* The keystore knows that the file was open in a session that crashed under the running kernel. */
static bool was_open(struct ctx *x, const char *name)
{
	struct vault_name sealed;
	struct vault_header h;
	bool same_boot = false, found = false;
	int fd;

	if (vault_name_seal(x->v, x->dir.id, name, &sealed) != 0 || (fd = openat(vault_root_fd(x->v), sealed.entry, O_RDONLY | O_CLOEXEC)) < 0)
		return true; /* it ended before the file had its name */
	if (vault_header_read(fd, VAULT_MAGIC_FILE, KMS_PURPOSE_FILE, &h) == 0)
		found = kms_dirty_crashed(x->core, vault_id(x->v), h.file_id, NULL, &same_boot) == 0;
	close(fd);
	return found && same_boot;
}

static void recover_and_end(const char *name, long end_at, bool crashed)
{
	struct base_error err = { .code = 0 };
	struct vault_file *f;
	struct ctx x;

	ctx_open(&x);
	if (crashed && !was_open(&x, name)) {
		fprintf(stderr, "%s is not in the dirty set of a session of this boot\n", name);
		_exit(6);
	}
	cut_pages = 1;
	writes_left = end_at;
	NEED(file_open(&x, name, &f));
	_exit(9);
}

static bool block_is(const uint8_t *got, const struct model *m, uint64_t at, size_t len)
{
	uint8_t want[4096] = { 0 };

	if (at < m->size)
		memcpy(want, m->bytes + at, m->size - at < len ? m->size - at : len);
	return memcmp(got, want, len) == 0;
}

static void check(const char *name, uint64_t seed, int progress)
{
	static struct model before, after;
	static uint8_t buf[MAX_SIZE + 4096];
	struct base_error err = { .code = 0 };
	struct op op = { OP_SYNC, 0, 0, 0 };
	struct vault_file *f;
	struct ctx x;
	ssize_t n;

	ctx_open(&x);
	NEED(file_open(&x, name, &f));
	rnd(&seed);
	for (int i = 0; i < progress / 2; i++) {
		op_make(&seed, &op);
		model_apply(&before, &op);
	}
	after = before;
	if (progress % 2) {
		op_make(&seed, &op);
		model_apply(&after, &op);
	}
	n = vault_file_read(f, buf, sizeof(buf), 0);
	if (n < 0) {
		fprintf(stderr, "%s: read fails with %s (operation %d, kind %d)\n", name, strerror((int)-n), progress, op.kind);
		_exit(5);
	}
	uint64_t low = before.size < after.size ? before.size : after.size, high = before.size > after.size ? before.size : after.size;
	if ((uint64_t)n < low || (uint64_t)n > high) {
		fprintf(stderr, "%s: size %zd, expected %ju to %ju (operation %d, kind %d)\n", name, n, (uintmax_t)low, (uintmax_t)high, progress, op.kind);
		_exit(5);
	}
	/* A truncate happened or it did not; other operations may have reached some blocks. */
	if (op.kind == OP_TRUNCATE && (uint64_t)n != after.size)
		after = before;
	for (uint64_t at = 0; at < (uint64_t)n; at += 4096) {
		size_t len = (uint64_t)n - at < 4096 ? (uint64_t)n - at : 4096;

		if (!block_is(buf + at, &before, at, len) && !block_is(buf + at, &after, at, len)) {
			fprintf(stderr, "%s: block %ju is neither old nor new (operation %d, kind %d, off %ju len %ju, size %zd, was %ju)\n", name, (uintmax_t)(at / 4096),
				progress, op.kind, (uintmax_t)op.off, (uintmax_t)op.len, n, (uintmax_t)before.size);
			_exit(5);
		}
	}
	/* and it goes on working */
	NEED(vault_file_write(f, "again", 5, 3));
	NEED(vault_file_truncate(f, 70000));
	vault_file_release(f, true);
	vault_file_free(f);
	ctx_close(&x);
	_exit(0);
}

static int in_child(pid_t pid)
{
	int status;

	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return 1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
}

static int setup(void)
{
	struct kms_create options = { NULL, NULL, NULL };
	struct kms_prompt none = { NULL, NULL };
	struct base_error err = { .code = 0 };
	struct kms_caller me = kms_caller_self(KMS_VIA_CLI);
	struct kms_core *core;
	uint8_t id[BASE_ID_SIZE];

	NEED(base_secret_setup(&err));
	NEED(kms_keystore_create(keystore, &options, &none, &err));
	NEED(kms_core_open(keystore, &none, 0, &core, &err));
	NEED(vault_create(core, &me, vault_dir_path, "default", id, &err));
	kms_core_close(core);
	_exit(0);
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 40, failed = 0, crashed = 0;
	uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : base_clock_real_ns() | 1;
	volatile int *progress = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t pid;

	snprintf(root, sizeof(root), "%s/keepfs-file-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	if (progress == MAP_FAILED || !mkdtemp(root))
		return 1;
	snprintf(keystore, sizeof(keystore), "%s/ks", root);
	snprintf(vault_dir_path, sizeof(vault_dir_path), "%s/vault", root);
	printf("rounds %d, seed %ju\n", rounds, (uintmax_t)seed);
	fflush(stdout);
	if ((pid = fork()) == 0)
		setup();
	if (in_child(pid) != 0)
		return 1;
	for (int i = 0; i < rounds; i++) {
		uint64_t round_seed = rnd(&seed) | 1;
		long end_at = i % 5 == 0 ? -1 : (long)(rnd(&seed) % 250) + 1;
		char name[32];
		int r;

		snprintf(name, sizeof(name), "f%d", i);
		*progress = 0;
		if ((pid = fork()) == 0)
			work(name, round_seed, progress, end_at);
		r = in_child(pid);
		crashed += r == 9;
		if ((r == 0 || r == 9) && i % 3 == 0) {
			if ((pid = fork()) == 0)
				recover_and_end(name, (long)(rnd(&seed) % 4) + 1, r == 9);
			r = in_child(pid);
		}
		if (r == 0 || r == 9) {
			if ((pid = fork()) == 0)
				check(name, round_seed, *progress);
			r = in_child(pid);
		}
		if (r != 0) {
			fprintf(stderr, "round %d (seed %ju, end at write %ld): exit %d\n", i, (uintmax_t)round_seed, end_at, r);
			failed++;
		}
	}
	printf("%d rounds, %d ended in mid-write, %d failed\n", rounds, crashed, failed);
	if (failed == 0) {
		char cmd[128];

		snprintf(cmd, sizeof(cmd), "rm -rf %s", root);
		if (system(cmd) != 0)
			return 1;
	}
	return failed != 0;
}
