# Sourced by check.sh and quickstart.sh, from the top of the tree: Debian and Ubuntu packages.

BUILD_PACKAGES="gcc libc6-dev meson ninja-build pkg-config libfuse3-dev fuse3 libssl-dev libp11-dev libp11-kit-dev
libsqlite3-dev libinih-dev softhsm2 libmicrohttpd-dev libjansson-dev libcurl4-openssl-dev libsmartcols-dev uthash-dev"
TEST_PACKAGES="libcmocka-dev sqlite3 opensc binutils python3 python3-cryptography rsync git attr acl procps curl
bash coreutils util-linux libcap2-bin e2fsprogs tar fio stress-ng"

packages_missing() {
	for package in "$@"; do
		state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || state=none
		[ "$state" = installed ] || echo "$package"
	done
}

# packages_install PACKAGE...: quiet, and nothing at all when all are there.
packages_install() {
	command -v apt-get >/dev/null || { echo "this script knows Debian and Ubuntu only; install: $*" >&2; return 1; }
	missing=$(packages_missing "$@")
	[ -n "$missing" ] || return 0
	become=
	if [ "$(id -u)" != 0 ]; then
		command -v sudo >/dev/null || { echo "become root or install these packages first:" $missing >&2; return 1; }
		become="sudo -n"
		[ ! -t 0 ] || become=sudo
	fi
	echo "installing:" $missing
	log=$(mktemp)
	apt="env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300"
	if ! $become $apt install --no-install-recommends $missing </dev/null >"$log" 2>&1; then
		# The lists may be missing or old.
		if ! { $become $apt update && $become $apt install --no-install-recommends $missing; } </dev/null >>"$log" 2>&1; then
			cat "$log" >&2
			rm -f "$log"
			return 1
		fi
	fi
	rm -f "$log"
}

# build_tree [OPTION...]: build/, reused when it is there. Options are meson's; with any, what a first look did not find is looked for again.
# Fails with the log's end.
build_tree() {
	PATH=/usr/bin:/bin:/usr/sbin:/sbin:$PATH
	log=$(mktemp)
	set -- setup build "$@"
	if [ -f build/build.ninja ]; then
		[ $# = 2 ] && set -- || set -- "$@" --reconfigure
	fi
	[ $# = 0 ] || meson "$@" >"$log" 2>&1 || { tail -n 40 "$log" >&2; rm -f "$log"; return 1; }
	rm -f "$log"
	log=build/build.log
	ninja -C build >"$log" 2>&1 || { grep -A20 -E 'FAILED|error:' "$log" >&2 || tail -n 40 "$log" >&2; return 1; }
}
