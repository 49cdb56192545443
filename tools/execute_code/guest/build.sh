#!/usr/bin/env bash
# Builds build/python.wasm: CPython and its standard library, started, as one WebAssembly component.
# Needs python3 (3.9 or later) with venv, and the package index at the first run only. Does nothing when nothing changed.
# usage: build.sh [venv-directory]
set -euo pipefail
[[ ${1:-/} == /* ]] || set -- "$PWD/$1"
cd "$(dirname "${BASH_SOURCE[0]}")"
venv=${1:-../../../target/guest-venv}

inputs=(build.sh requirements.txt world.wit ./*.py)
stamp=$(cat "${inputs[@]}" | python3 -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')
if [[ -f build/python.wasm && $(cat build/stamp 2>/dev/null) == "$stamp" ]]; then
    exit 0
fi

if ! cmp -s requirements.txt "$venv/requirements.txt"; then
    echo "guest: installing componentize-py and tzdata into $venv"
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements.txt
    cp requirements.txt "$venv/requirements.txt"
fi

echo "guest: building python.wasm (half a minute)"
mkdir -p build
trap 'rm -f build/python.wasm.$$' EXIT
# componentize-py shows the guest the packages of the first python3 in PATH: those of this file and no others.
PATH="$venv/bin:$PATH" componentize-py --wit-path world.wit --world python componentize --python-path . --output "build/python.wasm.$$" runner
python3 say_disk_full.py "build/python.wasm.$$"
mv "build/python.wasm.$$" build/python.wasm
echo "$stamp" > build/stamp
echo "guest: built $(pwd)/build/python.wasm ($(($(wc -c < build/python.wasm) / 1024 / 1024)) MiB)"
