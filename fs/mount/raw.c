#include <linux/fuse.h>
#include <string.h>

#include "raw.h"

#define BULK 32768
#define INIT_FLAGS (FUSE_HANDLE_KILLPRIV_V2 | FUSE_PARALLEL_DIROPS | FUSE_CACHE_SYMLINKS | FUSE_SETXATTR_EXT)
#define INIT_DIRECT_MMAP (1u << 4) /* FUSE_DIRECT_IO_ALLOW_MMAP, in flags2 */

static _Thread_local bool kill_bits;

bool raw_kill(void)
{
	return kill_bits;
}

static const void *body(const struct fuse_in_header *in)
{
	return in + 1;
}

/* The long form of a setxattr request becomes the short one, without the flags. */
static size_t shorten_setxattr(struct fuse_in_header *in, size_t size)
{
	const size_t cut = sizeof(struct fuse_setxattr_in) - FUSE_COMPAT_SETXATTR_IN_SIZE;
	char *at = (char *)(in + 1) + FUSE_COMPAT_SETXATTR_IN_SIZE;

	kill_bits = ((const struct fuse_setxattr_in *)body(in))->setxattr_flags & FUSE_SETXATTR_ACL_KILL_SGID;
	memmove(at, at + cut, size - sizeof *in - sizeof(struct fuse_setxattr_in));
	in->len -= (uint32_t)cut;
	return size - cut;
}

size_t raw_request(struct raw *r, struct fuse_in_header *in, size_t size)
{
	const struct fuse_init_in *init;

	kill_bits = false;
	switch (in->opcode) {
	case FUSE_INIT:
		init = body(in);
		r->init_unique = in->unique;
		r->offered = init->flags;
		r->offered2 = init->flags & FUSE_INIT_EXT ? init->flags2 : 0;
		break;
	case FUSE_SETATTR:
		kill_bits = ((const struct fuse_setattr_in *)body(in))->valid & FATTR_KILL_SUIDGID;
		break;
	case FUSE_WRITE:
		kill_bits = ((const struct fuse_write_in *)body(in))->write_flags & FUSE_WRITE_KILL_SUIDGID;
		break;
	case FUSE_OPEN:
		kill_bits = ((const struct fuse_open_in *)body(in))->open_flags & FUSE_OPEN_KILL_SUIDGID;
		break;
	case FUSE_SETXATTR:
		if (r->long_setxattr && size >= sizeof *in + sizeof(struct fuse_setxattr_in))
			return shorten_setxattr(in, size);
		break;
	case FUSE_TMPFILE: /* has the form of a create, of the name "/", which no create can have */
		in->opcode = FUSE_CREATE;
		break;
	}
	return size;
}

bool raw_long(const struct fuse_in_header *in)
{
	switch (in->opcode) {
	case FUSE_READ:
		return ((const struct fuse_read_in *)body(in))->size >= BULK;
	case FUSE_WRITE:
		return ((const struct fuse_write_in *)body(in))->size >= BULK;
	case FUSE_SETATTR:
		return ((const struct fuse_setattr_in *)body(in))->valid & FATTR_SIZE;
	case FUSE_FSYNC:
	case FUSE_FSYNCDIR:
	case FUSE_FALLOCATE:
		return true;
	}
	return false;
}

bool raw_answer(struct raw *r, struct iovec *iov, int count, bool direct, bool shared)
{
	const struct fuse_out_header *out = iov[0].iov_base;
	struct fuse_init_out *init;

	if (!r->init_unique)
		return false;
	if (out->unique == r->init_unique && out->error == 0 && count >= 2 && iov[1].iov_len >= sizeof *init) {
		init = iov[1].iov_base;
		init->flags |= INIT_FLAGS & r->offered & ~(shared ? FUSE_CACHE_SYMLINKS : 0);
		r->long_setxattr = init->flags & FUSE_SETXATTR_EXT;
		if (direct && (init->flags & FUSE_INIT_EXT))
			init->flags2 |= INIT_DIRECT_MMAP & r->offered2;
	}
	r->init_unique = 0;
	return true;
}
