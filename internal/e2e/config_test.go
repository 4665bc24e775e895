package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/testnet"
)

// configFile writes a configuration with tor's lone torrc, and returns its path.
func configFile(t *testing.T, lab *testnet.Lab, rest string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "torbpf.toml")
	rewriteConfig(t, lab, path, rest)
	return path
}

func rewriteConfig(t *testing.T, lab *testnet.Lab, path, rest string) {
	t.Helper()
	text := "interfaces = [\"" + lan + "\"]\n[tor]\ntorrc = \"" + loneTorrc(t, lab) + "\"\n" + rest
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// ruleLines lists the rules in force as "destination 10.0.0.0/8 direct".
func ruleLines(t *testing.T, lab *testnet.Lab) string {
	t.Helper()
	var lines []string
	for line := range strings.Lines(mustTorbpf(t, lab, "exclude", "list").stdout) {
		lines = append(lines, strings.Join(strings.Fields(line)[:3], " "))
	}
	return strings.Join(lines, "; ")
}

// TestAConfigurationIsCheckedAndPlanned without a change to the host.
func TestAConfigurationIsCheckedAndPlanned(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	path := configFile(t, lab, "[exclusions]\ndestinations = [\"51.21.0.0/16\"]\ninterfaces = [\"wg0\"]\n[[rules]]\nport = \"25/tcp\"\npolicy = \"tor\"\n")
	before := takeSnapshot(t, lab)
	if r := mustTorbpf(t, lab, "check-config", "--config", path); !strings.Contains(r.stdout, "is good: "+lan+", 3 rules") {
		t.Errorf("check-config: %v", r)
	}
	var checked struct {
		Schema int
		Config struct {
			Interfaces []string
			Rules      []struct{ Match, Origin string }
		}
		Ended []struct{ Match string }
	}
	out := mustTorbpf(t, lab, "check-config", "--json", "--config", path).stdout
	if err := json.Unmarshal([]byte(out), &checked); err != nil || checked.Schema != 1 || len(checked.Config.Rules) != 3 || checked.Ended == nil || checked.Config.Rules[0].Origin != path+":5" {
		t.Errorf("check-config as JSON: %v, %s", err, out)
	}
	r := mustTorbpf(t, lab, "plan", "--config", path)
	for _, want := range []string{
		"lan " + lan, "uplink " + wan, "direct to 51.21.0.0/16", "tor to port 25/tcp", "direct by interface wg0", "mark 0xff000000",
		"table inet torbpf {", `elements = { "` + lan + `" }`, "redirect to :9040", "TransPort 0.0.0.0:9040", "SocksPolicy reject *",
	} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("the plan lacks %q:\n%s", want, r.stdout)
		}
	}
	var planned struct {
		Schema int
		Plan   struct{ LANs []struct{ Name string } }
		NFT    string
	}
	if err := json.Unmarshal([]byte(mustTorbpf(t, lab, "plan", "--json", "--config", path).stdout), &planned); err != nil || planned.Schema != 1 || len(planned.Plan.LANs) != 1 {
		t.Errorf("the plan as JSON: %v, %+v", err, planned)
	}
	for text, says := range map[string]string{
		"[exclusions]\ndestinations = [\"10.0.0.1/8\"]": ":5, exclusions.destinations",
		"colour = 1": ":4: unknown key tor.colour",
		"[exclusions]\ndestinations = [\"0.0.0.0/0\"]": ":5, exclusions.destinations: 0.0.0.0/0 would let everything past Tor",
	} {
		rewriteConfig(t, lab, path, text)
		for _, command := range []string{"check-config", "plan", "apply"} {
			if r := runTorbpf(t, lab, command, "--config", path); r.code != 2 || !strings.Contains(r.stderr, path) || !strings.Contains(r.stderr, strings.TrimPrefix(says, ":5, ")) {
				t.Errorf("%s of %q: %v, want exit code 2 and %q", command, text, r, says)
			}
		}
	}
	if r := runTorbpf(t, lab, "apply", "--config", path+".none"); r.code == 0 {
		t.Errorf("apply without a file: %v", r)
	}
	before.checkSame(t, takeSnapshot(t, lab))
}

// TestApplyPutsAConfigurationInForce, and leaves what commands have added.
func TestApplyPutsAConfigurationInForce(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	path := configFile(t, lab, "[exclusions]\ndestinations = [\"51.21.0.0/16\"]\nsources = [\"192.168.50.12\"]\n")
	apply := func(args ...string) result {
		t.Helper()
		return mustTorbpf(t, lab, append([]string{"apply", "--no-wait", "--config", path}, args...)...)
	}
	apply()
	want := "destination 51.21.0.0/16 direct; source 192.168.50.12/32 direct"
	if got := ruleLines(t, lab); got != want {
		t.Errorf("in force: %s, want %s", got, want)
	}
	mustTorbpf(t, lab, "exclude", "add", "--port", "22/tcp")
	mustTorbpf(t, lab, "exclude", "add", "--domain", "other."+testnet.Zone, "--resolver", "62.53.0.53") // which no file names
	mustTorbpf(t, lab, "exclude", "del", "--source", "192.168.50.12")
	rewriteConfig(t, lab, path, "[exclusions]\ndestinations = [\"51.22.0.0/16\"]\nsources = [\"192.168.50.12\"]\n")
	if r := apply(); !strings.Contains(r.stdout, "kept, since a command has added it: port 22/tcp") {
		t.Errorf("apply: %v", r)
	}
	want = "destination 51.22.0.0/16 direct; port 22/tcp direct; domain other." + testnet.Zone + " direct; source 192.168.50.12/32 direct"
	if got := ruleLines(t, lab); got != want {
		t.Errorf("in force: %s, want %s", got, want)
	}
	apply("--reset")
	want = "destination 51.22.0.0/16 direct; source 192.168.50.12/32 direct"
	if got := ruleLines(t, lab); got != want {
		t.Errorf("after --reset: %s, want %s", got, want)
	}
	rewriteConfig(t, lab, path, "mark_shift = 3\n")
	if r := runTorbpf(t, lab, "apply", "--config", path); r.code != 2 {
		t.Errorf("of a bad file: %v", r)
	}
	if got := ruleLines(t, lab); got != want {
		t.Errorf("after a bad file: %s, want %s", got, want)
	}
	if r := runTorbpf(t, lab, "status"); r.code != 0 {
		t.Errorf("status: %v", r)
	}
}

// TestSavedRulesOutliveAReboot, and others do not, which is said.
func TestSavedRulesOutliveAReboot(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	path := configFile(t, lab, "[exclusions]\nsources = [\"192.168.50.12\"]\n")
	saved := config.SavedFile(path)
	reboot := func() {
		t.Helper()
		mustTorbpf(t, lab, "detach", "--all")
		mustTorbpf(t, lab, "apply", "--no-wait", "--config", path)
	}
	mustTorbpf(t, lab, "apply", "--no-wait", "--config", path)
	mustTorbpf(t, lab, "exclude", "add", "51.21.0.0/16", "--save", "--comment", "the bank", "--config", path)
	mustTorbpf(t, lab, "exclude", "add", "51.22.0.0/16")
	reboot()
	if got, want := ruleLines(t, lab), "destination 51.21.0.0/16 direct; source 192.168.50.12/32 direct"; got != want {
		t.Errorf("after a reboot: %s, want %s", got, want)
	}
	r := mustTorbpf(t, lab, "exclude", "del", "51.21.0.0/16", "--config", path)
	if !strings.Contains(r.stderr, "comes back") || !strings.Contains(r.stderr, "--save takes it out there") {
		t.Errorf("del of a saved rule: %v", r)
	}
	r = mustTorbpf(t, lab, "exclude", "del", "--source", "192.168.50.12", "--save", "--config", path)
	if !strings.Contains(r.stderr, path+":5") {
		t.Errorf("del of a rule of the file: %v", r)
	}
	reboot()
	if got, want := ruleLines(t, lab), "destination 51.21.0.0/16 direct; source 192.168.50.12/32 direct"; got != want {
		t.Errorf("after another reboot: %s, want %s", got, want)
	}
	mustTorbpf(t, lab, "exclude", "del", "51.21.0.0/16", "--save", "--config", path)
	if _, err := os.Stat(saved); !os.IsNotExist(err) {
		t.Errorf("the file of the last saved rule stays: %v", err)
	}
}

// TestSavedRuleIsDeletedForGood: what is in the drop-in alone is taken out of it, as the warning
// has it, and a rule that was changed since it was saved is told as well.
func TestSavedRuleIsDeletedForGood(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	path := configFile(t, lab, "")
	saved := config.SavedFile(path)
	mustTorbpf(t, lab, "apply", "--no-wait", "--config", path)
	said := func(want string, code int, args ...string) {
		t.Helper()
		r := runTorbpf(t, lab, append(append([]string{"exclude"}, args...), "--config", path)...)
		if out := r.stdout + r.stderr; r.code != code || !strings.Contains(out, want) {
			t.Errorf("%s: %v\nwant exit code %d and %q", strings.Join(args, " "), r, code, want)
		}
	}
	said("added", 0, "add", "51.21.0.0/16", "--for", "20m", "--save")
	said("stays in "+saved+" as it was saved, direct until", 0, "add", "51.21.0.0/16", "--for", "10m")
	said("51.21.0.0/16 is in "+saved, 0, "del", "51.21.0.0/16")
	said("is not in force, but "+saved+" has it: --save takes it out there", 1, "del", "51.21.0.0/16")
	said("removed destination 51.21.0.0/16 from "+saved+": it was not in force", 0, "del", "51.21.0.0/16", "--save")
	said("is not in the list", 1, "del", "51.21.0.0/16", "--save")
	mustTorbpf(t, lab, "apply", "--no-wait", "--config", path)
	if got := ruleLines(t, lab); got != "nothing is excluded" {
		t.Errorf("after apply there is %s", got)
	}
	said("added", 0, "add", "51.22.0.0/16", "--save")
	if r := mustTorbpf(t, lab, "exclude", "del", "51.22.0.0/16", "--save", "--config", path); strings.Contains(r.stderr, "comes back") {
		t.Errorf("del --save: %v", r)
	}
	missing := filepath.Join(filepath.Dir(path), "none", "torbpf.toml")
	for _, args := range [][]string{{"exclude", "add", "51.23.0.0/16"}, {"device", "name", testnet.MACClient1, "kitchen-tv"}} {
		r := mustTorbpf(t, lab, append(args, "--save", "--config", missing)...)
		if want := missing + " does not exist, so nothing reads it yet: sudo torbpf enable"; !strings.Contains(r.stderr, want) {
			t.Errorf("%s: %v, want %q", args, r, want)
		}
	}
}

// TestSavingNeverBreaksTheConfiguration: what a command saves is read at the next boot.
func TestSavingNeverBreaksTheConfiguration(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	path := configFile(t, lab, "[exclusions]\ndestinations = [\"51.21.0.0/16\"]\n")
	detachLater(t, lab)
	mustTorbpf(t, lab, "apply", "--no-wait", "--config", path)
	add := func(args ...string) result {
		t.Helper()
		return runTorbpf(t, lab, append([]string{"exclude", "add", "--save", "--config", path}, args...)...)
	}
	for _, args := range []string{
		"51.21.0.0/16 --policy tor", "51.21.0.0/16", "51.21.0.0/16 --for 1h", "--domain other.example.test --resolver 62.53.0.53",
	} {
		if r := add(strings.Fields(args)...); r.code != 0 {
			t.Errorf("%s: %v", args, r)
		}
		for _, command := range [][]string{{"check-config", "--config", path}, {"check", "--layers"}} { // with what is in force nothing is wrong either
			if r := runTorbpf(t, lab, command...); r.code != 0 {
				t.Errorf("after %s: %v", args, r)
			}
		}
	}
	before := ruleLines(t, lab)
	if r := add("0.0.0.0/0", "--force"); r.code == 0 || !strings.Contains(r.stderr, "in force, but not saved") {
		t.Errorf("everything was saved: %v", r)
	}
	mustTorbpf(t, lab, "apply", "--reset", "--no-wait", "--config", path)
	if got := ruleLines(t, lab); got != before {
		t.Errorf("after a boot there is %s, want %s", got, before)
	}
}

// TestNoFileExcludesTheWayToEverything, nor does a rule whose interface becomes that way.
func TestNoFileExcludesTheWayToEverything(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	serveFlows(t, lab, testnet.Other4, testnet.Other6)
	path := configFile(t, lab, "[exclusions]\ninterfaces = [\""+wan+"\"]\n")
	detachLater(t, lab)
	if r := mustTorbpf(t, lab, "apply", "--no-wait", "--config", path); !strings.Contains(r.stderr, wan+" has the default route") {
		t.Errorf("apply says nothing of it: %v", r)
	}
	n := lab.Client1
	checkNoEcho(t, n, testnet.Other4, testnet.Other6)
	mustTorbpf(t, lab, "exclude", "del", "--interface", wan)
	mustTorbpf(t, lab, "exclude", "add", "--interface", wan, "--force")
	checkEcho(t, n, testnet.Other4, testnet.Other6)
}
