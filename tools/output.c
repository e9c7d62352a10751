/*
 * Results for people (tables, times of the local clock) and for programs (JSON lines).
 */
#include "keepctl.h"

#include <errno.h>
#include <libsmartcols.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

#define TABLE_PIECE 1000 /* rows that are laid out together */

void
ctl_say(const char *format, ...)
{
	va_list ap;

	fflush(stdout);
	fputs("keepctl: ", stderr);
	va_start(ap, format);
	vfprintf(stderr, format, ap);
	va_end(ap);
	fputc('\n', stderr);
}

void
ctl_json(json_t *line)
{
	json_dumpf(line, stdout, JSON_COMPACT);
	putchar('\n');
	fflush(stdout);
}

static json_t *
member(json_t *line, const char *field)
{
	const char *dot = strchr(field, '.');
	char name[64];

	if (!dot)
		return json_object_get(line, field);
	snprintf(name, sizeof(name), "%.*s", (int) (dot - field), field);
	return member(json_object_get(line, name), dot + 1);
}

static void
time_text(json_t *value, bool seconds, char *buf)
{
	const char *text = json_string_value(value);
	uint64_t ns = 0;
	struct tm tm;
	time_t when;

	if (text && base_clock_parse(text, &ns) < 0) {
		snprintf(buf, CTL_FIELD_MAX, "%s", text);
		return;
	}
	when = text ? (time_t) (ns / 1000000000u) : (time_t) json_integer_value(value);
	if (!localtime_r(&when, &tm) || !strftime(buf, CTL_FIELD_MAX, seconds ? "%Y-%m-%d %H:%M:%S" : "%Y-%m-%d %H:%M", &tm))
		snprintf(buf, CTL_FIELD_MAX, "-");
}

static void
size_text(json_int_t bytes, char *buf)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB" };
	double value = (double) bytes;
	unsigned unit = 0;

	for (; value >= 1024 && unit < 5; unit++)
		value /= 1024;
	snprintf(buf, CTL_FIELD_MAX, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
}

const char *
ctl_field(json_t *line, const char *field, enum ctl_format format, char buf[CTL_FIELD_MAX])
{
	json_t *value = member(line, field);

	snprintf(buf, CTL_FIELD_MAX, "-");
	if ((format == CTL_TIME || format == CTL_SECONDS) && (json_is_string(value) || json_is_integer(value)))
		time_text(value, format == CTL_SECONDS, buf);
	else if (format == CTL_SIZE && json_is_integer(value))
		size_text(json_integer_value(value), buf);
	else if (json_is_string(value) && json_string_length(value))
		snprintf(buf, CTL_FIELD_MAX, "%s", json_string_value(value));
	else if (json_is_integer(value))
		snprintf(buf, CTL_FIELD_MAX, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
	else if (json_is_boolean(value))
		snprintf(buf, CTL_FIELD_MAX, "%s", json_is_true(value) ? "yes" : "no");
	return buf;
}

struct ctl_table {
	const struct ctl_column *columns;
	struct libscols_table *piece;
	size_t rows;
	bool headed;
};

static struct libscols_table *
piece_new(const struct ctl_column *columns)
{
	struct libscols_table *piece = scols_new_table();

	if (!piece)
		return NULL;
	for (const struct ctl_column *c = columns; c->heading; c++)
		scols_table_new_column(piece, c->heading, 0, c->format == CTL_NUMBER || c->format == CTL_SIZE ? SCOLS_FL_RIGHT : 0);
	scols_table_enable_nowrap(piece, 1);
	/* A pipe gets whole values, a terminal lines that fit. */
	scols_table_set_termforce(piece, isatty(STDOUT_FILENO) ? SCOLS_TERMFORCE_AUTO : SCOLS_TERMFORCE_NEVER);
	return piece;
}

struct ctl_table *
ctl_table_new(const struct ctl_column *columns)
{
	struct ctl_table *table = calloc(1, sizeof(*table));

	scols_init_debug(0);
	if (table)
		table->columns = columns;
	return table;
}

static void
piece_print(struct ctl_table *table)
{
	if (!table->piece)
		return;
	scols_table_enable_noheadings(table->piece, table->headed);
	scols_print_table(table->piece);
	scols_unref_table(table->piece);
	table->piece = NULL;
	table->rows = 0;
	table->headed = true;
}

void
ctl_table_line(void *ctx, json_t *line)
{
	struct ctl_table *table = ctx;
	char buf[CTL_FIELD_MAX];
	struct libscols_line *row;
	size_t column = 0;

	if (!table)
		return;
	if (!table->piece)
		table->piece = piece_new(table->columns);
	row = table->piece ? scols_table_new_line(table->piece, NULL) : NULL;
	for (const struct ctl_column *c = table->columns; row && c->heading; c++)
		scols_line_set_data(row, column++, ctl_field(line, c->field, c->format, buf));
	if (++table->rows == TABLE_PIECE)
		piece_print(table);
}

void
ctl_table_done(struct ctl_table *table)
{
	if (!table)
		return;
	piece_print(table);
	free(table);
}

static void
json_line(void *ctx, json_t *line)
{
	ctl_json(line);
}

int
ctl_list(struct ctl *ctl, const char *method, const char *path, json_t *params, const struct ctl_column *columns,
	 struct base_error *err)
{
	struct ctl_table *table = ctl->json ? NULL : ctl_table_new(columns);
	int rc = ctl_call(ctl, method, path, params, ctl->json ? json_line : ctl_table_line, table, err);

	ctl_table_done(table);
	return rc;
}

void
ctl_details(json_t *line, const struct ctl_column *columns)
{
	struct libscols_table *table = scols_new_table();
	char buf[CTL_FIELD_MAX];

	if (!table)
		return;
	scols_table_new_column(table, "", 0, 0);
	scols_table_new_column(table, "", 0, 0);
	scols_table_enable_noheadings(table, 1);
	scols_table_enable_nowrap(table, 1);
	scols_table_set_termforce(table, SCOLS_TERMFORCE_NEVER);
	for (const struct ctl_column *c = columns; c->heading; c++) {
		struct libscols_line *row = scols_table_new_line(table, NULL);

		if (!row)
			break;
		scols_line_set_data(row, 0, c->heading);
		scols_line_set_data(row, 1, ctl_field(line, c->field, c->format, buf));
	}
	scols_print_table(table);
	scols_unref_table(table);
}

static void
details_line(void *ctx, json_t *line)
{
	ctl_details(line, ctx);
}

int
ctl_one(struct ctl *ctl, const char *method, const char *path, json_t *params, const struct ctl_column *columns,
	struct base_error *err)
{
	if (ctl->json)
		return ctl_call(ctl, method, path, params, json_line, NULL, err);
	return ctl_call(ctl, method, path, params, details_line, (void *) (uintptr_t) columns, err);
}
