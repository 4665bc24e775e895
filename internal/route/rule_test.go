package route

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

var vpnMark = config.Mark{Value: 0x100000, Mask: 0xff0000}

var rulePlans = []struct {
	name string
	plan *plan.Plan
}{
	{"one LAN", planFor(nil, "eth1")},
	{"two LANs and exempt marks", planFor([]config.Mark{vpnMark, {Value: 0xca6c, Mask: 0xffffffff}}, "eth1", "br-lan.5")},
	{"exempt marks that would open the guard", planFor([]config.Mark{
		{Value: 0, Mask: 0xff}, {Value: 0, Mask: 0}, {Value: 0x1000000, Mask: 0xff000000},
	}, "eth1")},
	{"other mark bits", &plan.Plan{
		Mark: plan.Mark{Shift: 8}, LANs: []plan.LAN{{Name: "eth1"}}, Rules: config.DirectMarks(vpnMark),
	}},
	{"no LAN", planFor(nil)},
	{"TCP handed to tor's socket", handing(planFor(nil, "eth1", "br-lan.5"))},
}

// handing has TCP handed to tor's socket.
func handing(p *plan.Plan) *plan.Plan {
	p.TProxy = true
	return p
}

func TestRulesOfAPlan(t *testing.T) {
	var text strings.Builder
	for _, tt := range rulePlans {
		fmt.Fprintf(&text, "# %s\n", tt.name)
		for _, family := range families {
			for _, r := range wanted(tt.plan, family) {
				fmt.Fprintln(&text, r)
			}
		}
	}
	golden(t, "rules.golden", text.String())
}

// What is said to be missing is a command that mends it.
func TestRulesReadAsCommands(t *testing.T) {
	for _, tt := range rulePlans {
		t.Run(tt.name, func(t *testing.T) {
			enterNamespace(t)
			run(t, "ip link set lo up\nip link add eth1 type bridge\nip link add br-lan.5 type bridge")
			commands := strings.Join(missing(t, tt.plan), "\n")
			run(t, commands)
			if left := missing(t, tt.plan); len(left) != 0 {
				t.Errorf("after these commands:\n%s\nthere is still missing:\n%s", commands, strings.Join(left, "\n"))
			}
			changes := watchRules(t)
			apply(t, tt.plan)
			if diff := cmp.Diff([]string(nil), changes()); diff != "" {
				t.Errorf("Apply differs from the commands:\n%s", diff)
			}
		})
	}
}

func TestAppliedRulesAsTheUserSeesThem(t *testing.T) {
	enterNamespace(t)
	run(t, "ip link add eth1 type bridge\nip link add br-lan.5 type bridge")
	before := listed(t)
	apply(t, rulePlans[1].plan)
	golden(t, "iprule.golden", listed(t))
	remove(t)
	if diff := cmp.Diff(before, listed(t)); diff != "" {
		t.Errorf("rules after Remove differ (-before +after):\n%s", diff)
	}
}

func TestApplyTwiceChangesNothing(t *testing.T) {
	enterNamespace(t)
	p := planFor([]config.Mark{vpnMark, vpnMark}, "eth1", "eth2")
	apply(t, p)
	before := listed(t)
	changes := watchRules(t)
	apply(t, p)
	if got := changes(); len(got) != 0 {
		t.Errorf("the second Apply made changes: %v", got)
	}
	if diff := cmp.Diff(before, listed(t)); diff != "" {
		t.Errorf("rules differ (-first +second):\n%s", diff)
	}
}

// ip rule refuses a second one; whoever does not ask for that can add it.
func TestApplyLeavesEachRuleOnce(t *testing.T) {
	enterNamespace(t)
	p := planFor([]config.Mark{vpnMark}, "eth1")
	apply(t, p)
	want := listed(t)
	for _, family := range families {
		for _, r := range wanted(p, family) {
			if err := addRule(r); err != nil {
				t.Fatal(err)
			}
		}
	}
	apply(t, p)
	if diff := cmp.Diff(want, listed(t)); diff != "" {
		t.Errorf("rules differ (-want +got):\n%s", diff)
	}
}

// From one plan to the next, no rule goes before all are there that come.
func TestApplyAddsBeforeItDeletes(t *testing.T) {
	enterNamespace(t)
	run(t, "ip link add eth2 type bridge\nip link add eth3 type bridge")
	apply(t, planFor([]config.Mark{vpnMark}, "eth1", "eth2"))
	next := planFor([]config.Mark{{Value: 0x200000, Mask: 0xff0000}}, "eth2", "eth3")
	changes := watchRules(t)
	apply(t, next)
	want := []string{
		"new 4", "del 4", // eth3 for eth1
		"new 6", "new 6", "new 6", "new 6", "new 6", // eth3 four times, a mark
		"del 6", "del 6", "del 6", "del 6", "del 6",
	}
	if diff := cmp.Diff(want, changes()); diff != "" {
		t.Errorf("changes differ (-want +got):\n%s", diff)
	}
	if left := missing(t, next); len(left) != 0 {
		t.Errorf("missing: %v", left)
	}
	if now := listed(t); strings.Contains(now, "eth1") || strings.Contains(now, "0x100000") {
		t.Errorf("stale rules are left:\n%s", now)
	}
}

func TestForeignRulesStay(t *testing.T) {
	enterNamespace(t)
	// At our priorities without our protocol, or the reverse, or nearly ours.
	run(t, `
ip link add eth1 type bridge
ip rule add priority 100 iif eth1 fwmark 0x8000000/0x8000000 blackhole
ip -6 rule add priority 102 iif eth1 fwmark 0x0/0xf000000 blackhole protocol 99
ip rule add priority 110 iif eth1 fwmark 0x8000000/0x8000000 blackhole protocol 84
ip rule add priority 98 nop protocol 84
ip -6 rule add priority 5000 fwmark 0xca6c lookup 51820
`)
	before := listed(t)
	p := planFor([]config.Mark{vpnMark}, "eth1")
	apply(t, p)
	for line := range strings.Lines(before) {
		if !strings.Contains(listed(t), line) {
			t.Errorf("Apply removed a foreign rule: %s", line)
		}
	}
	if left := missing(t, p); len(left) != 0 {
		t.Errorf("a foreign rule was taken for ours, missing: %v", left)
	}
	remove(t)
	if diff := cmp.Diff(before, listed(t)); diff != "" {
		t.Errorf("foreign rules differ (-before +after):\n%s", diff)
	}
}

func TestPresentNamesWhatIsMissing(t *testing.T) {
	const first = "ip -4 rule add priority 100 protocol 84 iif eth1 fwmark 0x8000000/0x8000000 blackhole"
	for _, tt := range []struct {
		name, damage string
	}{
		{"deleted", "ip rule del priority 100"},
		{"replaced by a nop", "ip rule del priority 100\n" + strings.Replace(first, "blackhole", "nop", 1)},
		{"narrowed to a source", "ip rule del priority 100\n" + first + " from 10.0.0.0/8"},
		{"inverted", "ip rule del priority 100\n" + strings.Replace(first, "add", "add not", 1)},
		{"another interface", "ip rule del priority 100\n" + strings.Replace(first, "eth1", "eth2", 1)},
		{"without our protocol", "ip rule del priority 100\n" + strings.Replace(first, "protocol 84", "", 1)},
		{"its interface gone", "ip link del eth1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			enterNamespace(t)
			run(t, "ip link add eth1 type bridge\nip link add eth2 type bridge")
			p := planFor(nil, "eth1")
			apply(t, p)
			if got := missing(t, p); len(got) != 0 {
				t.Fatalf("missing after Apply: %v", got)
			}
			run(t, tt.damage)
			if got := missing(t, p); !slices.Contains(got, first) {
				t.Errorf("missing = %v, want %s among them", got, first)
			}
			run(t, "ip link del eth2")
			if !strings.Contains(tt.damage, "link") {
				apply(t, p)
				if got := missing(t, p); len(got) != 0 {
					t.Errorf("Apply did not mend it, missing: %v\n%s", got, listed(t))
				}
			}
			remove(t)
			if now := listed(t); strings.Contains(now, "proto 84") {
				t.Errorf("Remove left:\n%s", now)
			}
		})
	}
}

// An interface that is deleted and comes back finds its rules waiting.
func TestRulesHoldAgainWhenTheInterfaceIsBack(t *testing.T) {
	enterNamespace(t)
	run(t, "ip link add eth1 type bridge")
	p := planFor(nil, "eth1")
	apply(t, p)
	run(t, "ip link del eth1")
	changes := watchRules(t)
	apply(t, p)
	if got := changes(); len(got) != 0 {
		t.Errorf("Apply without the interface made changes: %v", got)
	}
	run(t, "ip link add eth1 type bridge")
	if got := missing(t, p); len(got) != 0 {
		t.Errorf("missing: %v", got)
	}
}

// lanAndWAN is a router's forwarding, to ask the kernel what it would do.
const lanAndWAN = `
ip link set lo up
ip link add eth1 type veth peer name lan
ip link add eth0 type veth peer name wan
ip addr add 192.168.50.1/24 dev eth1
ip addr add fd50::1/64 dev eth1 nodad
ip addr add 62.10.0.2/24 dev eth0
ip addr add 2a0c:10::2/64 dev eth0 nodad
ip link set eth1 up
ip link set lan up
ip link set eth0 up
ip link set wan up
ip route add default via 62.10.0.1
ip -6 route add default via 2a0c:10::1
sysctl -q net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=0
`

// forwards asks the kernel whether it would forward such a packet.
func forwards(t *testing.T, version int, iif string, mark uint32) bool {
	t.Helper()
	src, dst := "192.168.50.11", "51.20.0.80"
	if version == 6 {
		src, dst = "fd50::11", "2a0e:20::80"
	}
	if iif == "eth0" {
		src, dst = dst, src
	}
	args := []string{fmt.Sprintf("-%d", version), "route", "get", dst, "from", src, "iif", iif, "mark", fmt.Sprint(mark)}
	out, err := exec.Command("ip", args...).CombinedOutput()
	switch {
	case err == nil && !strings.Contains(string(out), "blackhole"):
		return true
	case strings.Contains(string(out), "Invalid argument"), strings.Contains(string(out), "blackhole"):
		return false
	}
	t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	return false
}

func TestKernelForwardsPermittedClassesOnly(t *testing.T) {
	enterNamespace(t)
	run(t, lanAndWAN)
	apply(t, planFor([]config.Mark{vpnMark}, "eth1"))
	const instance = 0x50000000 // the high nibble must not matter
	for class := range uint32(16) {
		permitted := class >= 1 && class <= 4 // direct, local, inbound, via
		for _, tt := range []struct {
			what     string
			version  int
			iif      string
			mark     uint32
			forwards bool
		}{
			{"IPv4 from the LAN", 4, "eth1", class << 24, class < 8},
			{"IPv6 from the LAN", 6, "eth1", class << 24, permitted},
			{"IPv6 from the LAN, another instance", 6, "eth1", class<<24 | instance, permitted},
			{"IPv6 from the LAN, user's mark", 6, "eth1", class<<24 | 0x200000, permitted},
			{"IPv6 from the LAN, exempt mark", 6, "eth1", class<<24 | 0x100007, permitted || class == 0},
			{"IPv4 from the WAN", 4, "eth0", class << 24, true},
			{"IPv6 from the WAN", 6, "eth0", class << 24, true},
		} {
			if got := forwards(t, tt.version, tt.iif, tt.mark); got != tt.forwards {
				t.Errorf("%s, class %d: forwarded = %v, want %v", tt.what, class, got, tt.forwards)
			}
		}
	}
}

// Should somebody delete the rule that exempt packets jump to, they go nowhere.
func TestLostJumpTargetBlocks(t *testing.T) {
	enterNamespace(t)
	run(t, lanAndWAN)
	apply(t, planFor([]config.Mark{vpnMark}, "eth1"))
	if !forwards(t, 6, "eth1", vpnMark.Value) {
		t.Fatal("exempt packets are blocked")
	}
	run(t, "ip -6 rule del priority 103")
	if forwards(t, 6, "eth1", vpnMark.Value) {
		t.Error("exempt packets pass without a target")
	}
	if !forwards(t, 6, "eth1", 0x1000000) {
		t.Error("direct packets are blocked")
	}
}

// What the user's own rules say of permitted packets still counts.
func TestUserRulesStillDecideForPermittedPackets(t *testing.T) {
	enterNamespace(t)
	run(t, lanAndWAN+"ip -6 rule add priority 200 fwmark 0x100000/0xff0000 unreachable\n")
	apply(t, planFor([]config.Mark{vpnMark}, "eth1"))
	out, err := exec.Command("ip", "-6", "route", "get", "2a0e:20::80", "from", "fd50::11", "iif", "eth1", "mark", "0x100000").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "Network is unreachable") {
		t.Errorf("exempt packets skip the user's rule: %v %s", err, out)
	}
}

// watchRules returns a function that tells what has changed since.
func watchRules(t *testing.T) func() []string {
	t.Helper()
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(socket.Close)
	// The kernel queues notices before it acknowledges a change, so those that
	// are there after it are all. A read that finds none must not wait.
	if err := unix.SetNonblock(socket.GetFd(), true); err != nil {
		t.Fatal(err)
	}
	return func() []string {
		var changes []string
		buffer := make([]byte, 1<<16)
		for {
			n, err := unix.Read(socket.GetFd(), buffer)
			if err == unix.EAGAIN {
				return changes
			}
			if err != nil {
				t.Fatal(err)
			}
			changes = append(changes, describeChange(t, buffer[:n]))
		}
	}
}

// describeChange reads one notice: "new 4" or "del 6".
func describeChange(t *testing.T, message []byte) string {
	t.Helper()
	notices, err := syscall.ParseNetlinkMessage(message)
	if err != nil || len(notices) != 1 {
		t.Fatalf("parse notice: %d, %v", len(notices), err)
	}
	verb := map[uint16]string{unix.RTM_NEWRULE: "new", unix.RTM_DELRULE: "del"}[notices[0].Header.Type]
	family := map[byte]string{unix.AF_INET: "4", unix.AF_INET6: "6"}[notices[0].Data[0]]
	return verb + " " + family
}
