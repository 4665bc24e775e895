package config

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// write makes files below a folder, and returns the path of torbpf.toml there.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "torbpf.toml")
}

// TestDropInsAddUp in the order of their names; of single values the last counts.
func TestDropInsAddUp(t *testing.T) {
	path := write(t, map[string]string{
		"torbpf.toml":        "interfaces = [\"eth1\"]\nlocal = \"none\"\nmark_shift = 16\n[tor]\ndns_port = 1053\n[exclusions]\nsources = [\"192.168.1.7\"]\n",
		"torbpf.d/20-b.toml": "local = \"reserved\"\n[exclusions]\ndestinations = [\"10.0.0.0/8\"]\n",
		"torbpf.d/10-a.toml": "local = \"connected\"\ninterfaces = [\"eth1\", \"eth2\"]\n[tor]\ntrans_port = 1040\n",
		"torbpf.d/30-c.text": "not read",
		"torbpf.d/x.toml/y":  "a folder",
	})
	cfg, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(cfg.Interfaces, " "); got != "eth1 eth2" {
		t.Errorf("interfaces %s", got)
	}
	if cfg.Local != LocalReserved || cfg.MarkShift != 16 || cfg.Tor.TransPort != 1040 || cfg.Tor.DNSPort != 1053 {
		t.Errorf("got %+v", cfg)
	}
	if got := words(cfg.Rules); got != "from:192.168.1.7/32 10.0.0.0/8" {
		t.Errorf("rules %s", got)
	}
	if want := filepath.Join(DropIns(path), "20-b.toml") + ":3"; cfg.Rules[1].Origin != want {
		t.Errorf("the rule of the drop-in is from %s, want %s", cfg.Rules[1].Origin, want)
	}
}

// TestErrorsNameTheFileTheyAreIn, be it the main one or a drop-in.
func TestErrorsNameTheFileTheyAreIn(t *testing.T) {
	good := "interfaces = [\"eth1\"]\n[exclusions]\nports = [\"22/tcp\"]\n"
	for _, c := range []struct {
		dropIn string
		says   []string
	}{
		{"locale = 1", []string{"10-a.toml:1: unknown key locale"}},
		{"\n\nlocal = \"all\"", []string{"10-a.toml:3: local: \"all\" is none of"}},
		{"local = 1", []string{"10-a.toml:1, local"}},
		{"[exclusions]\ndestinations = [\"10.0.0.1/8\"]", []string{"10-a.toml:2, exclusions.destinations", "10.0.0.0/8"}},
		{"[[rules]]\nport = \"22/tcp\"\npolicy = \"tor\"", []string{"10-a.toml:1, rules.port: port 22/tcp is in ", "torbpf.toml:3 as well, where it is direct"}},
		{"[[rules]]\nport = \"22/tcp\"\nmark = \"0x1\"", []string{"10-a.toml:1, rules: a rule says one thing"}},
	} {
		_, err := Load(write(t, map[string]string{"torbpf.toml": good, "torbpf.d/10-a.toml": c.dropIn}))
		for _, says := range c.says {
			if err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%q: %v does not say %q", c.dropIn, err, says)
			}
		}
	}
	if _, err := Load(write(t, map[string]string{"torbpf.d/10-a.toml": good})); !os.IsNotExist(unwrapped(err)) {
		t.Errorf("a drop-in alone: %v", err)
	}
}

func unwrapped(err error) error {
	for {
		inner, ok := err.(interface{ Unwrap() error })
		if !ok || inner.Unwrap() == nil {
			return err
		}
		err = inner.Unwrap()
	}
}

// TestSavedRulesAreRead where they are saved, and the file goes with the last of them.
func TestSavedRulesAreRead(t *testing.T) {
	path := write(t, map[string]string{"torbpf.toml": "interfaces = [\"eth1\"]"})
	saved := SavedFile(path)
	rules := rulesOf(t, "10.0.0.0/8 port:53/udp@10.8.0.1/32 from:192.168.1.7 mac:02:00:00:00:00:07=block mark:0x100 by:wg0 10.1.0.0/16=tor")
	rules[0].Until, rules[0].Comment = time.Date(2026, 12, 24, 18, 0, 0, 0, time.UTC), "the \"bank\""
	for _, r := range rules {
		if err := Save(saved, func(s *Saved) { s.Rules.Add(r) }); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := words(cfg.Rules.Normalized()), words(rules.Normalized()); got != want {
		t.Errorf("saved and read: %s, want %s", got, want)
	}
	for _, r := range cfg.Rules {
		if !strings.HasPrefix(r.Origin, saved+":") {
			t.Errorf("%s is from %s", r.Entry, r.Origin)
		}
		if r.Entry == rules[0].Entry && (r.Comment != rules[0].Comment || !r.Until.Equal(rules[0].Until)) {
			t.Errorf("read as %+v", r)
		}
	}
	for _, r := range rules {
		if err := Save(saved, func(s *Saved) { s.Rules.Remove(r.Entry) }); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(saved); !os.IsNotExist(err) {
		t.Errorf("with no rule left the file stays: %v", err)
	}
}

// TestWhatIsSavedIsToldLast: it counts where another file says otherwise, and no boot
// fails over it.
func TestWhatIsSavedIsToldLast(t *testing.T) {
	path := write(t, map[string]string{
		"torbpf.toml":     "interfaces = [\"eth1\"]\n[exclusions]\ndestinations = [\"10.0.0.0/8\", \"51.0.0.0/8\"]\n",
		"torbpf.d/a.toml": "[exclusions]\ndomains = [\"shop.example\"]\nresolver = \"192.0.2.1\"\n",
	})
	err := Save(SavedFile(path), func(s *Saved) {
		s.Rules, s.Resolver = rulesOf(t, "10.0.0.0/8=tor name:bank.example"), netip.MustParseAddr("192.0.2.2")
	})
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := words(cfg.Rules); got != "51.0.0.0/8 name:shop.example name:bank.example 10.0.0.0/8=tor" || cfg.Resolver.String() != "192.0.2.2" {
		t.Errorf("rules %s, asked of %s", got, cfg.Resolver)
	}
	if err := Save(SavedFile(path), func(s *Saved) { s.Rules.Remove(Entry{Kind: KindDomain, Domain: "bank.example"}) }); err != nil {
		t.Fatal(err)
	}
	if cfg, err = Load(path); err != nil || cfg.Resolver.String() != "192.0.2.1" {
		t.Errorf("without a saved name: asked of %s, %v", cfg.Resolver, err)
	}
}

// TestSavedTimesAreTimes: they are written as TOML has them, and the texts that an older
// torbpf wrote are read.
func TestSavedTimesAreTimes(t *testing.T) {
	path := SavedFile(filepath.Join(t.TempDir(), "torbpf.toml"))
	until := time.Date(2030, 1, 31, 18, 0, 0, 0, time.UTC)
	err := Save(path, func(s *Saved) {
		s.Rules = rulesOf(t, "10.0.0.0/8 11.0.0.0/8")
		s.Rules[0].Until = until
	})
	text, readErr := os.ReadFile(path)
	if err != nil || readErr != nil || !strings.Contains(string(text), "\nuntil = 2030-01-31T18:00:00Z\n") || strings.Count(string(text), "until") != 1 {
		t.Errorf("saved as %s, %v, %v", text, err, readErr)
	}
	cfg, err := Parse([]byte("interfaces = [\"eth1\"]\n[[rules]]\ndestination = \"10.0.0.0/8\"\nuntil = '2030-01-31T18:00:00Z'\n"))
	if err != nil || !cfg.Rules[0].Until.Equal(until) {
		t.Errorf("read as %v, %v", cfg.Rules, err)
	}
}
