#!/bin/bash
# proto.sh [--check]: generates the Go code of every .proto in proto/, or checks
# that the committed code is what the sources give. protoc comes from Debian
# (protobuf-compiler); the plug-ins from go.mod.
set -euo pipefail
cd "$(dirname "$0")/.."
module=github.com/secexec/secexec
mapfile -t sources < <(git ls-files -co --exclude-standard 'proto/*.proto')
if ((${#sources[@]} == 0)); then
	echo "proto.sh: no .proto file in proto/" >&2
	exit 1
fi
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
for plugin in protoc-gen-go protoc-gen-go-ttrpc; do
	go build -o "$out/bin/$plugin" "$(go tool -n "$plugin" >/dev/null && go list tool | grep "/$plugin\$")"
done
mkdir "$out/src"
PATH=$out/bin:$PATH protoc -I . --go_out="$out/src" --go_opt=module=$module \
	--go-ttrpc_out="$out/src" --go-ttrpc_opt=module=$module "${sources[@]}"
cd "$out/src"
status=0
while IFS= read -r file; do
	# Which protoc made a file is no difference.
	if cmp -s <(grep -v '^// *-* *protoc ' "$file") <(grep -v '^// *-* *protoc ' "$OLDPWD/$file" 2>/dev/null); then
		continue
	elif [[ ${1:-} == --check ]]; then
		echo "proto.sh: $file is not what its source gives: run make proto" >&2
		status=1
	else
		install -D -m 644 "$file" "$OLDPWD/$file"
		echo "$file"
	fi
done < <(find . -name '*.go' -printf '%P\n')
exit $status
