/*
 * kms/dirty.h: the dirty set in memory; its rows are in the store. kms/DESIGN.md has its rules.
 */
#ifndef KMS_DIRTY_H
#define KMS_DIRTY_H

#include "internal.h"

/* kms_dirty_new(core, ret): load the rows that crashed sessions left. */
int kms_dirty_new(struct kms_core *core, struct kms_dirty **ret);
void kms_dirty_free(struct kms_dirty *dirty);

/* kms_dirty_begin(core, vault_id, file_id): one more writer, before the transaction with its row; kms_dirty_close ends it,
 * also when that transaction failed. 0 or -ENOMEM. */
int kms_dirty_begin(struct kms_core *core, const uint8_t vault_id[BASE_ID_SIZE], const uint8_t file_id[BASE_ID_SIZE]);

/* kms_dirty_counts(core, ret_open, ret_crashed): files with writers, files that crashed sessions left. */
void kms_dirty_counts(struct kms_core *core, size_t *ret_open, size_t *ret_crashed);

#endif
