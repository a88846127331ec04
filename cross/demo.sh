#!/bin/bash
# demo.sh: the whole path on this machine, on the emulated platform.
#
# An owner seals a Debian s390x system for one host; the host's operator runs
# it; the owner checks the guest's signature; three frauds are refused. Wants
# what `make build` builds and cross/setup.sh fetches; leaves nothing behind.
set -euo pipefail

repo=$(cd "$(dirname "$0")/.." && pwd)
cache=${SECEXEC_CACHE:-$repo/.cache}
PATH=$repo/build:$PATH
work=$(mktemp -d /var/tmp/secexec-demo.XXXXXX)
export SECEXEC_SOCKET=$work/hostagent.sock
agent='' begun=$SECONDS
if [[ -t 1 ]]; then bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' plain=$'\e[0m'; else bold='' dim='' green='' plain=''; fi

say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
# show COMMAND...: runs a command as its reader would type it, in the demo's folder.
show() { printf '%s$ %s%s\n' "$dim" "$*" "$plain"; "$@"; }
die() { echo "demo: $*" >&2; exit 1; }

# ours: processes that belong to this run of the demo, by their arguments.
ours() { pgrep -f -- "$work" || true; }

cleanup() {
	local status=$?
	trap - EXIT INT TERM
	[[ -z $agent ]] || kill "$agent" 2>/dev/null || true
	local left
	left=$(ours | grep -vx "$$" || true)
	# shellcheck disable=SC2086 # a list of process ids
	[[ -z $left ]] || kill -9 $left 2>/dev/null || true
	if ((status != 0)) && [[ -s $work/hostagent.log ]]; then
		echo "hostagent's last words:" >&2
		tail -n 20 "$work/hostagent.log" >&2
	fi
	rm -rf "$work"
	exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# refused PATTERN COMMAND...: the command must fail and say PATTERN.
refused() {
	local pattern=$1 out
	shift
	printf '%s$ %s%s\n' "$dim" "$*" "$plain"
	if out=$("$@" 2>&1); then die "this should have been refused: $*"; fi
	printf '%s\n' "$out"
	grep -Eq -- "$pattern" <<<"$out" || die "refused, but not with /$pattern/"
	printf '%srefused, as it should be%s\n' "$green" "$plain"
}

# as_operator BUNDLE FILE OLD: makes the bundle's manifest fit a changed file again,
# as a cheating operator would; OLD is the file as it was.
as_operator() {
	local manifest=$1/bundle.json old new
	old=$(sha256sum <"$3" | cut -d' ' -f1)
	new=$(sha256sum <"$1/$2" | cut -d' ' -f1)
	grep -q "$old" "$manifest" || die "no $old in $manifest"
	sed -i "s/$old/$new/" "$manifest"
}

cd "$work"
ln -s "$cache/kernel" kernel
ln -s "$cache/roots/debian.tar" "$cache/roots/tiny.tar" .

say "1. Two emulated hosts, each with a test PKI in IBM's place"
show secexec emulate init host-a
show secexec emulate init host-b

say "2. The owner seals a Debian system for host-a"
seal() { # seal NAME ROOT MEMORY HOST [FLAG...]
	show secexec build --root "$2" --kernel kernel/vmlinuz --modules kernel/modules --memory "$3" \
		-k "$4/host.crt" -C "$4/ca/signing.crt" -C "$4/ca/inter-ca.crt" --root-ca "$4/ca/root-ca.crt" \
		-o "$1" --secrets "$1-secrets" "${@:5}"
}
seal hello debian.tar 1024 host-a
show ls -l hello hello-secrets

say "3. The operator of host-a starts hostagent"
printf '%s$ %s%s\n' "$dim" "hostagent --platform emulated --emulated-host host-a --state state --runtime run --socket hostagent.sock &" "$plain"
hostagent --platform emulated --emulated-host "$work/host-a" --state "$work/state" --runtime "$work/run" \
	--socket "$SECEXEC_SOCKET" >"$work/hostagent.log" 2>&1 &
agent=$!
for _ in {1..100}; do [[ -S $SECEXEC_SOCKET ]] && break; sleep 0.1; done
show secexec node

say "4. ... and runs the guest"
show secexec run hello --identity hello-secrets/identity.pub

say "5. The owner asks the guest for a signature over a nonce of the owner's own"
show secexec verify hello --identity hello-secrets/identity.pub

say "6. The workload speaks, once systemd has brought it up"
for _ in {1..600}; do secexec logs hello | grep -aq "hello from the sealed guest" && break; sleep 0.1; done
printf '%s$ %s%s\n' "$dim" "secexec logs hello | grep 'sealed guest'" "$plain"
secexec logs hello | grep -a "sealed guest" || die "no greeting from the workload"
show secexec ps

say "7. Refusal: one flipped byte in the boot image"
seal small tiny.tar 256 host-a >/dev/null
cp -r small flipped
printf '\xff' | dd of=flipped/boot.seimg bs=1 seek=1048576 conv=notrunc status=none
cmp -s small/boot.seimg flipped/boot.seimg && printf '\x00' | dd of=flipped/boot.seimg bs=1 seek=1048576 conv=notrunc status=none
as_operator flipped boot.seimg small/boot.seimg
refused H209 secexec run flipped --name flipped
show secexec logs flipped # the boot loader's own words

say "8. Refusal: an image for another host"
seal elsewhere tiny.tar 256 host-b >/dev/null
refused 'H202.*host-b' secexec run elsewhere --name elsewhere

say "9. Refusal: another disk in the root's place"
cp -r small swapped
cp elsewhere/root.img swapped/root.img
as_operator swapped root.img small/root.img
refused G108 secexec run swapped --name swapped

say "10. The owner lets host-a run the other image too: a new SE header, no new build"
show secexec bundle retarget elsewhere --hdr-key elsewhere-secrets/header.key \
	-k host-a/host.crt -C host-a/ca/signing.crt -C host-a/ca/inter-ca.crt --root-ca host-a/ca/root-ca.crt
show secexec run elsewhere --name elsewhere --identity elsewhere-secrets/identity.pub
show secexec kill elsewhere

say "11. One disk that boots by itself, with a data volume: for providers that know no hostagent, and for those that do"
seal cloud tiny.tar 256 host-a --volume name=data,mount=/srv,size=32M --bootable-disk cloud.qcow2
show ls -l cloud cloud.qcow2
show secexec run cloud --identity cloud-secrets/identity.pub
show secexec kill cloud

say "12. Power down, in order"
show secexec stop hello
show secexec ps --all
show secexec rm hello flipped swapped elsewhere cloud
kill "$agent"
wait "$agent" || die "hostagent ended with status $?"
agent=''
left=$(ours | grep -vx "$$" || true)
[[ -z $left ]] || die "processes left: $left"
! grep -F "$work" /proc/mounts || die "mounts left"
[[ ! -d /dev/mapper ]] || ! compgen -G '/dev/mapper/secexec*' || die "device-mapper entries left"
printf '\n%sDone in %d s; no process, mount or device-mapper entry left.%s\n' "$green" $((SECONDS - begun)) "$plain"
