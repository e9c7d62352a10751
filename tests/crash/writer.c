/*
 * The writers of the crash test, and their judge.
 *
 *   writer run DIR STATE ID SEED      append, overwrite, truncate, fsync and replace files of DIR until the mount is gone
 *   writer verify DIR STATE ID        compare DIR with what STATE says was synced; what is found is the next round's start
 *   writer churn DIR SEED             make, rename and remove directories, files and links until the mount is gone
 *
 * STATE is outside the vault: per file its content at the start of the round (fN) and a log of operations (fN.log), each noted before it
 * is issued, and each fsync after it has returned. A file may, block by block, hold what it held at the last fsync or after any later write.
 *
 * Exit: 0 verified, or the mount went away (run, churn: how is printed); 1 a check failed; 2 usage or trouble outside the mount.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../lib/random.h"

#define FILES 5
#define BLOCK 4096
#define SMALL_CAP (400 * 1024)
#define LARGE_CAP (7 * 1024 * 1024)

struct op {
	char kind;      /* 'W' write, 'T' truncate, 'S' synced, 'R' replaced by a new file is under way, 'r' it is done */
	uint64_t off;   /* T: the new size; R: 0 */
	uint64_t len;
	uint64_t salt;
};

struct image {
	uint8_t *bytes; /* LARGE_CAP; zero from size on */
	uint64_t size;
};

static void fill(uint8_t *buf, uint64_t off, uint64_t len, uint64_t salt)
{
	for (uint64_t i = 0; i < len; i++) {
		uint64_t x = (salt + (off + i) / 8) * 0x9E3779B97F4A7C15ull;
		buf[i] = (uint8_t)((x ^ x >> 29) >> (8 * ((off + i) % 8))) | 1; /* never zero: a lost byte is seen */
	}
}

static void trouble(const char *what)
{
	fprintf(stderr, "writer: %s: %s\n", what, strerror(errno));
	exit(2);
}

/* The mount answered with an error: say which and when; the driver knows when it killed. */
static void gone(const char *what)
{
	struct timespec now;
	int e = errno;
	clock_gettime(CLOCK_MONOTONIC, &now);
	printf("%lld.%09ld %d %s\n", (long long)now.tv_sec, now.tv_nsec, e, what);
	fflush(stdout);
	_exit(0);
}

static void path_of(char *out, const char *dir, const char *id, int file, const char *suffix)
{
	snprintf(out, 4096, "%s/w%s.f%d%s", dir, id, file, suffix);
}

static uint64_t cap_of(int file)
{
	return file == 0 ? LARGE_CAP : SMALL_CAP;
}

static int read_all(const char *path, struct image *image)
{
	uint64_t at = 0;
	memset(image->bytes, 0, LARGE_CAP);
	image->size = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	for (;;) {
		ssize_t n = pread(fd, image->bytes + at, LARGE_CAP - at, (off_t)at);
		if (n < 0) {
			int e = errno;
			close(fd);
			return -e;
		}
		if (n == 0)
			break;
		at += (uint64_t)n;
	}
	image->size = at;
	close(fd);
	return 0;
}

static void image_new(struct image *image)
{
	image->bytes = calloc(1, LARGE_CAP);
	if (!image->bytes)
		trouble("memory");
	image->size = 0;
}

static void apply(struct image *image, const struct op *op)
{
	if (op->kind == 'W') {
		fill(image->bytes + op->off, op->off, op->len, op->salt);
		if (op->off + op->len > image->size)
			image->size = op->off + op->len;
	} else if (op->kind == 'T') {
		if (op->off < image->size)
			memset(image->bytes + op->off, 0, image->size - op->off);
		image->size = op->off;
	} else if (op->kind == 'r') {
		memset(image->bytes, 0, image->size);
		fill(image->bytes, 0, op->len, op->salt);
		image->size = op->len;
	}
}

/* ---- run ---- */

struct slot {
	char path[4096], tmp[4096];
	int fd, log;
	uint64_t size, cap;
};

static void note(struct slot *s, struct op op)
{
	if (write(s->log, &op, sizeof(op)) != (ssize_t)sizeof(op))
		trouble("the log");
}

static void op_write(struct slot *s, bool append)
{
	static uint8_t buf[256 * 1024];
	uint64_t len = below(4) ? 1 + below(300) : 1 + below(below(6) && s->cap != LARGE_CAP ? 20000 : sizeof(buf));
	uint64_t off = append ? s->size : below(s->size + 1);
	if (!append && below(3) == 0) { /* whole blocks */
		off &= ~(uint64_t)(BLOCK - 1);
		len = BLOCK * (1 + below(4));
	}
	if (off + len > s->cap)
		return;
	struct op op = {.kind = 'W', .off = off, .len = len, .salt = rng()};
	note(s, op);
	fill(buf, off, len, op.salt);
	ssize_t n = pwrite(s->fd, buf, len, (off_t)off);
	if (n < 0)
		gone("write");
	if ((uint64_t)n != len) {
		errno = 0;
		gone("short write");
	}
	if (off + len > s->size)
		s->size = off + len;
}

static void op_sync(struct slot *s)
{
	if ((below(2) ? fsync(s->fd) : fdatasync(s->fd)) < 0)
		gone("fsync");
	note(s, (struct op){.kind = 'S'});
}

static void op_truncate(struct slot *s)
{
	uint64_t z = below(5) ? below(s->size + 1) : s->size + below(100000);
	if (z > s->cap)
		z = 0;
	note(s, (struct op){.kind = 'T', .off = z});
	if (ftruncate(s->fd, (off_t)z) < 0)
		gone("truncate");
	s->size = z;
}

/* The way editors save: a new file, synced, renamed over the old one. */
static void op_replace(struct slot *s)
{
	static uint8_t buf[100000];
	uint64_t len = 1 + below(sizeof(buf));
	struct op op = {.kind = 'R', .len = len, .salt = rng()};
	fill(buf, 0, len, op.salt);
	int fd = open(s->tmp, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		gone("create");
	if (write(fd, buf, len) != (ssize_t)len)
		gone("write a new file");
	if (fsync(fd) < 0)
		gone("fsync a new file");
	note(s, op);
	if (rename(s->tmp, s->path) < 0)
		gone("rename");
	op.kind = 'r';
	note(s, op);
	close(s->fd);
	s->fd = fd;
	s->size = len;
}

static void slot_open(struct slot *s)
{
	s->fd = open(s->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (s->fd < 0)
		gone("open");
	struct stat st;
	if (fstat(s->fd, &st) < 0)
		gone("fstat");
	s->size = (uint64_t)st.st_size;
}

static _Noreturn void run(const char *dir, const char *state, const char *id)
{
	static struct slot slots[FILES];
	char log[4096];
	for (int i = 0; i < FILES; i++) {
		struct slot *s = &slots[i];
		path_of(s->path, dir, id, i, "");
		path_of(s->tmp, dir, id, i, ".tmp");
		path_of(log, state, id, i, ".log");
		s->cap = cap_of(i);
		s->log = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
		if (s->log < 0)
			trouble(log);
		slot_open(s);
	}
	for (;;) {
		struct slot *s = &slots[below(FILES)];
		uint64_t what = below(100);
		if (what < 35)
			op_write(s, true);
		else if (what < 65)
			op_write(s, false);
		else if (what < 93)
			op_sync(s);
		else if (what < 96 && (s->cap != LARGE_CAP || below(20) == 0))
			op_truncate(s);
		else if (what < 98 && s->cap != LARGE_CAP)
			op_replace(s);
		else {
			if (close(s->fd) < 0)
				gone("close");
			slot_open(s);
		}
		if (s->size > s->cap * 9 / 10)
			op_truncate(s);
	}
}

/* ---- verify ---- */

static bool block_matches(const struct image *want, const struct image *found, uint64_t block)
{
	uint64_t at = block * BLOCK, len = found->size - at < BLOCK ? found->size - at : BLOCK;
	return memcmp(want->bytes + at, found->bytes + at, len) == 0;
}

/* Where a bad block's content comes from: for the report. */
static void explain(const char *base, const struct image *found, const struct op *ops, size_t count, int64_t block)
{
	struct image old;
	image_new(&old);
	read_all(base, &old);
	size_t differing = 0, first = BLOCK;
	bool matched = false;
	for (size_t i = 0; i <= count; i++) {
		bool matches = block_matches(&old, found, (uint64_t)block);
		if (matches != matched)
			printf("  the block is%s as after %zu operations\n", matches ? "" : " no longer", i);
		matched = matches;
		if (i < count)
			apply(&old, &ops[i]);
	}
	for (uint64_t i = (uint64_t)block * BLOCK; i < ((uint64_t)block + 1) * BLOCK && i < found->size; i++)
		if (old.bytes[i] != found->bytes[i]) {
			differing++;
			first = first == BLOCK ? i % BLOCK : first;
		}
	printf("  the block differs from the last state in %zu bytes, first at %zu; the file has %llu bytes\n", differing, first,
	       (unsigned long long)found->size);
	for (size_t i = 0; i < count; i++)
		if (ops[i].kind == 'T' || ops[i].kind == 'r' ||
		    (ops[i].kind == 'W' && ops[i].off / BLOCK <= (uint64_t)block && (ops[i].off + ops[i].len - 1) / BLOCK >= (uint64_t)block))
			printf("  touched by %zu %c %llu +%llu\n", i, ops[i].kind, (unsigned long long)ops[i].off, (unsigned long long)ops[i].len);
	free(old.bytes);
}

/*
 * A truncate goes to the service at once, while older writes may still be in the kernel's cache and be lost: then the block that it cuts is an
 * older state's, cut. Only where the size shows that the truncate happened.
 */
static bool cut_of_older(const char *base, const struct image *found, const struct op *ops, size_t first, size_t count, uint64_t block)
{
	struct image old;
	bool good = false;
	for (size_t cut = first; cut < count && !good; cut++) {
		uint64_t at = block * BLOCK, z = ops[cut].off;
		if (ops[cut].kind != 'T' || z <= at || z >= at + BLOCK || (cut + 1 == count && found->size > z))
			continue;
		bool zeros = true;
		for (uint64_t i = z; i < at + BLOCK; i++)
			zeros = zeros && !found->bytes[i];
		image_new(&old);
		read_all(base, &old);
		for (size_t i = 0; zeros && i <= cut && !good; i++) {
			good = i >= first && memcmp(old.bytes + at, found->bytes + at, z - at) == 0;
			apply(&old, &ops[i]);
		}
		free(old.bytes);
	}
	return good;
}

static bool same(const struct image *a, const struct image *b)
{
	return a->size == b->size && memcmp(a->bytes, b->bytes, a->size) == 0;
}

static struct op *log_read(const char *path, size_t *count)
{
	FILE *f = fopen(path, "rb");
	*count = 0;
	if (!f)
		return NULL;
	size_t cap = 1 << 20;
	struct op *ops = malloc(cap * sizeof(*ops));
	if (!ops)
		trouble("memory");
	*count = fread(ops, sizeof(*ops), cap, f);
	fclose(f);
	return ops;
}

/* Every block of found is as in want or as after one of the ops from `first` on. Returns the first bad block or -1. */
static int64_t judge(const char *base, struct image *want, const struct image *found, const struct op *ops, size_t first, size_t count,
		     char *why, size_t cap)
{
	uint64_t blocks = (found->size + BLOCK - 1) / BLOCK, low = want->size, high = want->size;
	bool *good = calloc(blocks + 1, 1);
	int64_t bad = -1;
	if (!good)
		trouble("memory");
	for (uint64_t b = 0; b < blocks; b++)
		good[b] = block_matches(want, found, b);
	for (size_t i = first; i < count; i++) {
		uint64_t from = ops[i].off < want->size ? ops[i].off : want->size, end = want->size;
		apply(want, &ops[i]);
		low = want->size < low ? want->size : low;
		high = want->size > high ? want->size : high;
		end = want->size > end ? want->size : end;
		if (ops[i].kind == 'W' && from == ops[i].off)
			end = ops[i].off + ops[i].len;
		for (uint64_t b = from / BLOCK; b < blocks && b * BLOCK < end; b++)
			good[b] = good[b] || block_matches(want, found, b);
	}
	for (uint64_t b = 0; b < blocks && bad < 0; b++)
		if (!good[b] && !cut_of_older(base, found, ops, first, count, b))
			bad = (int64_t)b;
	if (found->size < low || found->size > high) {
		snprintf(why, cap, "size %llu, expected %llu to %llu", (unsigned long long)found->size, (unsigned long long)low,
			 (unsigned long long)high);
		bad = bad < 0 ? 0 : bad;
	} else if (bad >= 0) {
		bool zero = true;
		for (uint64_t i = (uint64_t)bad * BLOCK; i < ((uint64_t)bad + 1) * BLOCK && i < found->size; i++)
			zero = zero && !found->bytes[i];
		snprintf(why, cap, "block %lld of %llu is neither synced nor newer content%s", (long long)bad, (unsigned long long)blocks,
			 zero ? " (all zeros)" : "");
	}
	free(good);
	return bad;
}

static int verify_file(const char *dir, const char *state, const char *id, int file)
{
	static struct image want, found, fresh;
	char path[4096], base[4096], log[4096], why[256] = "";
	size_t count, synced = 0, end;
	if (!want.bytes) {
		image_new(&want);
		image_new(&found);
		image_new(&fresh);
	}
	path_of(path, dir, id, file, "");
	path_of(base, state, id, file, "");
	path_of(log, state, id, file, ".log");
	bool had = read_all(base, &want) == 0;
	struct op *ops = log_read(log, &count);
	int r = read_all(path, &found);
	if (r == -ENOENT && !had && count == 0)
		return 0;
	if (r < 0) {
		printf("%s: cannot be read: %s (%zu operations, start %llu bytes)\n", path, strerror(-r), count, (unsigned long long)want.size);
		free(ops);
		return 1;
	}
	end = count;
	bool replacing = count && ops[count - 1].kind == 'R';
	if (replacing) {
		struct op op = ops[--end];
		op.kind = 'r';
		apply(&fresh, &op);
	}
	for (size_t i = 0; i < end; i++)
		if (ops[i].kind == 'S' || ops[i].kind == 'r')
			synced = i + 1;
	for (size_t i = 0; i < synced; i++)
		apply(&want, &ops[i]);
	int64_t bad = judge(base, &want, &found, ops, synced, end, why, sizeof(why));
	if (bad >= 0 && !(replacing && same(&fresh, &found))) {
		printf("%s: %s; %zu operations, %zu up to the last fsync\n", path, why, count, synced);
		for (size_t i = end > 12 ? end - 12 : 0; i < count; i++)
			printf("  %zu %c %llu +%llu\n", i, ops[i].kind, (unsigned long long)ops[i].off, (unsigned long long)ops[i].len);
		explain(base, &found, ops, end, bad);
		free(ops);
		return 1;
	}
	free(ops);
	FILE *f = fopen(base, "wb");
	if (!f || fwrite(found.bytes, 1, found.size, f) != found.size || fclose(f))
		trouble(base);
	unlink(log);
	return 0;
}

static int verify(const char *dir, const char *state, const char *id)
{
	int bad = 0;
	for (int i = 0; i < FILES; i++)
		bad |= verify_file(dir, state, id, i);
	return bad;
}

/* ---- churn ---- */

static void name_of(char *out, const char *dir, int depth)
{
	size_t n = (size_t)snprintf(out, 3000, "%s", dir);
	for (int i = 0; i < depth; i++) {
		uint64_t k = below(5);
		n += (size_t)snprintf(out + n, 3000 - n, "/n%llu", (unsigned long long)k);
		if (below(20) == 0) { /* a long name, beside the short ones */
			memset(out + n, 'x', 190);
			n += 190;
			out[n] = 0;
		}
	}
}

static void churn_check(int r, const char *dir, const char *what)
{
	if (r < 0 && errno == ENOENT && access(dir, F_OK) < 0) { /* the mount has been taken away already */
		errno = ENOTCONN;
		gone(what);
	}
	if (r < 0 && errno != ENOENT && errno != EEXIST && errno != ENOTDIR && errno != EISDIR && errno != ENOTEMPTY && errno != EINVAL &&
	    errno != ELOOP && errno != EPERM)
		gone(what);
}

static _Noreturn void churn(const char *dir)
{
	static char a[4096], b[4096], buf[20000];
	for (;;) {
		name_of(a, dir, 1 + (int)below(3));
		name_of(b, dir, 1 + (int)below(3));
		switch (below(9)) {
		case 0: case 1: churn_check(mkdir(a, 0700), dir, "mkdir"); break;
		case 2: churn_check(rmdir(a), dir, "rmdir"); break;
		case 3: case 4: churn_check(rename(a, b), dir, "rename"); break;
		case 5: churn_check(unlink(a), dir, "unlink"); break;
		case 6: churn_check(symlink("target", a), dir, "symlink"); break;
		case 7: churn_check(link(a, b), dir, "link"); break;
		default: {
			int fd = open(a, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
			churn_check(fd, dir, "create");
			if (fd < 0)
				break;
			if (write(fd, buf, below(sizeof(buf))) < 0)
				gone("write");
			if (below(4) == 0 && fsync(fd) < 0)
				gone("fsync");
			if (close(fd) < 0)
				gone("close");
		}
		}
	}
}

int main(int argc, char **argv)
{
	if (argc == 6 && !strcmp(argv[1], "run")) {
		rng_state = strtoull(argv[5], NULL, 10) * 2 + 1;
		for (int i = 0; i < 20; i++)
			rng();
		run(argv[2], argv[3], argv[4]);
	}
	if (argc == 5 && !strcmp(argv[1], "verify"))
		return verify(argv[2], argv[3], argv[4]);
	if (argc == 4 && !strcmp(argv[1], "churn")) {
		rng_state = strtoull(argv[3], NULL, 10) * 2 + 1;
		for (int i = 0; i < 20; i++)
			rng();
		churn(argv[2]);
	}
	fprintf(stderr, "usage: writer run DIR STATE ID SEED | verify DIR STATE ID | churn DIR SEED\n");
	return 2;
}
