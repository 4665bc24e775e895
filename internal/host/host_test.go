package host

import (
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/plan"
)

// router is a small router with an interface of every kind that planning tells
// apart.
const router = `
ip link set lo up
ip link add wan0 address 02:00:00:00:10:02 type veth peer name isp0
ip link add lan0 type bridge
ip link add port0 type veth peer name client0
ip link set port0 master lan0
ip link add link lan0 name mv0 type macvlan mode bridge
ip tuntap add dev tun0 mode tun
ip addr add 203.0.113.2/24 dev wan0
ip addr add 2001:db8:1::2/64 dev wan0 nodad
ip addr add 192.168.5.1/24 dev lan0
ip addr add 10.9.0.1 peer 10.9.0.2/32 dev tun0
ip link set wan0 up
ip link set isp0 up
ip link set lan0 up
ip link set port0 up
ip link set tun0 up
`

func TestReadTellsInterfacesApart(t *testing.T) {
	enterNamespace(t)
	run(t, router)
	h := read(t)

	index := func(name string) int { return link(t, h, name).Index }
	want := []plan.Link{
		{Index: 1, Name: "lo", Loopback: true},
		{Index: index("isp0"), Name: "isp0", Kind: "veth", Ethernet: true},
		{Index: index("wan0"), Name: "wan0", Kind: "veth", Ethernet: true, MAC: [6]byte{2, 0, 0, 0, 0x10, 2}},
		{Index: index("lan0"), Name: "lan0", Kind: "bridge", Ethernet: true},
		{Index: index("client0"), Name: "client0", Kind: "veth", Ethernet: true},
		{Index: index("port0"), Name: "port0", Kind: "veth", Ethernet: true, Master: index("lan0")},
		{Index: index("mv0"), Name: "mv0", Kind: "macvlan", Ethernet: true, Parent: index("lan0")},
		{Index: index("tun0"), Name: "tun0", Kind: "tun"},
	}
	// A kernel with tunnels built in puts its fallback devices here, too.
	got := slices.DeleteFunc(h.Links, func(l plan.Link) bool {
		return !slices.ContainsFunc(want, func(w plan.Link) bool { return w.Name == l.Name })
	})
	for i := range got {
		if name := got[i].Name; name != "wan0" && name != "tun0" { // these are made up by the kernel
			got[i].MAC = [6]byte{}
		}
		got[i].Down = false // a carrier comes when it likes
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("links differ (-want +got):\n%s", diff)
	}
}

func TestReadTellsWhatIsDown(t *testing.T) {
	enterNamespace(t)
	run(t, "ip link set lo up\nip link add lan0 type bridge\nip tuntap add dev tun0 mode tun\nip link set tun0 up")
	h := read(t)
	for name, want := range map[string]bool{"lo": false, "lan0": true, "tun0": true} { // the last has nobody at its other end
		if got := link(t, h, name).Down; got != want {
			t.Errorf("%s: down %v, want %v", name, got, want)
		}
	}
}

// What the kernels under test cannot make is told by a message as others send it.
func TestOnlyCertainKindsHaveAParent(t *testing.T) {
	for kind, want := range map[string]int{
		"vlan": 9, "macvlan": 9, "macvtap": 9, "ipvlan": 9, "ipvtap": 9,
		"veth": 0, "vxlan": 0, "gre": 0, "bridge": 0, "": 0,
	} {
		info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
		info.AddRtAttr(unix.IFLA_INFO_KIND, nl.ZeroTerminated(kind))
		header := nl.NewIfInfomsg(unix.AF_UNSPEC)
		header.Index, header.Type, header.Flags = 12, unix.ARPHRD_ETHER, unix.IFF_UP|unix.IFF_RUNNING
		message := header.Serialize()
		for _, attr := range []*nl.RtAttr{
			nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated("eth0.7")),
			nl.NewRtAttr(unix.IFLA_LINK, nl.Uint32Attr(9)),
			info,
		} {
			message = append(message, attr.Serialize()...)
		}
		got, _, err := parseLink(message)
		if want := (plan.Link{Index: 12, Name: "eth0.7", Kind: kind, Ethernet: true, Parent: want}); got != want || err != nil {
			t.Errorf("link of kind %q is %+v (%v), want %+v", kind, got, err, want)
		}
	}
}

// The hardware address of a tunnel is its endpoint.
func TestOnlyEthernetHasAMAC(t *testing.T) {
	for kind, want := range map[uint16][6]byte{
		unix.ARPHRD_ETHER: {62, 10, 0, 2, 0, 0}, unix.ARPHRD_TUNNEL: {}, unix.ARPHRD_IP6GRE: {},
	} {
		header := nl.NewIfInfomsg(unix.AF_UNSPEC)
		header.Type = kind
		address := nl.NewRtAttr(unix.IFLA_ADDRESS, []byte{62, 10, 0, 2, 0, 0})
		got, _, err := parseLink(append(header.Serialize(), address.Serialize()...))
		if err != nil || got.MAC != want {
			t.Errorf("hardware type %d: MAC %x (%v), want %x", kind, got.MAC, err, want)
		}
	}
}

// A macvlan's parent, like a veth's peer, may lie in another namespace, where its
// index names another interface.
func TestParentInAnotherNamespaceIsNoParent(t *testing.T) {
	enterNamespace(t)
	run(t, "ip link add base0 index 50 type bridge\nip link add link base0 name mv0 type macvlan")
	mv, err := netlink.LinkByName("mv0")
	if err != nil {
		t.Fatal(err)
	}
	inner := make(chan int)
	moved, done := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			moved <- err
			return
		}
		inner <- unix.Gettid()
		if err := <-moved; err != nil {
			return
		}
		h, err := Read()
		if l, ok := h.LinkByName("mv0"); err == nil && (!ok || l.Parent != 0) {
			t.Errorf("link is %+v, found %v, want no parent", l, ok)
		}
		moved <- err
		close(done)
	}()
	ns, err := os.Open("/proc/self/task/" + strconv.Itoa(<-inner) + "/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	moved <- netlink.LinkSetNsFd(mv, int(ns.Fd()))
	if err := <-moved; err != nil {
		t.Fatal(err)
	}
	<-done
}

func TestReadListsAddresses(t *testing.T) {
	enterNamespace(t)
	run(t, router)
	h := read(t)

	var got []string
	for _, a := range h.Addrs {
		if l, ok := h.LinkByIndex(a.Index); ok && !a.Prefix.Addr().IsLinkLocalUnicast() {
			got = append(got, l.Name+" "+a.Prefix.String())
		}
	}
	slices.Sort(got)
	want := []string{
		"lan0 192.168.5.1/24", "lo 127.0.0.1/8", "lo ::1/128", "tun0 10.9.0.1/32",
		"wan0 2001:db8:1::2/64", "wan0 203.0.113.2/24",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("addresses differ (-want +got):\n%s", diff)
	}
}

func TestReadListsUnicastRoutesOfAllTables(t *testing.T) {
	enterNamespace(t)
	run(t, router+`
ip route add default via 203.0.113.1
ip route add default dev tun0 table 51820
ip route add 198.51.100.0/24 nexthop via 203.0.113.1 weight 1 nexthop dev tun0 weight 2
ip route add blackhole 10.0.0.0/8
ip route add unreachable 172.16.0.0/12
ip route add 239.0.0.0/8 dev lan0
ip route add multicast 238.0.0.0/8 dev lan0
ip -6 addr add 2001:db8:3::1/64 dev tun0 nodad
ip -6 route add default via 2001:db8:1::1
ip -6 route add 2001:db8:2::/48 table 100 nexthop via 2001:db8:1::1 nexthop via 2001:db8:3::2
ip -6 route add default dev tun0 table 100000
ip nexthop add id 9 via 203.0.113.9 dev wan0
ip route add 192.0.2.0/24 nhid 9
`)
	h := read(t)
	var got []string
	for _, r := range h.Routes {
		l, ok := h.LinkByIndex(r.Index)
		if !ok {
			t.Errorf("route %v has no interface", r)
		}
		if r.Dst != r.Dst.Masked() {
			t.Errorf("route %v is not masked", r)
		}
		if !l.Loopback && !r.Dst.Addr().IsLinkLocalUnicast() {
			words := []string{r.Dst.String(), l.Name, strconv.Itoa(int(r.Table))}
			if r.By {
				words = append(words, "by a host")
			}
			got = append(got, strings.Join(words, " "))
		}
	}
	slices.Sort(got)
	want := []string{
		"0.0.0.0/0 tun0 51820", "0.0.0.0/0 wan0 254 by a host", "10.9.0.2/32 tun0 254", "192.0.2.0/24 wan0 254 by a host",
		"192.168.5.0/24 lan0 254", "198.51.100.0/24 tun0 254", "198.51.100.0/24 wan0 254 by a host",
		"2001:db8:1::/64 wan0 254", "2001:db8:2::/48 tun0 100 by a host", "2001:db8:2::/48 wan0 100 by a host",
		"2001:db8:3::/64 tun0 254", "203.0.113.0/24 wan0 254", "::/0 tun0 100000", "::/0 wan0 254 by a host",
	}
	if diff := cmp.Diff(want, slices.Compact(got)); diff != "" {
		t.Errorf("routes differ (-want +got):\n%s", diff)
	}
}

// An uplink that planning does not see has no guard.
func TestReadRefusesRoutesWithoutAnInterface(t *testing.T) {
	enterNamespace(t)
	run(t, router+`
ip nexthop add id 9 via 203.0.113.9 dev wan0
ip route add default nhid 9
`)
	set(t, "net.ipv4.nexthop_compat_mode", "0")
	if _, err := Read(); err == nil || !strings.Contains(err.Error(), "nexthop_compat_mode=1") {
		t.Fatalf("Read() = %v, want an error that names the setting", err)
	}
	set(t, "net.ipv4.nexthop_compat_mode", "1")
	if !slices.ContainsFunc(read(t).Routes, func(r plan.Route) bool { return r.Dst == netip.MustParsePrefix("0.0.0.0/0") }) {
		t.Error("the default route by a nexthop object is missing")
	}
}

func TestReadListsForeignMarkRules(t *testing.T) {
	enterNamespace(t)
	run(t, `
ip rule add priority 100 iif eth1 fwmark 0x8000000/0x8000000 prohibit proto 84
ip -6 rule add priority 102 iif eth1 fwmark 0/0xf000000 prohibit proto 84
ip rule add priority 5000 fwmark 0xca6c lookup 51820
ip -6 rule add priority 5001 not fwmark 0x10/0xff lookup 100
ip rule add priority 5002 fwmark 0/0xf0 lookup 100
ip rule add priority 5003 from 10.0.0.0/8 lookup 100
`)
	want := []plan.Rule{
		{Priority: 5000, Mark: 0xca6c, Mask: 0xffffffff, Family: 4},
		{Priority: 5002, Mark: 0, Mask: 0xf0, Family: 4},
		{Priority: 5001, Mark: 0x10, Mask: 0xff, Family: 6},
	}
	if diff := cmp.Diff(want, read(t).Rules); diff != "" {
		t.Errorf("rules differ (-want +got):\n%s", diff)
	}
}

const bridgeSettings = procSys + "/net/bridge"

func TestReadNoticesFilteredBridges(t *testing.T) {
	for _, tt := range []struct {
		name      string
		ip4, ip6  string
		bridgeArg string
		want      bool
	}{
		{name: "off", ip4: "0", ip6: "0"},
		{name: "IPv4", ip4: "1", ip6: "0", want: true},
		{name: "IPv6", ip4: "0", ip6: "1", want: true},
		{name: "one bridge IPv4", ip4: "0", ip6: "0", bridgeArg: "nf_call_iptables 1", want: true},
		{name: "one bridge IPv6", ip4: "0", ip6: "0", bridgeArg: "nf_call_ip6tables 1", want: true},
		{name: "one bridge ARP", ip4: "0", ip6: "0", bridgeArg: "nf_call_arptables 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			enterNamespace(t)
			if _, err := os.Stat(bridgeSettings); err != nil {
				t.Fatalf("%v; load br_netfilter", err)
			}
			set(t, "net.bridge.bridge-nf-call-iptables", tt.ip4)
			set(t, "net.bridge.bridge-nf-call-ip6tables", tt.ip6)
			run(t, "ip link add plain0 type bridge\nip link add br0 type bridge "+tt.bridgeArg)
			if got := read(t).BridgeNF; got != tt.want {
				t.Errorf("BridgeNF = %v, want %v", got, tt.want)
			}
		})
	}
}

// Without br_netfilter its settings are missing and nothing is filtered, a
// bridge's own switch notwithstanding.
func TestMissingBridgeSettingsMeanOff(t *testing.T) {
	enterNamespace(t)
	run(t, "ip link add br0 type bridge nf_call_iptables 1")
	if _, err := os.Stat(bridgeSettings); err == nil {
		hide(t, bridgeSettings)
	}
	if read(t).BridgeNF {
		t.Error("BridgeNF = true without br_netfilter")
	}
}

func TestReadSeesTheNamespaceOfItsThread(t *testing.T) {
	enterNamespace(t)
	run(t, "ip link add only-here type bridge")
	set(t, "net.ipv4.ip_default_ttl", "33")
	link(t, read(t), "only-here")
	out, err := exec.Command("cat", "/proc/sys/net/ipv4/ip_default_ttl").Output()
	if err != nil || strings.TrimSpace(string(out)) != "33" || get(t, "net.ipv4.ip_default_ttl") != "33" {
		t.Errorf("setting reads %q here and %q in a child (%v), want 33", get(t, "net.ipv4.ip_default_ttl"), out, err)
	}
	outside := make(chan string)
	go func() {
		value, err := Sysctl("net.ipv4.ip_default_ttl")
		if err != nil {
			value = err.Error()
		}
		outside <- value
	}()
	if got := <-outside; got == "33" {
		t.Error("setting was changed in the test's first namespace, too")
	}
}

func read(t *testing.T) plan.Host {
	t.Helper()
	h, err := Read()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func link(t *testing.T, h plan.Host, name string) plan.Link {
	t.Helper()
	l, ok := h.LinkByName(name)
	if !ok {
		t.Fatalf("link %s is missing from %+v", name, h.Links)
	}
	return l
}
