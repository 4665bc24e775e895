package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/torbpf/torbpf/testnet"
)

// resolvedScript runs systemd-resolved in a file system that shows it a configuration, an
// account and a /run of its own.
const resolvedScript = `mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/resolve /run/dbus
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/group" /etc/group
mkdir -p /run/systemd/resolved.conf.d
cp "$1/resolved.conf" /run/systemd/resolved.conf.d/lab.conf
chown -R 991:991 /run/systemd/resolve
` + privateBus + `exec /usr/lib/systemd/systemd-resolved
`

// startResolved starts the distribution's systemd-resolved in the router, asking the ISP's
// resolver by the uplink, as NetworkManager tells it to.
func startResolved(t *testing.T, lab *testnet.Lab) {
	t.Helper()
	dir := filepath.Join(lab.Dir(), "resolved")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, add := range map[string]string{
		"passwd": "systemd-resolve:x:991:991::/:/usr/sbin/nologin\n", "group": "systemd-resolve:x:991:\n",
	} {
		theirs, err := os.ReadFile("/etc/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(add+string(theirs)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const conf = "[Resolve]\nFallbackDNS=\nDNSSEC=no\nLLMNR=no\nMulticastDNS=no\nCache=no\n"
	if err := os.WriteFile(filepath.Join(dir, "resolved.conf"), []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	writeBus(t, dir)
	p := startUnpacked(t, lab, resolvedScript, dir)
	for _, args := range [][]string{{"dns", wan, testnet.Resolver4.String()}, {"domain", wan, "~."}} {
		eventually(t, patience, "systemd-resolved on the bus", func() error {
			if r := p.run(t, append([]string{"resolvectl"}, args...)...); r.code != 0 {
				return fmt.Errorf("%v", r)
			}
			return nil
		})
	}
}

// TestResolvedIsAnsweredByTor: systemd-resolved keeps its place and its configuration, and what
// it asks its upstream in client mode is answered through Tor, for whoever asked it.
func TestResolvedIsAnsweredByTor(t *testing.T) {
	lab := testnet.New(t, testnet.Options{NoRouterDNS: true, Logf: func(string, ...any) {}})
	startResolved(t, lab)
	stub := addrPort("127.0.0.53:53")
	asks := func(label, proto string) error {
		return lookup(lab.Router.As(someone), stub, label+"."+testnet.Zone, "A", proto, testnet.Web4.String())
	}
	eventually(t, patience, "systemd-resolved", func() error { return asks("before", "udp") })
	if asked := lab.DNS.QueriesFor("before." + testnet.Zone); len(asked) == 0 || asked[0].Source.Addr() != testnet.WANRouter4 {
		t.Fatalf("without client mode the ISP's resolver was asked %v", asked)
	}
	resolvConf, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		t.Fatal(err)
	}
	attach(t, lab, "--client")
	lab.DNS.Reset()
	capture := captureWAN(t, lab)
	for _, proto := range []string{"udp", "tcp"} {
		eventually(t, torPatience, "an answer by "+proto, func() error { return asks("by-"+proto, proto) })
	}
	for _, q := range lab.DNS.Queries() {
		if !lab.Tor.IsExit(q.Source.Addr()) {
			t.Errorf("the resolver was asked %v", q)
		}
	}
	checkNoLeaks(t, capture)
	if now, err := os.ReadFile("/etc/resolv.conf"); err != nil || string(now) != string(resolvConf) {
		t.Errorf("resolv.conf is %q, %v", now, err)
	}
	begin := time.Now()
	if r := mustTorbpf(t, lab, "detach", "--all"); strings.Contains(r.stderr, "warning") {
		t.Errorf("detach: %v", r)
	}
	eventually(t, patience, "the old way", func() error { return asks("after", "udp") })
	t.Logf("asked as before %v after detach", time.Since(begin).Round(time.Millisecond))
}
