package e2e

import (
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
