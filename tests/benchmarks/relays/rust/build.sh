#!/bin/sh
# Builds the rust relay, optimised, into CACHE_DIR/bench-rust-target (default: the user's cache folder). The first build
# takes several minutes on two cores.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cache=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/descord-relay-interop}
mkdir -p "$cache"
cd "$here"
CARGO_TARGET_DIR=$cache/bench-rust-target cargo build --release --locked --quiet >&2
