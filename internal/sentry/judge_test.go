package sentry

import (
	"testing"

	"github.com/miekg/dns"
)

// ruleCase is a message and what must come back for it, whatever the transport.
type ruleCase struct {
	name    string
	message func() []byte
	ignored bool // no answer; by TCP the connection ends
	rcode   int  // with the gate open
	shut    int  // with the gate shut
	asks    bool // tor is asked
	local   bool // answered by the sentry, Tor or not
	answers int
	opt     bool
}

const (
	ok       = dns.RcodeSuccess
	notImp   = dns.RcodeNotImplemented
	formErr  = dns.RcodeFormatError
	servFail = dns.RcodeServerFailure
	nxDomain = dns.RcodeNameError
	badVers  = dns.RcodeBadVers
)

func packed(change func(*dns.Msg)) func() []byte {
	return func() []byte {
		query := question("WwW.ExAmPlE.", dns.TypeA)
		query.Id = 0xbeef
		change(query)
		b, err := query.Pack()
		if err != nil {
			panic(err)
		}
		return b
	}
}

func typed(qtype uint16) func() []byte {
	return packed(func(m *dns.Msg) { m.Question[0].Qtype = qtype })
}

func named(name string) func() []byte {
	return packed(func(m *dns.Msg) { m.Question[0].Name = name })
}

func opt(version uint8, name string) *dns.OPT {
	o := &dns.OPT{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeOPT}}
	o.SetUDPSize(4096)
	o.SetVersion(version)
	return o
}

func extra(rrs ...dns.RR) func() []byte {
	return packed(func(m *dns.Msg) { m.Extra = rrs })
}

// count overwrites the number of questions in the header.
func count(n byte, message func() []byte) func() []byte {
	return func() []byte {
		b := message()
		b[5] = n
		return b
	}
}

var ruleCases = []ruleCase{
	{name: "A", message: typed(dns.TypeA), shut: servFail, asks: true, answers: 1},
	{name: "AAAA", message: typed(dns.TypeAAAA), shut: servFail, asks: true, answers: 1},
	{name: "PTR", message: typed(dns.TypePTR), shut: servFail, asks: true, answers: 1},
	{name: "HTTPS", message: typed(dns.TypeHTTPS), shut: servFail},
	{name: "SVCB", message: typed(dns.TypeSVCB), shut: servFail},
	{name: "MX", message: typed(dns.TypeMX), rcode: notImp, shut: notImp},
	{name: "TXT", message: typed(dns.TypeTXT), rcode: notImp, shut: notImp},
	{name: "SOA", message: typed(dns.TypeSOA), rcode: notImp, shut: notImp},
	{name: "ANY", message: typed(dns.TypeANY), rcode: notImp, shut: notImp},
	{name: "AXFR", message: typed(dns.TypeAXFR), rcode: notImp, shut: notImp},
	{name: "IXFR", message: packed(func(m *dns.Msg) { m.SetIxfr("example.", 1, "a.", "b.").Id = 0xbeef }), rcode: notImp, shut: notImp},
	{name: "unassigned type", message: typed(65280), rcode: notImp, shut: notImp},
	{name: "class CH", message: packed(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }), rcode: notImp, shut: notImp},
	{name: "class ANY", message: packed(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassANY }), rcode: notImp, shut: notImp},
	{name: "NOTIFY", message: packed(func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }), rcode: notImp, shut: notImp},
	{name: "UPDATE", message: packed(func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }), rcode: notImp, shut: notImp},
	{name: "stateful operation", message: func() []byte { return []byte{0xbe, 0xef, 6 << 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0} }, rcode: notImp, shut: notImp},
	{name: "no question", message: packed(func(m *dns.Msg) { m.Question = nil }), rcode: formErr, shut: formErr},
	{name: "two questions", message: packed(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }), rcode: formErr, shut: formErr},
	{name: "two questions announced", message: count(2, typed(dns.TypeA)), rcode: formErr, shut: formErr},
	{name: "question not announced", message: count(0, typed(dns.TypeA)), rcode: formErr, shut: formErr},
	{name: "header only", message: func() []byte { return typed(dns.TypeA)()[:headerBytes] }, rcode: formErr, shut: formErr},
	{name: "cut off", message: func() []byte { return typed(dns.TypeA)()[:headerBytes+7] }, rcode: formErr, shut: formErr},
	{name: "cut off behind the name", message: func() []byte { return typed(dns.TypeA)()[:headerBytes+13] }, rcode: formErr, shut: formErr},
	{name: "looping name", message: func() []byte { return append(typed(dns.TypeA)()[:headerBytes], 0xc0, headerBytes, 0, 1, 0, 1) }, rcode: formErr, shut: formErr},
	{name: "EDNS", message: extra(opt(0, ".")), shut: servFail, asks: true, answers: 1, opt: true},
	{name: "EDNS, other type", message: packed(func(m *dns.Msg) { m.Question[0].Qtype, m.Extra = dns.TypeMX, []dns.RR{opt(0, ".")} }), rcode: notImp, shut: notImp, opt: true},
	{name: "EDNS version 1", message: extra(opt(1, ".")), rcode: badVers, shut: badVers, opt: true},
	{name: "two OPT", message: extra(opt(0, "."), opt(0, ".")), rcode: formErr, shut: formErr},
	{name: "OPT with a name", message: extra(opt(0, "a.")), rcode: formErr, shut: formErr},
	{name: "no such name", message: named("nxdomain.example."), rcode: nxDomain, shut: servFail, asks: true},
	{name: "no such record", message: named("empty.example."), shut: servFail, asks: true},
	{name: "tor fails", message: named("servfail.example."), rcode: servFail, shut: servFail, asks: true},
	{name: "tor refuses", message: named("refused.example."), rcode: servFail, shut: servFail, asks: true},
	{name: "tor truncates", message: named("truncated.example."), rcode: servFail, shut: servFail, asks: true},
	{name: "tor answers another name", message: named("other-question.example."), rcode: servFail, shut: servFail, asks: true},
	{name: "tor answers another type", message: named("other-type.example."), rcode: servFail, shut: servFail, asks: true},
	{name: "tor asks back", message: named("a-query.example."), rcode: servFail, shut: servFail, asks: true},
	{name: "name with every kind of byte", message: named(`\000\255 a\.b\"\\.example.`), shut: servFail, asks: true, answers: 1},
	{name: "localhost", message: named("a.LocalHost."), local: true, answers: 1},
	{name: "TXT of localhost", message: packed(func(m *dns.Msg) {
		m.Question[0] = dns.Question{Name: "localhost.", Qtype: dns.TypeTXT, Qclass: dns.ClassINET}
	}), local: true},
	{name: "canary of Firefox", message: named("use-application-dns.NET."), local: true, rcode: nxDomain, shut: nxDomain},
	{name: "canary of iCloud", message: named("mask.icloud.com."), local: true, rcode: nxDomain, shut: nxDomain},
	{name: "canary of iCloud, TCP", message: named("mask-h2.icloud.com."), local: true, rcode: nxDomain, shut: nxDomain},
	{name: "no canary", message: named("a.mask.icloud.com."), shut: servFail, asks: true, answers: 1},
	{name: "discovery of resolvers", message: packed(func(m *dns.Msg) {
		m.Question[0] = dns.Question{Name: "_dns.resolver.arpa.", Qtype: dns.TypeSVCB, Qclass: dns.ClassINET}
	}), shut: servFail},
	{name: "address of resolver.arpa", message: named("resolver.arpa."), local: true, rcode: nxDomain, shut: nxDomain},
	{name: "response", message: packed(func(m *dns.Msg) { m.Response = true }), ignored: true},
	{name: "short", message: func() []byte { return []byte{1, 2, 3} }, ignored: true},
	{name: "empty", message: func() []byte { return nil }, ignored: true},
}

// TestJudgeRulesWithoutAskingAnyone checks what is known before tor is asked.
func TestJudgeRulesWithoutAskingAnyone(t *testing.T) {
	for _, c := range ruleCases {
		for _, open := range []bool{true, false} {
			r := judge(c.message(), open, names{})
			if c.ignored {
				if r.reply != nil {
					t.Errorf("%s: is answered", c.name)
				}
				continue
			}
			want := c.shut
			if open {
				want = c.rcode
			}
			if asks := c.asks && open; r.ask != asks {
				t.Errorf("%s, gate open %v: asks tor: %v", c.name, open, r.ask)
			}
			if !r.ask && r.reply.Rcode != want {
				t.Errorf("%s, gate open %v: %s, want %s", c.name, open, dns.RcodeToString[r.reply.Rcode], dns.RcodeToString[want])
			}
			if r.size < dns.MinMsgSize || r.size > udpPayload {
				t.Errorf("%s: would send %d bytes by UDP", c.name, r.size)
			}
		}
	}
}

func TestRulingThatCannotBePackedIsAFailure(t *testing.T) {
	r := judge(typed(dns.TypeMX)(), true, names{})
	r.reply.Answer = []dns.RR{&dns.A{}} // no name
	r.reply.Question[0].Name = string(make([]byte, 300))
	var got dns.Msg
	must(t, got.Unpack(r.pack(true)))
	if got.Rcode != servFail || got.Id != 0xbeef || !got.Response {
		t.Errorf("got %v", &got)
	}
}
