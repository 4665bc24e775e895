package proxy

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Config is what a proxy must know; it travels as JSON from Spawn to RunChild.
type Config struct {
	Port uint16 `json:"port"` // TCP, on 127.0.0.1 and, where there is IPv6, ::1
	// Resolver is asked for names, on port 53, from the proxy's own sockets; invalid:
	// names are refused.
	Resolver netip.Addr `json:"resolver"`
	// OnionPrefixes are the ranges of addresses that tor hands out for .onion names.
	OnionPrefixes []netip.Prefix `json:"onion_prefixes,omitempty"`
}

func (c Config) validate() error {
	if c.Port == 0 {
		return errors.New("validate the proxy's configuration: the port must not be 0")
	}
	if c.Resolver.IsValid() && (c.Resolver.IsMulticast() || c.Resolver.IsUnspecified()) {
		return fmt.Errorf("validate the proxy's configuration: %v is no resolver's address", c.Resolver)
	}
	return nil
}

// limits bound what programs can make the proxy hold.
type limits struct {
	clients      int // connections to the proxy
	header       int // bytes of a request's header, and of an answer's
	spare        int // connections to origins that wait for the next request
	readHeader   time.Duration
	idle         time.Duration // between two requests on one connection, on either side
	connect      time.Duration // to find the address of a name and connect to it
	headerAnswer time.Duration // until an origin answers a plain request
	tunnelIdle   time.Duration // without a byte in either direction
	sweep        time.Duration // between two looks for idle tunnels
	grace        time.Duration // for plain requests under way when the proxy is told to end
}

func defaultLimits() limits {
	return limits{
		clients:      512,
		header:       64 << 10,
		spare:        64,
		readHeader:   10 * time.Second,
		idle:         90 * time.Second,
		connect:      30 * time.Second,
		headerAnswer: 5 * time.Minute,
		tunnelIdle:   time.Hour,
		sweep:        time.Minute,
		grace:        2 * time.Second,
	}
}

// filesPerClient is what a tunnel takes: its two ends, and two pipes through which the
// kernel moves its bytes.
const filesPerClient = 2 + 2*2

// maxOpenFiles is more than all that the limits allow together.
const maxOpenFiles = 4096
