/*
 * Eight processes against a model in memory.
 *
 *   model run DIR STATE SECONDS SEED [WRITERS READERS]
 *   model verify DIR STATE            compare all files with the model, after a remount for instance
 *
 * Every writer owns files in DIR and changes them: writes of all sizes, appends, truncates, holes, maps, renames, removal. STATE is a file
 * outside DIR that all map: each file's name, size and content. Two kinds of files:
 *   - plain ones, under a lock of their own in STATE: writers hold it alone, readers share it. Whatever a reader sees must be the model's.
 *   - racing ones, of fixed size: nobody locks. Each cell of 512 bytes has the versions begun and done; a byte read must be one of a version
 *     between those done before the read and those begun after it.
 * Exit: 0 no mismatch, 1 a mismatch or an error of the file system, 2 usage or trouble elsewhere.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../lib/random.h"

#define PLAIN 24          /* plain files of a writer */
#define RACING 2          /* racing files of a writer */
#define WRITERS_MAX 8
#define SMALL (256 * 1024)
#define LARGE (5 * 1024 * 1024)
#define CELL 512
#define CELLS 512         /* of a racing file */
#define NAME 256

struct plain {
	pthread_rwlock_t lock; /* guards all below, and the file itself */
	bool exists;
	char name[NAME];       /* below DIR */
	uint64_t size, cap, at; /* at: where its content is in the arena */
};

struct racing {
	char name[NAME];
	_Atomic uint32_t begun[CELLS], done[CELLS];
};

struct state {
	int writers, readers;
	_Atomic uint64_t stop, ops, reads, bytes;
	struct plain plain[WRITERS_MAX][PLAIN];
	struct racing racing[WRITERS_MAX][RACING];
	uint8_t arena[];
};

static struct state *state;
static const char *dir;

static _Noreturn void bad(const char *name, const char *what, uint64_t a, uint64_t b)
{
	fprintf(stderr, "MISMATCH %s: %s (%llu, %llu) errno %s\n", name, what, (unsigned long long)a, (unsigned long long)b, strerror(errno));
	atomic_store(&state->stop, 1);
	exit(1);
}

static uint64_t cap_of(int i)
{
	return i < 2 ? LARGE : SMALL;
}

static size_t state_size(int writers)
{
	size_t size = sizeof(struct state);
	for (int i = 0; i < PLAIN; i++)
		size += cap_of(i) * (size_t)writers;
	return size;
}

static int state_map(const char *path, int writers)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	struct stat st;
	if (fd < 0 || (writers && ftruncate(fd, (off_t)state_size(writers)) < 0) || fstat(fd, &st) < 0)
		return -1;
	state = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	return state == MAP_FAILED ? -1 : 0;
}

static uint8_t *content(const struct plain *p)
{
	return state->arena + p->at;
}

static void path_of(char *out, const char *name)
{
	snprintf(out, 4096, "%s/%s", dir, name);
}

static int file_open(const char *name, int flags)
{
	char path[4096];
	path_of(path, name);
	int fd = open(path, flags | O_CLOEXEC, 0600);
	if (fd < 0)
		bad(name, "open", (uint64_t)flags, 0);
	return fd;
}

/* ---- writers ---- */

static void new_name(int w, int i, char *out)
{
	static uint64_t serial;
	int n = snprintf(out, NAME, "d%llu/w%d.%d.%llu", (unsigned long long)below(4), w, i, (unsigned long long)serial++);
	if (below(8) == 0) { /* long names, around the boundary of 175 */
		size_t len = 150 + below(60);
		memset(out + n, 'y', len);
		out[(size_t)n + len] = 0;
	}
}

static void write_at(struct plain *p, int fd, uint64_t off, uint64_t len)
{
	uint8_t *m = content(p);
	if (off + len > p->cap)
		return;
	uint64_t salt = rng();
	for (uint64_t i = 0; i < len; i++)
		m[off + i] = (uint8_t)((salt + i) * 0x9E3779B97F4A7C15ull >> 56);
	if (pwrite(fd, m + off, len, (off_t)off) != (ssize_t)len)
		bad(p->name, "pwrite", off, len);
	if (off + len > p->size)
		p->size = off + len;
}

static void do_write(struct plain *p, int fd)
{
	uint64_t len = below(3) ? 1 + below(500) : 1 + below(below(4) ? 30000 : SMALL / 2);
	uint64_t off = below(3) ? below(p->size + 1) : p->size;
	if (below(6) == 0)
		off = below(p->cap); /* may leave a hole */
	if (below(5) == 0) {
		off &= ~4095ull;
		len = 4096 * (1 + below(8));
	}
	write_at(p, fd, off, len);
}

static void do_truncate(struct plain *p, int fd)
{
	uint64_t z = below(4) ? below(p->size + 1) : below(p->cap);
	if (ftruncate(fd, (off_t)z) < 0)
		bad(p->name, "ftruncate", z, p->size);
	if (z < p->size)
		memset(content(p) + z, 0, p->size - z);
	p->size = z;
}

static void do_punch(struct plain *p, int fd)
{
	uint64_t off = below(p->size + 1), len = 1 + below(50000);
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)len) < 0) {
		if (errno == EOPNOTSUPP || errno == ENOSYS)
			return;
		bad(p->name, "punch", off, len);
	}
	if (off < p->size)
		memset(content(p) + off, 0, off + len > p->size ? p->size - off : len);
}

static void do_map(struct plain *p, int fd)
{
	if (p->size == 0)
		return;
	uint64_t off = below(p->size), len = 1 + below(p->size - off < 9000 ? p->size - off : 9000);
	uint8_t *m = mmap(NULL, p->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (m == MAP_FAILED)
		bad(p->name, "mmap", off, len);
	for (uint64_t i = 0; i < len; i++)
		m[off + i] = content(p)[off + i] = (uint8_t)rng();
	if (below(2) && msync(m, p->size, MS_SYNC) < 0)
		bad(p->name, "msync", off, len);
	munmap(m, p->size);
}

static void do_rename(struct plain *p, int w, int i)
{
	char name[NAME], from[4096], to[4096];
	new_name(w, i, name);
	path_of(from, p->name);
	path_of(to, name);
	if (rename(from, to) < 0)
		bad(p->name, "rename", 0, 0);
	strcpy(p->name, name);
}

static void do_remove(struct plain *p)
{
	char path[4096];
	path_of(path, p->name);
	if (unlink(path) < 0)
		bad(p->name, "unlink", 0, 0);
	memset(content(p), 0, p->size);
	p->size = 0;
	p->exists = false;
}

/* Another file with new content takes the name of this one. */
static void do_replace(struct plain *p, int w, int i)
{
	char name[NAME], from[4096], to[4096];
	new_name(w, i, name);
	memset(content(p), 0, p->size);
	p->size = 0;
	int fd = file_open(name, O_RDWR | O_CREAT | O_EXCL);
	write_at(p, fd, 0, 1 + below(20000));
	close(fd);
	path_of(from, name);
	path_of(to, p->name);
	if (rename(from, to) < 0)
		bad(p->name, "rename over", 0, 0);
}

static void plain_step(int w, int i)
{
	struct plain *p = &state->plain[w][i];
	pthread_rwlock_wrlock(&p->lock);
	int flags = O_RDWR;
	if (!p->exists) {
		new_name(w, i, p->name);
		flags |= O_CREAT | O_EXCL;
		p->exists = true;
	}
	uint64_t what = below(100);
	if (what >= 94 && !(flags & O_CREAT)) {
		if (what < 97)
			do_rename(p, w, i);
		else if (what < 99)
			do_replace(p, w, i);
		else
			do_remove(p);
		pthread_rwlock_unlock(&p->lock);
		return;
	}
	int fd = file_open(p->name, flags);
	for (uint64_t n = 1 + below(4); n; n--) {
		what = below(100);
		if (what < 62)
			do_write(p, fd);
		else if (what < 76)
			do_truncate(p, fd);
		else if (what < 82)
			do_punch(p, fd);
		else if (what < 90)
			do_map(p, fd);
		else if (fsync(fd) < 0)
			bad(p->name, "fsync", 0, 0);
	}
	if (below(10) == 0)
		do_rename(p, w, i); /* while it is open */
	close(fd);
	pthread_rwlock_unlock(&p->lock);
}

static void cell_fill(uint8_t *out, uint32_t cell, uint32_t version)
{
	for (uint32_t i = 0; i < CELL; i++)
		out[i] = (uint8_t)((cell * CELL + i) * 2654435761u >> 24) ^ (uint8_t)(version * 37);
}

static void racing_step(int w, int i, int fd)
{
	static uint8_t buf[16 * CELL];
	struct racing *r = &state->racing[w][i];
	uint32_t n = 1 + (uint32_t)below(16), first = (uint32_t)below(CELLS - n + 1);
	for (uint32_t c = 0; c < n; c++)
		cell_fill(buf + c * CELL, first + c, atomic_fetch_add(&r->begun[first + c], 1) + 1);
	if (pwrite(fd, buf, n * CELL, (off_t)first * CELL) != (ssize_t)(n * CELL))
		bad(r->name, "pwrite", first, n);
	for (uint32_t c = 0; c < n; c++)
		atomic_fetch_add(&r->done[first + c], 1);
	if (below(50) == 0 && fsync(fd) < 0)
		bad(r->name, "fsync", 0, 0);
}

static void writer(int w)
{
	int fds[RACING];
	for (int i = 0; i < RACING; i++)
		fds[i] = file_open(state->racing[w][i].name, O_RDWR);
	while (!atomic_load(&state->stop)) {
		if (below(5) == 0)
			for (int n = 0; n < 20; n++)
				racing_step(w, (int)(n % RACING), fds[n % RACING]);
		else
			plain_step(w, (int)below(PLAIN));
		atomic_fetch_add(&state->ops, 1);
	}
	for (int i = 0; i < RACING; i++)
		if (close(fds[i]) < 0)
			bad(state->racing[w][i].name, "close", 0, 0);
}

/* ---- readers ---- */

static void plain_compare(struct plain *p, int fd, uint64_t off, uint64_t len, uint8_t *buf)
{
	ssize_t n = pread(fd, buf, len, (off_t)off);
	uint64_t want = off >= p->size ? 0 : p->size - off < len ? p->size - off : len;
	if (n < 0 || (uint64_t)n != want)
		bad(p->name, "pread gave another length", (uint64_t)n, want);
	for (uint64_t i = 0; i < want; i++)
		if (buf[i] != content(p)[off + i])
			bad(p->name, buf[i] ? "wrong byte at offset of size" : "zero byte at offset of size", off + i, p->size);
	atomic_fetch_add(&state->bytes, want);
}

static void plain_read(struct plain *p, uint8_t *buf, bool whole)
{
	struct stat st;
	pthread_rwlock_rdlock(&p->lock);
	if (p->exists) {
		int fd = file_open(p->name, O_RDONLY);
		if (fstat(fd, &st) < 0 || (uint64_t)st.st_size != p->size)
			bad(p->name, "fstat size", (uint64_t)st.st_size, p->size);
		if (whole || p->size < 20000 || below(20) == 0)
			plain_compare(p, fd, 0, p->cap, buf);
		else
			for (int i = 0; i < 4; i++)
				plain_compare(p, fd, below(p->size + 1), 1 + below(40000), buf);
		if (below(10) == 0 && p->size) {
			uint8_t *m = mmap(NULL, p->size, PROT_READ, MAP_SHARED, fd, 0);
			if (m == MAP_FAILED || memcmp(m, content(p), p->size))
				bad(p->name, "mapped content", p->size, 0);
			munmap(m, p->size);
		}
		close(fd);
	}
	pthread_rwlock_unlock(&p->lock);
	atomic_fetch_add(&state->reads, 1);
}

static void racing_read(struct racing *r, uint8_t *buf)
{
	static uint32_t low[CELLS];
	uint8_t want[CELL];
	uint32_t n = 1 + (uint32_t)below(64), first = (uint32_t)below(CELLS - n + 1);
	int fd = file_open(r->name, O_RDONLY);
	for (uint32_t c = 0; c < n; c++)
		low[c] = atomic_load(&r->done[first + c]);
	if (pread(fd, buf, n * CELL, (off_t)first * CELL) != (ssize_t)(n * CELL))
		bad(r->name, "pread", first, n);
	close(fd);
	for (uint32_t c = 0; c < n; c++) {
		uint32_t high = atomic_load(&r->begun[first + c]);
		bool good[CELL] = {false};
		for (uint32_t v = low[c]; v <= high; v++) {
			cell_fill(want, first + c, v);
			for (uint32_t i = 0; i < CELL; i++)
				good[i] |= buf[c * CELL + i] == want[i];
		}
		for (uint32_t i = 0; i < CELL; i++)
			if (!good[i])
				bad(r->name, "a byte of no version that could be there", (uint64_t)(first + c) * CELL + i, high);
	}
	atomic_fetch_add(&state->reads, 1);
	atomic_fetch_add(&state->bytes, n * CELL);
}

static void reader(void)
{
	uint8_t *buf = malloc(LARGE);
	if (!buf)
		exit(2);
	while (!atomic_load(&state->stop)) {
		int w = (int)below((uint64_t)state->writers);
		if (below(4) == 0)
			racing_read(&state->racing[w][below(RACING)], buf);
		else
			plain_read(&state->plain[w][below(PLAIN)], buf, false);
	}
	free(buf);
}

/* ---- run, verify ---- */

static void prepare(int writers, int readers)
{
	char path[4096];
	uint8_t cell[CELL];
	pthread_rwlockattr_t attr;
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	uint64_t at = 0;
	state->writers = writers;
	state->readers = readers;
	for (int i = 0; i < 4; i++) {
		snprintf(path, sizeof(path), "%s/d%d", dir, i);
		if (mkdir(path, 0700) < 0)
			bad(path, "mkdir", 0, 0);
	}
	for (int w = 0; w < writers; w++) {
		for (int i = 0; i < PLAIN; i++) {
			struct plain *p = &state->plain[w][i];
			pthread_rwlock_init(&p->lock, &attr);
			p->cap = cap_of(i);
			p->at = at;
			at += p->cap;
		}
		for (int i = 0; i < RACING; i++) {
			struct racing *r = &state->racing[w][i];
			snprintf(r->name, NAME, "racing%d.%d", w, i);
			int fd = file_open(r->name, O_RDWR | O_CREAT | O_EXCL);
			for (uint32_t c = 0; c < CELLS; c++) {
				cell_fill(cell, c, 0);
				if (pwrite(fd, cell, CELL, (off_t)c * CELL) != CELL)
					bad(r->name, "pwrite", c, 0);
			}
			close(fd);
		}
	}
}

static int verify(void)
{
	uint8_t *buf = malloc(LARGE), want[CELL];
	uint64_t files = 0;
	if (!buf)
		return 2;
	for (int w = 0; w < state->writers; w++) {
		for (int i = 0; i < PLAIN; i++) {
			files += state->plain[w][i].exists;
			plain_read(&state->plain[w][i], buf, true);
		}
		for (int i = 0; i < RACING; i++) {
			struct racing *r = &state->racing[w][i];
			int fd = file_open(r->name, O_RDONLY);
			if (pread(fd, buf, LARGE, 0) != CELLS * CELL)
				bad(r->name, "length", 0, 0);
			for (uint32_t c = 0; c < CELLS; c++) {
				cell_fill(want, c, atomic_load(&r->begun[c]));
				if (memcmp(want, buf + c * CELL, CELL))
					bad(r->name, "cell", c, atomic_load(&r->begun[c]));
			}
			close(fd);
			files++;
		}
	}
	printf("%llu files compare equal\n", (unsigned long long)files);
	free(buf);
	return 0;
}

static pid_t child(int number, uint64_t seed)
{
	pid_t parent = getpid(), pid = fork();
	if (pid != 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(2);
	rng_state = (seed * 64 + (uint64_t)number) * 2 + 1;
	for (int i = 0; i < 20; i++)
		rng();
	if (number < state->writers)
		writer(number);
	else
		reader();
	_exit(0);
}

static int run(double seconds, uint64_t seed)
{
	int n = state->writers + state->readers, status, worst = 0;
	for (int i = 0; i < n; i++)
		if (child(i, seed) < 0)
			return 2;
	struct timespec pause = {0, 20000000};
	for (double t = 0; t < seconds && !atomic_load(&state->stop); t += 0.02)
		nanosleep(&pause, NULL);
	bool early = atomic_exchange(&state->stop, 1);
	for (int i = 0; i < n; i++) {
		/* A process that died holding a lock would stop the others for ever: after a mismatch all are ended by the parent's death. */
		if (early && i > 0) {
			nanosleep(&pause, NULL);
			break;
		}
		if (wait(&status) < 0 || !WIFEXITED(status) || WEXITSTATUS(status))
			worst = 1;
	}
	if (early)
		return 1;
	printf("%d writers, %d readers, %.0f s, seed %llu: %llu changes, %llu reads, %llu MB compared\n", state->writers, state->readers, seconds,
	       (unsigned long long)seed, (unsigned long long)state->ops, (unsigned long long)state->reads,
	       (unsigned long long)state->bytes / 1000000);
	return worst;
}

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "verify")) {
		dir = argv[2];
		if (state_map(argv[3], 0) < 0)
			return 2;
		return verify();
	}
	if ((argc != 6 && argc != 8) || strcmp(argv[1], "run")) {
		fprintf(stderr, "usage: model run DIR STATE SECONDS SEED [WRITERS READERS] | verify DIR STATE\n");
		return 2;
	}
	int writers = argc == 8 ? atoi(argv[6]) : 4, readers = argc == 8 ? atoi(argv[7]) : 4;
	if (writers < 1 || writers > WRITERS_MAX || readers < 0)
		return 2;
	dir = argv[2];
	if (state_map(argv[3], writers) < 0) {
		perror(argv[3]);
		return 2;
	}
	prepare(writers, readers);
	int r = run(strtod(argv[4], NULL), strtoull(argv[5], NULL, 10));
	return r ? r : verify();
}
