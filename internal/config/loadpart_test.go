package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestLoadPartNeedsNothingOnTor: but what is wrong is an error all the same.
func TestLoadPartNeedsNothingOnTor(t *testing.T) {
	for text, wants := range map[string][2]string{ // of Load, of LoadPart
		"[tor]\ntorrc = \"/bridges\"": {"or put this machine itself on Tor, by enable = true below [client]", ""},
		"[tor]\ntorrc = \"bridges\"":  {"relative", "relative"},
		"[tro]":                       {"unknown", "unknown"},
		"[client]\nenable = true":     {"", ""},
	} {
		path := filepath.Join(t.TempDir(), "torbpf.toml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for i, load := range []func(string) (Config, error){Load, LoadPart} {
			_, err := load(path)
			if want := wants[i]; (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%q, %d: %v, want %q", text, i, err, want)
			}
		}
	}
}
