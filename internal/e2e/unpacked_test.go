package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
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

// privateBus starts a system bus that ends with what the shell becomes; see writeBus.
const privateBus = `export DBUS_SYSTEM_BUS_ADDRESS=unix:path="$1/bus"
setpriv --pdeathsig KILL dbus-daemon --nofork --config-file="$1/bus.conf" &
until test -S "$1/bus"; do sleep 0.02; done
`

// writeBus configures a privateBus in a folder.
func writeBus(t *testing.T, dir string) {
	t.Helper()
	text := fmt.Sprintf(`<busconfig><type>system</type><listen>unix:path=%s/bus</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>
`, dir)
	if err := os.WriteFile(filepath.Join(dir, "bus.conf"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// unpackedProgram runs in the router, in a file system of its own.
type unpackedProgram struct {
	lab *testnet.Lab
	dir string // what is the test's
	pid int
}

// startUnpacked runs a script, which is given a folder and becomes one of these programs, until
// the test ends.
func startUnpacked(t *testing.T, lab *testnet.Lab, script, dir string) *unpackedProgram {
	t.Helper()
	log := &syncBuffer{}
	cmd := lab.Router.Command(t.Context(), "unshare", "--mount", "--propagation", "private", "bash", "-c", unpackedHere+script, "unpacked", dir)
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
	return &unpackedProgram{lab, dir, cmd.Process.Pid}
}

// run runs a command in its file system, and with its bus, if it has one.
func (p *unpackedProgram) run(t *testing.T, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := p.lab.Router.Command(ctx, "nsenter", append([]string{"--mount", "--target", strconv.Itoa(p.pid)}, args...)...)
	cmd.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS=unix:path="+p.dir+"/bus")
	return runCommand(t, cmd)
}

// must is run for what may not fail, and returns its output.
func (p *unpackedProgram) must(t *testing.T, args ...string) string {
	t.Helper()
	r := p.run(t, args...)
	if r.code != 0 {
		t.Fatalf("%v: %v", args, r)
	}
	return strings.TrimSpace(r.stdout)
}
