#!/usr/bin/env bash
# copyright.sh [APACHE-FILE]: prints who holds the rights in the program: torbpf's licences, and
# those of all that is linked into it. The text of Apache-2.0 is only pointed to: on Debian it
# is in /usr/share/common-licenses; with APACHE-FILE, it is written there.
set -Eeuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

apache_file=${1:-}
apache_at=/usr/share/common-licenses/Apache-2.0
[ -z "$apache_file" ] || apache_at="${apache_file##*/} beside this file"

# licence FOLDER prints what a module's folder says of its licence.
licence() {
	local text
	for text in "$1"/LICENSE* "$1"/COPYING* "$1"/NOTICE*; do
		[ -f "$text" ] || continue
		if grep -q 'Apache License' "$text" && grep -q 'TERMS AND CONDITIONS' "$text"; then
			printf 'Apache License, Version 2.0: see %s.\n\n' "$apache_at"
			[ -z "$apache_file" ] || cp --no-preserve=mode "$text" "$apache_file"
		else
			cat "$text"
			echo
		fi
	done
}

# section TITLE FOLDER is one with its licence; without any nothing may be handed on.
section() {
	local text
	text=$(licence "$2")
	[ -n "$text" ] || { echo "copyright.sh: $1: there is no licence in $2" >&2; exit 1; }
	printf -- '--- %s\n\n%s\n\n' "$1" "$text"
}

echo "torbpf, a transparent Tor router: https://github.com/torbpf/torbpf"
echo
cat LICENSE
printf -- '\n--- The BPF programs in it (bpf/)\n\n%s\n\n' "$(cat bpf/LICENSE)"
echo "The program also contains what follows."
echo
section "Go's standard library, https://go.dev" "$(go env GOROOT)"
GOOS=linux go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' ./cmd/torbpf | sort -u |
	while read -r path version folder; do section "$path $version" "$folder"; done
