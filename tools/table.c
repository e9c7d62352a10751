/*
 * The table of verbs. help.c, keepctl.c, the bash completion and tests/check read it; tools/keepctl.1 is checked against it.
 */
#include "keepctl.h"

#include <string.h>

const struct ctl_option ctl_globals[] = {
	{ "keystore", "DIR", "the keystore; else $KEEPFS_KEYSTORE, the mount's, or the default one" },
	{ "json", NULL, "results as JSON, one object per line" },
	{ "yes", NULL, "answer yes to every question" },
	{ "help", NULL, "explain keepctl, a noun or a verb" },
	{ "version", NULL, "say the version" },
	{ NULL, NULL, NULL },
};

const struct ctl_verb ctl_verbs[] = {
	{ "init", NULL, "VAULT", 1, 1,
	  { { "key", "NAME", "key of the vault's root directory (default: `default`)" },
	    { "pin-source", "SOURCE", "new keystore: prompt, file:PATH or credential:NAME" },
	    { "module", "PATH", "new keystore: PKCS#11 module of your HSM" },
	    { "token", "LABEL", "new keystore: label of the token in that module" } },
	  ctl_init, "make a vault; its keystore too if there is none" },
	{ "status", NULL, "", 0, 0, { { 0 } }, ctl_status, "service, HSM, mounts, keys, head of the audit trail" },
	{ "seal", NULL, "", 0, 0, { { 0 } }, ctl_seal, "drop every data key and log out of the HSM" },

	{ "vault", "list", "", 0, 0, { { 0 } }, ctl_vault_list, "vaults of this keystore" },
	{ "mount", "list", "", 0, 0, { { 0 } }, ctl_mount_list, "vaults that are mounted now" },
	{ "config", "check", "", 0, 0, { { 0 } }, ctl_config_check, "read keystore.conf and name what is wrong in it" },

	{ "key", "create", "NAME", 1, 1, { { "description", "TEXT", "what the key is for" } }, ctl_key_create, "make a key in the HSM" },
	{ "key", "list", "", 0, 0, { { 0 } }, ctl_key_list, "keys, their state and current version" },
	{ "key", "show", "NAME", 1, 1, { { 0 } }, ctl_key_show, "one key with its versions" },
	{ "key", "rotate", "NAME", 1, 1, { { 0 } }, ctl_key_rotate, "make a new version; no file is touched" },
	{ "key", "versions", "NAME", 1, 1, { { 0 } }, ctl_key_versions, "versions of a key and the files that hang on each" },
	{ "key", "destroy-version", "NAME N", 2, 2, { { 0 } }, ctl_key_destroy_version,
	  "destroy an old version that no file needs; older copies of the vault stop opening" },

	{ "dir", "set-key", "DIR NAME", 2, 2, { { "rewrap", NULL, "DIR is not empty: what is below it gets the key as well" } }, ctl_dir_set_key,
	  "what is made below DIR gets the key NAME" },
	{ "dir", "show", "DIR", 1, 1, { { 0 } }, ctl_dir_show, "the key that a directory belongs to" },
	{ "file", "show", "PATH", 1, 1, { { 0 } }, ctl_file_show, "a file's key, key version and backing file" },
	{ "rewrap", NULL, "[VAULT|PATH]", 0, 1, { { "key", "NAME", "only what hangs on this key" } }, ctl_rewrap,
	  "move data keys to the current key versions; no content is read" },

	{ "role", "assign", "PRINCIPAL ROLE", 2, 2, { { "key", "NAME", "on this key alone; else in the whole service" } }, ctl_role_assign,
	  "give a role to user:NAME, group:NAME or everyone" },
	{ "role", "remove", "PRINCIPAL ROLE", 2, 2, { { "key", "NAME", "the role on this key; else the one in the service" } },
	  ctl_role_remove, "take a role away" },
	{ "role", "list", "", 0, 0, { { 0 } }, ctl_role_list, "who has which role" },

	{ "fsck", NULL, "VAULT|PATH", 1, 1,
	  { { "repair", NULL, "remove leftovers, and recover what a crash left open" },
	    { "quarantine", "DIR", "move what is damaged to DIR, beside the vault" },
	    { "adopt", NULL, "recover files of a copy that was made while they were written" } },
	  ctl_fsck, "check the structure of a vault, mounted or not" },

	{ "scrub", NULL, "VAULT|PATH", 1, 1, { { 0 } }, ctl_scrub, "read and check every byte of a vault, a directory or a file, mounted or not" },

	{ "audit", "list", "", 0, 0,
	  { { "user", "NAME", "only this user, by name or number" },
	    { "key", "NAME", "only this key" },
	    { "file", "PATH", "only this file: a path, or a file id" },
	    { "action", "ACTION", "only this action, for example open-read" },
	    { "outcome", "OUTCOME", "allowed, denied or failed" },
	    { "since", "TIME", "RFC 3339, a date, or a duration back from now (2h)" },
	    { "until", "TIME", "likewise" } },
	  ctl_audit_list, "who used which key on which file" },
	{ "audit", "verify", "", 0, 0, { { 0 } }, ctl_audit_verify, "check the trail; names the first bad record" },
	{ NULL, NULL, NULL, 0, 0, { { 0 } }, NULL, NULL },
};

const struct ctl_verb *
ctl_verb_find(const char *noun, const char *verb)
{
	for (const struct ctl_verb *v = ctl_verbs; v->noun; v++)
		if (!strcmp(v->noun, noun) && v->verb && !strcmp(v->verb, verb))
			return v;
	return NULL;
}

const struct ctl_verb *
ctl_noun_alone(const char *noun)
{
	for (const struct ctl_verb *v = ctl_verbs; v->noun; v++)
		if (!strcmp(v->noun, noun) && !v->verb)
			return v;
	return NULL;
}

bool
ctl_noun_known(const char *noun)
{
	for (const struct ctl_verb *v = ctl_verbs; v->noun; v++)
		if (!strcmp(v->noun, noun))
			return true;
	return false;
}
