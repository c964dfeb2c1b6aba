#!/bin/sh
# Runs the py peer in the venv that build.sh made: run.sh CACHE_DIR. Stdin, stdout: see control.py.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cache=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/descord-relay-interop}
export PYTHONDONTWRITEBYTECODE=1
exec "$cache/py/venv/bin/python" -u "$here/peer.py"
