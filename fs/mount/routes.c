/*
 * The control API of mounts.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include <utlist.h>

#include "service.h"

/* Mounts are made and ended by the keystore's owner, who must hold the role for it as well. */
static int authorize(struct service *s, struct kms_request *request, const char *what, struct base_error *err)
{
	struct stat st;

	if (stat(kms_core_dir(s->core), &st) < 0)
		return base_error_set(err, -errno, BASE_EXIT_FAILED, "cannot look at the keystore: %s", strerror(errno));
	if (request->caller.uid != st.st_uid)
		return base_error_set(err, -EACCES, BASE_EXIT_DENIED, "only the owner of the keystore (uid %u) may %s", (unsigned)st.st_uid, what);
	return kms_authorize(s->core, &request->caller, KMS_ACTION_MANAGE, NULL, what, err);
}

static json_t *line_of(struct mount *m)
{
	char id[BASE_ID_TEXT];

	return json_pack("{s:s, s:s, s:s, s:s, s:I}", "vault", vault_path(m->vault), "vault_id", base_hex(vault_id(m->vault), BASE_ID_SIZE, id),
			 "mountpoint", m->mountpoint, "options", m->text, "inodes", (json_int_t)inode_count(&m->table));
}

static const char *param(struct kms_request *request, const char *name)
{
	return json_string_value(json_object_get(request->params, name));
}

static int post(struct kms_core *core, void *ctx, struct kms_request *request, struct base_error *err)
{
	const char *vault = param(request, "vault"), *mountpoint = param(request, "mountpoint"), *options = param(request, "options");
	struct service *s = ctx;
	json_t *line = NULL;
	struct mount *m;
	int r;

	if (!vault || !mountpoint || vault[0] != '/' || mountpoint[0] != '/')
		return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "a mount needs absolute paths `vault` and `mountpoint`");
	r = authorize(s, request, "mount", err);
	if (r == 0)
		r = service_mount(s, &request->caller, vault, mountpoint, options ? options : "", err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&s->lock);
	m = service_find(s, mountpoint);
	if (m)
		line = line_of(m);
	pthread_mutex_unlock(&s->lock);
	if (line)
		request->emit(request->emit_ctx, line);
	return 0;
}

static int get(struct kms_core *core, void *ctx, struct kms_request *request, struct base_error *err)
{
	struct service *s = ctx;
	json_t *lines = json_array(), *line;
	struct mount *m;
	size_t i;

	pthread_mutex_lock(&s->lock);
	DL_FOREACH(s->mounts, m)
		json_array_append_new(lines, line_of(m));
	pthread_mutex_unlock(&s->lock);
	json_array_foreach(lines, i, line)
		if (request->emit(request->emit_ctx, json_incref(line)) != 0)
			break;
	json_decref(lines);
	return 0;
}

static int delete(struct kms_core *core, void *ctx, struct kms_request *request, struct base_error *err)
{
	const char *mountpoint = param(request, "mountpoint");
	struct service *s = ctx;
	struct mount *m;
	int r;

	if (!mountpoint)
		return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "which mountpoint?");
	r = authorize(s, request, "unmount", err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&s->lock);
	m = service_find(s, mountpoint);
	if (m)
		m->users++;
	pthread_mutex_unlock(&s->lock);
	if (!m)
		return base_error_set(err, -ENOENT, BASE_EXIT_NOT_FOUND, "nothing of this keystore is mounted at %s", mountpoint);
	r = service_end(s, m, false);
	if (r < 0)
		return base_error_set(err, r, BASE_EXIT_FAILED, "cannot unmount %s: %s", mountpoint, strerror(-r));
	return 0;
}

int service_routes(struct service *s)
{
	int r = kms_api_add(s->core, "POST", "/v1/mounts", post, s);

	if (r == 0)
		r = kms_api_add(s->core, "GET", "/v1/mounts", get, s);
	if (r == 0)
		r = kms_api_add(s->core, "DELETE", "/v1/mounts", delete, s);
	return r;
}
