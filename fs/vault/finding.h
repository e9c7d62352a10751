/*
 * fs/vault/finding.h: what fsck and scrub share: their target, their findings, their last line, and the quarantine.
 *
 * A run, begun by vault_check_begin, belongs to one thread. Lines that it emits (request->emit), each one object:
 *   a finding   {"path": clear path or null, "backing_path": below the vault's root, "problem": code word, "detail": sentence,
 *                "action": "none" | "repaired" | "quarantined" | "adopted"}; with "note": true it tells and is no problem
 *   progress    {"progress": n, "total": n}, at most five a second
 *   the last    what the verb counts, and {"problems", "repaired", "quarantined", "adopted", "remaining"}
 */
#ifndef VAULT_FINDING_H
#define VAULT_FINDING_H

#include <limits.h>

#include "jobs.h"

enum vault_finding_action { VAULT_FINDING_NONE, VAULT_FINDING_REPAIRED, VAULT_FINDING_QUARANTINED, VAULT_FINDING_ADOPTED };

/* What was found of one object. path: its clear path, NULL when it has none that authenticates. */
struct vault_finding {
	const char *path;
	const char *backing;  /* relative to the vault's root; "" is the root */
	const char *problem;  /* "header-damaged", a short code word of the manual */
	const char *detail;   /* a sentence that ends with the next step */
	enum vault_finding_action action;
	bool note;            /* information: counted nowhere */
};

struct vault_check {
	struct kms_core *core;
	struct kms_request *request;
	const char *verb;          /* "fsck", "scrub": for the audit trail and the texts */
	struct vault_target at;    /* at.v is NULL until vault_check_open */
	uint64_t done, total;      /* for progress */
	uint64_t told_ns;
	uint64_t problems, repaired, quarantined, adopted;
	struct vault_quarantine *quarantine; /* NULL without one */
	bool refused;              /* the vault does not open: its config or root record is damaged or rolled back */
	uint8_t id[BASE_ID_SIZE];  /* of the vault that place is about */
	char *place;               /* where the keystore looked for the vault before, when that is elsewhere */
};

/*
 * vault_check_begin(core, request, verb, action, ret, err): authorises the caller for action, and for KMS_ACTION_UNWRAP as well (names are
 * shown). ret is zeroed first. Nothing to undo on failure. -EACCES.
 * vault_check_open(c, err): finds and opens the request's "path" (vault_target_find), then its "quarantine", when it has one. -EBADMSG with
 * c->refused: the config does not open; fsck makes a finding of that. -EBUSY: the path is a copy of a vault that is open.
 * vault_check_done(c): closes all. After a failed begin or open too.
 */
int vault_check_begin(struct kms_core *core, struct kms_request *request, const char *verb, enum kms_action action, struct vault_check *ret,
		      struct base_error *err);
int vault_check_open(struct vault_check *c, struct base_error *err);
void vault_check_done(struct vault_check *c);

/* vault_check_tell(c): a progress line when it is time for one. vault_check_finding(c, f): counts and emits. 0, -ECANCELED (the client is gone),
 * -ENOMEM. Never under a lock: the client may be slow. */
int vault_check_tell(struct vault_check *c);
int vault_check_finding(struct vault_check *c, const struct vault_finding *f);

/* vault_check_finish(c, counts, err): emits the last line: counts (an object; taken over), with the sums added. Returns 0 when no problem
 * remains, else -EBADMSG with err saying so (exit 6). */
int vault_check_finish(struct vault_check *c, json_t *counts, struct base_error *err);

/* vault_check_flag(request, name): a member that is true (or, from a query, "true"). */
bool vault_check_flag(const struct kms_request *request, const char *name);

/*
 * vault_check_audit(c, file_id, path, reason): the record of a change about to be made, action c->verb. file_id NULL: the vault itself. When it
 * fails the change must not be made.
 */
int vault_check_audit(struct vault_check *c, const uint8_t *file_id, const char *path, const char *reason);

/*
 * vault_check_quarantine(c, dirfd, f, err): moves the ciphertext object that f->backing names (its last component in dirfd, with the side
 * record of a long name) into the quarantine directory as NUMBER-NAME, after a line about it in that directory's log and an audit record, both
 * durable. The caller has made sure that nothing has it open (vault_live_claim, live.h) and sets f->action. 0 or -errno.
 */
int vault_check_quarantine(struct vault_check *c, int dirfd, const struct vault_finding *f, struct base_error *err);

#endif
