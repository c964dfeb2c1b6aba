#!/bin/sh
# Builds the rust peer, optimised, into CACHE_DIR/rust-target (default: the user's cache folder), so that the tree holds
# sources only. A first build takes a few minutes on two cores, one with nothing changed a fraction of a second.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cache=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/descord-relay-interop}
mkdir -p "$cache"
cd "$here"
# Cargo takes its own lock on the folder.
CARGO_TARGET_DIR=$cache/rust-target cargo build --release --locked --quiet >&2
