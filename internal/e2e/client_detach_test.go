package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/torbpf/torbpf/testnet"
)

// dialer is a program of the machine's that connects again and again, and keeps what it gets.
type dialer struct {
	from, to netip.Addr
	stop     chan struct{}
	conns    []net.Conn
}

// longWay is how it connects: what is bound to an address is redirected by nftables, and
// conntrack knows it.
func (d *dialer) longWay(t *testing.T, lab *testnet.Lab) {
	pace := time.NewTicker(2 * time.Millisecond) // or tor has thousands of streams
	defer pace.Stop()
	for {
		conn, err := lab.Router.DialFrom(t.Context(), d.from, "tcp", at(d.to, testnet.PortHTTP).String())
		if err == nil {
			d.conns = append(d.conns, conn)
		}
		select {
		case <-d.stop:
			return
		case <-pace.C:
		}
	}
}

// lives is nil for a connection that is answered or has ended, and an error for one that hangs.
func lives(conn net.Conn) error {
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience / 2)); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(conn, "GET / HTTP/1.0\r\nHost: x\r\n\r\n") // it has ended, perhaps
	if _, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%v hangs", conn.LocalAddr())
	}
	return nil
}

// TestDetachLeavesNoConnectionOfTors: who connects all through a detach has connections that
// have ended or are direct, and none that leads to tor or, half of it, to the site.
func TestDetachLeavesNoConnectionOfTors(t *testing.T) {
	lab := torLab(t)
	t.Run("the last", func(t *testing.T) {
		attach(t, lab, "--client")
		checkDetachUnderWay(t, lab)
	})
	t.Run("beside a LAN", func(t *testing.T) {
		attach(t, lab, lan, "--client")
		checkDetachUnderWay(t, lab)
	})
}

func checkDetachUnderWay(t *testing.T, lab *testnet.Lab) {
	checkByTor(t, lab, lab.Router, testnet.Web4)
	forget(lab)
	capture := captureWAN(t, lab)
	dialers := []*dialer{
		{from: testnet.WANRouter4, to: testnet.Web4, stop: make(chan struct{})},
		{from: testnet.WANRouter6, to: testnet.Web6, stop: make(chan struct{})},
	}
	var wg sync.WaitGroup
	for _, d := range dialers {
		wg.Go(func() { d.longWay(t, lab) })
	}
	mustTorbpf(t, lab, "detach", "--client")
	left := run(t, lab.Router, "conntrack", "-L", "-p", "tcp") + run(t, lab.Router, "conntrack", "-L", "-p", "tcp", "-f", "ipv6")
	for _, d := range dialers {
		close(d.stop)
	}
	wg.Wait()
	for line := range strings.Lines(left) {
		if strings.Contains(line, "sport=9040") && strings.Contains(line, "ESTABLISHED") {
			t.Errorf("led to tor: %s", line)
		}
	}
	var checks []func() error
	for _, d := range dialers {
		t.Logf("%d connections to %v", len(d.conns), d.to)
		for _, conn := range d.conns {
			checks = append(checks, func() error { return lives(conn) })
		}
	}
	inParallel(t, checks)
	checkBegun(t, capture)
}

// checkBegun wants no packet to the web servers but of connections that have begun there.
func checkBegun(t *testing.T, capture *testnet.Capture) {
	t.Helper()
	begun := make(map[netip.AddrPort]bool)
	for _, p := range stopped(t, capture) {
		if p.Proto != "tcp" || !p.Inbound || p.Dst.Port() != testnet.PortHTTP {
			continue
		}
		if p.TCPFlags == testnet.FlagSYN {
			begun[p.Src] = true
		}
		if !begun[p.Src] {
			t.Errorf("the rest of a connection that Tor carried: %v", p)
		}
	}
}
