package sentry

import (
	"testing"

	"github.com/miekg/dns"
)

// FuzzJudge feeds anything to the handler: it must neither fall over nor answer
// what is no query, and what it sends must be a reply to what came in.
func FuzzJudge(f *testing.F) {
	for _, c := range ruleCases {
		f.Add(c.message(), true, true)
	}
	f.Fuzz(func(t *testing.T, message []byte, open, udp bool) {
		r := judge(message, open, names{})
		isQuery := len(message) >= headerBytes && message[2]&0x80 == 0
		if (r.reply != nil) != isQuery {
			t.Fatalf("answered: %v, a query: %v", r.reply != nil, isQuery)
		}
		if !isQuery {
			return
		}
		if r.ask {
			if len(r.reply.Question) != 1 || !open && r.who == tor {
				t.Fatal("asks without reason")
			}
			complete(r.reply, torAnswer(&dns.Msg{Question: r.reply.Question}))
		}
		reply := r.pack(udp)
		var got dns.Msg
		if err := got.Unpack(reply); err != nil {
			t.Fatalf("sends what cannot be read: %v\n%x", err, reply)
		}
		if !got.Response || reply[0] != message[0] || reply[1] != message[1] || got.Opcode != int(message[2]>>3)&0xf {
			t.Fatalf("sends no reply to this message: %v", &got)
		}
		if udp && len(reply) > udpPayload {
			t.Fatalf("sends %d bytes by UDP", len(reply))
		}
		if got.Rcode == dns.RcodeSuccess && !open && r.who == tor {
			t.Fatalf("claims to know something with the gate shut: %v", &got)
		}
	})
}
