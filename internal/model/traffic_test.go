package model

import (
	"testing"

	"github.com/torbpf/torbpf/internal/abi"
)

// sentBy sums what a device has sent, by what became of it.
func (o *objects) sentBy(t *testing.T, key abi.DatapathDeviceKey) [4]uint64 {
	t.Helper()
	var out [4]uint64
	for slot := range o.maps["device_traffic"].MaxEntries() {
		var perCPU []abi.DatapathDeviceTraffic
		if err := o.maps["device_traffic"].Lookup(slot, &perCPU); err != nil {
			t.Fatalf("look up slot %d: %v", slot, err)
		}
		for _, cpu := range perCPU {
			if cpu.Device != key {
				continue
			}
			for fate, c := range cpu.ByFate {
				out[fate] += c.Packets
			}
			if cpu.SeenNs == 0 {
				t.Error("it is not said when it was seen")
			}
		}
	}
	return out
}

// TestWhatIsLeftOpenCountsAsItMostlyEnds: while any mark is exempt, every refusal is left
// open to a late one, and so are answers to whoever came in.
func TestWhatIsLeftOpenCountsAsItMostlyEnds(t *testing.T) {
	enterNamespace(t)
	o := load(t, 24)
	p := home()
	with(lateMarks, visited(protoUDP, laptop4+":27015", web4+":40000"))(p)
	o.set(p)
	for _, packet := range [][]byte{
		ip(laptop4, web4, udp(40000, 443)), ip(laptop4, web4, ping()), ip(laptop4, web4, udp(40000, 7000), fragment4(0, true)), // late-mark
		ip(laptop4, web4, udp(27015, 40000)), // inbound-reply
	} {
		if out := o.watch(t, "torbpf_lan", ether(packet), skBuff{Ifindex: lanIndex}); out.mark>>24&0xf != uint32(abi.VerdictPending) {
			t.Errorf("the mark is %#x", out.mark)
		}
	}
	if got, want := o.sentBy(t, abi.DatapathDeviceKey{Mac: abi.DatapathMac{Addr: hostMAC}}), [4]uint64{0, 1, 0, 3}; got != want {
		t.Errorf("by fate %v, want %v", got, want)
	}
}

// TestADevicesTrafficIsCountedByItsFate under its hardware address, whatever addresses
// it takes, and under its address where frames have none.
func TestADevicesTrafficIsCountedByItsFate(t *testing.T) {
	enterNamespace(t)
	o := load(t, 24)
	o.set(home())
	for _, packet := range [][]byte{
		ip(laptop4, web4, tcp(40000, 443, tcpSYN)), ip(laptop6, web6, tcp(40000, 443, tcpSYN)), ip(laptop4, web4, udp(40000, 53, dnsQuery()...)),
		ip(laptop4, excluded4, udp(40000, 443)), ip(laptop4, printer4, tcp(40000, 9100, tcpSYN)), ip(laptop4, web4, udp(40000, 443)),
		ip("192.168.1.11", web4, ping()),
	} {
		o.watch(t, "torbpf_lan", ether(packet), skBuff{Ifindex: lanIndex})
	}
	o.watch(t, "torbpf_lan", etherRaw(0x0806, make([]byte, 28)...), skBuff{Ifindex: lanIndex}) // ARP is nobody's traffic
	if got, want := o.sentBy(t, abi.DatapathDeviceKey{Mac: abi.DatapathMac{Addr: hostMAC}}), [4]uint64{3, 1, 1, 2}; got != want {
		t.Errorf("by fate %v, want %v", got, want)
	}
	// The kernel reads the EtherType of such a test frame out of its source address.
	frame := tunnelled(ip(peer4, web4, udp(40000, 443, make([]byte, 40)...)))
	o.watch(t, "torbpf_lan_l3", frame, skBuff{Ifindex: lanIndex})
	if got, want := o.sentBy(t, abi.DatapathDeviceKey{Addr: as16(peer4)}), [4]uint64{0, 0, 0, 1}; got != want {
		t.Errorf("without hardware addresses by fate %v, want %v", got, want)
	}
}
