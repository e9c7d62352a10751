/*
 * fs/mount/ops.h: the FUSE operations. No lock is held while a reply is sent: a FORGET or RELEASE that follows it can free what the lock guards.
 */
#ifndef MOUNT_OPS_H
#define MOUNT_OPS_H

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>

#include "mount.h"
#include "resolve.h"

extern const struct fuse_lowlevel_ops ops_table;

/* Each file of operations fills its part of the table's functions. */
void ops_lookup(fuse_req_t req, fuse_ino_t parent, const char *name);
void ops_forget(fuse_req_t req, fuse_ino_t ino, uint64_t n);
void ops_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets);
void ops_readlink(fuse_req_t req, fuse_ino_t ino);
void ops_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev);
void ops_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode);
void ops_unlink(fuse_req_t req, fuse_ino_t parent, const char *name);
void ops_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name);
void ops_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name);
void ops_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t newparent, const char *newname, unsigned flags);
void ops_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t newparent, const char *newname);
void ops_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void ops_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi);
void ops_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi);
void ops_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void ops_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void ops_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off, struct fuse_file_info *fi);
void ops_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void ops_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);
void ops_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len, struct fuse_file_info *fi);
void ops_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi);
void ops_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void ops_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void ops_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void ops_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void ops_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);
void ops_statfs(fuse_req_t req, fuse_ino_t ino);
void ops_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags);
void ops_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size);
void ops_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size);
void ops_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name);

/* ops_dir_drop_all(m): the session is over: handles whose release never came. */
void ops_dir_drop_all(struct mount *m);

/* ---- shared by the operations ---- */

struct mount *ops_mount(fuse_req_t req);
struct kms_caller ops_caller(fuse_req_t req);

/* ops_errno(m, subject, err): the errno that an application sees for err (negative or 0); what does not authenticate is logged and recorded once
 * here, and is EIO. subject: the backing inode's number, for the log. */
int ops_errno(struct mount *m, uint64_t subject, int err);
/* ops_reply(req, subject, err): replies an error or success without data. */
void ops_reply(fuse_req_t req, uint64_t subject, int err);

/* What an object that the caller makes will be. */
struct ops_new {
	mode_t mode;   /* with type, umask applied */
	uid_t uid;     /* (uid_t)-1: not ours to choose */
	gid_t gid;
	bool inherits; /* the directory has a default ACL, which narrows mode */
};

/* ops_prepare(req, m, dir, mode, ret): for what the caller makes in dir. Directories in a set-gid directory get the bit. */
int ops_prepare(fuse_req_t req, struct mount *m, const struct resolve_dir *dir, mode_t mode, struct ops_new *ret);

/* ops_attr(m, inode, st): backing attributes in place become those of the clear object. */
void ops_attr(struct mount *m, struct inode *inode, struct stat *st);
/* ops_entry(m, inode, st, ret): an entry reply of an inode entered by inode_enter. */
void ops_entry(struct mount *m, struct inode *inode, const struct stat *st, struct fuse_entry_param *ret);
/* ops_reply_entry(req, inode, entry): replies; takes the lookup back when nobody got it; puts the inode. */
void ops_reply_entry(fuse_req_t req, struct inode *inode, const struct fuse_entry_param *entry);
/* ops_find(m, e, name, ret, entry): looks an entry in use up and enters it: one more lookup, *ret held. */
int ops_find(struct mount *m, struct resolve_entry *e, const char *name, struct inode **ret, struct fuse_entry_param *entry);

/* A file handle is the open content, with bit 0 set when it counts as a writer. */
static inline uint64_t ops_handle(const struct content *c, bool write)
{
	return (uint64_t)(uintptr_t)c | (write ? 1 : 0);
}

static inline struct content *ops_content(const struct fuse_file_info *fi)
{
	return (struct content *)((uintptr_t)fi->fh & ~(uintptr_t)1);
}

static inline bool ops_writes(int flags)
{
	return (flags & O_ACCMODE) != O_RDONLY;
}

/*
 * ops_kill(req, ino, fd): clears suid, and sgid with group execution or when the caller is not in the file's group, after a
 * change by somebody without CAP_FSETID; the kernel forgets the mode.
 */
void ops_kill(fuse_req_t req, fuse_ino_t ino, int fd);

/* ops_sgid_foreign(req, fd, ret): the file has sgid without group execution, and the caller, not root, is not in its group: a change of owner takes it
 * away; *ret is the mode without it. fd may be O_PATH. */
bool ops_sgid_foreign(fuse_req_t req, int fd, mode_t *ret);

/* ops_kill_caps(m, fd): takes the file's capabilities away, after a change of its content that the kernel leaves to us: past its page cache, or by an
 * open with O_TRUNC. */
void ops_kill_caps(const struct mount *m, int fd);
/* ops_file_times(m, inode, fd, ts): futimens under the lock that the vault's own header writes take. */
int ops_file_times(struct mount *m, struct inode *inode, int fd, const struct timespec ts[2]);

#endif
