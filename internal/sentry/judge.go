package sentry

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

const (
	headerBytes = 12
	// maxMessage is far above any query of the types we answer: a name has at
	// most 255 bytes, and options rarely more than a few dozen.
	maxMessage = 4096
	// udpPayload is what we send by UDP at most, whatever the client offers: it
	// passes every link without being fragmented (RFC 9715).
	udpPayload = 1232
)

// ruling is what becomes of one message.
type ruling struct {
	reply *dns.Msg // nil: the message deserves no answer
	ask   bool     // the reply is to be completed by asking who answers
	who   answerer // tor, or the router's own resolver
	zone  zone     // of the name, where it is a local one
	size  int      // what the client takes by UDP, in bytes
}

// judge decides what a message is worth, without asking anyone. With the gate
// shut nothing is said of any public name, because nothing is known of it: an
// empty answer would be believed, and remembered.
func judge(message []byte, gateOpen bool, n names) ruling {
	if len(message) < headerBytes {
		return ruling{}
	}
	reply, isQuery := replyTo(message)
	if !isQuery {
		return ruling{} // answering answers makes loops
	}
	r := ruling{reply: reply, size: dns.MinMsgSize}
	if reply.Opcode != dns.OpcodeQuery {
		reply.Rcode = dns.RcodeNotImplemented
		return r
	}
	var query dns.Msg
	err := query.Unpack(message)
	if err != nil || len(query.Question) != 1 || query.Question[0].Qtype == dns.TypeNone {
		reply.Rcode = dns.RcodeFormatError
		return r
	}
	reply.Question = query.Question
	if r.size, reply.Rcode = negotiate(&query, reply); reply.Rcode != dns.RcodeSuccess {
		return r
	}
	r.who, r.zone = n.who(query.Question[0].Name)
	r.decide(query.Question[0], gateOpen)
	return r
}

// replyTo begins the reply to a message from the fixed part of its header
// (RFC 1035, section 4.1.1), which can be read even where the rest cannot.
func replyTo(message []byte) (reply *dns.Msg, isQuery bool) {
	const (
		bitQR = 1 << 15
		bitRD = 1 << 8
		bitCD = 1 << 4
	)
	bits := binary.BigEndian.Uint16(message[2:])
	return &dns.Msg{MsgHdr: dns.MsgHdr{
		Id:                 messageID(message),
		Response:           true,
		Opcode:             int(bits>>11) & 0xf,
		RecursionDesired:   bits&bitRD != 0,
		RecursionAvailable: true,
		CheckingDisabled:   bits&bitCD != 0,
	}}, bits&bitQR == 0
}

// messageID reads the id of a message (RFC 1035, section 4.1.1); 0 where it is too short.
func messageID(message []byte) uint16 {
	if len(message) < headerBytes {
		return 0
	}
	return binary.BigEndian.Uint16(message)
}

// negotiate settles EDNS(0) as RFC 6891 has it: a reply carries OPT exactly where
// the query did, and version 0 is the only one known.
func negotiate(query, reply *dns.Msg) (size, rcode int) {
	var opts []*dns.OPT
	for _, rr := range query.Extra {
		if opt, ok := rr.(*dns.OPT); ok {
			opts = append(opts, opt)
		}
	}
	switch {
	case len(opts) == 0:
		return dns.MinMsgSize, dns.RcodeSuccess
	case len(opts) > 1 || opts[0].Hdr.Name != ".":
		return dns.MinMsgSize, dns.RcodeFormatError
	}
	own := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
	own.SetUDPSize(udpPayload)
	reply.Extra = []dns.RR{own}
	size = min(max(int(opts[0].UDPSize()), dns.MinMsgSize), udpPayload)
	if opts[0].Version() > 0 {
		return size, dns.RcodeBadVers
	}
	return size, dns.RcodeSuccess
}

// decide says what a question gets. NOTIMPL comes at once and does not depend on
// the name, so that clients give up on the type and not on the name. Local names
// may have records of every type, and need no Tor.
func (r *ruling) decide(q dns.Question, gateOpen bool) {
	switch {
	case q.Qclass != dns.ClassINET || isMeta(q.Qtype):
		r.reply.Rcode = dns.RcodeNotImplemented
	case q.Qtype == dns.TypeHTTPS || q.Qtype == dns.TypeSVCB:
		// Browsers ask for these beside A and AAAA and hold the page back until
		// they know. "No such record" is the one answer that they take without
		// asking again, and tor could use none of what a record would say. The
		// LAN program answers the same by UDP.
		r.needGate(gateOpen)
	case r.who == nobody:
		r.reply.Authoritative, r.reply.Rcode = true, dns.RcodeNameError
	case r.who == byHeart:
		r.reply.Authoritative, r.reply.Answer = true, loopback(q)
	case r.who == ownRouter, r.who == chosen:
		r.ask = true
	case q.Qtype == dns.TypeA || q.Qtype == dns.TypeAAAA || q.Qtype == dns.TypePTR:
		r.ask = r.needGate(gateOpen)
	default:
		r.reply.Rcode = dns.RcodeNotImplemented
	}
}

func (r *ruling) needGate(open bool) bool {
	if !open {
		r.reply.Rcode = dns.RcodeServerFailure
	}
	return open
}

// isMeta tells types that are no type of a record: AXFR, ANY, OPT, … (RFC 6895,
// section 3.1).
func isMeta(qtype uint16) bool { return qtype == dns.TypeOPT || qtype >= 128 && qtype <= 255 }

// pack makes a reply ready to be sent. What cannot be packed becomes SERVFAIL:
// a client that gets nothing would wait.
func (r ruling) pack(udp bool) []byte {
	if udp {
		r.reply.Truncate(r.size)
	}
	packed, err := r.reply.Pack()
	if err == nil && len(packed) <= dns.MaxMsgSize {
		return packed
	}
	failure := dns.Msg{MsgHdr: r.reply.MsgHdr}
	failure.Rcode = dns.RcodeServerFailure
	packed, err = failure.Pack()
	if err != nil {
		return nil // a header alone always packs
	}
	return packed
}
