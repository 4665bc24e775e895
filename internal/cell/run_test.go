package cell

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/cgroup"
	"github.com/torbpf/torbpf/internal/config"
)

var both = []config.Policy{config.PolicyDirect, config.PolicyTor}

func TestTheProgramRunsInItsGroupBetweenBeginAndEnd(t *testing.T) {
	for _, policy := range both {
		t.Run(string(policy), func(t *testing.T) {
			b := newBench(t, policy)
			b.env = []string{"MARKER=kept"}
			got := b.run("sh", "-c", `grep ^0:: /proc/self/cgroup; pwd; echo $MARKER; cat; echo "$@" >&2`, "arg0", "a b", "--c")
			group := regexp.MustCompile(`^0::(/torbpf/` + b.Namespace + `/exec-[0-9]+)\n/\nkept\n$`).FindStringSubmatch(got.out)
			if group == nil || got.code != 0 || got.err != "a b --c\n" {
				t.Fatalf("%+v", got)
			}
			want := fmt.Sprintf("begin %s %s exists=true empty=true\nend %[2]s exists=true empty=true\n", policy, group[1])
			if got.router != want {
				t.Errorf("the router was asked\n%swant\n%s", got.router, want)
			}
		})
	}
}

func TestTheExitCodeIsTheProgramsOrSaysWhyThereIsNone(t *testing.T) {
	b := newBench(t, config.PolicyTor)
	script := filepath.Join(t.TempDir(), "script")
	must(t, os.WriteFile(script, []byte("#!/bin/sh\n"), 0o644))
	orphan := filepath.Join(t.TempDir(), "orphan")
	must(t, os.WriteFile(orphan, []byte("#!/no/such/interpreter\n"), 0o755))
	for _, c := range []struct {
		program []string
		code    int
		says    string
	}{
		{[]string{"sh", "-c", "exit 7"}, 7, ""},
		{[]string{"sh", "-c", "kill -TERM $$"}, 128 + 15, ""},
		{[]string{"sh", "-c", "kill -KILL $$"}, 128 + 9, ""},
		{[]string{"no-such-program"}, 127, "no-such-program"},
		{[]string{"/no/such/program"}, 127, "/no/such/program"},
		{[]string{orphan}, 127, "no such file"},
		{[]string{script}, 126, "permission denied"},
	} {
		got := b.run(c.program...)
		if got.code != c.code || !strings.Contains(got.err, c.says) || (got.err == "") != (c.says == "") {
			t.Errorf("%v: %+v, want code %d and %q", c.program, got, c.code, c.says)
		}
	}
}

func TestWithoutSuchAProgramTheRouterIsNotAsked(t *testing.T) {
	b := newBench(t, config.PolicyTor)
	if got := b.run("no-such-program"); got.router != "" {
		t.Errorf("%+v", got)
	}
}

func TestNothingRunsWhereTheRouterRefuses(t *testing.T) {
	b := newBench(t, config.PolicyTor)
	b.Refuse = true
	got := b.run("echo", "leak")
	if got.code != 1 || got.out != "" || got.err != "no tor today\n" || !strings.Contains(got.router, "\nend ") {
		t.Errorf("%+v", got)
	}
}

func TestASignalBeforeTheProgramRunsClearsUp(t *testing.T) {
	for _, signal := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT} {
		b := newBench(t, config.PolicyTor)
		b.Hang = true
		cmd := b.command("echo", "leak")
		var out bytes.Buffer
		cmd.Stdout = &out
		must(t, cmd.Start())
		eventually(t, "the router is asked", func() bool { return b.asked() != "" })
		must(t, cmd.Process.Signal(signal))
		if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 1 || out.Len() > 0 || !strings.Contains(b.asked(), "\nend ") {
			t.Errorf("%v: %v, it printed %q, the router was asked\n%s", signal, err, out.String(), b.asked())
		}
	}
}

func TestSignalsReachTheProgram(t *testing.T) {
	b := newBench(t, config.PolicyDirect)
	for _, signal := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2} {
		name := strings.TrimPrefix(unix.SignalName(signal), "SIG")
		cmd, _ := b.start("sh", "-c", `trap 'exit 9' `+name+`; echo ready; while :; do sleep 0.05; done`)
		must(t, cmd.Process.Signal(signal))
		if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 9 {
			t.Errorf("%s: %v, want the program's answer to it", name, err)
		}
	}
}

// The kernel sends what is typed to the whole process group.
func TestAKeyOfTheTerminalReachesTheProgramOnce(t *testing.T) {
	b := newBench(t, config.PolicyDirect)
	master, terminal := openTerminal(t)
	cmd := b.command("sh", "-c", `trap 'echo int' INT; trap 'echo end; exit 0' USR1; echo ready; while :; do sleep 0.05; done`)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, terminal, terminal
	cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty = true, true
	must(t, cmd.Start())
	terminal.Close()
	said := func() string { return strings.TrimPrefix(strings.TrimSpace(readLine(t, master)), "^C") }
	for _, step := range []struct {
		say  string
		then func() error
	}{
		{"ready", func() error { _, err := master.Write([]byte{3}); return err }},
		{"int", func() error { return cmd.Process.Signal(unix.SIGUSR1) }}, // after which another would follow
		{"end", cmd.Wait},
	} {
		if got := said(); got != step.say {
			t.Fatalf("the program says %q, want %q", got, step.say)
		}
		must(t, step.then())
	}
}

func openTerminal(t *testing.T) (master, terminal *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	t.Cleanup(func() { master.Close() })
	must(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	must(t, err)
	terminal, err = os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	return master, terminal
}

func TestWhatTheProgramLeavesRunningEndsWithIt(t *testing.T) {
	b := newBench(t, config.PolicyTor)
	out := b.sh(`
		setsid sh -c 'trap "" TERM; exec sleep 1000' >/dev/null 2>&1 & echo $!
		setsid sleep 1000 >/dev/null 2>&1 & echo $!`)
	for pid := range strings.FieldsSeq(out) {
		if _, err := os.Stat("/proc/" + pid + "/exe"); err == nil {
			t.Errorf("process %s is still there", pid)
		}
	}
	if !strings.Contains(b.asked(), "empty=true\nend ") || strings.Contains(b.asked(), "empty=false") {
		t.Errorf("the router was asked\n%s", b.asked())
	}
}

func TestAKilledRunTakesTheProgramAlongAndSweepTheRest(t *testing.T) {
	for _, user := range []string{"root", "nobody"} {
		t.Run(user, func(t *testing.T) {
			b := newBench(t, config.PolicyTor)
			b.User = user
			live, _ := b.start("sh", "-c", `trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done`)
			killed, line := b.start("sh", "-c", `setsid sleep 1000 >/dev/null 2>&1 & echo $$ $!; exec sleep 1000`)
			pids := strings.Fields(line)
			must(t, killed.Process.Kill())
			_ = killed.Wait()
			eventually(t, "the program has ended", func() bool { return !runs(pids[0]) })
			if !runs(pids[1]) {
				t.Fatal("what the program has started has ended, too: nothing to sweep")
			}
			if n := len(b.groups()); n != 2 {
				t.Fatalf("%d groups, want 2", n)
			}
			must(t, Sweep(t.Context(), b.root, b.Namespace, fakeRouter{b.settings}.End))
			if n := len(b.groups()); n != 1 || runs(pids[1]) {
				t.Errorf("%d groups are left, of the killed one's it is %v that something runs", n, runs(pids[1]))
			}
			if n := strings.Count(b.asked(), "end "); n != 1 {
				t.Errorf("%d groups were forgotten, want 1:\n%s", n, b.asked())
			}
			must(t, live.Process.Signal(unix.SIGTERM))
			if err := live.Wait(); live.ProcessState.ExitCode() != 9 {
				t.Errorf("the one whose Run lives: %v", err)
			}
		})
	}
}

// runs tells whether a process is there, and not merely not waited for.
func runs(pid string) bool {
	_, err := os.Readlink("/proc/" + pid + "/exe")
	return err == nil
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

func TestSweepKeepsAGroupThatTheRouterCannotForget(t *testing.T) {
	b := newBench(t, config.PolicyTor)
	group, held, err := claim(b.root, b.Namespace)
	must(t, err)
	held.Close()
	refused := errors.New("refused")
	err = Sweep(t.Context(), b.root, b.Namespace, func(context.Context, cgroup.Group) error { return refused })
	if !errors.Is(err, refused) || !group.Exists() {
		t.Errorf("%v; it exists: %v", err, group.Exists())
	}
	must(t, group.Remove())
}

func TestAGroupOfTheSameNameIsLeftAlone(t *testing.T) {
	b := newBench(t, config.PolicyTor)
	var paths []string
	for range 3 { // as of processes of that pid in other pid namespaces
		group, held, err := claim(b.root, b.Namespace)
		must(t, err)
		defer held.Close()
		paths = append(paths, filepath.Base(group.Path))
		defer func() { must(t, group.Remove()) }()
	}
	name := fmt.Sprintf("exec-%d", os.Getpid())
	if want := []string{name, name + "-1", name + "-2"}; strings.Join(paths, " ") != strings.Join(want, " ") {
		t.Errorf("groups %v, want %v", paths, want)
	}
}
