#!/usr/bin/env bash
# packages.sh VERSION: builds the packages of a version, as `git describe --tags --always` says
# it, below dist/. Variables choose among them:
#   FORMATS  deb rpm alpine openwrt-ipk openwrt-apk
#   ARCHS    amd64 arm64 riscv64: what the program compiles for. A library of its does not for
#            32 bits, and the BPF programs are little-endian.
#   DIST     where to
# The same sources give the same bytes, by the date of the last commit or SOURCE_DATE_EPOCH.
set -Eeuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
trap 'echo "packages.sh: line $LINENO: $BASH_COMMAND: failed" >&2' ERR

described=${1:?which version? packages.sh v1.2.3}
formats=${FORMATS:-deb rpm alpine openwrt-ipk openwrt-apk}
archs=${ARCHS:-amd64 arm64 riscv64}
dist=$(realpath -m "${DIST:-dist}")
NFPM=${NFPM:-github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.2}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH CGO_ENABLED=0
umask 022

# OpenWrt has packages by processor; the program is the same for all of one kind.
declare -A openwrt_archs=(
	[amd64]=x86_64
	[arm64]="aarch64_generic aarch64_cortex-a53 aarch64_cortex-a72 aarch64_cortex-a76"
	[riscv64]="riscv64_generic riscv64_riscv64"
)

short="Transparent Tor router"
long="$short
Puts every device behind a router's network interfaces on Tor, or the machine
itself: an eBPF program classifies each packet where it arrives, nftables
redirects what is Tor's, and what Tor cannot carry is refused at once. What may
go out directly is said by rules. All of it is in the kernel and stays there
whatever becomes of the program."

# read_version takes what git has described apart: v1.2.3-rc1-5-g0123abc-dirty.
read_version() {
	local release='^v?([0-9]+(\.[0-9]+)*)(-?(alpha|beta|rc)\.?([0-9]+))?(-([0-9]+)-g([0-9a-f]+))?(-dirty)?$'
	base='' pre='' commits='' hash=''
	if [[ $described =~ $release ]]; then
		base=${BASH_REMATCH[1]} pre=${BASH_REMATCH[4]}${BASH_REMATCH[5]} commits=${BASH_REMATCH[7]} hash=${BASH_REMATCH[8]}
	elif [[ $described =~ ^([0-9a-f]{7,40})(-dirty)?$ ]]; then # there is no tag yet
		base=0.0.0 commits=$(git rev-list --count HEAD) hash=${BASH_REMATCH[1]}
	else
		echo "packages.sh: $described is no version: say VERSION=v1.2.3, or build from a clone with its tags" >&2
		exit 2
	fi
}

# What comes before a release is sorted before it, and what comes after it behind.
dpkg_version() { echo "$base${pre:+~$pre}${commits:++git$commits.$hash}"; }
apk_version() { echo "$base${pre:+_$pre}${commits:+_git$commits}"; }

# package FORMAT GOARCH TREE makes one package, of OpenWrt one for each kind of processor.
package() {
	local config=torbpf packager=$1 version release=1 description=$long names=$2 name
	version=$(dpkg_version)
	case $1 in
	alpine) packager=apk version=$(apk_version) release=r1 description=$short ;;
	openwrt-*) config=openwrt packager=${1#openwrt-} version=$(apk_version) release=r1 names=${openwrt_archs[$2]} ;;
	esac
	[ "$packager" != apk ] || description=$short # it takes one line
	mkdir -p "$dist/$1"
	for name in $names; do
		(cd "$work" && VERSION=$version RELEASE=$release ARCH=$name TREE=$3 DESCRIPTION=$description \
			"$work/nfpm" package --config "$here/nfpm/$config.yaml" --packager "$packager" --target "$dist/$1/")
	done
}

# lay_out FORMAT GOARCH TREE lays out the files of a package.
lay_out() {
	local init=systemd extras=yes doc=$3/usr/share/doc/torbpf
	case $1 in
	alpine) init=openrc ;;
	openwrt-*) init=procd extras='' ;;
	esac
	make --no-print-directory --silent install-files DESTDIR="$3" PREFIX=/usr SYSCONFDIR=/etc UNITDIR=/usr/lib/systemd/system \
		PROGRAM="$work/torbpf-$2" TOOL="$work/torbpf" INIT="$init" EXTRAS="$extras" DATE="$(date -u -d "@$SOURCE_DATE_EPOCH" +%F)"
	case $1 in
	deb) for_debian "$doc" ;;
	*)
		mkdir -p "$3/usr/share/licenses/torbpf"
		packaging/copyright.sh "$3/usr/share/licenses/torbpf/Apache-2.0" >"$3/usr/share/licenses/torbpf/copyright"
		;;
	esac
	[ "$1" != alpine ] || install -D -m 644 packaging/openrc/logrotate "$3/etc/logrotate.d/torbpf"
	[[ $1 != openwrt-* ]] || install -D -m 644 packaging/openwrt/keep.d "$3/lib/upgrade/keep.d/torbpf"
	[ -z "$extras" ] || find "$3/usr/share/man" -type f -exec gzip -9n {} +
	find "$3" -exec touch --no-dereference --date "@$SOURCE_DATE_EPOCH" {} +
}

# for_debian DOC does what Debian's policy has otherwise.
for_debian() {
	local tree=${1%/usr/share/doc/torbpf}
	packaging/copyright.sh >"$1/copyright"
	gzip -9nc CHANGELOG.md >"$1/changelog.gz"
	gzip -9n >"$1/changelog.Debian.gz" <<-END
		torbpf ($(dpkg_version)-1) unstable; urgency=medium

		  * See changelog.gz for what is new.

		 -- torbpf developers <torbpf@users.noreply.github.com>  $(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")
	END
	mkdir -p "$1/examples" "$tree/usr/share/zsh/vendor-completions" "$tree/usr/share/lintian/overrides"
	mv "$1/torbpf.toml" "$1/grafana.json" "$1/examples/"
	mv "$tree/usr/share/zsh/site-functions/_torbpf" "$tree/usr/share/zsh/vendor-completions/"
	rmdir "$tree/usr/share/zsh/site-functions"
	install -m 644 packaging/nfpm/lintian-overrides "$tree/usr/share/lintian/overrides/torbpf"
}

build() { # GOARCH FILE
	GOARCH=$1 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$described" -o "$2" ./cmd/torbpf
}

read_version
here=$PWD/packaging
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/scripts"
for script in packaging/scripts/*-*.sh; do
	name=${script##*/}
	cat packaging/scripts/lib.sh "$script" >"$work/scripts/${name%.sh}"
	chmod 755 "$work/scripts/${name%.sh}"
	touch --date "@$SOURCE_DATE_EPOCH" "$work/scripts/${name%.sh}"
done
GOBIN=$work go install "$NFPM"
build "$(go env GOHOSTARCH)" "$work/torbpf" # which knows its completions and man pages
for arch in $archs; do
	build "$arch" "$work/torbpf-$arch"
	for format in $formats; do
		lay_out "$format" "$arch" "$work/$format-$arch"
		package "$format" "$arch" "$work/$format-$arch"
	done
done
