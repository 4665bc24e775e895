package model

import (
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
)

// resolver is a DNS server of the router's that only notes what it was asked.
// It listens on all addresses of both families, as those who are not told
// better do.
type resolver struct {
	t     *testing.T
	asked chan string
}

func openResolver(t *testing.T) *resolver {
	t.Helper()
	r := &resolver{t: t, asked: make(chan string, 100)}
	for _, network := range []string{"udp4", "udp6"} {
		conn, err := net.ListenUDP(network, &net.UDPAddr{Port: 53})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		go r.read(conn)
	}
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{Port: 53})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return r
}

// read ends when the socket is closed.
func (r *resolver) read(conn *net.UDPConn) {
	buffer := make([]byte, 100)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			return
		}
		r.asked <- string(buffer[:n])
	}
}

// expect waits for the next question by UDP, whoever asks.
func (r *resolver) expect(want string) {
	r.t.Helper()
	select {
	case got := <-r.asked:
		if got != want {
			r.t.Errorf("the resolver was asked %q, want %q", got, want)
		}
	case <-time.After(patience):
		r.t.Fatalf("the resolver was not asked %q", want)
	}
}

// guard attaches a program to the socket look-ups of the namespace.
func (w *wire) guard(program string) {
	w.t.Helper()
	if w.progs[program] == nil {
		w.t.Skip("this kernel does not tell a look-up its interface (Linux 5.17)")
	}
	namespace, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		w.t.Fatal(err)
	}
	defer namespace.Close()
	l, err := link.AttachNetNs(int(namespace.Fd()), w.progs[program])
	if err != nil {
		w.t.Fatalf("attach %s: %v", program, err)
	}
	w.t.Cleanup(func() { l.Close() })
}

// ask sends a question to the router.
func (w *wire) ask(dst [6]byte, src, to, question string) {
	w.t.Helper()
	w.sendTo(dst, ip(src, to, udp(40000, 53, []byte(question)...)))
}

// TestDNSGuardStopsWhatNobodyRedirected: with tc and nftables gone, the look-up
// of the socket is the last place to stop a query.
func TestDNSGuardStopsWhatNobodyRedirected(t *testing.T) {
	for _, program := range []string{abi.DatapathProgTorbpfDns, abi.DatapathProgTorbpfDnsSrc} {
		t.Run(program, func(t *testing.T) {
			w := lay(t)
			w.settle(home())
			r := openResolver(t)
			w.guard(program)
			key := counted{uint32(w.lan), abi.VerdictRefused, abi.ReasonDNSGuard}
			for _, c := range []struct{ name, src, dst string }{
				{"IPv4", laptop4, router4},
				{"IPv6", laptop6, router6},
				{"from one carved out of the excluded", phone4, router4},
				{"from a blocked host", blocked4, router4},
			} {
				before, err := w.count(key)
				if err != nil {
					t.Fatal(err)
				}
				w.ask(stationMAC, c.src, c.dst, "of a LAN host")
				if err := w.await(key, before); err != nil {
					t.Errorf("%s: %v", c.name, err)
				}
			}
			before, err := w.count(key)
			if err != nil {
				t.Fatal(err)
			}
			w.sendTo(stationMAC, ip(laptop4, router4, tcp(40000, 53, tcpSYN)))
			if err := w.await(key, before); err != nil {
				t.Errorf("TCP: %v", err)
			}
			// Nothing came through, or it would be read first.
			w.ask(stationMAC, console4, router4, "of an excluded host")
			r.expect("of an excluded host")
			w.ask(stationMAC, console6, router6, "of an excluded host, IPv6")
			r.expect("of an excluded host, IPv6")
			askFromTheRouter(t, r)
			w.ask(stationMAC, router4, router4, "in the router's name")
			w.ask(stationMAC, router6, router6, "in the router's name, IPv6")
			w.ask(stationMAC, console4, router4, "of an excluded host again")
			r.expect("of an excluded host again")
		})
	}
}

// settle sets a home whose LAN is lan0 alone: the guard by source wants the one that a
// subnet was learned on.
func (w *wire) settle(p *Policy) {
	w.t.Helper()
	for i := range p.Local {
		if p.Local[i].Index == lanIndex {
			p.Local[i].Index = w.lan
		}
	}
	p.LANs = []int{w.lan}
	w.set(p)
	clear[uint32](w.objects, "lans")
	w.put("lans", uint32(w.lan), abi.DatapathLan{})
}

// TestDNSGuardLetsNoDevicePastItsRule: one that was taken back asks from an address of an
// excluded prefix, which is all that the look-up sees of it. The others there ask as ever,
// as long as the LAN program tells who they are.
func TestDNSGuardLetsNoDevicePastItsRule(t *testing.T) {
	for _, program := range []string{abi.DatapathProgTorbpfDns, abi.DatapathProgTorbpfDnsSrc} {
		t.Run(program, func(t *testing.T) {
			w := lay(t)
			r := openResolver(t)
			w.guard(program)
			key := counted{uint32(w.lan), abi.VerdictRefused, abi.ReasonDNSGuard}
			for _, policy := range []abi.Policy{abi.PolicyTor, abi.PolicyBlock} {
				p := home()
				device(policy, false)(p)
				w.settle(p)
				for src, dst := range map[string]string{console4: router4, console6: router6} {
					before, err := w.count(key)
					if err != nil {
						t.Fatal(err)
					}
					w.ask(stationMAC, src, dst, "of a device taken back")
					if err := w.await(key, before); err != nil {
						t.Errorf("%v, from %s: %v", policy, src, err)
					}
				}
			}
			p := home()
			p.Devices = map[config.MAC]DevicePolicy{{2, 9}: {Policy: abi.PolicyTor}}
			w.settle(p)
			w.attach("torbpf_lan", w.lan)
			w.ask(stationMAC, console4, router4, "of another host there")
			r.expect("of another host there")
			w.ask(stationMAC, console6, router6, "of another host there, IPv6")
			r.expect("of another host there, IPv6")
		})
	}
}

// askFromTheRouter: its own programs ask its resolver as ever. The kernel says
// of such a packet that it came in by the interface that has the address.
func askFromTheRouter(t *testing.T, r *resolver) {
	t.Helper()
	for _, to := range []string{"127.0.0.1:53", "[::1]:53", router4 + ":53"} {
		conn, err := net.Dial("udp", to)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		question := "of the router, at " + to
		if _, err := conn.Write([]byte(question)); err != nil {
			t.Fatal(err)
		}
		r.expect(question)
	}
	conn, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:53")))
	if err != nil {
		t.Errorf("ask the resolver by TCP: %v", err)
		return
	}
	conn.Close()
}

// TestBroadcastDNSReachesNoResolver: the kernel delivers it without the look-up
// that the guard sees, to every socket that listens on all addresses, so tc must
// not let it in, even where nobody redirects.
func TestBroadcastDNSReachesNoResolver(t *testing.T) {
	w := lay(t)
	w.guard("torbpf_dns")
	r := openResolver(t)
	all := []struct {
		name     string
		mac      [6]byte
		src, dst string
	}{
		{"subnet", groupMAC, laptop4, subnet4},
		{"subnet, in a frame for the router", stationMAC, laptop4, subnet4},
		{"everywhere", groupMAC, laptop4, "255.255.255.255"},
		{"the old way", groupMAC, "0.0.0.0", "0.0.0.0"},
		{"multicast", [6]byte{1, 0, 0x5e, 0, 0, 1}, laptop4, "224.0.0.1"},
		{"multicast, IPv6", [6]byte{0x33, 0x33, 0, 0, 0, 1}, laptop6, "ff02::1"},
	}
	for _, c := range all { // the danger is real: without tc all of them arrive
		w.ask(c.mac, c.src, c.dst, c.name)
		r.expect(c.name)
	}
	w.attach("torbpf_lan", w.lan)
	for _, c := range all {
		question := ip(c.src, c.dst, udp(40000, 53, []byte(c.name)...))
		w.expect(c.name, w.lan, abi.ReasonRouterDNS, etherTo(c.mac, hostMAC, question))
	}
	w.ask(stationMAC, console4, router4, "of an excluded host")
	r.expect("of an excluded host")
}
