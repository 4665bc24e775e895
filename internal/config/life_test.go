package config

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
)

// TestWhenRulesEnd by the clock since boot, whatever the wall clock says by then; what
// lets out ends by that clock, too.
func TestWhenRulesEnd(t *testing.T) {
	const boot = time.Hour
	now := time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name   string
		policy Policy
		until  time.Time
		ends   time.Duration
		wall   time.Time // two hours later, as it is told
		active bool
	}{
		{"in a day", PolicyDirect, now.AddDate(0, 0, 1), 25 * time.Hour, now.Add(2 * time.Hour), true},
		{"in an hour", PolicyDirect, now.Add(time.Hour), 2 * time.Hour, now.Add(2 * time.Hour), false},
		{"in an hour, with the clock put back", PolicyDirect, now.Add(time.Hour), 2 * time.Hour, now.AddDate(-1, 0, 0), false},
		{"in a day, when the router did not know which it was", PolicyDirect, now.AddDate(0, 0, 1), 25 * time.Hour, now.AddDate(1, 0, 0), false},
		{"kept for Tor for a day, with the clock put forward", PolicyTor, now.AddDate(0, 0, 1), 25 * time.Hour, now.AddDate(1, 0, 0), true},
		{"blocked as good as for ever", PolicyBlock, time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC), math.MaxInt64, now, true},
		{"long ago", PolicyDirect, time.Date(1, 1, 1, 0, 0, 1, 0, time.UTC), 1, now, false},
		{"never", PolicyDirect, time.Time{}, 0, now.AddDate(1, 0, 0), true},
	} {
		rules := Rules{{Policy: c.policy, Until: c.until}}.Last(now, boot)
		if rules[0].Ends != c.ends {
			t.Errorf("%s: it ends %v after boot, want %v", c.name, rules[0].Ends, c.ends)
		}
		if active, ended := rules.Active(c.wall, boot+2*time.Hour); (len(active) == 1) != c.active || len(active)+len(ended) != 1 {
			t.Errorf("%s: active is %v, ended %v", c.name, active, ended)
		}
	}
}

// of is a rule of one device with a policy, for some minutes or, with 0, for ever.
func of(t *testing.T, wall time.Time, policy Policy, minutes int) Rule {
	t.Helper()
	r := Rule{Entry: entry(t, "device 02:00:00:00:00:07"), Policy: policy}
	if minutes > 0 {
		r.Until = wall.Add(time.Duration(minutes) * time.Minute)
	}
	return r
}

// TestWhatEndsLeavesWhatWasBefore, as long as that has not ended itself.
func TestWhatEndsLeavesWhatWasBefore(t *testing.T) {
	wall, boot := time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC), time.Hour
	type step struct {
		policy  Policy
		minutes int
	}
	for _, c := range []struct {
		name  string
		steps []step
		want  string // what holds now, and then after each 10 minutes
	}{
		{"a life over what stands", []step{{PolicyBlock, 0}, {PolicyDirect, 5}}, "direct block block"},
		{"twice", []step{{PolicyBlock, 0}, {PolicyDirect, 5}, {PolicyDirect, 15}}, "direct direct block"},
		{"a life within a life", []step{{PolicyBlock, 15}, {PolicyDirect, 5}}, "direct block -"},
		{"over two", []step{{PolicyTor, 0}, {PolicyBlock, 15}, {PolicyDirect, 5}}, "direct block tor"},
		{"over what ends before", []step{{PolicyTor, 0}, {PolicyBlock, 5}, {PolicyDirect, 15}}, "direct direct tor"},
		{"cut short", []step{{PolicyBlock, 15}, {PolicyBlock, 5}}, "block - -"},
		{"for ever takes all away", []step{{PolicyBlock, 0}, {PolicyDirect, 5}, {PolicyTor, 0}}, "tor tor tor"},
		{"over the same for ever", []step{{PolicyBlock, 0}, {PolicyBlock, 5}}, "block block block"},
	} {
		var rules Rules
		for _, s := range c.steps {
			rules.Add(of(t, wall, s.policy, s.minutes))
		}
		rules = rules.Last(wall, boot)
		text, err := json.Marshal(rules)
		if err != nil {
			t.Fatal(err)
		}
		var read Rules
		if err := json.Unmarshal(text, &read); err != nil {
			t.Fatal(err)
		}
		if again := read.Layers().Stacked(); !reflect.DeepEqual(again, rules) {
			t.Errorf("%s: taken apart and put together %+v, was %+v", c.name, again, rules)
		}
		var got []string
		for _, passed := range []time.Duration{0, 10 * time.Minute, 20 * time.Minute} {
			active, _ := read.Active(wall.Add(passed), boot+passed)
			policy := "-"
			if len(active) > 0 {
				policy = string(active[0].Policy)
			}
			got = append(got, policy)
		}
		if got := strings.Join(got, " "); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		if c := rules.Remove(rules[0].Entry); c.Outcome != Removed || len(rules) > 0 {
			t.Errorf("removed: %s, left %v", c, rules)
		}
	}
}

// TestNothingEndsIntoMoreThanEither: a wider rule may let out what neither the life nor
// what is beneath it does, and what lets out comes back by nobody's being there.
func TestNothingEndsIntoMoreThanEither(t *testing.T) {
	wall := time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)
	type layer struct {
		policy  Policy
		minutes int
	}
	for _, c := range []struct {
		layers []layer // what was there first comes first
		want   string
	}{
		{[]layer{{PolicyBlock, 0}, {PolicyDirect, 5}}, "direct 5, block"},
		{[]layer{{PolicyTor, 0}, {PolicyDirect, 5}}, "direct 5, tor"},
		{[]layer{{PolicyBlock, 0}, {PolicyTor, 5}}, "tor 5, block"},
		{[]layer{{PolicyTor, 0}, {PolicyBlock, 5}}, "block"},
		{[]layer{{PolicyDirect, 0}, {PolicyBlock, 5}}, "block 5"},
		{[]layer{{PolicyDirect, 0}, {PolicyTor, 5}}, "tor 5"},
		{[]layer{{PolicyTor, 15}, {PolicyDirect, 5}}, "direct 5, tor 15"},
		{[]layer{{PolicyTor, 0}, {PolicyBlock, 15}, {PolicyDirect, 5}}, "direct 5, block"},
		{[]layer{{PolicyBlock, 0}, {PolicyTor, 15}, {PolicyDirect, 5}}, "direct 5, block"},
		{[]layer{{PolicyTor, 25}, {PolicyBlock, 15}, {PolicyDirect, 5}}, "direct 5, block 25"},
		{[]layer{{PolicyDirect, 0}, {PolicyTor, 15}, {PolicyDirect, 5}}, "direct 5, tor 15"},
		{[]layer{{PolicyTor, 0}, {PolicyDirect, 15}, {PolicyBlock, 5}}, "block"},
		{[]layer{{PolicyTor, 0}, {PolicyDirect, 15}, {PolicyTor, 5}}, "tor 5, tor"},
		{[]layer{{PolicyBlock, 0}, {PolicyDirect, 15}, {PolicyTor, 5}}, "tor 5, block"},
	} {
		var rules Rules
		for _, l := range c.layers {
			rules.Add(of(t, wall, l.policy, l.minutes))
		}
		var got []string
		for r := &rules.Last(wall, time.Hour).Planned()[0]; r != nil; r = r.Beneath {
			text := string(r.Policy)
			if r.Ends != 0 {
				text += fmt.Sprintf(" %d", int((r.Ends-time.Hour)/time.Minute))
			}
			if r.Until.IsZero() != (r.Ends == 0) {
				t.Errorf("%v: until %v, which is %v after boot", c.layers, r.Until, r.Ends)
			}
			got = append(got, text)
		}
		if got := strings.Join(got, ", "); got != c.want {
			t.Errorf("%v is planned as %s, want %s", c.layers, got, c.want)
		}
	}
	if c := (Rules{of(t, wall, PolicyDirect, 5).over(of(t, wall, PolicyBlock, 0))}); c.absorbs(Direct(entry(t, "device 02:00:00:00:00:07")), c[0]) {
		t.Error("a rule is absorbed, and what is beneath it with it")
	}
}

// TestAFileMaySayWhatHoldsMeanwhile beside what holds for ever, and what is saved for a
// while takes nothing away.
func TestAFileMaySayWhatHoldsMeanwhile(t *testing.T) {
	const device = "[[rules]]\ndevice = \"02:00:00:00:00:07\"\n"
	wall := time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)
	path := write(t, map[string]string{"torbpf.toml": "interfaces = [\"eth1\"]\n" + device + "policy = \"block\"\n"})
	saved := SavedFile(path)
	check := func(want string) {
		t.Helper()
		cfg, err := Load(path)
		if err != nil || len(cfg.Rules) != 1 || cfg.Rules[0].Words() != "device 02:00:00:00:00:07"+want {
			t.Fatalf("read are %v, %v, want one that is%s", cfg.Rules, err, want)
		}
		if err := cfg.Validate(); err != nil {
			t.Error(err)
		}
		if text, err := cfg.Text(); err != nil {
			t.Errorf("it cannot be written: %v", err)
		} else if again, err := Parse(text); err != nil || again.Rules[0].Words() != cfg.Rules[0].Words() {
			t.Errorf("written and read: %v, %v", again.Rules, err)
		}
	}
	add := func(policy Policy, minutes int) {
		t.Helper()
		if err := Save(saved, func(s *Saved) { s.Rules.Add(of(t, wall, policy, minutes)) }); err != nil {
			t.Fatal(err)
		}
	}
	until := " until " + wall.Add(5*time.Minute).Local().Format(time.DateTime)
	add(PolicyDirect, 5)
	check(until + ", then block again")
	add(PolicyTor, 0)
	check(" (tor)")
	add(PolicyDirect, 5)
	check(until + ", then tor again")
}

// TestWhatIsSavedForAWhile leaves of the other files what holds longer.
func TestWhatIsSavedForAWhile(t *testing.T) {
	wall := time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		file, saved Rules
		want        string // policies, first what holds now
	}{
		{Rules{of(t, wall, PolicyBlock, 0)}, Rules{of(t, wall, PolicyDirect, 5)}, "direct block"},
		{Rules{of(t, wall, PolicyBlock, 0), of(t, wall, PolicyDirect, 15)}, Rules{of(t, wall, PolicyBlock, 5)}, "block direct block"},
		{Rules{of(t, wall, PolicyBlock, 0)}, Rules{of(t, wall, PolicyBlock, 5)}, "block"},
		{Rules{of(t, wall, PolicyDirect, 15)}, Rules{of(t, wall, PolicyDirect, 5)}, "direct"},
		{Rules{of(t, wall, PolicyDirect, 5)}, Rules{of(t, wall, PolicyBlock, 15)}, "block"},
		{Rules{of(t, wall, PolicyBlock, 0)}, Rules{of(t, wall, PolicyTor, 0), of(t, wall, PolicyDirect, 5)}, "direct tor"},
	} {
		text, err := Config{Interfaces: []string{"eth1"}, Local: LocalConnected, Inbound: true, MarkShift: 24, Early: EarlyAuto, FastPath: FastPathOff, Tor: Default().Tor, Rules: c.file, Web: Default().Web}.Text()
		if err != nil {
			t.Fatal(err)
		}
		path := write(t, map[string]string{"torbpf.toml": string(text)})
		if err := Save(SavedFile(path), func(s *Saved) { s.Rules = c.saved }); err != nil {
			t.Fatal(err)
		}
		cfg, err := Load(path)
		if err != nil || len(cfg.Rules) != 1 {
			t.Errorf("%v with %v saved: %v, %v", c.file, c.saved, cfg.Rules, err)
			continue
		}
		var got []string
		for _, layer := range cfg.Rules[0].Layers() {
			got = append([]string{string(layer.Policy)}, got...)
		}
		if got := strings.Join(got, " "); got != c.want {
			t.Errorf("%v with %v saved: %s, want %s", c.file, c.saved, got, c.want)
		}
		if len(cfg.Rules[0].Layers()) == 1 && c.want == "direct" && !cfg.Rules[0].Until.Equal(c.saved[0].Until) {
			t.Errorf("what was saved last is not what ends it: %v", cfg.Rules)
		}
	}
}
