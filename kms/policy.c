/*
 * Roles: a constant matrix of what each may do, and the rows that give them to principals.
 */
#include "policy.h"

#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store.h"

#define NO KMS_ALLOW_NO
#define OWN KMS_ALLOW_OWN
#define ALL KMS_ALLOW_ALL

static const struct {
	const char *name;
	enum kms_allow may[6]; /* by enum kms_action: see, unwrap, wrap, rotate, manage, audit */
} roles[] = {
	[KMS_ROLE_AUDITOR]     = { "Auditor",    { ALL, NO,  NO,  NO,  NO,  ALL } },
	[KMS_ROLE_READER]      = { "Reader",     { ALL, ALL, NO,  NO,  NO,  OWN } },
	[KMS_ROLE_READER_PLUS] = { "ReaderPlus", { ALL, ALL, NO,  NO,  NO,  OWN } },
	[KMS_ROLE_WRITER]      = { "Writer",     { ALL, ALL, ALL, ALL, NO,  OWN } },
	[KMS_ROLE_MANAGER]     = { "Manager",    { ALL, ALL, ALL, ALL, ALL, OWN } },
	[KMS_ROLE_PURGE]       = { "Purge",      { ALL, NO,  NO,  NO,  NO,  NO  } },
	[KMS_ROLE_CUSTODIAN]   = { "Custodian",  { ALL, NO,  NO,  NO,  NO,  NO  } },
};
#define ROLES ((int) (sizeof(roles) / sizeof(roles[0])))

static const struct {
	const char *name, *needs;
} actions[] = {
	[KMS_ACTION_SEE] = { "see", "any role" },
	[KMS_ACTION_UNWRAP] = { "unwrap", "the role Reader, ReaderPlus, Writer or Manager" },
	[KMS_ACTION_WRAP] = { "wrap", "the role Writer or Manager" },
	[KMS_ACTION_ROTATE] = { "rotate", "the role Writer or Manager" },
	[KMS_ACTION_MANAGE] = { "manage", "the role Manager" },
	[KMS_ACTION_AUDIT] = { "audit", "the role Auditor" },
};

struct kms_policy {
	pthread_rwlock_t lock; /* guards rows, count */
	struct kms_role_row *rows;
	size_t count;
};

const char *
kms_action_name(enum kms_action action)
{
	return actions[action].name;
}

/* ---- accounts' names ------------------------------------------------------------------------------------------------- */

#define NAMES 64
static pthread_mutex_t names_lock = PTHREAD_MUTEX_INITIALIZER; /* guards names, names_next */
static struct {
	bool used;
	uid_t uid;
	char name[256];
} names[NAMES];
static unsigned names_next;

void
kms_user_name(uid_t uid, char ret[256])
{
	struct passwd entry, *found = NULL;
	char buffer[4096];

	pthread_mutex_lock(&names_lock);
	for (unsigned i = 0; i < NAMES; i++)
		if (names[i].used && names[i].uid == uid) {
			strcpy(ret, names[i].name);
			pthread_mutex_unlock(&names_lock);
			return;
		}
	pthread_mutex_unlock(&names_lock);
	if (getpwuid_r(uid, &entry, buffer, sizeof(buffer), &found) == 0 && found)
		snprintf(ret, 256, "%s", entry.pw_name);
	else
		snprintf(ret, 256, "%u", (unsigned) uid);
	pthread_mutex_lock(&names_lock);
	names[names_next].used = true;
	names[names_next].uid = uid;
	strcpy(names[names_next].name, ret);
	names_next = (names_next + 1) % NAMES;
	pthread_mutex_unlock(&names_lock);
}

/* ---- rows ------------------------------------------------------------------------------------------------------------ */

struct loading {
	struct kms_role_row *rows;
	size_t count;
};

static int
load_row(void *ctx, const struct kms_role_row *row)
{
	struct loading *l = ctx;
	struct kms_role_row *grown;

	if (row->role < 1 || row->role >= ROLES)
		return -EBADMSG;
	grown = reallocarray(l->rows, l->count + 1, sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	l->rows = grown;
	l->rows[l->count++] = *row;
	return 0;
}

static int
load(struct kms_core *core, struct kms_policy *policy)
{
	struct loading l = { 0 };
	int rc = kms_store_roles(core->store, load_row, &l);

	if (rc < 0) {
		free(l.rows);
		return rc;
	}
	pthread_rwlock_wrlock(&policy->lock);
	free(policy->rows);
	policy->rows = l.rows;
	policy->count = l.count;
	pthread_rwlock_unlock(&policy->lock);
	return 0;
}

int
kms_policy_reload(struct kms_core *core)
{
	return load(core, core->policy);
}

int
kms_policy_new(struct kms_core *core, struct kms_policy **ret)
{
	struct kms_policy *policy = calloc(1, sizeof(*policy));
	int rc;

	if (!policy)
		return -ENOMEM;
	pthread_rwlock_init(&policy->lock, NULL);
	rc = load(core, policy);
	if (rc < 0) {
		kms_policy_free(policy);
		return rc;
	}
	*ret = policy;
	return 0;
}

void
kms_policy_free(struct kms_policy *policy)
{
	if (!policy)
		return;
	pthread_rwlock_destroy(&policy->lock);
	free(policy->rows);
	free(policy);
}

int
kms_policy_init_rows(struct kms_store *store, uid_t uid)
{
	static const int given[] = { KMS_ROLE_MANAGER, KMS_ROLE_AUDITOR };
	struct kms_role_row row = { .uid = uid, .scope = "service" };
	char name[256];
	int rc = 0;

	kms_user_name(uid, name);
	snprintf(row.principal, sizeof(row.principal), "user:%s", name);
	for (size_t i = 0; rc == 0 && i < sizeof(given) / sizeof(given[0]); i++) {
		row.role = given[i];
		rc = kms_store_role_insert(store, &row);
	}
	return rc;
}

/* ---- decisions -------------------------------------------------------------------------------------------------------- */

enum kms_allow
kms_policy_check(struct kms_policy *policy, uid_t uid, enum kms_action action, const uint8_t *key_id, char rule[KMS_RULE_MAX])
{
	enum kms_allow best = KMS_ALLOW_NO;
	char scope[BASE_ID_TEXT] = "";

	if (key_id)
		base_hex(key_id, BASE_ID_SIZE, scope);
	snprintf(rule, KMS_RULE_MAX, "default deny: %s", actions[action].name);
	pthread_rwlock_rdlock(&policy->lock);
	for (size_t i = 0; i < policy->count && best < KMS_ALLOW_ALL; i++) {
		const struct kms_role_row *row = &policy->rows[i];
		enum kms_allow may = roles[row->role].may[action];

		if (row->uid != (int64_t) uid || may <= best || (strcmp(row->scope, "service") && strcmp(row->scope, scope)))
			continue;
		best = may;
		snprintf(rule, KMS_RULE_MAX, "role %s of %.120s", roles[row->role].name, row->principal);
	}
	pthread_rwlock_unlock(&policy->lock);
	return best;
}

int
kms_policy_refuse(const struct kms_caller *caller, enum kms_action action, const char *what, const char *rule, struct base_error *err)
{
	char name[256];

	kms_user_name(caller->uid, name);
	return base_error_set(err, -EACCES, BASE_EXIT_DENIED, "%s: refused to user %s (uid %u) by the rule \"%s\"; it needs %s, "
			      "which a Manager gives", what, name, (unsigned) caller->uid, rule, actions[action].needs);
}
