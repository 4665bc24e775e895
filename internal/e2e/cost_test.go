package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/torbpf/torbpf/testnet"
)

// TestCost: attach is quick, what stays is small, and no process of torbpf's is
// on the way of a packet.
func TestCost(t *testing.T) {
	lab := torLab(t)
	var took struct{ Seconds float64 }
	r := attach(t, lab, lan, "--json")
	if err := json.Unmarshal([]byte(r.stdout), &took); err != nil {
		t.Fatalf("%v: %v", err, r)
	}
	t.Logf("attach took %.3f s beside Tor's bootstrap", took.Seconds)
	if took.Seconds <= 0 || took.Seconds > fairly(t, time.Second).Seconds() {
		t.Errorf("attach took %.3f s", took.Seconds)
	}
	// Use it, so that the sentry holds what it will hold.
	checks := fetches(lab, lab.Client1)
	inParallel(t, append(checks, lookups(lab.Client1)...))
	sentries := pidsNamed(t, lab, "torbpf-sentry")
	if len(sentries) != 1 {
		t.Fatalf("torbpf's processes: %v", sentries)
	}
	rss := resident(t, sentries[0])
	t.Logf("resident memory of torbpf: %d KiB", rss)
	if rss > 40<<10 {
		t.Errorf("torbpf's resident memory is %d KiB, above 40 MiB", rss)
	}
	checkSockets(t, lab, sentries[0])
}

// resident is a process's resident memory in KiB.
func resident(t testing.TB, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	match := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(text)
	if match == nil {
		t.Fatalf("no VmRSS in %s", text)
	}
	rss, err := strconv.Atoi(string(match[1]))
	if err != nil {
		t.Fatal(err)
	}
	return rss
}

// checkSockets: where the redirects lead there is tor, and the sentry listens for
// nothing but DNS by TCP. Neither has packet sockets, a tun or an XDP socket.
func checkSockets(t testing.TB, lab *testnet.Lab, sentry int) {
	t.Helper()
	torProcess := torPID(t, lab)
	want := map[string]int{
		"tcp 9040": torProcess, "tcp6 9040": torProcess, "udp 9053": torProcess, "udp6 9053": torProcess,
		"tcp6 9054": sentry, "udp6 9054": sentry,
	}
	eventually(t, patience, "quiet sentry", func() error { return quiet(sentry) })
	owners := map[string]int{}
	for _, pid := range []int{torProcess, sentry} {
		for _, s := range sockets(t, pid) {
			if pid == sentry || slices.Contains([]int{9040, 9053}, s.port) {
				owners[fmt.Sprintf("%s %d", s.table, s.port)] = pid
			}
		}
	}
	for name, pid := range want {
		if owners[name] != pid {
			t.Errorf("%s belongs to process %d, want %d", name, owners[name], pid)
		}
		delete(owners, name)
	}
	if len(owners) > 0 {
		t.Errorf("further sockets: %v", owners)
	}
	for _, table := range []string{"packet", "raw", "raw6"} {
		if found := sockets(t, sentry, table); len(found) > 0 {
			t.Errorf("the sentry has %s sockets", table)
		}
	}
	for _, target := range descriptors(t, sentry) {
		if strings.HasPrefix(target, "/dev/") && target != "/dev/null" {
			t.Errorf("the sentry has %s open", target)
		}
	}
}

// quiet wants no connection of a process under way.
func quiet(pid int) error {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp6", pid))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 3 && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", 9054)) && f[3] == "01" {
			return fmt.Errorf("a connection is open: %s", line)
		}
	}
	return nil
}

// socket is one that waits for packets.
type socket struct {
	table string
	port  int
}

// sockets lists a process's listening and datagram sockets, or all of some tables.
func sockets(t testing.TB, pid int, tables ...string) []socket {
	t.Helper()
	own := map[string]bool{}
	for _, target := range descriptors(t, pid) {
		if inode, ok := strings.CutPrefix(target, "socket:["); ok {
			own[strings.TrimSuffix(inode, "]")] = true
		}
	}
	if len(tables) == 0 {
		tables = []string{"tcp", "tcp6", "udp", "udp6"}
	}
	const listening = "0A"
	var out []socket
	for _, table := range tables {
		file, err := os.Open(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		lines := bufio.NewScanner(file)
		lines.Scan() // the heading
		for lines.Scan() {
			f := strings.Fields(lines.Text())
			if table == "packet" {
				if own[f[8]] {
					out = append(out, socket{table: table})
				}
				continue
			}
			_, port, _ := strings.Cut(f[1], ":")
			n, err := strconv.ParseInt(port, 16, 32)
			if err != nil {
				t.Fatalf("%s: %v", table, err)
			}
			if own[f[9]] && (!strings.HasPrefix(table, "tcp") || f[3] == listening) {
				out = append(out, socket{table, int(n)})
			}
		}
	}
	return out
}

// descriptors are what a process has open.
func descriptors(t testing.TB, pid int) []string {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		if target, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			out = append(out, target)
		}
	}
	return out
}

// TestAttachTakesNoLongerWithManyExclusions keeps the price of policy in sight.
func TestAttachTakesNoLongerWithManyExclusions(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	args := []string{"exclude", "add"}
	for i := range 1000 {
		args = append(args, fmt.Sprintf("103.%d.%d.0/24", i/250, i%250))
	}
	attach(t, lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab))
	one := measure(t, lab, "exclude", "add", "104.16.0.0/13").took
	many := measure(t, lab, args...).took
	t.Logf("one exclusion took %v, 1000 took %v", one.Round(time.Millisecond), many.Round(time.Millisecond))
	if many > 6*one {
		t.Errorf("1000 exclusions took %v", many)
	}
	checkUnanswered(t, lab.Client1, testnet.Web4)
}
