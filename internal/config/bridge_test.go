package config

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

const someFingerprint = "A1B2C3D4E5F60718293A4B5C6D7E8F9001122334"

func TestBridgesAreReadAsTheyWereHandedOut(t *testing.T) {
	for line, want := range map[string]string{
		"192.0.2.7:443":                                                          "192.0.2.7:443",
		"[2001:db8::7]:443 " + someFingerprint:                                   "[2001:db8::7]:443 " + someFingerprint,
		"192.0.2.7:443 $" + strings.ToLower(someFingerprint):                     "192.0.2.7:443 " + someFingerprint,
		"  obfs4  192.0.2.7:443 " + someFingerprint + " cert=ab+/c= iat-mode=0 ": "obfs4 192.0.2.7:443 " + someFingerprint + " cert=ab+/c= iat-mode=0",
		"snowflake 192.0.2.3:80 " + someFingerprint + " fingerprint=" + someFingerprint + " url=https://example.net/ ice=stun:a.example:3478,stun:b.example:3478": "snowflake 192.0.2.3:80 " +
			someFingerprint + " fingerprint=" + someFingerprint + " url=https://example.net/ ice=stun:a.example:3478,stun:b.example:3478",
		"meek_lite 192.0.2.18:80 url=https://example.org/": "meek_lite 192.0.2.18:80 url=https://example.org/",
	} {
		b, err := ParseBridge(line)
		if err != nil || b.String() != want {
			t.Errorf("%q is %q, %v", line, b, err)
			continue
		}
		if again, err := ParseBridge(b.String()); err != nil || !reflect.DeepEqual(again, b) {
			t.Errorf("%q is read again as %+v, %v", b, again, err)
		}
	}
}

// TestWhatIsNoBridgeIsRefused, and says why: above all what would be more than one line of a torrc.
func TestWhatIsNoBridgeIsRefused(t *testing.T) {
	for line, why := range map[string]string{
		"":                                    "it is empty",
		"   ":                                 "it is empty",
		"obfs4":                               "it has no address",
		"Bridge obfs4 1.2.3.4:1":              "leave the word Bridge at its begin out",
		"1.2.3.4":                             "no address with a port",
		"1.2.3.4:0":                           "no address with a port",
		"0.0.0.0:443":                         "no address with a port",
		"[fe80::1%eth0]:443":                  "no address with a port",
		"example.net:443":                     "no address with a port",
		"obfs4 example.net:443":               "no address with a port",
		"1.2.3.4:1 ABCD":                      "no fingerprint",
		"1.2.3.4:1 " + someFingerprint + "00": "no fingerprint",
		"1.2.3.4:1 cert=x":                    "none is named before the address",
		"obfs4 1.2.3.4:1 " + someFingerprint + " cert":           "which are written key=value",
		"obfs4 1.2.3.4:1 =x":                                     "which are written key=value",
		"obfs4 1.2.3.4:1 cert=x\nSocksPort 0.0.0.0:9050":         `'\n' is in no bridge`,
		"obfs4 1.2.3.4:1 cert=x\rExitRelay 1":                    `'\r' is in no bridge`,
		`obfs4 1.2.3.4:1 cert="x`:                                `'"' is in no bridge`,
		`obfs4 1.2.3.4:1 cert=x\`:                                `is in no bridge`,
		"obfs4 1.2.3.4:1 cert=x # a":                             "'#' is in no bridge",
		"obfs4 1.2.3.4:1 cert=\x00":                              "is in no bridge",
		"obfs4 1.2.3.4:1 cert=\x1b[2J":                           "is in no bridge",
		"obfs4 1.2.3.4:1 cert=ü":                                 "'ü' is in no bridge",
		"obfs4 1.2.3.4:1 cert=" + strings.Repeat("x", bridgeMax): "longer than",
	} {
		b, err := ParseBridge(line)
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), why) {
			t.Errorf("%.60q is %+v, %v; want %q", line, b, err, why)
		} else if strings.ContainsAny(err.Error(), "\n\r\x1b\x00") {
			t.Errorf("%.60q: the error has what was refused: %q", line, err)
		}
	}
}

// FuzzParseBridge: what is taken is one line of words, and is read again as the same.
func FuzzParseBridge(f *testing.F) {
	f.Add("obfs4 192.0.2.7:443 " + someFingerprint + " cert=ab+/c= iat-mode=0")
	f.Add("[2001:db8::7]:443\n")
	f.Fuzz(func(t *testing.T, line string) {
		b, err := ParseBridge(line)
		if err != nil {
			return
		}
		if strings.ContainsFunc(b.String(), noTorrcRune) {
			t.Errorf("%q becomes %q", line, b)
		}
		if again, err := ParseBridge(b.String()); err != nil || again.String() != b.String() {
			t.Errorf("%q is written %q and read as %q, %v", line, b, again, err)
		}
	})
}

func TestBridgesOfAFile(t *testing.T) {
	const bridge = "obfs4 192.0.2.7:443 cert=x"
	good := "interfaces = [\"eth1\"]\n[tor]\nbridges = [\"" + bridge + "\"]\n[tor.transports]\nobfs4 = \"/opt/lyrebird\"\n"
	cfg, err := Parse([]byte(good))
	if err != nil || !reflect.DeepEqual(cfg.Tor.Bridges, []string{bridge}) || cfg.Tor.Transports["obfs4"] != "/opt/lyrebird" {
		t.Fatalf("%+v, %v", cfg.Tor, err)
	}
	text, err := cfg.Text()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Parse(text); err != nil || !reflect.DeepEqual(again, cfg) {
		t.Errorf("written %s it reads as %+v, %v", text, again, err)
	}
	for text, want := range map[string]string{
		"[tor]\nbridges = [\"1.2.3.4\"]":                           "line 3: tor.bridges",
		"[tor]\nbridges = [\"1.2.3.4:1\", \"1.2.3.4:1\"]":          "is there twice",
		"[tor]\nbridges = [\"1.2.3.4:1\\nSocksPort 1\"]":           "is in no bridge",
		"[tor.transports]\nobfs4 = \"lyrebird\"":                   "it must be absolute",
		"[tor.transports]\nobfs4 = \"/opt/a b\"":                   "without blanks",
		"[tor.transports]\n\"a,b\" = \"/opt/a\"":                   "no name of a transport",
		"[tor]\nmode = \"system\"\nbridges = [\"" + bridge + "\"]": "ClientTransportPlugin obfs4 exec /usr/bin/PROGRAM\n  Bridge " + bridge,
	} {
		_, err := Parse([]byte("interfaces = [\"eth1\"]\n" + text))
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", text, err, want)
		}
	}
}
