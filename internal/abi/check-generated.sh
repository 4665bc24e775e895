#!/usr/bin/env bash
# Checks that the committed BPF objects are what bpf/ compiles to. The digest of
# the source is compared anywhere; the bytes only where the compiler is the one
# that made them, as another clang makes another object of the same source.
#   check-generated.sh           check
#   check-generated.sh --record  write digest and compiler, after go generate
set -Eeuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

digest() { cat ../../bpf/*.c ../../bpf/*.h generate.go | sha256sum | cut -d' ' -f1; }
compiler() { clang --version | sed -n '1s/.*version \([0-9.]*\).*/\1/p'; }

if [ "${1:-}" = --record ]; then
	printf 'source %s\nclang %s\n' "$(digest)" "$(compiler)" >generated.txt
	exit 0
fi

[ "$(sed -n 's/^source //p' generated.txt)" = "$(digest)" ] || {
	echo "bpf/ has changed since its objects were generated: run make generate and commit" >&2
	exit 1
}
if [ "$(sed -n 's/^clang //p' generated.txt)" != "$(compiler)" ]; then
	echo "check-generated: the source is unchanged; clang $(compiler) is not the compiler that made the objects, bytes not compared" >&2
	exit 0
fi
before=$(sha256sum ./*_bpfel.o ./*_bpfel.go)
go generate .
after=$(sha256sum ./*_bpfel.o ./*_bpfel.go)
[ "$before" = "$after" ] || {
	echo "the committed BPF objects are not what their source compiles to: commit the result of make generate" >&2
	exit 1
}
