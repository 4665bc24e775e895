package sentry

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
)

// gateStride is the distance between two values of a memory-mapped BPF array:
// the kernel rounds them up to 8 bytes.
const gateStride = (unsafe.Sizeof(abi.DatapathGate{}) + 7) &^ 7

// Gate is one entry of the BPF array `gates`, mapped into memory: whether one
// Tor instance takes connections. Its methods may be called concurrently, but
// none after Close.
type Gate struct {
	mem  []byte
	open *uint32
}

// OpenGate maps the entry of one Tor instance. The file descriptor refers to the
// map; it may be closed afterwards. No privilege is needed.
func OpenGate(fd int, instance uint32) (*Gate, error) {
	if err := checkGates(fd, instance); err != nil {
		return nil, fmt.Errorf("map gate %d of file descriptor %d: %w", instance, fd, err)
	}
	offset := uintptr(instance) * gateStride
	page := uintptr(os.Getpagesize())
	length := (offset + gateStride + page - 1) &^ (page - 1)
	mem, err := unix.Mmap(fd, 0, int(length), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map gate %d of file descriptor %d: %w", instance, fd, err)
	}
	gate := (*abi.DatapathGate)(unsafe.Pointer(&mem[offset]))
	return &Gate{mem: mem, open: &gate.Open}, nil
}

// checkGates asks the kernel what the descriptor is. A wrong one would be
// written into silently: an array of something else maps just as well.
func checkGates(fd int, instance uint32) error {
	info, err := readMapInfo(fd)
	if err != nil {
		return err
	}
	switch {
	case info["map_type"] != unix.BPF_MAP_TYPE_ARRAY,
		info["value_size"] != uint64(unsafe.Sizeof(abi.DatapathGate{})),
		info["map_flags"]&unix.BPF_F_MMAPABLE == 0:
		return errors.New("it is not the map of gates")
	case uint64(instance) >= info["max_entries"]:
		return fmt.Errorf("the map has %d gates only", info["max_entries"])
	}
	return nil
}

// readMapInfo returns the numbers that /proc tells of a BPF map; none of
// another kind of file.
func readMapInfo(fd int) (map[string]uint64, error) {
	file, err := os.Open("/proc/self/fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return nil, fmt.Errorf("read what the descriptor is: %w", err)
	}
	defer file.Close()
	info := make(map[string]uint64)
	for lines := bufio.NewScanner(file); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		if n, err := strconv.ParseUint(strings.TrimSpace(value), 0, 64); err == nil {
			info[name] = n
		}
	}
	return info, nil
}

// Set opens or shuts the gate.
func (g *Gate) Set(open bool) {
	var value uint32
	if open {
		value = 1
	}
	atomic.StoreUint32(g.open, value)
}

// IsOpen reports whether the gate is open.
func (g *Gate) IsOpen() bool { return atomic.LoadUint32(g.open) != 0 }

// Close unmaps the gate and leaves it as it is.
func (g *Gate) Close() error {
	g.open = nil
	if err := unix.Munmap(g.mem); err != nil {
		return fmt.Errorf("unmap gate: %w", err)
	}
	return nil
}
