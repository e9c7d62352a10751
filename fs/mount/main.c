/*
 * keepfs: mounts a vault, or runs the service.
 */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/secret.h"
#include "base/tty.h"
#include "daemon.h"
#include "options.h"
#include "service.h"

#define WAIT_NS (30 * 1000000000ull) /* for a service on its way in or out */
#define RETRY_US 100000

struct start {
	struct options options;
	char keystore[PATH_MAX];
};

static void nothing(void *ctx, json_t *line)
{
}

/* The service that owns the keystore takes the mount. */
static int hand_over(const struct start *start, struct base_error *err)
{
	json_t *params = json_pack("{s:s, s:s, s:s}", "vault", start->options.vault, "mountpoint", start->options.mountpoint, "options",
				   start->options.text);
	int r;

	if (!params)
		return base_error_set(err, -EINVAL, BASE_EXIT_FAILED, "a path is not valid UTF-8: the running service cannot be told of it");
	r = kms_client_call(start->keystore, "POST", "/v1/mounts", params, nothing, NULL, err);
	json_decref(params);
	return r;
}

static int ask_pin(void *ctx, const char *text, bool again, char *pin, size_t cap, struct base_error *err)
{
	return base_tty_ask(text, again, pin, cap, err);
}

/* Opens the keystore here (0, *core set), or gives the mount to its service (0, *core NULL). */
static int open_or_hand_over(const struct start *start, struct kms_core **core, struct base_error *err)
{
	const struct kms_prompt prompt = { ask_pin, NULL };
	uint64_t end = base_clock_mono_ns() + WAIT_NS;
	int r;

	*core = NULL;
	for (;;) {
		r = kms_core_open(start->keystore, &prompt, 0, core, err);
		if (r != -EBUSY)
			return r;
		if (start->options.serve)
			r = kms_client_call(start->keystore, "GET", "/v1/mounts", NULL, nothing, NULL, err);
		else
			r = hand_over(start, err);
		if (r == 0 && start->options.serve)
			return base_error_set(err, -EBUSY, BASE_EXIT_FAILED, "a service owns the keystore %s already", start->keystore);
		if ((r != -EAGAIN && r != -ECONNREFUSED) || base_clock_mono_ns() > end)
			return r;
		usleep(RETRY_US);
	}
}

static void raise_limits(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur == limit.rlim_max)
		return;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
}

static int serve(struct start *start, struct kms_core *core, struct service *service, struct base_error *err)
{
	struct kms_caller self = kms_caller_self(KMS_VIA_CLI);
	int r = service_start(service, core, start->options.serve, err);

	if (r < 0)
		return r;
	if (!start->options.serve)
		r = service_mount(service, &self, start->options.vault, start->options.mountpoint, start->options.text, err);
	return r < 0 ? r : kms_api_serve(core, err);
}

static int body(void *ctx, struct daemon_report *report)
{
	struct start *start = ctx;
	struct base_error err = { 0 };
	struct service service;
	struct kms_core *core;
	sigset_t set;
	int r;

	service_signals(&set); /* before there is any other thread: only service_run takes them */
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	umask(077);
	r = open_or_hand_over(start, &core, &err);
	if (r < 0)
		return daemon_failed(report, &err);
	if (!core) {
		daemon_ready(report, false);
		return BASE_EXIT_OK;
	}
	r = serve(start, core, &service, &err);
	if (r < 0) {
		int code = daemon_failed(report, &err);

		service_abandon(&service);
		kms_core_close(core);
		return code;
	}
	daemon_ready(report, true);
	service_run(&service);
	kms_api_stop(core);
	kms_core_close(core);
	return BASE_EXIT_OK;
}

/* What can be said before anything is started. */
static int check(struct start *start, struct base_error *err)
{
	struct stat st;
	int r = kms_keystore_path(start->options.keystore, start->keystore, err);

	if (r < 0)
		return r;
	if (stat(start->keystore, &st) == 0 && !kms_keystore_exists(start->keystore))
		return base_error_set(err, -ENOENT, BASE_EXIT_NOT_FOUND, "%s is not a keystore, or may not be read; `keepctl init` makes one",
				      start->keystore);
	if (stat(start->keystore, &st) < 0)
		return base_error_set(err, -errno, errno == ENOENT ? BASE_EXIT_NOT_FOUND : BASE_EXIT_FAILED,
				      "no keystore at %s: %s; `keepctl init VAULT` makes one, --keystore names another", start->keystore, strerror(errno));
	if (st.st_uid != geteuid())
		return base_error_set(err, -EACCES, BASE_EXIT_DENIED, "the keystore %s belongs to uid %u: only its owner mounts", start->keystore,
				      (unsigned)st.st_uid);
	if (start->options.serve)
		return 0;
	if (stat(start->options.vault, &st) == 0 && !S_ISDIR(st.st_mode))
		return base_error_set(err, -ENOTDIR, BASE_EXIT_FAILED, "vault %s: not a directory", start->options.vault);
	return service_check_mountpoint(start->options.mountpoint, start->options.mount.nonempty, err);
}

int main(int argc, char **argv)
{
	static struct start start;
	struct base_error err = { 0 };
	int r;

	base_log_setup("keepfs", 0);
	r = base_secret_setup(&err);
	if (r == 0)
		r = options_parse(argc, argv, &start.options, &err);
	if (r == 0 && start.options.help) {
		options_help();
	} else if (r == 0 && start.options.version) {
		puts("keepfs " KEEPFS_VERSION);
	} else {
		if (r == 0)
			r = check(&start, &err);
		if (r < 0) {
			fprintf(stderr, "keepfs: %s\n", err.text);
		} else {
			raise_limits();
			err.exit = (enum base_exit)daemon_run(start.options.foreground, body, &start);
		}
	}
	options_done(&start.options);
	return r < 0 && err.exit == BASE_EXIT_OK ? BASE_EXIT_FAILED : (int)err.exit;
}
