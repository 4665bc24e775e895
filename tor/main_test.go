package tor

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/torbpf/torbpf/internal/plan"
	"golang.org/x/sys/unix"
)

// role makes the test binary act as a process of its own: it is started again
// with this variable set.
const role = "TORBPF_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "":
		os.Exit(m.Run())
	case "starter": // starts a tor and leaves
		var o Options
		exitOn(json.Unmarshal([]byte(os.Args[1]), &o))
		var files unix.Rlimit
		exitOn(unix.Getrlimit(unix.RLIMIT_NOFILE, &files))
		files.Cur = starterFiles
		exitOn(unix.Setrlimit(unix.RLIMIT_NOFILE, &files))
		_, err := Start(context.Background(), o)
		exitOn(err)
	case "asker": // asks a tor how far it is, as confined as the sentry
		exitOn(unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0))
		c, err := Dial(context.Background(), os.Args[1])
		exitOn(err)
		p, err := c.Bootstrap(context.Background())
		exitOn(err)
		fmt.Printf("uid %d gid %d: %d%%", os.Getuid(), os.Getgid(), p.Percent)
	}
}

// starterFiles is the soft limit of who starts a tor, as low as the daemon's.
const starterFiles = 1024

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// deadline returns a context within which all that a test waits for happens.
func deadline(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); !condition(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}

// place makes a directory that tor's account can reach; those of t.TempDir
// are root's alone, and their names too long for a socket.
func place(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test starts tor under its account and needs root")
	}
	dir, err := os.MkdirTemp("/tmp", "tor")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// isolate moves the test into a network namespace with a loopback interface
// and no route to anywhere; tor's bootstrap stays at 0 % there.
func isolate(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // for good: the thread cannot go back
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("this test needs root: %v", err)
	}
	sh(t, "ip link set lo up; ip addr add 10.99.0.1/32 dev lo; ip addr add fd99::1/128 dev lo nodad")
}

func sh(t *testing.T, script string) {
	t.Helper()
	if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// options are those of a tor in an isolated test.
func options(t *testing.T) Options {
	t.Helper()
	isolate(t)
	dir := place(t)
	return Options{
		Dir:     filepath.Join(dir, "state"),
		DataDir: filepath.Join(dir, "data"),
		Ports:   plan.Ports{Trans: 9040, DNS: 9053, Resolver: 9054},
		Onion4:  netip.MustParsePrefix("10.192.0.0/16"),
		Onion6:  netip.MustParsePrefix("fd12:3456::/32"),
		AllowFrom: []netip.Prefix{
			netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"),
		},
	}
}

// started is a running tor that is gone when the test ends.
func started(t *testing.T, o Options) *Daemon {
	t.Helper()
	d, err := Start(deadline(t, 30*time.Second), o)
	if err != nil {
		t.Fatal(err)
	}
	stopLater(t, d)
	return d
}

func stopLater(t *testing.T, d *Daemon) {
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // killed at once
		if err := d.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
}

// extra writes a user's torrc and returns its path.
func extra(t *testing.T, lines ...string) string {
	t.Helper()
	path := filepath.Join(place(t), "user.torrc")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// wantError checks that an error says all of the parts.
func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want one with %q", parts)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q does not say %q", err, p)
		}
	}
}
