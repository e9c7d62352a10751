/* The open files of a vault, by backing inode. */
#include <errno.h>

#include "live.h"
#include "object.h"

static struct vault_file *find(struct vault *v, dev_t dev, ino_t ino)
{
	struct vault_file_key key = { dev, ino };
	struct vault_file *f;

	HASH_FIND(hh, v->files, &key, sizeof(key), f);
	return f;
}

static bool claimed(const struct vault *v, dev_t dev, ino_t ino)
{
	const struct vault_claim *c;

	for (c = v->claims; c; c = c->next)
		if (c->dev == dev && c->ino == ino)
			return true;
	return false;
}

void vault_live_add(struct vault_file *f)
{
	struct vault *v = f->v;

	pthread_mutex_lock(&v->live);
	while (claimed(v, f->dev, f->ino))
		pthread_cond_wait(&v->live_changed, &v->live);
	f->live_key = (struct vault_file_key){ f->dev, f->ino };
	f->listed = true;
	HASH_ADD(hh, v->files, live_key, sizeof(f->live_key), f);
	pthread_mutex_unlock(&v->live);
}

void vault_live_drop(struct vault_file *f)
{
	struct vault *v = f->v;

	if (!f->listed)
		return;
	pthread_mutex_lock(&v->live);
	while (f->holds > 0)
		pthread_cond_wait(&v->live_changed, &v->live);
	HASH_DEL(v->files, f);
	f->listed = false;
	pthread_mutex_unlock(&v->live);
}

struct vault_file *vault_live_hold(struct vault *v, dev_t dev, ino_t ino)
{
	struct vault_file *f;

	pthread_mutex_lock(&v->live);
	f = find(v, dev, ino);
	if (f)
		f->holds++;
	pthread_mutex_unlock(&v->live);
	return f;
}

void vault_live_release(struct vault_file *f)
{
	struct vault *v = f->v;

	pthread_mutex_lock(&v->live);
	if (--f->holds == 0)
		pthread_cond_broadcast(&v->live_changed);
	pthread_mutex_unlock(&v->live);
}

int vault_live_claim(struct vault *v, dev_t dev, ino_t ino, struct vault_claim *claim)
{
	int code = 0;

	pthread_mutex_lock(&v->live);
	if (find(v, dev, ino) || claimed(v, dev, ino)) {
		code = -EBUSY;
	} else {
		*claim = (struct vault_claim){ v, dev, ino, v->claims };
		v->claims = claim;
	}
	pthread_mutex_unlock(&v->live);
	return code;
}

void vault_live_unclaim(struct vault_claim *claim)
{
	struct vault *v = claim->v;
	struct vault_claim **p;

	pthread_mutex_lock(&v->live);
	for (p = &v->claims; *p; p = &(*p)->next)
		if (*p == claim) {
			*p = claim->next;
			break;
		}
	pthread_cond_broadcast(&v->live_changed);
	pthread_mutex_unlock(&v->live);
}

void vault_live_move(struct vault_move *m)
{
	pthread_mutex_lock(&m->v->live);
	m->next = m->v->moves;
	m->v->moves = m;
	pthread_mutex_unlock(&m->v->live);
}

void vault_live_moved(struct vault_move *m)
{
	struct vault_move **p;

	pthread_mutex_lock(&m->v->live);
	for (p = &m->v->moves; *p; p = &(*p)->next)
		if (*p == m) {
			*p = m->next;
			break;
		}
	pthread_mutex_unlock(&m->v->live);
}

bool vault_live_moving(struct vault *v, ino_t ino)
{
	const struct vault_move *m;

	pthread_mutex_lock(&v->live);
	for (m = v->moves; m && m->ino != ino; m = m->next)
		;
	pthread_mutex_unlock(&v->live);
	return m != NULL;
}
