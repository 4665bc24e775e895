package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet"
)

// neighbours are what other tools have on a router: tcx programs on both sides, an
// XDP program, a clsact filter, nft rules and ip rules of their own.
type neighbours struct {
	lab      *testnet.Lab
	programs map[string]ebpf.ProgramID // by the hook
	closers  []io.Closer
}

func moveIn(t *testing.T, lab *testnet.Lab) *neighbours {
	t.Helper()
	n := &neighbours{lab: lab, programs: make(map[string]ebpf.ProgramID)}
	t.Cleanup(func() {
		for _, c := range slices.Backward(n.closers) {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	for _, iface := range []string{lan, wan} {
		index := linkOf(t, lab, iface).Attrs().Index
		for name, kind := range map[string]ebpf.AttachType{"ingress": ebpf.AttachTCXIngress, "egress": ebpf.AttachTCXEgress} {
			program := n.pass(t, ebpf.SchedCLS, -1) // TC_ACT_UNSPEC: the next one, please
			n.attach(t, iface+" "+name, program, func() (link.Link, error) {
				return link.AttachTCX(link.TCXOptions{Interface: index, Program: program, Attach: kind})
			})
		}
		program := n.pass(t, ebpf.XDP, 2) // XDP_PASS
		n.attach(t, iface+" xdp", program, func() (link.Link, error) {
			return link.AttachXDP(link.XDPOptions{Interface: index, Program: program, Flags: link.XDPGenericMode})
		})
	}
	for _, line := range []string{
		"tc qdisc add dev eth1 clsact",
		"ip rule add fwmark 0x77 lookup 177 priority 7700", "ip -6 rule add fwmark 0x77 lookup 177 priority 7700",
		"nft add table inet theirs", "nft add chain inet theirs passing { type filter hook forward priority 5 ; }",
		"nft add rule inet theirs passing counter accept",
	} {
		words := strings.Fields(line)
		run(t, lab.Router, words[0], words[1:]...)
	}
	err := lab.Router.Netlink().FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: linkOf(t, lab, lan).Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Priority: 77, Protocol: unix.ETH_P_ALL,
		},
		Fd: n.pass(t, ebpf.SchedCLS, -1).FD(), Name: "theirs", DirectAction: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// pass is a program that lets everything pass.
func (n *neighbours) pass(t *testing.T, kind ebpf.ProgramType, verdict int32) *ebpf.Program {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: kind, Instructions: asm.Instructions{asm.Mov.Imm32(asm.R0, verdict), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	n.closers = append(n.closers, program)
	return program
}

func (n *neighbours) attach(t *testing.T, where string, program *ebpf.Program, attach func() (link.Link, error)) {
	t.Helper()
	err := n.lab.Router.Do(func() error {
		l, err := attach()
		if err == nil {
			n.closers = append(n.closers, l)
		}
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v", where, err)
	}
	info, err := program.Info()
	if err != nil {
		t.Fatal(err)
	}
	n.programs[where], _ = info.ID()
}

// home checks that all of them are still there.
func (n *neighbours) home(t *testing.T, when string) {
	t.Helper()
	for where, id := range n.programs {
		iface, hook, _ := strings.Cut(where, " ")
		kind := map[string]ebpf.AttachType{"ingress": ebpf.AttachTCXIngress, "egress": ebpf.AttachTCXEgress, "xdp": ebpf.AttachXDP}[hook]
		if hook == "xdp" {
			if xdp := linkOf(t, n.lab, iface).Attrs().Xdp; xdp == nil || xdp.ProgId != uint32(id) {
				t.Errorf("%s: the XDP program of %s is %+v, was %d", when, iface, xdp, id)
			}
			continue
		}
		var chain *link.QueryResult
		err := n.lab.Router.Do(func() (err error) {
			chain, err = link.QueryPrograms(link.QueryOptions{Target: linkOf(t, n.lab, iface).Attrs().Index, Attach: kind})
			return err
		})
		if err != nil || !slices.ContainsFunc(chain.Programs, func(p link.AttachedProgram) bool { return p.ID == id }) {
			t.Errorf("%s: %s has %+v (%v), not %d", when, where, chain, err, id)
		}
	}
	for command, want := range map[string]string{
		"tc filter show dev eth1 ingress":     "theirs",
		"ip rule show priority 7700":          "fwmark 0x77 lookup 177",
		"ip -6 rule show priority 7700":       "fwmark 0x77 lookup 177",
		"nft -s list table inet theirs":       "counter accept",
		"nft -s list table ip nat":            "masquerade",
		"tc qdisc show dev eth1 clsact":       "clsact",
		"sysctl net.ipv4.ip_forward":          "= 1",
		"sysctl net.ipv4.conf.eth1.rp_filter": "= 0",
	} {
		words := strings.Fields(command)
		if out := run(t, n.lab.Router, words[0], words[1:]...); !strings.Contains(out, want) {
			t.Errorf("%s: %s says %q, not %q", when, command, out, want)
		}
	}
}

// served checks what goes on for others: a service of the router's on the WAN, port
// forwards from outside and, by the WAN address, from the LAN itself (hairpin).
func served(t *testing.T, lab *testnet.Lab, when string) {
	t.Helper()
	for _, c := range []struct {
		from    *testnet.Node
		network string
		port    uint16
		want    string
	}{
		{lab.Internet, "tcp", 2222, "router"},
		{lab.Client2, "tcp", testnet.PortForwardTCP, ""},
		{lab.Internet, "tcp", testnet.PortForwardTCP, ""},
	} {
		if err := connects(c.from, c.network, at(testnet.WANRouter4, c.port).String(), c.want); err != nil {
			t.Errorf("%s: %s to port %d from %s: %v", when, c.network, c.port, c.from.Name, err)
		}
	}
}

// connects opens a connection; a server that speaks first has to say this.
func connects(n *testnet.Node, network, addr, want string) error {
	conn, err := n.Dial(context.Background(), network, addr)
	if err != nil || want == "" {
		if err == nil {
			err = conn.Close()
		}
		return err
	}
	defer conn.Close()
	said, err := io.ReadAll(conn)
	if err == nil && string(said) != want {
		err = fmt.Errorf("it says %q, not %q", said, want)
	}
	return err
}

// TestOthersSurvive: attach, reload, repair, upgrade by the daemon and detach leave
// what is somebody else's as it is, and working.
func TestOthersSurvive(t *testing.T) {
	lab := plainLab(t, testnet.Options{SecondLAN: true})
	detachLater(t, lab)
	n := moveIn(t, lab)
	greet(t, lab.Router, ":2222", "router")
	torrc := loneTorrc(t, lab)
	file := writeConfig(t, lab, `interfaces = ["eth1"]`)
	for _, step := range []struct {
		name string
		do   func()
	}{
		{"before", func() {}},
		{"attach", func() { mustTorbpf(t, lab, "attach", lan, "--no-wait", "--torrc", torrc) }},
		{"an exclusion", func() { mustTorbpf(t, lab, "exclude", "add", other4) }},
		{"a second LAN", func() { mustTorbpf(t, lab, "attach", lan2, "--no-wait") }},
		{"by clsact", func() { mustTorbpf(t, lab, "attach", "--no-wait", "--clsact") }},
		{"by tcx again", func() { mustTorbpf(t, lab, "attach", "--no-wait", "--clsact=false") }},
		{"detach of one", func() { mustTorbpf(t, lab, "detach", lan2) }},
		{"torbpf run, and a repair", func() {
			d := startRun(t, lab, file)
			eventually(t, patience, "the configuration", func() error { return sound(t, lab, lan) })
			pinsGone.inflict(t, lab)
			eventually(t, patience, "the repair", func() error { return sound(t, lab, lan) })
			d.stop(t)
		}},
		{"detach", func() { mustTorbpf(t, lab, "detach", "--all") }},
	} {
		step.do()
		n.home(t, step.name)
		served(t, lab, step.name)
	}
}

// greet serves a word to whoever connects, until the test ends.
func greet(t *testing.T, n *testnet.Node, addr, word string) {
	t.Helper()
	ln, err := n.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = io.WriteString(conn, word)
				conn.Close()
			}
		}
	}()
}
