package abi

import (
	"encoding/binary"
	"slices"
	"strings"
	"time"
)

// Slots of the map domain_slots, and how far from its place one is looked for.
const (
	DomainSlots  = uint32(DatapathDomainLimitDOMAIN_SLOTS)
	DomainProbes = uint32(DatapathDomainLimitDOMAIN_PROBES)
)

// How long a flow that began by name may rest.
const (
	DomainTCPRest = time.Duration(DatapathDomainLimitDOMAIN_TCP_REST_S) * time.Second
	DomainUDPRest = time.Duration(DatapathDomainLimitDOMAIN_UDP_REST_S) * time.Second
)

// DomainKey is the key of an excluded name in the map domains, as excluded_name() of
// bpf/dns.h makes it of a query: FNV-1a over the labels from the last to the first, each
// with its length before it. A name that begins with "*." stands for those below it.
func DomainKey(domain string) uint64 {
	const (
		seed  = 0xcbf29ce484222325
		prime = 0x100000001b3
		below = 1
	)
	bare, wild := strings.CutPrefix(strings.ToLower(domain), "*.")
	h := uint64(seed)
	for _, label := range slices.Backward(strings.Split(bare, ".")) {
		h = (h ^ uint64(len(label))) * prime
		for _, c := range []byte(label) {
			h = (h ^ uint64(c|0x20)) * prime // small letters; a few other bytes fall together, too
		}
	}
	if wild {
		h ^= below
	}
	return h
}

// DomainPlace is where a slot is looked for first, as domain_place() of bpf/domain.h
// has it.
func DomainPlace(device DatapathDeviceKey, addr [16]byte) uint32 {
	return uint32(hashWords(slices.Concat(device.bytes(), addr[:]))>>52) % DomainSlots
}

// DevicePlace is the first of the slots that a device may have in device_traffic, as
// traffic_of() of bpf/traffic.h has it.
func DevicePlace(device DatapathDeviceKey) uint32 {
	return uint32(hashWords(device.bytes()) >> 52)
}

func (d DatapathDeviceKey) bytes() []byte {
	return slices.Concat(d.Mac.Addr[:], d.Mac.Pad[:], d.Addr[:])
}

// hashWords is hash_words() of bpf/domain.h, from 0 on.
func hashWords(words []byte) (h uint64) {
	const factor = 0x9e3779b97f4a7c15
	for i := 0; i < len(words); i += 8 {
		h ^= h >> 32
		h = (h ^ binary.NativeEndian.Uint64(words[i:])) * factor
	}
	return h
}
