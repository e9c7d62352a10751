/*
 * /v1/status: what the service is and has.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "api.h"
#include "audit.h"
#include "dirty.h"
#include "hsm/hsm.h"
#include "internal.h"
#include "keys.h"
#include "policy.h"
#include "store.h"

static int
mount_line(void *ctx, json_t *line)
{
	return json_array_append_new(ctx, line);
}

/* What the room above answers about mounts, when it is there. */
static json_t *
mounts_json(struct kms_core *core, const struct kms_caller *caller)
{
	json_t *mounts = json_array();
	struct kms_request request = { .method = "GET", .path = "/v1/mounts", .caller = *caller, .emit = mount_line, .emit_ctx = mounts };
	struct base_error ignored = { 0 };

	if (mounts)
		kms_api_call(core, &request, &ignored);
	return mounts;
}

static int
vault_count(void *ctx, const struct kms_vault *vault)
{
	++*(json_int_t *) ctx;
	return 0;
}

static json_t *
hsm_json(struct kms_core *core, bool all)
{
	struct hsm_status status;

	memset(&status, 0, sizeof(status));
	hsm_status(core->hsm, &status);
	if (!all)
		return json_pack("{s:b}", "available", status.available);
	return json_pack("{s:b, s:s, s:s, s:s, s:s, s:s, s:o}", "available", status.available, "module", status.module, "label", status.label,
			 "serial", status.serial, "manufacturer", status.manufacturer, "model", status.model, "reason",
			 *status.reason ? json_string(status.reason) : json_null());
}

static int
status(struct kms_core *core, void *ctx, struct kms_request *request, struct base_error *err)
{
	char rule[KMS_RULE_MAX], hash[2 * KMS_HASH_SIZE + 1], id[BASE_ID_TEXT];
	bool all = kms_policy_check(core->policy, &request->caller, KMS_ACTION_SEE, NULL, rule) == KMS_ALLOW_ALL;
	uint8_t head[KMS_HASH_SIZE];
	json_int_t vaults = 0;
	size_t open, crashed;
	uint64_t seq;
	json_t *line = json_pack("{s:i, s:s, s:s, s:b, s:o}", "pid", (int) getpid(), "keystore", core->dir, "version", KEEPFS_VERSION,
				 "service", core->api->http != NULL, "hsm", hsm_json(core, all));

	if (!line)
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "out of memory");
	if (!all) /* whoever reaches the socket may ask; what it holds is for those with a role */
		return request->emit(request->emit_ctx, line);
	kms_vault_list(core, vault_count, &vaults);
	kms_audit_position(core, &seq, head);
	kms_dirty_counts(core, &open, &crashed);
	json_object_set_new(line, "keystore_id", json_string(base_hex(core->id, sizeof(core->id), id)));
	json_object_set_new(line, "mounts", mounts_json(core, &request->caller));
	json_object_set_new(line, "vaults", json_integer(vaults));
	json_object_set_new(line, "keys", json_integer((json_int_t) kms_keys_count(core->keys)));
	json_object_set_new(line, "audit", json_pack("{s:I, s:s}", "seq", (json_int_t) seq, "hash", base_hex(head, sizeof(head), hash)));
	json_object_set_new(line, "files", json_pack("{s:I, s:I}", "open_for_writing", (json_int_t) open, "left_by_a_crash",
						     (json_int_t) crashed));
	return request->emit(request->emit_ctx, line);
}

int
kms_api_status_add(struct kms_core *core)
{
	return kms_api_add(core, "GET", "/v1/status", status, NULL);
}
