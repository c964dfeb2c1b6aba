#!/bin/sh
# Installs the js peer into CACHE_DIR/js (default: the user's cache folder).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cache=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/descord-relay-interop}
exec sh "$here/../../support/npm_install.sh" "$here" "$cache/js"
