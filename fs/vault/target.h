/*
 * fs/vault/target.h: a directory that a request names.
 */
#ifndef VAULT_TARGET_H
#define VAULT_TARGET_H

#include "jobs.h"

struct vault_dir_target {
	struct vault_target at;
	struct vault_dir dir; /* its record */
	int fd;
};

/* vault_dir_target_open(core, request, ret, err): the directory of the request's "path", open. vault_dir_target_done closes. */
int vault_dir_target_open(struct kms_core *core, struct kms_request *request, struct vault_dir_target *ret, struct base_error *err);
void vault_dir_target_done(struct vault_dir_target *t);

/* vault_target_lost(path, code, err): code as the error of a path that cannot be found. vault_dir_emit: the result line of a directory. */
int vault_target_lost(const char *path, int code, struct base_error *err);
int vault_dir_emit(struct kms_core *core, struct kms_request *request, const char *path, const struct vault_dir *dir, struct base_error *err);

#endif
