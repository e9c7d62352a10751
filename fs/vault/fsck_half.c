/*
 * What looks half made, half removed or misnamed: looked at a second time, with work under way excluded. What still stands there is a leftover of
 * a crash, or not ours.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fsck.h"
#include "mkdir.h"
#include "object.h"
#include "small.h"
#include "vault/path.h"

#define SUSPECTS_MAX 64 /* renames wait while so many are looked at */
#define HASH_TEXT 43
#define SEALED_MAX (VAULT_NAME_MAX + BASE_SIV_TAG)

int vault_fsck_suspect(struct fsck *j, const char *entry)
{
	struct fsck_suspect *s = malloc(sizeof(*s) + strlen(entry) + 1);

	if (!s)
		return -ENOMEM;
	strcpy(s->name, entry);
	s->next = j->suspects;
	j->suspects = s;
	return ++j->suspect_count < SUSPECTS_MAX ? 0 : vault_fsck_suspects(j);
}

/* A file that is made where there are no nameless ones. */
static bool in_use(struct fsck *j, const struct stat *st)
{
	struct vault_file *f = vault_live_hold(j->check.at.v, st->st_dev, st->st_ino);

	if (f)
		vault_live_release(f);
	return f != NULL;
}

/* 0: removed. */
static int remove_temp(struct fsck *j, const struct fsck_name *name, const struct stat *st)
{
	int code = vault_fsck_audit(j, NULL, name, "a leftover is removed");

	if (code < 0)
		return code;
	if (S_ISDIR(st->st_mode))
		return vault_temp_remove(j->fd, name->entry) < 0 ? 1 : 0;
	return unlinkat(j->fd, name->entry, 0) < 0 ? 1 : 0;
}

static int temp(struct fsck *j, const struct fsck_name *name, const struct stat *st)
{
	struct fsck_found *found;
	bool full = false;
	int fd, code;

	if (S_ISREG(st->st_mode) && in_use(j, st))
		return 0;
	if (S_ISDIR(st->st_mode)) {
		fd = openat(j->fd, name->entry, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		/* Its mode may be final already, and keep us out. */
		if (fd < 0 && errno == EACCES && j->repair && fchmodat(j->fd, name->entry, 0700, AT_SYMLINK_NOFOLLOW) == 0)
			fd = openat(j->fd, name->entry, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		full = fd >= 0 && vault_dir_empty(fd) == -ENOTEMPTY;
		if (fd >= 0)
			close(fd);
	}
	if (full)
		found = vault_fsck_found(j, name, "leftover", "a directory that was being removed holds entries all the same; move it away with --quarantine");
	else
		found = vault_fsck_found(j, name, "leftover", "a crash left this half made or half removed; --repair removes it");
	if (!found)
		return -ENOMEM;
	found->aside = full || !j->repair;
	if (!j->repair || full)
		return 0;
	code = remove_temp(j, name, st);
	if (code == 0)
		found->f.action = VAULT_FINDING_REPAIRED;
	return code < 0 ? code : 0;
}

static int side(struct fsck *j, const struct fsck_name *name, const struct stat *st)
{
	struct fsck_found *found;
	char entry[NAME_MAX + 1];
	struct stat other;
	int code;

	snprintf(entry, sizeof(entry), "L%s", name->entry + 1);
	if (fstatat(j->fd, entry, &other, AT_SYMLINK_NOFOLLOW) == 0)
		return 0;
	found = vault_fsck_found(j, name, "side-orphaned", "the record of a long name whose entry is gone; --repair removes it");
	if (!found)
		return -ENOMEM;
	found->aside = !j->repair;
	if (!j->repair || !S_ISREG(st->st_mode))
		return 0;
	code = vault_fsck_audit(j, NULL, name, "an orphaned side record is removed");
	if (code == 0 && unlinkat(j->fd, name->entry, 0) == 0)
		found->f.action = VAULT_FINDING_REPAIRED;
	return code;
}

/* Why a long name does not open. */
static const char *long_problem(struct fsck *j, const char *entry, const char **ret_detail)
{
	uint8_t sealed[SEALED_MAX], hash[32], want[32];
	struct vault *v = j->check.at.v;
	char record[NAME_MAX + 1], clear[VAULT_NAME_MAX + 1], short_entry[NAME_MAX + 1];
	ssize_t n;

	snprintf(record, sizeof(record), "N%s", entry + 1);
	n = vault_small_read(j->fd, record, sealed, sizeof(sealed));
	if (n == -ENOENT) {
		*ret_detail = "the record of this long name (N.*) is missing: the entry cannot be listed, but opens under its name; restore the record, or move the "
			      "entry away with --quarantine";
		return "side-missing";
	}
	if (n > BASE_SIV_TAG && n <= VAULT_NAME_SHORT + BASE_SIV_TAG && base_sha256(sealed, (size_t)n, hash) == 0 &&
	    base_b64_decode(entry + 2, HASH_TEXT, want, sizeof(want)) == (int)sizeof(want) && memcmp(hash, want, sizeof(want)) == 0) {
		base_b64_encode(sealed, (size_t)n, short_entry);
		if (vault_name_open(v, j->fd, j->rec.id, short_entry, clear) == 0) {
			*ret_detail = "a short name in the form of a long one, which nothing of ours writes; move it away with --quarantine";
			return "name-form";
		}
	}
	*ret_detail = "the record of this long name (N.*) does not authenticate; restore it, or move the entry away with --quarantine";
	return "side-damaged";
}

static int misnamed(struct fsck *j, struct fsck_name *name)
{
	char clear[VAULT_NAME_MAX + 1];
	const char *problem = "name-damaged", *detail;
	struct fsck_found *found;
	int code = vault_name_open(j->check.at.v, j->fd, j->rec.id, name->entry, clear);

	if (code == 0)
		return 0;
	detail = "the name does not authenticate: it was changed, or belongs to another directory; move the entry back to where it was, or away with --quarantine";
	if (strncmp(name->entry, "L.", 2) == 0)
		problem = long_problem(j, name->entry, &detail);
	found = vault_fsck_found(j, name, problem, "%s", detail);
	if (found)
		found->aside = true;
	return found ? 0 : -ENOMEM;
}

static int foreign(struct fsck *j, const struct fsck_name *name)
{
	struct fsck_found *found = vault_fsck_found(j, name, "foreign", "not something that a vault holds; it is not listed; take it out, or move it away with "
						    "--quarantine");

	if (found)
		found->aside = true;
	return found ? 0 : -ENOMEM;
}

static int look_again(struct fsck *j, const char *entry)
{
	struct fsck_name name = { .entry = entry };
	struct stat st;

	if (fstatat(j->fd, entry, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return 0;
	name.object = (struct vault_file_key){ st.st_dev, st.st_ino };
	switch (vault_name_kind(entry)) {
	case VAULT_NAME_TEMP:
		return temp(j, &name, &st);
	case VAULT_NAME_SIDE:
		return side(j, &name, &st);
	case VAULT_NAME_ENTRY:
		return misnamed(j, &name);
	case VAULT_NAME_FOREIGN:
		break;
	}
	return foreign(j, &name);
}

int vault_fsck_suspects(struct fsck *j)
{
	struct vault *v = j->check.at.v;
	struct fsck_suspect *s;
	int code = 0;

	if (!j->suspects)
		return 0;
	vault_names_wrlock(v);
	vault_half_exclude(v);
	while ((s = j->suspects)) {
		j->suspects = s->next;
		if (code == 0)
			code = look_again(j, s->name);
		free(s);
	}
	vault_half_end(v);
	vault_names_unlock(v);
	j->suspect_count = 0;
	return code == 0 ? vault_fsck_flush(j) : code;
}
