#include "vault/file.h"
#include "internal.h"
