package testnet

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestTorNetwork(t *testing.T) {
	begin := time.Now()
	lab := New(t, Options{})
	if took := time.Since(begin); took > 45*time.Second {
		t.Errorf("lab took %s, want about 20s", took)
	}
	capture, err := lab.CaptureWAN(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const socks = "127.0.0.1:9050"
	startClient(t, lab, socks)

	t.Run("fetch", func(t *testing.T) { testFetches(t, lab, socks) })
	t.Run("only exits asked the resolver", func(t *testing.T) {
		if queries := lab.DNS.QueriesFor("secret.example.test"); len(queries) == 0 {
			t.Error("nobody asked for the name")
		}
		for _, query := range lab.DNS.Queries() {
			if !lab.Tor.IsExit(query.Source.Addr()) {
				t.Errorf("%s asked for %s", query.Source, query.Name)
			}
		}
	})
	t.Run("nothing but Tor on the WAN", func(t *testing.T) {
		if err := capture.Stop(); err != nil {
			t.Error(err)
		}
		if leaks := capture.NonTor(); len(leaks) != 0 {
			t.Errorf("router sent %v", leaks)
		}
		if len(capture.Packets()) == 0 {
			t.Error("capture is empty")
		}
	})
}

// testFetches fetches pages by way of a tor in the router.
func testFetches(t *testing.T, lab *Lab, socks string) {
	onion := func(addr netip.Addr) bool { return addr == lab.Tor.OnionSource }
	exit4 := func(addr netip.Addr) bool { return addr.Is4() && lab.Tor.IsExit(addr) }
	exit6 := func(addr netip.Addr) bool { return addr.Is6() && lab.Tor.IsExit(addr) }
	for _, test := range []struct {
		name, url string
		source    func(netip.Addr) bool // whom the web server may have seen
	}{
		{"IPv4", "http://51.20.0.80/", exit4},
		{"IPv6", "http://[2a0e:20::80]/", exit6},
		{"name", "http://secret.example.test/", lab.Tor.IsExit},
		{"IPv6 name", "http://v6only.example.test/", exit6},
		{"HTTPS", "https://51.21.0.80/", exit4},
		{"onion", "http://" + lab.Tor.Onion + "/", onion},
	} {
		t.Run(test.name, func(t *testing.T) {
			begin := time.Now()
			body, err := HTTPGetSOCKS(lab.Router, socks, test.url, 30*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s by way of %s in %s", test.url, body, time.Since(begin))
			source, err := netip.ParseAddr(body)
			if err != nil || !test.source(source) {
				t.Errorf("web server saw %q", body)
			}
		})
	}
}

// startClient runs a tor as torbpf's would be run and waits until it is usable.
func startClient(t *testing.T, lab *Lab, socks string) {
	t.Helper()
	dir := t.TempDir()
	torrc := filepath.Join(dir, "torrc")
	log := filepath.Join(dir, "log")
	text := lab.ClientTorrc() + lines("SocksPort "+socks, "DataDirectory "+filepath.Join(dir, "data"), "Log notice file "+log)
	if err := os.WriteFile(torrc, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	fromFile, err := os.ReadFile(lab.ClientTorrcFile())
	if err != nil || string(fromFile) != lab.ClientTorrc() {
		t.Errorf("client torrc file holds %q, %v", fromFile, err)
	}
	client := lab.Router.Command(t.Context(), "tor", "--quiet", "--defaults-torrc", os.DevNull, "-f", torrc)
	begin := time.Now()
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = client.Process.Kill()
		_ = client.Wait()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var progress string
	err = waitFor(ctx, "client to bootstrap", func() (bool, error) {
		text, _ := os.ReadFile(log)
		progress = string(text)
		return strings.Contains(progress, "Bootstrapped 100%"), nil
	})
	if err != nil {
		t.Fatalf("%v: %s", err, progress)
	}
	t.Logf("client bootstrapped in %s", time.Since(begin))
	for line := range strings.Lines(progress) {
		if strings.Contains(line, "[warn]") {
			t.Logf("client: %s", strings.TrimSpace(line))
		}
	}
}
