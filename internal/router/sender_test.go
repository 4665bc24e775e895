package router

import (
	"net/netip"
	"strings"
	"testing"
)

// TestADeviceSendsByAnAddressThatReaches: of the version of where it sends to, and none of the link to
// the Internet; a name it asks for by what it has.
func TestADeviceSendsByAnAddressThatReaches(t *testing.T) {
	const v4, link, unique, global = "192.168.50.11", "fe80::11", "fd50::11", "2001:db8:50::11"
	for _, c := range []struct {
		has  string // as they are sorted
		to   string // "" for a name that the router is asked for
		want string // "" for none
		says string // which is missing
	}{
		{v4 + " " + global + " " + link, "1.1.1.1", v4, ""},
		{global + " " + link, "1.1.1.1", "", " IPv4"},
		{v4 + " " + global + " " + unique + " " + link, "2606:4700::1111", global, ""},
		{v4 + " " + unique + " " + link, "2606:4700::1111", unique, ""},
		{v4 + " " + link, "2606:4700::1111", "", " global IPv6"},
		{v4, "2606:4700::1111", "", " global IPv6"},
		{v4 + " " + link, "fe80::1", link, ""},
		{v4 + " " + link, "ff02::fb", link, ""},
		{v4 + " " + global, "ff02::fb", global, ""},
		{v4, "ff02::fb", "", " IPv6"},
		{global + " " + link + " " + v4, "", v4, ""},
		{global + " " + link, "", global, ""},
		{link, "", link, ""},
		{"", "", "", ""},
	} {
		s := sender{named: true}
		for a := range strings.FieldsSeq(c.has) {
			s.addrs = append(s.addrs, netip.MustParseAddr(a))
		}
		to, _ := netip.ParseAddr(c.to)
		got, says := s.source(to, c.to == "")
		want, _ := netip.ParseAddr(c.want)
		if got != want || !got.IsValid() && says != c.says {
			t.Errorf("of %q to %q it sends by %v (%q), want %v (%q)", c.has, c.to, got, says, want, c.says)
		}
	}
}
