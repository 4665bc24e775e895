package nft

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// TestOnlyPermittedClassesAreForwarded goes through every value of the class,
// from a LAN and from an interface that is none.
func TestOnlyPermittedClassesAreForwarded(t *testing.T) {
	l := newLab(t)
	l.apply(l.plan())
	for class := range abi.Verdict(classes) {
		guard := map[abi.Verdict]string{
			abi.VerdictNone: DroppedUnjudged, abi.VerdictDirect: "", abi.VerdictInbound: "", abi.VerdictLocal: DroppedLocal, abi.VerdictVia: DroppedLocal,
		}
		fromLAN, known := guard[class]
		if !known {
			fromLAN = DroppedBlocked
		}
		fromDMZ := fromLAN
		if class == abi.VerdictNone {
			fromDMZ = ""
		}
		l.wantPing(l.client, "lan0", class, fromLAN)
		l.wantPing(l.dmz, "dmz0", class, fromDMZ)
	}
}

// TestViaLeavesByAnExitOnly: by a name that may come later.
func TestViaLeavesByAnExitOnly(t *testing.T) {
	l := newLab(t)
	p := l.plan()
	p.Exits = []plan.Exit{{Name: "wg9"}}
	l.apply(p)
	l.wantPing(l.client, "lan0", abi.VerdictVia, DroppedLocal)
	p.Exits = append(p.Exits, plan.Exit{Name: "wan0"})
	l.apply(p)
	wantDifferences(t, p)
	l.wantPing(l.client, "lan0", abi.VerdictVia, "")
}

// wantPing pings the outside in a class; an empty guard means an answer.
func (l *lab) wantPing(from *node, iface string, class abi.Verdict, guard string) {
	l.t.Helper()
	l.classify(fmt.Sprintf("iifname %q", iface), class)
	for _, to := range []string{outside4, outside6} {
		what := fmt.Sprintf("ping of %s from %s in class %d", to, iface, class)
		if guard != "" {
			l.mustDrop(guard, what, func(ctx context.Context) (string, error) { return ping(ctx, from, to) })
			continue
		}
		l.mustPing(from, to, what)
	}
}

func (l *lab) mustPing(from *node, to, what string) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := ping(ctx, from, to); err != nil {
		l.t.Errorf("%s: %v", what, err)
	}
}

// TestBlockedClassIsDroppedFromARenamedLAN: the set of LANs goes by name, the
// class does not.
func TestBlockedClassIsDroppedFromARenamedLAN(t *testing.T) {
	l := newLab(t)
	l.apply(l.plan())
	l.rename("lan0", "lan9", lan6)
	for _, class := range []abi.Verdict{abi.VerdictTor, abi.VerdictOnion, abi.VerdictDNS, abi.VerdictResolver, abi.VerdictRefused, abi.VerdictPending} {
		l.wantPing(l.client, "lan9", class, DroppedBlocked)
	}
	l.wantPing(l.client, "lan9", abi.VerdictLocal, DroppedLocal)
}

// TestLocalClassLeavesOnlyByItsInterface moves a subnet behind another
// interface, as a route that changes under a running torbpf would.
func TestLocalClassLeavesOnlyByItsInterface(t *testing.T) {
	l := newLab(t)
	l.apply(l.plan())
	l.classify(`iifname { "lan0", "lan1" }`, abi.VerdictLocal)
	for _, to := range []string{dmz4, dmz6, client24, client26} {
		l.mustPing(l.client, to, "ping of "+to+" where it was learned")
	}
	for _, to := range []string{dmz4, dmz6} {
		gateway := outside4
		if strings.Contains(to, ":") {
			gateway = outside6
		}
		l.route(to, gateway)
		l.mustDrop(DroppedLocal, "ping of "+to+" by the WAN", func(ctx context.Context) (string, error) { return ping(ctx, l.client, to) })
	}
}

func TestLocalClassLeavesByNoneWhenLocalSubnetsAreRefused(t *testing.T) {
	l := newLab(t)
	p := l.plan()
	p.LocalMode = config.LocalNone
	l.apply(p)
	l.classify(`iifname "lan0"`, abi.VerdictLocal)
	for _, to := range []string{dmz4, dmz6} {
		l.mustDrop(DroppedLocal, "ping of "+to, func(ctx context.Context) (string, error) { return ping(ctx, l.client, to) })
	}
}

// TestInboundOffTakesTheClassItsRight even if something still marks packets.
func TestInboundOffTakesTheClassItsRight(t *testing.T) {
	l := newLab(t)
	p := l.plan()
	p.Inbound = false
	l.apply(p)
	l.wantPing(l.client, "lan0", abi.VerdictInbound, DroppedBlocked)
}

func TestReturnTrafficOfDirectFlowsPasses(t *testing.T) {
	l := newLab(t)
	l.apply(l.plan())
	l.serve(l.outside, "tcp", ":80", "web")
	l.serve(l.outside, "udp", ":80", "web")
	l.classify(`iifname "lan0"`, abi.VerdictDirect)
	for _, to := range []string{outside4 + ":80", "[" + outside6 + "]:80"} {
		l.mustAnswer("web", l.client, "tcp", to)
		l.mustAnswer("web", l.client, "udp", to)
	}
}

// TestUnmarkedLANTrafficIsDropped is the state without tc, for all that is not
// diverted.
func TestUnmarkedLANTrafficIsDropped(t *testing.T) {
	l := newLab(t)
	l.apply(l.plan())
	for _, network := range []string{"tcp", "udp"} {
		for _, to := range []string{outside4 + ":80", "[" + outside6 + "]:80", dmz4 + ":80"} {
			l.mustDrop(DroppedUnjudged, network+" to "+to, func(ctx context.Context) (string, error) {
				return ask(ctx, l.client, network, "", to)
			})
		}
	}
}
