package leaktest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
)

func storageFaults() []Fault {
	return []Fault{
		{Name: "state directory full", Once: true, Prepare: smallState, Inflict: fillState},
		{Name: "state directory full + nft flush ruleset", Once: true, Prepare: smallState, Inflict: steps(fillState, flushRuleset)},
		{Name: "state file gone", Inflict: func(b *Bench) error { return b.loseState(func(string) error { return nil }) }},
		{Name: "state file cut off", Inflict: func(b *Bench) error {
			return b.loseState(func(path string) error { return os.WriteFile(path, []byte(`{"format": 1, "config": {`), 0o600) })
		}},
		{Name: "BPF maps full", Inflict: fillMaps},
		{Name: "map of LANs emptied", Inflict: emptyLANs},
		{Name: "attach short of memory, from little to enough", Inflict: shortOfMemory},
		{Name: "attach in a memory cgroup, from little to enough", Inflict: smallCgroup, Lacks: func(*Bench) string {
			if memoryCgroups() == "" {
				return "no cgroup with a memory controller is mounted"
			}
			return ""
		}},
	}
}

// stateSize holds what tor and torbpf need, and little more.
const stateSize = 8 << 20

// smallState puts the state on a file system that can be filled.
func smallState(b *Bench) error {
	dir := b.state()
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=711", stateSize)); err != nil {
		return fmt.Errorf("mount small state: %w", err)
	}
	// What is mounted torbpf cannot remove.
	b.busy = true
	b.later(func() error {
		b.busy = false
		err := unix.Unmount(dir, unix.MNT_DETACH)
		return errors.Join(err, os.RemoveAll(dir), b.detach())
	})
	return nil
}

// fillState leaves not one byte, and has attach meet that.
func fillState(b *Bench) error {
	file, err := os.Create(b.state("filler"))
	if err != nil {
		return err
	}
	b.undo(func() error { return os.Remove(file.Name()) })
	defer file.Close()
	for piece := make([]byte, 64<<10); len(piece) > 0; {
		if _, err = file.Write(piece); err != nil {
			piece = piece[:len(piece)/2]
		}
	}
	if !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("fill the state directory: %w", err)
	}
	return b.mustFail("attach", "--no-wait", "--exclude", "198.51.100.7")
}

// mustFail runs torbpf where it cannot do what it is told.
func (b *Bench) mustFail(args ...string) error {
	if err := b.torbpf(args...); err == nil {
		return fmt.Errorf("torbpf %v went well, so the fault was none", args)
	}
	return nil
}

// loseState takes the state file away, and puts it back before the repair.
func (b *Bench) loseState(instead func(path string) error) error {
	path := b.state("state.json")
	kept, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	b.undo(func() error { return os.WriteFile(path, kept, 0o600) })
	return errors.Join(os.Remove(path), instead(path))
}

// fillMaps fills what the programs and commands write to at run time.
func fillMaps(b *Bench) error {
	lan := abi.DatapathLan{}
	for name, put := range map[string]func(*ebpf.Map, uint32) error{
		abi.DatapathMapLans: func(m *ebpf.Map, i uint32) error { return m.Put(1<<20+i, lan) },
		abi.DatapathMapCounters: func(m *ebpf.Map, i uint32) error {
			key := abi.DatapathCounterKey{Ifindex: 1<<20 + i, Verdict: abi.VerdictRefused}
			return m.Put(key, make([]abi.DatapathCounter, ebpf.MustPossibleCPU()))
		},
	} {
		m, err := ebpf.LoadPinnedMap(b.pins("maps", name), nil)
		if err != nil {
			return err
		}
		defer m.Close()
		for i := uint32(0); err == nil; i++ {
			err = put(m, i)
		}
		if !errors.Is(err, unix.E2BIG) {
			return fmt.Errorf("fill map %s: %w", name, err)
		}
	}
	// One LAN more than fits must not open those that are there.
	if err := b.mustFail("attach", lan2, "--no-wait"); err != nil {
		return err
	}
	b.undo(func() error {
		m, err := ebpf.LoadPinnedMap(b.pins("maps", abi.DatapathMapLans), nil)
		if err != nil {
			return err
		}
		defer m.Close()
		for i := range m.MaxEntries() {
			if err := m.Delete(1<<20 + i); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return err
			}
		}
		return nil
	})
	return nil
}

// emptyLANs makes the guards forget which interfaces are LANs.
func emptyLANs(b *Bench) error {
	m, err := ebpf.LoadPinnedMap(b.pins("maps", abi.DatapathMapLans), nil)
	if err != nil {
		return err
	}
	defer m.Close()
	index, err := b.index(lan)
	if err != nil {
		return err
	}
	return m.Delete(uint32(index))
}

// shortOfMemory runs attach with an address space from one that does not hold the
// program to one that does: it dies at one step after the other.
func shortOfMemory(b *Bench) error {
	const megabyte = 1 << 20
	died := 0
	for size := 40 * megabyte; size <= 4<<30; size += size / 2 {
		_, err := b.Lab.Router.Run(b.ctx, "prlimit", "--as="+strconv.Itoa(size), b.Program, "attach", "--no-wait", "--exclude", "198.51.100.8")
		if err == nil {
			break
		}
		died++
	}
	if died == 0 {
		return errors.New("attach was never short of memory, so the fault was none")
	}
	return nil
}

// memoryCgroups is where cgroups with a memory controller can be made.
func memoryCgroups() string {
	for _, root := range []string{"/sys/fs/cgroup/memory", "/sys/fs/cgroup"} {
		for _, limit := range []string{"memory.limit_in_bytes", "cgroup.subtree_control"} {
			data, err := os.ReadFile(filepath.Join(root, limit))
			if err == nil && (limit == "memory.limit_in_bytes" || containsWord(string(data), "memory")) {
				return root
			}
		}
	}
	return ""
}

// smallCgroup runs attach where the kernel refuses memory, for maps and programs
// as well as for the process.
func smallCgroup(b *Bench) error {
	dir, err := os.MkdirTemp(memoryCgroups(), "leaktest-")
	if err != nil {
		return fmt.Errorf("make cgroup: %w", err)
	}
	b.later(func() error { return removeCgroup(b, dir) })
	limit := filepath.Join(dir, "memory.max")
	if _, err := os.Stat(limit); err != nil {
		limit = filepath.Join(dir, "memory.limit_in_bytes")
	}
	const megabyte = 1 << 20
	died := 0
	for size := 1 * megabyte; size <= 64*megabyte; size += size / 2 {
		if err := os.WriteFile(limit, []byte(strconv.Itoa(size)), 0o644); err != nil {
			return fmt.Errorf("limit memory: %w", err)
		}
		script := fmt.Sprintf("echo $$ >%s/cgroup.procs && exec %s attach --no-wait --exclude 198.51.100.9", dir, b.Program)
		if _, err := b.Lab.Router.Run(b.ctx, "sh", "-c", script); err != nil {
			died++
		}
	}
	if died == 0 {
		return errors.New("attach was never short of memory, so the fault was none")
	}
	return nil
}
