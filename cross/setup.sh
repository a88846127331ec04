#!/bin/bash
# setup.sh [packages|kube]: everything that tests and demo need and Go does not bring:
# Debian packages for this machine, and for s390x a kernel and two root file
# systems. Runs as root on Debian 12 or later; where nothing is missing it needs
# neither root nor network and takes a fraction of a second. With the argument
# "packages" it stops after this machine's packages; with "kube" it makes what
# `make test-kube` needs besides, which takes a quarter of an hour on 2 cores.
#
# All but the packages goes to one folder, ${SECEXEC_CACHE:-<repository>/.cache}:
#
#	apt/                  private apt state for s390x; the machine's own is not touched
#	kernel/vmlinuz        Debian's s390x kernel from bookworm-backports (its stock 6.1
#	                      lacks support for protected guests)
#	kernel/release        its release, as uname -r prints it
#	kernel/modules/       holds lib/modules/RELEASE, with modules.dep
#	roots/tiny.tar        busybox and a script as /sbin/init (cross/roots/tiny-init)
#	roots/tiny/           the same, unpacked
#	roots/debian.tar      Debian with systemd and hello.service (cross/roots/hello)
#	node/base             Debian with systemd and QEMU for this machine (cross/node.sh)
#	kube/bin/             kube-apiserver and kube-scheduler from their sources, Debian's etcd
#	stamps/STEP           what made a step's result: a hash of its code and inputs
#	lock, tmp.*           one run at a time; unfinished results, removed by the next run
#
# A step runs again when its code or inputs change; remove the folder to fetch
# newer packages. SECEXEC_MIRROR names the Debian mirror where the machine's own
# apt sources don't.
set -euo pipefail
export LC_ALL=C PATH=$PATH:/usr/sbin:/sbin
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(dirname "$here")
cache=${SECEXEC_CACHE:-$repo/.cache}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
suite=bookworm # of the s390x side, whatever this machine runs
work='' log=''

die() { # die WHAT [REMEDY]
	echo "setup: $1" >&2
	[[ -z ${2:-} ]] || echo "       $2" >&2
	exit 1
}

cleanup() {
	local status=$?
	trap - EXIT
	if ((status != 0)) && [[ -n $log && -s $log ]]; then
		echo "       last lines of its output:" >&2
		tail -n 15 "$log" | sed 's/^/       | /' >&2
	fi
	[[ -z $work ]] || rm -rf "$work"
	exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

need_root() {
	((EUID == 0)) || die "cannot $1 without root" "run it as root; a later run needs no root"
}

# step NAME TITLE FUNCTION [INPUT...]: runs FUNCTION in a temporary folder unless
# the stamp says that this code made the present result from these inputs.
step() {
	local name=$1 title=$2 function=$3 want start=$EPOCHREALTIME
	shift 3
	want=$({ declare -f "$function" apt_options; printf '%s\n' "$suite"; (($# == 0)) || cat -- "$@"; } | sha256sum | cut -d' ' -f1)
	if [[ -s $cache/stamps/$name && $(<"$cache/stamps/$name") == "$want" ]]; then
		printf 'setup: %-44s there\n' "$title"
		return
	fi
	need_root "$title"
	work=$cache/tmp.$name log=$cache/tmp.$name.log
	rm -rf "$work" "$cache/stamps/$name"
	mkdir -p "$work"
	if [[ -t 1 ]]; then printf 'setup: %-44s ...\r' "$title"; fi
	# In a shell of its own: set -e would be off in a function called by ||.
	set +e
	(set -e; cd "$work"; "$function") >"$log" 2>&1
	local status=$?
	set -e
	((status == 0)) || die "$title failed (status $status)" "$(remedy "$log")"
	rm -rf "$work" "$log"
	work='' log=''
	printf '%s\n' "$want" >"$cache/stamps/$name.new"
	mv "$cache/stamps/$name.new" "$cache/stamps/$name"
	printf 'setup: %-44s %s s\n' "$title" "$(seconds "$start")"
}

seconds() { # seconds SINCE, an EPOCHREALTIME
	local us=$((${EPOCHREALTIME/[^0-9]/} - ${1/[^0-9]/}))
	printf '%d.%d' $((us / 1000000)) $((us % 1000000 / 100000))
}

remedy() { # remedy LOG: a guess from what apt said
	if grep -Eqi 'could not resolve|failed to fetch|unable to connect|connection (failed|refused|timed out)|no network' "$1"; then
		echo "no package mirror answers: the first run needs the network; check it, and apt's sources (or set SECEXEC_MIRROR)"
	elif grep -qi 'no space left' "$1"; then
		echo "make room: the cache in $cache takes about 700 MB"
	else
		echo "run it again; what is finished is kept"
	fi
}

# --- this machine's packages ---

# missing LIST...: the lists' lines none of whose programs is there.
missing() {
	local programs packages program there
	while IFS=: read -r programs packages; do
		[[ -n $programs && $programs != '#'* ]] || continue
		there=''
		for program in ${programs//|/ }; do
			if [[ $program == /* ]]; then [[ -e $program ]]; else command -v "$program" >/dev/null; fi && there=yes
		done
		[[ -n $there ]] || printf '%s:%s\n' "$programs" "$packages"
	done < <(cat -- "$@")
}

install_packages() {
	local lines program packages package chosen=() start=$EPOCHREALTIME
	lines=$(missing "$repo"/packaging/depends-*.txt)
	if [[ -z $lines ]]; then
		printf 'setup: %-44s there\n' "install this machine's packages"
		return
	fi
	need_root "install packages for $(cut -d: -f1 <<<"$lines" | paste -sd' ')"
	log=$cache/tmp.packages.log
	apt-get update -q >"$log" 2>&1 || die "apt-get update failed" "$(remedy "$log")"
	while IFS=: read -r program packages; do
		local found=''
		for package in ${packages//|/ }; do
			if [[ $(apt-cache policy "$package") == *"Candidate: "[!\(]* ]]; then found=$package; break; fi
		done
		[[ -n $found ]] || die "no package for $program: this release has none of$packages"
		chosen+=("$found")
	done <<<"$lines"
	DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${chosen[@]}" >>"$log" 2>&1 </dev/null ||
		die "apt-get install ${chosen[*]} failed" "$(remedy "$log")"
	lines=$(missing "$repo"/packaging/depends-*.txt)
	[[ -z $lines ]] || die "still missing after apt-get install: $(cut -d: -f1 <<<"$lines" | paste -sd' ')"
	rm -f "$log"
	log=''
	printf 'setup: %-44s %s s\n' "install this machine's packages" "$(seconds "$start")"
}

# --- s390x packages, through an apt state of their own ---

# mirror: the first Debian archive in the machine's own apt sources.
mirror() {
	if [[ -n ${SECEXEC_MIRROR:-} ]]; then
		printf '%s\n' "$SECEXEC_MIRROR"
		return
	fi
	# shellcheck disable=SC2016,SC1091 # apt's own variables
	apt-get indextargets --no-release-info --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
		awk -v code="$(source /etc/os-release && echo "${VERSION_CODENAME:-stable}")" '
			$3 == "main" && ($2 == code || $2 == "stable") && $1 ~ /debian\/?$/ && !found++ { print $1 }'
}

# apt_options: the private state's configuration. Proxies, time-outs and the
# like are the machine's. Dir::Etc::main defaults to apt.conf in Dir::Etc, which
# would be read after this one: hence /dev/null.
apt_options() {
	cat <<-EOF
		APT::Architecture "s390x"; APT::Architectures { "s390x"; };
		APT::Install-Recommends "false"; APT::Sandbox::User "root";
		Dir::Etc "$cache/apt"; Dir::Etc::main "/dev/null"; Dir::Etc::parts "/dev/null";
		Dir::Etc::sourcelist "$cache/apt/sources.list"; Dir::Etc::sourceparts "/dev/null";
		Dir::Etc::trusted "/dev/null"; Dir::Etc::trustedparts "/dev/null";
		Dir::Etc::preferences "/dev/null"; Dir::Etc::preferencesparts "/dev/null";
		Dir::State "$cache/apt/state"; Dir::State::lists "$cache/apt/lists"; Dir::State::status "$cache/apt/state/status";
		Dir::Cache "$cache/apt/cache"; Dir::Cache::srcpkgcache ""; Dir::Log "$cache/apt";
		Acquire::Languages { "none"; };
	EOF
	apt-config dump | grep -E '^Acquire::(https?|ftp|Retries|Check-Date|Check-Valid-Until|ForceIPv[46])\b' || true
}

make_apt() {
	local from
	from=$(mirror)
	if [[ -z $from ]]; then
		echo "no Debian archive among this machine's apt sources: set SECEXEC_MIRROR to a mirror's URL"
		return 1
	fi
	rm -rf "$cache/apt"
	mkdir -p "$cache"/apt/{lists/partial,cache/archives/partial,state}
	: >"$cache/apt/state/status"
	apt_options >"$cache/apt/apt.conf"
	printf "deb [signed-by=$keyring] %s %s main\n" "$from" "$suite" "$from" "$suite-backports" >"$cache/apt/sources.list"
	APT_CONFIG=$cache/apt/apt.conf apt-get update -q -o APT::Update::Error-Mode=any
}

# fetch PACKAGE[/SUITE]: unpacks an s390x package into ./root.
fetch() {
	APT_CONFIG=$cache/apt/apt.conf apt-get download -q "$1"
	dpkg-deb -x "${1%%/*}"_*.deb root
}

make_kernel() {
	local package release
	# The metapackage says which release is current.
	package=$(APT_CONFIG=$cache/apt/apt.conf apt-cache show "linux-image-s390x/$suite-backports" |
		awk '$1 == "Depends:" && !found++ { sub(/,$/, "", $2); print $2 }')
	release=${package#linux-image-}
	[[ -n $release ]] || { echo "linux-image-s390x depends on no kernel"; return 1; }
	fetch "$package/$suite-backports"
	depmod -b root "$release"
	mkdir -p kernel/modules/lib
	mv root/lib/modules kernel/modules/lib/modules
	mv "root/boot/vmlinuz-$release" kernel/vmlinuz
	printf '%s\n' "$release" >kernel/release
	[[ -s kernel/modules/lib/modules/$release/modules.dep ]]
	publish kernel "$cache/kernel"
}

make_tiny() {
	fetch busybox-static
	mkdir -p tiny/{bin,sbin,dev,proc,sys,run,tmp,etc,root}
	cp root/bin/busybox tiny/bin/busybox
	install -m 755 "$here/roots/tiny-init" tiny/sbin/init
	pack tiny tiny.tar
	publish tiny "$cache/roots/tiny"
	publish tiny.tar "$cache/roots/tiny.tar"
}

make_debian() {
	apt_options | grep '^Acquire' >options || true
	echo 'Acquire::Languages { "none"; };' >>options
	# Extracted, not installed: no s390x program runs, so no binfmt_misc and no
	# chroot is needed. Directory aliases first, as Debian has them.
	# shellcheck disable=SC2016 # $1 is the hook's
	mmdebstrap --quiet --mode=root --format=directory --variant=extract --architectures=s390x --aptopt="$PWD/options" \
		--include='?essential' --include=systemd-sysv,udev,kmod \
		--setup-hook='for d in bin sbin lib; do mkdir -p "$1/usr/$d"; ln -s "usr/$d" "$1/$d"; done' \
		"$suite" root "$(grep " $suite main" "$cache/apt/sources.list")"
	bash "$here/roots/finish-debian" root "$here/roots"
	pack root debian.tar
	publish debian.tar "$cache/roots/debian.tar"
}

make_node() {
	local qemu="qemu-system-s390x"
	[[ $(apt-cache policy "$qemu") == *"Candidate: "[!\(]* ]] || qemu="qemu-system-misc"
	SECEXEC_MIRROR=$(mirror) "$here/node.sh" -d "$PWD" build e2fsprogs "$qemu"
	find base/usr/bin -name 'qemu-system-*' ! -name qemu-system-s390x -delete # 200 MB
	publish base "$cache/node/base"
	publish base.packages "$cache/node/base.packages"
}

# --- a Kubernetes control plane, for cross/kube ---

# In the version that cross/kube's client has. Without -X they call themselves
# v0.0.0, and clients mind.
make_kube() {
	local version package=k8s.io/component-base/version
	cd "$here/kube"
	version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
	mkdir "$work/bin"
	CGO_ENABLED=0 nice go build -trimpath -o "$work/bin/" \
		-ldflags "-s -w -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=$(cut -d. -f2 <<<"$version")" \
		k8s.io/kubernetes/cmd/kube-apiserver k8s.io/kubernetes/cmd/kube-scheduler
	for program in kube-apiserver kube-scheduler; do publish "$work/bin/$program" "$cache/kube/bin/$program"; done
}

# Unpacked, not installed: the package would start a server on this machine.
make_etcd() {
	[[ $(apt-cache policy etcd-server) == *"Candidate: "[!\(]* ]] || apt-get update -q
	apt-get download -q etcd-server
	dpkg-deb -x etcd-server_*.deb root
	publish root/usr/bin/etcd "$cache/kube/bin/etcd"
}

# pack DIR TAR: without what the kernel puts into /dev itself.
pack() {
	tar -C "$1" --sort=name --numeric-owner --xattrs --one-file-system --exclude='./dev/*' -cf "$2" .
}

# publish FROM TO: the result in place of an older one.
publish() {
	mkdir -p "$(dirname "$2")"
	rm -rf "$2"
	mv "$1" "$2"
}

# --- all of it ---

if [[ ! -e /etc/debian_version ]] || ! command -v apt-get >/dev/null; then
	die "this is not Debian" "set-up, tests and demo want Debian 12 or later; the programs themselves run on any Linux"
fi
mkdir -p "$cache/stamps" 2>/dev/null || die "cannot write $cache" "set SECEXEC_CACHE to a folder of yours"
command -v flock >/dev/null || die "no flock" "apt-get install util-linux"
if [[ -w $cache/stamps ]]; then
	exec 9>"$cache/lock"
	if ! flock -n 9; then
		echo "setup: another run is at work; waiting for it"
		flock 9
	fi
	rm -rf "$cache"/tmp.*
fi
install_packages
[[ ${1:-} != packages ]] || exit 0
if [[ ${1:-} == kube ]]; then
	command -v go >/dev/null || die "no go" "put Go's bin folder on the PATH"
	step etcd "fetch etcd" make_etcd
	step kube "build kube-apiserver and kube-scheduler" make_kube <(grep 'k8s.io/kubernetes v' "$here/kube/go.mod")
	exit 0
fi
step apt "list s390x packages" make_apt
step kernel "fetch the s390x kernel" make_kernel "$cache/stamps/apt"
step tiny "make the tiny root" make_tiny "$here/roots/tiny-init" "$cache/stamps/apt"
step debian "make the Debian root" make_debian "$here"/roots/{finish-debian,hello,hello.service} "$cache/stamps/apt"
if unshare --mount true 2>/dev/null || [[ -s $cache/stamps/node ]]; then
	step node "make the base of test nodes" make_node "$here/node.sh"
else
	printf 'setup: %-44s left out: no mount namespaces here\n' "make the base of test nodes"
fi
