package leaktest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/testnet"
)

// routeGone takes the route by which what is handed to tor is delivered.
var routeGone = Fault{Name: "route to tor's socket deleted", part: "route", Inflict: lines(
	fmt.Sprintf("ip -4 route flush table %d", plan.RouteTable), fmt.Sprintf("ip -6 route flush table %d", plan.RouteTable))}

// rulesGone takes the ip rules: those that lead there, and those that block what has no way there.
var rulesGone = Fault{Name: "ip rules deleted", part: "rules", Inflict: lines(
	fmt.Sprintf("ip -4 rule flush protocol %d", plan.RuleProtocol), fmt.Sprintf("ip -6 rule flush protocol %d", plan.RuleProtocol))}

// everyPort has services of the router's own listen where devices connect to: what is for sites must
// not get there.
var everyPort = Fault{Name: "services of the router at the ports of sites", part: "services", Inflict: func(b *Bench) error {
	for _, port := range []int{80, 443} {
		l, err := b.Lab.Router.Listen("tcp", fmt.Sprintf("[::]:%d", port))
		if err != nil {
			return err
		}
		wrong := make(chan error, 1)
		go func() { wrong <- serveRouter(l) }()
		b.undo(func() error { return errors.Join(l.Close(), <-wrong) })
	}
	return nil
}}

// serveRouter accepts until the listener is closed, and tells whether anything was meant for
// somebody else.
func serveRouter(l net.Listener) error {
	var wrong error
	for {
		conn, err := l.Accept()
		if err != nil {
			return wrong
		}
		own, err := netip.ParseAddrPort(conn.LocalAddr().String())
		if err != nil || own.Addr().Unmap().IsGlobalUnicast() && !own.Addr().Unmap().IsPrivate() && !slices.Contains(routers, own.Addr().Unmap()) {
			wrong = fmt.Errorf("a service of the router's has %v, from %v", own, conn.RemoteAddr())
		}
		conn.Close()
	}
}

// routers are the router's public addresses.
var routers = []netip.Addr{testnet.WANRouter4, testnet.WANRouter6, testnet.LANRouter6, testnet.LAN2Router6}

// handOverFaults are those of TCP that is handed to tor's socket without NAT, each alone and every two
// together. Sites would be told of devices that are gone some seconds later.
func handOverFaults() []Fault {
	const untilTold = 4 * time.Second
	args := []string{"--tcp-mode", "tproxy"}
	faults := []Fault{lanPinsGone, rulesetGone, lanRenamed, allKilled, routeGone}
	var out []Fault
	add := func(f Fault) {
		f.Name, f.Lingers, f.Once = "tproxy: "+f.Name, untilTold, true
		out = append(out, f)
	}
	for i, first := range faults {
		add(together(args, first))
		for _, second := range faults[i+1:] {
			if first.part != second.part {
				add(together(args, first, second))
			}
		}
	}
	add(together(args, rulesGone))
	add(together(args, rulesGone, lanPinsGone))
	add(together(args, rulesGone, rulesetGone))
	add(together(args, forwardGone, rulesGone))
	add(together(args, forwardGone, rulesetGone))
	add(together(args, allPinsGone))
	add(together(args, everyPort, routeGone))
	add(together(args, everyPort, allKilled))
	add(Fault{Name: "switched to redirect and back", Args: args, Inflict: switchBack})
	add(Fault{Name: "switched to redirect and back, with four tors", Args: append([]string{"--tor-instances", "4"}, args...), Inflict: switchBack})
	return out
}

// switchBack goes from one way to hand TCP to tor to the other, and back.
func switchBack(b *Bench) error {
	for _, mode := range []string{"redirect", "tproxy"} {
		if err := b.attach("--tcp-mode", mode); err != nil {
			return err
		}
	}
	b.letGateGo() // there is another one, perhaps
	return b.holdGate()
}
