/*
 * Wrap slots: the same DEK under another version or another key (fs/FORMAT.md, "Rewrap"). A file has its old wrap until the new one is durable.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "live.h"
#include "slots.h"
#include "vault/move.h"
#include "keep.h"

#define TRIES 3 /* a rewrap can write the same header meanwhile */

/* Under the header lock: the slot, if the header is still the one that was unwrapped. -EAGAIN when it is not. */
static int write_slot(struct vault *v, int fd, ino_t ino, const struct kms_wrap *old, const struct kms_wrap *new, struct vault_header *header)
{
	struct vault_keep keep;
	int code;

	vault_header_lock(v, ino);
	code = vault_header_read(fd, VAULT_MAGIC_FILE, KMS_PURPOSE_FILE, header);
	if (code == 0 && (memcmp(header->wrap.key_id, old->key_id, BASE_ID_SIZE) != 0 || header->wrap.version != old->version))
		code = -EAGAIN;
	if (code == 0)
		code = vault_keep_save(fd, &keep);
	if (code == 0)
		code = vault_header_rewrap(fd, header, KMS_PURPOSE_FILE, new);
	if (code == 0)
		code = vault_keep_restore(fd, &keep, NULL);
	vault_header_unlock(v, ino);
	return code;
}

int vault_slots_move(struct vault *v, const struct kms_caller *caller, const char *path, int fd, ino_t ino, const uint8_t *zone,
		     struct vault_header *header, struct base_error *err)
{
	struct kms_subject subject = { .purpose = KMS_PURPOSE_FILE, .path = path };
	struct kms_core *core = vault_core(v);
	struct kms_wrap old = header->wrap, new;
	unsigned hold;
	int code;

	memcpy(subject.vault_id, header->vault_id, BASE_ID_SIZE);
	memcpy(subject.file_id, header->file_id, BASE_ID_SIZE);
	hold = kms_wrap_hold(core);
	if (zone)
		code = kms_dek_move(core, caller, &subject, &old, zone, &new, err);
	else
		code = kms_dek_rewrap(core, caller, &subject, &old, &new, err);
	if (code == 0)
		code = write_slot(v, fd, ino, &old, &new, header);
	kms_wrap_release(core, hold);
	return code;
}

int vault_slots_erase(struct vault *v, int fd, ino_t ino, uint64_t seq, struct vault_header *header)
{
	struct vault_keep keep;
	int code;

	vault_header_lock(v, ino);
	code = vault_keep_save(fd, &keep);
	if (code == 0 && keep.st.st_ino != ino) {
		code = -ESTALE;
	} else if (code == 0) {
		code = vault_header_read(fd, VAULT_MAGIC_FILE, KMS_PURPOSE_FILE, header);
		if (code == 0 && header->wrap_seq == seq && header->other_used) {
			code = vault_header_erase(fd, header);
			if (code == 0)
				code = vault_keep_restore(fd, &keep, NULL);
		}
	}
	vault_header_unlock(v, ino);
	return code;
}

/* Records before headers: a DIRTY header must not be durable before the dirty set's row, nor a wrap before its record. */
static int make_durable(struct vault *v, int fd)
{
	int code = kms_audit_barrier(vault_core(v));

	return code < 0 ? code : fdatasync(fd) < 0 ? -errno : 0;
}

/* The live slot becomes the empty one, if nobody has written the header since. */
static int take_back(struct vault *v, int fd, ino_t ino, uint64_t seq, struct vault_header *header)
{
	struct vault_keep keep;
	int code;

	vault_header_lock(v, ino);
	code = vault_keep_save(fd, &keep);
	if (code == 0)
		code = vault_header_read(fd, VAULT_MAGIC_FILE, KMS_PURPOSE_FILE, header);
	if (code == 0 && header->wrap_seq == seq && header->other_used) {
		header->live = !header->live;
		code = vault_header_erase(fd, header);
		if (code == 0)
			code = vault_keep_restore(fd, &keep, NULL);
	}
	vault_header_unlock(v, ino);
	return code;
}

static int begin(struct vault *v, const struct kms_caller *caller, const char *path, const uint8_t *zone, struct vault_header *header,
		 struct vault_move *m, struct base_error *err)
{
	int code = vault_header_read(m->fd, VAULT_MAGIC_FILE, KMS_PURPOSE_FILE, header);

	if (code == 0 && memcmp(header->vault_id, vault_id(v), BASE_ID_SIZE) != 0)
		code = -EBADMSG;
	if (code == 0 && memcmp(header->wrap.key_id, zone, BASE_ID_SIZE) == 0)
		code = -EALREADY;
	if (code == 0 && header->other_used) /* it is about to be overwritten: the live one must be durable */
		code = make_durable(v, m->fd);
	if (code == 0)
		code = vault_slots_move(v, caller, path, m->fd, m->ino, zone, header, err);
	if (code == 0)
		m->seq = header->wrap_seq;
	return code;
}

int vault_move_begin(struct vault *v, const struct kms_caller *caller, const char *path, int fd, const uint8_t zone[BASE_ID_SIZE],
		     struct vault_move *ret, struct base_error *err)
{
	struct vault_header *header = malloc(sizeof(*header));
	struct stat st;
	int code = -EAGAIN, i;

	if (!header || fstat(fd, &st) < 0) {
		code = header ? -errno : -ENOMEM;
		free(header);
		return code;
	}
	*ret = (struct vault_move){ .v = v, .fd = fd, .ino = st.st_ino };
	vault_live_move(ret);
	for (i = 0; i < TRIES && code == -EAGAIN; i++)
		code = begin(v, caller, path, zone, header, ret, err);
	if (code == 0 && (code = make_durable(v, fd)) < 0)
		(void)take_back(v, fd, ret->ino, ret->seq, header);
	if (code < 0)
		vault_live_moved(ret);
	free(header);
	return code == -EAGAIN ? -EBUSY : code;
}

void vault_move_end(struct vault_move *m, bool stays)
{
	struct kms_caller self = kms_caller_self(KMS_VIA_SERVICE);
	struct vault_header *header = malloc(sizeof(*header));
	struct kms_subject subject = { .purpose = KMS_PURPOSE_FILE };
	int code = -ENOMEM;

	if (header && stays)
		code = vault_slots_erase(m->v, m->fd, m->ino, m->seq, header);
	else if (header)
		code = take_back(m->v, m->fd, m->ino, m->seq, header);
	vault_live_moved(m);
	if (code < 0)
		base_log(LOG_ERR, "inode %ju keeps two wraps after a move between zones: %s; `keepctl rewrap` erases the older one", (uintmax_t)m->ino,
			 strerror(-code));
	if (code == 0 && !stays) {
		memcpy(subject.vault_id, header->vault_id, BASE_ID_SIZE);
		memcpy(subject.file_id, header->file_id, BASE_ID_SIZE);
		(void)kms_audit_write(vault_core(m->v), &self, "zone-move-undone", &subject, 0, "the file stays where it was");
	}
	free(header);
}
