package config

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
)

// MaxInstances is how many tors there can be: as many as four bits of a mark tell apart.
const MaxInstances = 16

// Instances is how many tors are started: a number, or AutoInstances. 0 is 1, as states of
// a torbpf that knew one alone have it.
type Instances uint8

// AutoInstances has the number follow the CPUs.
const AutoInstances Instances = 0xff

// autoInstances is AutoInstances in words.
const autoInstances = "auto"

// On returns how many there are on a machine with so many CPUs. tor does most of its work on
// one of them, and the kernel needs as much again for the packets, so there is one for two.
func (i Instances) On(cpus int) int {
	if i == AutoInstances {
		return min(max(1, cpus/2), MaxInstances)
	}
	return max(1, int(i))
}

// Most returns how many there may be, whatever the machine.
func (i Instances) Most() int { return i.On(2 * MaxInstances) }

// String is the number, or "auto".
func (i Instances) String() string {
	if i == AutoInstances {
		return autoInstances
	}
	return strconv.Itoa(max(1, int(i)))
}

// ParseInstances reads what String writes.
func ParseInstances(s string) (Instances, error) {
	if s == autoInstances {
		return AutoInstances, nil
	}
	n, err := strconv.ParseUint(s, 10, 8)
	if err != nil || n < 1 || n > MaxInstances {
		return 0, Invalid("%q is no number of tors: write 1 to %d, or %s to have it follow the CPUs", s, MaxInstances, autoInstances)
	}
	return Instances(n), nil
}

// MarshalJSON writes the number, or "auto".
func (i Instances) MarshalJSON() ([]byte, error) { return json.Marshal(i.written()) }

// UnmarshalJSON reads either.
func (i *Instances) UnmarshalJSON(text []byte) (err error) {
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		return err
	}
	*i, err = readInstances(value)
	return err
}

// written is the value as files and JSON have it.
func (i Instances) written() any {
	if i == AutoInstances {
		return autoInstances
	}
	return int64(max(1, i))
}

// readInstances reads a value of a file or of JSON.
func readInstances(value any) (Instances, error) { return ParseInstances(fmt.Sprint(value)) }

// portStride is how far the ports of one tor are from those of the next.
const portStride = 100

// PortOf returns a port of one of several tors, given that of the first.
func PortOf(first uint16, instance int) uint16 { return first + uint16(portStride*instance) }

// instanceBits are the bits of a .onion address that tell whose it is.
const instanceBits = 4

// OnionFits tells whether a virtual range has room for so many tors, each of which takes a part of
// it that is not too small for tor.
func OnionFits(p netip.Prefix, instances int) bool {
	return p.Bits() <= longestOnion(p.Addr().Is4(), instances)
}

func longestOnion(v4 bool, instances int) int {
	bits := onionBits6
	if v4 {
		bits = onionBits4
	}
	if instances > 1 {
		bits -= instanceBits
	}
	return bits
}

// OnionPart returns the part of a virtual range that one of several tors hands out. There are
// as many parts as there can be tors, so one keeps its own when their number changes; a tor
// that is alone has all of it.
func OnionPart(p netip.Prefix, instance, instances int) netip.Prefix {
	if !p.IsValid() || instances <= 1 {
		return p
	}
	b := p.Masked().Addr().AsSlice()
	for i := range instanceBits {
		if instance>>(instanceBits-1-i)&1 == 1 {
			at := p.Bits() + i
			b[at/8] |= 0x80 >> (at % 8)
		}
	}
	addr, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(addr, p.Bits()+instanceBits)
}
