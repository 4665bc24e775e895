package config

import (
	"os"
	"strings"
	"testing"
)

const (
	tvMAC     = "02:00:5e:10:00:01"
	laptopMAC = "02:00:5e:10:00:02"
)

// TestRulesOfFilesTakeTheNamesOfDevices: in lists and single rules, by names of any file, those
// that commands have saved included, and in the letters that commands take.
func TestRulesOfFilesTakeTheNamesOfDevices(t *testing.T) {
	path := write(t, map[string]string{
		"torbpf.toml":            "interfaces = [\"eth1\"]\n[exclusions]\ndevices = [\"Kitchen-TV\", \"02:00:5e:10:00:03\"]\n",
		"torbpf.d/a.toml":        "[[rules]]\ndevice = \"laptop\"\npolicy = \"block\"\n[devices]\nkitchen-tv = \"" + tvMAC + "\"\n",
		"torbpf.d/zz-saved.toml": "[devices]\nlaptop = \"" + laptopMAC + "\"\n",
	})
	cfg, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := words(cfg.Rules), "mac:"+tvMAC+" mac:02:00:5e:10:00:03 mac:"+laptopMAC+"=block"; got != want {
		t.Errorf("rules %s, want %s", got, want)
	}
	text, err := cfg.Text()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Parse(text); err != nil || words(again.Rules) != words(cfg.Rules) {
		t.Errorf("written as %s, which reads as %s, %v", text, words(again.Rules), err)
	}
}

// TestANameAndItsAddressAreOneDevice to rules that contradict one another.
func TestANameAndItsAddressAreOneDevice(t *testing.T) {
	_, err := Parse([]byte("interfaces = [\"eth1\"]\n[devices]\ntv = \"" + tvMAC + "\"\n[exclusions]\ndevices = [\"tv\"]\n[[rules]]\ndevice = \"" + tvMAC + "\"\npolicy = \"block\"\n"))
	if err == nil || !strings.Contains(err.Error(), "which of the two is meant?") {
		t.Errorf("direct by its name and blocked by its address: %v", err)
	}
}

// TestAnUnknownDeviceIsAnErrorInItsLine, which says what there is and what to do.
func TestAnUnknownDeviceIsAnErrorInItsLine(t *testing.T) {
	for _, c := range []struct {
		text string
		says []string
	}{
		{"interfaces = [\"eth1\"]\n[exclusions]\ndevices = [\n\"" + tvMAC + "\",\n\"laptop\"]\n", []string{"torbpf.toml:5, exclusions.devices: ", `"laptop"`, "and none has any", "torbpf device name MAC laptop --save"}},
		{"interfaces = [\"eth1\"]\n[devices]\ntv = \"" + tvMAC + "\"\n\n[[rules]]\ndevice = \"laptop\"\n", []string{"torbpf.toml:5, rules.device: ", "but there is tv"}},
		{"interfaces = [\"eth1\"]\n[exclusions]\ndevices = [\"02:00\"]\n", []string{"torbpf.toml:3", "02:00"}},
	} {
		_, err := Load(write(t, map[string]string{"torbpf.toml": c.text}))
		for _, says := range c.says {
			if err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%q: %v does not say %q", c.text, err, says)
			}
		}
	}
}

// TestCommandsDoNotRewriteNamesTheyCannotRead: what somebody wrote into their file by hand
// stays as it is.
func TestCommandsDoNotRewriteNamesTheyCannotRead(t *testing.T) {
	saved := "[exclusions]\ndevices = [\"kitchen-tv\"]\n"
	path := write(t, map[string]string{
		"torbpf.toml":            "interfaces = [\"eth1\"]\n[devices]\nkitchen-tv = \"" + tvMAC + "\"\n",
		"torbpf.d/zz-saved.toml": saved,
	})
	if cfg, err := Load(path); err != nil || words(cfg.Rules) != "mac:"+tvMAC {
		t.Errorf("read as %s, %v", words(cfg.Rules), err)
	}
	err := Save(SavedFile(path), func(s *Saved) { s.Rules = nil })
	if err == nil || !strings.Contains(err.Error(), "zz-saved.toml:2: ") {
		t.Errorf("saved beside a name that this file does not have: %v", err)
	}
	if text, err := os.ReadFile(SavedFile(path)); err != nil || string(text) != saved {
		t.Errorf("left are %q, %v", text, err)
	}
}
