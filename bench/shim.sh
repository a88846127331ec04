#!/bin/bash
# shim.sh DIR [FLAG...]: times containerd's shim of sealed guests beside that of
# runc and puts the report into DIR. Flags go to bench. Wants root, what
# cross/setup.sh installs and fetches, and what `make build` builds.
set -euo pipefail
cd "$(dirname "$0")/.."
(($# > 0)) || { echo "usage: bench/shim.sh DIR [FLAG...]" >&2; exit 2; }
out=$1; shift
cache=${SECEXEC_CACHE:-$PWD/.cache}
work=$(mktemp -d)
# runc leaves the folders of containerd's namespace.
trap 'rm -rf "$work"; rmdir /run/containerd/runc/bench /sys/fs/cgroup/{*/,}bench 2>/dev/null || true' EXIT
# The guests stay before their first instruction: of their root only the size counts.
install -D /dev/null "$work/root/sbin/init"
build/secexec emulate init "$work/host" >/dev/null
build/secexec build --root "$work/root" --root-size 16M -i "$cache/kernel/vmlinuz" --modules "$cache/kernel/modules" --guest-dir build/s390x \
	--memory 64 -k "$work/host/host.crt" --no-verify -o "$work/bundle" --secrets "$work/secrets" >/dev/null
build/secexec bundle push --format image "$work/bundle" "oci-archive:$work/image.tar:secexec.test/bench:latest" >/dev/null
CGO_ENABLED=0 go build -trimpath -o "$work/bench" ./bench
"$work/bench" -secexec build/secexec -image "$work/image.tar" -runs 50 -out "$out" "$@" shim
cat "$out/README.md"
