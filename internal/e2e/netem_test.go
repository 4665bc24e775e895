package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/torbpf/torbpf/testnet"
)

// TestFastPathWithDelayAndLoss: on a line that delays and loses packets, flows take the fast path
// like others and arrive whole. A qdisc that does so on the router itself switches it off.
func TestFastPathWithDelayAndLoss(t *testing.T) {
	lab, _ := runFast(t)
	if _, err := lab.ISP.Run(t.Context(), "tc", "qdisc", "add", "dev", "wan0", "root", "netem", "delay", "10ms", "loss", "1%"); err != nil {
		t.Skip("this kernel was built without netem (CONFIG_NET_SCH_NETEM)")
	}
	serve(t, lab, at(testnet.Other4, portFast), func(conn net.Conn) {
		_, _ = io.Copy(conn, conn)
		conn.Close()
	})
	f := openFlow(t, lab.Client1, "tcp", at(testnet.Other4, portFast))
	before := fastStatus(t, lab)
	eventually(t, patience, "a flow to be fast", func() error {
		for range 20 {
			if err := f.echo(); err != nil {
				return err
			}
		}
		if now := fastStatus(t, lab); now.Out < before.Out+20 || now.In < before.In+20 {
			return fmt.Errorf("it was %+v, and is %+v", before, now)
		}
		return nil
	})
	exchange(t, f.conn, 1<<20)
	run(t, lab.Router, "tc", "qdisc", "add", "dev", wan, "root", "netem", "delay", "1ms")
	isFast(t, lab, "netem")
	if err := f.echo(); err != nil {
		t.Errorf("after the fast path: %v", err)
	}
	checkByRouterOnly(t, lab)
}

// TestTorWithDelayAndLoss: on such a line in both directions what a device sends by Tor arrives whole, and
// nothing else leaves.
func TestTorWithDelayAndLoss(t *testing.T) {
	lab := torLab(t)
	for _, name := range []string{"wan0", "core0"} {
		if _, err := lab.ISP.Run(t.Context(), "tc", "qdisc", "add", "dev", name, "root", "netem", "delay", "10ms", "loss", "1%"); err != nil {
			t.Skip("this kernel was built without netem (CONFIG_NET_SCH_NETEM)")
		}
		t.Cleanup(func() { _, _ = lab.ISP.Run(context.Background(), "tc", "qdisc", "del", "dev", name, "root") })
	}
	serveFlows(t, lab, testnet.Web4)
	capture := captureWAN(t, lab)
	attach(t, lab, lan)
	eventually(t, torPatience, "Tor on a bad line", func() error { return testnet.Echo(lab.Client1, "tcp", at(testnet.Web4, testnet.PortEcho), torPatience) })
	exchange(t, openFlow(t, lab.Client1, "tcp", at(testnet.Web4, portFlows)).conn, 1<<20)
	checkNoEcho(t, lab.Client1, testnet.Web4)
	sendStrays(t, lab.Client1)
	checkServersSawExitsOnly(t, lab)
	checkNoLeaks(t, capture)
}
