/*
 * A PKCS#11 module for tests: SoftHSM2 with faults. Loads the real module, copies its function list and puts its own
 * functions before a few entries. What goes wrong is said in the environment, read at every call:
 *   FAULT_CALL   name of the function that fails, e.g. C_Encrypt
 *   FAULT_RV     with which CKR number
 *   FAULT_COUNT  how many times (counted down here; the first calls fail)
 *   FAULT_INIT   how often C_Initialize succeeded is written here
 *   FAULT_LOGINS how often C_Login was called is written here
 *   FAULT_FLAGS  token flags to be added to C_GetTokenInfo's
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <p11-kit/pkcs11.h>

#define EXPORT __attribute__((visibility("default")))

static CK_FUNCTION_LIST list, *real;

static unsigned long number(const char *name)
{
	const char *text = getenv(name);

	return text ? strtoul(text, NULL, 0) : 0;
}

static void set_number(const char *name, unsigned long value)
{
	char text[32];

	snprintf(text, sizeof(text), "%lu", value);
	setenv(name, text, 1);
}

static CK_RV fault(const char *call)
{
	const char *which = getenv("FAULT_CALL");
	unsigned long count = number("FAULT_COUNT");

	if (!which || strcmp(which, call) != 0 || count == 0)
		return CKR_OK;
	set_number("FAULT_COUNT", count - 1);
	return number("FAULT_RV");
}

static CK_RV fault_initialize(void *args)
{
	CK_RV rv = fault("C_Initialize");

	rv = rv ? rv : real->C_Initialize(args);
	if (rv == CKR_OK)
		set_number("FAULT_INIT", number("FAULT_INIT") + 1);
	return rv;
}

static CK_RV fault_open_session(CK_SLOT_ID slot, CK_FLAGS flags, void *application, CK_NOTIFY notify, CK_SESSION_HANDLE *ret)
{
	CK_RV rv = fault("C_OpenSession");

	return rv ? rv : real->C_OpenSession(slot, flags, application, notify, ret);
}

static CK_RV fault_get_token_info(CK_SLOT_ID slot, CK_TOKEN_INFO *info)
{
	CK_RV rv = fault("C_GetTokenInfo");

	rv = rv ? rv : real->C_GetTokenInfo(slot, info);
	if (rv == CKR_OK)
		info->flags |= number("FAULT_FLAGS");
	return rv;
}

static CK_RV fault_login(CK_SESSION_HANDLE session, CK_USER_TYPE user, unsigned char *pin, CK_ULONG len)
{
	CK_RV rv = fault("C_Login");

	set_number("FAULT_LOGINS", number("FAULT_LOGINS") + 1);
	return rv ? rv : real->C_Login(session, user, pin, len);
}

static CK_RV fault_encrypt(CK_SESSION_HANDLE session, unsigned char *in, CK_ULONG in_len, unsigned char *out, CK_ULONG *out_len)
{
	CK_RV rv = fault("C_Encrypt");

	return rv ? rv : real->C_Encrypt(session, in, in_len, out, out_len);
}

static CK_RV fault_decrypt(CK_SESSION_HANDLE session, unsigned char *in, CK_ULONG in_len, unsigned char *out, CK_ULONG *out_len)
{
	CK_RV rv = fault("C_Decrypt");

	return rv ? rv : real->C_Decrypt(session, in, in_len, out, out_len);
}

static CK_RV fault_mechanism_info(CK_SLOT_ID slot, CK_MECHANISM_TYPE type, CK_MECHANISM_INFO *info)
{
	CK_RV rv = fault("C_GetMechanismInfo");

	return rv ? rv : real->C_GetMechanismInfo(slot, type, info);
}

static CK_RV fault_generate_key(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_ATTRIBUTE *attributes, CK_ULONG count,
				CK_OBJECT_HANDLE *ret)
{
	CK_RV rv = fault("C_GenerateKey");

	return rv ? rv : real->C_GenerateKey(session, mechanism, attributes, count, ret);
}

EXPORT CK_RV C_GetFunctionList(CK_FUNCTION_LIST **ret)
{
	CK_RV (*get)(CK_FUNCTION_LIST **);
	void *dl = dlopen(getenv("FAULT_MODULE"), RTLD_NOW | RTLD_LOCAL);

	if (!dl)
		return CKR_GENERAL_ERROR;
	*(void **)&get = dlsym(dl, "C_GetFunctionList");
	if (!get || get(&real) != CKR_OK)
		return CKR_GENERAL_ERROR;
	list = *real;
	list.C_Initialize = fault_initialize;
	list.C_OpenSession = fault_open_session;
	list.C_GetTokenInfo = fault_get_token_info;
	list.C_Login = fault_login;
	list.C_Encrypt = fault_encrypt;
	list.C_Decrypt = fault_decrypt;
	list.C_GetMechanismInfo = fault_mechanism_info;
	list.C_GenerateKey = fault_generate_key;
	*ret = &list;
	return CKR_OK;
}
