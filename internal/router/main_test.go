package router

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/circuits"
	"github.com/torbpf/torbpf/internal/proxy"
	"github.com/torbpf/torbpf/internal/sentry"
	"github.com/torbpf/torbpf/tor"
)

// TestMain is the sentry and the proxy as well: attach starts the program that is running,
// which here is the test.
func TestMain(m *testing.M) {
	roles := map[string]func(context.Context) error{
		"sentry": func(ctx context.Context) error { return sentry.RunChild(ctx, dialTor, followTor) },
		"proxy":  proxy.RunChild,
	}
	role := roles[os.Args[len(os.Args)-1]]
	if len(os.Args) != 2 || role == nil {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := role(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// watchedTor is tor as the sentry sees it; see cmd/torbpf.
type watchedTor struct{ *tor.Control }

func (w watchedTor) Bootstrap(ctx context.Context) (int, string, error) {
	p, err := w.Control.Bootstrap(ctx)
	return p.Percent, p.Summary, err
}

func dialTor(control string) sentry.Dialer {
	return func(ctx context.Context) (sentry.Tor, io.Closer, error) {
		c, err := tor.Dial(ctx, control)
		if err != nil {
			return nil, nil, err
		}
		return watchedTor{c}, c, nil
	}
}

func followTor(ctx context.Context, control string, before circuits.Memory) (sentry.Listener, error) {
	return tor.Follow(ctx, control, before)
}

// inNamespace runs the test once more in a process and a network namespace of
// its own, where it returns true: a Router is that of the calling thread's, and
// a whole process has no other.
func inNamespace(t *testing.T) bool {
	t.Helper()
	const marker = "TORBPF_TEST_IN_NAMESPACE"
	if os.Getenv(marker) == t.Name() {
		buildHost(t)
		t.Cleanup(func() { detachAll(t) })
		return true
	}
	if os.Geteuid() != 0 {
		t.Fatal("this test needs root: it makes network namespaces")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=120s")
	cmd.Env = append(os.Environ(), marker+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
	return false
}

// detachAll leaves no process behind, not even by a test that fails.
func detachAll(t *testing.T) {
	r, err := New(Options{})
	must(t, err)
	if err := r.DetachAll(context.Background()); err != nil && !errors.Is(err, ErrNotAttached) {
		t.Error(err)
	}
}

// buildHost makes a router of the namespace: eth0 leads outside, eth1 and eth2
// are LANs. Nobody is at their other ends.
func buildHost(t *testing.T) {
	t.Helper()
	for _, command := range []string{
		"ip link set lo up",
		"sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0",
		"ip link add eth0 type veth peer name far0", "ip link add eth1 type veth peer name far1", "ip link add eth2 type veth peer name far2",
		"ip addr add 62.10.0.2/24 dev eth0", "ip addr add 192.168.50.1/24 dev eth1", "ip addr add 192.168.60.1/24 dev eth2",
		"ip addr add fd50::1/64 dev eth1 nodad",
		"ip link set eth0 up", "ip link set eth1 up", "ip link set eth2 up",
		"ip link set far0 up", "ip link set far1 up", "ip link set far2 up",
		"ip route add default via 62.10.0.1",
		// The user's own.
		"ip rule add fwmark 0x77/0xff lookup 77 priority 900",
		"nft add table ip nat", "nft add chain ip nat post { type nat hook postrouting priority 100 ; }",
		"nft add rule ip nat post oifname eth0 masquerade",
	} {
		output(t, command)
	}
}

// output runs a command and returns what it prints.
func output(t *testing.T, command string) string {
	t.Helper()
	words := strings.Fields(command)
	out, err := exec.Command(words[0], words[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
	return string(out)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
