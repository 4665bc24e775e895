package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet"
)

// onlyOneMay: while one torbpf changes something, others change nothing.
func onlyOneMay(t *testing.T, lab *testnet.Lab) {
	if err := os.MkdirAll(filepath.Dir(stateDir(t, lab)), 0o711); err != nil {
		t.Fatal(err)
	}
	lock, err := os.OpenFile(stateDir(t, lab)+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	defer os.Remove(lock.Name())
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(lock, os.Getpid())
	for _, args := range [][]string{
		{"attach", lan, "--no-wait"}, {"detach", "--all"}, {"detach", lan},
	} {
		b := badInput{args: args, code: 1, says: []string{
			"another torbpf is at work", fmt.Sprintf("(pid %d)", os.Getpid()), "wait for it to end and try again",
		}}
		before := takeSnapshot(t, lab)
		b.refused(t, runTorbpf(t, lab, args...))
		after := takeSnapshot(t, lab)
		// The empty directory beside the lock is its holder's to remove.
		before["files"], after["files"] = "", ""
		before.checkSame(t, after)
	}
	if err := os.RemoveAll(stateDir(t, lab)); err != nil {
		t.Fatal(err)
	}
}

// TestBadInputLeavesAttachedAlone: a bad command changes nothing of what is in
// force.
func TestBadInputLeavesAttachedAlone(t *testing.T) {
	lab := freshLab(t)
	attach(t, lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab), "--exclude", "104.16.0.0/13")
	bad := filepath.Join(lab.Dir(), "bad.torrc")
	if err := os.WriteFile(bad, []byte("UseBridgse 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, b := range []badInput{
		{name: "unknown interface", args: []string{"attach", "eth9", "--no-wait"}, code: 2, says: []string{"eth9"}},
		{name: "host bits", args: []string{"exclude", "add", "9.9.9.9", "104.17.0.1/13"}, code: 2, says: []string{"did you mean 104.16.0.0/13?"}},
		{name: "everything", args: []string{"exclude", "add", "0.0.0.0/0"}, code: 2, says: []string{"insist with --force"}},
		{name: "not excluded", args: []string{"exclude", "del", "104.16.0.0/13", "104.17.0.0/16"}, code: 1, says: []string{"nothing was changed", "104.17.0.0/16"}},
		{name: "not attached", args: []string{"detach", lan, "eth9"}, code: 3, says: []string{"eth9", "it is to eth1"}},
		{name: "port of DNS", args: []string{"attach", "--trans-port", "53", "--no-wait"}, code: 2, says: []string{"tor.trans_port"}},
		{name: "bad torrc", args: []string{"attach", "--torrc", bad, "--no-wait"}, code: 1, says: []string{bad + ":1:"}},
	} {
		t.Run(b.name, func(t *testing.T) {
			before := inForce(t, lab)
			b.refused(t, runTorbpf(t, lab, b.args...))
			compare(t, "what is in force", before, inForce(t, lab))
		})
	}
	r := mustTorbpf(t, lab, "exclude", "list")
	if r.stdout != "destination  104.16.0.0/13  direct\n" {
		t.Errorf("excluded: %s", r.stdout)
	}
}

// inForce is what status and the kernel say of a torbpf that is attached, without
// what changes by itself and without the numbers of programs and processes.
func inForce(t *testing.T, lab *testnet.Lab) string {
	t.Helper()
	var status struct {
		Interfaces, Uplinks, Rules any
		Sentry                     bool
		Problems                   []string
	}
	if err := json.Unmarshal([]byte(mustTorbpf(t, lab, "status", "--json").stdout), &status); err != nil {
		t.Fatal(err)
	}
	text, err := json.MarshalIndent(status, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	var state map[string]any
	readState(t, lab, &state)
	delete(state, "sentry")
	kept, err := json.MarshalIndent(state, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	torrc, err := os.ReadFile(filepath.Join(stateDir(t, lab), "tor", "torrc"))
	if err != nil {
		t.Fatal(err)
	}
	// In which order sets and rules of one priority are listed depends on which
	// came first; that the rules of our table are in order is status's to say.
	listed := strings.Split(run(t, lab.Router, "nft", "-s", "list", "ruleset")+
		run(t, lab.Router, "ip", "rule")+run(t, lab.Router, "ip", "-6", "rule"), "\n")
	slices.Sort(listed)
	return strings.Join(append(listed, string(text), string(kept), string(torrc), fmt.Sprint(len(ourProcesses(t, lab)))), "\n")
}

func readState(t *testing.T, lab *testnet.Lab, into any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(stateDir(t, lab), "state.json"))
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestUnreadableState: nothing is changed on the word of a state file that this
// version does not know, and `detach --all` goes on without it.
func TestUnreadableState(t *testing.T) {
	lab := freshLab(t)
	before := takeSnapshot(t, lab)
	path := filepath.Join(stateDir(t, lab), "state.json")
	for _, c := range []struct {
		name  string
		spoil func([]byte) []byte
		says  []string
	}{
		{"another version's", func(state []byte) []byte {
			return []byte(strings.Replace(string(state), `"format": 1`, `"format": 99`, 1))
		}, []string{path, "has format 99", "this one knows format 1", "`torbpf detach --all`"}},
		{"cut off", func(state []byte) []byte { return state[:len(state)/2] },
			[]string{path, "run `torbpf detach --all` to start afresh"}},
		{"empty", func([]byte) []byte { return nil },
			[]string{path, "run `torbpf detach --all` to start afresh"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			attach(t, lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab), "--resolver-port", "19054")
			state, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, c.spoil(state), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, args := range [][]string{
				{"attach", lan, "--no-wait"}, {"status"}, {"exclude", "list"}, {"exclude", "add", "104.16.0.0/13"}, {"detach", lan},
			} {
				badInput{args: args, code: 1, says: c.says}.check(t, lab)
			}
			mustTorbpf(t, lab, "detach", "--all")
			before.checkSame(t, takeSnapshot(t, lab))
		})
	}
}

// TestTorThatCannotBootstrap: attach gives up after its time and says so; the LAN
// stays refused until Tor comes or the user detaches.
func TestTorThatCannotBootstrap(t *testing.T) {
	lab := freshLab(t)
	before := takeSnapshot(t, lab)
	w := watchLeaks(t, lab)
	detachLater(t, lab)
	began := time.Now()
	args := []string{"attach", lan, "--timeout", "3s", "--torrc", loneTorrc(t, lab)}
	r := runTorbpf(t, lab, args...)
	badInput{args: args, code: 1, says: []string{
		"wait for tor to bootstrap", "at ", "%", "eth1 and what is behind it stay refused until Tor is ready",
		"`torbpf status`", "`torbpf detach --all`",
	}}.refused(t, r)
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	err := testnet.Echo(lab.Client1, "tcp", at(testnet.Web4, testnet.PortHTTP), patience)
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a client is not refused at once: %v", err)
	}
	status := mustTorbpf(t, lab, "status")
	for _, want := range []string{"Tor", "managed", "%"} {
		if !strings.Contains(status.stdout, want) {
			t.Errorf("status does not say %q: %s", want, status.stdout)
		}
	}
	for _, leak := range w.leaks(t) {
		t.Error(leak)
	}
	mustTorbpf(t, lab, "detach", "--all")
	before.checkSame(t, takeSnapshot(t, lab))
}

// TestOtherMarksAreRefusedWhileAttached: until all layers have the new bits, what one writes another
// would misread, such as the instance of one of several tors for class direct.
func TestOtherMarksAreRefusedWhileAttached(t *testing.T) {
	lab := freshLab(t)
	line := []string{lan, "--no-wait", "--torrc", loneTorrc(t, lab)}
	attach(t, lab, append(line, "--mark-shift", "20", "--tor-instances", "2")...)
	before := takeSnapshot(t, lab)
	b := badInput{args: append([]string{"attach"}, append(line, "--mark-shift", "24")...), code: 2,
		says: []string{"mark_shift: 20 is in use", "torbpf detach --all", "--mark-shift 20"}}
	b.refused(t, runTorbpf(t, lab, b.args...))
	before.checkSame(t, takeSnapshot(t, lab))
	mustTorbpf(t, lab, append([]string{"attach"}, line...)...)
}

// TestFirewallThatDropsTheRedirect: attach names the rules to add, and they do.
func TestFirewallThatDropsTheRedirect(t *testing.T) {
	for name, flags := range map[string][]string{"redirected": nil, "handed over": byTProxy} {
		t.Run(name, func(t *testing.T) { firewallDrops(t, flags) })
	}
}

func firewallDrops(t *testing.T, flags []string) {
	lab := freshLab(t)
	changed([]string{
		"nft add table inet fw",
		"nft add chain inet fw in { type filter hook input priority 0 ; policy drop ; }",
		"nft add rule inet fw in iif lo accept",
		"nft add rule inet fw in ct state established,related accept",
	}, []string{"nft delete table inet fw"})(t, lab)
	b := badInput{args: append([]string{"attach", lan, "--no-wait", "--torrc", loneTorrc(t, lab)}, flags...), code: 1,
		says: []string{"a firewall on this host drops what is diverted to Tor", "from eth1: tcp4, tcp6, udp4, udp6", "--skip-firewall-probe"}}
	before := takeSnapshot(t, lab)
	r := runTorbpf(t, lab, b.args...)
	b.refused(t, r)
	before.checkSame(t, takeSnapshot(t, lab))
	detachLater(t, lab)
	var rules []string
	for line := range strings.Lines(r.stderr) {
		if rule, ok := strings.CutPrefix(line, "  nft insert rule "); ok {
			rules = append(rules, "nft insert rule "+rule)
		}
	}
	if len(rules) != 2 {
		t.Fatalf("%d rules to add: %v", len(rules), r)
	}
	run(t, lab.Router, "sh", "-e", "-c", strings.Join(rules, ""))
	before = takeSnapshot(t, lab)
	mustTorbpf(t, lab, b.args...)
	mustTorbpf(t, lab, "detach", "--all")
	before.checkSame(t, takeSnapshot(t, lab))
}

// TestInsisting: what --force allows works, and goes again without a trace.
func TestInsisting(t *testing.T) {
	lab := freshLab(t)
	before := takeSnapshot(t, lab)
	attach(t, lab, wan, "--force", "--no-wait", "--torrc", loneTorrc(t, lab))
	mustTorbpf(t, lab, "status")
	mustTorbpf(t, lab, "detach", "--all")
	before.checkSame(t, takeSnapshot(t, lab))
}

// TestOverlappingPrefixesAreMerged: the list shows what is in force.
func TestOverlappingPrefixesAreMerged(t *testing.T) {
	lab := freshLab(t)
	attach(t, lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab), "--exclude", "104.17.0.0/16,104.16.0.0/13,104.17.1.1")
	r := mustTorbpf(t, lab, "exclude", "add", "104.18.0.0/16")
	if !strings.Contains(r.stdout, "covered by 104.16.0.0/13") {
		t.Errorf("add: %v", r)
	}
	r = mustTorbpf(t, lab, "exclude", "add", "104.0.0.0/8")
	if !strings.Contains(r.stdout, "absorbed 104.16.0.0/13") {
		t.Errorf("add: %v", r)
	}
	if r = mustTorbpf(t, lab, "exclude", "list"); r.stdout != "destination  104.0.0.0/8  direct\n" {
		t.Errorf("list: %v", r)
	}
}
