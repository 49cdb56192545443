#!/usr/bin/env bash
# Makes the whole file system of the image, from a built gateway and a built guest: nothing else is in it, so that what
# CI starts in a chroot (check.sh) is what the image holds. The Dockerfile runs this, too.
# usage: rootfs.sh BINARY ROOT        BINARY is loopgate, for this machine's glibc; ROOT is replaced. As root, since the
# files that the gateway writes to are another user's.
set -euo pipefail
(($# == 2)) || { echo "usage: $0 BINARY ROOT" >&2; exit 2; }
binary=$(realpath "$1") root=$(realpath -m "$2")
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# No system's user has this number, and it can be named before the image is there: runAsUser, chown. Chosen.
id=10001

[[ -x $binary ]] || { echo "$binary: no gateway; make build" >&2; exit 1; }
[[ -f tools/execute_code/guest/build/python.wasm ]] || { echo 'no guest; make guest' >&2; exit 1; }
[[ $(id -u) == 0 ]] || { echo 'only root can give files to another user' >&2; exit 1; }

rm -rf "$root"
# Also where /proc and its like are mounted: nothing can make them in a root that is read-only.
mkdir -p "$root"/{dev,etc/loopgate,proc,sys,usr/bin} "$root"/var/{cache,lib}
install "$binary" "$root/usr/bin/loopgate"
# The loader and what it loads: glibc and libgcc. By the names that the binary has for them.
ldd "$binary" | grep -o '/[^ ]*' | while read -r library; do
    install -D "$library" "$root$library"
done

cp -R policies "$root/etc/loopgate/"
for tool in tools/*/; do
    # What a guest is built from stays behind.
    mkdir -p "$root/etc/loopgate/$tool"
    find "$tool" -mindepth 1 -maxdepth 1 ! -name guest -exec cp -R {} "$root/etc/loopgate/$tool" \;
done
install -D -m 644 {,"$root/etc/loopgate/"}tools/execute_code/guest/build/python.wasm

# Engines put their own hosts in its place. Files first, or DNS would be asked for the names in it.
echo '127.0.0.1 localhost' >"$root/etc/hosts"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
echo "loopgate:x:$id:$id::/var/lib/loopgate:/sbin/nologin" >"$root/etc/passwd"
echo "loopgate:x:$id:" >"$root/etc/group"

# What is compiled here starts at once on CPUs that can do what this one can; others compile it again, if they may write
# here. Every tool's examples run on the way.
install -d -m 700 "$root"/var/{cache,lib}/loopgate
(cd "$root/etc/loopgate" && env -i LOOPGATE_CACHE_DIR="$root/var/cache/loopgate/guest" LOOPGATE_AUDIT=/dev/null \
    LOOPGATE_MEMORY=:memory: "$binary" check)
rm "$root/var/cache/loopgate/guest/lock"
chown -R "$id:$id" "$root"/var/{cache,lib}/loopgate
