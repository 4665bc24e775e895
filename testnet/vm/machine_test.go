package vm

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestAMachineDoesItsJobs boots the oldest kernel that torbpf runs on.
func TestAMachineDoesItsJobs(t *testing.T) {
	cache, err := OpenCache("")
	if err != nil {
		t.Fatal(err)
	}
	cache.Progress = t.Logf
	kernel, err := cache.Kernel(t.Context(), "5.10", runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	m := &Machine{Kernel: kernel, CPUs: 1, MemoryMB: 1024, Programs: []string{"sh", "sleep", "ls", "ip"}}
	m.Hide = []string{"/sys/kernel/btf"}
	for _, script := range []string{
		"echo out; echo err >&2; exit 3",
		"ls /sys/kernel/btf; mkdir -p 2>/dev/null; echo kept >/out/file",
		"ip link add lan0 type dummy && ip link add link lan0 name lan0.7 type vlan id 7 && ip -o link show lan0.7 | (read -r _ name _; echo $name)",
		"sleep 100 & kill -9 $$",
		"sleep 100",
	} {
		m.Jobs = append(m.Jobs, Job{Args: []string{"/bin/sh", "-c", script}, Timeout: 20 * time.Second})
	}
	m.Jobs[4].Timeout = time.Second
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	output, ends := make([]string, len(m.Jobs)), []string(nil)
	var left bytes.Buffer
	err = m.Run(ctx, func(e Event) {
		output[e.Job] += string(e.Output)
		left.Write(e.Files)
		if e.Booted != "" && e.Booted != kernel.Release {
			t.Errorf("%s has booted, not %s", e.Booted, kernel.Release)
		}
		if e.Ended {
			ends = append(ends, fmt.Sprintf("%d: %d, late %v", e.Job, e.Code, e.Late))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"out\nerr\n", "", "lan0.7@lan0:\n", "", ""}, output); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"0: 3, late false", "1: 0, late false", "2: 0, late false", "3: 137, late false", "4: 137, late true"}, ends); diff != "" {
		t.Error(diff)
	}
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := Unpack(tar.NewReader(&left), root); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "file")); string(text) != "kept\n" {
		t.Errorf("left %q: %v", text, err)
	}
}

func TestAMachineThatDiesShowsItsConsole(t *testing.T) {
	cache, err := OpenCache("")
	if err != nil {
		t.Fatal(err)
	}
	cache.Progress = t.Logf
	kernel, err := cache.Kernel(t.Context(), "5.10", runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	m := &Machine{Kernel: kernel, CPUs: 1, MemoryMB: 1024, Append: "rdinit=/nothing"}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err = m.Run(ctx, func(Event) {})
	if err == nil || !strings.Contains(err.Error(), "Kernel panic") {
		t.Errorf("got %v", err)
	}
}
