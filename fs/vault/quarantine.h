/*
 * fs/vault/quarantine.h: the directory that damaged ciphertext objects are moved to. finding.h has what a verb calls.
 */
#ifndef VAULT_QUARANTINE_H
#define VAULT_QUARANTINE_H

#include "finding.h"

/*
 * vault_quarantine_open(c, path, ret, err): path is absolute: a directory of the caller's, closed to others, or one that is made (0700); on the
 * vault's filesystem, outside any vault or mount. Only who runs this process may name one. *ret is NULL on failure.
 * vault_quarantine_close: NULL is fine; a directory that was made and holds nothing is removed again.
 */
int vault_quarantine_open(struct vault_check *c, const char *path, struct vault_quarantine **ret, struct base_error *err);
void vault_quarantine_close(struct vault_quarantine *q);

/* vault_finding_json(f): the line of a finding; NULL without memory. */
json_t *vault_finding_json(const struct vault_finding *f);

#endif
