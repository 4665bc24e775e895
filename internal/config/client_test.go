package config

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

// TestClientRulesAreWrittenAndReadAgain, apart from those of LANs for the same.
func TestClientRulesAreWrittenAndReadAgain(t *testing.T) {
	cfg := Default()
	cfg.Wait = true
	cfg.Client = Client{Enable: true, ProxyPort: DefaultProxyPort}
	for _, r := range []struct {
		kind   Kind
		match  string
		client bool
		policy Policy
		until  time.Time
	}{
		{KindDestination, "51.20.0.0/16", false, PolicyDirect, time.Time{}},
		{KindDestination, "51.20.0.0/16", true, PolicyDirect, time.Time{}},
		{KindDestination, "51.20.7.0/24", true, PolicyTor, time.Time{}},
		{KindPort, "123/udp", true, PolicyDirect, time.Time{}},
		{KindMark, "0x100", true, PolicyDirect, time.Time{}},
		{KindInterface, "wg0", true, PolicyDirect, time.Time{}},
		{KindUser, "_chrony", true, PolicyDirect, time.Time{}},
		{KindUser, "1000", true, PolicyTor, time.Time{}},
		{KindCgroup, "/system.slice/unbound.service", true, PolicyDirect, time.Time{}},
		{KindProgram, "/usr/bin/signal-desktop", true, PolicyDirect, time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)},
	} {
		e, err := ParseEntry(r.kind, r.match)
		if err != nil {
			t.Fatal(err)
		}
		e.Client = e.Client || r.client
		cfg.Rules = append(cfg.Rules, Rule{Entry: e, Policy: r.policy, Until: r.until})
	}
	text, err := cfg.Text()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse(text)
	if err != nil {
		t.Fatalf("%s\n%v", text, err)
	}
	for i := range again.Rules {
		again.Rules[i].Origin = ""
	}
	if again.Rules = again.Rules.Normalized(); !reflect.DeepEqual(again.Rules, cfg.Rules.Normalized()) || again.Client != cfg.Client {
		t.Errorf("written as\n%s\nit reads as %+v", text, again)
	}
	if lans, client := again.Rules.OfLANs(), again.Rules.OfClient(); len(lans) != 1 || len(client) != len(cfg.Rules)-1 {
		t.Errorf("%d rules are of LANs, %d of this machine", len(lans), len(client))
	}
}

func TestSendersThatNobodyIsAreRefused(t *testing.T) {
	for _, c := range []struct {
		kind        Kind
		match, says string
	}{
		{KindUser, "", "no user"}, {KindUser, "4294967295", "no user"}, {KindUser, "a b", "no user"}, {KindUser, "-1", "no user"},
		{KindCgroup, "backup.service", "whole path of a control group"},
		{KindCgroup, "/sys/fs/cgroup/system.slice/ntpd.service", "did you mean /system.slice/ntpd.service?"},
		{KindCgroup, "/sys/fs/cgroup/unified/system.slice", "did you mean /system.slice?"},
		{KindCgroup, "/sys/fs/cgroup", "did you mean /?"},
		{KindProgram, "firefox", "whole path of a program"},
	} {
		if _, err := ParseEntry(c.kind, c.match); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s %s: %v, want %q", c.kind, c.match, err, c.says)
		}
	}
	if _, err := ParseEntry(KindCgroup, "/sys/fs/cgroups.slice"); err != nil {
		t.Error(err)
	}
}
