package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/torbpf/torbpf/testnet"
)

// httpFlow is a connection to a web server on which one page is asked for after
// the other.
type httpFlow struct {
	conn   net.Conn
	reader *bufio.Reader
}

// inboundFlow connects from the internet through the router's port forward to
// client1.
func inboundFlow(t testing.TB, lab *testnet.Lab) *httpFlow {
	t.Helper()
	conn, err := lab.Internet.Dial(t.Context(), "tcp", at(testnet.WANRouter4, testnet.PortForwardTCP).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	f := &httpFlow{conn, bufio.NewReader(conn)}
	if err := f.ask(); err != nil {
		t.Fatal(err)
	}
	return f
}

// ask fetches the page, which says who asked.
func (f *httpFlow) ask() error {
	if err := f.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := io.WriteString(f.conn, "GET / HTTP/1.1\r\nHost: forwarded\r\n\r\n"); err != nil {
		return err
	}
	response, err := http.ReadResponse(f.reader, nil)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(response.Body)
	if want := testnet.Core4.String() + "\n"; err == nil && string(body) != want {
		err = fmt.Errorf("the server behind the forward saw %q, want %q", body, want)
	}
	return err
}

// TestInboundForwards: connections from outside that the user's own rules let in
// work before, during and after attach. Those by a port forward that are open then
// go on; of others nothing shows that the device did not begin them.
func TestInboundForwards(t *testing.T) {
	lab := torLab(t)
	// IPv6 needs no forward, only a rule that lets it in.
	userRules(t, lab, "ip6", `chain forward { type filter hook forward priority filter; policy accept; ct state established,related accept; }`)
	v6 := at(lab.Client1.IPv6, 4446)
	for _, err := range []error{lab.Forwarded.ServeTCPEcho(v6), lab.Forwarded.ServeUDPEcho(v6)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	old := &inbound{lab: lab, web: inboundFlow(t, lab), flows: []*flow{
		openFlow(t, lab.Internet, "udp", at(testnet.WANRouter4, testnet.PortForwardUDP)),
	}}
	old.check(t, "before attach")

	stop := old.goOn(t)
	attach(t, lab, lan)
	stop("while attaching")
	old.server = v6
	old.check(t, "attached")
	// A datagram from outside begins something only once all older flows have ended.
	if err := old.begin("udp", v6); err == nil {
		t.Error("udp was answered that may have been part of an older flow")
	}
	run(t, lab.Router, "nft", "flush", "set", "inet", "torbpf", "settling") // as time will
	if err := old.begin("udp", v6); err != nil {
		t.Errorf("once settled: %v", err)
	}
	checkByTor(t, lab, lab.Client1, testnet.Web4) // the same device is on Tor otherwise
	checkNoEcho(t, lab.Client1, testnet.Web4)

	stop = old.goOn(t)
	mustTorbpf(t, lab, attachArgs(lab, lan)...)
	stop("while attaching again")

	stop = old.goOn(t)
	mustTorbpf(t, lab, "detach", "--all")
	stop("while detaching")
	old.check(t, "detached")
}

// inbound are connections from outside that stay open, and a server behind the
// router, if any, to which new ones are opened.
type inbound struct {
	lab    *testnet.Lab
	web    *httpFlow
	flows  []*flow
	server netip.AddrPort
}

// check uses the old connections and opens new ones.
func (i *inbound) check(t testing.TB, when string) {
	t.Helper()
	if err := i.once(); err != nil {
		t.Errorf("%s: %v", when, err)
	}
}

func (i *inbound) once() error {
	errs := []error{i.web.ask()}
	for _, f := range i.flows {
		errs = append(errs, f.echoSoon())
		errs = append(errs, i.begin("udp", netip.MustParseAddrPort(f.conn.RemoteAddr().String())))
	}
	if i.server.IsValid() {
		errs = append(errs, i.begin("tcp", i.server))
	}
	return errors.Join(errs...)
}

// begin uses a connection of its own.
func (i *inbound) begin(proto string, server netip.AddrPort) error {
	conn, err := i.lab.Internet.Dial(context.Background(), proto, server.String())
	if err != nil {
		return err
	}
	f := &flow{fmt.Sprintf("new %s from outside to %v", proto, server), conn}
	return errors.Join(f.echoSoon(), conn.Close())
}

// echoSoon allows for a lost datagram or two: UDP has nobody to send it again.
func (f *flow) echoSoon() error {
	var err error
	for range 3 {
		if err = f.echo(); err == nil {
			return nil
		}
	}
	return fmt.Errorf("%s: %w", f.name, err)
}

// goOn uses the connections over and over until stop.
func (i *inbound) goOn(t testing.TB) (stop func(when string)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var err error
	rounds := 0
	var wg sync.WaitGroup
	wg.Go(func() {
		for err == nil && (rounds == 0 || ctx.Err() == nil) {
			err = i.once()
			rounds++
		}
	})
	return func(when string) {
		t.Helper()
		cancel()
		wg.Wait()
		if err != nil {
			t.Errorf("%s, round %d: %v", when, rounds, err)
		}
		t.Logf("%s: %d rounds", when, rounds)
	}
}
