package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// What the test binary does in namespaces of its own, if this is its first argument.
const (
	roleTreeless = "role-treeless"
	roleMake     = "role-make"
)

func TestMain(m *testing.M) {
	roles := map[string]func() error{roleTreeless: beTreeless, roleMake: makeOne}
	if len(os.Args) > 1 && roles[os.Args[1]] != nil {
		if err := roles[os.Args[1]](); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// makeOne makes a group in the tree that it finds, and prints where that is.
func makeOne() error {
	root, err := Tree()
	if err != nil {
		return err
	}
	fmt.Println(root)
	_, err = Make(root, os.Args[2], "kept")
	return err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tree returns the tree and a namespace's name that only this test uses. It is not by pid:
// others may have the same, in other pid namespaces.
func tree(t *testing.T) (root, namespace string) {
	t.Helper()
	root, err := Tree()
	must(t, err)
	return root, fmt.Sprintf("test-%x", rand.Uint64())
}

// made makes a group that goes with the test.
func made(t *testing.T, root, namespace, name string) Group {
	t.Helper()
	g, err := Make(root, namespace, name)
	must(t, err)
	t.Cleanup(func() {
		must(t, g.Kill())
		must(t, g.Remove())
	})
	return g
}

// inGroup starts a shell in a group, and returns when it has said that it is ready.
func inGroup(t *testing.T, g Group, script string) *exec.Cmd {
	t.Helper()
	dir, err := g.Open()
	must(t, err)
	defer dir.Close()
	cmd := exec.Command("sh", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the shell says %q (%v)", line, err)
	}
	return cmd
}

func isEmpty(t *testing.T, g Group) bool {
	t.Helper()
	empty, err := g.Wait(0)
	must(t, err)
	return empty
}

func TestGroupsAreMadeListedAndRemovedWithTheirParents(t *testing.T) {
	root, namespace := tree(t)
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	one, err := Make(root, namespace, "one")
	must(t, err)
	two, err := Make(root, namespace, "two")
	must(t, err)
	if _, err := Make(root, namespace, "one"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("made a second one: %v", err)
	}
	if want := "/torbpf/" + namespace + "/one"; one.Path != want {
		t.Errorf("path %s, want %s", one.Path, want)
	}
	if id, err := ID(root, one.Path); err != nil || id != one.ID || id == two.ID {
		t.Errorf("id %d (%v), want %d; the other's is %d", id, err, one.ID, two.ID)
	}
	info, err := os.Stat(one.file(""))
	must(t, err)
	if info.Mode().Perm() != permission || info.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("mode %v", info.Mode())
	}
	groups, err := Groups(root, namespace)
	must(t, err)
	if len(groups) != 2 || groups[0] != one || groups[1] != two {
		t.Errorf("listed %v, want %v and %v", groups, one, two)
	}
	must(t, os.Mkdir(one.file("below"), 0o755))
	for _, g := range []Group{one, two, two} { // one that is gone is no error
		must(t, g.Remove())
	}
	if _, err := os.Stat(filepath.Join(root, family, namespace)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the parent is still there: %v", err)
	}
	if groups, err := Groups(root, namespace); err != nil || len(groups) != 0 {
		t.Errorf("listed %v, %v", groups, err)
	}
}

func TestAGroupByTheNameOfOneThatIsGoneIsAnother(t *testing.T) {
	root, namespace := tree(t)
	gone := made(t, root, namespace, "same")
	must(t, gone.Remove())
	now := made(t, root, namespace, "same")
	if gone.Exists() || !now.Exists() {
		t.Errorf("exist: %v and %v, want the second alone", gone.Exists(), now.Exists())
	}
	if _, err := gone.Open(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("opened the other: %v", err)
	}
}

func TestEndAsksBeforeItKills(t *testing.T) {
	root, namespace := tree(t)
	g := made(t, root, namespace, "polite")
	cmd := inGroup(t, g, `trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done`)
	if isEmpty(t, g) {
		t.Fatal("nothing runs in the group")
	}
	must(t, g.End(killPatience))
	if !isEmpty(t, g) {
		t.Error("something runs in the group still")
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 3 {
		t.Errorf("the shell ended by %v, want its own answer to SIGTERM", err)
	}
}

func TestEndKillsWhatIgnoresItAndWhatIsBelow(t *testing.T) {
	kills := map[string]func(Group) error{
		"at once":    func(g Group) error { return g.End(0) },
		"one by one": Group.killOneByOne,
	}
	for name, kill := range kills {
		t.Run(name, func(t *testing.T) {
			root, namespace := tree(t)
			g := made(t, root, namespace, "stubborn")
			must(t, os.Mkdir(g.file("below"), 0o755))
			cmd := inGroup(t, g, `trap '' TERM; echo $$ > `+g.file("below")+`/cgroup.procs; sleep 1000 & echo ready; wait`)
			must(t, kill(g))
			if !isEmpty(t, g) {
				t.Error("something runs in the group still")
			}
			_ = cmd.Wait()
			if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != unix.SIGKILL {
				t.Errorf("the shell ended by %v, want SIGKILL", cmd.ProcessState)
			}
		})
	}
}

func TestSignalReachesNoProcessOfAnotherGroup(t *testing.T) {
	root, namespace := tree(t)
	ours, others := made(t, root, namespace, "ours"), made(t, root, namespace, "others")
	inGroup(t, others, `trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done`)
	inGroup(t, ours, `echo ready; exec sleep 1000`)
	must(t, ours.End(killPatience))
	if isEmpty(t, others) {
		t.Error("another group's process is gone")
	}
}

// beTreeless unmounts every tree, and then needs one.
func beTreeless() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return err
	}
	for {
		root, err := Root()
		if errors.Is(err, ErrNoTree) {
			break
		}
		if err != nil {
			return err
		}
		if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
			return err
		}
	}
	if err := makeOne(); err != nil {
		return err
	}
	_, err := Root()
	if !errors.Is(err, ErrNoTree) {
		return fmt.Errorf("a tree is mounted: %w", err)
	}
	return nil
}

func TestWithoutAMountedTreeGroupsAreMadeInTheSameAndNoneIsMounted(t *testing.T) {
	root, namespace := tree(t)
	binary, err := os.Executable()
	must(t, err)
	// In a cgroup namespace of its own a mount changes nobody's options of the tree; at the
	// root, that shows all of it.
	script := `echo $$ >"$0/cgroup.procs" && exec unshare --cgroup --mount --pid --fork "$@"`
	cmd := exec.Command("sh", "-c", script, root, binary, roleTreeless, namespace)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	must(t, err)
	groups, err := Groups(root, namespace)
	must(t, err)
	if len(groups) != 1 || !strings.HasPrefix(string(out), "/proc/self/fd/") {
		t.Fatalf("groups %v, want one; the tree is at %s", groups, out)
	}
	must(t, groups[0].Remove())
}

// A mount namespace of `ip netns exec`, or one where the tree is read-only.
func TestWhereTheTreeIsReadOnlyTheFirstProcessesIsUsed(t *testing.T) {
	for name, args := range map[string]string{
		"read-only": `mount -o remount,bind,ro "$0"`,
		"hidden":    `mount -t tmpfs none "$0"`,
	} {
		t.Run(name, func(t *testing.T) {
			root, namespace := tree(t)
			binary, err := os.Executable()
			must(t, err)
			// In a pid namespace of its own the shell is the first process, whose view may be seen.
			inner := args + ` && exec "$1" ` + roleMake + ` ` + namespace
			cmd := exec.Command("unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", `unshare --mount sh -c '`+inner+`' "$0" "$1"; exit $?`, root, binary)
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			must(t, err)
			if !strings.HasPrefix(string(out), "/proc/1/root/") {
				t.Errorf("the tree is at %s", out)
			}
			groups, err := Groups(root, namespace)
			must(t, err)
			if len(groups) != 1 {
				t.Fatalf("groups %v, want one", groups)
			}
			must(t, groups[0].Remove())
		})
	}
}
