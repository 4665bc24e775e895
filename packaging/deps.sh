#!/usr/bin/env bash
# Installs what torbpf needs on Debian and Ubuntu, as far as it is missing.
#   deps.sh run      to build and attach: Go, tor
#   deps.sh demo     to show it on a private Tor network: nft
#   deps.sh bench    to measure it: ip, nft
#   deps.sh test     to run the tests, too: clang, nft, tcpdump, chromium, …; squid and the like are not
#                    installed but unpacked, below /var/cache/torbpf-tests
#   deps.sh systemd  and the one that boots a system of its own: systemd-nspawn, mmdebstrap
# A tor package starts a tor service of its own; torbpf does not use or touch it.
set -Eeuo pipefail
PATH=$PATH:/usr/local/sbin:/usr/sbin
trap 'echo "deps.sh: line $LINENO: $BASH_COMMAND: failed" >&2' ERR

run_packages=(tor)
demo_packages=("${run_packages[@]}" nftables)
bench_packages=("${demo_packages[@]}" iproute2)
test_packages=("${demo_packages[@]}" clang clang-19 llvm clang-format libbpf-dev linux-libc-dev bpftool iproute2 iputils-ping conntrack tcpdump git
	wireguard-go wireguard-tools dnsmasq-base shellcheck lintian rpm nix-bin make obfs4proxy snowflake-client chromium-headless-shell xz-utils zstd debian-archive-keyring)
# Installed, their services would start and change this host's network: they are unpacked.
unpacked_packages=(squid network-manager systemd-resolved openrc)
unpacked=/var/cache/torbpf-tests # internal/e2e looks there
# By distro-info-data mmdebstrap knows whose a suite is.
systemd_packages=(systemd systemd-container mmdebstrap distro-info-data procps)

say() { printf 'deps: %s\n' "$*" >&2; }

# Ubuntu's bpftool is one of linux-tools, in a folder named after a kernel; its
# command looks for that of the running one.
package_names() {
	case $1 in
	bpftool) if [ -n "$(apt-cache madison bpftool)" ]; then echo bpftool; else echo linux-tools-common linux-tools-generic; fi ;;
	chromium-headless-shell) no_chromium || echo chromium-headless-shell ;;
	*) echo "$1" ;;
	esac
}

# Ubuntu has it as a snap alone, which runs in no network namespace of a test's.
no_chromium() {
	[ -z "$(apt-cache madison chromium-headless-shell)" ] || return 1
	say "this release has no package of Chromium: install google-chrome by hand, or the tests of the page fail"
}

# Any bpftool will do where there is none of the running kernel's version.
link_bpftool() {
	local any=(/usr/lib/linux-tools/*/bpftool)
	bpftool version >/dev/null 2>&1 || [ ! -x "${any[-1]}" ] || ln -sf "${any[-1]}" /usr/local/sbin/bpftool
}

installed() {
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null || true)" = installed ] || { [ "$1" = bpftool ] && bpftool version >/dev/null 2>&1; } ||
		{ [ "$1" = chromium-headless-shell ] && command -v chromium google-chrome >/dev/null; }
}

# update_lists MISSING… readies apt, or says why it cannot.
update_lists() {
	if ! command -v apt-get >/dev/null; then
		say "this is not Debian or Ubuntu: install by hand what is missing: $*"
		return 1
	fi
	if [ "$(id -u)" != 0 ]; then
		say "missing: $*; run this with sudo"
		return 1
	fi
	apt-get update -qq
}

install_missing() {
	local missing=() p
	for p; do installed "$p" || missing+=("$p"); done
	[ ${#missing[@]} -gt 0 ] || return 0
	update_lists "${missing[@]}"
	say "installing ${missing[*]}"
	local names
	read -ra names <<<"$(for p in "${missing[@]}"; do package_names "$p"; done | xargs)"
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${names[@]}" >/dev/null
}

# Each package comes with what it needs and this host lacks; those of another release go.
unpack_missing() {
	local release missing=() names p
	release=$(. /etc/os-release && echo "$ID-$VERSION_ID")
	[ -e "$unpacked/of-$release" ] || rm -rf "$unpacked"
	for p; do [ -e "$unpacked/has-$p" ] || missing+=("$p"); done
	[ ${#missing[@]} -gt 0 ] || return 0
	update_lists "${missing[@]}"
	say "unpacking ${missing[*]} below $unpacked"
	mkdir -p "$unpacked"/{debs,usr/{bin,sbin,lib,lib64}}
	touch "$unpacked/of-$release"
	for p in bin sbin lib lib64; do ln -sfn "usr/$p" "$unpacked/$p"; done
	read -ra names <<<"$(apt-get -s install --no-install-recommends "${missing[@]}" | awk '$1 == "Inst" && $3 !~ /^\[/ { print $2 }' | xargs)"
	(cd "$unpacked/debs" && apt-get download -qq -o APT::Sandbox::User=root "${missing[@]}" "${names[@]}" >/dev/null)
	for p in "$unpacked"/debs/*.deb; do dpkg-deb --fsys-tarfile "$p" | tar -x -C "$unpacked" --keep-directory-symlink; done
	rm -r "$unpacked/debs"
	for p in "${missing[@]}"; do touch "$unpacked/has-$p"; done
}

# Any Go from 1.21 on fetches the toolchain that go.mod names by itself.
go_is_new_enough() {
	local version
	command -v go >/dev/null || return 1
	version=$(GOTOOLCHAIN=local go env GOVERSION)
	printf 'go1.21\n%s\n' "$version" | sort -V -C
}

install_go() {
	go_is_new_enough && return
	if [ -r /etc/os-release ] && grep -q '^VERSION_CODENAME=bookworm' /etc/os-release; then
		say "this Go is missing or too old: installing the one of bookworm-backports"
		install_backport_go
	else
		install_missing golang-go
	fi
	hash -r
	go_is_new_enough || { say "Go 1.21 or newer is needed: install it and try again"; return 1; }
}

install_backport_go() {
	local list=/etc/apt/sources.list.d/torbpf-backports.list mirror
	if ! apt-cache policy golang-1.23-go 2>/dev/null | grep -q backports; then
		mirror=$(apt-cache policy | grep -oE 'https?://[^ ]+/debian/? ' | head -n 1)
		[ -n "$mirror" ] || { say "no Debian mirror is configured: add bookworm-backports and try again"; return 1; }
		echo "deb ${mirror% } bookworm-backports main" >"$list"
		apt-get update -qq
	fi
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -t bookworm-backports golang-go >/dev/null
}

case ${1:-} in
run) install_missing "${run_packages[@]}"; install_go ;;
demo) install_missing "${demo_packages[@]}"; install_go ;;
bench) install_missing "${bench_packages[@]}"; install_go ;;
test) install_missing "${test_packages[@]}"; unpack_missing "${unpacked_packages[@]}"; link_bpftool; install_go ;;
systemd) install_missing "${test_packages[@]}" "${systemd_packages[@]}"; unpack_missing "${unpacked_packages[@]}"; link_bpftool; install_go ;;
*) echo "usage: deps.sh run|demo|bench|test|systemd" >&2; exit 2 ;;
esac
