/*
 * kms/policy.h: who may do what. Default deny; a role in the service or on one key allows.
 */
#ifndef KMS_POLICY_H
#define KMS_POLICY_H

#include "internal.h"

/* Numbers of the store: they never change meaning. */
enum kms_role {
	KMS_ROLE_AUDITOR = 1, KMS_ROLE_READER, KMS_ROLE_READER_PLUS, KMS_ROLE_WRITER, KMS_ROLE_MANAGER, KMS_ROLE_PURGE,
	KMS_ROLE_CUSTODIAN,
};

enum kms_allow { KMS_ALLOW_NO = 0, KMS_ALLOW_OWN = 1, KMS_ALLOW_ALL = 2 }; /* own: the caller's own records */

#define KMS_RULE_MAX 160 /* bytes of a rule's text with its NUL */

/* kms_policy_new(core, ret): load the roles. kms_policy_reload: read them again. */
int kms_policy_new(struct kms_core *core, struct kms_policy **ret);
void kms_policy_free(struct kms_policy *policy);
int kms_policy_reload(struct kms_core *core);

/* kms_policy_init_rows(store, uid): Manager and Auditor of the service for the maker of a keystore. In a transaction. */
int kms_policy_init_rows(struct kms_store *store, uid_t uid);

/*
 * kms_policy_check(policy, uid, action, key_id or NULL, rule): in memory. rule gets the rule that decided ("role Writer of
 * user:alice", "default deny: unwrap").
 */
enum kms_allow kms_policy_check(struct kms_policy *policy, uid_t uid, enum kms_action action, const uint8_t *key_id,
				char rule[KMS_RULE_MAX]);

/* kms_policy_refuse(caller, action, what, rule, err): the refusal's text for people; returns -EACCES. */
int kms_policy_refuse(const struct kms_caller *caller, enum kms_action action, const char *what, const char *rule,
		      struct base_error *err);

const char *kms_action_name(enum kms_action action);

/* kms_user_name(uid, ret): the account's name, or its number. Cached. 256 bytes. */
void kms_user_name(uid_t uid, char ret[256]);

#endif
