/* Verifying one file: whose eyes it is seen with, its header page, its size, its xattrs. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "look.h"

#define BEGINNINGS 1000 /* of one file, before it counts as unreadable */
#define ADVICE "restore the file from a backup"

int vault_look_tell(struct vault_look *l, const char *problem, const char *format, ...)
{
	char detail[LOOK_DETAIL];
	va_list ap;

	va_start(ap, format);
	vsnprintf(detail, sizeof(detail), format, ap);
	va_end(ap);
	return l->w->problem(l->w->ctx, problem, detail);
}

/* ---- slices ---- */

static int state_read(struct vault_look *l, uint64_t *ret_n)
{
	const struct base_siv *siv = vault_cipher_state(l->c, l->f);
	uint8_t page[VAULT_PAGE];
	struct vault_state state;
	int r = siv ? vault_pread_zero(l->fd, page, sizeof(page), 0) : -ENOMEM;

	if (r == 0)
		r = vault_state_open(siv, VAULT_MAGIC_FILE, l->f->id, page, &state);
	*ret_n = r == 0 ? state.n : 0;
	return r == -ENOMEM ? r : 0;
}

/* Nobody has the file open now; has anybody written it since we opened it? */
static int begin_own(struct vault_look *l)
{
	uint64_t n;
	int r;

	if (vault_live_claim(l->w->v, l->st->st_dev, l->st->st_ino, &l->claim) != 0)
		return -EAGAIN;
	l->f = l->own;
	if (!(l->c = vault_cipher_get(l->f)))
		r = -ENOMEM;
	else if ((r = state_read(l, &n)) == 0 && n != l->f->state.n)
		r = -EAGAIN;
	if (r != 0) {
		vault_cipher_put(l->c);
		vault_live_unclaim(&l->claim);
	}
	return r;
}

static int begin_live(struct vault_look *l)
{
	int r;

	l->f = vault_live_hold(l->w->v, l->st->st_dev, l->st->st_ino);
	if (!l->f)
		return -EAGAIN;
	if (!l->f->ready || l->f->serial != l->serial)
		r = -EAGAIN;
	else if (!(l->c = vault_cipher_get(l->f)))
		r = -ENOMEM;
	else if ((r = vault_read_lock(l->f, l->c)) != 0)
		vault_cipher_put(l->c);
	if (r != 0)
		vault_live_release(l->f);
	return r;
}

int vault_look_begin(struct vault_look *l)
{
	return l->own ? begin_own(l) : begin_live(l);
}

void vault_look_end(struct vault_look *l)
{
	if (!l->own)
		pthread_rwlock_unlock(&l->f->lock);
	vault_cipher_put(l->c);
	if (l->own)
		vault_live_unclaim(&l->claim);
	else
		vault_live_release(l->f);
	l->f = NULL;
}

/* ---- opening ---- */

/* The caller's right to a file that is open already: decided and recorded, no key is moved. */
static int grant(struct vault_look *l, struct vault_file *f, bool *ret_denied)
{
	int r = l->granted || l->header_told ? 0 : vault_file_grant(f, l->w->caller, l->clear, false);

	l->granted = true;
	*ret_denied = r != 0;
	return r;
}

static int open_fd(struct vault_look *l, bool check, struct base_error *err)
{
	int fd = fcntl(l->fd, F_DUPFD_CLOEXEC, 0);

	return fd < 0 ? -errno : vault_file_open_apart(l->w->v, l->w->caller, l->clear, fd, check, &l->own, err);
}

static bool needs_recovery(const struct vault_file *f)
{
	bool same_boot;

	return (f->state.flags & VAULT_STATE_DIRTY) ||
	       kms_dirty_crashed(vault_core(f->v), vault_id(f->v), f->id, NULL, &same_boot) == 0;
}

/* A file that a crash left is opened as a mount opens it, which recovers it; where that fails it is looked at as it is, if it is clean. */
static int open_own(struct vault_look *l, struct base_error *err)
{
	struct vault_file *looked;
	int r = open_fd(l, false, err);

	if (r != 0 || !needs_recovery(l->own))
		return r;
	looked = l->own;
	l->own = NULL;
	r = open_fd(l, true, err);
	if (r == 0) {
		l->recovered |= l->own->state.n != looked->state.n;
		vault_file_free(looked);
	} else if (!(looked->state.flags & VAULT_STATE_DIRTY)) {
		l->own = looked;
		r = 0;
	} else {
		vault_file_free(looked);
		if (!err->text[0])
			base_error_set(err, r, BASE_EXIT_INTEGRITY, "%s", r == -EROFS ? "a crash left it half written, and it cannot be recovered on a "
				       "read-only filesystem" : "it was copied while it was being written, or cannot be recovered after a crash");
	}
	return r;
}

/* Why a file could not be opened, unless the header page has said it already. */
static int open_failed(struct vault_look *l, int code, const struct base_error *err)
{
	const char *why = err->text[0] ? err->text : code == -EBADMSG ? "the wrapped key, the key commitment or the sealed state does not authenticate" :
			  strerror(-code);

	if (l->header_told)
		return 0;
	l->header_told = true;
	if (code == -EBADMSG || code == -EIO)
		return vault_look_tell(l, "header-damaged", "cannot open: %s; " ADVICE, why);
	return vault_look_tell(l, code == -EACCES || code == -EKEYREVOKED ? "denied" : "unreadable", "cannot read: %s", why);
}

/* ---- the header page ---- */

static int page_read(struct vault_look *l, uint8_t page[VAULT_PAGE])
{
	int r;

	vault_header_lock(l->w->v, l->st->st_ino);
	r = vault_pread_zero(l->fd, page, VAULT_PAGE, 0);
	vault_header_unlock(l->w->v, l->st->st_ino);
	return r;
}

static int page_tell(struct vault_look *l, const char *text)
{
	if (l->header_told || !*text)
		return 0;
	l->header_told = true;
	return vault_look_tell(l, "header-damaged", "the header page: %s; " ADVICE, text);
}

/* What of page 0 and of the backing file's size can be seen within a slice. */
static int page_check(struct vault_look *l, char *text, size_t cap, struct stat *ret, bool *ret_size_wrong)
{
	uint8_t page[VAULT_PAGE];
	struct vault_state state;
	const struct base_siv *siv = vault_cipher_state(l->c, l->f);
	int r = siv ? page_read(l, page) : -ENOMEM;

	if (r == 0 && fstat(l->fd, ret) != 0)
		r = -errno;
	if (r != 0)
		return r;
	if (vault_verify_page(page, VAULT_MAGIC_FILE, KMS_PURPOSE_FILE, vault_id(l->w->v), text, cap) && !*text) {
		if (memcmp(page + 32, l->f->id, BASE_ID_SIZE) != 0 || memcmp(page + 64, l->f->keys->commitment, 32) != 0)
			snprintf(text, cap, "the file's id or its key commitment is not the one that it was opened with");
		else if (vault_state_open(siv, VAULT_MAGIC_FILE, l->f->id, page, &state) != 0 || state.n != l->f->state.n)
			snprintf(text, cap, "the sealed state is not the one that was written last");
	}
	*ret_size_wrong = !(l->f->state.flags & VAULT_STATE_DIRTY) && (uint64_t)ret->st_size != vault_backing_size(l->f->size);
	return 0;
}

static int look_page(struct vault_look *l)
{
	char text[LOOK_DETAIL / 2] = "";
	bool size_wrong = false;
	uint64_t size;
	struct stat st;
	int r = vault_look_begin(l);

	if (r != 0)
		return r;
	r = page_check(l, text, sizeof(text), &st, &size_wrong);
	size = l->f->size;
	vault_look_end(l);
	if (r == -EIO)
		return vault_look_tell(l, "unreadable", "the header page cannot be read from the disk; " ADVICE);
	if (r == 0)
		r = page_tell(l, text);
	if (r != 0 || !size_wrong || l->size_told)
		return r;
	l->size_told = true;
	return vault_look_tell(l, "size", "the backing file has %jd bytes, and a content of %ju bytes needs %ju: it was cut or grew; " ADVICE,
			       (intmax_t)st.st_size, (uintmax_t)size, (uintmax_t)vault_backing_size(size));
}

/* ---- xattrs ---- */

static int look_xattrs(struct vault_look *l)
{
	struct vault_file *f = l->own ? l->own : vault_live_hold(l->w->v, l->st->st_dev, l->st->st_ino);
	int r = f && f->ready && (l->own || f->serial == l->serial) ? 0 : -EAGAIN;
	char first[256];
	struct vault_xattr x;

	if (r == 0 && (r = vault_file_xattr(f, &x)) == 0)
		r = vault_xattr_check(&x, l->fd, first, sizeof(first));
	if (f && !l->own)
		vault_live_release(f);
	if (r > 0)
		return vault_look_tell(l, "xattr-damaged", "%d extended attributes do not authenticate; setfattr -x %s on the backing file removes the first",
				       r, first);
	return r == -EOPNOTSUPP ? 0 : r;
}

/* ---- all of it ---- */

static int look_all(struct vault_look *l)
{
	int r = look_page(l);

	if (r == 0)
		r = vault_look_tags(l);
	if (r == 0)
		r = vault_look_data(l);
	return r == 0 ? look_xattrs(l) : r;
}

/* Nobody has the file open: open it ourselves, claimed meanwhile. */
static int look_closed(struct vault_look *l)
{
	struct base_error err = { .code = 0 };
	char text[LOOK_DETAIL / 2] = "";
	uint8_t page[VAULT_PAGE];
	bool usable = false;
	int r, told;

	if (vault_live_claim(l->w->v, l->st->st_dev, l->st->st_ino, &l->claim) != 0)
		return -EAGAIN;
	r = page_read(l, page);
	if (r == 0)
		usable = vault_verify_page(page, VAULT_MAGIC_FILE, KMS_PURPOSE_FILE, vault_id(l->w->v), text, sizeof(text));
	if (usable)
		r = open_own(l, &err);
	vault_live_unclaim(&l->claim);
	told = page_tell(l, text);
	if (told != 0)
		r = told;
	else if (r == -ENOMEM)
		;
	else if (r != 0)
		r = open_failed(l, r, &err);
	else if (usable)
		r = look_all(l);
	vault_file_free(l->own);
	l->own = NULL;
	return r;
}

static int look_once(struct vault_look *l)
{
	struct vault_file *f = vault_live_hold(l->w->v, l->st->st_dev, l->st->st_ino);
	bool ready = f && f->ready, denied = false;
	int r = 0;

	if (!f)
		return look_closed(l);
	if (ready) {
		l->serial = f->serial;
		r = grant(l, f, &denied);
	}
	vault_live_release(f);
	if (!ready)
		return -EAGAIN;
	if (denied && r != -EIO)
		return r == -ENOMEM ? r : vault_look_tell(l, r == -EACCES || r == -EKEYREVOKED ? "denied" : "unreadable", "cannot read: %s", strerror(-r));
	return look_all(l);
}

int vault_verify_file(struct vault_verify *w, int fd, const struct stat *st, const char *clear)
{
	struct vault_look l = { .w = w, .fd = fd, .st = st, .clear = clear };
	int r = -EAGAIN;

	(void)posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	for (unsigned i = 0; i < BEGINNINGS && r == -EAGAIN; i++) {
		if (i > 0)
			usleep(i < 20 ? 500 * i : 10000);
		r = look_once(&l);
	}
	if (r == -EAGAIN)
		r = vault_look_tell(&l, "unreadable", "cannot read: it was opened, written and closed the whole time; run scrub on it again");
	else if (r < 0 && r != -ENOMEM && r != -ECANCELED)
		r = vault_look_tell(&l, "unreadable", "cannot read: %s", strerror(-r));
	w->recovered += l.recovered;
	if (r == 0 && (uint64_t)st->st_size > l.covered)
		r = w->progress(w->ctx, (uint64_t)st->st_size - l.covered);
	(void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	return r;
}
