package sentry

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/kernel"
)

// excludedNames are what a server needs to let devices out.
type excludedNames struct {
	domains       []Domain
	resolver      netip.Addr
	slots, askers *ebpf.Map
}

// newExcludedNames excludes bank.example, which has one address.
func newExcludedNames(t *testing.T) excludedNames {
	t.Helper()
	e := excludedNames{
		domains: []Domain{{Name: "bank.example"}}, resolver: netip.MustParseAddr("127.0.0.7"),
		slots: newSlotsMap(t), askers: newMap(t, abi.DatapathMapAskers),
	}
	conn, err := net.ListenPacket("udp", net.JoinHostPort(e.resolver.String(), strconv.Itoa(config.PortDNS)))
	must(t, err)
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		reply := new(dns.Msg).SetReply(q)
		reply.Answer = []dns.RR{a(q.Question[0].Name, 60, "51.0.0.1")}
		_ = w.WriteMsg(reply) // whoever asked notices
	})}
	go func() { _ = server.ActivateAndServe() }()
	t.Cleanup(func() { must(t, server.Shutdown()) })
	return e
}

// asked writes down who asked, as the LAN program does, that long ago.
func asked(t *testing.T, m *ebpf.Map, key abi.AskerKey, device abi.DatapathDeviceKey, ago time.Duration) {
	t.Helper()
	now, err := kernel.BootTime()
	must(t, err)
	entry := abi.DatapathAsker{
		TimeNs: uint64(now - ago), Device: device, Addr: key.Addr.Addr().As16(), Protocol: uint32(key.Protocol),
		PortBe: toNetwork(key.Addr.Port()), IdBe: toNetwork(key.ID),
	}
	entry.Check = checkOf(t, entry)
	must(t, m.Put(abi.AskerPlace(key), entry))
}

func toNetwork(n uint16) uint16 { return n<<8 | n>>8 }

// checkOf computes the check of an entry as bpf/asker.h says.
func checkOf(t *testing.T, entry abi.DatapathAsker) (h uint64) {
	t.Helper()
	words := *(*askerWords)(unsafe.Pointer(&entry))
	for _, word := range words[1:] {
		h = (h ^ h>>32 ^ word) * 0x9e3779b97f4a7c15
	}
	return h
}

var (
	oneDevice     = abi.DatapathDeviceKey{Mac: abi.DatapathMac{Addr: [6]byte{2, 0, 0, 0, 0, 1}}}
	anotherDevice = abi.DatapathDeviceKey{Mac: abi.DatapathMac{Addr: [6]byte{2, 0, 0, 0, 0, 2}}}
)

// TestAQuestionIsWhoseTheProgramSaysItIs, and nobody's where it says nothing.
func TestAQuestionIsWhoseTheProgramSaysItIs(t *testing.T) {
	m := newMap(t, abi.DatapathMapAskers)
	who, err := openAskers(m.FD())
	must(t, err)
	defer func() { must(t, who.close()) }()
	for _, from := range []string{"192.168.50.11:4000", "[fd66::5]:4000", "[fe80::5%eth1]:4000", "[::ffff:192.168.50.12]:4000"} {
		seen := netip.MustParseAddrPort(from)
		key := abi.AskerKey{Addr: netip.AddrPortFrom(seen.Addr().Unmap().WithZone(""), seen.Port()), ID: 7, Protocol: unix.IPPROTO_UDP}
		expect := func(what string, addr netip.AddrPort, protocol uint8, id uint16, want abi.DatapathDeviceKey) {
			t.Helper()
			if got := who.device(addr, protocol, id); got != want {
				t.Errorf("%s, %s: it is %v, want %v", from, what, got, want)
			}
		}
		expect("before", seen, unix.IPPROTO_UDP, 7, nobodysDevice)
		asked(t, m, key, oneDevice, time.Second)
		expect("a second later", seen, unix.IPPROTO_UDP, 7, oneDevice)
		expect("another message", seen, unix.IPPROTO_UDP, 8, nobodysDevice)
		expect("the other protocol", seen, unix.IPPROTO_TCP, 7, nobodysDevice)
		other := key
		for other.ID++; abi.AskerPlace(other) != abi.AskerPlace(key); other.ID++ {
		}
		expect("another message that has the same place", seen, unix.IPPROTO_UDP, other.ID, nobodysDevice)
		expect("another port", netip.AddrPortFrom(seen.Addr(), 4001), unix.IPPROTO_UDP, 7, nobodysDevice)
		expect("another address", netip.MustParseAddrPort("192.168.50.99:4000"), unix.IPPROTO_UDP, 7, nobodysDevice)
		asked(t, m, key, oneDevice, askedTime+time.Second)
		expect("too late", seen, unix.IPPROTO_UDP, 7, nobodysDevice)
		asked(t, m, key, anotherDevice, 0)
		expect("another device with the same address", seen, unix.IPPROTO_UDP, 7, anotherDevice)

		// Another one is about to be written over it.
		var half abi.DatapathAsker
		must(t, m.Lookup(abi.AskerPlace(key), &half))
		half.Device = oneDevice
		must(t, m.Put(abi.AskerPlace(key), half))
		expect("half an entry", seen, unix.IPPROTO_UDP, 7, nobodysDevice)
	}
}

func TestOpenAskersRefusesWhatIsNotTheirMap(t *testing.T) {
	if _, err := openAskers(newSlotsMap(t).FD()); err == nil || !strings.Contains(err.Error(), "it is not their map") {
		t.Errorf("of the answers: %v", err)
	}
}

// TestWhoAskedIsLetOut, and neither who has the address that the question came from nor,
// where the LAN program has said nothing, anybody.
func TestWhoAskedIsLetOut(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	excluded := newExcludedNames(t)
	r := newResolver(t, quick(nil), excluded)
	r.tors[0].gate.Set(false) // Tor is not needed for it
	var want []abi.DatapathDeviceKey
	for i, l := range links {
		for _, known := range []bool{true, false} {
			local, query := netip.AddrPortFrom(l.from, uint16(40000+i)), question("bank.example.", dns.TypeA)
			key, device := abi.AskerKey{Addr: local, ID: query.Id, Protocol: unix.IPPROTO_UDP}, oneDevice
			if l.network == "tcp" {
				key.ID, key.Protocol = 0, unix.IPPROTO_TCP
			}
			device.Mac.Addr[4] = byte(i)
			if known {
				asked(t, excluded.askers, key, device, 0)
				want = append(want, device)
			} else {
				local = netip.AddrPortFrom(l.from, uint16(41000+i))
			}
			conn, err := r.dialFrom(t, l.network, local, netip.AddrPortFrom(l.to, resolverPort))
			must(t, err)
			if reply := ask(t, conn, query); len(reply.Answer) != 1 {
				t.Errorf("%v: answered %v", l, reply)
			}
			if out := letOut(t, excluded.slots); !sameDevices(out, want) {
				t.Errorf("%v: let out are %v, want %v", l, out, want)
			}
		}
	}
}

func sameDevices(got, want []abi.DatapathDeviceKey) bool {
	missing := func(d abi.DatapathDeviceKey) bool { return !slices.Contains(got, d) }
	return len(got) == len(want) && !slices.ContainsFunc(want, missing)
}

// letOut are the devices that may reach an address of an excluded name.
func letOut(t *testing.T, m *ebpf.Map) (out []abi.DatapathDeviceKey) {
	t.Helper()
	for i := range abi.DomainSlots {
		var slot abi.DatapathDomainSlot
		must(t, m.Lookup(i, &slot))
		if slot.UntilNs > 0 {
			out = append(out, slot.Device)
		}
	}
	return out
}
