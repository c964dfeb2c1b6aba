#!/bin/sh
# Installs the pinned py-libp2p into a venv of its own, CACHE_DIR/py/venv (default: the user's cache folder): its
# dependencies are not this project's. Does nothing when requirements.txt and the interpreter have not changed.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cache=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/descord-relay-interop}
python=${PYTHON:-python3.11}
command -v "$python" >/dev/null || python=python3
mkdir -p "$cache/py"
cd "$cache/py"
exec 9>.lock
if command -v flock >/dev/null; then flock 9; fi
wanted="$("$python" --version) $(cksum <"$here/requirements.txt")"
if [ "$(cat .installed 2>/dev/null)" != "$wanted" ]; then
    rm -rf venv .installed
    "$python" -m venv venv
    venv/bin/pip install --quiet --disable-pip-version-check --requirement "$here/requirements.txt" >&2
    echo "$wanted" >.installed
fi
