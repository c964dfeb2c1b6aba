#!/bin/sh
# Runs the js peer that build.sh installed: run.sh CACHE_DIR. Stdin, stdout: see control.mjs.
set -eu
cache=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/descord-relay-interop}
# The sources are links into the tree and their packages stand beside the links, not beside the sources.
exec node --preserve-symlinks --preserve-symlinks-main "$cache/js/peer.mjs"
