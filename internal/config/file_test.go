package config

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParseReadsEveryKey(t *testing.T) {
	cfg, err := Parse([]byte(`
interfaces = ["eth1", "wlan*"]
uplinks = ["ppp0"]
local = "reserved"
inbound = "refuse"
mark_shift = 16
clsact = true

[tor]
mode = "managed"
binary = "/opt/tor"
instances = 4
torrc = "/etc/torbpf/bridges"
trans_port = 19040
dns_port = 19053
resolver_port = 19054
onion4 = "172.16.0.0/12"
onion6 = "fd12:3456::/32"

[exclusions]
destinations = ["104.16.0.0/13",
  "2001:db8::/32"]
sources = ["192.168.1.7"]
marks = ["0x100/0xff00"]
ports = ["22/tcp", "53/udp@10.8.0.1"]
devices = ["02:00:00:00:00:07"]
interfaces = ["wg0"]
lists = ["/etc/torbpf/lists/de.txt", "/etc/torbpf/lists/at.txt"]

[[rules]]
destination = "104.17.0.0/16"
policy = "tor"
comment = "not this part"

[[rules]]
device = "02:00:00:00:00:08"
policy = "block"
until = 2026-12-24T18:00:00Z

[[rules]]
list = "/srv/ch.txt"
until = 2026-12-24T18:00:00Z
`))
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Wait = true
	want.Interfaces, want.Uplinks = []string{"eth1", "wlan*"}, []string{"ppp0"}
	want.Local, want.Inbound, want.MarkShift, want.Clsact = LocalReserved, false, 16, true
	want.Tor.Binary, want.Tor.Torrc, want.Tor.Instances = "/opt/tor", "/etc/torbpf/bridges", 4
	want.Tor.TransPort, want.Tor.DNSPort, want.Tor.ResolverPort = 19040, 19053, 19054
	want.Tor.Onion4, want.Tor.Onion6 = netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("fd12:3456::/32")
	want.Rules = rulesOf(t, "104.16.0.0/13 2001:db8::/32 port:22/tcp port:53/udp@10.8.0.1/32 from:192.168.1.7/32 mac:02:00:00:00:00:07 mark:0x100/0xff00 by:wg0 list:/etc/torbpf/lists/de.txt list:/etc/torbpf/lists/at.txt 104.17.0.0/16=tor mac:02:00:00:00:00:08=block list:/srv/ch.txt")
	until := time.Date(2026, 12, 24, 18, 0, 0, 0, time.UTC)
	want.Rules[10].Comment, want.Rules[11].Until, want.Rules[12].Until = "not this part", until, until
	for i, line := range []int{21, 22, 25, 25, 23, 26, 24, 27, 28, 28, 30, 35, 40} {
		want.Rules[i].Origin = fmt.Sprintf("line %d", line)
	}
	if !reflect.DeepEqual(cfg, want) {
		t.Errorf("got  %+v\nwant %+v", cfg, want)
	}
	text, err := cfg.Text()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse(text)
	for i := range min(len(again.Rules), len(cfg.Rules)) {
		again.Rules[i].Origin = cfg.Rules[i].Origin
	}
	if err != nil || !reflect.DeepEqual(again, cfg) {
		t.Errorf("written as\n%s\nit reads as %+v, %v", text, again, err)
	}
}

// TestParseSaysWhatIsWrongWhere: every refusal names the line or the key, what is
// wrong and, where there is one, the way out.
func TestParseSaysWhatIsWrongWhere(t *testing.T) {
	for _, c := range []struct {
		text string
		says []string
	}{
		{"interfaces = [\"eth1\"]\nintefaces = 1\n", []string{"line 2", "unknown key intefaces"}},
		{"interfaces = [\"eth1\"]\n[tor]\nport = 1\n", []string{"line 3", "tor.port"}},
		{"interfaces = \"eth1\"\n", []string{"line 1", "interfaces"}},
		{"interfaces = [\"eth1\"\n", []string{"line 1", "incomplete"}},
		{"", []string{"interfaces", "name the interfaces"}},
		{"interfaces = [\"eth 1\"]", []string{"interfaces", "no interface name"}},
		{"interfaces = [\"*\"]", []string{"interfaces", "no interface name"}},
		{"interfaces = [\"w*n\"]", []string{"interfaces", "no interface name"}},
		{"interfaces = [\"eth1\"]\ninbound = \"maybe\"", []string{"inbound", "allow", "refuse"}},
		{"interfaces = [\"eth1\"]\n[exclusions]\ndestinations = [\"104.17.0.1/13\"]", []string{"line 3", "104.16.0.0/13"}},
		{"interfaces = [\"eth1\"]\n[exclusions]\ndestinations = [\"0.0.0.0/0\"]", []string{"line 3, exclusions.destinations: ", "past Tor"}},
		{"interfaces = [\"eth1\"]\n[exclusions]\nmarks = [\"0x0\"]", []string{"line 3"}},
		{"interfaces = [\"eth1\"]\n[[rules]]\npolicy = \"tor\"", []string{"line 2", "one thing to match"}},
		{"[client]\nenable = true\nproxy_port = 9040\n", []string{"line 3", "9040", "choose another"}},
		{"[client]\nenable = true\n[client.exclusions]\nmarks = [\"0x100\"]\nsources = [\"192.168.1.7\"]\n", []string{"line 5, client.exclusions.sources: ", "about LANs"}},
		{"[client]\nenable = true\n[client.exclusions]\nresolver = \"192.0.2.53\"\n", []string{"line 4", "one resolver"}},
		{"[client]\nenable = true\n[client.exclusions]\nprograms = [\"firefox\"]\n", []string{"line 4", "whole path"}},
		{"[client]\nenable = false\n", []string{"interfaces", "name the interfaces"}},
		{"interfaces = [\"eth1\"]\n[[rules]]\nport = \"22/tcp\"\nmark = \"0x1\"", []string{"line 2", "one thing to match"}},
		{"interfaces = [\"eth1\"]\n[[rules]]\nport = \"22/tcp\"\npolicy = \"maybe\"", []string{"line 4", "direct, tor, block"}},
		{"interfaces = [\"eth1\"]\n[[rules]]\nport = \"22/tcp\"\npolicy = \"block\"", []string{"line 2", "direct, tor"}},
		{"interfaces = [\"eth1\"]\n[exclusions]\nports = [\"22/tcp\"]\n[[rules]]\nport = \"22/tcp\"\npolicy = \"tor\"", []string{"line 4", "line 3", "which of the two"}},
		{"interfaces = [\"eth1\"]\n[exclusions]\ninterfaces = [\"eth1\"]", []string{"line 3", "torified"}},
		{"interfaces = [\"eth1\"]\n[exclusions]\ndevices = [\"01:00:5e:00:00:01\"]", []string{"line 3", "group"}},
		{"interfaces = [\"eth1\"]\n[exclusions]\nlists = [\"lists/de.txt\"]", []string{"line 3", "write the whole path"}},
		{"interfaces = [\"eth1\"]\n[exclusions]\nlists = [\"/lists//de.txt\"]", []string{"line 3", "did you mean /lists/de.txt?"}},
		{"interfaces = [\"eth1\"]\n[[rules]]\nlist = \"/de.txt\"\npolicy = \"tor\"", []string{"line 2", "for a list there is direct"}},
		{"interfaces = [\"eth1\"]\n[exclusions]\nlists = [\"/a\"]\n[[rules]]\nlist = \"/a\"\nuntil = 2026-12-24T18:00:00Z", []string{"line 4", "line 3", "which of the two"}},
		{"interfaces = [\"eth1\"]\n[exclusions]\nports = [\"tcp\"]", []string{"line 3", "22/tcp"}},
		{"interfaces = [\"eth1\"]\n[tor]\ntrans_port = 99999", []string{"line 3", "trans_port"}},
		{"interfaces = [\"eth1\"]\n[tor]\ntorrc = \"bridges\"", []string{"line 3: tor.torrc", "whole path"}},
		{"interfaces = [\"eth1\"]\nlocal = \"none\"\nmark_shift = 3\n\n[tor]\ndns_port = 53", []string{"line 3: mark_shift", "line 6: tor.dns_port"}},
	} {
		_, err := Parse([]byte(c.text))
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", c.text, err)
			continue
		}
		for _, want := range c.says {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v does not say %q", c.text, err, want)
			}
		}
	}
}

func TestLoadNamesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "torbpf.toml")
	if _, err := Load(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), path+":1: ") {
		t.Errorf("of a broken file: %v", err)
	}
}

// FuzzFile: no text is the end of the reader, and what it takes it takes again as
// it writes it.
func FuzzFile(f *testing.F) {
	for _, text := range []string{
		`interfaces = ["eth1"]`, "interfaces = [\"a*\"]\n[tor]\nonion4 = \"10.64.0.0/10\"",
		"interfaces = [\"eth1\"]\n[exclusions]\nmarks = [\"0x1/0x1\"]\nsources = [\"fe80::1\"]", "[tor", "a = 1e9", "\xff",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		cfg, err := Parse(text)
		if err != nil {
			return
		}
		written, err := cfg.Text()
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		again, err := Parse(written)
		if err != nil || words(again.Rules.Normalized()) != words(cfg.Rules.Normalized()) {
			t.Fatalf("%q was written as %q and reads as %+v, %v", text, written, again, err)
		}
	})
}

// TestTheReferenceNamesEveryKey: what packaging ships says of every key what it is by
// default, and nothing else.
func TestTheReferenceNamesEveryKey(t *testing.T) {
	text, err := os.ReadFile("../../packaging/torbpf.toml")
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Wait, want.Interfaces, want.Uplinks = true, []string{"eth1"}, []string{}
	if !reflect.DeepEqual(cfg, want) {
		t.Errorf("the reference reads as %+v, want the defaults %+v", cfg, want)
	}
	var keys func(reflect.Type)
	keys = func(of reflect.Type) {
		for i := range of.NumField() {
			field := of.Field(i)
			key, _, _ := strings.Cut(field.Tag.Get("toml"), ",")
			if !strings.Contains(string(text), "\n"+key+" = ") && !strings.Contains(string(text), "\n# "+key+" = ") && !strings.Contains(string(text), "\n["+key+"]") && !strings.Contains(string(text), "."+key+"]\n") && !strings.Contains(string(text), "\n# [["+key+"]]") {
				t.Errorf("the reference lacks the key %s", key)
			}
			if field.Type.Kind() == reflect.Struct {
				keys(field.Type)
			}
		}
	}
	keys(reflect.TypeFor[file]())
}
