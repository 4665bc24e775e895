package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/router"
	"github.com/torbpf/torbpf/testnet"
)

// packet is what client1 sends.
func (a asking) packet(t *testing.T) []byte {
	t.Helper()
	to := netip.MustParseAddr(a.to)
	switch a.proto {
	case unix.IPPROTO_TCP:
		return testnet.TCPSegment(at(a.from, a.sport), at(to, a.dport), testnet.FlagSYN, 1, 0, nil)
	case unix.IPPROTO_UDP:
		payload := []byte("what becomes of this?")
		if name, kind, ok := strings.Cut(a.query, " "); ok {
			var err error
			if payload, err = new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.StringToType[kind]).Pack(); err != nil {
				t.Fatal(err)
			}
		}
		return testnet.UDPDatagram(at(a.from, a.sport), at(to, a.dport), payload)
	case unix.IPPROTO_ICMP:
		return testnet.ICMPEcho(a.from, to, a.sport, 1)
	}
	return testnet.IPPacket(a.from, to, a.proto, make([]byte, 8))
}

// question is how explain is asked about it.
func (a asking) question() []string {
	args := append([]string{"explain", "--json", "--from", a.from.String()}, a.flags...)
	if name, kind, ok := strings.Cut(a.query, " "); ok {
		if a.to == testnet.LANRouter4.String() {
			return append(args, "--to", name, "--type", kind)
		}
	}
	args = append(args, "--to", a.to, "--proto", strconv.Itoa(int(a.proto)))
	if a.proto == unix.IPPROTO_TCP || a.proto == unix.IPPROTO_UDP {
		args = append(args, "--sport", strconv.Itoa(int(a.sport)), "--dport", strconv.Itoa(int(a.dport)))
	}
	return args
}

// witness sees what becomes of packets.
type witness struct {
	lab    *testnet.Lab
	places map[string]*testnet.Capture
	client *testnet.Capture
}

// counts are the packets of the first LAN, by verdict and reason.
func (w *witness) counts(t *testing.T) map[string]uint64 {
	t.Helper()
	var status router.Status
	if err := json.Unmarshal([]byte(mustTorbpf(t, w.lab, "status", "--json").stdout), &status); err != nil {
		t.Fatal(err)
	}
	out := make(map[string]uint64)
	for _, c := range status.Counters {
		if c.Interface == lan {
			out[c.Verdict+" "+c.Reason] = c.Packets
		}
	}
	return out
}

// follow asks about a packet, sends it, and compares.
func (w *witness) follow(t *testing.T, a asking) {
	if a.given != nil {
		a.given(t, w.lab)
	}
	var said router.Explanation
	if err := json.Unmarshal([]byte(mustTorbpf(t, w.lab, a.question()...).stdout), &said); err != nil {
		t.Fatal(err)
	}
	if said.Reason != a.reason {
		t.Fatalf("explain says %s, %s", said.Verdict, said.Reason)
	}
	before := w.counts(t)
	w.client.Reset()
	for _, c := range w.places {
		c.Reset()
	}
	if err := testnet.SendRaw(w.lab.Client1, a.packet(t)); err != nil {
		t.Fatal(err)
	}
	w.counted(t, said.Judgement, before)
	w.forwarded(t, a, said.Verdict)
	eventually(t, torPatience, "what the device is told", func() error { return w.told(a, said) })
}

// unasked are the reasons of what a device says of itself, or of what it is told.
var unasked = []string{"local multicast", "local link-local", "local non-ip", "local router-address"}

func (w *witness) counted(t *testing.T, said router.Judgement, before map[string]uint64) {
	t.Helper()
	key := said.Verdict + " " + said.Reason
	eventually(t, patience, "the counter of "+key, func() error {
		if w.counts(t)[key] == before[key] {
			return fmt.Errorf("it is still %d", before[key])
		}
		return nil
	})
	for k, n := range w.counts(t) {
		if want := before[k]; n != want && k != key && !slices.Contains(unasked, k) || k == key && n != want+1 && !slices.Contains(unasked, k) {
			t.Errorf("%s: counted %d, was %d", k, n, want)
		}
	}
}

// forwarded checks that the packet is seen in the one place that it may get to.
func (w *witness) forwarded(t *testing.T, a asking, verdict string) {
	t.Helper()
	where := a.seen
	switch {
	case where != "":
	case verdict == "direct":
		where = seenWAN
	default:
		where = seenNowhere
	}
	if c := w.places[where]; c != nil {
		eventually(t, patience, "the packet on "+where, func() error {
			if found := slices.ContainsFunc(c.Packets(), a.isIt); !found {
				return fmt.Errorf("there is %v", c.Packets())
			}
			return nil
		})
	}
	if err := w.places[seenWAN].Sync(); err != nil {
		t.Fatal(err)
	}
	for place, c := range w.places {
		if i := slices.IndexFunc(c.Packets(), a.isIt); i >= 0 && place != where {
			t.Errorf("on %s: %v", place, c.Packets()[i])
		}
	}
}

// isIt recognizes the packet behind the router, whose address it may bear.
func (a asking) isIt(p testnet.Packet) bool {
	return p.Inbound && p.Dst.Addr().String() == a.to && p.Dst.Port() == a.dport && (p.Proto == protoNames[a.proto] || p.Proto == "icmpv6" && a.proto == unix.IPPROTO_ICMP)
}

var protoNames = map[uint8]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp", unix.IPPROTO_ICMP: "icmp", unix.IPPROTO_GRE: "ip-47"}

// told compares what the device gets with what explain says that it is told. What is
// forwarded may be answered by who gets it, which is not torbpf's word.
func (w *witness) told(a asking, said router.Explanation) error {
	var words []string
	for _, p := range w.client.Packets() {
		if word := a.answer(p); p.Inbound && word != "" {
			words = append(words, word)
		}
	}
	switch said.Verdict {
	case "tor", "onion", "dns", "resolver", "time":
		if !slices.Contains(words, "an answer from "+a.to) {
			return fmt.Errorf("nobody answers, but: %v", words)
		}
	case "refused":
		want := []string{said.Answer}
		if said.Answer == "" {
			want = nil
		}
		if !slices.Equal(words, want) {
			return fmt.Errorf("it is told %v, explain says %v", words, want)
		}
	}
	return nil
}

// answer puts a packet to the device into the words of explain, if it is one about this.
func (a asking) answer(p testnet.Packet) string {
	if q, ok := p.Quoted(); ok {
		if q.Dst.Addr().String() != a.to || q.Dst.Port() != a.dport {
			return ""
		}
		what := map[string]string{"icmp 3": "port unreachable", "icmp 13": "administratively prohibited", "icmpv6 4": "port unreachable", "icmpv6 1": "administratively prohibited"}
		return fmt.Sprintf("ICMP %s, from %s", what[fmt.Sprintf("%s %d", p.Proto, p.ICMPCode)], p.Src.Addr())
	}
	if p.Proto != protoNames[a.proto] || p.Src.Addr().String() != a.to || p.Src.Port() != a.dport || p.Dst != at(a.from, a.sport) {
		return ""
	}
	if p.TCPFlags&testnet.FlagRST != 0 {
		return "a reset, in the name of " + a.to
	}
	var m dns.Msg
	if a.query != "" && m.Unpack(p.Payload) == nil && len(m.Answer) == 0 && m.Rcode == dns.RcodeSuccess {
		return "DNS that there is no such record (NOERROR without data)"
	}
	return "an answer from " + a.to
}
