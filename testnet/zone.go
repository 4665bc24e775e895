package testnet

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// zone holds the records of an authoritative server by lower-case name.
type zone struct {
	names map[string][]dns.RR
	soa   dns.RR
}

func newZone() (*zone, error) {
	text := fmt.Sprintf(`
%[1]s.          60 IN SOA   ns.%[1]s. root.%[1]s. 1 3600 600 86400 60
%[1]s.          60 IN NS    ns.%[1]s.
%[1]s.          60 IN MX    10 mail.%[1]s.
%[1]s.          60 IN TXT   "hello from testnet"
%[1]s.          60 IN A     %[2]s
%[1]s.          60 IN AAAA  %[3]s
*.%[1]s.        60 IN A     %[2]s
*.%[1]s.        60 IN AAAA  %[3]s
*.%[1]s.        60 IN TXT   "hello from testnet"
*.%[1]s.        60 IN MX    10 mail.%[1]s.
other.%[1]s.    60 IN A     %[4]s
other.%[1]s.    60 IN AAAA  %[5]s
v4only.%[1]s.   60 IN A     %[2]s
v6only.%[1]s.   60 IN AAAA  %[3]s
private.%[1]s.  60 IN A     192.168.50.12
short.%[1]s.     2 IN A     %[4]s
alias.%[1]s.    60 IN CNAME web.%[1]s.
_echo._tcp.%[1]s. 60 IN SRV 0 0 7 web.%[1]s.
`, Zone, Web4, Web6, Other4, Other6)
	text += ptrRecord(Web4, "web") + ptrRecord(Web6, "web") + ptrRecord(Other4, "other") + ptrRecord(Other6, "other")
	text += BigName + ". 60 IN TXT" + strings.Repeat(` "`+strings.Repeat("x", 250)+`"`, 20) + "\n"

	z := &zone{names: map[string][]dns.RR{}}
	parser := dns.NewZoneParser(strings.NewReader(text), "", "")
	for rr, ok := parser.Next(); ok; rr, ok = parser.Next() {
		name := strings.ToLower(rr.Header().Name)
		z.names[name] = append(z.names[name], rr)
		if rr.Header().Rrtype == dns.TypeSOA {
			z.soa = rr
		}
	}
	if err := parser.Err(); err != nil {
		return nil, fmt.Errorf("parse zone: %w", err)
	}
	return z, nil
}

func ptrRecord(addr netip.Addr, host string) string {
	reverse, err := dns.ReverseAddr(addr.String())
	if err != nil {
		return "" // the lab's own addresses always have one
	}
	return fmt.Sprintf("%s 60 IN PTR %s.%s.\n", reverse, host, Zone)
}

// answer is NXDOMAIN for names outside the zone, as a resolver of a small internet
// would say.
func (z *zone) answer(query *dns.Msg) *dns.Msg {
	reply := new(dns.Msg).SetReply(query)
	reply.Authoritative, reply.RecursionAvailable = true, true
	if opt := query.IsEdns0(); opt != nil {
		reply.SetEdns0(opt.UDPSize(), false)
	}
	if len(query.Question) != 1 {
		reply.Rcode = dns.RcodeFormatError
		return reply
	}
	question := query.Question[0]
	records, exists := z.lookup(question.Name)
	for _, rr := range records {
		if rr.Header().Rrtype == question.Qtype || rr.Header().Rrtype == dns.TypeCNAME {
			reply.Answer = append(reply.Answer, z.asked(rr, question.Name))
		}
		if cname, ok := rr.(*dns.CNAME); ok && question.Qtype != dns.TypeCNAME {
			reply.Answer = append(reply.Answer, z.follow(cname.Target, question.Qtype)...)
		}
	}
	if !exists {
		reply.Rcode = dns.RcodeNameError
	}
	if len(reply.Answer) == 0 {
		reply.Ns = []dns.RR{z.soa}
	}
	return reply
}

func (z *zone) lookup(name string) (records []dns.RR, exists bool) {
	name = strings.ToLower(name)
	if records, exists = z.names[name]; exists {
		return records, true
	}
	if dns.IsSubDomain(Zone+".", name) {
		return z.names["*."+Zone+"."], true
	}
	return nil, false
}

func (z *zone) follow(target string, qtype uint16) []dns.RR {
	var found []dns.RR
	records, _ := z.lookup(target)
	for _, rr := range records {
		if rr.Header().Rrtype == qtype {
			found = append(found, z.asked(rr, target))
		}
	}
	return found
}

// asked returns the record under the name that was asked for, wildcard resolved
// and case kept: exits check both.
func (z *zone) asked(rr dns.RR, name string) dns.RR {
	rr = dns.Copy(rr)
	rr.Header().Name = name
	return rr
}
