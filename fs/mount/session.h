/*
 * fs/mount/session.h: the conversation with the kernel: /dev/fuse, the worker threads, the INIT reply.
 */
#ifndef MOUNT_SESSION_H
#define MOUNT_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct mount;
struct session;
struct fuse_conn_info;

/* session_start(m, err): mounts m->mountpoint, starts the workers, waits until the kernel's INIT is answered; m->session is set. */
int session_start(struct mount *m, struct base_error *err);

/* session_join(s): waits until the kernel has ended the connection (or session_stop), and all workers are gone. Once. */
void session_join(struct session *s);
/* session_stop(s): makes the workers leave although the mount stands. */
void session_stop(struct session *s);
/* session_unmount(s, lazy): unmounts the mountpoint; -EBUSY. After a success the workers leave by themselves. */
int session_unmount(struct session *s, bool lazy);
void session_free(struct session *s);

/* The libfuse init operation. */
void session_init(void *userdata, struct fuse_conn_info *conn);

/* session_buffer(size): for the operation that runs in this thread, this worker's buffer for a reply (*size is cut to what it holds). */
char *session_buffer(size_t *size);

/* session_forget_attr(m, ino): the kernel asks again for the attributes of an inode. */
void session_forget_attr(struct mount *m, uint64_t ino);

/*
 * session_later(m, fn, req, ino, off, whence, c): runs fn with these in a thread of its own, in order, where it may wait for requests that the workers
 * answer; fn replies. -ENOMEM: fn does not run.
 */
struct fuse_req;
struct content;
typedef void (*session_later_fn)(struct fuse_req *req, uint64_t ino, int64_t off, int whence, struct content *c);
int session_later(struct mount *m, session_later_fn fn, struct fuse_req *req, uint64_t ino, int64_t off, int whence, struct content *c);
/* session_flush(m, ino): the kernel writes its dirty pages of an inode and drops them. Only from session_later's thread. */
void session_flush(struct mount *m, uint64_t ino);

#endif
