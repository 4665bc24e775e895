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
	for _, c := range []struct {
		what     string
		owner    sockets.Process
		socket   sockets.Socket
		listens  bool
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
		{what: "where somebody listens", socket: connection, listens: true, want: abi.VerdictInbound},
		{what: "where anybody could listen", socket: sockets.Socket{TCP: true, Local: at("62.10.0.2:6881"), Remote: there}, listens: true, want: abi.VerdictNone},
		{what: "begun outside", socket: connection, known: &plan.Flow{Src: there, ReplySrc: here}, want: abi.VerdictInbound},
		{what: "begun here, from a port that is listened on", socket: connection, listens: true, known: &plan.Flow{Src: here, ReplySrc: there}, want: abi.VerdictNone},
		{what: "on this machine alone", socket: sockets.Socket{TCP: true, Local: at("127.0.0.1:22"), Remote: at("127.0.0.1:40000")}, listens: true, want: abi.VerdictNone},
		{what: "a listener", socket: sockets.Socket{TCP: true, Local: here, Listening: true}, listens: true, want: abi.VerdictNone},
		{what: "later, what nobody saw come", socket: connection, listens: true, followed: true, want: abi.VerdictNone},
		{what: "later, what the programs saw come", socket: sockets.Socket{TCP: true, Local: here, Remote: there, Mark: inbound | 7}, followed: true, want: abi.VerdictInbound},
		{what: "UDP", socket: sockets.Socket{Local: here, Remote: there}, listens: true, want: abi.VerdictNone},
	} {
		var flows []plan.Flow
		if c.known != nil {
			c.known.Protocol = unix.IPPROTO_TCP
			flows = append(flows, *c.known)
		}
		m := newMarker(p, now, flows)
		m.first, m.unprivileged, m.listening[here.Port()] = !c.followed, 1024, c.listens
		m.listening[6881] = c.listens
		c.socket.Owner = &c.owner
		if got, _ := m.class(&c.socket); got != c.want {
			t.Errorf("%s: class %v, want %v", c.what, got, c.want)
		}
	}
}
