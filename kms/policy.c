/*
 * Roles: a constant matrix of what each may do, and the rows that give them to principals.
 */
#include "policy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "audit.h"
#include "base/clock.h"
#include "keys.h"

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
	pthread_mutex_t admin; /* one change at a time; before the audit trail's locks */
	pthread_rwlock_t lock; /* guards rows, count, groups */
	struct kms_role_row *rows;
	size_t count;
	bool groups;           /* there are rows of groups */
	struct kms_members *members;
};

int
kms_role_find(const char *name)
{
	for (int i = 1; i < ROLES; i++)
		if (!strcasecmp(roles[i].name, name))
			return i;
	return 0;
}

const char *
kms_role_name(int role)
{
	return roles[role].name;
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

	if (row->role < 1 || row->role >= ROLES || row->uid < -1 || row->gid < -1 || row->uid > UINT32_MAX || row->gid > UINT32_MAX)
		return -EBADMSG;
	/* A row without a number would be everyone's. */
	if (row->uid == -1 && row->gid == -1 && strcmp(row->principal, "everyone"))
		return -EBADMSG;
	grown = reallocarray(l->rows, l->count + 1, sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	l->rows = grown;
	l->rows[l->count++] = *row;
	return 0;
}

/* Takes rows. */
static void
rows_set(struct kms_policy *policy, struct kms_role_row *rows, size_t count)
{
	bool groups = false;

	for (size_t i = 0; i < count; i++)
		groups |= rows[i].gid >= 0;
	pthread_rwlock_wrlock(&policy->lock);
	free(policy->rows);
	policy->rows = rows;
	policy->count = count;
	policy->groups = groups;
	pthread_rwlock_unlock(&policy->lock);
}

int
kms_policy_new(struct kms_core *core, struct kms_policy **ret)
{
	struct kms_policy *policy = calloc(1, sizeof(*policy));
	struct loading l = { 0 };
	int rc;

	if (!policy)
		return -ENOMEM;
	pthread_mutex_init(&policy->admin, NULL);
	pthread_rwlock_init(&policy->lock, NULL);
	policy->members = kms_members_new();
	rc = policy->members ? kms_store_roles(core->store, load_row, &l) : -ENOMEM;
	if (rc < 0) {
		free(l.rows);
		kms_policy_free(policy);
		return rc;
	}
	rows_set(policy, l.rows, l.count);
	*ret = policy;
	return 0;
}

void
kms_policy_free(struct kms_policy *policy)
{
	if (!policy)
		return;
	pthread_mutex_destroy(&policy->admin);
	pthread_rwlock_destroy(&policy->lock);
	kms_members_free(policy->members);
	free(policy->rows);
	free(policy);
}

int
kms_policy_init_rows(struct kms_store *store, uid_t uid)
{
	static const int given[] = { KMS_ROLE_MANAGER, KMS_ROLE_AUDITOR };
	struct kms_role_row row = { .uid = uid, .gid = -1, .scope = KMS_SCOPE_SERVICE };
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

int
kms_policy_rows(struct kms_policy *policy, struct kms_role_row **ret, size_t *ret_count)
{
	int rc = 0;

	pthread_rwlock_rdlock(&policy->lock);
	*ret_count = policy->count;
	*ret = calloc(policy->count + 1, sizeof(**ret)); /* and one to come */
	if (*ret && policy->count)
		memcpy(*ret, policy->rows, policy->count * sizeof(**ret));
	else if (!*ret)
		rc = -ENOMEM;
	pthread_rwlock_unlock(&policy->lock);
	return rc;
}

/* ---- decisions -------------------------------------------------------------------------------------------------------- */

/* groups NULL: they are not known yet, and rows of groups are passed by. */
static bool
is_for(const struct kms_role_row *row, const struct kms_caller *caller, const struct kms_groups *groups)
{
	if (row->uid >= 0)
		return row->uid == (int64_t) caller->uid;
	return row->gid < 0 || (groups && kms_groups_have(groups, (gid_t) row->gid));
}

/* lock is held. The best row for the caller; NULL: none allows anything. */
static const struct kms_role_row *
best_row(const struct kms_policy *policy, const struct kms_caller *caller, const struct kms_groups *groups, enum kms_action action,
	 const char *scope)
{
	const struct kms_role_row *best = NULL;
	enum kms_allow have = KMS_ALLOW_NO;

	for (size_t i = 0; i < policy->count && have < KMS_ALLOW_ALL; i++) {
		const struct kms_role_row *row = &policy->rows[i];
		enum kms_allow may = roles[row->role].may[action];

		if (may <= have || !is_for(row, caller, groups) || (strcmp(row->scope, KMS_SCOPE_SERVICE) && strcmp(row->scope, scope)))
			continue;
		best = row;
		have = may;
	}
	return best;
}

/* *ret_groups: rows of groups were there that could have said more. */
static enum kms_allow
decide(struct kms_policy *policy, const struct kms_caller *caller, const struct kms_groups *groups, enum kms_action action,
       const char *scope, char rule[KMS_RULE_MAX], bool *ret_groups)
{
	const struct kms_role_row *row;
	enum kms_allow may = KMS_ALLOW_NO;

	pthread_rwlock_rdlock(&policy->lock);
	row = best_row(policy, caller, groups, action, scope);
	if (row) {
		may = roles[row->role].may[action];
		snprintf(rule, KMS_RULE_MAX, "role %s of %.120s", roles[row->role].name, row->principal);
	} else {
		snprintf(rule, KMS_RULE_MAX, "default deny: %s", actions[action].name);
	}
	*ret_groups = policy->groups && may < KMS_ALLOW_ALL;
	pthread_rwlock_unlock(&policy->lock);
	return may;
}

enum kms_allow
kms_policy_check(struct kms_policy *policy, const struct kms_caller *caller, enum kms_action action, const uint8_t *key_id,
		 char rule[KMS_RULE_MAX])
{
	char scope[BASE_ID_TEXT] = "";
	struct kms_groups groups;
	enum kms_allow may;
	bool more;

	if (key_id)
		base_hex(key_id, BASE_ID_SIZE, scope);
	may = decide(policy, caller, NULL, action, scope, rule, &more);
	if (!more)
		return may;
	kms_groups_get(policy->members, caller, &groups);
	may = decide(policy, caller, &groups, action, scope, rule, &more);
	kms_groups_done(&groups);
	return may;
}

bool
kms_policy_applies(struct kms_policy *policy, const struct kms_caller *caller, const struct kms_role_row *row)
{
	struct kms_groups groups;
	bool is;

	if (row->gid < 0)
		return is_for(row, caller, NULL);
	kms_groups_get(policy->members, caller, &groups);
	is = is_for(row, caller, &groups);
	kms_groups_done(&groups);
	return is;
}

int
kms_policy_refuse(const struct kms_caller *caller, enum kms_action action, const char *what, const char *rule, struct base_error *err)
{
	char name[256];

	kms_user_name(caller->uid, name);
	return base_error_set(err, -EACCES, BASE_EXIT_DENIED, "%s: refused to user %s (uid %u) by the rule \"%s\"; it needs %s, "
			      "which a Manager gives", what, name, (unsigned) caller->uid, rule, actions[action].needs);
}

/* ---- changes ---------------------------------------------------------------------------------------------------------- */

struct change {
	bool assign;
	struct kms_role_row row;   /* the one that comes, or the one that goes */
	struct kms_role_row *rows; /* all of them, as they will be */
	size_t count;
};

static int
change_apply(void *ctx, struct kms_store *store)
{
	const struct change *c = ctx;

	return c->assign ? kms_store_role_insert(store, &c->row) : kms_store_role_delete(store, &c->row);
}

/* An account counts by its number; a row whose account is gone is found by its text. -1: none. */
static ssize_t
find_row(const struct change *c, const struct kms_role_row *want)
{
	for (int by_text = 0; by_text <= 1; by_text++)
		for (size_t i = 0; i < c->count; i++) {
			const struct kms_role_row *row = &c->rows[i];
			bool same = by_text ? !strcmp(row->principal, want->principal) : row->uid == want->uid && row->gid == want->gid;

			if (!by_text && want->uid < 0 && want->gid < 0 && strcmp(want->principal, "everyone"))
				continue;
			if (same && row->role == want->role && !strcmp(row->scope, want->scope))
				return (ssize_t) i;
		}
	return -1;
}

/* A group can be empty: its row does not count. */
static bool
managed(const struct change *c)
{
	for (size_t i = 0; i < c->count; i++)
		if (c->rows[i].role == KMS_ROLE_MANAGER && c->rows[i].gid < 0 && !strcmp(c->rows[i].scope, KMS_SCOPE_SERVICE))
			return true;
	return false;
}

/* admin is held. 0: there is nothing to do; 1: there is. */
static int
change_prepare(struct kms_core *core, struct change *c, const char *where, struct base_error *err)
{
	ssize_t at;
	int rc = kms_policy_rows(core->policy, &c->rows, &c->count);

	if (rc < 0)
		return base_error_set(err, rc, BASE_EXIT_FAILED, "out of memory");
	at = find_row(c, &c->row);
	if (c->assign) {
		if (at >= 0 && c->rows[at].uid == c->row.uid && c->rows[at].gid == c->row.gid)
			return 0;
		if (at >= 0)
			return base_error_set(err, -EEXIST, BASE_EXIT_FAILED, "%.100s had another number when it got the role %s %s; remove that "
					      "role first", c->row.principal, roles[c->row.role].name, where);
		c->rows[c->count++] = c->row;
		return 1;
	}
	if (at < 0)
		return base_error_set(err, -ENOENT, BASE_EXIT_NOT_FOUND, "%.100s does not have the role %s %s; `keepctl role list` names who has",
				      c->row.principal, roles[c->row.role].name, where);
	c->row = c->rows[at];
	memmove(&c->rows[at], &c->rows[at + 1], (--c->count - (size_t) at) * sizeof(*c->rows));
	if (!managed(c))
		return base_error_set(err, -EPERM, BASE_EXIT_FAILED, "%.100s is the last Manager: without one nobody could give roles again (a "
				      "group can be empty and does not count); assign Manager to somebody else first", c->row.principal);
	return 1;
}

/* admin is held. */
static int
change_make(struct kms_core *core, struct kms_event *event, struct change *c, const char *where, char reason[KMS_AUDIT_REASON_MAX],
	    struct base_error *err)
{
	int rc = change_prepare(core, c, where, err), prepared = rc;

	snprintf(reason, KMS_AUDIT_REASON_MAX, "%s %s %.100s %s", roles[c->row.role].name, c->assign ? "to" : "of", c->row.principal, where);
	event->reason = reason;
	if (rc < 0) {
		event->outcome = KMS_OUTCOME_FAILED;
		event->errnum = -rc;
		kms_audit_event(core, event);
		return rc;
	}
	if (prepared == 0)
		return 0;
	event->apply = change_apply;
	event->apply_ctx = c;
	rc = kms_audit_event(core, event);
	if (rc < 0)
		return base_error_set(err, rc, BASE_EXIT_FAILED, "the role was not changed: %s/keystore.db: %s", core->dir, strerror(-rc));
	rows_set(core->policy, c->rows, c->count);
	c->rows = NULL;
	return 1;
}

int
kms_policy_change(struct kms_core *core, const struct kms_caller *caller, bool assign, const struct kms_role_row *row,
		  const uint8_t *key_id, bool *ret_changed, struct base_error *err)
{
	struct change c = { .assign = assign, .row = *row };
	char rule[KMS_RULE_MAX], reason[KMS_AUDIT_REASON_MAX], where[KMS_NAME_MAX + 32] = "in the service", name[KMS_NAME_MAX + 1] = "";
	struct kms_event event = { .caller = caller, .action = assign ? "role-assign" : "role-remove", .key_id = key_id, .rule = rule,
				   .full = true };
	int rc = kms_authorize(core, caller, KMS_ACTION_MANAGE, key_id, event.action, err);

	if (rc < 0)
		return rc;
	c.row.created_ns = base_clock_real_ns();
	strcpy(c.row.scope, KMS_SCOPE_SERVICE);
	if (key_id) {
		base_hex(key_id, BASE_ID_SIZE, c.row.scope);
		kms_key_name(core, key_id, name);
		snprintf(where, sizeof(where), "on key \"%s\"", name);
	}
	kms_policy_check(core->policy, caller, KMS_ACTION_MANAGE, key_id, rule);
	pthread_mutex_lock(&core->policy->admin);
	rc = change_make(core, &event, &c, where, reason, err);
	pthread_mutex_unlock(&core->policy->admin);
	free(c.rows);
	*ret_changed = rc > 0;
	return rc < 0 ? rc : 0;
}
