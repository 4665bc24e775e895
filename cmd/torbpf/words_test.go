package main

import (
	"strings"
	"testing"

	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/internal/router"
)

// TestStatusBeginsWithProblems: what is wrong is read before tables of what is not.
func TestStatusBeginsWithProblems(t *testing.T) {
	s := &router.Status{Problems: []string{"no program lan on eth1"}, Stopped: 3, Tor: router.TorStatus{Instances: []router.TorInstance{{}}}}
	var out strings.Builder
	if err := printStatus(&out, s); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out.String(), "\n")
	if lines[0] != "! no program lan on eth1" || !strings.HasPrefix(lines[1], "! 3 packets") || !strings.HasPrefix(lines[2], "to repair") || lines[3] != "" {
		t.Errorf("status begins with:\n%s", out.String())
	}
	out.Reset()
	s.Problems, s.Stopped = nil, 0
	if err := printStatus(&out, s); err != nil || strings.HasPrefix(out.String(), "\n") || strings.Contains(out.String(), "!") {
		t.Errorf("status of what is whole: %v\n%s", err, out.String())
	}
}

// TestAPlanEndsWithItsChanges, below hundreds of lines of what is put in place.
func TestAPlanEndsWithItsChanges(t *testing.T) {
	var out strings.Builder
	if err := printPlan(&out, &router.Preview{Plan: &plan.Plan{}, NFT: "table inet torbpf {}", Torrc: "TransPort 9040", Changes: []string{"+ LAN eth1"}, Notes: []string{"NTP is refused"}}); err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(out.String(), "# changes\n+ LAN eth1\n\nnote: NTP is refused\n") {
		t.Errorf("the plan ends otherwise:\n%s", out.String())
	}
}

// TestAttachNamesTheNextSteps: enable only where nothing does at boot what is done now.
func TestAttachNamesTheNextSteps(t *testing.T) {
	for _, c := range []struct {
		devices, runs bool
		want          string
	}{
		{true, false, "what happens now: torbpf status; who they are: torbpf device list; at every boot: torbpf enable"},
		{true, true, "what happens now: torbpf status; who they are: torbpf device list"},
		{false, false, "what happens now: torbpf status; at every boot: torbpf enable"},
	} {
		if got := nextSteps(c.devices, c.runs); got != c.want {
			t.Errorf("with devices %v, run %v: %s", c.devices, c.runs, got)
		}
	}
}
