package tor

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

const bridgeLine = "obfs4 192.0.2.7:443 " + fingerprintA + " cert=ab+/c= iat-mode=0"

// executable makes a program that does nothing.
func executable(t *testing.T) string {
	t.Helper()
	path := filepath.Join(place(t), "obfs4proxy")
	if err := os.WriteFile(path, []byte("#!/bin/sh\nexec cat\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestBridgesAreLinesOfATorrc(t *testing.T) {
	program := executable(t)
	o := Options{Bridges: []string{bridgeLine, "192.0.2.8:9001"}, Transports: map[string]string{"obfs4": program}, ExtraTorrc: extra(t, "SafeLogging 0")}
	text, err := o.Text()
	if err != nil {
		t.Fatal(err)
	}
	want := "UseBridges 1\n/ClientTransportPlugin\nClientTransportPlugin obfs4 exec " + program + "\n/Bridge\nBridge " + bridgeLine + "\nBridge 192.0.2.8:9001\n"
	if !strings.Contains(text, want) {
		t.Errorf("it is %s, want %s in it", text, want)
	}
	for _, line := range []string{"Bridge 192.0.2.9:1", "usebridges 0", "+ClientTransportPlugin x exec /y"} {
		o.ExtraTorrc = extra(t, "# mine", line)
		_, err := o.Text()
		wantError(t, err, ":2: bridges are configured as well")
	}
	o = Options{ExtraTorrc: extra(t, "UseBridges 1", "Bridge 192.0.2.9:1")}
	if text, err := o.Text(); err != nil || !strings.Contains(text, "Bridge 192.0.2.9:1\n") {
		t.Errorf("the user's own bridges: %v, %s", err, text)
	}
}

func TestTransportsAreLookedFor(t *testing.T) {
	program := executable(t)
	dir := filepath.Dir(program)
	t.Setenv("PATH", dir)
	for _, test := range []struct {
		name, configured string
		want             TransportProgram
	}{
		{"obfs4", program, TransportProgram{"obfs4", program, true, ""}},
		{"obfs4", "/nowhere/x", TransportProgram{"obfs4", "/nowhere/x", false, "/nowhere/x below [tor.transports] is no program: put it right"}},
		{"webtunnel", "", TransportProgram{"webtunnel", "webtunnel-client or lyrebird", false, "install webtunnel-client or lyrebird, or name a program that speaks it: webtunnel = \"/path\" below [tor.transports]"}},
		{"pigeon", "", TransportProgram{"pigeon", "", false, "name its program: pigeon = \"/path\" below [tor.transports], or --transport pigeon=/path"}},
	} {
		if got := findTransport(test.name, test.configured); got != test.want {
			t.Errorf("%s: %+v, want %+v", test.name, got, test.want)
		}
	}
	if got := findTransport("meek_lite", ""); !got.Found || filepath.Base(got.Program) != "obfs4proxy" {
		t.Errorf("meek_lite: %+v", got)
	}
}

func TestTheStateOfABridgeIsRead(t *testing.T) {
	guards := "$" + fingerprintA + "~x up\n$" + fingerprintB + "~y down\n"
	for line, want := range map[string]BridgeStatus{
		bridgeLine:                       {"obfs4", "192.0.2.7:443", fingerprintA, "up", true},
		"192.0.2.8:9001 " + fingerprintB: {"", "192.0.2.8:9001", fingerprintB, "down", false},
		"192.0.2.9:9001":                 {"", "192.0.2.9:9001", "", "unknown", true},
		"192.0.2.10:9001":                {"", "192.0.2.10:9001", "", "unknown", false},
	} {
		got, err := bridgeStatus(line, guards, "$"+fingerprintA+"~x CONNECTED\n192.0.2.9:9001 CONNECTED\n192.0.2.10:9001 LAUNCHED\n")
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", line, got, err, want)
		}
	}
	if _, err := bridgeStatus("\x1b[2J", "", ""); err == nil || strings.ContainsRune(err.Error(), '\x1b') {
		t.Errorf("a line that is none: %v", err)
	}
	if got := pluginOf("obfs4,obfs3 exec /nowhere/x"); len(got) != 2 || got[0].Found || got[1].Name != "obfs3" || got[0].Program != "/nowhere/x" {
		t.Errorf("a program that is gone: %+v", got)
	}
	if got := pluginOf("obfs4 socks5 127.0.0.1:9"); !reflect.DeepEqual(got, []TransportProgram{{"obfs4", "127.0.0.1:9", true, ""}}) {
		t.Errorf("one that runs elsewhere: %+v", got)
	}
}

// TestBridgesComeAndGoWhileTorRuns: the installed tor takes the lines, and is not restarted.
func TestBridgesComeAndGoWhileTorRuns(t *testing.T) {
	o := options(t)
	d := started(t, o)
	ask := func() *BridgesInUse {
		t.Helper()
		ctx := deadline(t, 10*time.Second)
		c, err := d.Dial(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		got, err := c.Bridges(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := ask(); got.Enabled || len(got.Bridges) > 0 {
		t.Errorf("at first it has %+v", got)
	}
	with := o
	with.Bridges, with.Transports = []string{bridgeLine}, map[string]string{"obfs4": executable(t)}
	if restarted, err := d.Update(deadline(t, 20*time.Second), with); restarted || err != nil {
		t.Fatalf("restarted %v, %v", restarted, err)
	}
	if got := ask(); !got.Enabled || len(got.Bridges) != 1 || got.Bridges[0].Fingerprint != fingerprintA || len(got.Transports) != 1 || !got.Transports[0].Found {
		t.Errorf("then it has %+v", got)
	}
	if restarted, err := d.Update(deadline(t, 20*time.Second), o); restarted || err != nil {
		t.Fatalf("restarted %v, %v", restarted, err)
	}
	if got := ask(); got.Enabled || len(got.Bridges) > 0 {
		t.Errorf("at last it has %+v", got)
	}
}
