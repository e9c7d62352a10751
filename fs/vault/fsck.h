/*
 * fs/vault/fsck.h: what the files of fsck share. fsck.c: the run and the walk; fsck_dir.c: records and entries; fsck_half.c: what looks half made;
 * fsck_file.c: regular files; fsck_state.c: their states; fsck_found.c: findings on their way out.
 *
 * A run looks first without locks. What could be work under way is looked at again with it excluded (vault_names_wrlock, vault_half_exclude);
 * what then still is wrong, is. Nothing is told, unwrapped or quarantined under those locks.
 */
#ifndef VAULT_FSCK_H
#define VAULT_FSCK_H

#include <sys/stat.h>
#include <uthash.h>

#include "finding.h"
#include "live.h"

struct fsck_name;

/* A directory that waits to be looked at. */
struct fsck_dir {
	struct fsck_dir *next;
	char *clear;                   /* clear path, NULL when it has none */
	bool has_parent;               /* parent is the id of the directory that holds it */
	uint8_t parent[BASE_ID_SIZE];
	char backing[];
};

/* An inode with several names. */
struct fsck_linked {
	struct vault_file_key key;
	bool has_zone;
	uint8_t zone[BASE_ID_SIZE];    /* of the directory of its first name */
	UT_hash_handle hh;
};

/* A finding on its way out. */
struct fsck_found {
	struct fsck_found *next;
	struct vault_finding f;        /* its texts are this struct's */
	char *path, *backing, *detail;
	bool aside;                    /* moved by --quarantine */
	struct vault_file_key object;  /* what was found, for that */
};

/* An entry to be looked at again. */
struct fsck_suspect {
	struct fsck_suspect *next;
	char name[];
};

struct fsck {
	struct vault_check check;
	bool repair, adopt;
	const char *only;              /* the one entry that the start names, in the first directory */
	uint64_t files, directories, links, others, recoverable;
	struct fsck_dir *waiting;
	struct fsck_linked *linked;
	struct fsck_found *found, **found_end;
	uint64_t finds, notes;         /* findings made, and how many of them are notes */
	struct base_error *err;        /* for what ends the run */
	/* Set by scrub: looks at regular files in the place of vault_fsck_file's own checks. name->clear may be NULL. */
	int (*content)(struct fsck *j, int fd, const struct stat *st, const struct fsck_name *name);
	/* the directory at hand */
	struct fsck_dir *dir;
	int fd;
	bool known;                    /* rec is good */
	struct vault_dir rec;
	struct fsck_suspect *suspects;
	unsigned suspect_count;
	struct vault_header header;    /* scratch */
};

/* What a file or directory at hand is called. */
struct fsck_name {
	const char *entry; /* NULL: the directory at hand itself */
	const char *clear; /* clear name, NULL when it does not authenticate */
	struct vault_file_key object;
};

/* ---- fsck.c ---- */

/* vault_fsck_init(j, err): a run without options, whose check is to be begun. vault_fsck_walk(j): all below the target, but not the config. 0, or what
 * ended it. */
void vault_fsck_init(struct fsck *j, struct base_error *err);
int vault_fsck_walk(struct fsck *j);

/* ---- fsck_found.c ---- */

/* vault_fsck_found(j, name, problem, format...): a finding, not yet told; NULL without memory. Quarantine moves the object when aside is set then. */
struct fsck_found *vault_fsck_found(struct fsck *j, const struct fsck_name *name, const char *problem, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
/* vault_fsck_flush(j): moves aside what is to be, and tells all findings. Under no lock. 0, -ECANCELED, -ENOMEM. */
int vault_fsck_flush(struct fsck *j);
/* vault_fsck_path(j, name): the clear path of an entry of the directory at hand: heap, NULL when there is none. vault_fsck_backing: likewise. */
char *vault_fsck_path(const struct fsck *j, const struct fsck_name *name);
char *vault_fsck_backing(const struct fsck *j, const struct fsck_name *name);
/* vault_fsck_audit(j, file_id, name, what): the record of a repair, before it. */
int vault_fsck_audit(struct fsck *j, const uint8_t *file_id, const struct fsck_name *name, const char *what);

/* ---- fsck_dir.c ---- */

/* vault_fsck_record(j): the record and the xattrs of the directory at hand; fills known and rec. -ENOENT: it went, or must be left alone.
 * vault_fsck_entry(j, entry): one entry of it. 0, or what ends the run. */
int vault_fsck_record(struct fsck *j);
int vault_fsck_entry(struct fsck *j, const char *entry);
int vault_fsck_push(struct fsck *j, const char *backing, const char *clear, const uint8_t *parent);

/* ---- fsck_half.c ---- */

/* vault_fsck_suspect(j, entry): to be looked at again. vault_fsck_suspects(j): looks at all of them again. */
int vault_fsck_suspect(struct fsck *j, const char *entry);
int vault_fsck_suspects(struct fsck *j);

/* ---- fsck_file.c, fsck_state.c ---- */

/* vault_fsck_file(j, name): a regular file of the directory at hand. */
int vault_fsck_file(struct fsck *j, struct fsck_name *name);
/* vault_fsck_state(j, f, name): state, size and tags of a file that is claimed, whose keys and state are loaded. 0, or what ends the run. */
int vault_fsck_state(struct fsck *j, struct vault_file *f, const struct fsck_name *name);

#endif
