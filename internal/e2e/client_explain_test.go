package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/internal/router"
	"github.com/torbpf/torbpf/testnet"
)

// ownFlow is something that a speaker of this machine begins.
type ownFlow struct {
	order string // of the speaker's: get, try or ask
	proto string
	to    netip.AddrPort
}

// ownSender is who begins it, and how explain is told of him.
type ownSender struct {
	name  string
	s     *speaker
	flags []string
}

// foretold is what explain says of a flow of a sender's.
type foretold struct {
	ownFlow
	ownSender
	said router.Explanation
}

// fate is what has become of a flow in truth, in the words of verdicts. What takes an excluded
// interface is direct to who looks from outside.
func (f ownFlow) fate(lab *testnet.Lab, s *speaker, name string) string {
	own := map[netip.Addr]bool{testnet.WANRouter4: true, testnet.WANRouter6: true}
	switch f.order {
	case "get":
		saw, err := s.say("get %v", f.to.Addr())
		source, parseErr := netip.ParseAddr(saw)
		switch {
		case err != nil:
			return "refused"
		case parseErr == nil && lab.Tor != nil && lab.Tor.IsExit(source):
			return "tor"
		case parseErr == nil && own[source]:
			return "direct"
		}
		return "seen as " + saw
	case "ask":
		if _, err := s.say("ask %v %s", f.to, name); err != nil {
			return "refused"
		}
		for _, q := range lab.DNS.QueriesFor(name) {
			if own[q.Source.Addr()] {
				return "direct"
			}
		}
		return "resolver"
	}
	_, err := s.say("try %s %v", f.proto, f.to)
	switch private := f.to.Addr().IsPrivate() || f.to.Addr().IsLoopback(); {
	case err != nil:
		return "refused"
	case private:
		return "local"
	}
	return "direct"
}

// explainOwn asks about a flow, in JSON.
func explainOwn(t *testing.T, lab *testnet.Lab, f ownFlow, flags ...string) router.Explanation {
	t.Helper()
	args := append([]string{"explain", "--json", "--own", "--to", f.to.Addr().String(), "--proto", f.proto, "--dport", fmt.Sprint(f.to.Port())}, flags...)
	var e router.Explanation
	if err := json.Unmarshal([]byte(mustTorbpf(t, lab, args...).stdout), &e); err != nil {
		t.Fatal(err)
	}
	return e
}

// mustForetell asks about each flow of each sender, of which nobody outside hears and nothing
// is counted, and then has it begun.
func mustForetell(t *testing.T, lab *testnet.Lab, flows []ownFlow, senders []ownSender) {
	t.Helper()
	capture := captureWAN(t, lab)
	before := ownTraffic(t, lab)
	var all []foretold
	for _, who := range senders {
		for _, f := range flows {
			all = append(all, foretold{f, who, explainOwn(t, lab, f, who.flags...)})
		}
	}
	checkNoLeaks(t, capture)
	after := ownTraffic(t, lab)
	for _, fate := range []string{"tor", "direct", "refused"} { // the kernel may look for neighbours meanwhile
		if before.OwnTraffic[fate] != after.OwnTraffic[fate] {
			t.Errorf("explanations were counted as %s: %v became %v", fate, before.OwnTraffic[fate], after.OwnTraffic[fate])
		}
	}
	met := make(map[string]int)
	for i, f := range all {
		told := f.said.Verdict
		if told == "via" {
			told = "direct"
		}
		if told == "direct" && f.to.Addr().IsPrivate() { // and so is the way there
			told = "local"
		}
		if got := f.fate(lab, f.s, fmt.Sprintf("told-%d-%d.%s", len(all), i, testnet.Zone)); got != told {
			t.Errorf("%s: %s %s %v: explained as %s, %s (%s), but it was %s", f.name, f.order, f.proto, f.to, f.said.Verdict, f.said.Reason, f.said.Decided, got)
		}
		met[f.said.Reason]++
	}
	t.Logf("%d flows: %v", len(all), met)
}

// ownFlows are of each kind that a program may begin. An echo server of client1's stands for
// a neighbour.
func ownFlows(t *testing.T, lab *testnet.Lab) []ownFlow {
	t.Helper()
	neighbour := at(lab.Client1.IPv4, 4242)
	var l net.Listener
	err := lab.Client1.Do(func() (err error) {
		l, err = net.Listen("tcp", neighbour.String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("hello")) // who asked sees whether it came
			_ = conn.Close()
		}
	}()
	return []ownFlow{
		{"get", "tcp", at(testnet.Web4, 80)}, {"get", "tcp", at(testnet.Web6, 80)}, {"get", "tcp", at(testnet.Other4, 80)},
		{"try", "udp", at(testnet.Web4, testnet.PortHTTPS)}, {"try", "udp", at(testnet.Web6, testnet.PortEcho)}, {"try", "udp", at(testnet.Other4, testnet.PortHTTPS)},
		{"ask", "udp", at(testnet.PublicResolver4, testnet.PortDNS)}, {"ask", "udp", at(testnet.Resolver4, testnet.PortDNS)},
		{"try", "tcp", neighbour},
	}
}

// TestWhatExplainSaysBecomesOfThisMachinesOwn: for each kind of flow and of sender what explain
// has said is what happens, as rules for destinations, ports, marks, interfaces and senders
// come; the explanations themselves send nothing.
func TestWhatExplainSaysBecomesOfThisMachinesOwn(t *testing.T) {
	lab := torLab(t)
	attach(t, lab, "--client")
	flows := ownFlows(t, lab)
	file := speakerIn(t, lab, "told-speaker")
	grouped := startSpeaker(t, lab, someone, "")
	group := joinGroup(t, grouped)
	anybody, marked := startSpeaker(t, lab, someone, ""), startSpeaker(t, lab, 0, "")
	byTor := execSpeaker(t, lab, []string{"--tor", "--config", configuration(t, lab, "[client]\nenable = true")})
	direct := execSpeaker(t, lab, []string{"--direct"})
	byTor.must(t, "serve udp 127.0.0.1:4299") // they run by now
	direct.must(t, "serve udp 127.0.0.1:4298")
	groups := make(map[string]string)
	for _, e := range ownTraffic(t, lab).Exec {
		groups[string(e.Policy)] = e.Cgroup
	}
	senders := []ownSender{
		{"exec --tor", byTor, []string{"--cgroup", groups["tor"]}},
		{"exec --direct", direct, []string{"--cgroup", groups["direct"]}},
		{"anybody", anybody, nil},
		{"a process", anybody, []string{"--pid", fmt.Sprint(anybody.cmd.Process.Pid)}},
		{"a user", startSpeaker(t, lab, excludedUser, ""), []string{"--user", fmt.Sprint(excludedUser)}},
		{"a program", startSpeaker(t, lab, someone, file), []string{"--program", file, "--user", fmt.Sprint(someone)}},
		{"a control group", grouped, []string{"--cgroup", group}},
	}
	t.Run("without rules", func(t *testing.T) { mustForetell(t, lab, flows, senders) })
	mustTorbpf(t, lab, "exclude", "add", "--user", fmt.Sprint(excludedUser))
	mustTorbpf(t, lab, "exclude", "add", "--program", file)
	mustTorbpf(t, lab, "exclude", "add", "--cgroup", group, "--policy", "tor")
	mustTorbpf(t, lab, "exclude", "add", "--client", other4, "--for", "1h")
	mustTorbpf(t, lab, "exclude", "add", "--client", "--port", "7/udp", "53/udp@"+testnet.PublicResolver4.String())
	t.Run("senders, destinations and ports", func(t *testing.T) { mustForetell(t, lab, flows, senders) })
	mustTorbpf(t, lab, "exclude", "add", "--client", "--mark", "0x200/0xff00")
	marked.must(t, "mark 0x235")
	senders = append(senders, ownSender{"a mark", marked, []string{"--user", "0", "--mark", "0x235"}})
	t.Run("marks", func(t *testing.T) { mustForetell(t, lab, flows, senders[5:]) })
	mustTorbpf(t, lab, "exclude", "add", "--client", "--interface", wan, "--force")
	t.Run("an interface", func(t *testing.T) { mustForetell(t, lab, flows, slices.Concat(senders[:1], senders[2:4], senders[5:])) })
}

// TestWhatExplainSaysOfThisMachinesOwnWhileTorIsNotReady is what happens then.
func TestWhatExplainSaysOfThisMachinesOwnWhileTorIsNotReady(t *testing.T) {
	lab := clientLab(t)
	flows := ownFlows(t, lab)
	anybody := startSpeaker(t, lab, someone, "")
	mustForetell(t, lab, flows, []ownSender{{"anybody", anybody, nil}})
	e := explainOwn(t, lab, flows[0])
	if e.Verdict != "refused" || e.Reason != "tor-not-ready" || e.Ready == nil || e.Ready.Verdict != "tor" || e.Ready.Reason != "tcp" {
		t.Errorf("explained as %+v", e)
	}
}

// ownWords splits a command line of explain.
func ownWords(line string) []string { return append([]string{"--own"}, strings.Fields(line)...) }

// TestExplainOwn: what decides, what follows, and what to type; and what is typed does it.
func TestExplainOwn(t *testing.T) {
	lab := clientLab(t)
	checkExplained(t, lab,
		asked{ownWords("--to 1.1.1.1"), []string{"1.1.1.1:443, tcp, by this machine itself\n", "verdict    refused", "tor-not-ready", "once Tor is ready: tor, tcp", "no rule is about it", "a reset: connection refused",
			"once Tor is ready: connect() itself leads it to tor's TransPort, 9040", "sudo torbpf exclude add --client --port 443/tcp@1.1.1.1", "sudo torbpf exclude add --client 1.1.1.1\n"}},
		asked{ownWords("--to 1.1.1.1 --proto udp --dport 443 --user 4711"), []string{"user 4711", "refused", "quic", "operation not permitted", "sudo torbpf exclude add --user 4711"}},
		asked{ownWords("--to 1.1.1.1 --proto icmp"), []string{"refused", "icmp", "--port icmp@1.1.1.1"}},
		asked{ownWords("--to 9.9.9.9 --proto udp --dport 53"), []string{"verdict    refused", "once Tor is ready: resolver, dns-udp", "DNS with SERVFAIL", "to the sentry, port "}},
		asked{ownWords("--to 10.193.1.1"), []string{"once Tor is ready: onion, onion-tcp", "in the .onion range", "nftables redirects it"}},
		asked{ownWords("--to 127.0.0.1 --dport 631"), []string{"verdict    local", "router-address", "it stays on this machine"}},
		asked{ownWords("--to 192.168.50.77 --proto udp --dport 9"), []string{"verdict    local", "local-subnet", "in the subnet 192.168.50.0/24 of eth1"}},
		asked{ownWords("--to 10.1.2.3"), []string{"once Tor is ready: tor, tcp", "Tor reaches no private address"}},
		asked{ownWords("--to 224.0.0.251 --proto udp --dport 5353"), []string{"verdict    local", "multicast"}},
	)
	mustTorbpf(t, lab, "exclude", "add", "--user", fmt.Sprint(excludedUser), "--comment", "the time")
	mustTorbpf(t, lab, "exclude", "add", "--client", "104.16.0.0/13", "--for", "1h")
	mustTorbpf(t, lab, "exclude", "add", "--client", "104.17.0.0/16", "--policy", "tor")
	mustTorbpf(t, lab, "exclude", "add", "--client", "--port", "22/tcp")
	checkExplained(t, lab,
		asked{ownWords("--to 1.1.1.1 --user 4712"), []string{"verdict    direct", "direct-source", "the rule user 4712 (direct), by exclude add: the time", "routes it by eth0 to 62.10.0.1 now", "sudo torbpf exclude del --user 4712"}},
		asked{ownWords("--to 104.16.1.1"), []string{"direct-destination", "the rule destination 104.16.0.0/13 (direct) until ", "that rule ends by itself", "exclude add --client 104.16.1.1 --policy tor", "exclude del --client 104.16.0.0/13",
			"nobody was named who sends it"}},
		asked{ownWords("--to 104.17.1.1"), []string{"once Tor is ready: tor, tcp", "the rule destination 104.17.0.0/16 (tor)", "exclude del --client 104.17.0.0/16"}},
		asked{ownWords("--to 1.1.1.1 --dport 22"), []string{"direct-port", "the rule port 22/tcp (direct)", "exclude add --client --port 22/tcp@1.1.1.1 --policy tor", "exclude del --client --port 22/tcp"}},
	)
	for _, want := range []struct{ before, after string }{{"quic", "direct-port"}, {"direct-port", "quic"}} {
		flow := ownFlow{"try", "udp", netip.MustParseAddrPort("1.1.1.1:443")}
		e := explainOwn(t, lab, flow)
		if e.Reason != want.before || len(e.Change) == 0 {
			t.Fatalf("explained as %+v, want the reason %s and advice", e, want.before)
		}
		mustTorbpf(t, lab, strings.Fields(e.Change[0].Command)[2:]...)
		if e = explainOwn(t, lab, flow); e.Reason != want.after {
			t.Errorf("after %s it is %s, want %s", e.Change[0].Command, e.Reason, want.after)
		}
	}
	t.Run("bad input", func(t *testing.T) { explainOwnBadInput(t, lab) })
	run(t, lab.Router, "nft", "flush", "chain", "inet", "torbpf", "client_tor")
	r := runTorbpf(t, lab, "explain", "--own", "--to", "1.1.1.1")
	if r.code != 1 || !strings.Contains(r.stderr, "nftables has not what was planned (chain client_tor has 0 rules instead of 2)") || !strings.Contains(r.stderr, "torbpf attach") {
		t.Errorf("of another table: %v", r)
	}
	mustTorbpf(t, lab, "detach", "--client")
}

func explainOwnBadInput(t *testing.T, lab *testnet.Lab) {
	for _, b := range []badInput{
		{name: "nothing", args: nil, says: []string{"which packet? give --to ADDRESS"}},
		{name: "a device as well", args: []string{"--to", "1.1.1.1", "--from", "192.168.50.11"}, says: []string{"--from is about what devices send"}},
		{name: "to be watched", args: []string{"--to", "1.1.1.1", "--watch"}, says: []string{"--watch is about what devices send"}},
		{name: "a name", args: []string{"--to", "bank.example"}, says: []string{"--to an address", "since that would be in clear", "--to RESOLVER"}},
		{name: "no port", args: []string{"--to", "1.1.1.1", "--proto", "udp"}, says: []string{"which port?"}},
		{name: "no user", args: []string{"--to", "1.1.1.1", "--user", "nobody-at-all"}, says: []string{"no such user"}},
		{name: "no program", args: []string{"--to", "1.1.1.1", "--program", "/nowhere"}, says: []string{"no such file"}},
		{name: "no control group", args: []string{"--to", "1.1.1.1", "--cgroup", "/nowhere"}, says: []string{"no such control group", "systemd-cgls"}},
		{name: "no process", args: []string{"--to", "1.1.1.1", "--pid", "4194305"}, says: []string{"--pid 4194305"}},
		{name: "a process and a user", args: []string{"--to", "1.1.1.1", "--pid", "1", "--user", "0"}, says: []string{"leave --user out"}},
		{name: "torbpf's own mark", args: []string{"--to", "1.1.1.1", "--mark", "0x1000000"}, says: []string{"bits of torbpf's own"}},
		{name: "no route", args: []string{"--to", "203.0.113.9", "--proto", "udp", "--dport", "9"}, says: []string{"no route leads to 203.0.113.9"},
			prepare: changed([]string{"ip route add unreachable 203.0.113.9"}, []string{"ip route del unreachable 203.0.113.9"})},
	} {
		t.Run(b.name, func(t *testing.T) {
			if b.prepare != nil {
				b.prepare(t, lab)
			}
			b.args, b.code = append([]string{"explain", "--own"}, b.args...), 2
			b.refused(t, runTorbpf(t, lab, b.args...))
		})
	}
	b := badInput{name: "a sender without --own", args: []string{"explain", "--to", "1.1.1.1", "--user", "0"}, code: 2, says: []string{"add --own"}}
	b.refused(t, runTorbpf(t, lab, b.args...))
}
