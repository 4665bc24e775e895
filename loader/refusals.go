package loader

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
)

// Refusal is one sampled packet that was refused, as its headers were.
type Refusal struct {
	Time     time.Time
	Ifindex  int // of where it came in, or, at an uplink guard, was about to leave
	Verdict  abi.Verdict
	Reason   abi.Reason
	Length   int // bytes, from the link header on
	Src, Dst netip.AddrPort
	Protocol uint8 // IANA protocol number
}

// Refusals reads the ring buffer of sampled refusals. It has one reader: what one
// has read no other sees.
type Refusals struct {
	reader *ringbuf.Reader
	id     ebpf.MapID
	pin    string
}

// Refusals opens the pinned ring buffer.
func (d *Datapath) Refusals() (*Refusals, error) {
	m, err := d.openMap(abi.DatapathMapRefusals)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	id, err := mapID(m)
	if err != nil {
		return nil, err
	}
	reader, err := ringbuf.NewReader(m)
	if err != nil {
		return nil, fmt.Errorf("read ring buffer %s: %w", abi.DatapathMapRefusals, err)
	}
	return &Refusals{reader: reader, id: id, pin: d.mapPin(abi.DatapathMapRefusals)}, nil
}

func mapID(m *ebpf.Map) (ebpf.MapID, error) {
	info, err := m.Info()
	if err != nil {
		return 0, fmt.Errorf("inspect map: %w", err)
	}
	id, _ := info.ID()
	return id, nil
}

// Next waits for a refusal, at most for the time given; false: there was none.
func (r *Refusals) Next(wait time.Duration) (Refusal, bool, error) {
	r.reader.SetDeadline(time.Now().Add(wait))
	record, err := r.reader.Read()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return Refusal{}, false, nil
	}
	if err != nil {
		return Refusal{}, false, fmt.Errorf("read refusals: %w", err)
	}
	var raw abi.DatapathRefusal
	if err := binary.Read(bytes.NewReader(record.RawSample), binary.NativeEndian, &raw); err != nil {
		return Refusal{}, false, fmt.Errorf("decode refusal: %w", err)
	}
	return Refusal{
		Time:    monotonicTime(raw.TimeNs),
		Ifindex: int(raw.Ifindex), Verdict: raw.Verdict, Reason: raw.Reason, Length: int(raw.Length), Protocol: raw.Protocol,
		Src: netip.AddrPortFrom(netip.AddrFrom16(raw.Saddr).Unmap(), swap(raw.SportBe)),
		Dst: netip.AddrPortFrom(netip.AddrFrom16(raw.Daddr).Unmap(), swap(raw.DportBe)),
	}, true, nil
}

// monotonicTime is the time of day of a moment on the clock of the programs.
func monotonicTime(ns uint64) time.Time {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return time.Now() // every kernel has that clock
	}
	return time.Now().Add(-time.Duration(now.Nano() - int64(ns)))
}

// swap turns a port as it stands in a packet into a number.
func swap(be uint16) uint16 {
	return binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, be))
}

// Current tells whether the programs still write to this ring buffer; after a
// repair from scratch they have another one.
func (r *Refusals) Current() bool {
	m, err := ebpf.LoadPinnedMap(r.pin, nil)
	if err != nil {
		return false
	}
	defer m.Close()
	id, err := mapID(m)
	return err == nil && id == r.id
}

// Close ends a Next under way.
func (r *Refusals) Close() error { return r.reader.Close() }
