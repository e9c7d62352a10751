/* Directory records and entries (fs/FORMAT.md, "Directories"). */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fsck.h"
#include "mkdir.h"
#include "object.h"
#include "vault/path.h"
#include "vault/xattr.h"

/* What can be wrong with a record, worst first. */
enum record { RECORD_GOOD, RECORD_MISSING, RECORD_DAMAGED, RECORD_PARENT, RECORD_RENAME, RECORD_ERROR };

static bool is_root(const struct fsck *j)
{
	return !*j->dir->backing;
}

static enum record judge(struct fsck *j)
{
	struct vault *v = j->check.at.v;
	const struct fsck_dir *d = j->dir;
	struct stat st;
	int code = vault_dir_read(v, j->fd, NULL, &j->rec);

	if (code == -EBADMSG)
		return fstatat(j->fd, VAULT_RECORD_NAME, &st, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT ? RECORD_MISSING : RECORD_DAMAGED;
	if (code < 0)
		return RECORD_ERROR;
	if (is_root(j) && memcmp(j->rec.id, v->root_dir_id, BASE_ID_SIZE) != 0)
		return RECORD_DAMAGED;
	if (!d->has_parent && !is_root(j))
		return RECORD_GOOD;
	if (memcmp(j->rec.parent, d->parent, BASE_ID_SIZE) == 0)
		return base_is_zero(j->rec.parent2, BASE_ID_SIZE) ? RECORD_GOOD : RECORD_RENAME;
	if (!base_is_zero(j->rec.parent2, BASE_ID_SIZE) && memcmp(j->rec.parent2, d->parent, BASE_ID_SIZE) == 0)
		return RECORD_RENAME;
	return RECORD_PARENT;
}

/* Is the directory at hand still where it was, below the same parent? */
static bool still_there(struct fsck *j)
{
	struct vault *v = j->check.at.v;
	struct fsck_dir *d = j->dir;
	char *slash = strrchr(d->backing, '/');
	struct vault_dir above;
	struct stat st, now;
	int fd;
	bool same;

	if (is_root(j))
		return true;
	if (slash)
		*slash = '\0';
	fd = vault_open_path(v->root_fd, slash ? d->backing : "", O_RDONLY | O_DIRECTORY);
	if (slash)
		*slash = '/';
	if (fd < 0)
		return false;
	same = fstat(j->fd, &st) == 0 && fstatat(fd, slash ? slash + 1 : d->backing, &now, AT_SYMLINK_NOFOLLOW) == 0 &&
	       st.st_dev == now.st_dev && st.st_ino == now.st_ino;
	if (same && d->has_parent)
		same = vault_dir_read(v, fd, NULL, &above) == 0 && memcmp(above.id, d->parent, BASE_ID_SIZE) == 0;
	close(fd);
	return same;
}

/* Whoever holds the directory is its parent. Work under way is excluded. */
static int end_rename(struct fsck *j, const struct fsck_name *name, struct fsck_found *found)
{
	int code = vault_fsck_audit(j, j->rec.id, name, "the record of a rename cut short is set right");

	if (code < 0)
		return code;
	memcpy(j->rec.parent, j->dir->parent, BASE_ID_SIZE);
	memset(j->rec.parent2, 0, BASE_ID_SIZE);
	if (vault_dir_store(j->check.at.v, j->fd, &j->rec) == 0)
		found->f.action = VAULT_FINDING_REPAIRED;
	return 0;
}

static int record_finding(struct fsck *j, const struct fsck_name *name, enum record what)
{
	static const struct {
		const char *problem, *detail;
	} texts[] = {
		[RECORD_MISSING] = { "record-missing", "the directory has no record (" VAULT_RECORD_NAME "): nothing in it can be read; restore the record from a "
						       "backup, or move the directory away with --quarantine" },
		[RECORD_DAMAGED] = { "record-damaged", "the directory's record (" VAULT_RECORD_NAME ") does not authenticate: nothing in it can be read; restore "
						       "the record from a backup, or move the directory away with --quarantine" },
		[RECORD_PARENT] = { "record-parent", "the directory's record names another parent: it was moved or copied here in the vault; move it back to "
						     "where it was, or away with --quarantine" },
		[RECORD_RENAME] = { "record-rename", "a rename of the directory did not end: its record names two parents; --repair keeps the one that holds it" },
		[RECORD_ERROR] = { "unreadable", "the directory's record cannot be read; look at the disk" },
	};
	struct fsck_found *found = vault_fsck_found(j, name, texts[what].problem, "%s", texts[what].detail);

	if (!found)
		return -ENOMEM;
	if (what == RECORD_RENAME)
		return j->repair ? end_rename(j, name, found) : 0;
	found->aside = what != RECORD_ERROR && !is_root(j);
	return 0;
}

static int check_record(struct fsck *j, const struct fsck_name *name)
{
	struct vault *v = j->check.at.v;
	enum record what = judge(j);
	int code = 0;

	if (what == RECORD_GOOD) {
		j->known = true;
		return 0;
	}
	/* A rename may be under way, or have passed. */
	vault_names_wrlock(v);
	vault_half_exclude(v);
	what = judge(j);
	if (what != RECORD_GOOD && !still_there(j))
		code = -ENOENT;
	else if (what != RECORD_GOOD)
		code = record_finding(j, name, what);
	vault_half_end(v);
	vault_names_unlock(v);
	j->known = what == RECORD_GOOD || what == RECORD_RENAME || what == RECORD_PARENT;
	if (code == 0 && (what == RECORD_MISSING || what == RECORD_DAMAGED || what == RECORD_PARENT)) {
		/* Below it no clear path leads anywhere. */
		code = vault_fsck_flush(j);
		free(j->dir->clear);
		j->dir->clear = NULL;
		if (code == 0 && !still_there(j))
			code = -ENOENT; /* it is in the quarantine */
	}
	return code;
}

static int check_xattrs(struct fsck *j, const struct fsck_name *name)
{
	struct vault_xattr x;
	char first[256];
	int bad;

	vault_xattr_dir(j->check.at.v, j->rec.id, &x);
	bad = vault_xattr_check(&x, j->fd, first, sizeof(first));
	if (bad <= 0)
		return bad == -ENOMEM ? bad : 0;
	return vault_fsck_found(j, name, "xattr-damaged", "%d extended attributes do not authenticate; setfattr -x %s on the backing directory removes the "
				"first", bad, first) ? 0 : -ENOMEM;
}

int vault_fsck_record(struct fsck *j)
{
	struct fsck_name name = { 0 };
	char key[KMS_NAME_MAX + 1];
	struct stat st;
	int code;

	if (fstat(j->fd, &st) < 0)
		return -errno;
	name.object = (struct vault_file_key){ st.st_dev, st.st_ino };
	if (j->only) { /* its own problems are not asked for */
		j->known = vault_dir_read(j->check.at.v, j->fd, NULL, &j->rec) == 0;
		return 0;
	}
	j->directories++;
	code = check_record(j, &name);
	if (code == 0 && j->known)
		code = check_xattrs(j, &name);
	if (code == 0 && j->known && kms_key_name(j->check.core, j->rec.zone, key) == -ENOENT)
		code = vault_fsck_found(j, &name, "record-key", "the key that the directory's files hang on is not in this keystore; restore the keystore from a "
					"backup") ? 0 : -ENOMEM;
	return code;
}

static int check_symlink(struct fsck *j, const struct fsck_name *name)
{
	char sealed[PATH_MAX + 1], target[PATH_MAX];
	ssize_t n = readlinkat(j->fd, name->entry, sealed, sizeof(sealed) - 1);
	struct fsck_found *found;
	int code;

	if (n < 0)
		return 0; /* it went */
	j->links++;
	sealed[n] = '\0';
	code = vault_link_open(j->check.at.v, sealed, target, sizeof(target));
	if (code == 0 || code == -ENOMEM)
		return code;
	found = vault_fsck_found(j, name, "symlink-damaged", "the target of the symlink does not authenticate; delete the symlink, or move it away with "
				 "--quarantine");
	if (found)
		found->aside = true;
	return found ? 0 : -ENOMEM;
}

static int descend(struct fsck *j, const struct fsck_name *name)
{
	char *backing = vault_fsck_backing(j, name), *clear = vault_fsck_path(j, name);
	int code = backing ? vault_fsck_push(j, backing, clear, j->known ? j->rec.id : NULL) : -ENOMEM;

	free(backing);
	free(clear);
	return code;
}

static int check_named(struct fsck *j, const char *entry)
{
	char clear[VAULT_NAME_MAX + 1];
	struct fsck_name name = { .entry = entry };
	struct stat st;
	int code = 0;

	if (fstatat(j->fd, entry, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : vault_fsck_found(j, &name, "unreadable", "cannot be looked at: %s; look at the disk", strerror(errno)) ? 0 : -ENOMEM;
	name.object = (struct vault_file_key){ st.st_dev, st.st_ino };
	if (j->known) {
		code = vault_name_open(j->check.at.v, j->fd, j->rec.id, entry, clear);
		name.clear = code == 0 ? clear : NULL;
		if (code < 0 && (code = vault_fsck_suspect(j, entry)) < 0)
			return code;
	}
	if (S_ISDIR(st.st_mode))
		return descend(j, &name);
	if (S_ISLNK(st.st_mode))
		return check_symlink(j, &name);
	if (S_ISREG(st.st_mode))
		return vault_fsck_file(j, &name);
	j->others++;
	return 0;
}

/* An entry of a long name has its own look at its side record. */
static bool side_used(const struct fsck *j, const char *side)
{
	char entry[NAME_MAX + 1];
	struct stat st;

	snprintf(entry, sizeof(entry), "L%s", side + 1);
	return fstatat(j->fd, entry, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

int vault_fsck_entry(struct fsck *j, const char *entry)
{
	if (strcmp(entry, VAULT_RECORD_NAME) == 0 || (is_root(j) && strcmp(entry, VAULT_CONFIG_NAME) == 0))
		return 0;
	switch (vault_name_kind(entry)) {
	case VAULT_NAME_ENTRY:
		return check_named(j, entry);
	case VAULT_NAME_SIDE:
		return side_used(j, entry) ? 0 : vault_fsck_suspect(j, entry);
	case VAULT_NAME_TEMP:
	case VAULT_NAME_FOREIGN:
		break;
	}
	return vault_fsck_suspect(j, entry);
}
