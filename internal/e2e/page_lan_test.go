package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/torbpf/torbpf/testnet"
)

const (
	pagePort     = 9959
	pagePassword = "correct horse battery"
)

// knocks tells what becomes of a connection to the page from a node: nil for one that is taken.
func knocks(n *testnet.Node, to netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	conn, err := n.Dial(ctx, "tcp", to.String())
	if err == nil {
		conn.Close()
	}
	return err
}

// setPassword has the command read a password.
func setPassword(t *testing.T, lab *testnet.Lab, file, password string) result {
	t.Helper()
	cmd := lab.Router.Command(t.Context(), program, "page", "password", "--config", file)
	cmd.Stdin = strings.NewReader(password + "\n")
	return runCommand(t, cmd)
}

// TestThePageFromTheLAN: it takes a password, which the daemon refuses to do without; a device
// signs in by it, and nobody reaches the page from the WAN.
func TestThePageFromTheLAN(t *testing.T) {
	lab := plainLab(t, testnet.Options{SecondLAN: true})
	detachLater(t, lab)
	secret := filepath.Join(lab.Dir(), "etc", "password")
	at4, at6 := netip.AddrPortFrom(testnet.LANRouter4, pagePort), netip.AddrPortFrom(testnet.LANRouter6, pagePort)
	file := writeConfig(t, lab, `interfaces = ["eth1", "eth2"]`, "[web]",
		fmt.Sprintf("listen = [%q, %q, %q, %q]", metricsAddr, at4, at6, netip.AddrPortFrom(testnet.WANRouter4, pagePort)), fmt.Sprintf("password_file = %q", secret))
	for _, args := range [][]string{{"check-config"}, {"run"}, {"apply", "--no-wait"}} {
		if r := runTorbpf(t, lab, append(args, "--config", file)...); r.code != 2 || !strings.Contains(r.stderr, "torbpf page password") {
			t.Errorf("without a password, %v: %v", args, r)
		}
	}
	if r := setPassword(t, lab, file, "short"); r.code != 2 || !strings.Contains(r.stderr, "at least 10 characters") {
		t.Errorf("a short password: %v", r)
	}
	if r := setPassword(t, lab, file, pagePassword); r.code != 0 {
		t.Fatal(r)
	}
	if info, err := os.Stat(secret); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the password: %v, %v", info, err)
	}
	mustTorbpf(t, lab, "check-config", "--config", file)
	d := startRun(t, lab, file)
	d.await(t, "metrics are served")
	d.await(t, "the page is not served at "+testnet.WANRouter4.String())
	eventually(t, patience, "the attach", func() error { return sound(t, lab, lan, lan2) })
	if out := mustTorbpf(t, lab, "status").stdout; !strings.Contains(out, "the page is not served at "+testnet.WANRouter4.String()) {
		t.Errorf("status does not say so: %s", out)
	}

	eventually(t, patience, "the page", func() error { return knocks(lab.Client1, at4) })
	checkPageAsks(t, lab, at4)
	checkMetricsArePrivate(t, lab, at4)
	checkPageFromWAN(t, lab, at4, at6)
	b := openTab(t, lab, lab.Client1)
	b.visit("http://" + at4.String() + "/")
	b.shows("#door", "Password")
	b.tabTo("#password")
	b.write("wrong horse battery")
	b.press("Enter")
	b.shows("#notice", "that is not the password")
	b.write(pagePassword)
	b.press("Enter")
	b.shows("#device-list", lab.Client1.IPv4.String())
	b.checkOrigins("http://"+at4.String(), "status of 401")

	// Another password ends what the old one let in; without one nobody is let in.
	if r := setPassword(t, lab, file, "another horse battery"); r.code != 0 {
		t.Fatal(r)
	}
	b.shows("#door", "Password")
	mustTorbpf(t, lab, "page", "password", "--remove", "--config", file)
	if code, text := signInFrom(t, lab.Client1, at4, "another horse battery"); code != http.StatusUnauthorized || !strings.Contains(text, "torbpf page password") {
		t.Errorf("with no password: %d %s", code, text)
	}
	if out := mustTorbpf(t, lab, "status").stdout; !strings.Contains(out, "nobody can sign in to the page at "+at4.String()) {
		t.Errorf("status does not say so: %s", out)
	}
	checkMetricsEverywhere(t, lab, at4)
}

// checkMetricsArePrivate: they are for this machine, by loopback; a device is told why not.
func checkMetricsArePrivate(t *testing.T, lab *testnet.Lab, lan netip.AddrPort) {
	t.Helper()
	router := asks(t, lab, "tcp", metricsAddr)
	if code, text := demand(t, router, "GET", "http://"+metricsAddr+"/metrics", ""); code != http.StatusOK {
		t.Errorf("this machine: %d %s", code, text)
	}
	for who, client := range map[string]*http.Client{"a device": fromDevice(lab.Client2), "this machine by that address": fromDevice(lab.Router)} {
		code, text := demand(t, client, "GET", "http://"+lan.String()+"/metrics", "")
		if code != http.StatusForbidden || !strings.Contains(text, "this machine alone") || strings.Contains(text, "torbpf_") {
			t.Errorf("%s: %d %s", who, code, text)
		}
	}
}

// checkMetricsEverywhere: whoever reaches an address reads them, where the configuration says so.
func checkMetricsEverywhere(t *testing.T, lab *testnet.Lab, lan netip.AddrPort) {
	t.Helper()
	file := writeConfig(t, lab, `interfaces = ["eth1", "eth2"]`, "[web]", fmt.Sprintf("listen = [%q, %q]", metricsAddr, lan), "page = false", `metrics = "everywhere"`)
	mustTorbpf(t, lab, "apply", "--no-wait", "--config", file)
	for _, c := range []struct {
		client *http.Client
		at     string
	}{{fromDevice(lab.Client2), lan.String()}, {fromDevice(lab.Router), metricsAddr}} {
		eventually(t, patience, "metrics for everybody", func() error {
			if code, text := demand(t, c.client, "GET", "http://"+c.at+"/metrics", ""); code != http.StatusOK || !strings.Contains(text, "torbpf_attached 1") {
				return fmt.Errorf("%s: %d %s", c.at, code, text)
			}
			return nil
		})
	}
}

// fromDevice makes requests from a node.
func fromDevice(n *testnet.Node) *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		return n.Dial(ctx, network, addr)
	}}}
}

// signInFrom tries a password as a program on a device would.
func signInFrom(t *testing.T, n *testnet.Node, to netip.AddrPort, password string) (int, string) {
	t.Helper()
	client := fromDevice(n)
	client.Transport = typed{client.Transport}
	return demand(t, client, "POST", "http://"+to.String()+"/v1/session", fmt.Sprintf(`{"password":%q}`, password))
}

// typed says that what is sent is JSON.
type typed struct{ http.RoundTripper }

func (j typed) RoundTrip(r *http.Request) (*http.Response, error) {
	r.Header.Set("Content-Type", "application/json")
	return j.RoundTripper.RoundTrip(r)
}

// checkPageAsks: a device of the LAN reaches the page, and gets nothing without the password,
// which it cannot try often.
func checkPageAsks(t *testing.T, lab *testnet.Lab, to netip.AddrPort) {
	t.Helper()
	client := fromDevice(lab.Client2)
	for path, want := range map[string]int{"/": http.StatusOK, "/v1/status": http.StatusUnauthorized, "/v1/devices": http.StatusUnauthorized, "/v1/events?follow=1": http.StatusUnauthorized} {
		if code, text := demand(t, client, "GET", "http://"+to.String()+path, ""); code != want {
			t.Errorf("%s: %d %s", path, code, text)
		}
	}
	policy := "http://" + to.String() + "/v1/devices/" + testnet.MACClient2 + "/policy"
	if code, text := demand(t, &http.Client{Transport: typed{client.Transport}}, "PUT", policy, `{"policy":"direct"}`); code != http.StatusUnauthorized {
		t.Errorf("anybody may go direct: %d %s", code, text)
	}
	if got := ruleLines(t, lab); got != "nothing is excluded" {
		t.Errorf("the rules are %s", got)
	}
	limited := false
	for range 20 {
		code, _ := signInFrom(t, lab.Client2, to, "a guess of a device's")
		limited = limited || code == http.StatusTooManyRequests
	}
	if code, text := signInFrom(t, lab.Client2, to, pagePassword); !limited || code != http.StatusTooManyRequests {
		t.Errorf("passwords can be tried at will: %d %s", code, text)
	}
	if code, text := signInFrom(t, lab.Client1, to, pagePassword); code != http.StatusOK || !strings.Contains(text, "key") {
		t.Errorf("another device has to wait for it: %d %s", code, text)
	}
}

// checkPageFromWAN: whoever is on the WAN gets no connection, by whichever address of the
// router's; nor from another LAN, whose listener that is not.
func checkPageFromWAN(t *testing.T, lab *testnet.Lab, at4, at6 netip.AddrPort) {
	t.Helper()
	if err := lab.ISP.AddRoute(testnet.LANRouter4.String()+"/32", testnet.WANRouter4); err != nil {
		t.Fatal(err)
	}
	ssh, err := lab.Router.Listen("tcp", netip.AddrPortFrom(testnet.LANRouter4, 2222).String())
	if err != nil {
		t.Fatal(err)
	}
	defer ssh.Close()
	if err := knocks(lab.ISP, netip.AddrPortFrom(testnet.LANRouter4, 2222)); err != nil {
		t.Errorf("what listens at the same address without care is not reached from the WAN, so this tests nothing: %v", err)
	}
	for _, from := range []*testnet.Node{lab.ISP, lab.Internet, lab.Client3} {
		for _, to := range []netip.AddrPort{at4, at6, netip.AddrPortFrom(testnet.WANRouter4, pagePort), netip.AddrPortFrom(testnet.WANRouter6, pagePort)} {
			if err := knocks(from, to); err == nil {
				t.Errorf("%s reaches %s: %v", from.Name, to, err)
			}
		}
	}
	for _, to := range []netip.AddrPort{at4, at6} {
		if err := knocks(lab.Client1, to); err != nil {
			t.Errorf("a device does not reach %s: %v", to, err)
		}
	}
}
