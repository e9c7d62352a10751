/*
 * Tight loops for the benchmark and for tests that count operations per second. Prints the seconds of the loop alone.
 *
 *   loops seqwrite FILE BYTES          1 MiB writes to a new file, then close
 *   loops seqread FILE...              1 MiB reads; several files: one process each
 *   loops randread FILE COUNT          reads of 4 KiB at random blocks
 *   loops randwrite FILE COUNT         writes of 4 KiB at random blocks, then one fsync
 *   loops append FILE COUNT            appends of 80 bytes, then close
 *   loops create DIR COUNT SIZE [FROM] new files with SIZE bytes, names from number FROM on
 *   loops readall DIR COUNT [FROM]     read them
 *   loops lookup DIR COUNT RANGE SEED  stat COUNT different names, all over those numbered below RANGE
 *   loops open DIR COUNT               open COUNT files at once, read a byte of each, close all
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MIB (1 << 20)

static uint8_t buf[MIB];
static uint64_t rng_state = 88172645463325252ull;

static uint64_t rng(void)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	rng_state ^= rng_state << 17;
	return rng_state;
}

static _Noreturn void fail(const char *what)
{
	fprintf(stderr, "loops: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int opened(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC, 0644);
	if (fd < 0)
		fail(path);
	return fd;
}

static void close_checked(int fd, const char *path)
{
	if (close(fd) < 0)
		fail(path);
}

static void seqwrite(const char *path, uint64_t bytes)
{
	int fd = opened(path, O_WRONLY | O_CREAT | O_TRUNC);
	for (uint64_t at = 0; at < bytes; at += MIB)
		if (write(fd, buf, MIB) != MIB)
			fail(path);
	close_checked(fd, path);
}

static void read_whole(const char *path)
{
	int fd = opened(path, O_RDONLY);
	ssize_t n;
	while ((n = read(fd, buf, MIB)) > 0)
		;
	if (n < 0)
		fail(path);
	close_checked(fd, path);
}

static void seqread(char **paths, int count)
{
	int status, bad = 0;
	if (count == 1) {
		read_whole(paths[0]);
		return;
	}
	for (int i = 0; i < count; i++)
		if (fork() == 0) {
			read_whole(paths[i]);
			_exit(0);
		}
	for (int i = 0; i < count; i++)
		bad |= wait(&status) < 0 || status;
	if (bad)
		exit(1);
}

static void random_blocks(const char *path, uint64_t count, int writing)
{
	struct stat st;
	int fd = opened(path, writing ? O_RDWR : O_RDONLY);
	if (fstat(fd, &st) < 0 || st.st_size < 4096)
		fail(path);
	uint64_t blocks = (uint64_t)st.st_size / 4096;
	for (uint64_t i = 0; i < count; i++) {
		off_t at = (off_t)(rng() % blocks * 4096);
		if ((writing ? pwrite(fd, buf, 4096, at) : pread(fd, buf, 4096, at)) != 4096)
			fail(path);
	}
	if (writing && fsync(fd) < 0)
		fail(path);
	close_checked(fd, path);
}

static void append(const char *path, uint64_t count)
{
	int fd = opened(path, O_WRONLY | O_CREAT | O_APPEND);
	for (uint64_t i = 0; i < count; i++)
		if (write(fd, buf, 80) != 80)
			fail(path);
	close_checked(fd, path);
}

static void numbered(char *out, const char *dir, uint64_t i)
{
	snprintf(out, 4096, "%s/file%07llu", dir, (unsigned long long)i);
}

static void create(const char *dir, uint64_t count, size_t size, uint64_t from)
{
	char path[4096];
	for (uint64_t i = from; i < from + count; i++) {
		numbered(path, dir, i);
		int fd = opened(path, O_WRONLY | O_CREAT | O_EXCL);
		if (size && write(fd, buf, size) != (ssize_t)size)
			fail(path);
		close_checked(fd, path);
	}
}

static void readall(const char *dir, uint64_t count, uint64_t from)
{
	char path[4096];
	for (uint64_t i = from; i < from + count; i++) {
		numbered(path, dir, i);
		read_whole(path);
	}
}

static void lookup(const char *dir, uint64_t count, uint64_t range, uint64_t seed)
{
	char path[4096];
	struct stat st;
	for (uint64_t i = 0; i < count; i++) {
		numbered(path, dir, (seed + i * 7919) % range); /* a prime: no name twice while COUNT <= RANGE */
		if (stat(path, &st) < 0)
			fail(path);
	}
}

static void open_many(const char *dir, uint64_t count)
{
	struct rlimit limit;
	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	char path[4096];
	int *fds = calloc(count, sizeof(int));
	for (uint64_t i = 0; i < count; i++) {
		numbered(path, dir, i);
		fds[i] = opened(path, O_RDWR);
	}
	for (uint64_t i = 0; i < count; i++)
		if (pread(fds[i], buf, 1, 0) != 1 || (i % 10 == 0 && pwrite(fds[i], "x", 1, 0) != 1))
			fail("an open file");
	for (uint64_t i = 0; i < count; i++)
		close_checked(fds[i], "an open file");
	free(fds);
}

static uint64_t number(const char *text)
{
	return strtoull(text, NULL, 10);
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)rng();
	double start = now();
	if (!strcmp(what, "seqwrite") && argc == 4)
		seqwrite(argv[2], number(argv[3]));
	else if (!strcmp(what, "seqread") && argc >= 3)
		seqread(argv + 2, argc - 2);
	else if (!strcmp(what, "randread") && argc == 4)
		random_blocks(argv[2], number(argv[3]), 0);
	else if (!strcmp(what, "randwrite") && argc == 4)
		random_blocks(argv[2], number(argv[3]), 1);
	else if (!strcmp(what, "append") && argc == 4)
		append(argv[2], number(argv[3]));
	else if (!strcmp(what, "create") && argc >= 5)
		create(argv[2], number(argv[3]), number(argv[4]), argc > 5 ? number(argv[5]) : 0);
	else if (!strcmp(what, "readall") && argc >= 4)
		readall(argv[2], number(argv[3]), argc > 4 ? number(argv[4]) : 0);
	else if (!strcmp(what, "lookup") && argc == 6)
		lookup(argv[2], number(argv[3]), number(argv[4]), number(argv[5]));
	else if (!strcmp(what, "open") && argc == 4)
		open_many(argv[2], number(argv[3]));
	else {
		fprintf(stderr, "usage: loops seqwrite|seqread|randread|randwrite|append|create|readall|lookup|open ...\n");
		return 2;
	}
	printf("%.6f\n", now() - start);
	return 0;
}
