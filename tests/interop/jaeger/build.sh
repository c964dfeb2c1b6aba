#!/bin/sh
# Builds Jaeger's all-in-one (collector, memory storage, query API) from its Go module, once.  Not with `go install`: its
# go.mod has a replace.  The module holds no web page (that is a project of its own), so the API alone is there.
set -eu
cache=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/descord-relay-interop}
version=v1.76.0
binary=$cache/jaeger/all-in-one-$version
[ ! -x "$binary" ] || exit 0
mkdir -p "$cache/jaeger"
export GOPATH="$cache/go" GOMODCACHE="$cache/go-mod" GOCACHE="$cache/go-build" GOFLAGS=-modcacherw GOTOOLCHAIN=local
module=$(cd "$cache/jaeger" && go mod download -json "github.com/jaegertracing/jaeger@$version" |
  sed -n 's/^[[:space:]]*"Dir": "\(.*\)",*$/\1/p')
source=$(mktemp -d "$cache/jaeger/source.XXXXXX")
trap 'rm -rf "$source"' EXIT
cp -R "$module/." "$source"
chmod -R u+w "$source"
cd "$source"
go build -trimpath -ldflags "-s -w" -o "$binary.new" ./cmd/all-in-one
mv "$binary.new" "$binary"
