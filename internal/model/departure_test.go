package model

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
)

// rawSender sends packets of the machine's own as they are.
type rawSender struct {
	t       *testing.T
	ifindex int
	four    int
	six     int
}

// TestTheThirdGuardAgreesWithTheUplinks of each packet that both can tell: .onion ranges and
// exits are the uplinks' alone. The kernel test-runs no program of its kind at postrouting, so
// the packets are sent; what it drops is an error of the call.
func TestTheThirdGuardAgreesWithTheUplinks(t *testing.T) {
	s := departureLab(t)
	judged := 0
	for _, r := range ownRows() {
		if kind := binary.BigEndian.Uint16(r.frame[12:]); kind != unix.ETH_P_IP && kind != unix.ETH_P_IPV6 || r.class == abi.VerdictVia || r.onion() || !whole(r.frame[14:]) {
			continue
		}
		judged++
		if leaves := s.send(r); leaves != r.all {
			t.Errorf("%s, class %s: it leaves is %t, want %t", r.name, r.class, leaves, r.all)
		}
	}
	if judged < 400 {
		t.Errorf("only %d packets were sent", judged)
	}
}

// TestTheThirdGuardGoesByTheSocketOfWhatIsTors, where a rule has written over the mark of the
// packet: with one that exempts others, or that of a connection from outside.
func TestTheThirdGuardGoesByTheSocketOfWhatIsTors(t *testing.T) {
	s := departureLab(t)
	command(t, `
		nft add table inet user
		nft add chain inet user marks { type filter hook output priority mangle; }`)
	for _, mark := range []uint32{ownMark, uint32(abi.VerdictInbound) << 24} {
		command(t, fmt.Sprintf(`
			nft flush chain inet user marks
			nft add rule inet user marks meta mark set %#x`, mark))
		for _, frame := range [][]byte{ether(ip(wan4, web4, udp(40000, 443))), ether(ip(own6, web6, udp(40000, 443)))} {
			for _, class := range []abi.Verdict{abi.VerdictNone, abi.VerdictTor} {
				if leaves := s.send(ownRow{name: "UDP", frame: frame, class: class}); leaves != (class == abi.VerdictNone) {
					t.Errorf("a socket of class %s, a packet with mark %#x: it leaves is %t", class, mark, leaves)
				}
			}
		}
	}
}

// departureLab has the third guard attached, and no other.
func departureLab(t *testing.T) *rawSender {
	t.Helper()
	if olderThan(t, 6, 4) {
		t.Skip("this kernel is older than BPF programs at netfilter hooks (Linux 6.4)")
	}
	enterNamespace(t)
	command(t, `
		ip link set lo up
		ip link add wan0 type veth peer name isp0
		ip link set isp0 up
		ip link set wan0 addrgenmode none up
		ip addr add 50.9.9.9/24 dev wan0
		ip addr add 2600:9::1/64 dev wan0 nodad
		ip addr add fe80::1/64 dev wan0 nodad
		ip route add default dev wan0
		ip -6 route add default dev wan0`)
	s := openRaw(t)
	o := load(t, 24)
	p := home()
	p.Client = abi.ClientAll
	o.set(p)
	o.putPrefix("local", netip.MustParsePrefix("51.7.0.0/16"), abi.DatapathLocalSubnet{Ifindex: otherIndex})
	o.putLinks(uint32(s.ifindex))
	o.attachDeparture(t)
	return s
}

// onion tells whether a packet goes to an address that stands for an onion.
func (r ownRow) onion() bool {
	four, six := netip.MustParseAddr(onion4).As4(), netip.MustParseAddr(onion6).As16()
	return slices.Equal(r.frame[30:34], four[:]) || len(r.frame) >= 54 && slices.Equal(r.frame[38:54], six[:])
}

// whole tells whether a packet is of the family that its frame says, which the kernel sees to.
func whole(packet []byte) bool { return packet[0]>>4 == 4 || packet[0]>>4 == 6 && len(packet) >= 40 }

func openRaw(t *testing.T) *rawSender {
	t.Helper()
	s := &rawSender{t: t, ifindex: ifindex(t, "wan0")}
	var err4, err6 error
	s.four, err4 = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	s.six, err6 = unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	err := errors.Join(err4, err6, unix.SetsockoptInt(s.four, unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
		unix.BindToDevice(s.four, "wan0"), unix.BindToDevice(s.six, "wan0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(s.four); unix.Close(s.six) })
	return s
}

// send tells whether a packet has left.
func (s *rawSender) send(r ownRow) bool {
	s.t.Helper()
	packet := r.frame[14:]
	fd, to := s.four, unix.Sockaddr(nil)
	if packet[0]>>4 == 6 {
		fd, to = s.six, &unix.SockaddrInet6{Addr: [16]byte(packet[24:40]), ZoneId: uint32(s.ifindex)}
	} else {
		to = &unix.SockaddrInet4{Addr: [4]byte(packet[16:20])}
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(uint32(r.class)<<24|r.other)); err != nil {
		s.t.Fatal(err)
	}
	err := unix.Sendto(fd, packet, 0, to)
	if err != nil && !errors.Is(err, unix.EPERM) {
		s.t.Errorf("%s: %v", r.name, err)
	}
	return err == nil
}

// attachDeparture attaches the third guard, on the maps of the others.
func (o *objects) attachDeparture(t *testing.T) {
	t.Helper()
	spec, err := abi.LoadGuards()
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(spec.Variables[abi.GuardsVarMarkShift].Set(uint32(o.mark.Shift)), spec.Variables[abi.GuardsVarOwnMarkCount].Set(uint32(1)))
	if err != nil {
		t.Fatal(err)
	}
	shared := make(map[string]*ebpf.Map)
	for name := range spec.Maps {
		if o.maps[name] != nil && spec.Maps[name].Type != ebpf.Array || name == abi.DatapathMapOwnMarks {
			shared[name] = o.maps[name]
		}
	}
	collection, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: shared})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(collection.Close)
	for _, family := range []link.NetfilterProtocolFamily{link.NetfilterProtoIPv4, link.NetfilterProtoIPv6} {
		l, err := link.AttachNetfilter(link.NetfilterOptions{
			Program: collection.Programs[abi.GuardsProgTorbpfDeparture], ProtocolFamily: family, Hook: link.NetfilterInetPostRouting, Priority: 400,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
	}
}
