package host

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/plan"
)

var ports = plan.Ports{Trans: 9040, DNS: 9053, Resolver: 9054}

func TestPortsInUse(t *testing.T) {
	for _, tt := range []struct {
		network, addr string
		want          []string // protocol, port and address
	}{
		{"tcp4", "127.0.0.1:9040", []string{"tcp 127.0.0.1:9040"}},
		{"tcp4", "0.0.0.0:9040", []string{"tcp 0.0.0.0:9040"}},
		{"tcp6", "[::1]:9040", []string{"tcp [::1]:9040"}},
		{"tcp", "[::]:9054", []string{"tcp [::]:9054"}},
		{"udp4", "127.0.0.1:9053", []string{"udp 127.0.0.1:9053"}},
		{"udp6", "[::1]:9054", []string{"udp [::1]:9054"}},
		{"udp", ":9053", []string{"udp [::]:9053"}},
		// The other protocol's ports are free for others to use.
		{"udp4", "0.0.0.0:9040", nil},
		{"tcp4", "0.0.0.0:9053", nil},
		{"tcp4", "0.0.0.0:9041", nil},
	} {
		t.Run(tt.network+" "+tt.addr, func(t *testing.T) {
			enterNamespace(t)
			run(t, "ip link set lo up")
			listen(t, tt.network, tt.addr)
			var got []string
			for _, c := range conflicts(t) {
				got = append(got, c.Protocol+" "+netip.AddrPortFrom(c.Addr, c.Port).String())
				if c.PID != os.Getpid() || !strings.HasPrefix(c.Process, "host.test") {
					t.Errorf("holder is %q (%d), want this test", c.Process, c.PID)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("conflicts differ (-want +got):\n%s", diff)
			}
			if again := conflicts(t); len(again) != len(tt.want) {
				t.Errorf("asking again gives %v", again)
			}
		})
	}
}

func TestFreePortsAreFree(t *testing.T) {
	enterNamespace(t)
	if got := conflicts(t); len(got) != 0 {
		t.Errorf("an empty namespace has %v", got)
	}
}

// mDNS responders and the like share their ports with whoever shares his.
func TestSharedUDPPortsAreTaken(t *testing.T) {
	enterNamespace(t)
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		}), err)
	}}
	conn, err := config.ListenPacket(context.Background(), "udp4", "0.0.0.0:9053")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := conflicts(t); len(got) != 1 {
		t.Errorf("a port open to sharing gives %v", got)
	}
}

// A listener that has just ended leaves closed connections on its port; tor can
// listen there at once, and so it must not count as taken.
func TestClosedConnectionsAreNoConflict(t *testing.T) {
	enterNamespace(t)
	run(t, "ip link set lo up")
	ln, err := net.Listen("tcp4", "127.0.0.1:9040")
	if err != nil {
		t.Fatal(err)
	}
	client, err := net.Dial("tcp4", "127.0.0.1:9040")
	if err != nil {
		t.Fatal(err)
	}
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	server.Close() // closing first, the server's side is the one that lingers
	if _, err := client.Read(make([]byte, 1)); err == nil {
		t.Fatal("the connection did not end")
	}
	client.Close()
	ln.Close()
	if got := conflicts(t); len(got) != 0 {
		t.Errorf("a closed connection counts as %v", got)
	}
}

func TestConflictReadsAsAMessage(t *testing.T) {
	for want, c := range map[string]Conflict{
		"tcp port 9040 is held by tor (pid 7)": {Protocol: "tcp", Port: 9040, PID: 7, Process: "tor"},
		"udp port 9053 is in use":              {Protocol: "udp", Port: 9053},
	} {
		if got := c.String(); got != want {
			t.Errorf("%+v reads %q, want %q", c, got, want)
		}
	}
}

func TestParseSocket(t *testing.T) {
	for line, want := range map[string]string{
		"   0: 0100007F:2350 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 4711 1 0":                                           "127.0.0.1:9040 0A 4711",
		"  1: 00000000000000000000000001000000:235D 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 12 2": "[::1]:9053 07 12",
		"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode":                                    "invalid AddrPort  ",
		"   0: 0100:2350 0 0A 0 0 0 0 0 1": "invalid AddrPort  ",
		"":                                 "invalid AddrPort  ",
	} {
		local, state, inode := parseSocket(line)
		if got := local.String() + " " + state + " " + inode; got != want {
			t.Errorf("parseSocket(%q) = %q, want %q", line, got, want)
		}
	}
}

func conflicts(t *testing.T) []Conflict {
	t.Helper()
	list, err := PortsInUse(ports)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func listen(t *testing.T, network, addr string) {
	t.Helper()
	var config net.ListenConfig
	if strings.HasPrefix(network, "udp") {
		conn, err := config.ListenPacket(context.Background(), network, addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return
	}
	ln, err := config.Listen(context.Background(), network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
}

// TestReadTellsWhichPortsAreAnybodys: by the setting of the network namespace.
func TestReadTellsWhichPortsAreAnybodys(t *testing.T) {
	enterNamespace(t)
	if got := read(t).Ephemeral; got != 32768 {
		t.Errorf("the first is %d, want %d", got, 32768)
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("10240 65535"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := read(t).Ephemeral; got != 10240 {
		t.Errorf("the first is %d, want %d", got, 10240)
	}
}
