package loader

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// A process of these tests that finds this set does what it says and ends.
const childDoes = "TORBPF_TEST_CHILD"

func TestMain(m *testing.M) {
	what, path, found := strings.Cut(os.Getenv(childDoes), " ")
	if !found {
		os.Exit(m.Run())
	}
	if err := beChild(what, path); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// beChild is run in a mount namespace of its own.
func beChild(what, path string) error {
	if what == "marks" {
		return printMarks(os.Stdout)
	}
	if what == "unmount" {
		if _, err := Mount(path); err != nil { // to look for pins, as detach does
			return err
		}
		return Unmount(path)
	}
	way, err := Mount(path)
	if err != nil {
		return err
	}
	if way == path {
		return errors.New("took its own mount namespace for the first process's")
	}
	if seen, err := isBPF(way); err != nil || !seen {
		return fmt.Errorf("%s leads to no bpffs: %w", way, err)
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(way, "ns"), 0o700); err != nil {
		return err
	}
	return m.Pin(filepath.Join(way, "ns", "map"))
}

// child runs us as ip netns exec would: in a mount namespace that is a copy.
func child(t *testing.T, what, path string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childDoes+"="+what+" "+path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s in a mount namespace of its own: %v: %s", what, err, out)
	}
}

func TestMountFromAPrivateMountNamespaceOutlivesIt(t *testing.T) {
	path := mountPoint(t)
	for range 2 {
		child(t, "mount", path)
		root, err := Mount(path) // finds it
		must(t, err)
		m, err := ebpf.LoadPinnedMap(filepath.Join(root, "ns", "map"), nil)
		must(t, err)
		must(t, m.Close())

		child(t, "unmount", path) // not empty
		expectMounted(t, path, true)
		must(t, os.RemoveAll(filepath.Join(root, "ns")))
		child(t, "unmount", path)
		expectMounted(t, path, false)
	}
}

// TestWhatTCLeavesInABpffsDoesNotHoldIt, unless it has pinned something there.
func TestWhatTCLeavesInABpffsDoesNotHoldIt(t *testing.T) {
	path := mountPoint(t)
	root, err := Mount(path)
	must(t, err)
	must(t, os.MkdirAll(filepath.Join(root, "tc", "globals"), 0o700))
	must(t, os.Symlink(filepath.Join(path, "tc"), filepath.Join(root, "ip")))
	must(t, os.Symlink(filepath.Join(path, "tc"), filepath.Join(root, "xdp")))
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	must(t, err)
	defer m.Close()
	pin := filepath.Join(root, "tc", "globals", "map")
	must(t, m.Pin(pin))
	must(t, Unmount(path))
	expectMounted(t, path, true)
	must(t, os.Remove(pin))
	must(t, Unmount(path))
	expectMounted(t, path, false)
}

func TestMountAndUnmountAgainChangeNothing(t *testing.T) {
	path := mountPoint(t)
	for range 2 {
		_, err := Mount(path)
		must(t, err)
		expectMounted(t, path, true)
	}
	for range 2 {
		must(t, Unmount(path))
		expectMounted(t, path, false)
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("the mount point stays: %v", err)
		}
	}
}

// The first process's mounts are found by any process that may be traced.
func TestMountNamespacesAreToldApart(t *testing.T) {
	first, err := mountIDs("1")
	must(t, err)
	fd, err := openMountNamespace(first)
	must(t, err)
	defer unix.Close(fd)
	must(t, onThreadIn(fd, func() error {
		entered, err := mountIDs("thread-self")
		if err == nil && !meet(entered, first) {
			err = errors.New("entered another namespace")
		}
		return err
	}))
	must(t, onNewThread(func() error {
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			return err
		}
		own, err := mountIDs("thread-self")
		if err == nil && meet(own, first) {
			err = errors.New("a new namespace looks like the first")
		}
		return err
	}))
}

func mountPoint(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "torbpf-test-")
	must(t, err)
	t.Cleanup(func() {
		must(t, Unmount(filepath.Join(dir, "bpf")))
		must(t, os.Remove(dir))
	})
	return filepath.Join(dir, "bpf")
}

func expectMounted(t *testing.T, path string, want bool) {
	t.Helper()
	must(t, inFirstNamespace(func(bool) error {
		mounted, err := isBPF(path)
		if err == nil && mounted != want {
			err = fmt.Errorf("bpffs is mounted: %t, want %t", mounted, want)
		}
		return err
	}))
}

// TestFindMountsNothing: it leads to a bpffs that is there, and else says that there is none.
func TestFindMountsNothing(t *testing.T) {
	path := mountPoint(t)
	if way, err := Find(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("found %q where there is none: %v", way, err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("a mount point was made: %v", err)
	}
	_, err := Mount(path)
	must(t, err)
	way, err := Find(path)
	must(t, err)
	if seen, err := isBPF(way); err != nil || !seen {
		t.Errorf("%s leads to no bpffs: %v", way, err)
	}
	must(t, Unmount(path))
}

// TestProgramsAreTriedWithoutATrace: nothing is attached or pinned.
func TestProgramsAreTriedWithoutATrace(t *testing.T) {
	l := newLab(t)
	must(t, CanLoad(l.plan()))
	if d := l.open(t, false); d.Present() {
		t.Error("trying has left something")
	}
}
