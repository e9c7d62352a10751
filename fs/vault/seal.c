/*
 * fs/vault/seal.c: state slots of an open file.
 */
#include <errno.h>
#include <sys/stat.h>

#include "base/log.h"
#include "content.h"
#include "keep.h"

/* The next state slot; st->n is set here. A failure leaves nobody knowing what the disk has. */
static int put_state(struct vault_file *f, struct vault_cipher *c, struct vault_state *st)
{
	const struct base_siv *siv = vault_cipher_state(c, f);
	uint8_t slot[VAULT_STATE_SIZE];
	int r;

	if (!siv)
		return -ENOMEM;
	st->n = f->state.n + 1;
	r = vault_state_seal(siv, VAULT_MAGIC_FILE, f->id, st, slot);
	if (r == 0)
		r = vault_pwrite_all(f->fd, slot, sizeof(slot), VAULT_HEADER_AREA(st->n & 1) + VAULT_WRAP_SIZE, NULL);
	if (r != 0) {
		f->adrift = true;
		return r;
	}
	f->state = *st;
	f->unsynced = true;
	return 0;
}

int vault_seal(struct vault_file *f, struct vault_cipher *c, uint32_t flags, uint64_t first, uint64_t end)
{
	struct vault_state st = {
		.horizon = f->next_seq - 1,
		.size = f->size,
		.flags = flags,
		.intent_first = first,
		.intent_end = end,
		.next_seq = f->next_seq,
	};
	int r;

	memcpy(st.acc, f->acc, sizeof(st.acc));
	/* Without its row a DIRTY file is a copy: the row is on the disk before the first change can be. */
	if ((flags & VAULT_STATE_DIRTY) && !(f->state.flags & VAULT_STATE_DIRTY) && !f->fresh && !f->row_durable) {
		if ((r = kms_audit_barrier(vault_core(f->v))) != 0)
			return r;
		f->row_durable = true;
	}
	/* A recovery goes on under the session whose row there is. */
	if (flags & VAULT_STATE_DIRTY)
		memcpy(st.session, f->cutting ? f->state.session : kms_session(vault_core(f->v)), sizeof(st.session));
	r = put_state(f, c, &st);
	if (r == 0)
		f->changed = false;
	return r;
}

int vault_seal_next(struct vault_file *f, struct vault_cipher *c, uint64_t next)
{
	struct vault_state st = f->state;

	if (next <= st.next_seq)
		return 0;
	st.next_seq = next;
	return put_state(f, c, &st);
}

int vault_seal_begin(struct vault_file *f, struct vault_cipher *c)
{
	if (f->state.flags & VAULT_STATE_DIRTY)
		return 0;
	return vault_seal(f, c, VAULT_STATE_DIRTY, 0, 0);
}

int vault_seal_quiet(struct vault_file *f, struct vault_cipher *c, uint32_t flags)
{
	struct vault_keep keep;
	int r, lost;

	vault_header_lock(f->v, f->ino);
	r = vault_keep_save(f->fd, &keep);
	if (r == 0)
		r = vault_seal(f, c, flags, 0, 0);
	if (r == 0 && (lost = vault_keep_restore(f->fd, &keep, f->has_mtime ? &f->mtime : NULL)) != 0)
		base_log(LOG_DEBUG, "times or mode of inode %ju not restored: %s", (uintmax_t)f->ino, strerror(-lost));
	vault_header_unlock(f->v, f->ino);
	return r;
}
