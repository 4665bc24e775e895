package host

import (
	"slices"
	"testing"
	"testing/fstest"
)

// TestNamesAreReadWhereverThereAreAny: those that every host has are none.
func TestNamesAreReadWhereverThereAreAny(t *testing.T) {
	got, err := namesIn(fstest.MapFS{
		"etc/hostname":    {Data: []byte("gateway7\n")},
		"etc/hosts":       {Data: []byte("127.0.0.1 localhost\n192.168.1.5 nas.home nas # Bob's\n::1 ip6-localhost\n")},
		"etc/resolv.conf": {Data: []byte("nameserver 192.168.1.1\nsearch doe.example lan\n")},
		"tmp/dhcp.leases": {Data: []byte("1700000000 02:00:00:00:50:11 192.168.1.7 annas-phone 01:02\n1700000000 02:00:00:00:50:12 192.168.1.8 * *\nduid 00\n")},
	})
	if err != nil {
		t.Fatal(err)
	}
	got = slices.DeleteFunc(got, everybodys)
	if want := []string{"annas-phone", "doe.example", "gateway7", "nas", "nas.home"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
