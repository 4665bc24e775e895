package router

import (
	"path/filepath"
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
	r := &Router{data: filepath.Join(t.TempDir(), "data")}
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
