#!/usr/bin/env bash
# second-clang.sh CLANG: compiles the BPF programs with another compiler than the one that made
# the committed objects, and has the kernel take them and judge as the model does. What only
# one compiler's code gets past the verifier would be luck.
set -Eeuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
clang=${1:?which compiler? such as clang-19}
command -v "$clang" >/dev/null || { echo "second-clang.sh: there is no $clang: packaging/deps.sh test installs it" >&2; exit 1; }
copy=$(mktemp -d "${TMPDIR:-/tmp}/clang-XXXXXX")
trap 'rm -rf "$copy"' EXIT
git ls-files -z --cached --others --exclude-standard | xargs -0 tar -c --ignore-failed-read | tar -x -C "$copy"
cd "$copy"
sed -i -e "s/ -cc clang / -cc $clang /" -e '/--record/d' internal/abi/generate.go
(cd internal/abi && go generate .)
# The number of instructions is the compiler's own matter, so not that of TestVerifierBudget.
go test -count=1 -timeout 15m -exec "$PWD/.ci/alone.sh" -run '^(TestEveryVerdictAndReason|TestModelAgrees|TestEarlyAgrees|TestFramesWithoutEthernet|TestTheThirdGuardAgreesWithTheUplinks|TestExplainingSaysWhatTheProgramDoes|TestTunnelsGetTheirAnswers)$' ./internal/model
go test -count=1 -timeout 15m -exec "$PWD/.ci/alone.sh" -run 'Attach|Fast|Client|Guard|Early|HandedTo|Short' ./loader
