package sockets

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/torbpf/torbpf/internal/cgroup"
)

// envLook makes the test binary print the groups of processes instead.
const envLook = "TORBPF_SOCKETS_LOOK"

func TestMain(m *testing.M) {
	if pids, found := os.LookupEnv(envLook); found {
		for pid := range strings.FieldsSeq(pids) {
			if err := printGroups(pid); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
		return
	}
	os.Exit(m.Run())
}

func printGroups(pid string) error {
	number, err := strconv.Atoi(pid)
	if err != nil {
		return err
	}
	p, err := openProcess(number)
	if err != nil {
		return fmt.Errorf("process %d: %w", number, err)
	}
	defer p.close()
	fmt.Println(p.Cgroups)
	return nil
}

// TestGroupsBeyondANamespaceHaveNoNames: whoever looks from within a control group namespace, as
// in a container, sees processes that are in none of its groups.
func TestGroupsBeyondANamespaceHaveNoNames(t *testing.T) {
	root, err := cgroup.Tree()
	if err != nil {
		t.Fatal(err)
	}
	namespace := fmt.Sprintf("test-%08x", rand.Uint32())
	made := func(name string) cgroup.Group {
		g, err := cgroup.Make(root, namespace, name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := g.Remove(); err != nil {
				t.Error(err)
			}
		})
		return g
	}
	container, sibling := made("container"), made("sibling")
	inside, beside := start(t, container, "sleep", "60"), start(t, sibling, "sleep", "60")
	above := start(t, cgroup.Group{}, "sleep", "60")
	look := command(t, container, "unshare", "--cgroup", os.Args[0])
	look.Env = append(os.Environ(), fmt.Sprintf("%s=%d %d %d", envLook, inside, beside, above))
	out, err := look.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if want := fmt.Sprintf("[%d]\n[]\n[]\n", container.ID); string(out) != want {
		t.Errorf("the groups of one inside, beside and above are\n%s, want\n%s", out, want)
	}
}

// command is one to be run in a group.
func command(t *testing.T, g cgroup.Group, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	if g.Path == "" {
		return cmd
	}
	dir, err := g.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	return cmd
}

func start(t *testing.T, g cgroup.Group, name string, args ...string) int {
	t.Helper()
	cmd := command(t, g, name, args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() }) // by that signal
	return cmd.Process.Pid
}
