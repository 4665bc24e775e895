#!/usr/bin/env bash
# alone.sh CMD...: runs a test program (see go test -exec) with process ids and a
# /run of its own, so that packages whose tests attach torbpf can run side by side.
# The shell stays process 1: a test as process 1 would inherit all orphans, and the
# network namespace of its main thread would be what torbpf takes for the host's.
set -Eeuo pipefail
exec unshare --mount --pid --fork --kill-child --mount-proc --propagation private \
	bash -c 'mount -t tmpfs tmpfs /run && mkdir /run/lock || exit; "$@"; exit $?' alone "$@"
