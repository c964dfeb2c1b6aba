#!/bin/sh
# npm_install.sh SOURCES FOLDER: installs the pinned packages of SOURCES into FOLDER and links its sources there, so that
# the tree itself holds no node_modules. Does nothing when the lock file has not changed.
set -eu
here=$1
mkdir -p "$2"
cd "$2"
exec 9>.lock
if command -v flock >/dev/null; then flock 9; fi
for source in "$here"/*.mjs; do ln -sf "$source" .; done
wanted="$(node --version) $(cksum <"$here/package.json") $(cksum <"$here/package-lock.json")"
if [ "$(cat .installed 2>/dev/null)" != "$wanted" ]; then
    cp "$here/package.json" "$here/package-lock.json" .
    npm ci --no-audit --no-fund --ignore-scripts --loglevel=error >&2
    echo "$wanted" >.installed
fi
