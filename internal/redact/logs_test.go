package redact

import (
	"strings"
	"testing"
	"time"
)

// without fails where a text still has one of the words, or lacks what it is to have.
func without(t *testing.T, got string, secrets []string, wants ...string) {
	t.Helper()
	for _, secret := range secrets {
		if strings.Contains(strings.ToLower(got), strings.ToLower(secret)) {
			t.Errorf("%s is left: %s", secret, got)
		}
	}
	for _, want := range wants {
		if !strings.Contains(got, want) {
			t.Errorf("no %q: %s", want, got)
		}
	}
}

// TestCommentsOfRulesThatAreNoMore: nobody knows them but the logs, which have them in their place.
func TestCommentsOfRulesThatAreNoMore(t *testing.T) {
	audit := `2026-11-27T08:35:24Z host: added destination 10.9.0.0/16 (Anna Schmidt lawyer Mueller), by torbpf exclude add
2026-11-27T08:35:25Z ns-4026531840: removed destination 10.9.0.0/16 (Anna Schmidt lawyer Mueller), by torbpf exclude del
2026-11-27T08:35:26Z host: added device 02:00:00:00:50:11 (block) until 2026-11-27 09:35:26 (Otto (again), by night), by torbpf device block
2026-11-27T08:35:27Z host: ended device 02:00:00:00:50:11 (block) (bo), by the page
2026-11-27T08:35:28Z host: added user karl of this machine, by torbpf exclude add
2026-11-27T08:35:28Z host: added program /opt/mybank/bin/trade, by torbpf exclude add
2026-11-27T08:35:29Z host: changed destination 10.9.0.0/16: it is blocked until 2026-11-27 10:00:00, and was excluded (two
lines of Berta), by torbpf exclude add
2026-11-27T08:35:30Z host: added interface eth7, which absorbed Karlsruhe, by torbpf exclude add
`
	secrets := []string{"Anna", "Schmidt", "lawyer", "Mueller", "Otto", "night", "(bo)", "karl", "mybank", "trade", "two", "Berta", "50:11"}
	r := New(Known{Plain: []string{"eth7"}})
	without(t, r.Audit(audit), secrets,
		"host: added destination 10.9.0.0/16 (comment-1), by torbpf exclude add\n", "removed destination 10.9.0.0/16 (comment-1), by torbpf exclude del\n",
		"added device mac-1 (block) until", "(comment-2), by torbpf device block\n", "ended device mac-1 (block) (comment-3), by the page\n", "added user entry-1 of this machine", "interface eth7, which absorbed word-")
	var events strings.Builder
	for line := range strings.Lines(audit) {
		if at, what, found := strings.Cut(strings.TrimSuffix(line, "\n"), " host: "); found {
			events.WriteString(`{"time":"` + at + `","kind":"policy","text":"` + what + `","device":"","packet":null,"rule":{"kind":"destination","entry":"10.9.0.0/16"}}` + "\n")
		}
	}
	events.WriteString(`{"time":"2026-11-27T08:35:30Z","kind":"policy","text":"added user karl","device":"","packet":null,"rule":{"kind":"user","entry":"karl"}}` + "\n")
	without(t, r.Events(events.String()), secrets, `"text":"added destination 10.9.0.0/16 (comment-1), by torbpf exclude add"`, `"rule":{"kind":"user","entry":"entry-1"}`)
	log := "2026-11-27T08:35:24+00:00 torbpf[77]: level=WARN msg=\"warning: the audit lacks a line (2026-11-27T08:35:24Z host: removed destination 10.9.0.0/16 (Anna Schmidt lawyer Mueller)): no space left on device\"\n" +
		"2026-11-27T08:35:24+00:00 torbpf[77]: level=ERROR msg=\"\\\"Otto\\\" is no device, added program /opt/mybank/bin/trade\"\n" +
		"2026-11-27T08:35:25+00:00 systemd[1]: Started torbpf.service - Transparent Tor router.\n"
	without(t, r.Log(log), secrets, "the audit lacks a line (", "(comment-1)", "no space left on device", "is no device", "systemd[1]: Started torbpf.service")
}

// TestFormerNamesOfDevicesAreHidden: what is no address is a name.
func TestFormerNamesOfDevicesAreHidden(t *testing.T) {
	line := func(device string) string {
		return `{"time":"2026-11-27T08:35:24Z","kind":"tor","text":"new circuits","device":"` + device + `","packet":null,"rule":null}` + "\n"
	}
	got := New(testKnown()).Events(line("bertas-phone") + line("bertas-phone") + line("the page") + line("kitchen-tv") + line("192.168.50.7") + line("02:00:00:00:50:11") + line(""))
	want := line("device-1") + line("device-1") + line("device-2") + line("device-3") + line("192.168.50.7") + line("mac-1") + line("")
	if strings.Map(letters, got) != strings.Map(letters, want) {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	without(t, got, []string{"berta", "the page", "kitchen"}, "192.168.50.7")
}

// TestWhatTorbpfNeverSaysIsHidden: in logs, wherever it stands.
func TestWhatTorbpfNeverSaysIsHidden(t *testing.T) {
	for text, want := range map[string]string{
		"a tor hung, Gertrud":              "a tor hung, word-1",
		"list of eth9 and Größe 東京":        "list of eth9 and word-1 word-2",
		"on Tor: kinderzimmer0, wlan7":     "on Tor: kinderzimmer0, wlan7",
		"dial tcp: i/o timeout, Gertrud7x": "dial tcp: i/o timeout, word-17x",
	} {
		if got := New(Known{Plain: []string{"kinderzimmer0", "wlan7", "eth9"}}).Log(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

// TestCommentsInJSONAreHidden: of rules that have ended the state has them for a while.
func TestCommentsInJSONAreHidden(t *testing.T) {
	got := New(Known{}).Text(`{"comment": "Anna's \"old\" lawyer at 51.20.0.80", "origin": "torbpf exclude add"}`)
	if got != `{"comment": "comment-1", "origin": "torbpf exclude add"}` {
		t.Error(got)
	}
}

// TestBridgesAreHiddenWithAllTheirSettings: whether or not the word stands before them.
func TestBridgesAreHiddenWithAllTheirSettings(t *testing.T) {
	const print = "0123456789ABCDEF0123456789ABCDEF01234567"
	for _, text := range []string{
		`bridges = ["obfs4 192.168.1.7:9001 ` + print + ` cert=ZZZZ iat-mode=0 unheardof=ZZZZ"]`,
		`"webtunnel [2a0d::1]:9001 ` + print + ` url=https://ZZZZ/ZZZZ ver=0.0.1": it is there twice`,
		`"192.168.1.7:9001 ` + print + `"`, `"snowflake 192.168.1.7:9001 0123456789AB..." is none`, `custom 192.168.1.7:9001 ` + print + ` x=ZZZZ`,
		"sqscreds=eyJZZZZ", "secret=ZZZZ", "sqsqueue=https://sqs.us-east-1.amazonaws.example/123456789012/ZZZZ", `utls-nosni=ZZZZ`, `password=ZZZZ`,
	} {
		without(t, New(Known{}).Text(text), []string{"ZZZZ", "9001", "012345", "123456789012"}, "bridge-1")
	}
}

// TestPlacesThatTellAreHidden: lists of countries, namespaces of people, apps.
func TestPlacesThatTellAreHidden(t *testing.T) {
	for text, want := range map[string]string{
		"list /etc/torbpf/lists/de.txt has changed":                  "list list-1 has changed",
		`"path": "/etc/torbpf/lists/eu/de.txt"`:                      `"path": "/etc/torbpf/lists/list-1"`,
		"link/ether 0 link-netns alice-vault":                        "link/ether 0 link-netns netns-1",
		"link-netnsid 0, /run/netns/alice-vault":                     "link-netnsid 0, /run/netns/netns-1",
		"/user.slice/user-1000.slice/app.slice/app-mybank-1.scope":   "/user.slice/user-1000.slice/app.slice/app-1.scope",
		"app.slice/app-org.gnome.Bank@1.service, torbpf.service":     "app.slice/app-1.service, torbpf.service",
		"init.scope session-3.scope":                                 "init.scope app-1.scope",
		"bertas-vault and router":                                    "netns-1 and router",
		"cgroup /custom/apps and /opt/bank is /srv/de.zone, de.zone": "cgroup app-1 and app-2 is list-1, list-2",
	} {
		got := New(Known{Spaces: []string{"bertas-vault", "router"}, Apps: []string{"/custom/apps", "/opt/bank"}, Lists: []string{"/srv/de.zone", "de.zone"}}).Text(text)
		if got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

// TestTimesAreInUTC: how far a clock is from it tells the region.
func TestTimesAreInUTC(t *testing.T) {
	zone := time.Local
	time.Local = time.FixedZone("IST", 5*3600+1800)
	defer func() { time.Local = zone }()
	for text, want := range map[string]string{
		"2026-11-27T14:05:24+05:30 host: added":             "2026-11-27T08:35:24Z host: added",
		`"time":"2026-11-27T00:05:24.123456789+05:30"`:      `"time":"2026-11-26T18:35:24.123456789Z"`,
		"2026-11-27T14:05:24+0530 torbpf[7]: x":             "2026-11-27T08:35:24Z torbpf[7]: x",
		"until 2026-11-27 14:05:24, then":                   "until 2026-11-27 08:35:24 UTC, then",
		"as it was read on 2026-11-27 14:05:24: x":          "as it was read on 2026-11-27 08:35:24 UTC: x",
		"it is 2026-11-27 08:35:24 by it":                   "it is 2026-11-27 08:35:24 by it",
		"2026-99-27T14:05:24+05:30":                         "2026-99-27",
		`"2026-11-27T08:35:24Z" "2026-11-27T08:35:24-0000"`: `"2026-11-27T08:35:24Z" "2026-11-27T08:35:24Z"`,
	} {
		if got := New(Known{}).Text(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

// TestAWordThatPlaceholdersHaveIsNotLeft: a device may be called that.
func TestAWordThatPlaceholdersHaveIsNotLeft(t *testing.T) {
	r := New(Known{Devices: []string{"device", "host"}})
	if text := r.Text("a device of the host"); len(r.Leaves(text)) > 0 {
		t.Errorf("%q is said to have one", text)
	}
}
