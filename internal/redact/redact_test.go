package redact

import (
	"encoding/json"
	"strings"
	"testing"
)

func testKnown() Known {
	return Known{
		Devices: []string{"kitchen-tv", "Anna"}, Hosts: []string{"gateway7", "gateway7.home.arpa"}, Users: []string{"alice"},
		Domains: []string{"bank.example"}, Comments: []string{`for "Anna's" homework`, "the <doctor>"}, Bridges: []string{"snowflake-front"},
	}
}

// secrets are of every kind, as they stand in texts.
var secrets = map[string][]string{
	"ip4": {"51.20.0.80", "8.8.8.8", "051.020.000.080", "::ffff:51.20.0.80"},
	"ip6": {"2a0d:50::11", "2A0D:0050:0:0:0:0:0:0011", "fd50::1", "fe80::ff:fe00:5001", "ff02::1:ff00:5001", "2002:3314:50::1", "64:ff9b::3314:50"},
	"mac": {"02:00:00:00:50:11", "02-00-00-00-50-1A", "enx0200000050ab", "wlx02000000501c", "0200000050ab", "80:00:02:08:fe:80:00:00:00:00:00:00:02:00:00:00:00:00:50:11"},
	"onion": {
		"p53lf57qovyuvwsc6xnrppyply3vtqm7l6pcobkmyqsiofyeznfu5uqd.onion", "www.expyuzz4wqqyqhjn.onion",
	},
	"relay":   {"$0123456789ABCDEF0123456789ABCDEF01234567~friend", "0123456789abcdef0123456789abcdef01234567"},
	"key":     {"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=", "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"},
	"name":    {"www.example.org", "printer.lan", "büro.example.de", "11.0.0.5.2.d.0.a.2.ip6.arpa", "alice.b+c@example.org", "bank.so", "_dns-sd.example.org"},
	"bridge":  {"obfs4 198.41.0.4:9001 cert=AbCd iat-mode=0"},
	"user":    {"/home/carol"},
	"hex":     {"0x2a0d0050000000000000000000000011"},
	"unknown": nil,
}

// around are what may stand before and behind a secret.
var around = [][2]string{{"", ""}, {"from ", " to"}, {`"`, `"`}, {"(", ")."}, {"src=", ","}, {"[", "]:443"}, {"", "/24"}, {"dev_", "_x"}, {"a ", ": gone"}, {"from:", ":"}}

// TestSecretsOfEveryKindAreHidden: wherever in a text they are, and the same by the same word.
func TestSecretsOfEveryKindAreHidden(t *testing.T) {
	for kind, list := range secrets {
		for _, secret := range list {
			for _, a := range around {
				text := a[0] + secret + a[1]
				if kind == "bridge" {
					text = "Bridge " + secret
				}
				got := New(Known{}).Text(text + "\n" + text)
				tail := secret[max(0, len(secret)-8):]
				if strings.Contains(strings.ToLower(got), strings.ToLower(secret)) || kind != "user" && strings.Contains(strings.ToLower(got), strings.ToLower(tail)) {
					t.Errorf("%s: %q becomes %q", kind, text, got)
				}
				if lines := strings.Split(got, "\n"); lines[0] != lines[1] {
					t.Errorf("%s: twice the same, and two words for it: %q", kind, got)
				}
			}
		}
	}
}

// TestKnownWordsAreHidden: in any case and notation, by themselves and in names of other things,
// but not within other words.
func TestKnownWordsAreHidden(t *testing.T) {
	r := New(testKnown())
	for text, want := range map[string]string{
		"kitchen-tv is blocked":          "device-1 is blocked",
		"KITCHEN-TV and anna":            "device-1 and device-2",
		"set anna_phone":                 "set device-2_phone",
		"annabelle":                      "annabelle",
		"gateway7.home.arpa, gateway7":   "host-1, host-2",
		"/home/alice/x, uid=alice":       "/home/user-1/x, uid=user-1",
		"bank.example.":                  "name-1.",
		"tls.bank.example":               "tls.name-1",
		`it is for "Anna's" homework`:    "it is comment-1",
		`{"c":"for \"Anna's\" homework"`: `{"c":"comment-2"`,
		"front=snowflake-front":          "front=bridge-1",
	} {
		if got := New(testKnown()).Text(text); strings.Map(letters, got) != strings.Map(letters, want) {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
		if left := r.Leaves(r.Text(text)); len(left) > 0 {
			t.Errorf("%q leaves %v", text, left)
		}
	}
	if left := r.Leaves("Anna's device"); len(left) != 1 || left[0] != "device" {
		t.Errorf("a secret that is left is not found: %v", left)
	}
	escaped, err := json.Marshal("the <doctor>")
	if err != nil {
		t.Fatal(err)
	}
	if got := r.Text(string(escaped)); strings.Contains(got, "doctor") {
		t.Errorf("escaped it is %q", got)
	}
}

// letters leaves numbers out.
func letters(c rune) rune {
	if c >= '0' && c <= '9' {
		return -1
	}
	return c
}

// TestWhatTellsNothingStays: with it a bundle can be read.
func TestWhatTellsNothingStays(t *testing.T) {
	for _, text := range []string{
		"192.168.50.1/24 10.0.0.0/8 100.64.0.1 127.0.0.53 224.0.0.251 255.255.255.255 0.0.0.0",
		":: ::1 fe80::/10 fc00::/7 ff02::1 ff02::fb 2001:db8::/32 fd74:6f72:f00::/40",
		"Tor version 0.4.9.11. go1.26.1 6.18.44-fc-v657 Linux 6.4",
		"net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=0 net.bridge.bridge-nf-call-iptables",
		"/run/torbpf/host/state.json /etc/torbpf/torbpf.toml torbpf.service sentry.log",
		"eth1.10 eth0@if1002 br-lan 12:34:56 2026-11-27T07:24:51Z fwmark 0x1000000/0xf000000",
		"table inet torbpf { chain input { tcp dport { 9040, 9054 } accept } }",
		"ff:ff:ff:ff:ff:ff 00:00:00:00:00:00 123456789012 bytes",
		"e.g. i.e. it is so. And then",
	} {
		if got := New(Known{}).Text(text); got != text {
			t.Errorf("%q\nbecomes\n%q", text, got)
		}
	}
}

// TestRawPayloadInRulesIsHidden: nft has no word for some matches, and prints addresses as numbers.
func TestRawPayloadInRulesIsHidden(t *testing.T) {
	got := New(Known{}).Text("@th,192,32 & 0xffff0000 == 0x3e0a0000 drop\nmeta mark 0x01000000")
	if strings.Contains(got, "3e0a") || !strings.Contains(got, "meta mark 0x01000000") {
		t.Error(got)
	}
}

// TestWhatPeopleWriteIntoRulesIsHidden: not what torbpf does.
func TestWhatPeopleWriteIntoRulesIsHidden(t *testing.T) {
	text := `table inet torbpf {
	chain input {
		accept comment "handed to tor's socket"
	}
}
table inet mine {
	chain input {
		ip saddr 192.168.1.7 accept comment "Bob's \"old\" laptop"
		log prefix "from bob: " drop
	}
}
`
	got := New(Known{}).Ruleset(text, "table inet torbpf")
	for _, secret := range []string{"Bob", "bob", "laptop"} {
		if strings.Contains(got, secret) {
			t.Errorf("%s is left: %s", secret, got)
		}
	}
	if !strings.Contains(got, "handed to tor's socket") || !strings.Contains(got, `accept comment "comment-1"`) || !strings.Contains(got, "192.168.1.7") {
		t.Error(got)
	}
}

// TestSomebodyElsesPlaceholdersAreNone: a text cannot bring the runes along.
func TestSomebodyElsesPlaceholdersAreNone(t *testing.T) {
	r := New(testKnown())
	if got := r.Text("\U000F0000\U000FFFFD kitchen-tv"); got != " device-1" {
		t.Errorf("%q", got)
	}
}

// TestALongTextTakesNoTimeToSpeakOf: of what looks like the begin of addresses, too.
func TestALongTextTakesNoTimeToSpeakOf(t *testing.T) {
	r := New(testKnown())
	for _, text := range []string{strings.Repeat(":", 1<<17), strings.Repeat("a", 1<<17), strings.Repeat("1.", 1<<16), strings.Repeat("anna", 1<<15), strings.Repeat("aa:", 1<<16)} {
		if r.Text(text) == "" {
			t.Errorf("of %.10q… nothing is left", text)
		}
	}
}

// FuzzNoKnownWordIsLeft: whatever stands around it.
func FuzzNoKnownWordIsLeft(f *testing.F) {
	f.Add("a ", " b")
	f.Add("\U000F0000", "::1.")
	f.Fuzz(func(t *testing.T, before, after string) {
		r := New(testKnown())
		for _, secret := range []string{" kitchen-tv ", " 2a0d:50::11 ", " 51.20.0.80 ", " 02:00:00:00:50:11 "} {
			got := r.Text(before + secret + after)
			if left := r.Leaves(got); len(left) > 0 || strings.Contains(got, secret) && !strings.Contains(before+after, secret) {
				t.Errorf("%q in %q, %q leaves %v: %q", secret, before, after, left, got)
			}
		}
	})
}
