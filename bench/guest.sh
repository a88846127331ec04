#!/bin/bash
# guest.sh DIR [FLAG...]: times guestinit beside initramfs-tools, tuned to the
# modules that the guest needs, and puts the report into DIR. Flags go to bench.
# Wants root, what cross/setup.sh installs, and Debian's arch-test; a Linux of 6.7
# or later, whose user namespaces have binfmt_misc of their own. The peer is built
# once, into the cache (a minute or two).
set -euo pipefail
cd "$(dirname "$0")/.."
(($# > 0)) || { echo "usage: bench/guest.sh DIR [FLAG...]" >&2; exit 2; }
out=$1; shift
cache=${SECEXEC_CACHE:-$PWD/.cache}
peers=${SECEXEC_PEERS:-$cache/peers}
release=$(<"$cache/kernel/release")
modules=(virtio_blk ext4 crc32c_generic xts aes_s390 dm_crypt)

# foreign COMMAND...: runs a command where s390x programs run, as root of a user
# namespace with a binfmt_misc of its own. Nothing of it is left behind.
foreign() {
	local gate
	gate=$(mktemp -u); mkfifo "$gate"
	# shellcheck disable=SC2016 # the inner shell's
	unshare --user --mount --fork --pid --kill-child bash -euc '
		read -r _ <"$0"
		mount -t proc proc /proc
		mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
		cat /usr/lib/binfmt.d/qemu-s390x.conf >/proc/sys/fs/binfmt_misc/register
		exec "$@"' "$gate" "$@" &
	local child=$!
	while [[ $(readlink "/proc/$child/ns/user") == "$(readlink /proc/self/ns/user)" ]]; do sleep 0.01; done
	echo "0 0 65536" >"/proc/$child/uid_map"
	echo "0 0 65536" >"/proc/$child/gid_map"
	echo go >"$gate"
	rm -f "$gate"
	wait "$child"
}

# make_root: a Debian with initramfs-tools and cryptsetup's hooks.
make_root() {
	rm -rf "$peers/new"
	mkdir -p "$peers/new"
	{ grep '^Acquire' "$cache/apt/apt.conf" | grep -v Languages || true; echo 'Acquire::Languages { "none"; };'; } >"$peers/options"
	foreign mmdebstrap --quiet --mode=root --format=directory --variant=minbase --architectures=s390x --aptopt="$peers/options" \
		--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
		--include=initramfs-tools,cryptsetup-initramfs,zstd,kmod,e2fsprogs bookworm "$peers/new/root" "$(grep ' bookworm main' "$cache/apt/sources.list")"
	mkdir -p "$peers/new/root/lib/modules"
	cp -r "$cache/kernel/modules/lib/modules/$release" "$peers/new/root/lib/modules/"
	# What mkinitramfs asks the kernel's configuration for, and this kernel has.
	printf 'CONFIG_RD_%s=y\n' GZIP ZSTD >"$peers/new/root/boot/config-$release"
	mv -T "$peers/new/root" "$peers/root"
}

# make_initrd UUID KEYFILE TO: the peer's initrd, tuned: the modules that the
# guest needs, the key file in it.
make_initrd() {
	local root=$peers/root
	install -D -m 600 "$2" "$root/etc/keys/root.key"
	echo "cryptroot UUID=$1 /etc/keys/root.key luks,initramfs" >"$root/etc/crypttab"
	echo "/dev/mapper/cryptroot / ext4 rw 0 1" >"$root/etc/fstab"
	echo 'KEYFILE_PATTERN="/etc/keys/*.key"' >"$root/etc/cryptsetup-initramfs/conf-hook"
	printf '%s\n' MODULES=list COMPRESS=zstd UMASK=0077 >"$root/etc/initramfs-tools/conf.d/bench"
	printf '%s\n' "${modules[@]}" >"$root/etc/initramfs-tools/modules"
	# shellcheck disable=SC2016 # the inner shell's
	foreign bash -euc 'mount --rbind /dev "$0/dev"; mount -t proc proc "$0/proc"; chroot "$0" mkinitramfs -o /initrd.img "$1"' "$root" "$release"
	mv "$root/initrd.img" "$3"
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CGO_ENABLED=0
mkdir "$work/s390x"
go build -trimpath -ldflags '-s -w' -o "$work/" ./cmd/secexec ./bench
GOARCH=s390x go build -trimpath -ldflags '-s -w' -o "$work/s390x/" ./guestinit ./guestagent ./bench/guestmark
mkdir -p "$work/root/"{dev,proc,sys,run,sbin,tmp,etc}
mv "$work/s390x/guestmark" "$work/root/sbin/init"

# One disk for all: the second build takes over the first one's, with its key.
"$work/secexec" emulate init "$work/host" >/dev/null
for signatures in keep strip; do
	"$work/secexec" build --update --root "$work/root" --kernel "$cache/kernel/vmlinuz" --modules "$cache/kernel/modules" --guest-dir "$work/s390x" \
		--module-signatures "$signatures" -k "$work/host/host.crt" --no-verify -o "$work/bundle" --secrets "$work/secrets" >/dev/null 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
	"$work/secexec" image unpack "$work/bundle/boot.seimg" --hdr-key "$work/secrets/header.key" --part initrd -o "$work/ours-$signatures" >/dev/null
done
uuid=$(dd if="$work/bundle/root.img" bs=1 skip=168 count=36 status=none)

[[ -d $peers/root ]] || make_root
make_initrd "$uuid" "$work/secrets/disk.key" "$work/initramfs-tools"

row() { # row NAME INITRD APPEND
	jq -n --arg name "$1" --arg kernel "$cache/kernel/vmlinuz" --arg initrd "$2" --arg append "console=ttysclp0 panic=0 $3" --arg disk "$work/bundle/root.img" '$ARGS.named'
}
{
	row "guestinit, signatures stripped" "$work/ours-strip" ""
	row "guestinit, signatures kept" "$work/ours-keep" ""
	row "initramfs-tools, tuned" "$work/initramfs-tools" "root=/dev/mapper/cryptroot rw"
} | jq -s . >"$work/cases.json"
"$work/bench" "$@" -programs "$work/s390x" -cases "$work/cases.json" -out "$out" guest
