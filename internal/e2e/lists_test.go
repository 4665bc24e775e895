package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/torbpf/torbpf/testnet"
)

// writeList writes a list by rename, as it should be done, and returns its path.
func writeList(t testing.TB, lab *testnet.Lab, name string, lines ...string) string {
	t.Helper()
	path := filepath.Join(lab.Dir(), name)
	text := strings.Join(lines, "\n") + "\n"
	if err := errors.Join(os.WriteFile(path+".new", []byte(text), 0o644), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
	return path
}

// listMap is the number in the kernel of the map of a list's IPv4 prefixes.
func listMap(t testing.TB, lab *testnet.Lab) ebpf.MapID {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(pinDir(t, lab), "maps", "list4_prefixes"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	info, err := m.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	return id
}

// echoes is nil when UDP to all these servers is answered, or with want false refused.
func echoes(n *testnet.Node, want bool, servers ...netip.Addr) error {
	for _, s := range servers {
		switch err := testnet.Echo(n, "udp", at(s, testnet.PortEcho), 2*time.Second); {
		case err == nil && !want:
			return fmt.Errorf("UDP to %v is answered", s)
		case err != nil && want:
			return fmt.Errorf("UDP to %v: %w", s, err)
		}
	}
	return nil
}

func checkEchoes(t testing.TB, n *testnet.Node, want bool, servers ...netip.Addr) {
	t.Helper()
	if err := echoes(n, want, servers...); err != nil {
		t.Error(err)
	}
}

// TestLists: by commands alone.
func TestLists(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	serveFlows(t, lab, testnet.Other4, testnet.Other6)
	attach(t, lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab))
	t.Run("add and del", func(t *testing.T) { checkListAndRules(t, lab) })
	t.Run("connections end", func(t *testing.T) { checkListCuts(t, lab) })
	t.Run("refused", func(t *testing.T) { checkListsRefused(t, lab) })
	t.Run("two of them", func(t *testing.T) { checkTwoLists(t, lab) })
	t.Run("for a while", func(t *testing.T) { checkListEnds(t, lab) })
	mustTorbpf(t, lab, "exclude", "add", "--list", writeList(t, lab, "last.txt", other4))
	dir := filepath.Join(stateDir(t, lab), "data", "lists")
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
		t.Errorf("copies of lists: %v, %v", files, err)
	}
	mustTorbpf(t, lab, "detach", "--all")
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("copies of lists are left: %v", err)
	}
}

func checkListAndRules(t *testing.T, lab *testnet.Lab) {
	n := lab.Client1
	path := writeList(t, lab, "a.txt", "# a list", other4, other6, "203.0.113.7 ; a host")
	checkEchoes(t, n, false, testnet.Other4, testnet.Other6)
	if r := mustTorbpf(t, lab, "exclude", "add", "--list", path, "--comment", "a country"); r.stdout != "added list "+path+"\n" {
		t.Errorf("add: %v", r)
	}
	checkEchoes(t, n, true, testnet.Other4, testnet.Other6)
	checkEchoes(t, n, false, testnet.Web4, testnet.Web6)
	list := mustTorbpf(t, lab, "exclude", "list").stdout
	if !strings.HasPrefix(list, "list  "+path+"  direct  3 entries, read ") || !strings.HasSuffix(list, "a country\n") {
		t.Errorf("list: %s", list)
	}
	status := runTorbpf(t, lab, "status")
	if !strings.Contains(status.stdout, "3 entries, read ") || !strings.Contains(status.stdout, "direct-list") {
		t.Errorf("status: %v", status)
	}
	why := mustTorbpf(t, lab, "explain", "--from", n.IPv4.String(), "--to", testnet.Other4.String(), "--proto", "udp", "--dport", "7")
	if !strings.Contains(why.stdout, "is in the list "+path+", line 2: "+other4+"\n") || !strings.Contains(why.stdout, "--policy tor") {
		t.Errorf("explain: %v", why)
	}
	// A rule within it, and other changes, leave its maps alone.
	before := listMap(t, lab)
	mustTorbpf(t, lab, "exclude", "add", testnet.Other4.String(), "--policy", "tor")
	checkEchoes(t, n, false, testnet.Other4)
	checkEchoes(t, n, true, testnet.Other6)
	mustTorbpf(t, lab, "exclude", "del", testnet.Other4.String())
	checkEchoes(t, n, true, testnet.Other4)
	mustTorbpf(t, lab, "attach", lan, "--no-wait")
	if after := listMap(t, lab); after != before {
		t.Errorf("the map of the list was %d and is %d", before, after)
	}
	// Again: what has changed is read.
	writeList(t, lab, "a.txt", other6)
	if r := runTorbpf(t, lab, "status"); !strings.Contains(r.stdout, "! list "+path+" has changed since it was read") {
		t.Errorf("status: %v", r)
	}
	mustTorbpf(t, lab, "attach", lan, "--no-wait")
	checkEchoes(t, n, false, testnet.Other4)
	checkEchoes(t, n, true, testnet.Other6)
	mustTorbpf(t, lab, "exclude", "del", "--list", path)
	checkEchoes(t, n, false, testnet.Other4, testnet.Other6)
	if r := mustTorbpf(t, lab, "exclude", "list"); r.stdout != "nothing is excluded\n" {
		t.Errorf("list: %v", r)
	}
}

// checkListCuts: what a list let out ends with it, and with an entry of it.
func checkListCuts(t *testing.T, lab *testnet.Lab) {
	n := lab.Client1
	path := writeList(t, lab, "b.txt", other4, other6)
	mustTorbpf(t, lab, "exclude", "add", "--list", path)
	farEnds := func() int { // far ends that nftables knows, those of before among them
		return strings.Count(run(t, lab.Router, "nft", "list", "table", "inet", "torbpf"), testnet.Other4.String())
	}
	before := farEnds()
	flow4, flow6 := openFlow(t, n, "tcp", at(testnet.Other4, portFlows)), openFlow(t, n, "tcp", at(testnet.Other6, portFlows))
	mustTorbpf(t, lab, "exclude", "add", "--port", "9/tcp")
	mustTorbpf(t, lab, "exclude", "del", "--port", "9/tcp")
	for _, f := range []*flow{flow4, flow6} {
		if err := f.echo(); err != nil {
			t.Errorf("a connection ended with another change: %s: %v", f.name, err)
		}
	}
	if now := farEnds(); now != before {
		t.Errorf("connections to what the list has were cut: %d, and before %d", now, before)
	}
	writeList(t, lab, "b.txt", other6)
	mustTorbpf(t, lab, "exclude", "add", "--list", path)
	capture := captureWAN(t, lab)
	if err := flow4.ends(); err != nil {
		t.Error(err)
	}
	checkNoLeaks(t, capture)
	if err := flow6.echo(); err != nil {
		t.Errorf("a connection to what the list still has ended: %v", err)
	}
	mustTorbpf(t, lab, "exclude", "del", "--list", path)
	if err := flow6.ends(); err != nil {
		t.Error(err)
	}
}

func checkListsRefused(t *testing.T, lab *testnet.Lab) {
	n := lab.Client1
	good := writeList(t, lab, "good.txt", other4)
	mustTorbpf(t, lab, "exclude", "add", "--list", good)
	broken := writeList(t, lab, "broken.txt", other6, "", "51.20.0.1/16")
	half := writeList(t, lab, "half.txt", "0.0.0.0/1")
	gone := filepath.Join(lab.Dir(), "gone.txt")
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"add", "--list", broken}, 2, broken + ": line 3: "},
		{[]string{"add", "--list", gone}, 1, "no such file"},
		{[]string{"add", "--list", "lists/a.txt"}, 2, "write the whole path"},
		{[]string{"add", "--list", half, "--policy", "tor"}, 2, "for a list there is direct"},
		{[]string{"add", "--list", half, writeList(t, lab, "half2.txt", "128.0.0.0/1")}, 2, "cover all of IPv4"},
		{[]string{"del", "--list", half}, 1, "not in the list"},
	} {
		r := runTorbpf(t, lab, append([]string{"exclude"}, c.args...)...)
		if r.code != c.code || !strings.Contains(r.stderr, c.says) {
			t.Errorf("exclude %v: %v; want code %d and %q", c.args, r, c.code, c.says)
		}
	}
	mustTorbpf(t, lab, "exclude", "add", "--list", half)
	if r := runTorbpf(t, lab, "exclude", "add", "128.0.0.0/1"); r.code != 2 || !strings.Contains(r.stderr, "cover all of 0.0.0.0/0 together") {
		t.Errorf("a list and a rule let everything out: %v", r)
	}
	mustTorbpf(t, lab, "exclude", "del", "--list", half)
	checkEchoes(t, n, true, testnet.Other4)
	checkEchoes(t, n, false, testnet.Other6, testnet.Web4)

	// The old one stays when its file breaks or goes.
	writeList(t, lab, "good.txt", other6, other4, "nonsense")
	if r := runTorbpf(t, lab, "attach", lan, "--no-wait"); r.code != 2 || !strings.Contains(r.stderr, good+": line 3: ") {
		t.Errorf("attach with a broken list: %v", r)
	}
	if r := runTorbpf(t, lab, "status"); !strings.Contains(r.stdout, "! "+good+": line 3: ") || !strings.Contains(r.stdout, "stays in force") {
		t.Errorf("status: %v", r)
	}
	mustTorbpf(t, lab, "exclude", "add", "203.0.113.0/24")
	if err := os.Remove(good); err != nil {
		t.Fatal(err)
	}
	if r := mustTorbpf(t, lab, "attach", lan, "--no-wait"); !strings.Contains(r.stderr, "stays in force") {
		t.Errorf("attach without the list: %v", r)
	}
	checkEchoes(t, n, true, testnet.Other4)
	checkEchoes(t, n, false, testnet.Other6)
	mustTorbpf(t, lab, "exclude", "del", "203.0.113.0/24")
	mustTorbpf(t, lab, "exclude", "del", "--list", good)
	checkEchoes(t, n, false, testnet.Other4)
}

// checkTwoLists: each comes and goes alone, though their files are broken by then.
func checkTwoLists(t *testing.T, lab *testnet.Lab) {
	n := lab.Client1
	one, two := writeList(t, lab, "one.txt", other4), writeList(t, lab, "two.txt", other6, other4)
	mustTorbpf(t, lab, "exclude", "add", "--list", one)
	writeList(t, lab, "one.txt", "nonsense")
	if r := mustTorbpf(t, lab, "exclude", "add", "--list", two); !strings.Contains(r.stderr, one+": line 1: ") {
		t.Errorf("add: %v", r)
	}
	checkEchoes(t, n, true, testnet.Other4, testnet.Other6)
	mustTorbpf(t, lab, "exclude", "del", "--list", two)
	checkEchoes(t, n, true, testnet.Other4)
	checkEchoes(t, n, false, testnet.Other6)
	mustTorbpf(t, lab, "exclude", "del", "--list", one)
	checkEchoes(t, n, false, testnet.Other4)
}

// checkListEnds: a list with a life ends by the kernel's clock, and another stays.
func checkListEnds(t *testing.T, lab *testnet.Lab) {
	n := lab.Client1
	const life = 4 * time.Second
	stays, ends := writeList(t, lab, "stays.txt", other6), writeList(t, lab, "ends.txt", other4)
	mustTorbpf(t, lab, "exclude", "add", "--list", stays)
	mustTorbpf(t, lab, "exclude", "add", "--list", ends, "--for", life.String())
	checkEchoes(t, n, true, testnet.Other4, testnet.Other6)
	eventually(t, 3*life, "the list to end", func() error { return echoes(n, false, testnet.Other4) })
	checkEchoes(t, n, true, testnet.Other6)
	before := listMap(t, lab)
	eventually(t, patience, "the rule to end", func() error { // the programs go by whole seconds
		if r := mustTorbpf(t, lab, "exclude", "list"); strings.Contains(r.stdout, ends) || !strings.Contains(r.stdout, stays) {
			return fmt.Errorf("list: %v", r)
		}
		return nil
	})
	mustTorbpf(t, lab, "attach", lan, "--no-wait")
	if after := listMap(t, lab); after != before {
		t.Errorf("to forget what has ended the map was filled anew: %d, %d", before, after)
	}
	checkEchoes(t, n, true, testnet.Other6)
	mustTorbpf(t, lab, "exclude", "del", "--list", stays)
	checkEchoes(t, n, false, testnet.Other4, testnet.Other6)
}

// TestRunFollowsLists: `torbpf run` takes up what changes on disk, and nothing broken.
func TestRunFollowsLists(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	w := watchLeaks(t, lab)
	n := lab.Client1
	path := filepath.Join(lab.Dir(), "list.txt")
	detachLater(t, lab)
	d := startRun(t, lab, writeConfig(t, lab, `interfaces = ["eth1"]`, `[exclusions]`, fmt.Sprintf("lists = [%q]", path)))
	d.await(t, "what is in "+path+" is Tor's")
	if r := runTorbpf(t, lab, "status"); !strings.Contains(r.stdout, "! look at list: stat "+path) || !strings.Contains(r.stdout, "not in force: what is in it is Tor's") {
		t.Errorf("status: %v", r)
	}
	noLeaks(t, w, "without the list")

	begin := time.Now()
	writeList(t, lab, "list.txt", other4)
	eventually(t, patience, "the list", func() error { return echoes(n, true, testnet.Other4) })
	t.Logf("in force after %v", time.Since(begin).Round(time.Millisecond))
	eventually(t, patience, "a sound state", func() error { return sound(t, lab, lan) })

	// Two changes at once, of which the second counts.
	writeList(t, lab, "list.txt", other4, other6)
	writeList(t, lab, "list.txt", other6)
	eventually(t, patience, "the next list", func() error {
		return errors.Join(echoes(n, false, testnet.Other4), echoes(n, true, testnet.Other6))
	})
	// Broken: the old one stays, and that is said once.
	writeList(t, lab, "list.txt", other4, other6, "10.0.0.1/8")
	d.await(t, path+": line 3: ")
	if r := runTorbpf(t, lab, "check"); r.code != 1 || !strings.Contains(r.stdout, path+": line 3: ") {
		t.Errorf("check: %v", r)
	}
	mustTorbpf(t, lab, "exclude", "add", "203.0.113.0/24")
	checkEchoes(t, n, false, testnet.Other4)
	checkEchoes(t, n, true, testnet.Other6)
	// Mended in place, and truncated.
	if err := os.WriteFile(path, []byte(other4+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	eventually(t, patience, "the mended list", func() error {
		return errors.Join(echoes(n, true, testnet.Other4), echoes(n, false, testnet.Other6))
	})
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	d.await(t, path+": holds no prefix at all")
	// Gone.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	d.await(t, "no such file or directory; what was read on")
	mustTorbpf(t, lab, "exclude", "del", "203.0.113.0/24")
	checkEchoes(t, n, true, testnet.Other4)
	if said := strings.Count(d.log.String(), ": line 3: "); said != 1 {
		t.Errorf("the broken line was told of %d times", said)
	}
	writeList(t, lab, "list.txt", other6)
	eventually(t, patience, "the list that has come back", func() error { return sound(t, lab, lan) })
	checkEchoes(t, n, false, testnet.Other4)
}
