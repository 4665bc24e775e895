package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/torbpf/torbpf/testnet"
)

// serveTime answers NTP on all addresses of the router until stop: 48 bytes for
// whatever it is asked, which is all that this needs of the protocol.
func serveTime(t *testing.T, lab *testnet.Lab) (stop func()) {
	t.Helper()
	conn, err := lab.Router.ListenPacket("udp", ":123")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		buf := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = conn.WriteTo(append([]byte("router's time"), buf[:n]...), from)
		}
	}()
	return func() { conn.Close() }
}

// askTime asks a time server as a device does, and returns what it answers.
func askTime(n *testnet.Node, server netip.Addr) (string, error) {
	conn, err := n.Dial(context.Background(), "udp", at(server, 123).String())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := conn.Write(bytes.Repeat([]byte{0x1b}, 48)); err != nil {
		return "", err
	}
	buf := make([]byte, 512)
	size, err := conn.Read(buf)
	return string(buf[:size]), err
}

// TestTheRouterHasTheTime: with a time server on the router, whomever a device asks
// for the time it gets the router's, before Tor is ready, too; without one it is
// refused at once, and attach says what to install.
func TestTheRouterHasTheTime(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	detachLater(t, lab)
	w := watchLeaks(t, lab)
	line := []string{lan, "--no-wait", "--torrc", loneTorrc(t, lab)}
	if r := mustTorbpf(t, lab, attachArgs(lab, line...)...); !strings.Contains(r.stderr, "apt install chrony") {
		t.Errorf("attach without a time server: %v", r)
	}
	servers := []netip.Addr{testnet.Web4, testnet.Web6, testnet.LANRouter4, netip.MustParseAddr("10.1.2.3")}
	for _, server := range servers {
		begin := time.Now()
		if answer, err := askTime(lab.Client1, server); err == nil || isTimeout(err) {
			t.Errorf("%v without a time server: %q, %v after %v", server, answer, err, time.Since(begin))
		}
	}
	stop := serveTime(t, lab)
	if r := mustTorbpf(t, lab, attachArgs(lab, line...)...); strings.Contains(r.stderr, "chrony") {
		t.Errorf("attach with a time server: %v", r)
	}
	for _, server := range servers[:3] {
		if answer, err := askTime(lab.Client2, server); err != nil || !strings.HasPrefix(answer, "router's time") {
			t.Errorf("%v with a time server: %q, %v", server, answer, err)
		}
	}
	noLeaks(t, w, "with a time server")
	stop()
	eventually(t, patience, "a refusal once the server is gone", func() error {
		if answer, err := askTime(lab.Client1, testnet.Web4); err == nil || isTimeout(err) {
			return fmt.Errorf("%q, %w", answer, err)
		}
		return nil
	})
	noLeaks(t, w, "with a time server that is gone")
}

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
