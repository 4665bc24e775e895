package e2e

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/torbpf/torbpf/internal/lists"
	"github.com/torbpf/torbpf/testnet"
)

// TestAListOfAMillion keeps the price of the longest list in sight.
func TestAListOfAMillion(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	attach(t, lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab))
	path := writeMillion(t, lab)
	alone := measure(t, lab, "exclude", "add", "203.0.113.1")
	alone.log(t, "exclude add without lists")
	add := measure(t, lab, "exclude", "add", "--list", path)
	add.log(t, "exclude add --list")
	first := listMemory(t, lab)
	checkEchoes(t, lab.Client1, true, testnet.Other4)
	checkBrokenLine(t, lab, path)
	later := measure(t, lab, "exclude", "add", "203.0.113.0/24")
	later.log(t, "exclude add of something else")
	if add.took > time.Minute || later.took > 4*alone.took || add.rss > 400<<10 || later.rss > 100<<10 {
		t.Error("that is too much")
	}
	measure(t, lab, "exclude", "del", "203.0.113.0/24").log(t, "exclude del of it")
	measure(t, lab, "status").log(t, "status")

	d := startRun(t, lab, filepath.Join(lab.Dir(), "none.toml"))
	eventually(t, patience, "the daemon to look", func() error { return sound(t, lab, lan) })
	own := resident(t, d.cmd.Process.Pid)
	begin := time.Now()
	writeMillion(t, lab)
	t.Logf("another list is written after %v", time.Since(begin).Round(time.Millisecond))
	d.await(t, "lists are in force")
	t.Logf("the daemon's log: %s", d.log)
	t.Logf("resident memory of torbpf run: %d MiB before, %d MiB after", own>>10, resident(t, d.cmd.Process.Pid)>>10)
	second := listMemory(t, lab)
	t.Logf("the kernel's memory: %.1f MiB for the list, %.1f MiB while both are there", mib(first), mib(first+second))
	if first < 1<<20 || second < 1<<20 || first+second > 64<<20 {
		t.Error("that is too much, or too little to be true")
	}
	checkEchoes(t, lab.Client1, true, testnet.Other4)
	measure(t, lab, "exclude", "del", "--list", path).log(t, "exclude del --list")
}

// checkBrokenLine: a list of which line 700,001 is none is refused whole, with that line,
// and what was read before stays, also when it is the file of a list in force that breaks.
func checkBrokenLine(t *testing.T, lab *testnet.Lab, path string) {
	t.Helper()
	const line = 700_001
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rest := good
	for range line - 1 {
		rest = rest[bytes.IndexByte(rest, '\n')+1:]
	}
	broken := slices.Concat(good[:len(good)-len(rest)], []byte("no prefix\n"), rest)
	where := fmt.Sprintf("%s: line %d: ", path, line)
	for _, text := range [][]byte{broken, good} {
		if err := errors.Join(os.WriteFile(path+".new", text, 0o644), os.Rename(path+".new", path)); err != nil {
			t.Fatal(err)
		}
		r := runTorbpf(t, lab, attachArgs(lab, lan, "--no-wait")...)
		if bad := &text[0] == &broken[0]; bad != (r.code == 2) || bad != strings.Contains(r.stderr, where) {
			t.Errorf("attach, with the broken line %v: %v", bad, r)
		}
		checkEchoes(t, lab.Client1, true, testnet.Other4)
	}
}

// writeMillion writes a list of a million random prefixes and the other web server. It
// keeps none of them: what a command that is started takes counts from this process's.
func writeMillion(t *testing.T, lab *testnet.Lab) string {
	t.Helper()
	path := filepath.Join(lab.Dir(), "million.txt")
	f, err := os.Create(path + ".new")
	if err != nil {
		t.Fatal(err)
	}
	out := bufio.NewWriter(f)
	fmt.Fprintln(out, other4)
	for range lists.MaxEntries/2 - 1 {
		var a4 [4]byte
		var a6 [16]byte
		binary.BigEndian.PutUint32(a4[:], rand.Uint32())
		binary.BigEndian.PutUint64(a6[:], rand.Uint64()>>3|1<<61)
		fmt.Fprintln(out, netip.PrefixFrom(netip.AddrFrom4(a4), 16+rand.IntN(9)).Masked())
		fmt.Fprintln(out, netip.PrefixFrom(netip.AddrFrom16(a6), 32+rand.IntN(17)).Masked())
	}
	if err := errors.Join(out.Flush(), f.Close(), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
	return path
}

// measured is what a command took.
type measured struct {
	took time.Duration
	rss  int64 // KiB at most
}

func (m measured) log(t testing.TB, what string) {
	t.Helper()
	t.Logf("%s: %v, %d MiB resident", what, m.took.Round(time.Millisecond), m.rss>>10)
}

func measure(t *testing.T, lab *testnet.Lab, args ...string) measured {
	t.Helper()
	cmd := lab.Router.Command(t.Context(), program, args...)
	// What a child held at most begins with what its parent ever did (getrusage(2)).
	debug.FreeOSMemory()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if r := runCommand(t, cmd); r.code != 0 {
		t.Fatalf("torbpf %v: %v", args, r)
	}
	return measured{time.Since(begin), cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss}
}

// listMemory is what the maps of the lists in force take of the kernel's memory, in bytes.
func listMemory(t *testing.T, lab *testnet.Lab) uint64 {
	t.Helper()
	sum := uint64(0)
	for _, name := range []string{"list4_prefixes", "list6_prefixes", "list4_nodes", "list6_nodes", "list4_ends", "list6_ends"} {
		m, err := ebpf.LoadPinnedMap(filepath.Join(pinDir(t, lab), "maps", name), nil)
		if err != nil {
			t.Fatal(err)
		}
		info, err := m.Info()
		if err != nil {
			t.Fatal(err)
		}
		bytes, _ := info.Memlock() // nothing of an empty trie
		sum += bytes
		m.Close()
	}
	return sum
}

func mib(bytes uint64) float64 { return float64(bytes) / (1 << 20) }
