#include "internal.h"

int
kms_api_builtin(struct kms_core *core)
{
	return 0;
}
