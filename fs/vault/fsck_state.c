/* The state of a file that nobody has open: clean, to be recovered, or copied while it was written. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "adopt.h"
#include "fsck.h"
#include "object.h"

/* Size and tags, as an open looks at them. -EBADMSG. */
static int check_clean(struct vault_file *f, struct vault_cipher *c)
{
	struct stat st;

	if (fstat(f->fd, &st) != 0)
		return -errno;
	if ((uint64_t)st.st_size != vault_backing_size(f->size))
		return -EBADMSG;
	return f->size <= VERIFY_AT_OPEN ? vault_tags_verify(f, c) : 0;
}

/* What a crash left open. In a mount it waits for its open, which tells the kernel of the size that it then has. */
static int recoverable(struct fsck *j, struct vault_file *f, struct vault_cipher *c, const struct fsck_name *name, bool same_boot)
{
	struct fsck_found *found;
	int r;

	if (!j->repair || !f->fd_writable || vault_shared(f->v)) {
		j->recoverable++;
		return 0;
	}
	if ((r = vault_fsck_audit(j, f->id, name, "a file that a crash left open is recovered")) < 0)
		return r;
	r = vault_recover(f, c, same_boot);
	if (r == 0)
		r = check_clean(f, c);
	if (r == -ENOMEM || r == -ENOSPC)
		return r;
	if (r == 0) {
		kms_dirty_recovered(j->check.core, vault_id(f->v), f->id);
		found = vault_fsck_found(j, name, "recoverable", "a crash left the file open; it is recovered");
		if (found)
			found->f.action = VAULT_FINDING_REPAIRED;
	} else {
		found = vault_fsck_found(j, name, "recovery-failed", "a crash left the file open, and what it left does not match the sealed state (%s); restore it "
					 "from a backup, or move it away with --quarantine", strerror(-r));
		if (found)
			found->aside = true;
	}
	return found ? 0 : -ENOMEM;
}

static int report(struct fsck *j, struct vault_file *f, const struct fsck_name *name, bool dirty, const char *why)
{
	struct fsck_found *found;
	struct stat st;

	if (dirty)
		found = vault_fsck_found(j, name, "dirty-copy", "it was copied while it was being written%s%s; copy it again from a vault that is not mounted, %s",
					 *why ? ", and cannot be adopted: " : "", why, *why ? "or restore it from a backup" : "or try --adopt");
	else if (fstat(f->fd, &st) == 0 && (uint64_t)st.st_size != vault_backing_size(f->size))
		found = vault_fsck_found(j, name, "size", "it has %jd bytes in the vault and should have %ju: it was cut or grown%s%s; restore it from a backup",
					 (intmax_t)st.st_size, (uintmax_t)vault_backing_size(f->size), *why ? ", and cannot be adopted: " : "", why);
	else
		found = vault_fsck_found(j, name, "tags-damaged", "the tags of its blocks do not match the sealed state: blocks were changed or rolled back%s%s; "
					 "restore it from a backup", *why ? ", and it cannot be adopted: " : "", why);
	if (found)
		found->aside = true;
	return found ? 0 : -ENOMEM;
}

static int adopt(struct fsck *j, struct vault_file *f, struct vault_cipher *c, const struct fsck_name *name, bool dirty)
{
	struct vault_adoption plan;
	struct fsck_found *found;
	char why[256] = "";
	int r = vault_adopt_examine(f, c, &plan, why, sizeof(why));

	if (r == -EBADMSG)
		return report(j, f, name, dirty, *why ? why : "it does not authenticate");
	if (r == 0)
		r = vault_fsck_audit(j, f->id, name, "a copy of a file that was being written is adopted");
	if (r == 0)
		r = vault_adopt(f, c, &plan);
	if (r == 0)
		r = check_clean(f, c);
	if (r < 0)
		return base_error_set(j->err, r, BASE_EXIT_FAILED, "a copy could not be adopted: %s", strerror(-r));
	found = vault_fsck_found(j, name, dirty ? "dirty-copy" : "size", "it was copied while it was being written; adopted with %ju bytes, %ju writes after the last "
				 "seal kept, %ju left out", (uintmax_t)plan.size, (uintmax_t)plan.taken, (uintmax_t)plan.dropped);
	if (found)
		found->f.action = VAULT_FINDING_ADOPTED;
	return found ? 0 : -ENOMEM;
}

static int settle(struct fsck *j, struct vault_file *f, struct vault_cipher *c, const struct fsck_name *name)
{
	struct kms_core *core = j->check.core;
	bool dirty = f->state.flags & VAULT_STATE_DIRTY, same_boot;
	int r;

	if (kms_dirty_crashed(core, vault_id(f->v), f->id, dirty ? f->state.session : NULL, &same_boot) == 0 && (dirty || !same_boot))
		return recoverable(j, f, c, name, same_boot);
	r = dirty ? -EBADMSG : check_clean(f, c);
	if (r != -EBADMSG)
		return r;
	return j->adopt && f->fd_writable ? adopt(j, f, c, name, dirty) : report(j, f, name, dirty, "");
}

int vault_fsck_state(struct fsck *j, struct vault_file *f, const struct fsck_name *name)
{
	struct vault_cipher *c = vault_cipher_get(f);
	int r;

	if (!c)
		return -ENOMEM;
	pthread_rwlock_wrlock(&f->lock);
	r = settle(j, f, c, name);
	pthread_rwlock_unlock(&f->lock);
	vault_cipher_put(c);
	return r;
}
