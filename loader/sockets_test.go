package loader

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/cgroup"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/testnet"
)

// guardedPlan is clientPlan with a guard at the uplink.
func (l *lab) guardedPlan(identities ...plan.Identity) *plan.Plan {
	p := l.clientPlan(identities...)
	p.Uplinks = l.plan().Uplinks
	return p
}

// ownSocket is one of the test's.
type ownSocket struct {
	l  *lab
	d  *Datapath
	fd int
}

func (l *lab) newOwn(t *testing.T, d *Datapath) *ownSocket {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	return &ownSocket{l: l, d: d, fd: fd}
}

// leaves sends until a packet has come to the server, or was stopped at the uplink: by a
// reason that says whether its mark would have let it out.
func (s *ownSocket) leaves(t *testing.T) bool {
	t.Helper()
	must(t, errors.Join(netfilterGuards[1].detach(s.d)...)) // the uplink's is asked: without nftables that one lets nothing reach it
	server, wan, reason := s.l.newCapture(t), s.l.wan.Attrs().Index, abi.ReasonClientGuard
	if mark, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_MARK); err != nil || uint32(mark) == markDirect {
		reason = abi.ReasonClientEnded
	}
	before := packets(t, s.d, wan, abi.VerdictRefused, reason)
	to := &unix.SockaddrInet4{Port: int(otherUDP.to.Port()), Addr: otherUDP.to.Addr().As4()}
	left := false
	await(t, "a packet to leave, or to be stopped", func() bool {
		must(t, unix.Sendto(s.fd, []byte("hello"), 0, to))
		server.read()
		left = server.seen[otherUDP] > 0
		return left || packets(t, s.d, wan, abi.VerdictRefused, reason) > before
	})
	return left
}

func (s *ownSocket) expect(t *testing.T, what string, leaves bool) {
	t.Helper()
	if got := s.leaves(t); got != leaves {
		t.Errorf("%s: its packets leave: %t, want %t", what, got, leaves)
	}
}

func (s *ownSocket) setMark(t *testing.T, mark uint32) {
	t.Helper()
	must(t, unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark)))
}

// ownIdentity is a rule of a kind that lets the test out.
func ownIdentity(t *testing.T, kind config.Kind) plan.Identity {
	t.Helper()
	switch kind {
	case config.KindProgram:
		self, err := os.Readlink("/proc/self/exe")
		must(t, err)
		return program(t, self, config.PolicyDirect)
	case config.KindCgroup:
		group := testCgroup(t, "own/inner")
		enterCgroup(t, group)
		return inCgroup(t, filepath.Dir(group), config.PolicyDirect)
	default:
		return user(0, config.PolicyDirect)
	}
}

// enterCgroup has the test be in a control group until it ends.
func enterCgroup(t *testing.T, path string) {
	t.Helper()
	root, err := cgroup.Tree()
	must(t, err)
	groups, err := os.ReadFile("/proc/self/cgroup")
	must(t, err)
	_, before, v2 := strings.Cut(string(groups), "0::")
	before, _, _ = strings.Cut(before, "\n")
	if !v2 {
		t.Fatalf("the test is in no control group: %s", groups)
	}
	join := func(path string) error {
		return os.WriteFile(filepath.Join(path, "cgroup.procs"), []byte("0"), 0)
	}
	must(t, join(path))
	t.Cleanup(func() { must(t, join(filepath.Join(root, before))) })
}

// TestASocketIsDirectForAsLongAsItsRule: the mark stays when that ends, and nobody is there
// to take it back; a rule that was removed ends with the policy.
func TestASocketIsDirectForAsLongAsItsRule(t *testing.T) {
	needCookie(t)
	for _, kind := range []config.Kind{config.KindUser, config.KindCgroup, config.KindProgram} {
		t.Run(string(kind), func(t *testing.T) {
			l := newLab(t)
			d := l.open(t, false)
			id := ownIdentity(t, kind)
			stranger := user(65501, config.PolicyDirect)
			must(t, guards(t, d, l.guardedPlan(id, stranger)).pin())
			lasting := l.newOwn(t, d)
			lasting.expect(t, "while the rule is in force", true)
			must(t, guards(t, d, l.guardedPlan(stranger)).pin())
			lasting.expect(t, "when the rule was removed", false)
			g := guards(t, d, l.guardedPlan(id, stranger))
			must(t, g.pin())
			lasting.expect(t, "when the rule is back", true)
			ending := l.newOwn(t, d)
			ending.expect(t, "before its end", true)
			now, err := kernel.BootTime()
			must(t, err)
			id.Ends = now + time.Second
			must(t, fillIdentities(g.collection.Maps, l.guardedPlan(id))) // as if it had been so from the first
			await(t, "its end", func() bool { return !ending.leaves(t) })
			later, err := kernel.BootTime()
			must(t, err)
			if later < id.Ends {
				t.Errorf("it ended at %s, want it to do so at %s", later, id.Ends)
			}
			lasting.expect(t, "one that was there before, after its end", false)
			l.newOwn(t, d).expect(t, "a new one, after its end", false)
			id.ThenTor = true
			must(t, guards(t, d, l.guardedPlan(id)).pin())
			ending.expect(t, "when there is something of Tor's beneath it", false)
		})
	}
}

// TestAMarkAloneLetsNoSocketOut: user space notes by which rule it has given it.
func TestAMarkAloneLetsNoSocketOut(t *testing.T) {
	needCookie(t)
	l := newLab(t)
	d := l.open(t, false)
	older := l.newOwn(t, d)
	const id = 65501 // whose sockets the test has none of
	g := guards(t, d, l.guardedPlan(user(id, config.PolicyDirect)))
	must(t, g.pin())
	older.expect(t, "without a mark", false)
	older.setMark(t, markDirect)
	older.expect(t, "with a mark that nobody has accounted for", false)
	must(t, g.NoteSocket(older.fd, user(id, config.PolicyDirect)))
	older.expect(t, "noted", true)
	if other := guards(t, d, l.guardedPlan(user(id, config.PolicyDirect))); other.LostSockets() {
		t.Error("another generation knows of no socket")
	}
	older.expect(t, "in the next generation", true)
	must(t, g.NoteSocket(older.fd, user(id+1, config.PolicyDirect)))
	older.expect(t, "noted with a rule that there is not", false)
	older.setMark(t, markInbound)
	older.expect(t, "as one that was begun outside", true)
}

// TestWhatNFTablesLetsOutHasNoRuleOfItsSocket: a class is the packet's there.
func TestWhatNFTablesLetsOutHasNoRuleOfItsSocket(t *testing.T) {
	needCookie(t)
	l := newLab(t)
	d := l.open(t, false)
	must(t, guards(t, d, l.guardedPlan()).pin())
	s := l.newOwn(t, d)
	s.expect(t, "without a class", false)
	run(t, `
		nft add table inet user
		nft add chain inet user output { type filter hook output priority 0 ; }
		nft add rule inet user output udp dport 7001 meta mark set 0x01000000`)
	s.expect(t, "of a class by nftables", true)
}

// TestExecOnlyLetsGoWhatIsOfNoClass, so a rule that has ended stops nothing there.
func TestExecOnlyLetsGoWhatIsOfNoClass(t *testing.T) {
	needCookie(t)
	l := newLab(t)
	d := l.open(t, false)
	p := l.guardedPlan()
	p.Client.All = false
	must(t, guards(t, d, p).pin())
	s := l.newOwn(t, d)
	s.setMark(t, markDirect)
	s.expect(t, "marked", true)
}

// noted reads by which rule a socket is direct.
func noted(t *testing.T, d *Datapath, fd int) abi.DatapathIdentity {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(d.mapPin(abi.DatapathMapClientSockets), nil)
	must(t, err)
	defer m.Close()
	var who abi.DatapathIdentity
	must(t, m.Lookup(int32(fd), &who))
	return who
}

// TestAcceptedSocketsOfWhoIsExempt are inbound if they were begun outside, whatever becomes
// of the rule; of others the rule is that of the listener.
func TestAcceptedSocketsOfWhoIsExempt(t *testing.T) {
	needCookie(t)
	l := newLab(t)
	d := l.open(t, false)
	must(t, guards(t, d, l.guardedPlan(user(0, config.PolicyDirect))).pin())
	var plain net.ListenConfig
	plain.SetMultipathTCP(false)
	for _, c := range []struct {
		from namespace
		to   string
		mark uint32
	}{
		{l.server, net.JoinHostPort(wanAddr, "22"), markInbound},
		{l.client, net.JoinHostPort(routerAddr, "22"), markDirect},
	} {
		listener, err := plain.Listen(t.Context(), "tcp4", c.to)
		must(t, err)
		must(t, c.from.do(func() error {
			conn, err := net.DialTimeout("tcp4", c.to, testnet.Patience(5*time.Second))
			if err == nil {
				t.Cleanup(func() { conn.Close() })
			}
			return err
		}))
		conn, err := listener.Accept()
		must(t, err)
		raw, err := conn.(*net.TCPConn).SyscallConn()
		must(t, err)
		must(t, raw.Control(func(fd uintptr) {
			if mark, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK); err != nil || uint32(mark) != c.mark {
				t.Errorf("at %s: the accepted socket has mark %#x, %v; want %#x", c.to, mark, err, c.mark)
			}
			if got, want := noted(t, d, int(fd)), identityOf(user(0, config.PolicyDirect)); got != want {
				t.Errorf("at %s: the accepted socket is noted with %+v, want %+v", c.to, got, want)
			}
		}))
		must(t, errors.Join(conn.Close(), listener.Close()))
	}
}

// TestTheLastWordOfAConnectionLeaves: the kernel acknowledges the other end's FIN by a socket
// of its own.
func TestTheLastWordOfAConnectionLeaves(t *testing.T) {
	needCookie(t)
	l := newLab(t)
	d := l.open(t, false)
	must(t, guards(t, d, l.guardedPlan(user(0, config.PolicyDirect))).pin())
	var listener net.Listener
	must(t, l.server.do(func() (err error) {
		listener, err = net.Listen("tcp4", net.JoinHostPort(serverAddr, "7"))
		return err
	}))
	defer listener.Close()
	conn, err := net.DialTimeout("tcp4", listener.Addr().String(), testnet.Patience(10*time.Second))
	must(t, err)
	far, err := listener.Accept()
	must(t, err)
	must(t, conn.Close())
	if _, err := far.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the other end reads %v", err)
	}
	must(t, far.Close())
	await(t, "the end of the connection", func() bool {
		var open string
		must(t, l.server.do(func() error { open = run(t, "ss -tnH state last-ack"); return nil }))
		return open == ""
	})
	if n := packets(t, d, l.wan.Attrs().Index, abi.VerdictRefused, abi.ReasonClientEnded); n > 0 {
		t.Errorf("%d packets were stopped", n)
	}
}

// TestMPTCPOfWhoIsExemptLeaves, though the kernel makes the sockets whose packets they are.
func TestMPTCPOfWhoIsExemptLeaves(t *testing.T) {
	needCookie(t)
	if _, err := os.Stat("/proc/sys/net/mptcp"); err != nil {
		t.Skip("this kernel was built without MPTCP (CONFIG_MPTCP)")
	}
	l := newLab(t)
	d := l.open(t, false)
	must(t, guards(t, d, l.guardedPlan(user(0, config.PolicyDirect))).pin())
	var c net.ListenConfig
	c.SetMultipathTCP(true)
	var dialer net.Dialer
	dialer.SetMultipathTCP(true)
	dialer.Timeout = testnet.Patience(10 * time.Second)
	router := here(t)
	for _, way := range []struct {
		name       string
		from, to   namespace
		at, answer string
	}{
		{"out", router, l.server, serverAddr, "7"},
		{"in", l.server, router, wanAddr, "7"},
	} {
		var listener net.Listener
		must(t, way.to.do(func() (err error) {
			listener, err = c.Listen(t.Context(), "tcp4", net.JoinHostPort(way.at, way.answer))
			return err
		}))
		accepted := make(chan error, 1)
		go func() {
			conn, err := listener.Accept()
			if err == nil {
				defer conn.Close()
				_, err = conn.Write([]byte("hello"))
			}
			accepted <- err
		}()
		must(t, way.from.do(func() error {
			conn, err := dialer.DialContext(t.Context(), "tcp4", listener.Addr().String())
			if err != nil {
				return err
			}
			defer conn.Close()
			must(t, conn.SetDeadline(time.Now().Add(testnet.Patience(10*time.Second))))
			_, err = conn.Read(make([]byte, 5))
			return err
		}))
		must(t, <-accepted)
		must(t, listener.Close())
		if n := packets(t, d, l.wan.Attrs().Index, abi.VerdictRefused, abi.ReasonClientEnded); n > 0 {
			t.Errorf("%s: %d packets were stopped", way.name, n)
		}
	}
}
