#!/bin/bash
# host.sh DIR [FLAG...]: times hostagent beside libvirt in a node of its own (see
# cross/node.sh; wants root) and puts the report into DIR. Flags go to bench.
set -euo pipefail
cd "$(dirname "$0")/.."
(($# > 0)) || { echo "usage: bench/host.sh DIR [FLAG...]" >&2; exit 2; }
out=$1; shift
export SECEXEC_NODE_DIR=${SECEXEC_NODE_DIR:-${SECEXEC_CACHE:-$PWD/.cache}/bench-node}
node() { cross/node.sh -N bench "$@"; }
cross/node.sh build libvirt-daemon-system libvirt-clients qemu-system-misc systemd-container
work=$(mktemp -d)
trap 'node stop || true; rm -rf "$work"' EXIT
mkdir "$work/bench"
CGO_ENABLED=0 go build -trimpath -o "$work/bench/" ./bench ./cmd/secexec
node -n start
# What the peer would ask of a machine that a node is not: devices, cgroups of
# its own, namespaces, security labels.
cat >"$work/qemu.conf" <<-CONF
	user = "root"
	group = "root"
	security_driver = "none"
	namespaces = []
	cgroup_controllers = []
	remember_owner = 0
CONF
node copy "$work/qemu.conf" /etc/libvirt/qemu.conf
node copy "$work/bench" /bench
node exec systemctl stop libvirtd.service libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket virtlogd.service virtlogd.socket
node exec /bench/bench -secexec /bench/secexec "$@" -out /results host
mkdir -p "$out"
for file in README.md figures.json ratios.svg; do node exec cat "/results/$file" >"$out/$file"; done
cat "$out/README.md"
