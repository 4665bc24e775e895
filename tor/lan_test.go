package tor

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// query asks the DNSPort from one of the router's addresses.
func query(t *testing.T, from, to string, kind dnsmessage.Type) (netip.Addr, error) {
	t.Helper()
	local := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))
	conn, err := net.DialUDP("udp", local, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	name := strings.Repeat("a", 56) + ".onion."
	m := dnsmessage.Message{Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}}}
	packet, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(packet); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1500)
	n, err := conn.Read(buf)
	if err != nil {
		return netip.Addr{}, err
	}
	if err := m.Unpack(buf[:n]); err != nil {
		return netip.Addr{}, err
	}
	if len(m.Answers) != 1 {
		return netip.Addr{}, fmt.Errorf("%d answers, %s", len(m.Answers), m.RCode)
	}
	switch body := m.Answers[0].Body.(type) {
	case *dnsmessage.AResource:
		return netip.AddrFrom4(body.A), nil
	case *dnsmessage.AAAAResource:
		return netip.AddrFrom16(body.AAAA), nil
	}
	return netip.Addr{}, fmt.Errorf("answer %v", m.Answers[0])
}

func TestTorServesTheLANAndNobodyElse(t *testing.T) {
	o := options(t)
	d := started(t, o)
	if a, err := query(t, "127.0.0.1", "127.0.0.1:9053", dnsmessage.TypeA); err != nil || !o.Onion4.Contains(a) {
		t.Errorf("A over IPv4: %v, %v", a, err)
	}
	if a, err := query(t, "::1", "[::1]:9053", dnsmessage.TypeAAAA); err != nil || !o.Onion6.Contains(a) {
		t.Errorf("AAAA over IPv6: %v, %v", a, err)
	}
	// 10.99.0.1 and fd99::1 are addresses of this host that AllowFrom lacks.
	for from, port := range map[string]string{"10.99.0.1": "10.99.0.1:9053", "fd99::1": "[fd99::1]:9053"} {
		a, err := query(t, from, port, dnsmessage.TypeA)
		wantError(t, err, "0 answers, "+dnsmessage.RCodeRefused.String())
		if a.IsValid() {
			t.Errorf("tor answered %s: %v", from, a)
		}
	}
	// tor 0.4.9 dies of a connection that was not redirected if it is the first
	// that it ever takes; so only those that the policy refuses are tried.
	for from, port := range map[string]string{"10.99.0.1": "10.99.0.1:9040", "fd99::1": "[fd99::1]:9040"} {
		dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))}
		conn, err := dialer.DialContext(deadline(t, 5*time.Second), "tcp", port)
		if err != nil {
			t.Fatalf("TransPort from %s: %v", from, err)
		}
		defer conn.Close()
		if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Error(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("TransPort keeps the connection from %s: %v", from, err)
		}
	}
	eventually(t, "tor says that it refuses both", func() bool {
		text, err := tail(logPath(d.dir))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(text, "enying socks") == 2
	})
	if !d.Alive() {
		t.Error("tor has died of it")
	}
}
