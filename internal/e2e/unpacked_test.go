package e2e

import (
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet"
)

// unpackedHere puts what packaging/deps.sh has unpacked, and not installed, into its place.
const unpackedHere = `set -e
test -e /var/cache/torbpf-tests/usr || { echo "run packaging/deps.sh test" >&2; exit 1; }
mount -t overlay overlay -o lowerdir=/var/cache/torbpf-tests/usr:/usr /usr
`

// startUnpacked runs a script, which becomes one of these programs, in the router and in a
// file system of its own, until the test ends.
func startUnpacked(t *testing.T, lab *testnet.Lab, script string, args ...string) *exec.Cmd {
	t.Helper()
	log := &syncBuffer{}
	args = append([]string{"--mount", "--propagation", "private", "bash", "-c", unpackedHere + script, "unpacked"}, args...)
	cmd := lab.Router.Command(t.Context(), "unshare", args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) } // it may have children
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log)
		}
	})
	return cmd
}
