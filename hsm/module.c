/* The PKCS#11 module: loading, libp11's view of it, and finding our token in it. */
#include <dlfcn.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include <openssl/err.h>

#include "base/clock.h"
#include "internal.h"

const char *hsm_module_default(void)
{
	static const char *const places[] = {
		"/usr/lib/softhsm/libsofthsm2.so",
#if defined(__x86_64__)
		"/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
#elif defined(__aarch64__)
		"/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
#endif
		"/usr/lib64/softhsm/libsofthsm2.so",
		"/usr/local/lib/softhsm/libsofthsm2.so",
	};
	size_t i;

	for (i = 0; i < sizeof(places) / sizeof(places[0]); i++)
		if (access(places[i], R_OK) == 0)
			return places[i];
	return places[0];
}

/*
 * First and by ourselves: libp11 accepts that it is done, and some of its versions forget CKF_OS_LOCKING_OK.
 */
static int initialize(struct hsm *h, struct base_error *err)
{
	CK_C_INITIALIZE_ARGS args = { .flags = CKF_OS_LOCKING_OK };
	CK_RV (*get_list)(CK_FUNCTION_LIST **);
	CK_RV rv;

	*(void **)&get_list = dlsym(h->dl, "C_GetFunctionList");
	if (!get_list)
		return base_error_set(err, -ENOKEY, BASE_EXIT_UNREACHABLE,
				      "%s is not a PKCS#11 module (it has no C_GetFunctionList); check the configured module path",
				      h->module);
	rv = get_list(&h->f);
	if (rv == CKR_OK)
		rv = h->f->C_Initialize(&args);
	if (rv == CKR_OK || rv == CKR_CRYPTOKI_ALREADY_INITIALIZED)
		return 0;
	if (rv == CKR_CANT_LOCK)
		return base_error_set(err, -EOPNOTSUPP, BASE_EXIT_FAILED,
				      "PKCS#11 module %s cannot be used from several threads (CKR_CANT_LOCK)", h->module);
	return base_error_set(err, -ENOKEY, BASE_EXIT_UNREACHABLE, "PKCS#11 module %s does not start: %s", h->module,
			      hsm_ckr_name(rv));
}

int hsm_module_load(struct hsm *h, struct base_error *err)
{
	int ret;

	h->reset_at = base_clock_mono_ns();
	if (h->token_dir) {
		hsm_softhsm_restore(h->token_dir);
		ret = hsm_softhsm_configure(h->token_dir, h->conf_path, err);
		if (ret < 0)
			return ret;
	}
	h->dl = dlopen(h->module, RTLD_NOW | RTLD_LOCAL);
	if (!h->dl)
		return base_error_set(err, -ENOKEY, BASE_EXIT_UNREACHABLE,
				      "cannot load the PKCS#11 module: %s; install it or correct its path", dlerror());
	ret = initialize(h, err);
	if (ret < 0)
		goto fail;
	ERR_clear_error();
	h->ctx = PKCS11_CTX_new();
	if (!h->ctx || PKCS11_CTX_load(h->ctx, h->module) < 0) {
		ret = base_error_set(err, -ENOKEY, BASE_EXIT_UNREACHABLE, "libp11 cannot load PKCS#11 module %s: %s", h->module,
				     hsm_ckr_name(hsm_ckr_libp11()));
		if (h->ctx)
			PKCS11_CTX_free(h->ctx);
		h->ctx = NULL;
		h->f->C_Finalize(NULL);
		goto fail;
	}
	return 0;
fail:
	h->f = NULL;
	dlclose(h->dl);
	h->dl = NULL;
	return ret;
}

void hsm_module_release(struct hsm *h)
{
	if (h->slots)
		PKCS11_release_all_slots(h->ctx, h->slots, h->slot_count);
	h->slots = NULL;
	h->slot = NULL;
	h->slot_count = 0;
	ERR_clear_error();
}

void hsm_module_unload(struct hsm *h)
{
	hsm_module_release(h);
	if (h->ctx) {
		PKCS11_CTX_unload(h->ctx); /* finalizes the module */
		PKCS11_CTX_free(h->ctx);
		h->ctx = NULL;
	}
	h->f = NULL;
	if (h->dl)
		dlclose(h->dl);
	h->dl = NULL;
	ERR_clear_error();
}

static int no_token(struct hsm *h, unsigned present, struct base_error *err)
{
	/* A token that we have worked with is away; one that we never saw does not exist, unless every slot is empty. */
	if (present == 0 || h->generation > 0)
		return base_error_set(err, -ENOKEY, BASE_EXIT_UNREACHABLE,
				      "token \"%s\"%s%s is not present in any slot of %s; connect it", h->label,
				      h->serial[0] ? " with serial " : "", h->serial, h->module);
	return base_error_set(err, -ENOENT, BASE_EXIT_NOT_FOUND,
			      "no token \"%s\"%s%s in %s; check the label and the serial (pkcs11-tool --list-slots)", h->label,
			      h->serial[0] ? " with serial " : "", h->serial, h->module);
}

int hsm_module_select(struct hsm *h, struct base_error *err)
{
	unsigned i, present = 0;

	hsm_module_release(h);
	if (PKCS11_enumerate_slots(h->ctx, &h->slots, &h->slot_count) < 0) {
		h->slots = NULL;
		h->slot_count = 0;
		return hsm_ckr_error(err, hsm_ckr_libp11(), "list the slots", h->label);
	}
	for (i = 0; i < h->slot_count; i++) {
		PKCS11_TOKEN *token = h->slots[i].token;

		if (!token)
			continue;
		present++;
		if (!token->initialized || !token->label || strcmp(token->label, h->label) != 0)
			continue;
		if (h->serial[0] && (!token->serialnr || strcmp(token->serialnr, h->serial) != 0))
			continue;
		if (h->slot) {
			h->slot = NULL;
			return base_error_set(err, -EEXIST, BASE_EXIT_FAILED,
					      "two tokens are labelled \"%s\"; say which one by its serial", h->label);
		}
		h->slot = &h->slots[i];
	}
	if (!h->slot)
		return no_token(h, present, err);
	h->slot_id = PKCS11_get_slotid_from_slot(h->slot);
	return 0;
}
