#!/bin/bash
# demo-app.sh: a container image becomes a sealed guest, on the emulated platform.
#
# An unmodified image of a small web application is sealed for one host and run
# there; a page is fetched through its own TLS, over a tap interface in a network
# namespace of its own. Wants root, what `make build` builds and cross/setup.sh
# fetches, curl, iproute2 and tar; leaves nothing behind.
#
# QEMU's user networking won't do for TCP under emulation: QEMU 7.2 miscounts
# checksums in the vector instructions that Linux 6.12 counts them with. Over a tap
# interface nobody counts them.
set -euo pipefail

if [[ ${1-} != inside ]]; then
	unshare --net --mount true 2>/dev/null || { echo "demo-app: no network and mount namespaces here, as in a chroot or without root rights" >&2; exit 1; }
	exec unshare --net --mount "$0" inside
fi

repo=$(cd "$(dirname "$0")/.." && pwd)
cache=${SECEXEC_CACHE:-$repo/.cache}
PATH=$repo/build:$PATH:/usr/local/go/bin
work=$(mktemp -d /var/tmp/secexec-demo-app.XXXXXX)
export SECEXEC_SOCKET=$work/hostagent.sock
agent='' begun=$SECONDS
if [[ -t 1 ]]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; else bold='' dim='' plain=''; fi

say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
show() { printf '%s$ %s%s\n' "$dim" "$*" "$plain"; "$@"; }
die() { echo "demo-app: $*" >&2; exit 1; }

cleanup() {
	local status=$?
	trap - EXIT INT TERM
	if [[ -n $agent ]]; then
		secexec kill app >/dev/null 2>&1 || true
		kill "$agent" 2>/dev/null || true
		wait "$agent" 2>/dev/null || true
	fi
	if ((status != 0)) && [[ -s $work/hostagent.log ]]; then
		echo "hostagent's last words:" >&2
		tail -n 20 "$work/hostagent.log" >&2
	fi
	rm -rf "$work"
	exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

command -v curl >/dev/null || die "no curl: apt-get install curl"
[[ -c /dev/net/tun ]] || die "no /dev/net/tun: load the module tun"
mount -t sysfs sysfs /sys # it shows the interfaces of the namespace that it was mounted in
ip link set lo up
ip tuntap add dev guest0 mode tap multi_queue vnet_hdr
ip address add 192.0.2.1/24 dev guest0
ip link set guest0 up

# blob FILE: puts a file among the image's blobs and prints its digest.
blob() {
	local digest
	digest=$(sha256sum <"$1" | cut -d' ' -f1)
	mv "$1" "image/blobs/sha256/$digest"
	echo "$digest"
}

# image: makes an OCI image, app.tar, as container tools do: one layer with the
# program and a user for it.
image() {
	local layer config manifest
	mkdir -p rootfs/bin rootfs/etc image/blobs/sha256
	(cd "$repo" && CGO_ENABLED=0 GOARCH=s390x go build -trimpath -ldflags '-s -w' -o "$work/rootfs/bin/demoapp" ./cross/demoapp)
	echo 'web:x:1000:1000::/:/bin/false' >rootfs/etc/passwd
	tar -C rootfs --sort=name --owner=0 --group=0 -cf layer.tar .
	layer=$(blob layer.tar)
	printf '{"architecture":"s390x","os":"linux","config":{"Entrypoint":["demoapp"],"User":"web","Env":["PATH=/bin"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' "$layer" >config
	local config_size layer_size
	config_size=$(stat -c %s config) layer_size=$(stat -c %s "image/blobs/sha256/$layer")
	config=$(blob config)
	printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:%s","size":%d},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:%s","size":%d}]}' \
		"$config" "$config_size" "$layer" "$layer_size" >manifest
	local manifest_size
	manifest_size=$(stat -c %s manifest)
	manifest=$(blob manifest)
	printf '{"imageLayoutVersion":"1.0.0"}' >image/oci-layout
	printf '{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:%s","size":%d}]}' "$manifest" "$manifest_size" >image/index.json
	tar -C image -cf app.tar .
}

cd "$work"
ln -s "$cache/kernel" kernel
image

say "1. A container image, as podman save writes it"
show ls -l app.tar

say "2. The owner seals it for host-a: no change to the image"
show secexec emulate init host-a
show secexec build --from-image app.tar --kernel kernel/vmlinuz --modules kernel/modules --memory 256 --network static --address 192.0.2.2/24 \
	-k host-a/host.crt -C host-a/ca/signing.crt -C host-a/ca/inter-ca.crt --root-ca host-a/ca/root-ca.crt -o app --secrets app-secrets

say "3. The operator of host-a runs it, on the network behind the tap interface guest0"
printf '%s$ %s%s\n' "$dim" "hostagent --platform emulated --emulated-host host-a --state state --runtime run --socket hostagent.sock &" "$plain"
hostagent --platform emulated --emulated-host "$work/host-a" --state "$work/state" --runtime "$work/run" \
	--socket "$SECEXEC_SOCKET" >"$work/hostagent.log" 2>&1 &
agent=$!
for _ in {1..200}; do [[ -S $SECEXEC_SOCKET ]] && break; sleep 0.1; done
show secexec run app --network tap=guest0 --identity app-secrets/identity.pub

say "4. The application's own certificate, from its log, is what curl trusts, and nothing else"
for _ in {1..600}; do secexec logs app | grep -aq 'END CERTIFICATE' && break; sleep 0.1; done
secexec logs app | tr -d '\r' | sed -n '/BEGIN CERTIFICATE/,/END CERTIFICATE/p' >app.pem
[[ -s app.pem ]] || die "the application printed no certificate"
page=$(show curl --silent --show-error --fail --max-time 60 --retry 5 --retry-all-errors --cacert app.pem https://192.0.2.2/)
printf '%s\n' "$page"
grep -q 'hello from the sealed application on app, user 1000, parent process 1' <<<"$page" || die "that is not the application's page"
! curl --silent --max-time 60 https://192.0.2.2/ || die "curl trusts somebody else's certificate"

say "5. Power down, in order"
show secexec stop app
secexec logs app | grep -a 'the workload ended with status' || die "the program's status was not told"
show secexec rm app
kill "$agent"
wait "$agent" || die "hostagent ended with status $?"
agent=''
printf '\n%sDone in %d s.%s\n' "$bold" $((SECONDS - begun)) "$plain"
