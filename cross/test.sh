#!/bin/bash
# test.sh: all tests, in two rounds: the build machine's and, side by side, the
# same packages as s390x programs, and xts with its other assembly and without;
# then the booted guests and the nodes, alone, because they mind the time. cross/tally reports
# all of it and decides.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
pids=()

cleanup() {
	local status=$?
	trap - EXIT INT TERM
	# Whole process groups: go test's children are test programs and guests.
	for pid in "${pids[@]}"; do kill -- "-$pid" 2>/dev/null || true; done
	rm -rf "$work"
	exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

booted=(./cross/booted/... ./cross/containerd/... ./cross/node ./packaging)
mapfile -t native < <(go list -e ./... | grep -vE '/cross/(booted|containerd|node)|/packaging$')
go build -o "$work/tally" ./cross/tally
mkfifo "$work"/{native,s390x,arm64,purego,booted}

# -m: each background job gets a process group of its own.
set -m
"$work/tally" native="$work/native" s390x="$work/s390x" \
	arm64="$work/arm64" purego="$work/purego" booted="$work/booted" &
tally=$! pids=($!)
go test -json -p 1 -timeout 10m "${native[@]}" >"$work/native" & pids+=($!)
cross/qemu-user.sh -json -p 1 -timeout 15m >"$work/s390x" & pids+=($!)
GOARCH=arm64 CGO_ENABLED=0 go test -json -exec "$(command -v qemu-aarch64-static || echo qemu-aarch64)" ./xts >"$work/arm64" & pids+=($!)
go test -json -tags purego ./xts >"$work/purego" & pids+=($!)
exec 8>"$work/booted" # holds tally's end open until there is something to read
for pid in "${pids[@]:1}"; do wait "$pid" || true; done # tally knows how they ended
# -count=1: kernels, roots and packages are no inputs that go test's cache knows.
go test -json -p 1 -count=1 -timeout 20m "${booted[@]}" >&8 & pids=("$tally" $!)
exec 8>&-
wait "${pids[1]}" || true
pids=("$tally")
wait "$tally"
