package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
)

// newRuler is a program of somebody else that notes, as a mark, how many bytes of each packet
// are linear.
func newRuler(t *testing.T) *foreign {
	t.Helper()
	lengths, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 64})
	must(t, err)
	const offsetData, offsetDataEnd = 76, 80 // in struct __sk_buff
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{
			asm.LoadMem(asm.R2, asm.R1, offsetData, asm.Word),
			asm.LoadMem(asm.R3, asm.R1, offsetDataEnd, asm.Word),
			asm.Sub.Reg(asm.R3, asm.R2),
			asm.StoreMem(asm.RFP, -4, asm.R3, asm.Word),
			asm.LoadMapPtr(asm.R1, lengths.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -4),
			asm.Mov.Reg(asm.R3, asm.R2),
			asm.Mov.Imm(asm.R4, 0),
			asm.FnMapUpdateElem.Call(),
			asm.Mov.Imm32(asm.R0, next),
			asm.Return(),
		},
	})
	must(t, err)
	t.Cleanup(func() { must(t, errors.Join(program.Close(), lengths.Close())) })
	return &foreign{program, lengths}
}

// linearSender sends frames of which only so many bytes are linear, as drivers of network
// cards and TCP hand them on.
type linearSender struct {
	fd       int
	ifindex  int
	ethernet []byte
}

func (l *lab) newLinearSender(t *testing.T) linearSender {
	t.Helper()
	const mtu = 9000 // the kernel makes packets of less than a page linear
	must(t, netlink.LinkSetMTU(l.lan, mtu))
	s := linearSender{fd: -1, ifindex: l.clientIf, ethernet: slices.Concat(l.lan.Attrs().HardwareAddr, []byte{2, 0, 0, 0, 0, 9, 8, 0})}
	must(t, l.client.do(func() (err error) {
		peer, err := netlink.LinkByIndex(l.clientIf)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetMTU(peer, mtu); err != nil {
			return err
		}
		if s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.SetsockoptInt(s.fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1)
	}))
	t.Cleanup(func() { unix.Close(s.fd) })
	return s
}

func (s linearSender) send(packet []byte, linear int) error {
	virtio := make([]byte, 10) // struct virtio_net_hdr
	binary.NativeEndian.PutUint16(virtio[2:], uint16(linear))
	return unix.Sendto(s.fd, slices.Concat(virtio, s.ethernet, packet), 0, &unix.SockaddrLinklayer{Ifindex: s.ifindex})
}

// long gives a packet a payload.
func (d datagram) long(from netip.Addr, payload int) []byte {
	b := append(d.bytes(from), make([]byte, payload)...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	binary.BigEndian.PutUint16(b[10:], 0)
	binary.BigEndian.PutUint16(b[10:], checksum(b[:20]))
	return b
}

// TestHeadersAreReadWhereverTheyAre: those that a driver has left in page frags are made
// linear, and nothing is of packets whose headers are.
func TestHeadersAreReadWhereverTheyAre(t *testing.T) {
	l := newLab(t)
	ruler := newRuler(t)
	must(t, netlink.QdiscAdd(clsactOf(l.lan)))
	must(t, netlink.FilterAdd(ruler.filter(l.lan, 2)))
	d := l.open(t, false)
	apply(t, d, l.plan())
	s, lan := l.newLinearSender(t), l.lan.Attrs().Index
	const ethernet, ip, pulled = 14, 20, 256
	for _, c := range []struct {
		what    string
		packet  datagram
		verdict abi.Verdict
		reason  abi.Reason
		header  int
	}{
		{"TCP", torTCP, abi.VerdictTor, abi.ReasonTCP, 20},
		{"UDP", directUDP, abi.VerdictDirect, abi.ReasonDirectDestination, 8},
	} {
		all := ethernet + ip + c.header
		for linear, want := range map[int]uint32{ethernet: pulled, ethernet + ip: pulled, all - 1: pulled, all: uint32(all), all + 100: uint32(all) + 100} {
			t.Run(fmt.Sprintf("%s, %d", c.what, linear), func(t *testing.T) {
				ruler.forget(t)
				before := packets(t, d, lan, c.verdict, c.reason)
				must(t, s.send(c.packet.long(netip.MustParseAddr(clientAddr), 5000), linear))
				await(t, "packet to be counted", func() bool { return packets(t, d, lan, c.verdict, c.reason) == before+1 })
				ruler.awaitMark(t, want)
			})
		}
	}
}
