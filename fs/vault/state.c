/* The sealed state slot of a header page (fs/FORMAT.md, "State slot"). */
#include <errno.h>
#include <string.h>

#include "vault/header.h"

#define LABEL "keepfs v1 state"
#define LABEL_LEN (sizeof(LABEL) - 1)
#define AAD_LEN (LABEL_LEN + 8 + BASE_ID_SIZE + 8)
#define PLAIN_LEN 128
#define SEALED_AT 8
#define SEALED_LEN (BASE_SIV_TAG + PLAIN_LEN)
#define STATE_AT(area) (VAULT_HEADER_AREA(area) + VAULT_WRAP_SIZE)

static void state_aad(const char magic[8], const uint8_t file_id[BASE_ID_SIZE], uint64_t n, uint8_t aad[AAD_LEN])
{
	memcpy(aad, LABEL, LABEL_LEN);
	memcpy(aad + LABEL_LEN, magic, 8);
	memcpy(aad + LABEL_LEN + 8, file_id, BASE_ID_SIZE);
	base_put64(aad + LABEL_LEN + 8 + BASE_ID_SIZE, n);
}

int vault_state_seal(const struct base_siv *siv, const char magic[8], const uint8_t file_id[BASE_ID_SIZE], const struct vault_state *state,
		     uint8_t out[VAULT_STATE_SIZE])
{
	uint8_t aad[AAD_LEN], plain[PLAIN_LEN] = { 0 };

	if (state->n == 0)
		return -EINVAL;
	base_put64(plain, state->horizon);
	base_put64(plain + 8, state->size);
	memcpy(plain + 16, state->acc, 16);
	base_put32(plain + 32, state->flags);
	memcpy(plain + 40, state->session, BASE_ID_SIZE);
	base_put64(plain + 56, state->intent_first);
	base_put64(plain + 64, state->intent_end);
	base_put64(plain + 72, state->next_seq);
	state_aad(magic, file_id, state->n, aad);
	memset(out, 0, VAULT_STATE_SIZE);
	base_put64(out, state->n);
	return base_siv_seal(siv, aad, sizeof(aad), plain, sizeof(plain), out + SEALED_AT);
}

static int state_open_slot(const struct base_siv *siv, const char magic[8], const uint8_t file_id[BASE_ID_SIZE],
			   const uint8_t *slot, struct vault_state *ret)
{
	uint8_t aad[AAD_LEN], plain[PLAIN_LEN];
	int code;

	if (!base_is_zero(slot + SEALED_AT + SEALED_LEN, VAULT_STATE_SIZE - SEALED_AT - SEALED_LEN))
		return -EBADMSG;
	ret->n = base_get64(slot);
	state_aad(magic, file_id, ret->n, aad);
	code = base_siv_open(siv, aad, sizeof(aad), slot + SEALED_AT, SEALED_LEN, plain);
	if (code < 0)
		return code;
	ret->horizon = base_get64(plain);
	ret->size = base_get64(plain + 8);
	memcpy(ret->acc, plain + 16, 16);
	ret->flags = base_get32(plain + 32);
	memcpy(ret->session, plain + 40, BASE_ID_SIZE);
	ret->intent_first = base_get64(plain + 56);
	ret->intent_end = base_get64(plain + 64);
	ret->next_seq = base_get64(plain + 72);
	if (!base_is_zero(plain + 36, 4) || !base_is_zero(plain + 80, 48) ||
	    ret->flags & ~(VAULT_STATE_DIRTY | VAULT_STATE_INTENT))
		return -EBADMSG;
	return 0;
}

int vault_state_open(const struct base_siv *siv, const char magic[8], const uint8_t file_id[BASE_ID_SIZE], const uint8_t page[VAULT_PAGE],
		     struct vault_state *ret)
{
	uint64_t n[2] = { base_get64(page + STATE_AT(0)), base_get64(page + STATE_AT(1)) };
	int first = n[1] > n[0], code = -EBADMSG, i;

	for (i = 0; i < 2; i++) {
		int area = i == 0 ? first : !first;

		if (n[area] == 0 || (n[area] & 1) != (uint64_t)area)
			continue;
		code = state_open_slot(siv, magic, file_id, page + STATE_AT(area), ret);
		if (code != -EBADMSG)
			break;
	}
	if (code < 0)
		memset(ret, 0, sizeof(*ret));
	return code;
}
