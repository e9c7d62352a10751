/*
 * fs/mount/raw.h: requests and answers as the kernel has them, before and after libfuse: what libfuse 3.14 does not pass on or cannot ask for.
 */
#ifndef MOUNT_RAW_H
#define MOUNT_RAW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct fuse_in_header;

/* Of a connection. INIT comes before anything else. */
struct raw {
	uint64_t init_unique;         /* of the INIT request, while it is answered */
	uint32_t offered, offered2;   /* the kernel's flags */
	bool long_setxattr;           /* setxattr requests carry flags of their own */
};

/*
 * raw_request(r, in, size): looks at a request of size bytes, for the operation that this thread runs next, and puts it into a form that libfuse
 * knows. Returns its size then.
 */
size_t raw_request(struct raw *r, struct fuse_in_header *in, size_t size);

/* raw_long(in): bulk data, fsync, truncation: somebody else should read the next request. */
bool raw_long(const struct fuse_in_header *in);

/* raw_kill(): with the request of this thread, the kernel asked that set-uid or set-gid bits are cleared. */
bool raw_kill(void);

/* raw_answer(r, iov, count, direct, shared): adds to the answer of INIT; true when it was that one. direct: shared maps although nothing is cached.
 * shared: -o shared: no symlink is cached. */
bool raw_answer(struct raw *r, struct iovec *iov, int count, bool direct, bool shared);

#endif
