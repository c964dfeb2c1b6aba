#!/bin/sh
# Runs the go peer that build.sh built: run.sh CACHE_DIR. Stdin, stdout: see control.go.
set -eu
exec "${1:-${XDG_CACHE_HOME:-$HOME/.cache}/descord-relay-interop}/go/peer"
