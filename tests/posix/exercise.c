/*
 * One process, two files, a model of each in memory: operations of all kinds in random order, each checked against the model.
 *
 *   exercise --file PATH [--ops N] [--seed S] [--size BYTES] [--base BYTES] [--model FILE] [--no-direct] [--no-map]
 *
 * PATH and PATH.2 are worked on. --size: longest content; --base: everything happens beyond this offset, what is before it is a hole.
 * --model FILE: the models are kept there; when it exists, the files must match it before the first operation (--ops 0: only that).
 * A mismatch prints the seed, the number of the operation and the last operations. Exit: 0 clean, 1 mismatch or error, 2 usage or trouble elsewhere.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#include <linux/falloc.h>

#include "../lib/random.h"

#define PAGE 4096u
#define CHUNK (1u << 20)   /* longest single operation */
#define RING 60            /* operations remembered */
#define LINE 160
#define HEAD_BLOCKS 21u    /* fs/FORMAT.md: blocks of the header page, of a tag page, of a run */
#define GROUP_BLOCKS 56u
#define RUN_BLOCKS 896u

struct file {
	char path[4096];
	int fd, direct, append; /* direct: -1 where the file system has no O_DIRECT */
	uint8_t *model;         /* `limit` bytes; zero beyond size */
	uint64_t size;          /* beyond `base` */
	uint8_t *map;           /* of `limit` bytes, or NULL; lives over operations */
};

static struct file files[2];
static uint64_t limit = 5u << 20, base, number, seed = 1;
static uint8_t *scratch; /* CHUNK bytes, page aligned */
static char ring[RING][LINE];
static bool no_direct, no_map;

__attribute__((format(printf, 1, 2))) static void note(const char *format, ...)
{
	char *line = ring[number % RING];
	int n = snprintf(line, LINE, "%" PRIu64 " ", number);
	va_list args;

	va_start(args, format);
	vsnprintf(line + n, (size_t)(LINE - n), format, args);
	va_end(args);
}

__attribute__((format(printf, 1, 2), noreturn)) static void fail(const char *format, ...)
{
	int err = errno;
	va_list args;

	printf("the last operations (file, offset beyond base, length):\n");
	for (uint64_t i = number >= RING ? number - RING + 1 : 0; i <= number; i++)
		if (ring[i % RING][0])
			printf("  %s\n", ring[i % RING]);
	printf("MISMATCH seed %" PRIu64 ", operation %" PRIu64 ", size %" PRIu64 ", base %" PRIu64 ": ", seed, number, limit, base);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf(" (errno now: %s)\n", strerror(err));
	exit(1);
}

__attribute__((format(printf, 1, 2), noreturn)) static void trouble(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, ": %s\n", strerror(errno));
	exit(2);
}

static int which(const struct file *f)
{
	return (int)(f - files);
}

static void same(const struct file *f, const uint8_t *got, uint64_t off, size_t len, const char *how)
{
	size_t first, last, bad = 0;

	if (memcmp(got, f->model + off, len) == 0)
		return;
	for (first = 0; got[first] == f->model[off + first]; first++)
		;
	for (last = len - 1; got[last] == f->model[off + last]; last--)
		;
	for (size_t i = first; i <= last; i++)
		bad += got[i] != f->model[off + i];
	fail("file %d, %s of %zu at %" PRIu64 ": %zu bytes differ between %" PRIu64 " and %" PRIu64 " (blocks %" PRIu64 " to %" PRIu64
	     "); first is %02x, must be %02x; size %" PRIu64, which(f), how, len, off, bad, off + first, off + last, (base + off + first) / PAGE,
	     (base + off + last) / PAGE, got[first], f->model[off + first], f->size);
}

static void check_size(const struct file *f)
{
	struct stat st;

	if (fstat(f->fd, &st) != 0)
		fail("fstat");
	if ((uint64_t)st.st_size != base + f->size)
		fail("file %d: size is %" PRIu64 " beyond base, must be %" PRIu64, which(f), (uint64_t)st.st_size - base, f->size);
}

/* ---- where and how much ---- */

static uint64_t edge(void)
{
	uint64_t block = 0, blocks = limit / PAGE;

	switch (below(4)) {
	case 0:
		block = HEAD_BLOCKS;
		break;
	case 1:
		block = HEAD_BLOCKS + GROUP_BLOCKS * below(blocks / GROUP_BLOCKS + 1);
		break;
	case 2:
		block = HEAD_BLOCKS + RUN_BLOCKS * below(blocks / RUN_BLOCKS + 1);
		break;
	default:
		block = below(blocks);
	}
	if (block * PAGE < base % PAGE)
		return 0;
	return block * PAGE - base % PAGE;
}

/* An offset below `end` (0 when that is 0), often beside a border. */
static uint64_t place(uint64_t end)
{
	uint64_t at;

	if (below(3) == 0)
		at = edge() + below(5) - 2 + (below(2) ? below(200) : 0);
	else
		at = below(end);
	return at < end ? at : below(end);
}

static uint64_t length(uint64_t most)
{
	static const uint64_t around[] = { 16, 600, PAGE, PAGE + 1, 3 * PAGE, 30000, 130000, CHUNK };
	uint64_t len = 1 + below(around[below(below(4) ? 6 : 8)]);

	if (below(6) == 0)
		len = PAGE * (1 + below(20));
	return len < most ? len : most;
}

static void fresh(uint8_t *at, size_t len)
{
	uint64_t how = below(12), x;

	if (how < 2) {
		memset(at, how == 0 ? 0 : (int)below(256), len);
		return;
	}
	for (size_t i = 0; i < len; i += sizeof(x)) {
		x = (rng() >> 11) << 20 ^ rng() >> 11;
		memcpy(at + i, &x, len - i < sizeof(x) ? len - i : sizeof(x));
	}
}

/* ---- the model ---- */

static void model_size(struct file *f, uint64_t size)
{
	if (size < f->size)
		memset(f->model + size, 0, f->size - size);
	f->size = size;
}

static void model_write(struct file *f, const uint8_t *data, uint64_t off, size_t len)
{
	memcpy(f->model + off, data, len);
	if (off + len > f->size)
		f->size = off + len;
}

/* ---- opening ---- */

static void unmap(struct file *f)
{
	if (f->map && munmap(f->map, limit) != 0)
		fail("munmap");
	f->map = NULL;
}

static void open_all(struct file *f)
{
	f->fd = open(f->path, O_RDWR | O_CREAT, 0644);
	if (f->fd < 0)
		fail("open %s", f->path);
	f->append = open(f->path, O_WRONLY | O_APPEND);
	if (f->append < 0)
		fail("open %s to append", f->path);
	f->direct = no_direct || base % PAGE ? -1 : open(f->path, O_RDWR | O_DIRECT);
	if (f->direct < 0 && !no_direct && base % PAGE == 0 && errno != EINVAL)
		fail("open %s for direct I/O", f->path);
}

static void close_all(struct file *f)
{
	unmap(f);
	if (close(f->fd) != 0 || close(f->append) != 0 || (f->direct >= 0 && close(f->direct) != 0))
		fail("close");
}

/* ---- operations; each takes a file ---- */

static void op_read(struct file *f)
{
	uint64_t off = place(f->size + 1), len = length(CHUNK), want = off < f->size ? f->size - off : 0;
	ssize_t n;

	want = want < len ? want : len;
	note("%d read %" PRIu64 " %" PRIu64, which(f), off, len);
	n = pread(f->fd, scratch, len, (off_t)(base + off));
	if (n < 0 || (uint64_t)n != want)
		fail("read gave %zd, must be %" PRIu64, n, want);
	same(f, scratch, off, want, "read");
}

static void op_read_before(struct file *f)
{
	uint64_t len = length(base < CHUNK ? base : CHUNK), off = below(base - len + 1);
	ssize_t n;

	note("%d read before base: at %" PRIu64 " from 0, %" PRIu64, which(f), off, len);
	n = pread(f->fd, scratch, len, (off_t)off);
	if (n < 0 || (uint64_t)n != len)
		fail("read gave %zd", n);
	for (uint64_t i = 0; i < len; i++)
		if (scratch[i])
			fail("the hole before base has %02x at %" PRIu64, scratch[i], off + i);
}

static void op_write(struct file *f)
{
	uint64_t off = place(below(4) ? f->size + 1 : limit), len = length(limit - off);
	ssize_t n;

	note("%d write %" PRIu64 " %" PRIu64, which(f), off, len);
	fresh(scratch, len);
	n = pwrite(f->fd, scratch, len, (off_t)(base + off));
	if (n < 0 || (uint64_t)n != len)
		fail("write gave %zd", n);
	model_write(f, scratch, off, len);
}

static void op_append(struct file *f)
{
	uint64_t len = length(limit - f->size);
	ssize_t n;

	note("%d append %" PRIu64 " %" PRIu64, which(f), f->size, len);
	if (len == 0)
		return;
	fresh(scratch, len);
	n = write(f->append, scratch, len);
	if (n < 0 || (uint64_t)n != len)
		fail("append gave %zd", n);
	model_write(f, scratch, f->size, len);
}

static size_t pieces(struct iovec v[7], uint64_t len)
{
	size_t n = 0;

	for (uint64_t at = 0; at < len; n++) {
		uint64_t part = n == 6 ? len - at : 1 + below(len - at);

		v[n] = (struct iovec){ scratch + at, part };
		at += part;
	}
	return n;
}

static void op_writev(struct file *f)
{
	uint64_t off = place(f->size + 1), len = length(limit - off);
	struct iovec v[7];
	ssize_t n;

	note("%d writev %" PRIu64 " %" PRIu64, which(f), off, len);
	if (len == 0)
		return;
	fresh(scratch, len);
	n = pwritev(f->fd, v, (int)pieces(v, len), (off_t)(base + off));
	if (n < 0 || (uint64_t)n != len)
		fail("writev gave %zd", n);
	model_write(f, scratch, off, len);
}

static void op_readv(struct file *f)
{
	uint64_t off = place(f->size), len = length(f->size - off);
	struct iovec v[7];
	ssize_t n;

	note("%d readv %" PRIu64 " %" PRIu64, which(f), off, len);
	if (len == 0)
		return;
	n = preadv(f->fd, v, (int)pieces(v, len), (off_t)(base + off));
	if (n < 0 || (uint64_t)n != len)
		fail("readv gave %zd", n);
	same(f, scratch, off, len, "readv");
}

static void op_truncate(struct file *f)
{
	uint64_t size = below(3) ? place(f->size + 1) : place(limit);
	bool by_path = below(4) == 0;

	note("%d truncate%s %" PRIu64, which(f), by_path ? " by path" : "", size);
	if ((by_path ? truncate(f->path, (off_t)(base + size)) : ftruncate(f->fd, (off_t)(base + size))) != 0)
		fail("truncate");
	model_size(f, size);
}

static void op_truncate_all(struct file *f)
{
	bool by_open = below(2);
	int fd;

	note("%d truncate to zero%s", which(f), by_open ? " by O_TRUNC" : "");
	if (by_open) {
		fd = open(f->path, O_WRONLY | O_TRUNC);
		if (fd < 0 || close(fd) != 0)
			fail("open with O_TRUNC");
	} else if (ftruncate(f->fd, 0) != 0) {
		fail("truncate");
	}
	if (base && ftruncate(f->fd, (off_t)base) != 0)
		fail("truncate to base");
	model_size(f, 0);
}

static void allocate(struct file *f, int mode, const char *name)
{
	uint64_t off = place(below(3) ? f->size + 1 : limit), len = length(limit - off), end = off + len;

	if (below(8) == 0)
		len = limit - off < CHUNK * 2 ? limit - off : CHUNK * 2, end = off + len;
	note("%d %s %" PRIu64 " %" PRIu64, which(f), name, off, len);
	if (len == 0)
		return;
	if (fallocate(f->fd, mode, (off_t)(base + off), (off_t)len) != 0)
		fail("fallocate %d", mode);
	if ((mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) && off < f->size)
		memset(f->model + off, 0, (end < f->size ? end : f->size) - off);
	if (!(mode & FALLOC_FL_KEEP_SIZE) && end > f->size)
		f->size = end;
}

static void op_punch(struct file *f)
{
	allocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, "punch");
}

static void op_zero(struct file *f)
{
	if (below(2))
		allocate(f, FALLOC_FL_ZERO_RANGE, "zero range");
	else
		allocate(f, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, "zero range, keep size");
}

static void op_allocate(struct file *f)
{
	if (below(2))
		allocate(f, 0, "fallocate");
	else
		allocate(f, FALLOC_FL_KEEP_SIZE, "fallocate, keep size");
}

static void op_copy(struct file *f)
{
	struct file *to = below(2) ? f : &files[1 - which(f)];
	uint64_t from = place(f->size), len = length(f->size - from), at = place(to->size + 1), done = 0;

	if (len > limit - at)
		len = limit - at;
	if (to == f && at < from + len && from < at + len)
		len = at < from ? from - at : at - from; /* must not overlap */
	note("%d copy range to %d: %" PRIu64 " to %" PRIu64 ", %" PRIu64, which(f), which(to), from, at, len);
	while (done < len) {
		off64_t in = (off64_t)(base + from + done), out = (off64_t)(base + at + done);
		ssize_t n = copy_file_range(f->fd, &in, to->fd, &out, len - done, 0);

		if (n <= 0)
			fail("copy_file_range gave %zd after %" PRIu64, n, done);
		done += (uint64_t)n;
	}
	if (len > 0)
		model_write(to, f->model + from, at, len);
	check_size(to);
}

static uint8_t *mapping(struct file *f, bool lasting, uint64_t off, uint64_t len, int prot)
{
	uint8_t *map;

	if (lasting) {
		if (!f->map) {
			map = mmap(NULL, limit, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, (off_t)(base & ~(uint64_t)(PAGE - 1)));
			if (map == MAP_FAILED)
				fail("mmap");
			f->map = map;
		}
		return f->map + base % PAGE + off;
	}
	map = mmap(NULL, (base + off) % PAGE + len, prot, MAP_SHARED, f->fd, (off_t)((base + off) & ~(uint64_t)(PAGE - 1)));
	if (map == MAP_FAILED)
		fail("mmap");
	return map + (base + off) % PAGE;
}

static void mapping_done(uint8_t *map, bool lasting, uint64_t len)
{
	uint64_t skew = (uintptr_t)map % PAGE;

	if (!lasting && munmap(map - skew, skew + len) != 0)
		fail("munmap");
}

static void op_map_read(struct file *f)
{
	uint64_t off = place(f->size), len = length(f->size - off), tail;
	bool lasting = below(2);
	uint8_t *map;

	note("%d map read%s %" PRIu64 " %" PRIu64, which(f), lasting ? ", lasting" : "", off, len);
	if (len == 0 || off + len + base % PAGE > limit)
		return;
	map = mapping(f, lasting, off, len, PROT_READ);
	same(f, map, off, len, "map");
	tail = off + len == f->size && (base + f->size) % PAGE ? PAGE - (base + f->size) % PAGE : 0;
	for (uint64_t i = 0; i < tail; i++)
		if (map[len + i])
			fail("file %d: byte %" PRIu64 " behind the end is %02x in the map", which(f), i, map[len + i]);
	mapping_done(map, lasting, len);
}

static void op_map_write(struct file *f)
{
	uint64_t off = place(f->size), len = length(f->size - off), how = below(3);
	bool lasting = below(2);
	uint8_t *map;

	note("%d map write%s%s %" PRIu64 " %" PRIu64, which(f), lasting ? ", lasting" : "", how == 0 ? ", msync" : "", off, len);
	if (len == 0 || off + len + base % PAGE > limit)
		return;
	map = mapping(f, lasting, off, len, PROT_READ | PROT_WRITE);
	fresh(scratch, len);
	memcpy(map, scratch, len);
	memcpy(f->model + off, scratch, len);
	if (how < 2 && msync(map - (uintptr_t)map % PAGE, (uintptr_t)map % PAGE + len, how == 0 ? MS_SYNC : MS_ASYNC) != 0)
		fail("msync");
	mapping_done(map, lasting, len);
}

static void op_direct_read(struct file *f)
{
	uint64_t off = place(f->size + 1) & ~(uint64_t)(PAGE - 1), len = PAGE * (1 + below(below(4) ? 8 : CHUNK / PAGE)), want = f->size - off;
	ssize_t n;

	note("%d direct read %" PRIu64 " %" PRIu64, which(f), off, len);
	if (f->direct < 0)
		return;
	want = want < len ? want : len;
	n = pread(f->direct, scratch, len, (off_t)(base + off));
	if (n < 0 || (uint64_t)n != want)
		fail("direct read gave %zd, must be %" PRIu64, n, want);
	same(f, scratch, off, want, "direct read");
}

static void op_direct_write(struct file *f)
{
	uint64_t off = place(below(4) ? f->size + 1 : limit) & ~(uint64_t)(PAGE - 1), len = PAGE * (1 + below(below(4) ? 8 : CHUNK / PAGE));
	ssize_t n;

	if (len > limit - off)
		len = (limit - off) & ~(uint64_t)(PAGE - 1);
	note("%d direct write %" PRIu64 " %" PRIu64, which(f), off, len);
	if (f->direct < 0 || len == 0)
		return;
	fresh(scratch, len);
	n = pwrite(f->direct, scratch, len, (off_t)(base + off));
	if (n < 0 || (uint64_t)n != len)
		fail("direct write gave %zd", n);
	model_write(f, scratch, off, len);
}

/* What is reported as a hole must be zeros; data and holes must alternate up to the end. */
static void op_seek(struct file *f)
{
	uint64_t end = base + f->size, at = base + place(f->size);
	off_t data, hole;

	note("%d seek data and holes from %" PRIu64, which(f), at - base);
	while (at < end) {
		data = lseek(f->fd, (off_t)at, SEEK_DATA);
		if (data < 0 && errno != ENXIO)
			fail("SEEK_DATA at %" PRIu64, at - base);
		if (data < 0)
			data = (off_t)end;
		if ((uint64_t)data < at || (uint64_t)data > end)
			fail("SEEK_DATA at %" PRIu64 " gave %" PRIu64, at - base, (uint64_t)data - base);
		for (uint64_t i = at; i < (uint64_t)data; i++)
			if (f->model[i - base])
				fail("file %d: SEEK_DATA at %" PRIu64 " gave %" PRIu64 ", but there is data at %" PRIu64, which(f), at - base, (uint64_t)data - base, i - base);
		if ((uint64_t)data == end)
			break;
		hole = lseek(f->fd, data, SEEK_HOLE);
		if (hole <= data || (uint64_t)hole > end)
			fail("SEEK_HOLE at %" PRIu64 " gave %" PRIu64 " (%lld)", (uint64_t)data - base, (uint64_t)hole - base, (long long)hole);
		at = (uint64_t)hole;
	}
	if (lseek(f->fd, (off_t)end, SEEK_DATA) != -1 || errno != ENXIO || lseek(f->fd, (off_t)end, SEEK_HOLE) != -1 || errno != ENXIO)
		fail("SEEK_DATA or SEEK_HOLE at the end is not ENXIO");
}

static void op_sync(struct file *f)
{
	bool data = below(2);

	note("%d %s", which(f), data ? "fdatasync" : "fsync");
	if ((data ? fdatasync(f->fd) : fsync(f->fd)) != 0)
		fail("sync");
}

static void op_reopen(struct file *f)
{
	note("%d close and open", which(f));
	close_all(f);
	open_all(f);
}

static void op_forget(struct file *f)
{
	note("%d sync and forget its cache", which(f));
	unmap(f);
	if (fdatasync(f->fd) != 0)
		fail("sync");
	errno = posix_fadvise(f->fd, 0, 0, POSIX_FADV_DONTNEED);
	if (errno)
		fail("posix_fadvise");
}

/* Now and then long enough for a file that nobody writes to be sealed while it is open. */
static void op_idle(struct file *f)
{
	bool idle = below(15) == 0;

	note("%d %s", which(f), idle ? "idle for 4 s" : "no idling");
	if (idle)
		sleep(4);
}

static void compare(struct file *f, const char *how)
{
	check_size(f);
	for (uint64_t at = 0; at < f->size; at += CHUNK) {
		uint64_t len = f->size - at < CHUNK ? f->size - at : CHUNK;
		ssize_t n = pread(f->fd, scratch, len, (off_t)(base + at));

		if (n < 0 || (uint64_t)n != len)
			fail("%s: read at %" PRIu64 " gave %zd, must be %" PRIu64, how, at, n, len);
		same(f, scratch, at, len, how);
	}
}

static void op_compare(struct file *f)
{
	note("%d compare", which(f));
	if (below(2)) {
		op_forget(f);
		note("%d forget its cache, compare", which(f));
	}
	compare(f, "comparison");
}

static const struct {
	unsigned weight;
	void (*run)(struct file *f);
} table[] = {
	{ 200, op_read }, { 160, op_write }, { 40, op_append }, { 40, op_writev }, { 30, op_readv }, { 60, op_truncate }, { 4, op_truncate_all },
	{ 60, op_punch }, { 50, op_zero }, { 40, op_allocate }, { 50, op_copy }, { 60, op_map_read }, { 60, op_map_write }, { 40, op_direct_read },
	{ 40, op_direct_write }, { 20, op_seek }, { 12, op_sync }, { 20, op_reopen }, { 12, op_forget }, { 2, op_compare }, { 10, op_read_before },
	{ 1, op_idle },
};

static void step(void)
{
	struct file *f = &files[below(4) == 0];
	uint64_t total = 0, pick;
	size_t i;

	for (i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		total += table[i].weight;
	pick = below(total);
	for (i = 0; pick >= table[i].weight; i++)
		pick -= table[i].weight;
	if ((table[i].run == op_read_before && base == 0) || (no_map && (table[i].run == op_map_read || table[i].run == op_map_write)))
		i = 0;
	table[i].run(f);
	check_size(f);
}

/* ---- the model on disk: size, content of each file ---- */

static bool model_load(const char *path)
{
	FILE *in = fopen(path, "rb");

	if (!in)
		return false;
	for (int i = 0; i < 2; i++)
		if (fread(&files[i].size, sizeof(uint64_t), 1, in) != 1 || files[i].size > limit ||
		    fread(files[i].model, 1, files[i].size, in) != files[i].size)
			trouble("%s", path);
	fclose(in);
	return true;
}

static void model_save(const char *path)
{
	FILE *out = fopen(path, "wb");

	if (!out)
		trouble("%s", path);
	for (int i = 0; i < 2; i++)
		if (fwrite(&files[i].size, sizeof(uint64_t), 1, out) != 1 || fwrite(files[i].model, 1, files[i].size, out) != files[i].size)
			trouble("%s", path);
	if (fclose(out) != 0)
		trouble("%s", path);
}

static void start(const char *path, const char *model)
{
	bool known;

	scratch = mmap(NULL, CHUNK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (int i = 0; i < 2; i++) {
		files[i].model = mmap(NULL, limit, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (files[i].model == MAP_FAILED || scratch == MAP_FAILED)
			trouble("memory");
	}
	known = model && model_load(model);
	for (int i = 0; i < 2; i++) {
		struct file *f = &files[i];

		snprintf(f->path, sizeof(f->path), "%s%s", path, i ? ".2" : "");
		if (!known)
			unlink(f->path);
		open_all(f);
		if (!known && ftruncate(f->fd, (off_t)base) != 0)
			fail("truncate to base");
		compare(f, "at the start");
	}
}

int main(int argc, char **argv)
{
	static const struct option options[] = { { "file", 1, NULL, 'f' }, { "ops", 1, NULL, 'n' }, { "seed", 1, NULL, 's' }, { "size", 1, NULL, 'l' },
						 { "base", 1, NULL, 'b' }, { "model", 1, NULL, 'm' }, { "no-direct", 0, NULL, 'd' },
						 { "no-map", 0, NULL, 'p' }, { 0 } };
	const char *path = NULL, *model = NULL;
	uint64_t ops = 10000;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 'f': path = optarg; break;
		case 'n': ops = strtoull(optarg, NULL, 0); break;
		case 's': seed = strtoull(optarg, NULL, 0); break;
		case 'l': limit = strtoull(optarg, NULL, 0); break;
		case 'b': base = strtoull(optarg, NULL, 0); break;
		case 'm': model = optarg; break;
		case 'd': no_direct = true; break;
		case 'p': no_map = true; break;
		default: return 2;
		}
	}
	if (!path || limit < 4 * PAGE) {
		fprintf(stderr, "usage: exercise --file PATH [--ops N] [--seed S] [--size BYTES] [--base BYTES] [--model FILE] [--no-direct] [--no-map]\n");
		return 2;
	}
	rng_state = seed * 0x9e3779b97f4a7c15ULL + 0x1234567;
	setvbuf(stdout, NULL, _IOLBF, 0);
	start(path, model);
	for (number = 0; number < ops; number++)
		step();
	for (int i = 0; i < 2; i++) {
		compare(&files[i], "at the end");
		close_all(&files[i]);
	}
	if (model)
		model_save(model);
	printf("%" PRIu64 " operations, seed %" PRIu64 ", size %" PRIu64 ", base %" PRIu64 ": clean%s\n", ops, seed, limit, base,
	       files[0].direct < 0 ? " (no direct I/O)" : "");
	return 0;
}
