/*
 * fs/vault/zone.h: a directory and what is below it change their key.
 */
#ifndef VAULT_ZONE_H
#define VAULT_ZONE_H

#include "jobs.h"
#include "walk.h"

struct vault_zone {
	struct vault *v;
	const struct kms_caller *caller;
	uint8_t from[BASE_ID_SIZE]; /* the directory's key as it is; equal to `to` when an earlier run got that far */
	uint8_t to[BASE_ID_SIZE];
	const char *top;            /* backing path of the directory: its record is written last */
	bool locked;                /* the names lock is held for writing */
	uint64_t changed;           /* records written */
};

/*
 * vault_zone_records(z, start, err): the records of all directories below start that have the key `from`, and of start itself, get the key `to`,
 * start's at the end: until then a second run finds what is left. A directory with a third key is left out with all that is below it. Recorded
 * one by one. Holds the names lock for writing.
 * vault_zone_follow(z, walk, item, record): the same for one directory that a walk meets: 0: it is in the zone (now), 1: it is not; -errno.
 */
int vault_zone_records(struct vault_zone *z, const char *start, struct base_error *err);
int vault_zone_follow(struct vault_zone *z, const struct vault_walk *walk, const struct vault_walk_item *item, const struct vault_dir *record);

/* vault_rewrap_zone(v, request, start, zone, err) (rewrap.c): vault_zone_records, then the files below under the key `to`; lines as of rewrap. */
int vault_rewrap_zone(struct vault *v, struct kms_request *request, const char *start, struct vault_zone *zone, struct base_error *err);

#endif
