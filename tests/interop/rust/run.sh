#!/bin/sh
# Runs the rust peer that build.sh built: run.sh CACHE_DIR. Stdin, stdout: see src/control.rs.
set -eu
exec "${1:-${XDG_CACHE_HOME:-$HOME/.cache}/descord-relay-interop}/rust-target/release/descord-interop-peer"
