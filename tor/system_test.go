package tor

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// ownTor runs a tor of the user's with the given lines and returns its control
// socket.
func ownTor(t *testing.T, lines ...string) (address string) {
	t.Helper()
	dir := place(t)
	rc := append([]string{"DataDirectory " + dir + "/data", "SocksPort 0", "CookieAuthentication 1",
		"ControlSocket " + dir + "/control RelaxDirModeCheck"}, lines...)
	if err := os.WriteFile(dir+"/torrc", []byte(strings.Join(rc, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("tor", torArgs(dir+"/torrc", "--hush")...)
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = cmd.Process.Kill(), cmd.Wait()
		if t.Failed() {
			t.Log(out.String())
		}
	})
	address = filepath.Join(dir, "control")
	eventually(t, "the user's tor answers", func() bool {
		c, err := Dial(deadline(t, time.Second), address)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return address
}

func unfit(t *testing.T, address string, o Options) (*SystemTor, []string) {
	t.Helper()
	found, err := System(deadline(t, 10*time.Second), address, o)
	var e *UnfitError
	if err != nil && !errors.As(err, &e) {
		t.Fatal(err)
	}
	if e == nil {
		return found, nil
	}
	return found, e.Lines
}

var wished = []string{
	"TransPort 0.0.0.0:9040", "TransPort [::]:9040", "DNSPort 0.0.0.0:9053", "DNSPort [::]:9053",
	"AutomapHostsOnResolve 1", "VirtualAddrNetworkIPv4 10.192.0.0/16", "VirtualAddrNetworkIPv6 [fd12:3456::]/32",
	"SocksPolicy accept 127.0.0.0/8", "SocksPolicy accept6 [::1]/128", "SocksPolicy reject *",
}

// The lines that the refusal names must be exactly those that are needed.
func TestTheLinesAskedForMakeATorFit(t *testing.T) {
	o := options(t)
	_, lines := unfit(t, ownTor(t), o)
	if diff := cmp.Diff(wished, lines); diff != "" {
		t.Errorf("a bare tor lacks (-want +got):\n%s", diff)
	}
	address := ownTor(t, lines...)
	found, lines := unfit(t, address, o)
	if lines != nil {
		t.Fatalf("with them it still lacks %q", lines)
	}
	if found.PID == 0 || found.Version == "" {
		t.Errorf("%+v", found)
	}
	want := SystemTor{Address: address, PID: found.PID, Version: found.Version, Ports: o.Ports, Onion4: o.Onion4, Onion6: o.Onion6}
	if *found != want {
		t.Errorf("found %+v, want %+v", *found, want)
	}
	err := (&UnfitError{Address: address, Lines: wished}).Error()
	if !strings.Contains(err, "\n  TransPort 0.0.0.0:9040\n") || !strings.Contains(err, address) {
		t.Error(err)
	}
}

// What is handed connections listens on loopback, and asks its own socket.
func TestTheLinesAskedForMakeATorFitForTProxy(t *testing.T) {
	o := options(t)
	o.TProxy = true
	want := []string{"TransPort 127.0.0.1:9040", "TransPort [::1]:9040", "TransProxyType TPROXY"}
	t.Run("a tor for the redirect", func(t *testing.T) {
		_, lines := unfit(t, ownTor(t, wished...), o)
		if diff := cmp.Diff(want, lines); diff != "" {
			t.Errorf("it lacks (-want +got):\n%s", diff)
		}
	})
	found, lines := unfit(t, ownTor(t, append(want, wished[2:]...)...), o)
	if lines != nil || found.Ports.Trans != 9040 {
		t.Errorf("with them it still lacks %q, and has %+v", lines, found)
	}
}

func TestWhatASystemTorHasIsUsed(t *testing.T) {
	o := options(t)
	ownTor(t, "ControlPort 9051", "TransPort 127.0.0.1:9041", "TransPort 0.0.0.0:9042", "TransPort 0.0.0.0:9044", "TransPort [::]:9044",
		"DNSPort 0.0.0.0:9055", "DNSPort [::]:9055", "AutomapHostsOnResolve 1", "AutomapHostsSuffixes .",
		"VirtualAddrNetworkIPv4 172.16.0.0/12", "VirtualAddrNetworkIPv6 [FC00::]/7", "SocksPolicy accept private:*, reject *")
	found, lines := unfit(t, "127.0.0.1:9051", o)
	if lines != nil {
		t.Fatalf("it lacks %q", lines)
	}
	if found.Ports.Trans != 9044 || found.Ports.DNS != 9055 || found.Ports.Resolver != 9054 ||
		found.Onion4 != netip.MustParsePrefix("172.16.0.0/12") || found.Onion6 != netip.MustParsePrefix("fc00::/7") {
		t.Errorf("found %+v", found)
	}
}

func TestWhatASystemTorLacksIsListed(t *testing.T) {
	o := options(t)
	tests := map[string]struct{ change, want []string }{
		"on loopback only":    {[]string{"TransPort 0.0.0.0:9040\nTransPort [::]:9040", "TransPort 127.0.0.1:9040\nTransPort [::1]:9040"}, []string{"TransPort 0.0.0.0:9040", "TransPort [::]:9040"}},
		"one family only":     {[]string{"DNSPort [::]:9053", ""}, []string{"DNSPort 0.0.0.0:9053", "DNSPort [::]:9053"}},
		"tproxy":              {[]string{"AutomapHostsOnResolve 1", "AutomapHostsOnResolve 1\nTransProxyType TPROXY"}, []string{"TransProxyType default"}},
		"devices share":       {[]string{"TransPort 0.0.0.0:9040", "TransPort 0.0.0.0:9040 NoIsolateClientAddr"}, []string{"TransPort 0.0.0.0:9040 # without NoIsolateClientAddr, by which devices share circuits"}},
		"other suffixes":      {[]string{"AutomapHostsOnResolve 1", "AutomapHostsOnResolve 1\nAutomapHostsSuffixes .exit"}, []string{"AutomapHostsSuffixes .onion"}},
		"does not accept LAN": {[]string{"SocksPolicy accept 127.0.0.0/8", "SocksPolicy accept 10.0.0.0/8"}, []string{"SocksPolicy accept 127.0.0.0/8 # above the lines that reject"}},
		"open to the world": {[]string{"SocksPolicy reject *", "SocksPolicy reject 9.9.9.9"}, []string{
			"SocksPolicy accept 127.0.0.0/8 # in place of the present SocksPolicy lines",
			"SocksPolicy accept6 [::1]/128 # in place of the present SocksPolicy lines",
			"SocksPolicy reject * # in place of the present SocksPolicy lines"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			isolate(t) // another thread, and the port is still taken in the parent's network
			address := ownTor(t, strings.Replace(strings.Join(wished, "\n"), tt.change[0], tt.change[1], 1))
			if _, got := unfit(t, address, o); !slices.Equal(got, tt.want) {
				t.Errorf("lacks %q, want %q", got, tt.want)
			}
		})
	}
}

// Planning needs to know what is there before it can say what is wished.
func TestABareTorIsFoundWithoutWishes(t *testing.T) {
	o := options(t)
	address := ownTor(t, "TransPort 0.0.0.0:9040", "TransPort [::]:9040", "DNSPort 0.0.0.0:9053", "DNSPort [::]:9053", "AutomapHostsOnResolve 1")
	found, lines := unfit(t, address, Options{Ports: o.Ports})
	if lines != nil || found.Onion4.IsValid() || found.Onion6.IsValid() || found.Ports != o.Ports {
		t.Errorf("found %+v, lacks %q", found, lines)
	}
}

func TestATorInAnotherNetworkIsRefused(t *testing.T) {
	o := options(t)
	address := ownTor(t, wished...)
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	_, err := System(deadline(t, 10*time.Second), address, o)
	wantError(t, err, "another network namespace", address)
}

func TestNoSystemTorSaysWhatToDo(t *testing.T) {
	defer func(old []string) { SystemSockets = old }(SystemSockets)
	SystemSockets = []string{"/nonexistent/control"}
	_, err := System(deadline(t, time.Second), "", Options{})
	wantError(t, err, "/nonexistent/control", "ControlSocket", "CookieAuthentication 1")
	_, err = System(deadline(t, time.Second), "/nonexistent/control", Options{})
	wantError(t, err, "/nonexistent/control", "no such file")
}
