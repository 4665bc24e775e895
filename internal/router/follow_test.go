package router

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/kernel"
)

// deviceRule is one for a device, until a time that is zero for ever.
func deviceRule(policy config.Policy, until time.Time) config.Rule {
	return config.Rule{Entry: config.Entry{Kind: config.KindDevice, MAC: config.MAC{2, 0, 0, 0, 0, 7}}, Policy: policy, Until: until}
}

// byCommand is a rule that a command has added.
func byCommand(rule config.Rule) config.Rule {
	rule.Runtime = true
	return rule
}

// following is what a state with some rules has active once it follows a file with others.
func following(t *testing.T, s *State, file ...config.Rule) config.Rules {
	t.Helper()
	must(t, s.follow(config.Config{Rules: file}, false))
	active, _, err := s.activeRules()
	must(t, err)
	return active
}

// TestWhatHasEndedIsNotKeptOverAFile: a life of a command's that is over takes nothing of
// a file's away, and one that runs only until it ends.
func TestWhatHasEndedIsNotKeptOverAFile(t *testing.T) {
	now := time.Now()
	block := deviceRule(config.PolicyBlock, time.Time{})
	for _, c := range []struct {
		name  string
		until time.Time
		want  config.Policy
		rules int
	}{
		{"ended", now.Add(-time.Minute), config.PolicyBlock, 1}, {"running", now.Add(time.Hour), config.PolicyDirect, 2}, {"for ever", time.Time{}, config.PolicyDirect, 1},
	} {
		s := &State{Config: config.Config{Rules: config.Rules{byCommand(deviceRule(config.PolicyDirect, c.until))}}}
		got := following(t, s, block)
		if len(got) != 1 || got[0].Policy != c.want || len(got.Layers()) != c.rules || got[0].Runtime != (c.want == config.PolicyDirect) {
			t.Errorf("%s: in force is %+v, want %s", c.name, got, c.want)
		}
	}
}

// TestAFileThatIsReadAgainPutsNoEndOff, whatever the wall clock says by then, be the rule
// in force still or not.
func TestAFileThatIsReadAgainPutsNoEndOff(t *testing.T) {
	boot, err := kernel.BootTime()
	must(t, err)
	until := time.Now().Add(10 * time.Hour) // which was in a minute before the clock was put back
	rule := deviceRule(config.PolicyDirect, until)
	was := rule
	was.Ends = boot + time.Minute
	s := &State{Config: config.Config{Rules: config.Rules{was}}}
	if got := following(t, s, rule); len(got) != 1 || got[0].Ends != was.Ends {
		t.Errorf("with the clock put back it is %+v, want one that ends at %v", got, was.Ends)
	}

	was.Ends = boot - 1
	s = &State{Config: config.Config{Rules: config.Rules{was}}}
	r := &Router{dir: t.TempDir(), data: filepath.Join(t.TempDir(), "data")}
	must(t, r.forgetEnded(nil, s))
	if len(s.Config.Rules) != 0 || len(s.Ended) != 1 {
		t.Fatalf("it has ended: rules %+v, ended %+v", s.Config.Rules, s.Ended)
	}
	other := deviceRule(config.PolicyDirect, until.Add(time.Hour))
	if got := following(t, s, rule); len(got) != 0 {
		t.Errorf("it begins anew with the file: %+v", got)
	}
	if got := following(t, s, other); len(got) != 1 || len(s.Ended) != 0 {
		t.Errorf("another life in the file: %+v, ended %+v", got, s.Ended)
	}
}

// TestWhatCommandsGaveIsNotAFilesToTake: whom excluded names are asked of, and what devices
// are called.
func TestWhatCommandsGaveIsNotAFilesToTake(t *testing.T) {
	tv, tablet := config.MAC{2, 0, 0, 0, 0, 7}, config.MAC{2, 0, 0, 0, 0, 8}
	domain := config.Direct(config.Entry{Kind: config.KindDomain, Domain: "bank.example"})
	given := netip.MustParseAddr("192.0.2.53")
	file := config.Default()
	file.Interfaces, file.Devices = []string{"eth1"}, map[string]config.MAC{"tv": tv}
	s := &State{Config: config.Config{Rules: config.Rules{byCommand(domain)}}, Given: Given{Resolver: given, Devices: map[string]config.MAC{"kitchen": tv, "tablet": tablet}}}
	must(t, s.follow(file, false))
	if s.Config.Resolver != given || !reflect.DeepEqual(s.Config.Devices, s.Given.Devices) || s.otherResolver(file) != "" {
		t.Errorf("in force are %s and %v: %s", s.Config.Resolver, s.Config.Devices, s.otherResolver(file))
	}
	must(t, s.Config.Validate())
	want := []string{"domain bank.example", "the resolver 192.0.2.53 for excluded names", "the name kitchen for 02:00:00:00:00:07", "the name tablet for 02:00:00:00:00:08"}
	if got := s.kept(); !slices.Equal(got, want) {
		t.Errorf("kept are %q, want %q", got, want)
	}
	file.Resolver = netip.MustParseAddr("192.0.2.1")
	must(t, s.follow(file, false))
	if s.Config.Resolver != given || !strings.Contains(s.otherResolver(file), "and not of 192.0.2.1") {
		t.Errorf("names are asked of %s: %s", s.Config.Resolver, s.otherResolver(file))
	}
	must(t, s.follow(file, true))
	if s.Config.Resolver != file.Resolver || s.Config.DeviceName(tv) != "tv" || len(s.kept()) != 0 {
		t.Errorf("after a reset there are %s, %v, %v", s.Config.Resolver, s.Config.Devices, s.kept())
	}
}

// TestWhatNoFileMayHoldIsNotSaved, be it a rule or a name: the next boot could not read it.
func TestWhatNoFileMayHoldIsNotSaved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "torbpf.toml")
	must(t, os.WriteFile(path, []byte("interfaces = [\"eth1\"]\n[devices]\ntv = \"02:00:00:00:00:07\"\n"), 0o600))
	s := &State{Origin: fileDigest(path)}
	name := func(names map[string]config.MAC) func(config.Config, *config.Saved) {
		return func(_ config.Config, to *config.Saved) { to.Devices = names }
	}
	must(t, s.writeSaved(path, name(map[string]config.MAC{"kitchen": {2, 0, 0, 0, 0, 7}})))
	cfg, err := config.Load(path)
	must(t, err)
	if len(cfg.Devices) != 1 || cfg.DeviceName(config.MAC{2, 0, 0, 0, 0, 7}) != "kitchen" || s.Origin != fileDigest(path) {
		t.Errorf("a saved name: the devices are %v, the file in force is known: %v", cfg.Devices, s.Origin == fileDigest(path))
	}
	if err := s.writeSaved(path, name(map[string]config.MAC{"a:b": {2, 0, 0, 0, 0, 8}})); err == nil || !strings.Contains(err.Error(), "could not be read with it") {
		t.Errorf("a name that is none: %v", err)
	}
	if again, err := config.Load(path); err != nil || !reflect.DeepEqual(again, cfg) || s.Origin != fileDigest(path) {
		t.Errorf("after what was not saved: %v, %v, want %v", again.Devices, err, cfg.Devices)
	}
}

// TestBackToTorClosesHoweverOften it is said and whatever was said before.
func TestBackToTorClosesHoweverOften(t *testing.T) {
	device := deviceRule(config.PolicyTor, time.Time{}).Entry
	source := config.Entry{Kind: config.KindSource, Prefix: netip.MustParsePrefix("192.168.1.7/32")}
	wide := config.Entry{Kind: config.KindSource, Prefix: netip.MustParsePrefix("192.168.1.0/24")}
	rule := func(e config.Entry, policy config.Policy) config.Rule { return config.Rule{Entry: e, Policy: policy} }
	for _, e := range []config.Entry{device, source} {
		for _, c := range []struct {
			name   string
			before config.Rules
			stays  bool // a rule that says tor
		}{
			{"nothing", nil, false},
			{"allow", config.Rules{rule(e, config.PolicyDirect)}, false},
			{"block", config.Rules{rule(e, config.PolicyBlock)}, false},
			{"tor", config.Rules{rule(e, config.PolicyTor)}, true},
			{"nothing within a source", config.Rules{rule(wide, config.PolicyDirect)}, true},
			{"allow within a source", config.Rules{rule(wide, config.PolicyDirect), rule(e, config.PolicyDirect)}, true},
			{"block within a source", config.Rules{rule(wide, config.PolicyDirect), rule(e, config.PolicyBlock)}, true},
			{"tor within a source", config.Rules{rule(wide, config.PolicyDirect), rule(e, config.PolicyTor)}, true},
			{"block within a source of Tor's", config.Rules{rule(wide, config.PolicyTor), rule(e, config.PolicyBlock)}, false},
		} {
			rules := slices.Clone(c.before)
			for again := range 3 {
				change := backToTor(&rules, e, "device tor")
				own := slices.DeleteFunc(slices.Clone(rules), func(r config.Rule) bool { return r.Entry != e })
				if c.stays && (len(own) != 1 || own[0].Policy != config.PolicyTor) || !c.stays && len(own) != 0 {
					t.Errorf("%s, %s, said %d times: %s, the rules are %v", e, c.name, again+1, change, rules)
				}
				if again > 0 && change.Outcome != config.Present {
					t.Errorf("%s, %s, said again: %s", e, c.name, change)
				}
			}
		}
	}
}
