package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/torbpf/torbpf/testnet"
)

// TestManyRefusalsComeAtOnce: a browser that tries QUIC at fifty sites within a
// second is told of each, where the kernel's own reject would tell it of about one;
// and so is one that connects while Tor is not ready.
func TestManyRefusalsComeAtOnce(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	attach(t, lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab))
	for _, c := range []struct {
		network string
		sites   netip.Addr
	}{{"udp", netip.MustParseAddr("151.101.1.1")}, {"udp", netip.MustParseAddr("2a04:4e42::1")}, {"tcp", netip.MustParseAddr("151.101.2.1")}} {
		const sites = 50
		took := make([]time.Duration, sites)
		errs := make([]error, sites)
		var wg sync.WaitGroup
		site := c.sites
		for i := range sites {
			server := at(site, testnet.PortHTTPS)
			wg.Go(func() { took[i], errs[i] = refusal(lab.Client1, c.network, server) })
			site = site.Next()
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Errorf("%s to sites from %v on: %v", c.network, c.sites, err)
			continue
		}
		slices.Sort(took)
		t.Logf("%s to %d sites from %v on: refused within %v, the slowest %v", c.network, sites, c.sites, took[sites/2], took[sites-1])
		const late = 100 * time.Millisecond
		if took[sites*9/10] > late { // a busy machine may be late with a few
			t.Errorf("%s to sites from %v on: a tenth of the refusals took more than %v", c.network, c.sites, late)
		}
	}
}

// refusal tries a server and returns how long its refusal took.
func refusal(n *testnet.Node, network string, server netip.AddrPort) (time.Duration, error) {
	begin := time.Now()
	conn, err := n.Dial(context.Background(), network, server.String())
	if err == nil {
		defer conn.Close()
		begin = time.Now()
		if err := conn.SetDeadline(begin.Add(patience)); err != nil {
			return 0, err
		}
		if _, err = conn.Write([]byte("no QUIC here?")); err == nil {
			_, err = conn.Read(make([]byte, 1))
		}
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return 0, fmt.Errorf("%s to %v is not refused but: %w", network, server, err)
	}
	return time.Since(begin), nil
}
