package router

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/internal/sockets"
)

// TestOlderSocketsGetTheClassOfNewOnes: by who has them, the most specific rule first,
// and by who has begun their connections.
func TestOlderSocketsGetTheClassOfNewOnes(t *testing.T) {
	const now = 100 * time.Second
	browser, group, outer := plan.FileID{Major: 8, Minor: 1, Inode: 77}, uint64(501), uint64(500)
	p := &plan.Plan{Mark: plan.Mark{Shift: 24}, Client: &plan.Client{All: true, Identities: []plan.Identity{
		{Kind: config.KindUser, User: 117, Policy: config.PolicyDirect},
		{Kind: config.KindUser, User: 118, Policy: config.PolicyDirect, Ends: now - 1},
		{Kind: config.KindProgram, Program: browser, Policy: config.PolicyTor},
		{Kind: config.KindCgroup, Cgroup: outer, Policy: config.PolicyTor},
		{Kind: config.KindCgroup, Cgroup: group, Policy: config.PolicyDirect},
	}}}
	at := netip.MustParseAddrPort
	here, there := at("62.10.0.2:22"), at("51.20.0.80:40000")
	inbound := p.Mark.Class(uint32(abi.VerdictInbound))
	connection := sockets.Socket{TCP: true, Local: here, Remote: there}
	high := sockets.Socket{TCP: true, Local: at("62.10.0.2:6881"), Remote: there}
	listener := func(local string, user uint32) *sockets.Socket {
		return &sockets.Socket{TCP: true, Listening: true, Local: at(local), Owner: &sockets.Process{User: user}}
	}
	ssh, only6 := listener("0.0.0.0:22", 0), listener("[::]:6881", 0)
	only6.OnlyIPv6 = true
	for _, c := range []struct {
		what     string
		owner    sockets.Process
		socket   sockets.Socket
		listens  *sockets.Socket
		known    *plan.Flow
		followed bool // not the first attach
		want     abi.Verdict
	}{
		{what: "a user", owner: sockets.Process{User: 117}, want: abi.VerdictDirect},
		{what: "a user whose rule has ended", owner: sockets.Process{User: 118}, want: abi.VerdictNone},
		{what: "a program before its user", owner: sockets.Process{User: 117, Program: browser}, want: abi.VerdictTor},
		{what: "a group before its program", owner: sockets.Process{Program: browser, Cgroups: []uint64{group, outer, 1}}, want: abi.VerdictDirect},
		{what: "the group around", owner: sockets.Process{User: 117, Cgroups: []uint64{502, outer, 1}}, want: abi.VerdictTor},
		{what: "nobody", owner: sockets.Process{User: 1000}, socket: connection, want: abi.VerdictNone},
		{what: "where somebody listens", socket: connection, listens: ssh, want: abi.VerdictInbound},
		{what: "where anybody could listen", socket: high, listens: listener("0.0.0.0:6881", 1000), want: abi.VerdictNone},
		{what: "where root listens", socket: high, listens: listener("0.0.0.0:6881", 0), want: abi.VerdictInbound},
		{what: "where root listens, at this address", socket: high, listens: listener("62.10.0.2:6881", 0), want: abi.VerdictInbound},
		{what: "where root listens, at another address", socket: high, listens: listener("127.0.0.1:6881", 0), want: abi.VerdictNone},
		{what: "where root listens, by both families", socket: high, listens: listener("[::]:6881", 0), want: abi.VerdictInbound},
		{what: "where root listens, by IPv6 alone", socket: high, listens: only6, want: abi.VerdictNone},
		{what: "where root listens, at another port", socket: high, listens: ssh, want: abi.VerdictNone},
		{what: "begun outside", socket: connection, known: &plan.Flow{Src: there, ReplySrc: here}, want: abi.VerdictInbound},
		{what: "begun here, from a port that is listened on", socket: connection, listens: ssh, known: &plan.Flow{Src: here, ReplySrc: there}, want: abi.VerdictNone},
		{what: "on this machine alone", socket: sockets.Socket{TCP: true, Local: at("127.0.0.1:22"), Remote: at("127.0.0.1:40000")}, listens: ssh, want: abi.VerdictNone},
		{what: "a listener", socket: sockets.Socket{TCP: true, Local: here, Listening: true}, listens: ssh, want: abi.VerdictNone},
		{what: "later, what nobody saw come", socket: connection, listens: ssh, followed: true, want: abi.VerdictNone},
		{what: "later, what the programs saw come", socket: sockets.Socket{TCP: true, Local: here, Remote: there, Mark: inbound | 7}, followed: true, want: abi.VerdictInbound},
		{what: "UDP", socket: sockets.Socket{Local: here, Remote: there}, listens: ssh, want: abi.VerdictNone},
	} {
		var flows []plan.Flow
		if c.known != nil {
			c.known.Protocol = unix.IPPROTO_TCP
			flows = append(flows, *c.known)
		}
		m := newMarker(p, now, flows)
		m.first, m.unprivileged = !c.followed, 1024
		if c.listens != nil {
			if err := m.listen(c.listens); err != nil {
				t.Fatal(err)
			}
		}
		c.socket.Owner = &c.owner
		if got, _ := m.class(&c.socket); got != c.want {
			t.Errorf("%s: class %v, want %v", c.what, got, c.want)
		}
	}
}

// TestTorItselfIsMarkedApart by what tells it from others, and nobody else is.
func TestTorItselfIsMarkedApart(t *testing.T) {
	m := newMarker(&plan.Plan{Mark: plan.Mark{Shift: 24}}, 0, nil)
	for _, c := range []struct {
		class abi.Verdict
		by    plan.Identity
		name  string
		want  uint32
	}{
		{abi.VerdictDirect, plan.Identity{Kind: config.KindUser, User: 117, Rule: -1, Tor: true}, "tor", 0xf1000000},
		{abi.VerdictDirect, plan.Identity{Kind: config.KindUser, User: 117, Rule: -1, Tor: true}, "obfs4proxy", 0xe1000000},
		{abi.VerdictDirect, plan.Identity{Kind: config.KindUser, User: 117, Rule: -1}, "tor", 0x01000000},
		{abi.VerdictInbound, plan.Identity{Tor: true}, "tor", 0x03000000},
		{abi.VerdictNone, plan.Identity{}, "", 0},
	} {
		if got := m.bits(c.class, c.by, &sockets.Process{Name: c.name}); got != c.want {
			t.Errorf("class %s by %+v: bits %#x, want %#x", c.class, c.by, got, c.want)
		}
	}
}
