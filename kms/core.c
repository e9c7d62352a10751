#include "kms/kms.h"
