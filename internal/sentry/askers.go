package sentry

import (
	"net/netip"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/kernel"
)

// askedTime is how long after a device has asked the sentry may come to its question: a
// handshake may lose its first packet.
const askedTime = 5 * time.Second

// askerWords are the words of an entry, which are read one by one.
type askerWords [unsafe.Sizeof(abi.DatapathAsker{}) / unsafe.Sizeof(uint64(0))]uint64

// askers is the BPF array of that name, mapped into memory to be read: which device was it
// that sent a question. The neighbour table would tell whose the address is that it came
// from, and anybody may write that into a packet. Its method may be called concurrently.
type askers struct {
	mem     []byte
	entries []askerWords
}

// openAskers maps the array. The file descriptor may be closed afterwards; no privilege is
// needed.
func openAskers(fd int) (*askers, error) {
	mem, err := mapArray(fd, "who asks for excluded names", unix.PROT_READ, unsafe.Sizeof(abi.DatapathAsker{}), abi.AskerSlots)
	if err != nil {
		return nil, err
	}
	return &askers{mem: mem, entries: unsafe.Slice((*askerWords)(unsafe.Pointer(&mem[0])), abi.AskerSlots)}, nil
}

// close ends the mapping.
func (a *askers) close() error { return unix.Munmap(a.mem) }

// device returns who sent a question, or began a connection, a moment ago, as the programs
// tell devices apart: nobody where the LAN program has not just said so.
func (a *askers) device(addr netip.AddrPort, protocol uint8, id uint16) abi.DatapathDeviceKey {
	if a == nil { // it does not matter
		return nobodysDevice
	}
	now, err := kernel.BootTime()
	if err != nil {
		return nobodysDevice
	}
	key := abi.AskerKey{Addr: netip.AddrPortFrom(addr.Addr().Unmap().WithZone(""), addr.Port()), ID: id, Protocol: protocol}
	place := &a.entries[abi.AskerPlace(key)]
	var words askerWords
	for i := range words {
		words[i] = atomic.LoadUint64(&place[i])
	}
	asker := *(*abi.DatapathAsker)(unsafe.Pointer(&words))
	if asker.Key() != key || !asker.Whole() || time.Duration(asker.TimeNs)+askedTime < now {
		return nobodysDevice
	}
	return asker.Device
}

// nobodysDevice is no device that a frame can be from.
var nobodysDevice abi.DatapathDeviceKey
