/*
 * kms/policy.h: who may do what. Default deny; a role in the service or on one key allows. policy.c decides and changes
 * rows, policy_who.c knows accounts and groups.
 */
#ifndef KMS_POLICY_H
#define KMS_POLICY_H

#include "internal.h"
#include "store.h"

/* Numbers of the store: they never change meaning. */
enum kms_role {
	KMS_ROLE_AUDITOR = 1, KMS_ROLE_READER, KMS_ROLE_READER_PLUS, KMS_ROLE_WRITER, KMS_ROLE_MANAGER, KMS_ROLE_PURGE,
	KMS_ROLE_CUSTODIAN,
};

enum kms_allow { KMS_ALLOW_NO = 0, KMS_ALLOW_OWN = 1, KMS_ALLOW_ALL = 2 }; /* own: the caller's own records */

#define KMS_RULE_MAX 160 /* bytes of a rule's text with its NUL */
#define KMS_SCOPE_SERVICE "service"

/* kms_policy_new(core, ret): load the roles. */
int kms_policy_new(struct kms_core *core, struct kms_policy **ret);
void kms_policy_free(struct kms_policy *policy);

/* kms_policy_init_rows(store, uid): Manager and Auditor of the service for the maker of a keystore. In a transaction. */
int kms_policy_init_rows(struct kms_store *store, uid_t uid);

/*
 * kms_policy_check(policy, caller, action, key_id or NULL, rule): from memory, and from the account database (which blocks)
 * when only a group's row can allow it and the caller's groups have not been asked for in the last seconds. rule gets the
 * rule that decided ("role Writer of user:alice", "default deny: unwrap").
 */
enum kms_allow kms_policy_check(struct kms_policy *policy, const struct kms_caller *caller, enum kms_action action,
				const uint8_t *key_id, char rule[KMS_RULE_MAX]);

/* kms_policy_refuse(caller, action, what, rule, err): the refusal's text for people; returns -EACCES. */
int kms_policy_refuse(const struct kms_caller *caller, enum kms_action action, const char *what, const char *rule,
		      struct base_error *err);

/* kms_role_find(name): enum kms_role by its name, any case; 0: none. kms_role_name(role). KMS_ROLE_NAMES is for messages. */
int kms_role_find(const char *name);
const char *kms_role_name(int role);
#define KMS_ROLE_NAMES "Auditor, Reader, ReaderPlus, Writer, Manager, Purge, Custodian"

/*
 * kms_policy_change(core, caller, assign, row, key_id or NULL, ret_changed, err): give a role or take it away; decides `manage` in the row's
 * scope (key_id, or the service), records, and is in force on return, for every decision that begins after it. Durable.
 * *ret_changed is false when the principal has the role already. -ENOENT: it does not have it. -EPERM: nobody would be
 * left who manages.
 */
int kms_policy_change(struct kms_core *core, const struct kms_caller *caller, bool assign, const struct kms_role_row *row,
		      const uint8_t *key_id, bool *ret_changed, struct base_error *err);

/* kms_policy_rows(policy, ret, ret_count): a copy of all rows, the oldest first; the caller frees it. -ENOMEM. */
int kms_policy_rows(struct kms_policy *policy, struct kms_role_row **ret, size_t *ret_count);

/* kms_policy_applies(policy, caller, row): the row is the caller's. May block like kms_policy_check. */
bool kms_policy_applies(struct kms_policy *policy, const struct kms_caller *caller, const struct kms_role_row *row);

/* ---- policy_who.c -------------------------------------------------------------------------------------------------------- */

/* kms_user_name(uid, ret): the account's name, or its number. Cached. 256 bytes. */
void kms_user_name(uid_t uid, char ret[256]);

/*
 * kms_principal_find(text, ret, err): fill principal (in its one spelling: names, numbers where there is no account), uid and
 * gid from "user:NAME", "user:UID", "group:NAME", "group:GID", "everyone". -ENOENT: no such account; then principal is text,
 * uid and gid are -1. -EINVAL: no principal. Blocks on the account database.
 */
int kms_principal_find(const char *text, struct kms_role_row *ret, struct base_error *err);

/* The groups that count for a caller. kms_groups_get may block on the account database; without memory it gives none. */
#define KMS_GROUPS_FEW 32
struct kms_groups {
	int count;
	gid_t few[KMS_GROUPS_FEW];
	gid_t *more; /* instead of few; owned */
};
struct kms_members;
struct kms_members *kms_members_new(void); /* what kms_groups_get remembers; NULL without memory */
void kms_members_free(struct kms_members *members);
void kms_groups_get(struct kms_members *members, const struct kms_caller *caller, struct kms_groups *ret);
bool kms_groups_have(const struct kms_groups *groups, gid_t gid);
void kms_groups_done(struct kms_groups *groups);

#endif
