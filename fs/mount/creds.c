#include <linux/capability.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "creds.h"

void creds_limited(bool on)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = { { 0 } };
	const unsigned bit = CAP_TO_MASK(CAP_SYS_RESOURCE);

	if (syscall(SYS_capget, &head, data) < 0 || !(data[0].permitted & bit))
		return;
	if (on)
		data[0].effective &= ~bit;
	else
		data[0].effective |= bit;
	syscall(SYS_capset, &head, data);
}
