package proxy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What the test binary does instead of testing when this is its first argument.
const roleProxy = "role-proxy"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == roleProxy {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		if err := RunChild(ctx); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// inNamespace runs the test once more in a process with a network and mounts of its own,
// where it returns true. Sockets are made on threads that Go chooses, so a namespace of
// a single thread would not do.
func inNamespace(t *testing.T) bool {
	t.Helper()
	const marker = "TORBPF_TEST_IN_NAMESPACE"
	if os.Getenv(marker) == t.Name() {
		must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		return true
	}
	if os.Geteuid() != 0 {
		t.Fatal("this test needs root: it makes network namespaces")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), marker+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
	return false
}

// eventually waits until ok says so.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
		runtime.Gosched()
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// replace has a file of the system's read as that text, in the test's own mounts.
func replace(t *testing.T, path, text string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), filepath.Base(path))
	must(t, os.WriteFile(file, []byte(text), 0o644))
	must(t, unix.Mount(file, path, "", unix.MS_BIND, ""))
}

// running is a proxy in this process.
type running struct {
	end  context.CancelFunc
	done chan error
}

// start runs a proxy until the test ends.
func start(t *testing.T, cfg Config, change ...func(*limits)) *running {
	t.Helper()
	lim := defaultLimits()
	for _, f := range change {
		f(&lim)
	}
	ctx, end := context.WithCancel(context.Background())
	r := &running{end: end, done: make(chan error, 1)}
	ready := make(chan struct{})
	go func() {
		r.done <- run(ctx, cfg, func() error { close(ready); return nil }, lim)
	}()
	select {
	case <-ready:
	case err := <-r.done:
		t.Fatalf("it did not begin: %v", err)
	}
	t.Cleanup(func() { end() })
	return r
}

// stop ends the proxy and wants that to be quick and no error.
func (r *running) stop(t *testing.T) {
	t.Helper()
	r.end()
	select {
	case err := <-r.done:
		must(t, err)
	case <-time.After(10 * time.Second):
		t.Fatal(errors.New("it does not end"))
	}
}
