package nft

import (
	"encoding/binary"
	"math"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Offsets and values of packet headers.
const (
	sourcePort      = 0 // TCP, UDP, SCTP, DCCP and UDP-Lite agree on these two
	destinationPort = 2
	tcpFlags        = 13

	tcpFIN = 0x01
	tcpSYN = 0x02
	tcpRST = 0x04
	tcpACK = 0x10

	statusDNAT = 1 << 5 // IPS_DST_NAT
)

// family is where the two address families differ.
type family struct {
	number              byte
	size                uint32 // of an address
	source, destination uint32 // offsets in the network header
	hops                uint32 // that of the hop limit
}

var (
	ipv4 = family{number: unix.NFPROTO_IPV4, size: 4, source: 12, destination: 16, hops: 8}
	ipv6 = family{number: unix.NFPROTO_IPV6, size: 16, source: 8, destination: 24, hops: 7}
)

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return ipv4
	}
	return ipv6
}

// word returns the register that begins at the given 32-bit word, as the
// kernel itself calls it: every fourth has a name of the old, wide kind.
func word(n uint32) uint32 {
	if n%4 == 0 {
		return unix.NFT_REG_1 + n/4
	}
	return unix.NFT_REG32_00 + n
}

// reg1 is where single values go through.
var reg1 = word(0)

func native(v uint32) []byte { return binaryutil.NativeEndian.PutUint32(v) }

func equal(data []byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: data}
}

func notEqual(data []byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: data}
}

func meta(key expr.MetaKey) expr.Any { return &expr.Meta{Key: key, Register: reg1} }

func ct(key expr.CtKey) expr.Any { return &expr.Ct{Key: key, Register: reg1} }

func and(mask []byte) expr.Any { return bits(mask, make([]byte, len(mask))) }

// bits computes (register & mask) ^ xor.
func bits(mask, xor []byte) expr.Any {
	return &expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: uint32(len(mask)), Mask: mask, Xor: xor}
}

func payload(base expr.PayloadBase, offset, size, register uint32) expr.Any {
	return &expr.Payload{Base: base, Offset: offset, Len: size, DestRegister: register}
}

// in looks up in a set what begins in reg1.
func in(name string) expr.Any { return &expr.Lookup{SourceRegister: reg1, SetName: name} }

func notIn(name string) expr.Any {
	return &expr.Lookup{SourceRegister: reg1, SetName: name, Invert: true}
}

// Matches.

func fromLAN() []expr.Any    { return []expr.Any{meta(expr.MetaKeyIIFNAME), in(setLANs)} }
func notFromLAN() []expr.Any { return []expr.Any{meta(expr.MetaKeyIIFNAME), notIn(setLANs)} }
func toLAN() []expr.Any      { return []expr.Any{meta(expr.MetaKeyOIFNAME), in(setLANs)} }
func notToLAN() []expr.Any   { return []expr.Any{meta(expr.MetaKeyOIFNAME), notIn(setLANs)} }

func toSettlingLAN() []expr.Any {
	return []expr.Any{meta(expr.MetaKeyOIFNAME), in(setSettle)}
}

// fromNowhere matches what the router itself sends.
func fromNowhere() []expr.Any { return []expr.Any{meta(expr.MetaKeyIIF), equal(native(0))} }

func fromSomewhere() []expr.Any { return []expr.Any{meta(expr.MetaKeyIIF), notEqual(native(0))} }

func fromLoopback() []expr.Any               { return isLoopback(expr.MetaKeyIIFNAME) }
func toLoopback() []expr.Any                 { return isLoopback(expr.MetaKeyOIFNAME) }
func isLoopback(key expr.MetaKey) []expr.Any { return isInterface(key, "lo") }

// isInterface compares a name that ifname has found to fit.
func isInterface(key expr.MetaKey, name string) []expr.Any {
	return []expr.Any{meta(key), equal(paddedName(name))}
}

func paddedName(name string) []byte {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return padded
}

func markIs(value, mask uint32) []expr.Any {
	return []expr.Any{meta(expr.MetaKeyMARK), and(native(mask)), equal(native(value))}
}

func markIsNot(value, mask uint32) []expr.Any {
	return []expr.Any{meta(expr.MetaKeyMARK), and(native(mask)), notEqual(native(value))}
}

// socketMarkIs matches by the mark of the socket that sends, or that a packet arrives at, which no rule can write.
func socketMarkIs(value, mask uint32) []expr.Any {
	return []expr.Any{&expr.Socket{Key: expr.SocketKeyMark, Register: reg1}, and(native(mask)), equal(native(value))}
}

// metaTime is the wall clock (NFT_META_TIME_NS, Linux 5.4), as the kernel numbers it.
const metaTime expr.MetaKey = 30

// before matches until a time by the wall clock, and for ever where that is zero. The
// kernel compares bytes, so the number is turned into big endian first.
func before(t time.Time) []expr.Any {
	if t.IsZero() {
		return nil
	}
	const size = 8
	return []expr.Any{
		meta(metaTime),
		&expr.Byteorder{SourceRegister: reg1, DestRegister: reg1, Op: expr.ByteorderHton, Len: size, Size: size},
		&expr.Cmp{Op: expr.CmpOpLt, Register: reg1, Data: binary.BigEndian.AppendUint64(nil, nanoseconds(t))},
	}
}

// nanoseconds since 1970, of a time beyond the range of that number the end of it.
func nanoseconds(t time.Time) uint64 {
	seconds := t.Unix()
	if seconds > math.MaxInt64/int64(time.Second) {
		return math.MaxInt64
	}
	return uint64(max(0, seconds) * int64(time.Second))
}

func ctMarkIs(value, mask uint32) []expr.Any {
	return []expr.Any{ct(expr.CtKeyMARK), and(native(mask)), equal(native(value))}
}

// ctStateIn takes expr.CtStateBit… values or-ed together.
func ctStateIn(states uint32) []expr.Any {
	return []expr.Any{ct(expr.CtKeySTATE), and(native(states)), notEqual(native(0))}
}

func ctDirection(direction byte) []expr.Any {
	return []expr.Any{ct(expr.CtKeyDIRECTION), equal([]byte{direction})}
}

func ctDNAT() []expr.Any {
	return []expr.Any{ct(expr.CtKeySTATUS), and(native(statusDNAT)), notEqual(native(0))}
}

func notDNAT() []expr.Any {
	return []expr.Any{ct(expr.CtKeySTATUS), and(native(statusDNAT)), equal(native(0))}
}

func protocol(number byte) []expr.Any {
	return []expr.Any{meta(expr.MetaKeyL4PROTO), equal([]byte{number})}
}

func notProtocol(number byte) []expr.Any {
	return []expr.Any{meta(expr.MetaKeyL4PROTO), notEqual([]byte{number})}
}

func isFamily(f family) []expr.Any {
	return []expr.Any{meta(expr.MetaKeyNFPROTO), equal([]byte{f.number})}
}

func toPort(port uint16) []expr.Any {
	return []expr.Any{
		payload(expr.PayloadBaseTransportHeader, destinationPort, 2, reg1),
		equal(binary.BigEndian.AppendUint16(nil, port)),
	}
}

func toPortFrom(first uint16) []expr.Any {
	return []expr.Any{
		payload(expr.PayloadBaseTransportHeader, destinationPort, 2, reg1),
		&expr.Cmp{Op: expr.CmpOpGte, Register: reg1, Data: binary.BigEndian.AppendUint16(nil, first)},
	}
}

// ports matches both of a UDP packet.
func ports(source, destination uint16) []expr.Any {
	return append([]expr.Any{
		payload(expr.PayloadBaseTransportHeader, sourcePort, 2, reg1),
		equal(binary.BigEndian.AppendUint16(nil, source)),
	}, toPort(destination)...)
}

// isLaterFragment matches a piece of an IPv4 packet that has no ports. Conntrack puts pieces
// together, but not those of a socket that wants them as they are (IP_NODEFRAG); there is no
// such thing with IPv6. A rule that asks for a port does not tell: the kernel may find one.
func isLaterFragment() []expr.Any {
	const offset, mask = 6, 0x1fff
	return append(isFamily(ipv4),
		payload(expr.PayloadBaseNetworkHeader, offset, 2, reg1),
		and(binary.BigEndian.AppendUint16(nil, mask)), notEqual([]byte{0, 0}))
}

// destination loads that of a packet.
func destination(f family) []expr.Any {
	return append(isFamily(f), payload(expr.PayloadBaseNetworkHeader, f.destination, f.size, reg1))
}

// source loads that of a packet.
func source(f family) []expr.Any {
	return append(isFamily(f), payload(expr.PayloadBaseNetworkHeader, f.source, f.size, reg1))
}

func toPrefix(p netip.Prefix) []expr.Any {
	return inPrefix(p, familyOf(p.Addr()).destination)
}

func fromPrefix(p netip.Prefix) []expr.Any {
	return inPrefix(p, familyOf(p.Addr()).source)
}

func inPrefix(p netip.Prefix, offset uint32) []expr.Any {
	f := familyOf(p.Addr())
	return append(isFamily(f),
		payload(expr.PayloadBaseNetworkHeader, offset, f.size, reg1),
		and(net.CIDRMask(p.Bits(), int(f.size)*8)), equal(p.Masked().Addr().AsSlice()))
}

func tcpFlagsAre(value, mask byte) []expr.Any {
	return tcpFlagsCompare(mask, equal([]byte{value}))
}

func tcpFlagsAreNot(value, mask byte) []expr.Any {
	return tcpFlagsCompare(mask, notEqual([]byte{value}))
}

func tcpFlagsCompare(mask byte, compare expr.Any) []expr.Any {
	return append(protocol(unix.IPPROTO_TCP),
		payload(expr.PayloadBaseTransportHeader, tcpFlags, 1, reg1),
		and([]byte{mask}), compare)
}

// Statements.

func setMark(mask, xor uint32) []expr.Any {
	return []expr.Any{
		meta(expr.MetaKeyMARK), bits(native(mask), native(xor)),
		&expr.Meta{Key: expr.MetaKeyMARK, Register: reg1, SourceRegister: true},
	}
}

func setCtMark(mask, xor uint32) []expr.Any {
	return []expr.Any{
		ct(expr.CtKeyMARK), bits(native(mask), native(xor)),
		&expr.Ct{Key: expr.CtKeyMARK, Register: reg1, SourceRegister: true},
	}
}

func redirect(port uint16) []expr.Any { return redirectTo(thePort(port, reg1)) }

// thePort loads a port.
func thePort(port uint16, register uint32) []expr.Any {
	return []expr.Any{&expr.Immediate{Register: register, Data: binary.BigEndian.AppendUint16(nil, port)}}
}

// portByMark loads the port to which a map leads from these bits of the mark. What it lacks
// ends the rule, which then does nothing.
func portByMark(mask uint32, name string, register uint32) []expr.Any {
	return []expr.Any{
		meta(expr.MetaKeyMARK), and(native(mask)),
		&expr.Lookup{SourceRegister: reg1, DestRegister: register, IsDestRegSet: true, SetName: name},
	}
}

// redirectTo redirects to a port that load puts into the first register.
func redirectTo(load []expr.Any) []expr.Any {
	return append(load,
		&expr.Redir{RegisterProtoMin: reg1, RegisterProtoMax: reg1, Flags: unix.NF_NAT_RANGE_PROTO_SPECIFIED})
}

// snat rewrites the source.
func snat(to netip.Addr) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: reg1, Data: to.AsSlice()},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: uint32(familyOf(to).number), RegAddrMin: reg1, RegAddrMax: reg1},
	}
}

// lookUpClass goes where the map leads; a class it lacks goes on.
func lookUpClass(mask uint32, name string) []expr.Any {
	return []expr.Any{
		meta(expr.MetaKeyMARK), and(native(mask)),
		&expr.Lookup{SourceRegister: reg1, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true, SetName: name},
	}
}

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }

func accept() []expr.Any { return verdict(expr.VerdictAccept) }

func leave() []expr.Any { return verdict(expr.VerdictReturn) }

func jump(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}

func goTo(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}}
}

// drop always counts.
func drop(counter string) []expr.Any {
	return slices.Concat(counted(counter), verdict(expr.VerdictDrop))
}

// reject drops and tells the sender, by one of the kinds unix.NFT_REJECT_*.
func reject(counter string, kind uint32, code uint8) []expr.Any {
	return append(counted(counter), &expr.Reject{Type: kind, Code: code})
}

func counted(counter string) []expr.Any {
	return []expr.Any{&expr.Objref{Type: int(nftables.ObjTypeCounter), Name: counter}}
}
