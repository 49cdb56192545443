#!/usr/bin/env bash
# Checks what is in this folder, without an engine: lints it, makes the image's root, starts that root in namespaces of
# its own, read-only, and asks it a question.
# usage: check.sh BINARY SCRATCH      as root; the linters are in PATH
set -euo pipefail
(($# == 2)) || { echo "usage: $0 BINARY SCRATCH" >&2; exit 2; }
binary=$(realpath "$1") scratch=$(realpath -m "$2")
cd "$(dirname "${BASH_SOURCE[0]}")"

hadolint Dockerfile
shellcheck ./*.sh
docker-compose --file compose.yaml --profile '*' config --quiet
version=$("$binary" --version)
grep -qx "ARG VERSION=${version#loopgate }" Dockerfile || { echo "Dockerfile: another VERSION than $version" >&2; exit 1; }

mkdir -p "$scratch"
./rootfs.sh "$binary" "$scratch/root" >"$scratch/rootfs.log" 2>&1 || { cat "$scratch/rootfs.log" >&2; exit 1; }
unshare --mount --net --pid --ipc --uts --fork --kill-child python3 -B check.py "$scratch/root"
