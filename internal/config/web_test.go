package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestThePageForALANTakesAPassword, and is for no address that the internet may reach.
func TestThePageForALANTakesAPassword(t *testing.T) {
	dir := t.TempDir()
	there, gone := filepath.Join(dir, "password"), filepath.Join(dir, "gone")
	if err := os.WriteFile(there, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct{ listen, password, more, want string }{
		{"127.0.0.1:9959", gone, "", ""},
		{"[::1]:9959", gone, "", ""},
		{"192.168.1.1:9959", gone, "", "torbpf page password"},
		{"[fd50::1]:9959", gone, "", "torbpf page password"},
		{"[fe80::1%eth1]:9959", gone, "", "torbpf page password"},
		{"192.168.1.1:9959", there, "", ""},
		{"192.168.1.1:9959", gone, "page = false", "nothing would be served at 192.168.1.1:9959"},
		{"192.168.1.1:9959", gone, "page = false\nmetrics = \"everywhere\"", ""},
		{"192.168.1.1:9959", there, "metrics = \"everywhere\"", ""},
		{"192.168.1.1:9959", gone, "metrics = \"everywhere\"", "torbpf page password"},
		{"127.0.0.1:9959", gone, "page = false", ""},
		{"127.0.0.1:9959", gone, "metrics = \"lan\"", "neither loopback nor everywhere"},
		{"0.0.0.0:9959", there, "", "every address"},
		{"[::]:9959", there, "", "every address"},
		{"0.0.0.0:9959", gone, "page = false", "nothing would be served"},
		{"0.0.0.0:9959", gone, "page = false\nmetrics = \"everywhere\"", ""},
		{"192.168.1.1:9959", "password", "", "no absolute path"},
		{"192.168.1.1", there, "", "no address with a port"},
	} {
		path := filepath.Join(dir, "torbpf.toml")
		text := fmt.Sprintf("interfaces = [\"eth1\"]\n[web]\nlisten = [\"127.0.0.1:9000\", %q]\npassword_file = %q\n%s\n", c.listen, c.password, c.more)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := Load(path)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s %s: %v, want %q", c.listen, c.password, c.more, err, c.want)
		}
		if _, err := LoadPart(path); (err == nil) != (c.want == "" || c.want == "torbpf page password") {
			t.Errorf("%d: who sets the password has to read the rest: %v", i, err)
		}
		if err != nil {
			continue
		}
		written, err := cfg.Text()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := Parse(written); err != nil || again.Web.Page != cfg.Web.Page || again.Web.Metrics != cfg.Web.Metrics || again.Web.PasswordFile != cfg.Web.PasswordFile || len(again.Web.Listen) != 2 {
			t.Errorf("written as %s: %v", written, err)
		}
	}
}
