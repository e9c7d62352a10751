#!/bin/sh
# From a fresh Debian or Ubuntu to a working mount: installs packages, builds, makes a keystore and a vault, mounts, writes,
# shows the ciphertext, rotates the key, shows the audit trail. Asks nothing.
#   sh etc/quickstart.sh [DIRECTORY]     everything is made below DIRECTORY, which must be new or empty
set -eu
top=$(cd "$(dirname "$0")/.." && pwd)

case ${1-} in
-h | --help) sed -n '2,4s/^# *//p' "$0"; exit 0 ;;
-*) echo "usage: sh etc/quickstart.sh [DIRECTORY]" >&2; exit 2 ;;
esac
if [ $# -gt 0 ]; then
	mkdir -p "$1"
	place=$(cd "$1" && pwd)
	[ -z "$(ls -A "$place")" ] || { echo "$place is not empty" >&2; exit 1; }
elif [ "$(id -u)" = 0 ]; then
	place=$(mktemp -d /var/tmp/keepfs-quickstart.XXXXXX)
else
	place=$(mktemp -d "$HOME/keepfs-quickstart.XXXXXX")
fi

say() { printf '\n== %s\n' "$*"; }
run() { printf '$ %s\n' "$*"; "$@"; }

cd "$top"
. etc/packages.sh
say "packages and build"
packages_install $BUILD_PACKAGES
build_tree
if [ ! -c /dev/fuse ]; then
	echo "there is no /dev/fuse here: load the fuse module, or give the container the device" >&2
	exit 1
fi
PATH=$top/build/fs:$top/build/tools:$PATH
export PATH KEEPFS_KEYSTORE="$place/keystore"
vault=$place/vault mnt=$place/mnt file=$place/mnt/hello.txt
mkdir "$mnt"

say "a keystore with an embedded HSM (SoftHSM), and a vault"
run keepctl init "$vault"

say "mounted: what is written here ..."
run keepfs "$vault" "$mnt"
echo "The quick brown fox reads plain text." >"$file"
run cat "$file"

say "... lies encrypted there"
backing=$(keepctl file show "$file" --json | sed -n 's/.*"backing_path": *"\([^"]*\)".*/\1/p')
run ls -l "$vault"
printf '$ od -A d -t x1z %s | tail\n' "$backing"
od -A d -t x1z "$backing" | tail -n 5

say "its data key is wrapped by a key in the HSM"
run keepctl file show "$file"

say "rotation makes a new version at once; rewrap moves the file's data key to it and reads no content"
run keepctl key rotate default
run keepctl rewrap
run keepctl file show "$file"
run cat "$file"

say "who used which key on which file"
run keepctl audit list
run keepctl audit verify

say "this stays:"
cat <<TXT
mount      $mnt
vault      $vault
keystore   $KEEPFS_KEYSTORE     (save it and the vault: without the keystore nobody opens the vault)
try        export PATH=$top/build/fs:$top/build/tools:\$PATH KEEPFS_KEYSTORE=$KEEPFS_KEYSTORE
           keepctl status
end        fusermount3 -u $mnt
again      keepfs $vault $mnt
TXT
