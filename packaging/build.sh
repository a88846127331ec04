#!/bin/bash
# build.sh [-V VERSION] [-o DIR] [-a ARCH]... [-f] [FORMAT...]: the Debian and RPM packages, made
# without root and the same bit for bit from the same sources.
#
#   secexec            owner's and operator's command    amd64 arm64 s390x
#   secexec-hostagent  a node's daemon and shim          amd64       s390x
#
# A FORMAT is deb or rpm, an ARCH as above; default is all of them. VERSION is a tag's, or made from the
# commit's date and name. -f (fast) compresses nothing. Wants Go, dpkg-deb and rpmbuild.
#
# Both take a staged tree, so a packager of our own choice (and its modules) would
# only stand between us and what lintian and rpmlint say.
set -euo pipefail
export LC_ALL=C TZ=UTC CGO_ENABLED=0
umask 022
cd "$(dirname "$0")/.."

die() { echo "build.sh: $*" >&2; exit 1; }

# default_version: v1.2.3 gives 1.2.3; a commit without a tag sorts before each.
default_version() {
	local tag
	if tag=$(git describe --tags --exact-match 2>/dev/null) && [[ $tag == v[0-9]* ]]; then
		echo "${tag#v}"
	else
		git log -1 --date=format:%Y%m%d.%H%M%S --format='0.0~git%cd.%h'
	fi
}

version='' out=build/packages architectures=() deb_compression=xz rpm_compression=w6.xzdio
while getopts V:o:a:f opt; do
	case $opt in
	V) version=$OPTARG ;;
	o) out=$OPTARG ;;
	f) deb_compression=none rpm_compression=w.ufdio ;;
	a) architectures+=("$OPTARG") ;;
	*) die "usage: see the head of this file" ;;
	esac
done
shift $((OPTIND - 1))
formats=("$@")
((${#formats[@]})) || formats=(deb rpm)
((${#architectures[@]})) || architectures=(amd64 arm64 s390x)
[[ -n $version ]] || version=$(default_version)
[[ $version =~ ^[0-9][0-9A-Za-z.+~]*$ ]] || die "version '$version': wants a digit, then letters, digits and . + ~"
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
mkdir -p "$out"
out=$(realpath "$out")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# gobuild GOARCH PROGRAM...: to $work/bin/GOARCH.
gobuild() {
	GOARCH=$1 go build -trimpath -buildvcs=false -ldflags "-s -w -buildid= -X main.version=$version" -o "$work/bin/$1/" "${@:2}"
}

# shim is what containerd looks for by its runtime's name.
shim=containerd-shim-secexec-v2

# put MODE TARGET SOURCE...: installs files, TARGET a folder if it ends in /.
put() {
	local mode=$1 target=$2
	shift 2
	if [[ $target == */ ]]; then mkdir -p "$target"; else mkdir -p "$(dirname "$target")"; fi
	install -m "$mode" "$@" "$target"
}

# notices PROGRAM: the licenses of the modules that the program is linked with.
notices() {
	local path version dir file
	go version -m "$1" | awk '$1 == "dep" { print $2, $3 }' | while read -r path version; do
		dir=$(go list -m -f '{{.Dir}}' "$path")
		for file in "$dir"/{LICENSE,COPYING,NOTICE}*; do
			[[ ! -f $file ]] || { printf '== %s %s: %s\n\n' "$path" "$version" "${file##*/}"; cat "$file"; echo; }
		done
	done
	printf '== Go, its standard library: LICENSE\n\n'
	cat "$(go env GOROOT)/LICENSE"
}

# stage FORMAT PACKAGE ARCH: the package's files, as installed, below $root.
stage() {
	local format=$1 package=$2 bin=$work/bin/$3 doc page part
	doc=$root/usr/share/doc/$package
	case $package in
	secexec)
		put 755 "$root/usr/bin/" "$bin/secexec"
		put 755 "$root/usr/lib/secexec/s390x/" "$work"/bin/s390x/{guestinit,guestagent}
		put 644 "$root/usr/share/man/man1/" packaging/man/*.1
		put 644 "$root/usr/share/bash-completion/completions/secexec" packaging/completions/secexec.bash
		put 644 "$root/usr/share/fish/vendor_completions.d/" packaging/completions/secexec.fish
		if [[ $format == deb ]]; then page=vendor-completions; else page=site-functions; fi
		put 644 "$root/usr/share/zsh/$page/" packaging/completions/_secexec
		put 644 "$doc/" README.md docs/{host-keys,kernels,bootable-disk,from-pvimg,readiness,node-agent}.md docs/formats/secexec-yaml.md
		put 644 "$doc/examples/" docs/examples/secexec.yaml
		put 644 "$doc/examples/kubernetes/" packaging/kubernetes/Containerfile
		for part in base emulated containerd; do
			put 644 "$doc/examples/kubernetes/$part/" packaging/kubernetes/$part/*
		done
		gzip -9n <"$work/notices/secexec" >"$doc/third-party-notices.gz"
		;;
	secexec-hostagent)
		put 755 "$root/usr/bin/" "$bin/hostagent"
		put 755 "$root/usr/bin/$shim" "$bin/shim"
		put 644 "$root/usr/lib/systemd/system/" systemd/*.{service,socket,slice}
		put 644 "$root/usr/lib/systemd/catalog/" systemd/*.catalog
		put 644 "$root/usr/lib/sysusers.d/$package.conf" "systemd/$package.sysusers.conf"
		put 644 "$root/usr/lib/tmpfiles.d/$package.conf" "systemd/$package.tmpfiles.conf"
		put 644 "$root/usr/lib/modules-load.d/$package.conf" "systemd/$package.modules-load.conf"
		put 644 "$root/etc/secexec/" "$work/node/hostagent.yaml"
		put 644 "$root/etc/apparmor.d/" packaging/apparmor/secexec-qemu
		put 644 "$root/usr/share/man/man5/" "$work/node/hostagent.yaml.5"
		put 644 "$root/usr/share/man/man8/" packaging/hostagent.8
		put 644 "$doc/" docs/{operations,protocol,platforms,promises,errors,logs,metrics,move,from-libvirt,containerd}.md
		put 644 "$doc/examples/" systemd/{direct,network}.conf packaging/grafana/*.json packaging/prometheus/*.rules.yml
		cat "$work"/notices/{hostagent,shim} | gzip -9n >"$doc/third-party-notices.gz"
		[[ $format == deb ]] || put 644 "$root/usr/lib/systemd/system-preset/" systemd/90-secexec-hostagent.preset
		;;
	esac
	gzip -9n "$root"/usr/share/man/man?/*
	if [[ $format == rpm ]]; then
		put 644 "$root/usr/share/licenses/$package/" LICENSE
		put 644 "$doc/" CHANGELOG.md
	else
		put 644 "$doc/" packaging/deb/copyright
		gzip -9n <CHANGELOG.md >"$doc/changelog.gz"
		printf '%s (%s) unstable; urgency=medium\n\n  * %s\n\n -- %s  %s\n' "$package" "$version-1" \
			"Packaged by the project: changelog.gz tells what is new." \
			"secexec maintainers <maintainers@secexec.org>" "$(date -Rd "@$SOURCE_DATE_EPOCH")" | gzip -9n >"$doc/changelog.Debian.gz"
		put 644 "$root/usr/share/lintian/overrides/$package" "packaging/deb/$package.lintian-overrides"
	fi
	find "$root" -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +
}

# build_deb PACKAGE ARCH
build_deb() {
	local package=$1 arch=$2 root=$work/deb/$1-$2 script
	stage deb "$package" "$arch"
	(cd "$root" && find . -type f -printf '%P\0' | sort -z | xargs -0 md5sum) >"$work/md5sums"
	mkdir "$root/DEBIAN"
	sed -e "s/@VERSION@/$version-1/" -e "s/@ARCH@/$arch/" -e "s/@SIZE@/$(du -sk --apparent-size "$root" | cut -f1)/" \
		"packaging/deb/$package.control" >"$root/DEBIAN/control"
	mv "$work/md5sums" "$root/DEBIAN/"
	if [[ $package == secexec-hostagent ]]; then
		put 644 "$root/DEBIAN/conffiles" "packaging/deb/$package.conffiles"
		for script in postinst prerm postrm; do put 755 "$root/DEBIAN/" "packaging/deb/$script"; done
	fi
	find "$root/DEBIAN" -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +
	dpkg-deb --root-owner-group -Z"$deb_compression" --build "$root" "$out/${package}_$version-1_$arch.deb" >/dev/null
}

# build_rpm ARCH PACKAGE...: all of an architecture come from one spec.
build_rpm() {
	local arch=$1 target root package
	shift
	case $arch in amd64) target=x86_64 ;; arm64) target=aarch64 ;; *) target=$arch ;; esac
	for package; do
		root=$work/rpm/$arch/$package
		stage rpm "$package" "$arch"
	done
	rpmbuild --quiet -bb --target "$target-linux" --nodeps \
		--define "_topdir $work/rpmbuild" --define "_rpmdir $out" --define '_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm' \
		--define "_binary_payload $rpm_compression" --define "stage $work/rpm/$arch" --define "package_version $version" --define "with_hostagent $(($# - 1))" \
		--define "package_epoch $(date -d "@$SOURCE_DATE_EPOCH" '+%a %b %d %Y')" packaging/rpm/secexec.spec >/dev/null
}

gobuild s390x ./guestinit ./guestagent
mkdir "$work"/{node,notices}
go run ./packaging/nodefiles -o "$work/node" -date "$SOURCE_DATE_EPOCH"
for arch in "${architectures[@]}"; do
	case $arch in
	amd64 | s390x) packages=(secexec secexec-hostagent) programs=(./cmd/secexec ./hostagent ./shim) ;;
	arm64) packages=(secexec) programs=(./cmd/secexec) ;;
	*) die "architecture '$arch': amd64, arm64 or s390x" ;;
	esac
	gobuild "$arch" "${programs[@]}"
	for program in "${programs[@]##*/}"; do notices "$work/bin/$arch/$program" >"$work/notices/$program"; done
	for format in "${formats[@]}"; do
		case $format in
		deb) for package in "${packages[@]}"; do build_deb "$package" "$arch"; done ;;
		rpm) build_rpm "$arch" "${packages[@]}" ;;
		*) die "format '$format': deb or rpm" ;;
		esac
	done
done
(cd "$out" && ls -- *"$version"*)
