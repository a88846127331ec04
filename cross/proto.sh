#!/bin/bash
# proto.sh [--check]: generates the Go code of proto/*/v1, or checks that the
# committed code is what the .proto gives. Wants Debian's protobuf-compiler; the
# plugins' versions are go.mod's.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v protoc >/dev/null || { echo "proto.sh: no protoc: apt-get install protobuf-compiler" >&2; exit 1; }
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
go build -o "$out/" google.golang.org/protobuf/cmd/protoc-gen-go github.com/containerd/ttrpc/cmd/protoc-gen-go-ttrpc
PATH=$out:$PATH protoc --go_out="$out" --go_opt=paths=source_relative --go-ttrpc_out="$out" --go-ttrpc_opt=paths=source_relative \
	proto/*/v1/*.proto
for file in "$out"/proto/*/v1/*.go; do
	# Which protoc ran does not matter.
	sed -i '/^\/\/ \tprotoc  *v/d' "$file"
	ours=${file#"$out/"}
	if [[ ${1:-} == --check ]]; then
		cmp "$file" "$ours" || { echo "proto.sh: $ours is stale: run make proto" >&2; exit 1; }
	else
		cp "$file" "$ours"
	fi
done
