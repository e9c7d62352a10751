/*
 * fs/mount/creds.h: what the kernel lets a worker do. Per thread: by raw system calls, because the C library's act on the whole process.
 */
#ifndef MOUNT_CREDS_H
#define MOUNT_CREDS_H

#include <stdbool.h>

/*
 * creds_limited(on): whether disk quotas bind this thread (CAP_SYS_RESOURCE is off, which it has when it runs as root). Workers begin with true;
 * threads that they start inherit it.
 */
void creds_limited(bool on);

#endif
