package route

import (
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

func cutPlan() plan.Plan {
	lan := []netip.Prefix{netip.MustParsePrefix("192.168.50.0/24"), netip.MustParsePrefix("2a0d:50::/64")}
	p := plan.Plan{
		LANs:      []plan.LAN{{Name: "eth1", Prefixes: lan}},
		Ports:     plan.Ports{Trans: 9040, DNS: 9053, Resolver: 9054},
		Inbound:   true,
		LocalMode: config.LocalConnected,
	}
	for _, prefix := range append(lan, netip.MustParsePrefix("192.168.60.0/24")) {
		p.Local = append(p.Local, plan.LocalSubnet{Prefix: prefix})
	}
	for _, addr := range []string{"192.168.50.1", "192.168.50.255", "2a0d:50::1", "62.10.0.2", "2a0c:10::2"} {
		p.LocalAddrs = append(p.LocalAddrs, netip.MustParseAddr(addr))
	}
	return p
}

// flow makes a flow; without reply addresses nothing was translated.
func flow(protocol uint8, src, dst string, reply ...string) plan.Flow {
	f := plan.Flow{Protocol: protocol, Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst)}
	f.ReplySrc, f.ReplyDst = f.Dst, f.Src
	if len(reply) == 2 {
		f.ReplySrc, f.ReplyDst = netip.MustParseAddrPort(reply[0]), netip.MustParseAddrPort(reply[1])
		f.DNAT = f.ReplySrc != f.Dst
	}
	return f
}

func TestSortFlows(t *testing.T) {
	const tcp, udp, icmp = unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP
	for _, tt := range []struct {
		name string
		flow plan.Flow
		edit func(*plan.Plan)
		want string // "cut", "adopt" or "" for neither
	}{
		{name: "web", flow: flow(tcp, "192.168.50.11:4000", "51.20.0.80:80", "51.20.0.80:80", "62.10.0.2:4000"), want: "cut"},
		{name: "web IPv6", flow: flow(tcp, "[2a0d:50::11]:4000", "[2a0e:20::80]:80"), want: "cut"},
		{name: "UDP", flow: flow(udp, "192.168.50.11:4000", "51.20.0.80:443"), want: "cut"},
		{name: "ping", flow: flow(icmp, "192.168.50.11:0", "51.20.0.80:0"), want: "cut"},
		{name: "another protocol", flow: flow(47, "192.168.50.11:0", "51.20.0.80:0"), want: "cut"},
		{name: "private beyond the uplink", flow: flow(tcp, "192.168.50.11:4000", "10.1.2.3:80"), want: "cut"},
		{name: "excluded", flow: flow(tcp, "192.168.50.11:4000", "9.9.9.9:443")},
		{name: "excluded after masquerade", flow: flow(tcp, "192.168.50.11:4000", "9.9.9.9:443", "9.9.9.9:443", "62.10.0.2:4000")},

		{name: "in Tor", flow: flow(tcp, "192.168.50.11:4000", "51.20.0.80:80", "192.168.50.1:9040", "192.168.50.11:4000")},
		{name: "in Tor IPv6", flow: flow(tcp, "[2a0d:50::11]:4000", "[2a0e:20::80]:80", "[2a0d:50::1]:9040", "[2a0d:50::11]:4000")},
		{name: "in Tor by loopback", flow: flow(tcp, "192.168.50.11:4000", "51.20.0.80:80", "127.0.0.1:9040", "192.168.50.11:4000")},
		{name: "DNS in Tor", flow: flow(udp, "192.168.50.11:4000", "192.168.50.1:53", "192.168.50.1:9053", "192.168.50.11:4000")},
		{name: "DNS at the sentry", flow: flow(tcp, "192.168.50.11:4000", "9.9.9.9:53", "192.168.50.1:9054", "192.168.50.11:4000")},
		{name: "redirected elsewhere", flow: flow(tcp, "192.168.50.11:4000", "51.20.0.80:80", "192.168.50.1:3128", "192.168.50.11:4000"), want: "cut"},
		{name: "a stranger's port 9040", flow: flow(tcp, "192.168.50.11:4000", "51.20.0.80:80", "51.21.0.80:9040", "62.10.0.2:4000"), want: "cut"},

		{name: "the router", flow: flow(tcp, "192.168.50.11:4000", "192.168.50.1:22")},
		{name: "the router's WAN address", flow: flow(tcp, "192.168.50.11:4000", "62.10.0.2:22")},
		{name: "hairpin", flow: flow(tcp, "192.168.50.11:4000", "62.10.0.2:8080", "192.168.50.12:8080", "192.168.50.1:4000")},
		{name: "DNS at the router", flow: flow(udp, "192.168.50.11:4000", "192.168.50.1:53"), want: "cut"},
		{name: "DNS in a local subnet", flow: flow(udp, "192.168.50.11:4000", "192.168.60.5:53"), want: "cut"},
		{name: "local subnet", flow: flow(tcp, "192.168.50.11:4000", "192.168.60.5:22")},
		{name: "local subnet with mode none", flow: flow(tcp, "192.168.50.11:4000", "192.168.60.5:22"), want: "cut",
			edit: func(p *plan.Plan) { p.LocalMode = config.LocalNone }},
		{name: "the router with mode none", flow: flow(tcp, "192.168.50.11:4000", "192.168.50.1:22"),
			edit: func(p *plan.Plan) { p.LocalMode = config.LocalNone }},
		{name: "broadcast", flow: flow(udp, "192.168.50.11:138", "192.168.50.255:138")},
		{name: "multicast", flow: flow(udp, "192.168.50.11:5353", "224.0.0.251:5353")},
		{name: "link-local", flow: flow(udp, "[2a0d:50::11]:4000", "[fe80::1]:547")},
		{name: "link-local, IPv4", flow: flow(udp, "192.168.50.11:4000", "169.254.1.1:547"), want: "cut"},
		{name: "DNS at the router's link-local address", flow: flow(udp, "[2a0d:50::11]:4000", "[fe80::1]:53"), want: "cut"},
		{name: "DNS by multicast", flow: flow(udp, "192.168.50.11:4000", "224.0.0.1:53"), want: "cut"},

		{name: "the router's own", flow: flow(tcp, "62.10.0.2:4000", "51.20.0.80:80")},
		{name: "the router's own from its LAN address", flow: flow(tcp, "[2a0d:50::1]:4000", "[2a0e:20::80]:80")},
		{name: "the router to a LAN host", flow: flow(tcp, "192.168.50.1:4000", "192.168.50.11:22")},
		{name: "another LAN to the web", flow: flow(tcp, "192.168.60.5:4000", "51.20.0.80:80")},

		{name: "port forward", flow: flow(tcp, "62.11.0.2:4000", "62.10.0.2:8080", "192.168.50.11:8080", "62.11.0.2:4000"), want: "adopt"},
		{name: "routed from outside", flow: flow(tcp, "[2a0c:11::2]:4000", "[2a0d:50::11]:22"), want: "adopt"},
		{name: "from another LAN", flow: flow(tcp, "192.168.60.5:4000", "192.168.50.11:22"), want: "adopt"},
		{name: "port forward, refused", flow: flow(tcp, "62.11.0.2:4000", "62.10.0.2:8080", "192.168.50.11:8080", "62.11.0.2:4000"),
			edit: func(p *plan.Plan) { p.Inbound = false }},
		{name: "port forward elsewhere", flow: flow(tcp, "62.11.0.2:4000", "62.10.0.2:8443", "192.168.60.5:443", "62.11.0.2:4000")},
		{name: "to the router", flow: flow(tcp, "62.11.0.2:4000", "62.10.0.2:22")},
		{name: "to the router's LAN address", flow: flow(tcp, "[2a0c:11::2]:4000", "[2a0d:50::1]:22")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := cutPlan()
			if tt.edit != nil {
				tt.edit(&p)
			}
			direct := func(f plan.Flow) bool { return f.Dst.Addr() == netip.MustParseAddr("9.9.9.9") }
			cut, adopt := SortFlows(&p, []plan.Flow{tt.flow}, direct)
			got := fmt.Sprint(len(cut), len(adopt))
			if want := map[string]string{"cut": "1 0", "adopt": "0 1", "": "0 0"}[tt.want]; got != want {
				t.Errorf("cut and adopted %s, want %s (%q)", got, want, tt.want)
			}
		})
	}
}

func TestSortFlowsKeepsFlowsAsTheyAre(t *testing.T) {
	p := cutPlan()
	flows := []plan.Flow{
		flow(unix.IPPROTO_TCP, "192.168.50.11:1", "51.20.0.80:80"),
		flow(unix.IPPROTO_TCP, "62.11.0.2:2", "192.168.50.11:22"),
		flow(unix.IPPROTO_TCP, "192.168.50.11:3", "51.20.0.80:80"),
	}
	flows[1].Mark = 0x12
	cut, adopt := SortFlows(&p, flows, func(plan.Flow) bool { return false })
	if len(cut) != 2 || cut[0] != flows[0] || cut[1] != flows[2] || len(adopt) != 1 || adopt[0] != flows[1] {
		t.Errorf("cut %v and adopted %v of %v", cut, adopt, flows)
	}
}

func TestOwnQuestions(t *testing.T) {
	const tcp, udp = unix.IPPROTO_TCP, unix.IPPROTO_UDP
	for _, tt := range []struct {
		name string
		flow plan.Flow
		want string // "redirected", "straight" or "" for neither
	}{
		{"straight", flow(udp, "62.10.0.2:40000", "9.9.9.9:53"), "straight"},
		{"straight, from a port that is not anybody's", flow(udp, "62.10.0.2:32767", "9.9.9.9:53"), ""},
		{"straight IPv6", flow(udp, "[2a0c:10::2]:40000", "[2620:fe::fe]:53"), "straight"},
		{"of a LAN's subnet", flow(udp, "192.168.50.1:40000", "192.168.50.11:53"), "straight"},
		{"redirected", flow(udp, "62.10.0.2:40000", "9.9.9.9:53", "127.0.0.1:9054", "62.10.0.2:40000"), "redirected"},
		{"redirected by another", flow(udp, "62.10.0.2:40000", "9.9.9.9:53", "10.0.0.1:53", "62.10.0.2:40000"), "straight"},
		{"by TCP", flow(tcp, "62.10.0.2:40000", "9.9.9.9:53"), ""},
		{"of something else", flow(udp, "62.10.0.2:40000", "9.9.9.9:443"), ""},
		{"by loopback", flow(udp, "127.0.0.1:40000", "127.0.0.53:53"), ""},
		{"to its own address", flow(udp, "62.10.0.2:40000", "192.168.50.1:53"), ""},
		{"of a LAN's device", flow(udp, "192.168.50.11:40000", "9.9.9.9:53", "192.168.50.1:9053", "192.168.50.11:40000"), ""},
		{"from outside", flow(udp, "62.11.0.2:40000", "62.10.0.2:53"), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := cutPlan()
			p.Client = &plan.Client{Ephemeral: 32768}
			p.LocalAddrs = append(p.LocalAddrs, netip.MustParseAddr("127.0.0.1"))
			redirected, straight := OwnQuestions(&p, []plan.Flow{tt.flow})
			got := fmt.Sprint(len(redirected), len(straight))
			if want := map[string]string{"redirected": "1 0", "straight": "0 1", "": "0 0"}[tt.want]; got != want {
				t.Errorf("redirected and straight %s, want %q", got, tt.want)
			}
		})
	}
}
