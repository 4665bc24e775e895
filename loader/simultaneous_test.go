package loader

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
)

// Who begins, and who is asked and begins as well, to catch it.
var beginner, catcher = netip.MustParseAddrPort(wanAddr + ":40000"), netip.MustParseAddrPort(serverAddr + ":443")

// connecting is a socket that has sent a SYN.
func connecting(t *testing.T, ns namespace, from, to netip.AddrPort) (fd int) {
	t.Helper()
	must(t, ns.do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return err
		}
		t.Cleanup(func() { unix.Close(fd) })
		if err := unix.Bind(fd, &unix.SockaddrInet4{Port: int(from.Port()), Addr: from.Addr().As4()}); err != nil {
			return err
		}
		if err = unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}); err == unix.EINPROGRESS {
			return nil
		}
		return err
	}))
	return fd
}

func stateOf(t *testing.T, fd int) uint8 {
	t.Helper()
	info, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)
	must(t, err)
	return info.State
}

// TestWhoBeginsIsNotInbound though a SYN of the peer's crosses its own.
func TestWhoBeginsIsNotInbound(t *testing.T) {
	needCookie(t)
	l := newLab(t)
	d := l.open(t, false)
	guards(t, d, l.clientPlan())
	must(t, errors.Join(netfilterGuards[1].detach(d)...)) // it would stop the answer
	run(t, `
		nft add table ip user
		nft add chain ip user output { type filter hook output priority 0 ; }
		nft add rule ip user output tcp flags syn / syn,ack drop`) // or it were answered by a reset
	own := connecting(t, here(t), beginner, catcher)
	connecting(t, l.server, catcher, beginner)
	await(t, "the connection", func() bool { return stateOf(t, own) == unix.BPF_TCP_ESTABLISHED })
	mark, err := unix.GetsockoptInt(own, unix.SOL_SOCKET, unix.SO_MARK)
	must(t, err)
	if uint32(mark) != markNone {
		t.Errorf("it has mark %#x, want none", mark)
	}
	if got := markOf(t, acceptFrom(t, "tcp4", l.server, net.JoinHostPort(wanAddr, "22"))); got != markInbound {
		t.Errorf("what is accepted has mark %#x, want %#x", got, markInbound)
	}
}

// TestWhoBeginsAnswersNobodyPastTheUplinkGuard: its own SYN is stopped, but a SYN of the
// peer's would have it send another one with its answer.
func TestWhoBeginsAnswersNobodyPastTheUplinkGuard(t *testing.T) {
	needCookie(t)
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			l := newLab(t)
			d := l.open(t, mode.clsact)
			p := l.clientPlan()
			p.Uplinks = l.plan().Uplinks
			g := guards(t, d, p)
			must(t, g.collection.Maps[abi.DatapathMapGates].Put(uint32(0), gateOpen))
			must(t, errors.Join(netfilterGuards[1].detach(d)...)) // so that nothing else stops it
			expectNoAnswerToTheCatcher(t, l)
		})
	}
}

// TestWhoBeginsAnswersNobodyPastTheThirdGuard: no uplink has one, and nftables is gone.
func TestWhoBeginsAnswersNobodyPastTheThirdGuard(t *testing.T) {
	needCookie(t)
	needNetfilter(t)
	l := newLab(t)
	d := l.open(t, false)
	guards(t, d, l.clientPlan())
	expectNoAnswerToTheCatcher(t, l)
}

// expectNoAnswerToTheCatcher wants that neither a SYN nor what answers another one leaves.
func expectNoAnswerToTheCatcher(t *testing.T, l *lab) {
	t.Helper()
	own := connecting(t, here(t), beginner, catcher)
	peer := connecting(t, l.server, catcher, beginner)
	await(t, "the peer's SYN", func() bool { return stateOf(t, own) != unix.BPF_TCP_SYN_SENT })
	// What was sent before has arrived when this has.
	acceptFrom(t, "tcp4", l.server, net.JoinHostPort(wanAddr, "22"))
	if own, peer := stateOf(t, own), stateOf(t, peer); own != unix.BPF_TCP_SYN_RECV || peer != unix.BPF_TCP_SYN_SENT {
		t.Errorf("the states are %d and %d, want %d and %d", own, peer, unix.BPF_TCP_SYN_RECV, unix.BPF_TCP_SYN_SENT)
	}
}
