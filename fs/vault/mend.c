/*
 * fs/vault/mend.c: a file whose memory and disk parted when a write of its tags or its state failed. The disk decides, as after a crash
 * (fs/FORMAT.md, "Recover, same boot").
 */
#include <errno.h>
#include <stdlib.h>

#include "content.h"

/* The state as the disk has it: of a seal that failed nobody knows whether it is there. */
static int reload(struct vault_file *f, struct vault_cipher *c)
{
	const struct base_siv *siv = vault_cipher_state(c, f);
	struct vault_header *h = malloc(sizeof(*h));
	uint64_t next = f->next_seq;
	int r = siv && h ? vault_header_read(f->fd, VAULT_MAGIC_FILE, KMS_PURPOSE_FILE, h) : -ENOMEM;

	if (r == 0 && memcmp(h->file_id, f->id, BASE_ID_SIZE) != 0)
		r = -EBADMSG;
	if (r == 0)
		r = vault_state_open(siv, VAULT_MAGIC_FILE, f->id, h->page, &f->state);
	if (r == 0 && (f->state.flags & VAULT_STATE_DIRTY) && memcmp(f->state.session, kms_session(vault_core(f->v)), BASE_ID_SIZE) != 0)
		r = -EBADMSG;
	if (r == 0) {
		f->size = f->state.size;
		memcpy(f->acc, f->state.acc, sizeof(f->acc));
		vault_tags_done(f);
		r = vault_tags_init(f, h->page);
	}
	if (r == 0 && (f->state.flags & VAULT_STATE_DIRTY))
		r = vault_recover(f, c, true);
	/* A sequence that was used once never comes again, whether its slot reached the disk or not. */
	if (next > f->next_seq)
		f->next_seq = next;
	free(h);
	return r;
}

int vault_mend(struct vault_file *f, struct vault_cipher *c)
{
	int r;

	if (!f->adrift)
		return 0;
	r = reload(f, c);
	if (r == -EBADMSG)
		return vault_broken(f, -1, "the file does not authenticate after a failed write");
	if (r == 0)
		f->adrift = false;
	return r;
}

int vault_read_lock(struct vault_file *f, struct vault_cipher *c)
{
	int r;

	for (;;) {
		pthread_rwlock_rdlock(&f->lock);
		if (!f->adrift)
			return 0;
		pthread_rwlock_unlock(&f->lock);
		pthread_rwlock_wrlock(&f->lock);
		r = vault_mend(f, c);
		pthread_rwlock_unlock(&f->lock);
		if (r != 0)
			return r;
	}
}
