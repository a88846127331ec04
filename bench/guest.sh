#!/bin/bash
# guest.sh DIR [FLAG...]: times guestinit beside initramfs-tools, dracut and a
# guest that is neither sealed nor encrypted, and puts the report into DIR. Flags
# go to bench. Wants root, what cross/setup.sh installs, and Debian's arch-test; a
# Linux of 6.7 or later, whose user namespaces have binfmt_misc of their own. The
# peers' initrds are made once, into the cache, by their own programs under
# qemu-user: a quarter of an hour.
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

# make_root: a Debian with the peers.
make_root() {
	rm -rf "$peers/new"
	mkdir -p "$peers/new"
	{ grep '^Acquire' "$cache/apt/apt.conf" | grep -v Languages || true; echo 'Acquire::Languages { "none"; };'; } >"$peers/options"
	foreign mmdebstrap --quiet --mode=root --format=directory --variant=minbase --architectures=s390x --aptopt="$peers/options" \
		--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
		--include=initramfs-tools,cryptsetup-initramfs,dracut-core,zstd,kmod,e2fsprogs bookworm "$peers/new/root" "$(grep ' bookworm main' "$cache/apt/sources.list")"
	mkdir -p "$peers/new/root/lib/modules"
	cp -r "$cache/kernel/modules/lib/modules/$release" "$peers/new/root/lib/modules/"
	# What mkinitramfs asks the kernel's configuration for, and this kernel has.
	printf 'CONFIG_RD_%s=y\n' GZIP ZSTD >"$peers/new/root/boot/config-$release"
	rm -rf "$peers/root"
	mv -T "$peers/new/root" "$peers/root"
}

# in_root COMMAND...: runs a command in it.
in_root() {
	# shellcheck disable=SC2016 # the inner shell's
	foreign bash -euc 'mount --rbind /dev "$0/dev"; mount -t proc proc "$0/proc"; exec chroot "$0" "$@"' "$peers/root" "$@"
}

# by_initramfs_tools NAME MODULES: makes a peer's initrd, with MODULES=list of
# what the guest needs, or MODULES=most.
by_initramfs_tools() {
	local root=$peers/root crypt=a+x
	[[ $1 != plain ]] || crypt=a-x
	find "$root/usr/share/initramfs-tools" -name 'crypt*' -type f -exec chmod $crypt {} +
	printf '%s\n' MODULES="$2" COMPRESS=zstd UMASK=0077 >"$root/etc/initramfs-tools/conf.d/bench"
	rm -f "$root/etc/crypttab" "$root/etc/cryptsetup-initramfs/conf-hook"
	if [[ $1 == plain ]]; then
		echo "/dev/vda / ext4 rw 0 1" >"$root/etc/fstab"
		printf '%s\n' virtio_blk ext4 crc32c_generic >"$root/etc/initramfs-tools/modules"
	else
		# Key and UUID are added later: own_files.
		install -D -m 600 /dev/null "$root/etc/keys/root.key"
		echo "cryptroot UUID=00000000-0000-0000-0000-000000000000 /etc/keys/root.key luks,initramfs" >"$root/etc/crypttab"
		echo "/dev/mapper/cryptroot / ext4 rw 0 1" >"$root/etc/fstab"
		echo 'KEYFILE_PATTERN="/etc/keys/*.key"' >"$root/etc/cryptsetup-initramfs/conf-hook"
		printf '%s\n' "${modules[@]}" >"$root/etc/initramfs-tools/modules"
	fi
	in_root mkinitramfs -o /initrd.img "$release"
	mv "$root/initrd.img" "$peers/$1"
}

by_dracut() {
	in_root dracut --quiet --force --no-hostonly --zstd --add crypt --omit "systemd systemd-initrd dracut-systemd cio_ignore shutdown" \
		--add-drivers "${modules[*]}" /initrd.img "$release"
	mv "$peers/root/initrd.img" "$peers/$1"
}

# cut_signature FILE: cuts a module's signature off. Its length is in the 12 bytes
# before the magic words.
cut_signature() {
	local size length
	size=$(stat -c %s "$1")
	[[ $(tail -c 28 "$1") == "~Module signature appended~" ]]
	length=$((0x$(tail -c 32 "$1" | head -c 4 | od -An -tx1 | tr -d ' \n')))
	truncate -s $((size - 40 - length)) "$1"
}

# own_files UUID KEYFILE: the key and the table that names it, for either peer.
own_files() {
	install -D -m 600 "$2" etc/keys/root.key
	install -D -m 600 "$2" cryptroot/keyfiles/cryptroot.key
	echo "cryptroot UUID=$1 /cryptroot/keyfiles/cryptroot.key luks,initramfs" >cryptroot/crypttab
	echo "luks-$1 UUID=$1 /etc/keys/root.key luks" >etc/crypttab
}

# with_files INITRD TO: puts the working directory's files behind an initrd's.
with_files() {
	cp "$1" "$2"
	truncate -s %4 "$2"
	find . -mindepth 1 | cpio --quiet -o -H newc >>"$2"
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CGO_ENABLED=0
mkdir "$work/s390x"
go build -trimpath -ldflags '-s -w' -o "$work/" ./cmd/secexec ./bench
GOARCH=s390x go build -trimpath -ldflags '-s -w' -o "$work/s390x/" ./guestinit ./guestagent ./bench/guestmark
s390x-linux-gnu-gcc -Os -ffreestanding -fno-pic -no-pie -fno-stack-protector -fno-asynchronous-unwind-tables -nostdlib -static -Wl,--build-id=none -s \
	-Wall -Wextra -Werror -o "$work/start" bench/guestmark/start/start.c
mkdir -p "$work/root/"{dev,proc,sys,run,sbin,tmp,etc}
mv "$work/start" "$work/root/sbin/init"
mv "$work/s390x/guestmark" "$work/root/sbin/"

# One disk for all: the second build takes over the first one's, with its key.
"$work/secexec" emulate init "$work/host" >/dev/null
for signatures in keep strip; do
	"$work/secexec" build --update --root "$work/root" --kernel "$cache/kernel/vmlinuz" --modules "$cache/kernel/modules" --guest-dir "$work/s390x" --no-network \
		--module-signatures "$signatures" -k "$work/host/host.crt" --no-verify -o "$work/bundle" --secrets "$work/secrets" >/dev/null 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
	"$work/secexec" image unpack "$work/bundle/boot.seimg" --hdr-key "$work/secrets/header.key" --part initrd -o "$work/ours-$signatures" >/dev/null
done
mke2fs -q -t ext4 -d "$work/root" "$work/plain.img" 64M
uuid=$(dd if="$work/bundle/root.img" bs=1 skip=168 count=36 status=none)

[[ -x $peers/root/usr/bin/dracut ]] || make_root
[[ -s $peers/tuned ]] || by_initramfs_tools tuned list
[[ -s $peers/plain ]] || by_initramfs_tools plain list
[[ -s $peers/dracut ]] || by_dracut dracut
[[ -s $peers/most ]] || by_initramfs_tools most most
mkdir "$work/own" "$work/cut"
(
	cd "$work/own"
	own_files "$uuid" "$work/secrets/disk.key"
	for peer in tuned most dracut; do with_files "$peers/$peer" "$work/$peer"; done
)
(
	cd "$work/cut"
	zstd -qdc "$peers/tuned" | cpio --quiet -id
	cp -r "$work/own/." .
	find . -name '*.ko.xz' | while read -r module; do
		xz -d "$module"
		cut_signature "${module%.xz}"
		xz --check=crc32 "${module%.xz}"
	done
	find . -mindepth 1 | cpio --quiet -o -H newc | zstd -q -9 >"$work/tuned-cut"
)

words="console=ttysclp0 panic=0"
tuned="initramfs-tools, tuned"

# plain INITRD: its files. zstd complains of what is behind its own.
plain() {
	zstd -qdcf "$1" 2>/dev/null || true
}

row() { # row NAME INITRD DISK WORDS OF [GOAL [OURS]]
	jq -n --arg name "$1" --arg kernel "$cache/kernel/vmlinuz" --arg initrd "$2" --arg disk "$3" --arg append "$4" --arg of "$5" --arg goal "${6:-}" --argjson ours "${7:-false}" \
		--argjson packed "$(plain "$2" | zstd -q -9 | wc -c)" '$ARGS.named'
}
disk=$work/bundle/root.img
to_crypt="root=/dev/mapper/cryptroot rw"
{
	row "guestinit, signatures cut" "$work/ours-strip" "$disk" "$words cryptomgr.notests" "$tuned" "≤ 0.2, ≤ 1/8 of dracut" true
	row "guestinit, signatures kept" "$work/ours-keep" "$disk" "$words cryptomgr.notests" "$tuned" "≤ 0.8" true
	row "$tuned" "$work/tuned" "$disk" "$words cryptomgr.notests $to_crypt" "$tuned"
	row "initramfs-tools, tuned, signatures cut" "$work/tuned-cut" "$disk" "$words cryptomgr.notests $to_crypt" "$tuned"
	# chacha_s390 makes QEMU 7.2's guests crash where all modules are loaded.
	row "initramfs-tools, most" "$work/most" "$disk" "$words cryptomgr.notests $to_crypt modprobe.blacklist=chacha_s390" "$tuned"
	row "dracut" "$work/dracut" "$disk" "$words cryptomgr.notests root=/dev/mapper/luks-$uuid rw rd.luks.uuid=$uuid rd.driver.blacklist=chacha_s390" "$tuned"
	row "plain guest, initramfs-tools, tuned" "$peers/plain" "$work/plain.img" "$words cryptomgr.notests root=/dev/vda rw" "$tuned"
	tested="$tuned, with self-tests"
	row "guestinit, signatures cut, with self-tests" "$work/ours-strip" "$disk" "$words" "$tested" "" true
	row "$tested" "$work/tuned" "$disk" "$words $to_crypt" "$tested"
} | jq -s . >"$work/cases.json"
"$work/bench" "$@" -programs "$work/s390x" -cases "$work/cases.json" -out "$out" guest
