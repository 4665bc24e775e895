package leaktest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/torbpf/torbpf/testnet"
)

// patience is how long a condition may take to come about; a machine that runs
// other things is slow.
var patience = testnet.Patience(20 * time.Second)

// Leak is what got out, and when.
type Leak struct {
	Time  time.Time
	Where string // "wan", "router's resolver", "ISP's resolver", "web"
	What  string
}

func (l Leak) String() string { return l.Where + ": " + l.What }

// Watch looks for leaks where they would show: on the WAN, and at the router's own
// resolver, which asks the ISP's in clear.
type Watch struct {
	lab      *testnet.Lab
	captures []*testnet.Capture // of the WAN, and of what becomes one
	retired  []*testnet.Capture // of interfaces that are gone
	round    int
	closedTo []peer    // whom the router may tell that nobody is there
	own      bool      // it is the router itself that tries
	direct   time.Time // when what was excluded was so no more; zero: it is
	answered []peer    // the far ends of flows that are excluded for a while
}

// NewWatch captures the WAN until ctx ends.
func NewWatch(ctx context.Context, lab *testnet.Lab) (*Watch, error) {
	capture, err := lab.CaptureWAN(ctx)
	if err != nil {
		return nil, err
	}
	return &Watch{lab: lab, captures: []*testnet.Capture{capture}}, nil
}

// replace watches the WAN anew when its interface has been.
func (w *Watch) replace(ctx context.Context) error {
	capture, err := w.lab.CaptureWAN(ctx)
	if err != nil {
		return err
	}
	w.retired = append(w.retired, w.captures[0])
	w.captures[0] = capture
	return nil
}

// Reset forgets what was seen so far.
func (w *Watch) Reset() {
	for _, c := range w.retired {
		_ = c.Stop() // it has seen what it could
	}
	w.retired = nil
	for _, c := range w.captures {
		c.Reset()
	}
	for _, s := range []*testnet.Services{w.lab.Web, w.lab.Forwarded} {
		s.Reset()
	}
	for _, s := range []*testnet.DNSServer{w.lab.DNS, w.lab.RouterDNS} {
		s.Reset()
	}
}

// Battery lets both clients try everything once, and returns when all that has
// been dealt with.
func (w *Watch) Battery(ctx context.Context, tally *Tally) error {
	return w.battery(ctx, []sender{device{w.lab.Client1}, device{w.lab.Client2}}, tally)
}

// OwnBattery lets the router itself do so. What it sends to its link is no leak then.
func (w *Watch) OwnBattery(ctx context.Context, tally *Tally) error {
	w.own = true
	return w.battery(ctx, []sender{machine{w.lab.Router, w.lab.Router.As(nobody), true}}, tally)
}

func (w *Watch) battery(ctx context.Context, senders []sender, tally *Tally) error {
	w.round++
	errs := make([]error, len(senders))
	var wg sync.WaitGroup
	for i, s := range senders {
		wg.Go(func() {
			errs[i] = s.once(w.round, tally)
			s.dial(w.round, tally)
		})
	}
	wg.Wait()
	return errors.Join(append(errs, w.settle(ctx))...)
}

// marker begins the names that settle asks for, which stay in the router.
const marker = "marker"

// settle returns once all that the clients sent has been dealt with: a ping of
// theirs overtakes nothing, and the router's resolver takes its questions in order.
// A ping may be refused; it has then been dealt with as well.
func (w *Watch) settle(ctx context.Context) error {
	for _, n := range []*testnet.Node{w.lab.Client1, w.lab.Client2} {
		_, _ = n.Run(ctx, "ping", "-q", "-c", "2", "-i", "0.01", "-W", "0.2", testnet.LANRouter4.String())
	}
	return w.settleResolver()
}

// settleResolver returns once the router's resolver has taken its questions so far.
func (w *Watch) settleResolver() error {
	for _, server := range []string{"127.0.0.1:53", "[::1]:53"} {
		name := fmt.Sprintf("%s%d.%s", marker, w.round, testnet.LocalZone)
		_, err := testnet.DNSQuery(w.lab.Router, netip.MustParseAddrPort(server), name, "A", "udp", patience)
		if w.own && errors.Is(err, syscall.EPERM) {
			continue // nothing at all gets through, and so has been dealt with
		}
		if err != nil {
			return fmt.Errorf("ask the router's resolver: %w", err)
		}
	}
	return nil
}

// Seen is how many packets the router sent on the WAN, its housekeeping included.
func (w *Watch) Seen() int {
	seen := 0
	for _, c := range slices.Concat(w.captures, w.retired) {
		for _, p := range c.Packets() {
			if p.Inbound {
				seen++
			}
		}
	}
	return seen
}

// Leaks returns all that got out, in the order of time. What peers send to a LAN
// that has no subnet at the moment is sent back to the ISP, as by any router; so is what an
// excluded server has answered.
func (w *Watch) Leaks(peers []peer) []Leak {
	var out []Leak
	for _, c := range slices.Concat(w.captures, w.retired) {
		for _, p := range c.NonTor() {
			if w.isExpected(p, peers) {
				continue
			}
			out = append(out, Leak{p.Time, "wan", describe(p)})
		}
	}
	for _, q := range w.lab.RouterDNS.Queries() {
		if !strings.HasPrefix(q.Name, marker) && !w.own { // itself it may ask: that does not leave
			out = append(out, Leak{q.Time, "router's resolver", fmt.Sprintf("%s %s from %v", q.Proto, q.Name, q.Source.Addr())})
		}
	}
	for _, q := range w.lab.DNS.Queries() {
		out = append(out, Leak{q.Time, "ISP's resolver", fmt.Sprintf("%s %s from %v", q.Proto, q.Name, q.Source.Addr())})
	}
	for _, v := range w.lab.Web.Visits() {
		out = append(out, Leak{v.Time, "web", fmt.Sprintf("%s %v", v.Service, v.Source.Addr())})
	}
	slices.SortFunc(out, func(a, b Leak) int { return a.Time.Compare(b.Time) })
	return out
}

// endDirect says that what was excluded is not any more.
func (w *Watch) endDirect(at time.Time) { w.direct = at }

// closed tells whether the router says to a far end what any closed port says.
func (w *Watch) closed(p testnet.Packet) bool {
	const unreachable = 3
	return slices.ContainsFunc(w.closedTo, func(peer peer) bool {
		if p.Src.Addr() != peer.to.Addr() || p.Dst.Addr() != peer.from.Addr() {
			return false
		}
		return p.Proto == "tcp" && p.Src == peer.to && p.TCPFlags&testnet.FlagRST != 0 || p.Proto == "icmp" && p.ICMPType == unreachable
	})
}

// isExpected tells whether a packet on the WAN is no leak.
func (w *Watch) isExpected(p testnet.Packet, peers []peer) bool {
	switch {
	case slices.Contains(excluded, p.Dst) && (w.direct.IsZero() || p.Time.Before(w.direct)):
		return true
	case slices.ContainsFunc(peers, func(peer peer) bool { return p.Src == peer.from && p.Dst == peer.to }):
		return true
	default:
		return w.closed(p) || w.isReturned(p) || w.own && w.allowed(p)
	}
}

// isReturned tells whether a packet is what an excluded server has answered, on its way back, or the
// router's word to that server that it came to nobody. A packet of the device's is neither.
func (w *Watch) isReturned(p testnet.Packet) bool {
	quoted, isWord := p.Quoted()
	return slices.ContainsFunc(w.answered, func(a peer) bool {
		if p.Proto == "udp" {
			return p.Src == a.from && p.Dst == a.to
		}
		toIt := quoted.Dst == a.to || quoted.Dst.Addr() == testnet.WANRouter4 // as it came, with masquerading
		return isWord && p.Dst.Addr() == a.from.Addr() && quoted.Src == a.from && toIt
	})
}

// Summary lists each kind of leak once, the most frequent first, at most twenty.
func Summary(leaks []Leak) []string {
	times := map[string]int{}
	for _, l := range leaks {
		times[l.String()]++
	}
	var lines []string
	for what, n := range times {
		lines = append(lines, fmt.Sprintf("%d x %s", n, what))
	}
	slices.Sort(lines)
	const most = 20
	if len(lines) > most {
		lines = append(lines[:most], fmt.Sprintf("and %d more kinds", len(lines)-most))
	}
	return lines
}

// describe tells one kind of packet from another.
func describe(p testnet.Packet) string {
	what := fmt.Sprintf("%s %v > %v", p.Proto, p.Src, p.Dst)
	switch p.Proto {
	case "tcp":
		what += fmt.Sprintf(" flags %#x", p.TCPFlags)
	case "icmp", "icmpv6":
		what += fmt.Sprintf(" type %d code %d", p.ICMPType, p.ICMPCode)
	}
	if q, ok := p.Quoted(); ok {
		what += fmt.Sprintf(" about %s %v > %v", q.Proto, q.Src, q.Dst)
	}
	if p.Fragment {
		what += " fragment"
	}
	return what
}
