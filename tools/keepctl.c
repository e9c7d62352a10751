/*
 * keepctl: the command line. Options are accepted anywhere; the rest is NOUN [VERB] ARGUMENTS.
 */
#include "keepctl.h"

#include <errno.h>
#include <locale.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/secret.h"
#include "prompt.h"

struct line {
	struct ctl ctl;
	const char *noun, *word; /* word: the verb, while it is not known as one */
	bool help, version;
	bool plain; /* after "--" */
};

static int
usage(struct base_error *err, const char *what, const char *wrong, const char *hint)
{
	return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "%s '%s'; %s", what, wrong, hint);
}

/* For the completion's build step and the checks; not in the help. */
static bool
special(const char *arg)
{
	if (!strcmp(arg, "--verbs"))
		ctl_help_verbs();
	else if (!strcmp(arg, "--completion"))
		ctl_help_completion();
	else
		return false;
	return true;
}

static int
word_take(struct line *line, const char *arg, struct base_error *err)
{
	struct ctl *ctl = &line->ctl;
	char hint[300];

	if (!line->noun) {
		if (!ctl_noun_known(arg)) {
			ctl_help_hint(hint, sizeof(hint), NULL, arg);
			return usage(err, "unknown command", arg, hint);
		}
		line->noun = arg;
		ctl->verb = ctl_noun_alone(arg);
		return 0;
	}
	if (!ctl->verb) {
		ctl->verb = ctl_verb_find(line->noun, arg);
		if (ctl->verb)
			return 0;
		ctl_help_hint(hint, sizeof(hint), line->noun, arg);
		return usage(err, "unknown verb", arg, hint);
	}
	if (ctl->count == ctl->verb->max)
		return usage(err, "one argument too many:", arg, "see --help");
	ctl->args[ctl->count++] = arg;
	return 0;
}

/* The option's place in a list, its value after '=' in *ret_value. */
static int
option_index(const struct ctl_option *options, const char *arg, const char **ret_value)
{
	size_t len = strcspn(arg, "=");

	*ret_value = arg[len] ? arg + len + 1 : NULL;
	for (int i = 0; options[i].name; i++)
		if (strlen(options[i].name) == len && !strncmp(options[i].name, arg, len))
			return i;
	return -1;
}

static int
value_take(const struct ctl_option *option, const char *given, int argc, char **argv, int *i, const char **ret,
	   struct base_error *err)
{
	if (*ret)
		return usage(err, "given twice:", argv[*i], "once is enough");
	if (!option->value)
		*ret = given ? NULL : option->name;
	else
		*ret = given ? given : *i + 1 < argc ? argv[++*i] : NULL;
	if (!*ret)
		return usage(err, option->value ? "no value after" : "this option takes no value:", argv[*i], "see --help");
	return 0;
}

static int
option_take(struct line *line, int argc, char **argv, int *i, struct base_error *err)
{
	struct ctl *ctl = &line->ctl;
	const char *arg = !strcmp(argv[*i], "-h") ? "help" : argv[*i] + 2;
	const char *given, *flag = NULL;
	int at;

	if (argv[*i][1] != '-' && strcmp(argv[*i], "-h"))
		return usage(err, "unknown option", argv[*i], "options are long ones; see --help");
	at = option_index(ctl_globals, arg, &given);
	if (at >= 0) {
		const char *name = ctl_globals[at].name;

		if (ctl_globals[at].value)
			return value_take(&ctl_globals[at], given, argc, argv, i, &ctl->keystore, err);
		ctl->json |= !strcmp(name, "json");
		ctl->yes |= !strcmp(name, "yes");
		line->help |= !strcmp(name, "help");
		line->version |= !strcmp(name, "version");
		return value_take(&ctl_globals[at], given, argc, argv, i, &flag, err);
	}
	at = ctl->verb ? option_index(ctl->verb->options, arg, &given) : -1;
	if (at < 0)
		return usage(err, "unknown option", argv[*i], ctl->verb ? "see --help" : "options of a verb come after the verb");
	return value_take(&ctl->verb->options[at], given, argc, argv, i, &ctl->options[at], err);
}

static int
parse(struct line *line, int argc, char **argv, struct base_error *err)
{
	struct ctl *ctl = &line->ctl;
	char hint[300];
	int rc = 0;

	for (int i = 1; i < argc && rc == 0; i++) {
		if (!line->plain && !strcmp(argv[i], "--"))
			line->plain = true;
		else if (!line->plain && argv[i][0] == '-' && argv[i][1])
			rc = option_take(line, argc, argv, &i, err);
		else
			rc = word_take(line, argv[i], err);
	}
	if (rc < 0 || line->help || line->version)
		return rc;
	if (!line->noun)
		return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "nothing to do; `keepctl --help` lists the verbs");
	if (!ctl->verb) {
		ctl_help_hint(hint, sizeof(hint), line->noun, NULL);
		return usage(err, "a verb is missing after", line->noun, hint);
	}
	if (ctl->count < ctl->verb->min)
		return base_error_set(err, -EINVAL, BASE_EXIT_USAGE, "usage: keepctl %s%s%s %s", ctl->verb->noun,
				      ctl->verb->verb ? " " : "", ctl->verb->verb ? ctl->verb->verb : "", ctl->verb->args);
	return 0;
}

static int
finish(struct ctl *ctl, int rc, const struct base_error *err)
{
	ctl_done(ctl);
	if (fflush(stdout) != 0 || ferror(stdout)) {
		ctl_say("cannot write the result: %s", strerror(errno));
		return BASE_EXIT_FAILED;
	}
	if (rc == 0)
		return BASE_EXIT_OK;
	if (err->text[0])
		ctl_say("%s", err->text);
	return err->exit ? (int) err->exit : BASE_EXIT_FAILED;
}

int
main(int argc, char **argv)
{
	struct line line = { .ctl.prompt = { .fn = prompt_tty } };
	struct base_error err = { 0 };
	int rc = base_secret_setup(&err);

	setlocale(LC_ALL, "");
	base_log_setup("keepctl", 0);
	if (rc < 0)
		return finish(&line.ctl, rc, &err);
	if (argc == 2 && special(argv[1]))
		return finish(&line.ctl, 0, &err);
	rc = parse(&line, argc, argv, &err);
	if (rc == 0 && (line.help || line.version)) {
		if (line.version)
			puts("keepctl " KEEPFS_VERSION);
		else if (line.ctl.verb)
			ctl_help_verb(line.ctl.verb);
		else
			ctl_help(line.noun);
		return finish(&line.ctl, 0, &err);
	}
	if (rc == 0)
		rc = line.ctl.verb->run(&line.ctl, &err);
	return finish(&line.ctl, rc, &err);
}
