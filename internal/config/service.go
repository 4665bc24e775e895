package config

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Service is a protocol and, where it has ports, the destination's port.
type Service struct {
	Protocol uint8  // IANA protocol number
	Port     uint16 // 0: the protocol has none
}

// ProtocolICMP stands for ICMP of both families: number 58 with IPv6.
const (
	ProtocolICMP = 1
	ProtocolTCP  = 6
	ProtocolUDP  = 17
)

// protocols are the names that a rule may use; others go by their number.
var protocols = map[string]uint8{"icmp": ProtocolICMP, "igmp": 2, "tcp": ProtocolTCP, "udp": ProtocolUDP, "gre": 47, "esp": 50, "ah": 51, "sctp": 132}

// HasPorts says whether a protocol's ports are looked at.
func (s Service) HasPorts() bool {
	return s.Protocol == ProtocolTCP || s.Protocol == ProtocolUDP
}

// String writes the service as ParsePort reads it.
func (s Service) String() string {
	if s.HasPorts() {
		return fmt.Sprintf("%d/%s", s.Port, ProtocolName(s.Protocol))
	}
	return ProtocolName(s.Protocol)
}

// ProtocolName writes a protocol as ParsePort reads it.
func ProtocolName(protocol uint8) string {
	for word, number := range protocols {
		if number == protocol {
			return word
		}
	}
	return byNumber + strconv.Itoa(int(protocol))
}

// byNumber begins the name of a protocol that has no other here. A bare number is most
// likely meant for a port.
const byNumber = "ip-"

// ParsePort reads PORT/tcp, PORT/udp, or a protocol without ports (icmp, gre, esp, ip-41),
// each with @PREFIX behind it if it is meant for some destinations only.
func ParsePort(s string) (Service, netip.Prefix, error) {
	refuse := func(message string) (Service, netip.Prefix, error) {
		return Service{}, netip.Prefix{}, &ParseError{Input: s, Kind: ErrSyntax, message: message}
	}
	what, where, limited := strings.Cut(s, "@")
	var prefix netip.Prefix
	if limited {
		var err error
		if prefix, err = ParsePrefix(where); err != nil {
			return Service{}, netip.Prefix{}, err
		}
	}
	number, name, numbered := strings.Cut(what, "/")
	if !numbered {
		name = what
	}
	protocol, known := protocols[name]
	if !known {
		digits, marked := strings.CutPrefix(name, byNumber)
		v, err := strconv.ParseUint(digits, 10, 8)
		if err != nil || !marked {
			return refuse("write a port and its protocol, such as 22/tcp or 443/udp, or a protocol without ports, such as icmp; for some destinations only 53/udp@10.8.0.1")
		}
		protocol = uint8(v)
	}
	service := Service{Protocol: protocol}
	switch {
	case service.HasPorts() && !numbered:
		return refuse(fmt.Sprintf("name the port as well, such as 22/%s", name))
	case !service.HasPorts() && numbered:
		return refuse(fmt.Sprintf("%s has no ports that are looked at: write %s", name, name))
	case !numbered:
		return service, prefix, nil
	}
	port, err := strconv.ParseUint(number, 10, 16)
	if from, to, ranged := strings.Cut(number, "-"); ranged {
		return refuse(fmt.Sprintf("a rule is about one port, and there are no ranges: write one for each, such as %[1]s/%[3]s %[2]s/%[3]s", from, to, name))
	}
	if err != nil || port == 0 {
		return refuse(fmt.Sprintf("%q is no port: 1 to 65535", number))
	}
	service.Port = uint16(port)
	return service, prefix, nil
}

// ParseProtocol reads the name or the number of a protocol.
func ParseProtocol(s string) (uint8, error) {
	if protocol, known := protocols[s]; known {
		return protocol, nil
	}
	v, err := strconv.ParseUint(strings.TrimPrefix(s, byNumber), 10, 8)
	if err != nil {
		return 0, &ParseError{Input: s, Kind: ErrSyntax, message: "not a protocol: write tcp, udp, icmp, gre, or a number up to 255"}
	}
	return uint8(v), nil
}

// MAC is a hardware address.
type MAC [6]byte

// String writes it as 02:00:00:00:00:01.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// MarshalText writes it as ParseMAC reads it.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads it by ParseMAC.
func (m *MAC) UnmarshalText(text []byte) (err error) {
	*m, err = ParseMAC(string(text))
	return err
}

// ParseMAC reads the hardware address of one device.
func ParseMAC(s string) (MAC, error) {
	refuse := func(message string) (MAC, error) {
		return MAC{}, &ParseError{Input: s, Kind: ErrSyntax, message: message}
	}
	a, err := net.ParseMAC(s)
	if err != nil || len(a) != len(MAC{}) {
		return refuse("not a hardware address: write six bytes such as 02:00:5e:10:00:01; ip neigh shows those of the devices that are there")
	}
	m := MAC(a)
	switch {
	case m == (MAC{}):
		return refuse("no device has an address of zeros")
	case m[0]&1 != 0:
		return refuse("this is the address of a group, and no device sends from one")
	}
	return m, nil
}

func parseInterface(s string) (string, error) {
	if !isInterfaceName(s) {
		return "", &ParseError{Input: s, Kind: ErrSyntax, message: noInterfaceName}
	}
	return s, nil
}
