#!/bin/sh
# Installs what the tests need, builds, runs every test. The last line is "N passed, N failed".
#   sh etc/check.sh            the default suites
#   sh etc/check.sh --soak     the long ones too
#   sh etc/check.sh --deps     only the packages
set -u
cd "$(dirname "$0")/.." || exit 1
. etc/packages.sh
export LC_ALL=C.UTF-8
unset KEEPFS_KEYSTORE

soak=
for arg in "$@"; do
	case $arg in
	--deps) packages_install $BUILD_PACKAGES $TEST_PACKAGES; exit ;;
	--soak) soak=yes ;;
	*) echo "usage: sh etc/check.sh [--deps|--soak]" >&2; exit 2 ;;
	esac
done

failed() {
	echo "$1" >&2
	echo "0 passed, 1 failed"
	exit 1
}

packages_install $BUILD_PACKAGES $TEST_PACKAGES || failed "the packages that the tests need are not there"
build_tree -Dunit_tests=enabled || failed "the build failed"

out=build/check.log
status=build/check.status
{
	if [ -n "$soak" ]; then
		meson test -C build --no-rebuild --print-errorlogs
	else
		meson test -C build --no-rebuild --print-errorlogs --no-suite soak
	fi
	echo $? >"$status"
} </dev/null 2>&1 | tee "$out"

# Meson's summary: "Ok: 12", "Fail: 1", "Timeout: 0", "Unexpected Pass: 0", "Skipped: 2".
count() {
	sed -n "s/^$1: *\([0-9]*\) *\$/\1/p" "$out" | tail -n 1
}
passed=$(count Ok)
bad=$(( $(count Fail) + $(count Timeout) + $(count 'Unexpected Pass') + 0 ))
skipped=$(count Skipped)
rc=$(cat "$status" 2>/dev/null)
[ "$bad" -gt 0 ] || [ "$rc" = 0 ] || bad=1
[ "${passed:-0}" -gt 0 ] || bad=$((bad + (bad == 0)))
[ "${skipped:-0}" = 0 ] || echo "$skipped skipped"
echo "${passed:-0} passed, $bad failed"
[ "$bad" = 0 ]
