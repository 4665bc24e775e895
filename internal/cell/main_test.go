package cell

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/cgroup"
	"github.com/torbpf/torbpf/internal/config"
)

// What the test binary does instead of testing when this is its first argument.
const (
	roleRun   = "role-run"   // Run, by the settings of the second argument
	roleStage = "role-stage" // Stage
)

func TestMain(m *testing.M) {
	restoreSignals()
	if len(os.Args) < 2 {
		os.Exit(m.Run())
	}
	switch os.Args[1] {
	case roleRun:
		os.Exit(beRun())
	case roleStage:
		if err := Stage(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	default:
		os.Exit(m.Run())
	}
}

// restoreSignals has children take signals that this process was started to ignore, as by
// nohup or in the background of a script: they would ignore them as well.
func restoreSignals() {
	for _, s := range []os.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT} {
		if signal.Ignored(s) {
			signal.Notify(make(chan os.Signal, 1), s)
		}
	}
}

// settings are what a test tells a Run in a process, and a mount namespace, of its own.
type settings struct {
	Namespace string
	Policy    config.Policy
	User      string
	Command   []string
	Log       string // what the fake router was asked is appended to this file
	Refuse    bool   // the router's Begin fails
	Hang      bool   // it waits for what never comes, as for Tor
	World     string // a folder with what is at /run and at /etc/resolv.conf; "" for an empty /run
}

// fakeRouter writes down what it is asked, and how the group was then.
type fakeRouter struct{ settings }

func (f fakeRouter) note(verb string, group cgroup.Group) error {
	empty, err := group.Wait(0)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(f.Log, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer log.Close()
	_, err = fmt.Fprintf(log, "%s %s exists=%v empty=%v\n", verb, group.Path, group.Exists(), empty)
	return err
}

func (f fakeRouter) Begin(ctx context.Context, policy config.Policy, group cgroup.Group) error {
	if err := f.note("begin "+string(policy), group); err != nil {
		return err
	}
	if f.Hang {
		<-ctx.Done()
		return ctx.Err()
	}
	if f.Refuse {
		return errors.New("no tor today")
	}
	return nil
}

func (f fakeRouter) End(_ context.Context, group cgroup.Group) error { return f.note("end", group) }

func beRun() int {
	var s settings
	if err := json.Unmarshal([]byte(os.Args[2]), &s); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 99
	}
	if err := s.arrangeWorld(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 99
	}
	// As torbpf does.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code, err := Run(ctx, Options{
		Router: fakeRouter{s}, Namespace: s.Namespace, Policy: s.Policy, User: s.User, Command: s.Command,
		Stage: []string{roleStage},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return code
}

// arrangeWorld mounts another /run, and has the services listen that a world has.
func (s settings) arrangeWorld() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if s.World == "" {
		return unix.Mount("none", "/run", "tmpfs", 0, "")
	}
	if err := unix.Mount(s.World+"/run", "/run", "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if _, err := os.Stat(s.World + "/etc"); err != nil {
		return nil
	}
	return unix.Mount(s.World+"/etc", "/etc", "", unix.MS_BIND, "")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// bench is what one test runs its programs by.
type bench struct {
	t    *testing.T
	root string
	settings
	env []string
}

func newBench(t *testing.T, policy config.Policy) *bench {
	t.Helper()
	root, err := cgroup.Tree()
	must(t, err)
	log := filepath.Join(t.TempDir(), "log")
	must(t, os.WriteFile(log, nil, 0o600))
	// Not by pid: others may have the same, in other pid namespaces.
	namespace := fmt.Sprintf("test-%x", rand.Uint64())
	b := &bench{t: t, root: root, settings: settings{Namespace: namespace, Policy: policy, Log: log}}
	t.Cleanup(func() {
		if groups := b.groups(); len(groups) > 0 {
			t.Errorf("groups %v are left", groups)
			for _, g := range groups {
				_, _ = g.Kill(), g.Remove()
			}
		}
	})
	return b
}

func (b *bench) groups() []cgroup.Group {
	b.t.Helper()
	groups, err := cgroup.Groups(b.root, b.Namespace)
	must(b.t, err)
	return groups
}

// command is a Run that is not started yet.
func (b *bench) command(program ...string) *exec.Cmd {
	b.t.Helper()
	s := b.settings
	s.Command = program
	text, err := json.Marshal(s)
	must(b.t, err)
	cmd := exec.Command("/proc/self/exe", roleRun, string(text))
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "SUDO_") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, b.env...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	return cmd
}

// outcome is what came of a program.
type outcome struct {
	code             int
	out, err, router string
}

func (b *bench) run(program ...string) outcome {
	b.t.Helper()
	cmd := b.command(program...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		b.t.Fatal(err)
	}
	return outcome{cmd.ProcessState.ExitCode(), out.String(), errs.String(), b.asked()}
}

// sh runs a shell script that must succeed, and returns what it prints.
func (b *bench) sh(script string) string {
	b.t.Helper()
	o := b.run("sh", "-ec", script)
	if o.code != 0 || o.err != "" {
		b.t.Fatalf("code %d, stderr %q, stdout %q", o.code, o.err, o.out)
	}
	return strings.TrimSpace(o.out)
}

// asked is what the router was asked.
func (b *bench) asked() string {
	b.t.Helper()
	text, err := os.ReadFile(b.Log)
	must(b.t, err)
	return string(text)
}

// start starts a program and returns when it has printed a line.
func (b *bench) start(program ...string) (cmd *exec.Cmd, line string) {
	b.t.Helper()
	cmd = b.command(program...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(b.t, err)
	must(b.t, cmd.Start())
	b.t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd, readLine(b.t, out)
}

func readLine(t *testing.T, from io.Reader) string {
	t.Helper()
	var line []byte
	for one := make([]byte, 1); ; line = append(line, one[0]) {
		if _, err := io.ReadFull(from, one); err != nil {
			t.Fatalf("the program's line is %q: %v", line, err)
		}
		if one[0] == '\n' {
			return string(line)
		}
	}
}

// listen has something listen at a path of a world.
func listen(t *testing.T, path string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	l, err := net.Listen("unix", path)
	must(t, err)
	t.Cleanup(func() { l.Close() })
}
