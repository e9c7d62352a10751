/*
 * Who is who: names of accounts, principals of rows, and the groups of a caller.
 *
 * The account database can be slow (LDAP), so nothing here asks it with a lock held, and answers are kept for seconds.
 */
#include "policy.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"

#define NAMES 64
#define GROUPS_KEPT 256              /* callers whose groups are kept */
#define GROUPS_MAX 65536             /* NGROUPS_MAX of the kernel */
#define GROUPS_SECONDS 5             /* so long a change of the account database may go unseen */
#define ACCOUNT_BUFFER 65536         /* a group's entry names its members */

/* ---- names ------------------------------------------------------------------------------------------------------------- */

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

/* ---- principals -------------------------------------------------------------------------------------------------------- */

/* A number as people write it; (uid_t) -1 is nobody's. */
static bool
number(const char *text, int64_t *ret)
{
	unsigned long value;
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	value = strtoul(text, &end, 10);
	if (*end || errno || value >= UINT32_MAX)
		return false;
	*ret = (int64_t) value;
	return true;
}

static int
find_user(const char *text, struct kms_role_row *ret)
{
	struct passwd entry, *found = NULL;
	char *buffer = malloc(ACCOUNT_BUFFER);

	if (!buffer)
		return -ENOMEM;
	if (number(text, &ret->uid))
		getpwuid_r((uid_t) ret->uid, &entry, buffer, ACCOUNT_BUFFER, &found);
	else if (getpwnam_r(text, &entry, buffer, ACCOUNT_BUFFER, &found) == 0 && found)
		ret->uid = (int64_t) entry.pw_uid;
	if (found)
		snprintf(ret->principal, sizeof(ret->principal), "user:%s", entry.pw_name);
	else if (ret->uid >= 0)
		snprintf(ret->principal, sizeof(ret->principal), "user:%u", (unsigned) ret->uid);
	free(buffer);
	return ret->uid >= 0 ? 0 : -ENOENT;
}

static int
find_group(const char *text, struct kms_role_row *ret)
{
	struct group entry, *found = NULL;
	char *buffer = malloc(ACCOUNT_BUFFER);

	if (!buffer)
		return -ENOMEM;
	if (number(text, &ret->gid))
		getgrgid_r((gid_t) ret->gid, &entry, buffer, ACCOUNT_BUFFER, &found);
	else if (getgrnam_r(text, &entry, buffer, ACCOUNT_BUFFER, &found) == 0 && found)
		ret->gid = (int64_t) entry.gr_gid;
	if (found)
		snprintf(ret->principal, sizeof(ret->principal), "group:%s", entry.gr_name);
	else if (ret->gid >= 0)
		snprintf(ret->principal, sizeof(ret->principal), "group:%u", (unsigned) ret->gid);
	free(buffer);
	return ret->gid >= 0 ? 0 : -ENOENT;
}

int
kms_principal_find(const char *text, struct kms_role_row *ret, struct base_error *err)
{
	int rc = 0;

	ret->uid = ret->gid = -1;
	if (strlen(text) >= sizeof(ret->principal))
		return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "a principal has up to %zu bytes", sizeof(ret->principal) - 1);
	strcpy(ret->principal, text);
	if (!strncmp(text, "user:", 5) && text[5])
		rc = find_user(text + 5, ret);
	else if (!strncmp(text, "group:", 6) && text[6])
		rc = find_group(text + 6, ret);
	else if (strcmp(text, "everyone"))
		return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "'%.100s' is no principal: it is user:NAME, user:UID, group:NAME, "
				      "group:GID or everyone", text);
	if (rc == -ENOENT)
		return base_error_set(err, rc, BASE_EXIT_NOT_FOUND, "this machine has no account for %.100s; user:UID and group:GID take "
				      "numbers that have none", text);
	return rc < 0 ? base_error_set(err, rc, BASE_EXIT_FAILED, "%s", strerror(-rc)) : 0;
}

/* ---- groups ------------------------------------------------------------------------------------------------------------ */

struct member {
	bool used;
	uid_t uid;
	gid_t gid;
	uint64_t until; /* on the monotonic clock */
	gid_t *groups;  /* sorted */
	int count;
};

struct kms_members {
	pthread_mutex_t lock; /* guards kept, next. A leaf */
	struct member kept[GROUPS_KEPT];
	unsigned next;
};

struct kms_members *
kms_members_new(void)
{
	struct kms_members *members = calloc(1, sizeof(*members));

	if (members)
		pthread_mutex_init(&members->lock, NULL);
	return members;
}

void
kms_members_free(struct kms_members *members)
{
	if (!members)
		return;
	for (unsigned i = 0; i < GROUPS_KEPT; i++)
		free(members->kept[i].groups);
	pthread_mutex_destroy(&members->lock);
	free(members);
}

static int
by_number(const void *a, const void *b)
{
	gid_t x = *(const gid_t *) a, y = *(const gid_t *) b;

	return (x > y) - (x < y);
}

/* The groups that the account database gives the uid, and the gid that the kernel gave the caller. */
static gid_t *
ask(uid_t uid, gid_t gid, int *ret_count)
{
	struct passwd entry, *found = NULL;
	gid_t *groups = NULL, *grown;
	char *buffer = malloc(ACCOUNT_BUFFER);
	int room = 32, count;

	if (!buffer)
		return NULL;
	getpwuid_r(uid, &entry, buffer, ACCOUNT_BUFFER, &found);
	do {
		grown = reallocarray(groups, (size_t) room + 1, sizeof(*groups)); /* and the gid */
		if (!grown)
			break;
		groups = grown;
		count = found ? room : 0;
		if (!found || getgrouplist(entry.pw_name, entry.pw_gid, groups, &count) >= 0) {
			groups[count++] = gid;
			qsort(groups, (size_t) count, sizeof(*groups), by_number);
			*ret_count = count;
			free(buffer);
			return groups;
		}
		room = count > room ? count : room * 2;
	} while (room <= GROUPS_MAX);
	free(buffer);
	free(groups);
	return NULL;
}

/* lock is held. NULL: none, or too old. */
static struct member *
kept_find(struct kms_members *members, uid_t uid, gid_t gid, uint64_t now)
{
	for (unsigned i = 0; i < GROUPS_KEPT; i++) {
		struct member *m = &members->kept[i];

		if (m->used && m->uid == uid && m->gid == gid)
			return now < m->until ? m : NULL;
	}
	return NULL;
}

/* lock is held. Takes groups. */
static void
keep(struct kms_members *members, uid_t uid, gid_t gid, uint64_t until, gid_t *groups, int count)
{
	struct member *at = NULL;

	for (unsigned i = 0; i < GROUPS_KEPT && !at; i++)
		if (members->kept[i].used && members->kept[i].uid == uid && members->kept[i].gid == gid)
			at = &members->kept[i];
	if (!at) {
		at = &members->kept[members->next];
		members->next = (members->next + 1) % GROUPS_KEPT;
	}
	free(at->groups);
	*at = (struct member) { .used = true, .uid = uid, .gid = gid, .until = until, .groups = groups, .count = count };
}

static void
groups_copy(const struct member *m, struct kms_groups *ret)
{
	ret->count = 0;
	ret->more = NULL;
	if (m->count > KMS_GROUPS_FEW)
		ret->more = malloc((size_t) m->count * sizeof(*ret->more));
	if (m->count > KMS_GROUPS_FEW && !ret->more)
		return;
	memcpy(ret->more ? ret->more : ret->few, m->groups, (size_t) m->count * sizeof(*m->groups));
	ret->count = m->count;
}

void
kms_groups_get(struct kms_members *members, const struct kms_caller *caller, struct kms_groups *ret)
{
	uint64_t now = base_clock_mono_ns();
	struct member *m, fresh = { 0 };

	pthread_mutex_lock(&members->lock);
	m = kept_find(members, caller->uid, caller->gid, now);
	if (m)
		groups_copy(m, ret);
	pthread_mutex_unlock(&members->lock);
	if (m)
		return;
	fresh.groups = ask(caller->uid, caller->gid, &fresh.count);
	if (!fresh.groups) { /* no memory: in no group */
		*ret = (struct kms_groups) { .count = 0 };
		return;
	}
	groups_copy(&fresh, ret);
	pthread_mutex_lock(&members->lock);
	keep(members, caller->uid, caller->gid, now + GROUPS_SECONDS * 1000000000ull, fresh.groups, fresh.count);
	pthread_mutex_unlock(&members->lock);
}

bool
kms_groups_have(const struct kms_groups *groups, gid_t gid)
{
	return bsearch(&gid, groups->more ? groups->more : groups->few, (size_t) groups->count, sizeof(gid), by_number) != NULL;
}

void
kms_groups_done(struct kms_groups *groups)
{
	free(groups->more);
}
