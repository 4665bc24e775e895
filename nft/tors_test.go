package nft

import (
	"context"
	"fmt"
	"testing"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
)

// serveTors listens where so many tors would.
func (l *lab) serveTors(tors int) {
	for i := range tors {
		l.serve(nil, "tcp", fmt.Sprintf(":%d", config.PortOf(9040, i)), fmt.Sprintf("trans %d", i))
		l.serve(nil, "udp", fmt.Sprintf(":%d", config.PortOf(9053, i)), fmt.Sprintf("dns %d", i))
	}
	l.serve(nil, "tcp", ":9054", "resolver")
	l.serve(nil, "udp", ":9054", "resolver")
}

// TestEachInstanceIsDivertedToItsTor, and one that nobody knows goes nowhere.
func TestEachInstanceIsDivertedToItsTor(t *testing.T) {
	l := newLab(t)
	const tors = 3
	l.serveTors(tors)
	l.serveOutside()
	p := l.plan()
	p.Instances = tors
	l.apply(p)
	wantDifferences(t, p)
	for i := range tors {
		for _, test := range []struct {
			class         abi.Verdict
			network, port string
			want          string
		}{
			{abi.VerdictTor, "tcp", "80", fmt.Sprint("trans ", i)},
			{abi.VerdictOnion, "tcp", "80", fmt.Sprint("trans ", i)},
			{abi.VerdictDNS, "udp", "53", fmt.Sprint("dns ", i)},
			{abi.VerdictResolver, "udp", "53", "resolver"},
			{abi.VerdictDirect, "tcp", "80", "outside"},
		} {
			l.classifyAs(`iifname "lan0"`, test.class, i)
			for _, host := range []string{outside4, "[" + outside6 + "]"} {
				l.mustAnswer(test.want, l.client, test.network, host+":"+test.port)
			}
		}
	}
	for _, unknown := range []int{tors, abi.MaxInstances - 1} {
		for _, test := range []struct {
			class   abi.Verdict
			network string
		}{{abi.VerdictTor, "tcp"}, {abi.VerdictOnion, "tcp"}, {abi.VerdictDNS, "udp"}} {
			l.classifyAs(`iifname "lan0"`, test.class, unknown)
			hosts := []string{outside4, "[" + outside6 + "]"}
			if test.class == abi.VerdictDNS {
				hosts = append(hosts, lan4, "["+lan6+"]") // whose resolver would ask in clear
			}
			for _, host := range hosts {
				what := fmt.Sprintf("%s to %s in class %d of instance %d", test.network, host, test.class, unknown)
				l.mustDrop(DroppedBlocked, what, func(ctx context.Context) (string, error) {
					return ask(ctx, l.client, test.network, "", host+":53")
				})
			}
		}
	}
}

// TestOnionIsItsTorsWithoutTC: the address says whose it is.
func TestOnionIsItsTorsWithoutTC(t *testing.T) {
	l := newLab(t)
	const tors = 3
	l.serveTors(tors)
	p := l.plan()
	p.Instances = tors
	l.apply(p)
	for i, tor := range p.Tors() {
		for _, host := range []string{tor.Onion4.Addr().Next().String(), "[" + tor.Onion6.Addr().Next().String() + "]"} {
			l.mustAnswer(fmt.Sprint("trans ", i), l.client, "tcp", host+":80")
		}
	}
	for i := range tors {
		for _, router := range []string{lan4, "[" + lan6 + "]"} {
			to := fmt.Sprintf("%s:%d", router, config.PortOf(9040, i))
			l.classify(`iifname "lan0"`, abi.VerdictLocal)
			l.mustDrop(DroppedPort, "tcp to "+to, func(ctx context.Context) (string, error) {
				return ask(ctx, l.client, "tcp", "", to)
			})
		}
	}
}

// TestANumberOfTorsIsChanged: a map is put right where a port has changed under the same
// instance, and goes with the last but one tor.
func TestANumberOfTorsIsChanged(t *testing.T) {
	enterFreshNetNS(t)
	p := fullPlan()
	for _, tors := range []int{1, 4, 2, 1} {
		p.Instances = tors
		if err := Apply(p); err != nil {
			t.Fatal(err)
		}
		wantDifferences(t, p)
	}
	p.Instances = 2
	if err := Apply(p); err != nil {
		t.Fatal(err)
	}
	p.Ports.DNS = 10053
	wantDifferences(t, p, "set ports has other elements", "set dns_ports has other elements")
	if err := Apply(p); err != nil {
		t.Fatal(err)
	}
	wantDifferences(t, p)
}
