#!/bin/bash
# qemu-user.sh [--list] [GO-TEST-FLAG...]: runs the packages' tests as s390x
# programs under qemu-user, so that every byte-order mistake shows on this
# machine. --list prints the packages instead.
set -euo pipefail
cd "$(dirname "$0")/.."
export GOARCH=s390x CGO_ENABLED=0

# What stays out, and why. A pattern is a package's path in the module.
excluded=(
	"cmd/secexec            its scripts start their own test binary again, which needs binfmt_misc for s390x"
	"cross/booted           starts guests itself; there the code runs as s390x anyway"
	"cross/containerd       starts guests too, by this machine's containerd"
	"cross/node             runs nodes of this machine"
	"cross/tally            a tool of the build machine"
	"docs                   reads the sources, the same ones on every machine"
	"hostagent/launch       clone flags and pidfds, which qemu-user lacks (EINVAL)"
	"hostagent/move/relay   half a minute of moves; what depends on byte order in them is hostagent/move's"
	"packaging              judges packages by this machine's tools"
	"hostagent/platform     starts guests; its parsers' bytes are ASCII"
)

packages() {
	local all path entry pattern
	# -e: a package that does not build is go test's to report.
	all=$(go list -e -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./...)
	for path in $all; do
		path=${path#github.com/secexec/secexec/}
		for entry in "${excluded[@]}"; do
			pattern=${entry%% *}
			[[ $path != "$pattern" ]] || continue 2
		done
		printf './%s\n' "$path"
	done
}

list=$(packages)
if [[ ${1:-} == --list ]]; then
	printf '%s\n' "$list"
	exit
fi
qemu=$(command -v qemu-s390x-static || command -v qemu-s390x) || {
	echo "qemu-user.sh: no qemu-s390x-static: run cross/setup.sh (Debian's qemu-user-static)" >&2
	exit 1
}
# Tests that start an s390x program of their own put this before it.
export QEMU_S390X=$qemu
# shellcheck disable=SC2086 # a list of packages
exec go test -exec "$qemu" "$@" $list
