/* PKCS#11 return values: their names, what they mean for recovery, and their translation. */
#include <errno.h>
#include <stdio.h>

#include <openssl/err.h>

#include "internal.h"

#ifndef CKR_AEAD_DECRYPT_FAILED
#define CKR_AEAD_DECRYPT_FAILED 0x42UL /* PKCS#11 3.0 */
#endif

struct ckr {
	CK_RV rv;
	enum hsm_fault fault;
	const char *name;
};
#define CKR(name, fault) { name, HSM_FAULT_##fault, #name }

static const struct ckr table[] = {
	CKR(CKR_OK, NONE),
	CKR(CKR_ENCRYPTED_DATA_INVALID, DATA),
	CKR(CKR_ENCRYPTED_DATA_LEN_RANGE, DATA),
	CKR(CKR_AEAD_DECRYPT_FAILED, DATA),
	CKR(CKR_DATA_INVALID, DATA),
	CKR(CKR_DATA_LEN_RANGE, DATA),
	CKR(CKR_SIGNATURE_INVALID, DATA),
	CKR(CKR_SIGNATURE_LEN_RANGE, DATA),
	CKR(CKR_OPERATION_ACTIVE, RETRY),
	CKR(CKR_OPERATION_NOT_INITIALIZED, RETRY),
	CKR(CKR_FUNCTION_CANCELED, RETRY),
	CKR(CKR_SESSION_HANDLE_INVALID, SESSION),
	CKR(CKR_SESSION_CLOSED, SESSION),
	CKR(CKR_USER_NOT_LOGGED_IN, SESSION),
	CKR(CKR_OBJECT_HANDLE_INVALID, SESSION),
	CKR(CKR_KEY_HANDLE_INVALID, SESSION),
	CKR(CKR_DEVICE_ERROR, DEVICE),
	CKR(CKR_DEVICE_REMOVED, DEVICE),
	CKR(CKR_TOKEN_NOT_PRESENT, DEVICE),
	CKR(CKR_TOKEN_NOT_RECOGNIZED, DEVICE),
	CKR(CKR_SLOT_ID_INVALID, DEVICE),
	CKR(CKR_GENERAL_ERROR, GENERAL),
	CKR(CKR_FUNCTION_FAILED, GENERAL),
	CKR(CKR_CRYPTOKI_NOT_INITIALIZED, GENERAL),
	CKR(CKR_MUTEX_BAD, GENERAL),
	CKR(CKR_MUTEX_NOT_LOCKED, GENERAL),
	CKR(CKR_MECHANISM_INVALID, MECHANISM),
	CKR(CKR_MECHANISM_PARAM_INVALID, MECHANISM),
	CKR(CKR_FUNCTION_NOT_SUPPORTED, MECHANISM),
	CKR(CKR_HOST_MEMORY, MEMORY),
	CKR(CKR_DEVICE_MEMORY, MEMORY),
	CKR(CKR_PIN_INCORRECT, PIN),
	CKR(CKR_PIN_INVALID, PIN),
	CKR(CKR_PIN_LEN_RANGE, PIN),
	CKR(CKR_PIN_EXPIRED, PIN),
	CKR(CKR_PIN_LOCKED, PIN),
	CKR(CKR_USER_PIN_NOT_INITIALIZED, PIN),
	CKR(CKR_ARGUMENTS_BAD, OTHER),
	CKR(CKR_CANT_LOCK, OTHER),
	CKR(CKR_ATTRIBUTE_READ_ONLY, OTHER),
	CKR(CKR_ATTRIBUTE_SENSITIVE, OTHER),
	CKR(CKR_ATTRIBUTE_TYPE_INVALID, OTHER),
	CKR(CKR_ATTRIBUTE_VALUE_INVALID, OTHER),
	CKR(CKR_ACTION_PROHIBITED, OTHER),
	CKR(CKR_BUFFER_TOO_SMALL, OTHER),
	CKR(CKR_KEY_SIZE_RANGE, OTHER),
	CKR(CKR_KEY_TYPE_INCONSISTENT, OTHER),
	CKR(CKR_KEY_FUNCTION_NOT_PERMITTED, OTHER),
	CKR(CKR_SESSION_COUNT, OTHER),
	CKR(CKR_SESSION_READ_ONLY, OTHER),
	CKR(CKR_TEMPLATE_INCOMPLETE, OTHER),
	CKR(CKR_TEMPLATE_INCONSISTENT, OTHER),
	CKR(CKR_TOKEN_WRITE_PROTECTED, OTHER),
	CKR(CKR_USER_ALREADY_LOGGED_IN, OTHER),
	CKR(CKR_USER_ANOTHER_ALREADY_LOGGED_IN, OTHER),
	CKR(CKR_RANDOM_NO_RNG, OTHER),
	CKR(CKR_CRYPTOKI_ALREADY_INITIALIZED, OTHER),
	CKR(CKR_FUNCTION_REJECTED, OTHER),
};

static const struct ckr *lookup(CK_RV rv)
{
	size_t i;

	for (i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		if (table[i].rv == rv)
			return &table[i];
	return NULL;
}

const char *hsm_ckr_name(CK_RV rv)
{
	static _Thread_local char other[40];
	const struct ckr *c = lookup(rv);

	if (c)
		return c->name;
	snprintf(other, sizeof(other), "%s 0x%lx", rv >= CKR_VENDOR_DEFINED ? "CKR_VENDOR_DEFINED" : "CKR", rv);
	return other;
}

enum hsm_fault hsm_ckr_fault(CK_RV rv)
{
	const struct ckr *c = lookup(rv);

	return c ? c->fault : HSM_FAULT_OTHER;
}

int hsm_ckr_error(struct base_error *err, CK_RV rv, const char *what, const char *token)
{
	const char *name = hsm_ckr_name(rv);

	switch (hsm_ckr_fault(rv)) {
	case HSM_FAULT_SESSION:
	case HSM_FAULT_DEVICE:
	case HSM_FAULT_GENERAL:
		return base_error_set(err, -ENOKEY, BASE_EXIT_UNREACHABLE,
				      "cannot %s: token \"%s\" does not work (%s); check that it is connected, "
				      "it is tried again every second", what, token, name);
	case HSM_FAULT_MECHANISM:
		return base_error_set(err, -EOPNOTSUPP, BASE_EXIT_FAILED,
				      "cannot %s: token \"%s\" lacks the mechanism (%s); use one with CKM_AES_GCM", what, token, name);
	case HSM_FAULT_MEMORY:
		return base_error_set(err, -ENOMEM, BASE_EXIT_FAILED, "cannot %s: token \"%s\" is out of memory (%s)",
				      what, token, name);
	case HSM_FAULT_PIN:
		return base_error_set(err, -EKEYREJECTED, BASE_EXIT_PIN, "cannot %s: token \"%s\" refused the PIN (%s)",
				      what, token, name);
	default:
		return base_error_set(err, -EIO, BASE_EXIT_FAILED, "cannot %s: token \"%s\" answered %s", what, token, name);
	}
}

CK_RV hsm_ckr_libp11(void)
{
	unsigned long e = ERR_peek_last_error();
	CK_RV rv = CKR_GENERAL_ERROR;

	if (e && ERR_GET_LIB(e) == ERR_get_CKR_code() && ERR_GET_REASON(e))
		rv = (CK_RV)ERR_GET_REASON(e);
	ERR_clear_error();
	return rv;
}
