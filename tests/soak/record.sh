#!/bin/sh
# Runs a test at full size and keeps what it said, with the commit and the command, in tests/soak/NAME.log.
#   sh tests/soak/record.sh NAME COMMAND...        KEEPFS and KEEPCTL name the programs, as for every test
here=$(cd "$(dirname "$0")" && pwd)
top=$here/../..
name=$1
shift
log=$here/$name.log
{
	# The logs themselves do not count as changes.
	changed=$(git -C "$top" status --porcelain -- . ':!tests/soak/*.log' 2>/dev/null)
	echo "commit  $(git -C "$top" rev-parse --short=12 HEAD 2>/dev/null)${changed:+-dirty}"
	echo "date    $(date -u +%Y-%m-%dT%H:%M:%SZ)"
	echo "machine $(nproc) CPUs, $(awk '/MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo), Linux $(uname -r)"
	echo "command $(echo "$*" | sed "s,$(cd "$top" && pwd)/,,g; s,/[^ ]*/\(tests/[^ ]*\),\1,g")"
	echo
} >"$log"
"$@" >>"$log" 2>&1
rc=$?
echo "exit    $rc" >>"$log"
tail -n 5 "$log"
exit $rc
