package nft

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
)

// blockReplies is what tc makes of a LAN host's packets that answer somebody
// outside: TCP is for Tor, the rest pending.
const blockReplies = `iifname { "lan0", "lan1" } meta l4proto tcp meta mark set 0x08000000
		iifname { "lan0", "lan1" } meta l4proto != tcp meta mark set 0x0d000000
		iifname { "lan0", "lan1" } ip daddr 198.51.100.2`

// classifyAll marks as blockReplies says; packets to the router's address on
// the WAN are local, as tc would have it.
func (l *lab) classifyAll() { l.classify(blockReplies, abi.VerdictLocal) }

// countInbound counts packets that leave towards the client with the class
// from which tc's program there learns.
func (l *lab) countInbound(match string) func() int {
	load(l.t, fmt.Sprintf(`
table inet watch
delete table inet watch
table inet watch {
	counter inbound {}
	chain postrouting {
		type filter hook postrouting priority 300;
		oifname "lan0" meta mark & 0x0f000000 == 0x03000000 %s counter name inbound
	}
}`, match))
	return func() int { return countOf(l.t, nft(l.t, "", "list", "counter", "inet", "watch", "inbound")) }
}

// TestPortForwardAnswersLeaveDirectly although tc blocks them.
func TestPortForwardAnswersLeaveDirectly(t *testing.T) {
	l := newLab(t)
	l.apply(l.plan())
	l.serve(l.client, "tcp", ":80", "client")
	l.serve(l.client, "udp", ":81", "client")
	l.classifyAll()
	first := l.countInbound("tcp flags & (syn | ack) == syn")
	for i, to := range []string{wan4 + ":8080", "[" + client6 + "]:80"} {
		l.mustAnswer("client", l.outside, "tcp", to)
		if got := first(); got != i+1 {
			t.Errorf("%s: %d first packets reached the LAN as inbound, want %d", to, got, i+1)
		}
	}
	l.mustAnswer("client", l.outside, "udp", wan4+":8081")
	l.mustAnswer("client", l.outside, "udp", "["+client6+"]:81")
	l.mustPing(l.outside, client6, "ping from outside")
	l.mustAnswer("client", l.dmz, "tcp", client4+":80")
}

// TestLaterPacketsFromOutsideTeachTheLAN as well as the first.
func TestLaterPacketsFromOutsideTeachTheLAN(t *testing.T) {
	l := newLab(t)
	l.apply(l.plan())
	l.serve(l.client, "tcp", ":80", "client")
	l.classifyAll()
	later := l.countInbound("tcp flags & (syn | ack) == ack")
	l.mustAnswer("client", l.outside, "tcp", wan4+":8080")
	l.eventually("an ACK from outside carries the class", func() bool { return later() > 0 })
}

func TestInboundOffBlocksAnswers(t *testing.T) {
	l := newLab(t)
	p := l.plan()
	p.Inbound = false
	l.apply(p)
	l.serve(l.client, "tcp", ":80", "client")
	l.classifyAll()
	for _, to := range []string{wan4 + ":8080", "[" + client6 + "]:80"} {
		l.mustDrop(DroppedBlocked, to, func(ctx context.Context) (string, error) {
			return ask(ctx, l.outside, "tcp", "", to)
		})
	}
}

// TestAnswersKeepOtherClasses: what tc calls DNS stays Tor's, even to one who
// began from port 53 and waits for queries.
func TestAnswersKeepOtherClasses(t *testing.T) {
	l := newLab(t)
	l.apply(l.plan())
	l.serve(l.client, "udp", ":81", "client")
	for _, class := range []abi.Verdict{abi.VerdictDNS, abi.VerdictResolver, abi.VerdictOnion, abi.VerdictRefused} {
		l.classify(`iifname "lan0"`, class)
		what := fmt.Sprintf("an answer of class %d", class)
		l.mustDrop(DroppedBlocked, what, func(ctx context.Context) (string, error) {
			return ask(ctx, l.outside, "udp", "", wan4+":8081")
		})
	}
}

// TestOtherConnectionsKeepTheirCtMark: what does not go to a LAN, or began
// there or on the router, is none of ours.
func TestOtherConnectionsKeepTheirCtMark(t *testing.T) {
	l := newLab(t)
	l.apply(l.plan())
	l.serve(nil, "tcp", ":22", "router")
	l.serve(l.outside, "tcp", ":80", "outside")
	l.serve(l.client, "tcp", ":80", "client")
	l.classify(`iifname { "lan0", "lan1" }`, abi.VerdictDirect)
	load(t, `table inet user_marks { chain prerouting { type filter hook prerouting priority mangle; ct state new ct mark set ct mark | 0x5; }; }`)
	l.mustAnswer("router", l.outside, "tcp", wan4+":22")
	l.mustAnswer("outside", l.dmz, "tcp", outside4+":80")
	l.mustAnswer("outside", l.client, "tcp", outside4+":80")
	l.mustAnswer("client", nil, "tcp", client4+":80")
	if marked := l.conntrack("-L", "--mark", "0x03000000/0x0f000000"); marked != "" {
		t.Errorf("connections that are not inbound bear the mark:\n%s", marked)
	}
	l.classify(`iifname { "lan0", "lan1" }`, abi.VerdictTor)
	l.mustAnswer("client", l.outside, "tcp", wan4+":8080")
	if !matches(l.conntrack("-L", "--mark", "0x03000005/0x0f0000ff"), `dport=8080`) {
		t.Errorf("an inbound connection lost the user's ct mark:\n%s", l.conntrack("-L"))
	}
}

// TestASpoofedSourceIsNotInbound: a LAN host that begins in the name of
// somebody outside gets no answers out of the LAN.
func TestASpoofedSourceIsNotInbound(t *testing.T) {
	newLab(t).spoof()
}

// TestASpoofedSourceWithAnExemptMarkIsNotInbound although it has no class.
func TestASpoofedSourceWithAnExemptMarkIsNotInbound(t *testing.T) {
	l := newLab(t)
	load(t, `table inet user_mangle { chain prerouting { type filter hook prerouting priority mangle; iifname "lan1" meta mark set 0x1; }; }`)
	l.spoof()
}

// spoof calls the port forwards from the second LAN under an address outside.
// UDP goes first: it repeats nothing that could be counted later.
func (l *lab) spoof() {
	l.t.Helper()
	p := l.plan()
	p.Rules = config.DirectMarks(config.Mark{Value: 0x1, Mask: 0xff})
	l.apply(p)
	l.serve(l.client, "tcp", ":80", "client")
	l.serve(l.client, "udp", ":81", "client")
	l.classifyAll()
	heard := l.outside.countAll(l.t)
	if err := bringUp(l.client2.nl, "lo", []string{outside4 + "/32"}); err != nil {
		l.t.Fatal(err)
	}
	for _, call := range []struct{ network, to string }{{"udp", wan4 + ":8081"}, {"tcp", wan4 + ":8080"}} {
		l.mustDrop(DroppedBlocked, call.network, func(ctx context.Context) (string, error) {
			return ask(ctx, l.client2, call.network, outside4+":0", call.to)
		})
	}
	if got := heard(); got != 0 {
		l.t.Errorf("%d packets got out", got)
	}
}

// TestARenamedLANDoesNotAnswer: its interface is none of ours until a repair.
func TestARenamedLANDoesNotAnswer(t *testing.T) {
	l := newLab(t)
	l.apply(l.plan())
	l.serve(l.client, "udp", ":81", "client")
	call := func(ctx context.Context) (string, error) {
		return ask(ctx, l.outside, "udp", "["+outside6+"]:5000", "["+client6+"]:81")
	}
	l.classify(`iifname { "lan0", "lan9" }`, abi.VerdictPending)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := call(ctx); err != nil {
		t.Fatal(err)
	}
	l.rename("lan0", "lan9", lan6)
	l.mustDrop(DroppedBlocked, "an answer by the renamed LAN", call)
}

// TestARenamedLANIsNotOutside: its packets go by none of our names, but tc
// still gives them a class.
func TestARenamedLANIsNotOutside(t *testing.T) {
	l := newLab(t)
	l.apply(l.plan())
	l.serve(l.client, "udp", ":81", "client")
	l.classify(`iifname "lan9"`, abi.VerdictDirect)
	inbound := l.countInbound("")
	l.rename("lan1", "lan9", "2001:db8:60::1")
	l.mustDrop(DroppedUnjudged, "an answer to the renamed LAN", func(ctx context.Context) (string, error) {
		return ask(ctx, l.client2, "udp", "", client4+":81")
	})
	if got := inbound(); got != 0 {
		t.Errorf("%d packets of a renamed LAN passed as inbound", got)
	}
}

// TestAConnectionInItsMiddleIsNotInbound: conntrack has forgotten it and picks
// it up from a packet of the peer's, but a LAN host began it.
func TestAConnectionInItsMiddleIsNotInbound(t *testing.T) {
	l := newLab(t)
	l.apply(l.plan())
	l.classify(`iifname "lan0"`, abi.VerdictDirect)
	_, peer := l.connection("["+client6+"]:0", "["+outside6+"]:80")
	heard := l.outside.countFrom(t, client6)
	l.classifyAll()
	l.conntrack("-F")
	if _, err := io.WriteString(peer, "still there?"); err != nil {
		t.Fatal(err)
	}
	before := l.drops(DroppedBlocked)
	l.eventually("the answer is dropped", func() bool { return l.drops(DroppedBlocked) > before })
	if got := heard(); got != 0 {
		t.Errorf("the peer heard %d packets", got)
	}
}

// TestASimultaneousOpenIsNotInbound: somebody outside guesses a LAN host's next
// port and sends the SYN of the peer whom it is about to call, so that the
// host's own SYN looks like an answer.
func TestASimultaneousOpenIsNotInbound(t *testing.T) {
	l := newLab(t)
	l.apply(l.plan())
	l.classifyAll()
	// A host with a firewall of its own says nothing to a stray SYN.
	l.client.load(t, `table inet quiet { chain output { type filter hook output priority 0; tcp flags & rst == rst drop; }; }`)
	heard := l.outside.countFrom(t, client6)
	synAck := l.client.count(t, "output", "tcp flags & (syn | ack) == (syn | ack)")
	host, peer := "["+client6+"]:40000", "["+outside6+"]:443"
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() {
		_, err := ask(ctx, l.outside, "tcp", peer, host)
		done <- err
	}()
	l.eventually("the SYN from outside is known", func() bool { return matches(l.conntrack("-L", "-f", "ipv6"), `sport=443 dport=40000`) })
	go func() {
		_, err := ask(ctx, l.client, "tcp", host, peer)
		done <- err
	}()
	l.eventually("the host has answered a SYN", func() bool { return synAck() > 0 })
	before := l.drops(DroppedBlocked)
	l.eventually("one more packet is dropped", func() bool { return l.drops(DroppedBlocked) > before })
	cancel()
	for range 2 {
		if err := <-done; err == nil {
			t.Error("the connection came about")
		}
	}
	if got := heard(); got != 0 {
		t.Errorf("the peer heard %d packets", got)
	}
}

// TestWhatALANBeginsWithinAnInboundConnectionIsNotInbound: it inherits the ct
// mark of its master, as a data connection of FTP does.
func TestWhatALANBeginsWithinAnInboundConnectionIsNotInbound(t *testing.T) {
	for _, network := range []string{"tcp", "udp"} {
		t.Run(network, func(t *testing.T) {
			l := newLab(t)
			l.apply(l.plan())
			l.servePorts()
			l.serve(l.client, "tcp", ":80", "client")
			l.serve(l.outside, network, ":9876", "outside")
			l.classifyAll()
			l.expect("ip", network, `oifname "lan0" tcp dport 80`)
			l.mustAnswer("client", l.outside, "tcp", wan4+":8080")
			if expected := l.conntrack("-L", "expect"); !matches(expected, `dport=9876`) {
				t.Fatalf("nothing inherits the mark, so this shows nothing:\n%s", expected)
			}
			if network == "tcp" {
				l.mustAnswer("trans", l.client, network, outside4+":9876")
				return
			}
			l.mustDrop(RefusedLate, network, func(ctx context.Context) (string, error) {
				return ask(ctx, l.client, network, "", outside4+":9876")
			})
		})
	}
}

// TestWhatALANExpectsIsNotInbound: a connection from outside that belongs to
// one which a LAN host began.
func TestWhatALANExpectsIsNotInbound(t *testing.T) {
	l := newLab(t)
	l.apply(l.plan())
	l.serve(l.outside, "tcp", ":80", "outside")
	l.serve(l.client, "tcp", ":9876", "client")
	l.expect("ip6", "tcp", `oifname "wan0" tcp dport 80`)
	l.classify(`iifname "lan0"`, abi.VerdictDirect)
	l.mustAnswer("outside", l.client, "tcp", "["+outside6+"]:80")
	l.classifyAll()
	l.mustDrop(DroppedBlocked, "the answer", func(ctx context.Context) (string, error) {
		return ask(ctx, l.outside, "tcp", "", "["+client6+"]:9876")
	})
}

// expect makes conntrack expect connections to port 9876 from the one who is
// called by those that match, as its helpers do.
func (l *lab) expect(family, protocol, match string) {
	l.t.Helper()
	load(l.t, fmt.Sprintf(`
table %s helper {
	ct expectation data { protocol %s; dport 9876; timeout 1m; size 1; }
	chain forward {
		type filter hook forward priority 0;
		%s ct state new ct expectation set "data"
	}
}`, family, protocol, match))
}

// connection opens a TCP connection from the client to a server outside.
func (l *lab) connection(from, to string) (client, peer net.Conn) {
	l.t.Helper()
	var ln net.Listener
	err := l.outside.do(func() (err error) {
		ln, err = net.Listen("tcp", to)
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
	defer ln.Close()
	err = l.client.do(func() (err error) {
		dialer := net.Dialer{Timeout: patience, LocalAddr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from))}
		client, err = dialer.Dial("tcp", to)
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
	if peer, err = ln.Accept(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { client.Close(); peer.Close() })
	return client, peer
}
