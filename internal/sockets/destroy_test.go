package sockets

import (
	"net"
	"net/netip"
	"testing"
)

func TestDestroyEndsAConnection(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		local, remote := netip.MustParseAddrPort(c.LocalAddr().String()), netip.MustParseAddrPort(c.RemoteAddr().String())
		for range 2 { // the second time it is gone
			if err := Destroy(local, remote); err != nil {
				t.Error(err)
			}
		}
		if n, err := c.Read(make([]byte, 1)); err == nil {
			t.Errorf("%s: it goes on: read %d bytes", address, n)
		}
	}
}
