#!/usr/bin/env bash
# Checks what is in this folder, and the compose files that the gateway writes, without an engine: lints it, makes the
# image's root, starts that root in namespaces of its own, read-only, and asks it a question.
# usage: check.sh BINARY SCRATCH      as root; the linters are in PATH
set -euo pipefail
(($# == 2)) || { echo "usage: $0 BINARY SCRATCH" >&2; exit 2; }
binary=$(realpath "$1") scratch=$(realpath -m "$2")
cd "$(dirname "${BASH_SOURCE[0]}")"

hadolint Dockerfile
shellcheck ./*.sh
docker-compose --file compose.yaml --profile '*' config --quiet
for choice in '' '--hardware b200 --quantization fp8'; do
    for gateway in '' --for-gateway; do
        # Flags, each a word.
        # shellcheck disable=SC2086
        "$binary" launch --format compose $choice $gateway 2>/dev/null | docker-compose --project-name launched --file - config --quiet
    done
done

mkdir -p "$scratch"
if command -v systemd-analyze >/dev/null; then
    # It wants to see the program.
    sed "s|^ExecStart=/usr/local/bin/loopgate |ExecStart=$binary |" loopgate.service >"$scratch/loopgate.service"
    systemd-analyze verify --man=no --recursive-errors=no "$scratch/loopgate.service"
    echo 'ok: systemd takes every line of the unit'
else
    echo 'LEFT OUT: loopgate.service, since there is no systemd-analyze here' >&2
fi

version=$("$binary" --version)
grep -qx "ARG VERSION=${version#loopgate }" Dockerfile || { echo "Dockerfile: another VERSION than $version" >&2; exit 1; }

./rootfs.sh "$binary" "$scratch/root" >"$scratch/rootfs.log" 2>&1 || { cat "$scratch/rootfs.log" >&2; exit 1; }
unshare --mount --net --pid --ipc --uts --fork --kill-child python3 -B check.py "$scratch/root"
