// Command demo shows what torbpf does, without a LAN or the internet: a lab
// comes up in network namespaces, torbpf attaches in its router, and a client's
// traffic is looked at from both ends.
//
//	demo ./torbpf
package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/torbpf/torbpf/testnet"
)

const patience = 30 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: demo PATH-OF-TORBPF")
		os.Exit(2)
	}
	if err := run(ctx, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// demo is one run: each step prints what it does and what came of it.
type demo struct {
	ctx    context.Context
	lab    *testnet.Lab
	torbpf string
}

func run(ctx context.Context, torbpf string) (err error) {
	say("A private Tor network comes up in network namespaces (20 s) …")
	lab, err := testnet.Start(ctx, testnet.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	d := &demo{ctx: ctx, lab: lab, torbpf: torbpf}
	steps := []func() error{d.direct, d.attach, d.watched, d.status, d.detach}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func say(format string, args ...any) { fmt.Printf("\n── "+format+"\n", args...) }

// direct shows how things are without torbpf.
func (d *demo) direct() error {
	say("Before: client1 asks the web server who it is")
	return d.fetch("http://"+testnet.Web4.String()+"/", "the router's own address")
}

func (d *demo) attach() error {
	say("On the router: torbpf attach eth1")
	return d.onRouter("attach", "eth1", "--torrc", d.lab.ClientTorrcFile())
}

// watched does what a client does while the WAN is captured.
func (d *demo) watched() (err error) {
	capture, err := d.lab.CaptureWAN(d.ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, capture.Stop()) }()
	say("After: the same request, over IPv4 and IPv6")
	if err := d.fetch("http://"+testnet.Web4.String()+"/", "an exit of the Tor network"); err != nil {
		return err
	}
	if err := d.fetch("http://["+testnet.Web6.String()+"]/", "an exit of the Tor network"); err != nil {
		return err
	}
	say("An onion service, by its name: %s", d.lab.Tor.Onion)
	if err := d.onion(); err != nil {
		return err
	}
	say("What Tor cannot carry is refused at once: UDP to port 443 (QUIC)")
	begin := time.Now()
	err = testnet.Echo(d.lab.Client1, "udp", netip.AddrPortFrom(testnet.Web4, 443), patience)
	if err == nil {
		return errors.New("UDP got an answer: that is a leak")
	}
	fmt.Printf("   %v, after %v\n", err, time.Since(begin).Round(time.Millisecond))
	return d.verdict(capture)
}

// onion looks the onion's name up over the router's own DNS, then fetches it.
func (d *demo) onion() error {
	router := netip.AddrPortFrom(testnet.LANRouter4, 53)
	answer, err := testnet.DNSQuery(d.lab.Client1, router, d.lab.Tor.Onion, "A", "udp", patience)
	if err != nil {
		return err
	}
	if len(answer.Answer) == 0 {
		return fmt.Errorf("look up %s: no answer", d.lab.Tor.Onion)
	}
	fields := strings.Fields(answer.Answer[0].String())
	address := fields[len(fields)-1]
	fmt.Printf("   DNS says %s, an address that only this router knows\n", address)
	return d.fetch("http://"+address+"/", "the onion service")
}

// verdict counts what the WAN saw.
func (d *demo) verdict(capture *testnet.Capture) error {
	say("What the internet provider saw meanwhile")
	if err := capture.Sync(); err != nil {
		return err
	}
	all, others := capture.Packets(), capture.NonTor()
	fmt.Printf("   %d packets to and from Tor relays, %d others\n", len(all)-len(others), len(others))
	for _, p := range others {
		fmt.Println("   LEAK:", p)
	}
	if len(others) > 0 {
		return errors.New("packets left the router outside Tor")
	}
	return nil
}

func (d *demo) status() error {
	say("On the router: torbpf status")
	return d.onRouter("status")
}

func (d *demo) detach() error {
	say("On the router: torbpf detach --all")
	if err := d.onRouter("detach", "--all"); err != nil {
		return err
	}
	return d.fetch("http://"+testnet.Web4.String()+"/", "the router's own address again")
}

func (d *demo) onRouter(args ...string) error {
	cmd := d.lab.Router.Command(d.ctx, d.torbpf, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run torbpf %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

func (d *demo) fetch(url, who string) error {
	seen, err := testnet.HTTPGet(d.lab.Client1, url, patience)
	if err != nil {
		return err
	}
	fmt.Printf("   client1: GET %s → the server saw %s (%s)\n", url, strings.TrimSpace(seen), who)
	return nil
}
