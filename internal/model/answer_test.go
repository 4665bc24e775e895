package model

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/miekg/dns"
)

// answer is what the sender of a refused packet gets back.
type answer int

const (
	silence     answer = iota
	reset              // a TCP RST
	unreachable        // ICMP port unreachable, from the destination
	prohibited         // ICMP administratively prohibited, from the router
	servfail           // the DNS query itself, as a failure
	noData             // the question of the DNS query, answered with nothing
)

// checkAnswer holds the packet that came back against the one that was sent;
// neither has an Ethernet header.
func checkAnswer(t *testing.T, want answer, sent, got []byte) {
	t.Helper()
	sent = withoutPadding(sent)
	back := readReply(t, got)
	asked := readReply(t, sent)
	if back.dst != asked.src {
		t.Errorf("the answer goes to %s, want %s", back.dst, asked.src)
	}
	from := asked.dst
	if want == prohibited {
		from = routerAddr4
		if asked.dst.Is6() {
			from = routerAddr6
		}
	}
	if back.src != from {
		t.Errorf("the answer comes from %s, want %s", back.src, from)
	}
	switch want {
	case reset:
		checkReset(t, asked, back)
	case unreachable, prohibited:
		checkICMP(t, want, sent, back)
	case servfail:
		checkServfail(t, asked, back)
	case noData:
		checkNoData(t, asked, back)
	}
}

// reply is a packet taken apart.
type reply struct {
	src, dst netip.Addr
	protocol uint8
	ttl      uint8
	body     []byte
}

// readReply checks all that IP itself promises.
func readReply(t *testing.T, b []byte) reply {
	t.Helper()
	if len(b) < 20 || b[0]>>4 == 6 && len(b) < 40 {
		t.Fatalf("%d bytes are no packet: % x", len(b), b)
	}
	if b[0]>>4 == 6 {
		if stated := int(binary.BigEndian.Uint16(b[4:])) + 40; stated != len(b) {
			t.Errorf("IPv6 states %d bytes, the packet has %d", stated, len(b))
		}
		r := reply{protocol: b[6], ttl: b[7], body: b[40:]}
		r.src, r.dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		for isExtension(r.protocol) && r.protocol != extFragment {
			length := 8 + 8*int(r.body[1])
			r.protocol, r.body = r.body[0], r.body[length:]
		}
		return r
	}
	header := int(b[0]&0xf) * 4
	if stated := int(binary.BigEndian.Uint16(b[2:])); stated != len(b) {
		t.Errorf("IPv4 states %d bytes, the packet has %d", stated, len(b))
	}
	if sum := fold(sumBytes(b[:header])); sum != 0 {
		t.Errorf("the checksum of the IPv4 header is off by %#04x", sum)
	}
	r := reply{protocol: b[9], ttl: b[8], body: b[header:]}
	r.src, r.dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	return r
}

func (r reply) checkSum(t *testing.T) {
	t.Helper()
	if sum := transportSum(r.src, r.dst, r.protocol, r.body); sum != 0 {
		t.Errorf("the checksum of the answer is off by %#04x", sum)
	}
}

// checkReset: RFC 9293, 3.10.7.1.
func checkReset(t *testing.T, asked, back reply) {
	t.Helper()
	if back.protocol != protoTCP || len(back.body) != 20 {
		t.Fatalf("protocol %d with %d bytes, want a bare TCP header", back.protocol, len(back.body))
	}
	back.checkSum(t)
	if !bytes.Equal(back.body[:4], slices.Concat(asked.body[2:4], asked.body[:2])) {
		t.Errorf("ports % x, want those of the segment exchanged: % x", back.body[:4], asked.body[:4])
	}
	u32 := binary.BigEndian.Uint32
	seq, ack, flags := uint32(0), uint32(0), uint8(0x04)
	if asked.body[13]&tcpACK != 0 {
		seq = u32(asked.body[8:])
	} else {
		flags |= tcpACK
		ack = u32(asked.body[4:]) + uint32(len(asked.body)) - uint32(asked.body[12]>>4)*4
		ack += uint32(asked.body[13]>>1&1) + uint32(asked.body[13]&1)
	}
	if u32(back.body[4:]) != seq || u32(back.body[8:]) != ack {
		t.Errorf("sequence %#x acknowledging %#x, want %#x and %#x", u32(back.body[4:]), u32(back.body[8:]), seq, ack)
	}
	if back.body[12] != 5<<4 || back.body[13] != flags {
		t.Errorf("offset and flags % x, want 50 %02x", back.body[12:14], flags)
	}
}

// checkICMP: RFC 792, RFC 1812 5.2.7.1, RFC 4443 3.1.
func checkICMP(t *testing.T, want answer, sent []byte, back reply) {
	t.Helper()
	kind, code := uint8(3), uint8(3)
	protocol, quoted := uint8(protoICMP), 28
	if want == prohibited {
		code = 13
	}
	if back.src.Is6() {
		kind, code, protocol, quoted = 1, 4, protoICMPv6, 48
		if want == prohibited {
			code = 1
		}
	}
	if back.protocol != protocol || len(back.body) < 8 {
		t.Fatalf("protocol %d with %d bytes, want ICMP", back.protocol, len(back.body))
	}
	back.checkSum(t)
	if back.body[0] != kind || back.body[1] != code {
		t.Errorf("ICMP type %d code %d, want %d %d", back.body[0], back.body[1], kind, code)
	}
	if !bytes.Equal(back.body[8:], sent[:quoted]) {
		t.Errorf("it quotes\n% x, want\n% x", back.body[8:], sent[:quoted])
	}
}

// checkServfail: RFC 1035, 4.1.1: QR and RCODE 2 are set, opcode and RD kept.
func checkServfail(t *testing.T, asked, back reply) {
	t.Helper()
	if back.protocol != protoUDP || len(back.body) != len(asked.body) {
		t.Fatalf("protocol %d with %d bytes, want UDP with %d", back.protocol, len(back.body), len(asked.body))
	}
	if asked.body[6]|asked.body[7] != 0 { // 0: the sender made no checksum
		back.checkSum(t)
	} else if back.body[6]|back.body[7] != 0 {
		t.Error("a packet without a checksum was answered with one")
	}
	want := slices.Clone(asked.body)
	copy(want, slices.Concat(asked.body[2:4], asked.body[:2]))
	want[10] = asked.body[10]&0x79 | 0x80
	want[11] = 2
	copy(want[6:8], back.body[6:8])
	if !bytes.Equal(back.body, want) {
		t.Errorf("answered\n% x, want\n% x", back.body, want)
	}
}

// checkNoData: RFC 2308, 2.2: NOERROR, and nothing but the question.
func checkNoData(t *testing.T, asked, back reply) {
	t.Helper()
	if asked.body[6]|asked.body[7] != 0 {
		back.checkSum(t)
	} else if back.body[6]|back.body[7] != 0 {
		t.Error("a packet without a checksum was answered with one")
	}
	if !bytes.Equal(back.body[:4], slices.Concat(asked.body[2:4], asked.body[:2])) {
		t.Errorf("ports % x, want those of the query exchanged: % x", back.body[:4], asked.body[:4])
	}
	if stated := int(binary.BigEndian.Uint16(back.body[4:])); stated != len(back.body) {
		t.Errorf("UDP states %d bytes, the datagram has %d", stated, len(back.body))
	}
	var query, got dns.Msg
	if err := errors.Join(query.Unpack(asked.body[8:]), got.Unpack(back.body[8:])); err != nil {
		t.Fatalf("%v\n% x", err, back.body)
	}
	want := dns.Msg{Question: query.Question, MsgHdr: dns.MsgHdr{
		Id: query.Id, Response: true, RecursionDesired: query.RecursionDesired, RecursionAvailable: true,
	}}
	packed, err := want.Pack()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(back.body[8:], packed) {
		t.Errorf("answered\n%v\nwant\n%v", &got, &want)
	}
}

// withoutPadding cuts a packet where IP says that it ends.
func withoutPadding(b []byte) []byte {
	if b[0]>>4 == 6 {
		return b[:40+int(binary.BigEndian.Uint16(b[4:]))]
	}
	return b[:binary.BigEndian.Uint16(b[2:])]
}
