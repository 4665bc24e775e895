#!/usr/bin/env bash
# alone.sh CMD...: runs a test program (see go test -exec) with process ids, a /run and
# temporary files of its own, so that packages whose tests attach torbpf can run side by
# side: each sweeps away what labs of ended processes have left.
# The shell stays process 1: a test as process 1 would inherit all orphans, and the
# network namespace of its main thread would be what torbpf takes for the host's.
set -Eeuo pipefail
TMPDIR=$(mktemp -d "${TMPDIR:-/tmp}/tXXX") # short: sockets have paths of 107 bytes at most
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
chmod 1777 "$TMPDIR"
unshare --mount --pid --fork --kill-child --mount-proc --propagation private \
	bash -c 'mount -t tmpfs tmpfs /run && mkdir /run/lock || exit; "$@"; exit $?' alone "$@"
