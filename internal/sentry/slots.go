package sentry

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
)

// Slots is the BPF array `domain_slots`, mapped into memory: which addresses stand for
// excluded names, and for which device. Its methods may be called concurrently.
type Slots struct {
	mu    sync.Mutex
	mem   []byte
	slots []abi.DatapathDomainSlot
}

// OpenSlots maps the array. The file descriptor may be closed afterwards; no privilege
// is needed.
func OpenSlots(fd int) (*Slots, error) {
	mem, err := mapArray(fd, "the answers for excluded names", unix.PROT_READ|unix.PROT_WRITE, unsafe.Sizeof(abi.DatapathDomainSlot{}), abi.DomainSlots)
	if err != nil {
		return nil, err
	}
	return &Slots{mem: mem, slots: unsafe.Slice((*abi.DatapathDomainSlot)(unsafe.Pointer(&mem[0])), abi.DomainSlots)}, nil
}

// mapArray maps a BPF array whole; one of another shape is somebody else's.
func mapArray(fd int, what string, protection int, size uintptr, entries uint32) ([]byte, error) {
	info, err := readMapInfo(fd)
	if err != nil {
		return nil, err
	}
	if info["map_type"] != unix.BPF_MAP_TYPE_ARRAY || info["value_size"] != uint64(size) || info["max_entries"] != uint64(entries) || info["map_flags"]&unix.BPF_F_MMAPABLE == 0 {
		return nil, fmt.Errorf("map %s: file descriptor %d: %w", what, fd, errors.New("it is not their map"))
	}
	mem, err := unix.Mmap(fd, 0, int(size)*int(entries), protection, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", what, err)
	}
	return mem, nil
}

// Close ends the mapping; no method may be called after it.
func (s *Slots) Close() error { return unix.Munmap(s.mem) }

// Put says until when an address stands for an excluded name to a device. Of the places
// where it is looked for it takes its own, else a free one, else the one that ends first.
func (s *Slots) Put(device abi.DatapathDeviceKey, addr netip.Addr, domain uint64, until time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	place, best := abi.DomainPlace(device, addr.As16()), uint32(0)
	for i := range abi.DomainProbes {
		index := (place + i) % abi.DomainSlots
		slot := &s.slots[index]
		if slot.Device == device && slot.Addr == addr.As16() {
			best = index
			break
		}
		if i == 0 || slot.UntilNs < s.slots[best].UntilNs {
			best = index
		}
	}
	slot := &s.slots[best]
	// The programs read it at any time: with no time left it is nobody's.
	atomic.StoreUint64(&slot.UntilNs, 0)
	slot.Domain, slot.Device, slot.Addr = domain, device, addr.As16()
	atomic.StoreUint64(&slot.UntilNs, uint64(until))
}
