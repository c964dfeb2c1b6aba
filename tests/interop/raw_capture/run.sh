#!/bin/sh
# Records the vectors tests/vectors/js_*.json anew: run.sh [CACHE_DIR]. Builds the js peer's packages if need be.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cache=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/descord-relay-interop}
"$here/../js/build.sh" "$cache"
ln -sf "$here"/*.mjs "$cache/js/"
exec node --preserve-symlinks --preserve-symlinks-main "$cache/js/capture.mjs" "$(cd "$here/../../vectors" && pwd)"
