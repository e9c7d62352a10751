/*
 * fs/mount/device.h: mounting and unmounting: directly as root, through fusermount3 otherwise.
 */
#ifndef MOUNT_DEVICE_H
#define MOUNT_DEVICE_H

#include <stdbool.h>

#include "base/error.h"

struct mount;

/* device_mount(m, ret_fd, err): mounts; *ret_fd is the connection's /dev/fuse. */
int device_mount(struct mount *m, int *ret_fd, struct base_error *err);
/* device_unmount(mountpoint, lazy): -errno; -EBUSY. */
int device_unmount(const char *mountpoint, bool lazy);
/* device_clone(fd): another fd of the same connection (FUSE_DEV_IOC_CLONE), -errno. */
int device_clone(int fd);
/* device_readahead(mountpoint, kib): raises the mount's read-ahead where we may. */
void device_readahead(const char *mountpoint, unsigned kib);
/* device_is_mount(path): something is mounted there. */
bool device_is_mount(const char *path);

#endif
