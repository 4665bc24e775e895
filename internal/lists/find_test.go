package lists

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFindTellsTheLineOfTheNarrowestPrefix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "list.txt")
	text := "# a country\n10.0.0.0/8\n\n10.1.2.0/24 ; a town\r\n10.1.0.0/16\n2001:db8::/32\n192.0.2.7\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]Place{
		"10.1.2.3":     {4, netip.MustParsePrefix("10.1.2.0/24")},
		"10.1.3.3":     {5, netip.MustParsePrefix("10.1.0.0/16")},
		"10.2.0.1":     {2, netip.MustParsePrefix("10.0.0.0/8")},
		"192.0.2.7":    {7, netip.MustParsePrefix("192.0.2.7/32")},
		"2001:db8::53": {6, netip.MustParsePrefix("2001:db8::/32")},
		"192.0.2.8":    {},
		"2001:db9::1":  {},
	} {
		got, found, err := Find(path, netip.MustParseAddr(addr))
		if err != nil || got != want || found != (want.Line > 0) {
			t.Errorf("%s is at %+v (found %v, %v), want %+v", addr, got, found, err, want)
		}
	}
	if err := os.WriteFile(path, []byte(text+"10.1.2.300\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, found, err := Find(path, netip.MustParseAddr("10.1.2.3")); found || err == nil || !strings.Contains(err.Error(), "line 8") {
		t.Errorf("in a broken list: found %v, %v", found, err)
	}
}
