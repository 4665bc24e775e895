package route

import (
	"fmt"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/internal/plan"
)

// routes is what a table of ours holds.
func routes(t *testing.T, family string) string {
	t.Helper()
	var ours strings.Builder
	for line := range strings.Lines(run(t, fmt.Sprintf("ip %s route show table all", family))) {
		if strings.Contains(line, fmt.Sprintf("table %d", plan.RouteTable)) {
			ours.WriteString(line)
		}
	}
	return ours.String()
}

// TestTheRouteFollowsThePlan, in both families, and nothing of others' in the table goes.
func TestTheRouteFollowsThePlan(t *testing.T) {
	enterNamespace(t)
	run(t, "ip link set lo up\nip link add eth1 type bridge")
	p := handing(planFor(nil, "eth1"))
	foreign := fmt.Sprintf("ip route add 192.0.2.0/24 dev lo table %d", plan.RouteTable)
	run(t, foreign)
	for range 2 {
		apply(t, p)
		for _, family := range []string{"-4", "-6"} {
			if got := routes(t, family); strings.Count(got, "local default dev lo") != 1 {
				t.Errorf("ip %s: the table holds %q", family, got)
			}
		}
		if left := missing(t, p); len(left) != 0 {
			t.Errorf("missing after Apply: %v", left)
		}
		run(t, fmt.Sprintf("ip -6 route flush table %d", plan.RouteTable))
		if left := missing(t, p); len(left) != 1 || !strings.HasPrefix(left[0], "ip -6 route add local default dev lo table") {
			t.Errorf("missing after the route has gone: %v", left)
		}
	}
	apply(t, p)
	apply(t, planFor(nil, "eth1"))
	if got := routes(t, "-4") + routes(t, "-6"); strings.Contains(got, "default") || !strings.Contains(got, "192.0.2.0/24") {
		t.Errorf("without the hand-over the table holds %q", got)
	}
	apply(t, p)
	remove(t)
	if got := routes(t, "-4") + routes(t, "-6"); strings.Contains(got, "default") {
		t.Errorf("after Remove the table holds %q", got)
	}
}

// TestWithoutIPv6OnLoopback no route of IPv6 leads here: what is handed over stays blocked.
func TestWithoutIPv6OnLoopback(t *testing.T) {
	enterNamespace(t)
	run(t, "ip link set lo up\nip link add eth1 type bridge\nsysctl -qw net.ipv6.conf.lo.disable_ipv6=1")
	p := handing(planFor(nil, "eth1"))
	apply(t, p)
	if left := missing(t, p); len(left) != 0 {
		t.Errorf("missing: %v", left)
	}
	if got := routes(t, "-6"); got != "" {
		t.Errorf("the table holds %q", got)
	}
	remove(t)
}
