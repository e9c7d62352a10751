/*
 * What keepctl says about itself, all from the table of verbs.
 */
#include "keepctl.h"

#include <stdio.h>
#include <string.h>

#define LEFT 44 /* width of the usage column */

static void
usage_print(FILE *out, const struct ctl_verb *v, bool options)
{
	fprintf(out, "%s%s%s%s%s", v->noun, v->verb ? " " : "", v->verb ? v->verb : "", *v->args ? " " : "", v->args);
	for (const struct ctl_option *o = v->options; options && o->name; o++)
		fprintf(out, " [--%s%s%s]", o->name, o->value ? " " : "", o->value ? o->value : "");
}

static void
options_print(const struct ctl_option *options)
{
	for (const struct ctl_option *o = options; o->name; o++) {
		char left[LEFT];

		snprintf(left, sizeof(left), "--%s%s%s", o->name, o->value ? " " : "", o->value ? o->value : "");
		printf("  %-24s %s\n", left, o->help);
	}
}

void
ctl_help(const char *noun)
{
	char left[128];
	FILE *out;

	puts("keepctl: keys, vaults and audit of keepfs\n\nusage: keepctl [OPTIONS] NOUN [VERB] [ARGUMENTS]\n");
	for (const struct ctl_verb *v = ctl_verbs; v->noun; v++) {
		if (noun && strcmp(noun, v->noun))
			continue;
		memset(left, 0, sizeof(left));
		out = fmemopen(left, sizeof(left) - 1, "w");
		if (!out)
			return;
		usage_print(out, v, false);
		fclose(out);
		printf("  %-30s %s\n", left, v->help);
	}
	puts("\nOptions, accepted anywhere:");
	options_print(ctl_globals);
	puts("\n`keepctl NOUN VERB --help` explains one verb; keepctl(1) says all of it.");
}

void
ctl_help_verb(const struct ctl_verb *verb)
{
	printf("usage: keepctl ");
	usage_print(stdout, verb, true);
	printf("\n\n%s\n", verb->help);
	if (verb->options[0].name) {
		puts("\nOptions:");
		options_print(verb->options);
	}
	puts("\nOptions of every verb:");
	options_print(ctl_globals);
}

void
ctl_help_verbs(void)
{
	for (const struct ctl_verb *v = ctl_verbs; v->noun; v++) {
		usage_print(stdout, v, true);
		putchar('\n');
	}
}

void
ctl_help_completion(void)
{
	puts("# bash completion for keepctl; written by `keepctl --completion` from its table of verbs\n"
	     "_keepctl()\n{\n\tlocal cur=${COMP_WORDS[COMP_CWORD]} i w words=()\n"
	     "\tfor ((i = 1; i < COMP_CWORD; i++)); do\n\t\tw=${COMP_WORDS[i]}\n"
	     "\t\tcase $w in --keystore) ((i++)) ;; -*) ;; *) words+=(\"$w\") ;; esac\n\tdone\n"
	     "\tlocal files='' more=''\n\tcase \"${words[0]} ${words[1]}\" in");
	for (const struct ctl_verb *v = ctl_verbs; v->noun; v++) {
		printf("\t'%s %s'%s) more='", v->noun, v->verb ? v->verb : "", v->verb ? "" : "*");
		for (const struct ctl_option *o = v->options; o->name; o++)
			printf("%s--%s", o == v->options ? "" : " ", o->name);
		printf("'%s ;;\n", strstr(v->args, "PATH") || strstr(v->args, "DIR") || strstr(v->args, "VAULT") ? " files=-f" : "");
	}
	printf("\t*) case \"${words[0]}\" in\n\t\t'') more='");
	for (const struct ctl_verb *v = ctl_verbs; v->noun; v++)
		if (v == ctl_verbs || strcmp(v->noun, v[-1].noun))
			printf("%s ", v->noun);
	puts("' ;;");
	for (const struct ctl_verb *v = ctl_verbs; v->noun; v++) {
		if (!v->verb)
			continue;
		if (v == ctl_verbs || strcmp(v->noun, v[-1].noun))
			printf("\t\t%s) more='", v->noun);
		printf("%s ", v->verb);
		if (!v[1].noun || strcmp(v->noun, v[1].noun))
			puts("' ;;");
	}
	printf("\t\tesac ;;\n\tesac\n\t[[ $cur == -* ]] && more+='");
	for (const struct ctl_option *o = ctl_globals; o->name; o++)
		printf(" --%s", o->name);
	puts("'\n\t[[ ${COMP_WORDS[COMP_CWORD-1]} == --keystore ]] && more='' files=-d\n"
	     "\tCOMPREPLY=($(compgen $files -W \"$more\" -- \"$cur\"))\n}\ncomplete -o filenames -F _keepctl keepctl");
}

/* Letters that differ at the same place or are missing: enough to find a slip of the finger. */
static bool
resembles(const char *a, const char *b)
{
	size_t la = strlen(a), lb = strlen(b), head = 0, tail = 0;

	while (a[head] && a[head] == b[head])
		head++;
	while (tail < la - head && tail < lb - head && a[la - 1 - tail] == b[lb - 1 - tail])
		tail++;
	return la - head - tail <= 2 && lb - head - tail <= 2 && head + tail >= 2;
}

void
ctl_help_hint(char *ret, size_t size, const char *noun, const char *wrong)
{
	size_t used;

	for (const struct ctl_verb *v = ctl_verbs; v->noun; v++) {
		const char *word = noun ? v->verb : v->noun;

		if (word && (!noun || !strcmp(noun, v->noun)) && wrong && resembles(word, wrong)) {
			snprintf(ret, size, "did you mean `%s`?", word);
			return;
		}
	}
	snprintf(ret, size, "try");
	for (const struct ctl_verb *v = ctl_verbs; v->noun; v++) {
		const char *word = noun ? v->verb : v->noun;

		if (!word || (noun && strcmp(noun, v->noun)) || (!noun && v > ctl_verbs && !strcmp(v->noun, v[-1].noun)))
			continue;
		used = strlen(ret);
		snprintf(ret + used, size - used, " %s", word);
	}
}
