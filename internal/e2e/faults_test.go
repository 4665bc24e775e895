package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet"
)

// fault takes one part of torbpf away, as a careless administrator would.
type fault struct {
	name    string
	part    string // of torbpf; two faults of one part are no pair
	inflict func(*testing.T, *testnet.Lab)
}

var (
	tcxGone = fault{"tcx link gone", "tc", func(t *testing.T, lab *testnet.Lab) {
		removeAll(t, filepath.Join(pinDir(t, lab), "links", "lan-[0-9]*"))
	}}
	filterGone = fault{"tc filter gone", "tc", func(t *testing.T, lab *testnet.Lab) {
		run(t, lab.Router, "tc", "filter", "del", "dev", lan, "ingress")
	}}
	qdiscGone = fault{"clsact gone", "tc", func(t *testing.T, lab *testnet.Lab) {
		run(t, lab.Router, "tc", "qdisc", "del", "dev", lan, "clsact")
	}}
	tableGone = fault{"nft table gone", "nft", func(t *testing.T, lab *testnet.Lab) {
		run(t, lab.Router, "nft", "delete", "table", "inet", "torbpf")
	}}
	rulesetGone = fault{"nft ruleset flushed", "nft", func(t *testing.T, lab *testnet.Lab) {
		flushRuleset(t, lab)
	}}
	renamed = fault{"interface renamed", "name", func(t *testing.T, lab *testnet.Lab) {
		rename(t, lab, lan, "lan0")
	}}
	processesDead = fault{"processes dead", "processes", func(t *testing.T, lab *testnet.Lab) {
		pids := ourProcesses(t, lab)
		if len(pids) < 2 {
			t.Fatalf("only the processes %v of tor and the sentry were found: the fault would be none", pids)
		}
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				t.Fatalf("kill %d: %v", pid, err)
			}
		}
		eventually(t, patience, "the end of all processes", func() error {
			if left := ourProcesses(t, lab); len(left) > 0 {
				return fmt.Errorf("%v are left", left)
			}
			return nil
		})
	}}
)

func removeAll(t *testing.T, pattern string) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %v, %v", pattern, files, err)
	}
	for _, f := range files {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
}

// flushRuleset takes all of nftables away and gives the user's own rules back.
func flushRuleset(t *testing.T, lab *testnet.Lab) {
	t.Helper()
	own := run(t, lab.Router, "nft", "list", "table", "ip", "nat")
	run(t, lab.Router, "nft", "flush", "ruleset")
	feed(t, lab, own, "nft", "-f", "-")
}

// feed runs a program in the router with a text as its input.
func feed(t *testing.T, lab *testnet.Lab, input, name string, args ...string) {
	t.Helper()
	cmd := lab.Router.Command(t.Context(), name, args...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

// rename gives an interface another name. Its IPv6 addresses go when it is down.
func rename(t *testing.T, lab *testnet.Lab, from, to string) {
	t.Helper()
	run(t, lab.Router, "ip", "link", "set", from, "down")
	run(t, lab.Router, "ip", "link", "set", from, "name", to)
	run(t, lab.Router, "ip", "link", "set", to, "up")
	for _, a := range []string{testnet.LANRouterULA.String(), testnet.LANRouter6.String()} {
		run(t, lab.Router, "ip", "addr", "add", a+"/64", "dev", to, "nodad")
	}
}

// ourProcesses are tor and the sentry of a router.
func ourProcesses(t *testing.T, lab *testnet.Lab) []int {
	t.Helper()
	var out []int
	for _, field := range strings.Fields(run(t, lab.Router, "ip", "netns", "pids", lab.Router.NetNS)) {
		var pid int
		if _, err := fmt.Sscan(field, &pid); err != nil {
			t.Fatal(err)
		}
		comm, err := os.ReadFile(filepath.Join("/proc", field, "comm"))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if name := strings.TrimSpace(string(comm)); name == "tor" || strings.HasPrefix(name, "torbpf") {
			out = append(out, pid)
		}
	}
	return out
}

// TestSecondLayerHolds: whatever one or two parts of torbpf are taken away, no
// packet of a LAN gets out, and attaching again repairs it all.
func TestSecondLayerHolds(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	w := watchLeaks(t, lab)
	for _, mode := range []struct {
		name   string
		args   []string
		faults []fault
	}{
		{"tcx", nil, []fault{tcxGone, tableGone, rulesetGone, renamed, processesDead}},
		{"clsact", []string{"--clsact"}, []fault{filterGone, qdiscGone, tableGone, rulesetGone, renamed, processesDead}},
	} {
		t.Run(mode.name+"/nothing", func(t *testing.T) { holds(t, w, mode.args) })
		for i, first := range mode.faults {
			t.Run(mode.name+"/"+first.name, func(t *testing.T) {
				holds(t, w, mode.args, first)
			})
			for _, second := range mode.faults[i+1:] {
				if first.part == second.part {
					continue
				}
				t.Run(mode.name+"/"+first.name+" and "+second.name, func(t *testing.T) {
					holds(t, w, mode.args, first, second)
				})
			}
		}
	}
}

// holds attaches, inflicts faults and repairs them.
func holds(t *testing.T, w *leakWatch, args []string, faults ...fault) {
	lab := w.lab
	defer func() {
		if _, err := lab.Router.Netlink().LinkByName("lan0"); err == nil {
			rename(t, lab, "lan0", lan)
		}
	}()
	attach(t, lab, append([]string{lan, "--no-wait", "--torrc", loneTorrc(t, lab)}, args...)...)
	release := holdGateOpen(t, lab)
	defer release()
	for _, f := range faults {
		f.inflict(t, lab)
	}
	noLeaks(t, w, "with the fault")
	release()
	repairs(t, lab, args)
}

func noLeaks(t *testing.T, w *leakWatch, when string) {
	t.Helper()
	leaks := w.leaks(t)
	for i, l := range leaks {
		if i == 20 {
			t.Errorf("%s: and %d more", when, len(leaks)-i)
			break
		}
		t.Errorf("%s: %s", when, l)
	}
}

// repairs attaches once more, by the name that the LAN has now, and has status
// find every part in its place.
func repairs(t *testing.T, lab *testnet.Lab, args []string) {
	t.Helper()
	name := lan
	if _, err := lab.Router.Netlink().LinkByName("lan0"); err == nil {
		name = "lan0"
	}
	mustTorbpf(t, lab, append([]string{"attach", name, "--no-wait", "--torrc", loneTorrc(t, lab)}, args...)...)
	if pids := ourProcesses(t, lab); len(pids) != 2 {
		t.Errorf("after the repair: processes %v, want tor and the sentry", pids)
	}
	var status struct {
		Problems   []string
		Interfaces []struct{ Name string }
	}
	if err := json.Unmarshal([]byte(mustTorbpf(t, lab, "status", "--json").stdout), &status); err != nil {
		t.Fatal(err)
	}
	if len(status.Problems) > 0 || len(status.Interfaces) != 1 || status.Interfaces[0].Name != name {
		t.Errorf("after the repair: %+v", status)
	}
}

// TestTheBatterySeesLeaks: with all guards gone, each kind of leak that
// TestSecondLayerHolds looks for is seen.
func TestTheBatterySeesLeaks(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	w := watchLeaks(t, lab)
	attach(t, lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab))
	removeAll(t, filepath.Join(pinDir(t, lab), "links", "*"))
	flushRuleset(t, lab)
	for _, family := range []string{"-4", "-6"} {
		for range 2 * len(strings.Split(run(t, lab.Router, "ip", family, "rule", "list", "protocol", "84"), "\n")) {
			if !strings.Contains(run(t, lab.Router, "ip", family, "rule", "list", "protocol", "84"), "blackhole") {
				break
			}
			run(t, lab.Router, "ip", family, "rule", "del", "protocol", "84")
		}
	}
	found := strings.Join(w.leaks(t), "\n")
	for _, want := range []string{
		"wan: tcp 62.10.0.2:[0-9]+ > 51.20.0.80:80", `wan: tcp \[2a0d:50::11\]:[0-9]+ > \[2a0e:20::80\]:80`,
		"wan: udp 62.10.0.2:[0-9]+ > 51.20.0.80:443", `wan: udp \[2a0d:50::12\]:[0-9]+ > \[2a0e:20::80\]:443`,
		"wan: icmp 62.10.0.2:0 > 51.20.0.80:0", `wan: icmpv6 \[2a0d:50::11\]:0 > \[2a0e:20::80\]:0`,
		"wan: udp .* > 9.9.9.9:53", `wan: udp .* > \[2620:fe::fe\]:53`, "wan: tcp .* > 9.9.9.9:53",
		"wan: ip-47 ", "wan: ip-132 ", "wan: udp .* fragment",
		"router's resolver: udp client1-r1-to-192-168-50-1.", "router's resolver: udp client2-r1-to-2a0d_50__1.",
		"router's resolver: udp client1-r1-to-fd50__1.", "router's resolver: udp client1-r1-to-fe80__ff_fe00_5001.",
		"router's resolver: udp client1-r1-to-62-10-0-2.", "router's resolver: udp pieces-client1-r1-to-192-168-50-1.",
		"router's resolver: tcp dial-client1-r1-192-168-50-1.", "router's resolver: tcp dial-client2-r1-2a0d_50__1.",
		"ISP's resolver: udp client1-r1-to-192-168-50-1.", "ISP's resolver: udp client1-r1-to-62-53-0-53.",
		"web: .* 62.10.0.2", "web: .* 2a0d:50::11",
	} {
		if !regexp.MustCompile(want).MatchString(found) {
			t.Errorf("no leak like %q was seen", want)
		}
	}
	if t.Failed() {
		t.Log(found)
	}
}
