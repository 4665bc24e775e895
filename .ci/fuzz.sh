#!/usr/bin/env bash
# fuzz.sh SECONDS: fuzzes the classifier against its model in Go for that long, and
# each reader of what others write (configuration, lists, tor's control port, DNS) for
# a tenth of it. One that fails leaves its input below testdata of its package.
set -Eeuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seconds=${1:?how many seconds?}
readers=$((seconds / 10 > 0 ? seconds / 10 : 1))

fuzz() { # PACKAGE NAME SECONDS
	echo "fuzz: $2 for $3 s"
	"${GO:-go}" test -run '^$' -fuzz "^$2\$" -fuzztime "$3s" -parallel 2 "$1"
}

fuzz ./internal/model FuzzClassifier "$seconds"
grep -rlE '^func Fuzz' --include='*_test.go' . | sort | while read -r file; do
	sed -nE 's/^func (Fuzz[A-Za-z]+)\(.*/\1/p' "$file" | while read -r name; do
		[ "$name" = FuzzClassifier ] || fuzz "$(dirname "$file")" "$name" "$readers" </dev/null
	done
done
