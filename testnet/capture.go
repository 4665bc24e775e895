package testnet

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	snapLength = 512      // bytes kept of a frame
	captureBuf = 64 << 20 // a burst at veth speed must not overrun the socket

	// etherMarker is LLDP's (IEEE 802.1AB), which nobody speaks in the lab and client mode
	// lets go. Sync sends such frames; parse results never hold them.
	etherMarker = unix.ETH_P_LLDP
)

// Capture records what passes one interface.
type Capture struct {
	lab  *Lab
	file *os.File // an AF_PACKET socket
	done chan struct{}

	// Sync sends its marker from here towards the captured interface.
	from    *Node
	fromMAC string

	stopOnce sync.Once
	stopErr  error

	mu      sync.Mutex
	packets []Packet
	markers map[uint64]chan struct{}
}

// CaptureWAN records the WAN as the ISP sees it, at the far end of the router's
// eth0: not even a fast path that bypasses the router's own taps can hide there.
// It ends with Stop or ctx.
func (l *Lab) CaptureWAN(ctx context.Context) (*Capture, error) {
	return l.capture(ctx, l.ISP, "wan0", l.Router, MACWAN)
}

// Capture records an interface of any node. Packet.Inbound tells what arrived
// there from what the node sent.
func (l *Lab) Capture(ctx context.Context, n *Node, ifname string) (*Capture, error) {
	return l.capture(ctx, n, ifname, nil, "")
}

func (l *Lab) capture(ctx context.Context, n *Node, ifname string, from *Node, fromMAC string) (*Capture, error) {
	file, err := openPacketSocket(n, ifname)
	if err != nil {
		return nil, fmt.Errorf("capture %s of %s: %w", ifname, n.Name, err)
	}
	c := &Capture{
		lab: l, file: file, done: make(chan struct{}), from: from, fromMAC: fromMAC,
		markers: map[uint64]chan struct{}{},
	}
	go c.receive()
	stop := context.AfterFunc(ctx, func() { _ = c.Stop() }) // Stop tells its next caller
	l.closeLater(captureCloser{c, stop})
	return c, nil
}

type captureCloser struct {
	capture *Capture
	stop    func() bool
}

// Close has nothing to say when the test itself has called Stop and heard of drops.
func (c captureCloser) Close() error {
	c.stop()
	select {
	case <-c.capture.done:
		return nil
	default:
		return c.capture.Stop()
	}
}

func openPacketSocket(n *Node, ifname string) (*os.File, error) {
	var file *os.File
	err := n.Do(func() error {
		iface, err := net.InterfaceByName(ifname)
		if err != nil {
			return fmt.Errorf("find interface: %w", err)
		}
		// Protocol 0 until bound: else frames of other interfaces come in, too.
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("open packet socket: %w", err)
		}
		file = os.NewFile(uintptr(fd), "packet socket "+ifname)
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuf); err != nil {
			return fmt.Errorf("enlarge receive buffer: %w", err)
		}
		// The kernel's own stamp: ours would be late by however long we are busy.
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
			return fmt.Errorf("ask for time stamps: %w", err)
		}
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: iface.Index})
		if err != nil {
			return fmt.Errorf("bind packet socket: %w", err)
		}
		return nil
	})
	if err != nil && file != nil {
		file.Close()
	}
	return file, err
}

func htons(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// receive runs until Stop sets a deadline in the past, then takes what is queued.
func (c *Capture) receive() {
	defer close(c.done)
	raw, err := c.file.SyscallConn()
	if err != nil {
		return
	}
	buf, control := make([]byte, snapLength), make([]byte, 64)
	for {
		again := false
		err := raw.Read(func(fd uintptr) bool {
			again = c.receiveOne(int(fd), buf, control)
			return again
		})
		if errors.Is(err, os.ErrDeadlineExceeded) {
			_ = raw.Control(func(fd uintptr) { // fails on a closed file: nothing is queued
				for c.receiveOne(int(fd), buf, control) {
				}
			})
			return
		}
		if err != nil {
			return
		}
	}
}

// receiveOne reports false when nothing was queued.
func (c *Capture) receiveOne(fd int, buf, control []byte) bool {
	// MSG_TRUNC makes the length that of the frame, not of the buffer.
	n, controlLen, _, from, err := unix.Recvmsg(fd, buf, control, unix.MSG_TRUNC|unix.MSG_DONTWAIT)
	if errors.Is(err, unix.EAGAIN) {
		return false
	}
	if err != nil {
		return true // ENETDOWN is reported once when the interface goes down
	}
	link, ok := from.(*unix.SockaddrLinklayer)
	if !ok {
		return true
	}
	frame := buf[:min(n, len(buf))]
	if c.isMarker(frame) {
		return true
	}
	packet := parseFrame(frame, n)
	packet.Time = stamp(control[:controlLen])
	packet.Inbound = link.Pkttype != unix.PACKET_OUTGOING
	c.mu.Lock()
	defer c.mu.Unlock()
	c.packets = append(c.packets, packet)
	return true
}

// stamp reads when the kernel saw a frame, or says now.
func stamp(control []byte) time.Time {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return time.Now()
	}
	for _, m := range messages {
		var t unix.Timespec
		if m.Header.Type != unix.SO_TIMESTAMPNS {
			continue
		}
		if _, err := binary.Decode(m.Data, binary.NativeEndian, &t); err == nil {
			return time.Unix(t.Unix())
		}
	}
	return time.Now()
}

// Packets returns everything captured so far, including all that the router sent
// on the WAN before the call.
func (c *Capture) Packets() []Packet {
	// Without the router's interface nothing can be under way either.
	_ = c.Sync()
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Packet(nil), c.packets...)
}

// NonTor returns what the router sent on the WAN that is neither a TCP segment to
// a port of a Tor relay nor the link's own housekeeping: the leaks, but for what
// the test excluded or let in on purpose.
func (c *Capture) NonTor() []Packet {
	var found []Packet
	for _, p := range c.Packets() {
		if p.Inbound && !p.housekeeping() && !c.lab.isTor(p) {
			found = append(found, p)
		}
	}
	return found
}

// isTor says whether the packet is TCP to or from a port of a relay or authority.
func (l *Lab) isTor(p Packet) bool {
	if l.Tor == nil || p.Proto != "tcp" {
		return false
	}
	return l.Tor.ports[p.Dst] || l.Tor.ports[p.Src]
}

// Reset forgets the packets so far.
func (c *Capture) Reset() {
	_ = c.Sync()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.packets = nil
}

// Stop ends the capture after taking in all that was sent before. Packets and
// NonTor go on answering. It fails when the kernel had to drop packets.
func (c *Capture) Stop() error {
	c.stopOnce.Do(func() {
		_ = c.Sync()
		if err := c.file.SetReadDeadline(time.Unix(1, 0)); err != nil {
			c.stopErr = fmt.Errorf("stop capture: %w", err)
			return
		}
		<-c.done
		c.stopErr = errors.Join(c.checkDrops(), c.file.Close())
	})
	return c.stopErr
}

func (c *Capture) checkDrops() error {
	raw, err := c.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("read capture statistics: %w", err)
	}
	var stats *unix.TpacketStats
	ctlErr := raw.Control(func(fd uintptr) {
		stats, err = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
	})
	if err := errors.Join(ctlErr, err); err != nil {
		return fmt.Errorf("read capture statistics: %w", err)
	}
	if stats.Drops > 0 {
		return fmt.Errorf("capture: kernel dropped %d of %d packets", stats.Drops, stats.Packets)
	}
	return nil
}

var markerCount atomic.Uint64

// Sync returns once everything that the router sent on the WAN before the call is
// captured: it sends a marker frame from the router and waits for it at the ISP.
func (c *Capture) Sync() error {
	select {
	case <-c.done:
		return nil
	default:
	}
	if c.from == nil {
		return nil
	}
	id := markerCount.Add(1)
	seen := make(chan struct{})
	c.mu.Lock()
	c.markers[id] = seen
	c.mu.Unlock()
	if err := c.sendMarker(id); err != nil {
		return fmt.Errorf("sync capture: %w", err)
	}
	deadline := time.NewTimer(time.Second)
	defer deadline.Stop()
	select {
	case <-seen:
		return nil
	case <-c.done:
		return nil
	case <-deadline.C:
		return errors.New("sync capture: marker lost between router and isp")
	}
}

// sendMarker finds the interface by its hardware address: tests rename it.
func (c *Capture) sendMarker(id uint64) error {
	var name string
	err := c.from.Do(func() error {
		ifaces, err := net.Interfaces()
		for _, iface := range ifaces {
			if iface.HardwareAddr.String() == c.fromMAC {
				name = iface.Name
			}
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	if name == "" {
		return errors.New("router has no wan interface")
	}
	isp, _ := parseMAC(MACISP)
	wan, _ := parseMAC(c.fromMAC)
	return c.from.SendFrame(name, Frame(isp, wan, etherMarker, binary.BigEndian.AppendUint64(nil, id)))
}

func (c *Capture) isMarker(frame []byte) bool {
	if len(frame) < 22 || !bytes.Equal(frame[12:14], []byte{etherMarker >> 8, etherMarker & 0xff}) {
		return false
	}
	id := binary.BigEndian.Uint64(frame[14:22])
	c.mu.Lock()
	defer c.mu.Unlock()
	if seen, ok := c.markers[id]; ok {
		close(seen)
		delete(c.markers, id)
	}
	return true
}
