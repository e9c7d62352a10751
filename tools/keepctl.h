/*
 * tools/keepctl.h: what the files of keepctl share. One table of verbs (table.c) gives help, completion and dispatch; the
 * man page is checked against it.
 */
#ifndef KEEPCTL_H
#define KEEPCTL_H

#include <jansson.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kms/kms.h"

#define CTL_OPTIONS_MAX 8

struct ctl_verb;

/* One run of keepctl. */
struct ctl {
	const struct ctl_verb *verb;
	const char *keystore;       /* --keystore, or NULL */
	bool json, yes;
	const char *args[4];        /* positional arguments; unused ones are NULL */
	int count;
	const char *options[CTL_OPTIONS_MAX]; /* values, in the order of verb->options; a flag's is its own name; NULL: not given */

	char dir[PATH_MAX];         /* the keystore, once ctl_keystore has run */
	struct kms_prompt prompt;
	struct kms_core *core;      /* open when this process works without a service */
};

struct ctl_option {
	const char *name;  /* without its dashes; NULL ends the list */
	const char *value; /* what the usage calls the value; NULL: a flag */
	const char *help;
};

/* A verb's work: 0, or -errno with err filled. */
typedef int (*ctl_run_fn)(struct ctl *ctl, struct base_error *err);

struct ctl_verb {
	const char *noun, *verb; /* verb NULL: the noun stands alone */
	const char *args;        /* usage of the positional arguments */
	int min, max;            /* how many */
	struct ctl_option options[CTL_OPTIONS_MAX];
	ctl_run_fn run;
	const char *help;        /* one line */
};

/* ---- table.c, help.c ----------------------------------------------------------------------------------------------- */

extern const struct ctl_verb ctl_verbs[]; /* ends with noun NULL */
extern const struct ctl_option ctl_globals[];

/* ctl_verb_find(noun, verb): NULL when there is none; ctl_noun_alone(noun): the verb of a noun that takes none. */
const struct ctl_verb *ctl_verb_find(const char *noun, const char *verb);
const struct ctl_verb *ctl_noun_alone(const char *noun);
bool ctl_noun_known(const char *noun);

void ctl_help(const char *noun);                   /* all verbs, or one noun's */
void ctl_help_verb(const struct ctl_verb *verb);
void ctl_help_verbs(void);                         /* "noun verb ARGS [--option VALUE]...", one a line: for the checks */
void ctl_help_completion(void);                    /* a bash completion script */
void ctl_help_hint(char *ret, size_t size, const char *noun, const char *wrong); /* "; did you mean X?" or "; verbs: ..." */

/* ---- session.c: where requests go ------------------------------------------------------------------------------------ */

typedef void (*ctl_line_fn)(void *ctx, json_t *line); /* borrowed */

/* ctl_keystore(ctl, path, err): find the keystore; path may lie in a mount, whose keystore then is meant. NULL: no path. */
int ctl_keystore(struct ctl *ctl, const char *path, struct base_error *err);

/*
 * ctl_call(ctl, method, path, params, line, ctx, err): ask the service of the keystore or, when there is none and we own the
 * keystore, do the work here. Takes params (may be NULL). A service that comes or goes meanwhile is waited for.
 */
int ctl_call(struct ctl *ctl, const char *method, const char *path, json_t *params, ctl_line_fn line, void *ctx,
	     struct base_error *err);

void ctl_done(struct ctl *ctl); /* close what ctl_call opened */

/* ctl_path(ret, size, format, segments...): a request path; every %s in format is percent-encoded. 0, -ENAMETOOLONG. */
int ctl_path(char *ret, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* ctl_absolute(path, ret, err): ret, PATH_MAX bytes, is path made absolute, links resolved; its last part need not exist. */
int ctl_absolute(const char *path, char *ret, struct base_error *err);

/* ctl_place(ctl, path, absolute, err): ctl_absolute of an argument that requests can carry, and ctl_keystore with it. */
int ctl_place(struct ctl *ctl, const char *path, char absolute[PATH_MAX], struct base_error *err);

/* ---- mounts.c ------------------------------------------------------------------------------------------------------ */

/* ctl_mount_of(path, ret_mountpoint, ret_uid): the keepfs mount that the absolute path lies in. 0 or -ENOENT. */
int ctl_mount_of(const char *path, char *ret_mountpoint, unsigned *ret_uid);

/* ctl_mount_keystore(path, ret): the keystore whose running service serves that mount. 0 or -ENOENT. */
int ctl_mount_keystore(const char *path, char *ret);

/* ---- output.c ------------------------------------------------------------------------------------------------------ */

enum ctl_format { CTL_TEXT, CTL_NUMBER, CTL_TIME, CTL_SECONDS, CTL_SIZE };

struct ctl_column {
	const char *heading; /* NULL ends the list */
	const char *field;   /* member of the line; "a.b" for a member of a member */
	enum ctl_format format;
};

/* ctl_field(line, field, format, buf): the member as text for a person; "-" when it is null or missing. */
#define CTL_FIELD_MAX 4200
const char *ctl_field(json_t *line, const char *field, enum ctl_format format, char buf[CTL_FIELD_MAX]);

void ctl_json(json_t *line); /* one line on stdout */

/* A table that is printed in pieces, so that a long one neither waits nor fills memory. */
struct ctl_table;
struct ctl_table *ctl_table_new(const struct ctl_column *columns);
void ctl_table_line(void *table, json_t *line); /* a ctl_line_fn */
void ctl_table_done(struct ctl_table *table);   /* prints the rest, frees */

/* ctl_list(ctl, method, path, params, columns, err): ask, and print JSON lines or a table. Takes params. */
int ctl_list(struct ctl *ctl, const char *method, const char *path, json_t *params, const struct ctl_column *columns,
	     struct base_error *err);

/* ctl_one(ctl, method, path, params, columns, err): the same for a result of one object, as "heading  value" lines. */
int ctl_one(struct ctl *ctl, const char *method, const char *path, json_t *params, const struct ctl_column *columns,
	    struct base_error *err);

void ctl_details(json_t *line, const struct ctl_column *columns); /* the "heading  value" lines */

void ctl_say(const char *format, ...) __attribute__((format(printf, 1, 2))); /* a message on stderr */

/* ---- progress.c ---------------------------------------------------------------------------------------------------- */

struct ctl_progress {
	bool bar;          /* stderr is a terminal, and no JSON was asked for */
	uint64_t shown_ns; /* when it was last drawn; 0: there is none to see */
};

void ctl_progress_init(struct ctl_progress *progress, const struct ctl *ctl);
void ctl_progress_draw(struct ctl_progress *progress, json_t *line); /* a line {"progress", "total"} */
void ctl_progress_clear(struct ctl_progress *progress);              /* before anything else is printed */

/* ---- the verbs ------------------------------------------------------------------------------------------------------- */

int ctl_init(struct ctl *ctl, struct base_error *err);
int ctl_config_check(struct ctl *ctl, struct base_error *err);
int ctl_status(struct ctl *ctl, struct base_error *err);
int ctl_seal(struct ctl *ctl, struct base_error *err);
int ctl_key_create(struct ctl *ctl, struct base_error *err);
int ctl_key_list(struct ctl *ctl, struct base_error *err);
int ctl_key_show(struct ctl *ctl, struct base_error *err);
int ctl_key_rotate(struct ctl *ctl, struct base_error *err);
int ctl_key_versions(struct ctl *ctl, struct base_error *err);
int ctl_key_destroy_version(struct ctl *ctl, struct base_error *err);
int ctl_role_assign(struct ctl *ctl, struct base_error *err);
int ctl_role_remove(struct ctl *ctl, struct base_error *err);
int ctl_role_list(struct ctl *ctl, struct base_error *err);
int ctl_vault_list(struct ctl *ctl, struct base_error *err);
int ctl_mount_list(struct ctl *ctl, struct base_error *err);
int ctl_dir_set_key(struct ctl *ctl, struct base_error *err);
int ctl_dir_show(struct ctl *ctl, struct base_error *err);
int ctl_file_show(struct ctl *ctl, struct base_error *err);
int ctl_rewrap(struct ctl *ctl, struct base_error *err);
int ctl_fsck(struct ctl *ctl, struct base_error *err);
int ctl_scrub(struct ctl *ctl, struct base_error *err);
int ctl_audit_list(struct ctl *ctl, struct base_error *err);
int ctl_audit_verify(struct ctl *ctl, struct base_error *err);

#endif
