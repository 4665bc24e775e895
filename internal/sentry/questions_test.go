package sentry

import (
	"net"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

func TestFastClientWaitsForItsOwnQuestions(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	r := newResolver(t, quick(func(l *limits) { l.pipelined, l.attempt = 2, fast }))
	r.dnsport.set(func(*dns.Msg) *dns.Msg { return nil })
	conn := r.connect(t, link{"tcp", device4, router4})
	const queries = 10
	for range queries {
		transmit(t, conn, typed(dns.TypeA)())
	}
	for i := range queries {
		if reply := receive(t, conn); reply.Rcode != servFail {
			t.Errorf("got %v", reply)
		}
		// Each answered one was asked twice, and up to two more are under way,
		// or four when their places have just changed hands.
		if asked := len(r.dnsport.sources()); asked > 2*(i+1+4) {
			t.Errorf("tor was asked %d times before answer %d", asked, i+1)
		}
	}
}

func TestPipelinedQueriesAreAnsweredInParallelAndAfterTheClientsEnd(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	r := newResolver(t, quick(nil))
	// tor never answers the first question; the others must not wait for it.
	r.dnsport.set(func(q *dns.Msg) *dns.Msg {
		if strings.HasPrefix(q.Question[0].Name, "slow") {
			return nil
		}
		return torAnswer(q)
	})
	conn := r.connect(t, link{"tcp", device4, router4})
	names := []string{"slow.example.", "one.example.", "two.example.", "three.example."}
	wanted := make(map[uint16]string)
	for _, name := range names {
		query := question(name, dns.TypeA)
		wanted[query.Id] = name
		b, err := query.Pack()
		must(t, err)
		transmit(t, conn, b)
	}
	must(t, conn.(*net.TCPConn).CloseWrite())
	for i := range names {
		reply := receive(t, conn)
		if wanted[reply.Id] != reply.Question[0].Name {
			t.Errorf("reply to %q has the id of %q", reply.Question[0].Name, wanted[reply.Id])
		}
		delete(wanted, reply.Id)
		isSlow := reply.Question[0].Name == names[0]
		if isSlow != (i == len(names)-1) || isSlow != (reply.Rcode == servFail) {
			t.Errorf("reply %d: %v", i, reply)
		}
	}
	_ = wantEnded(t, conn, "after the last reply")
}

func TestQuestionsInFlightAreBounded(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	r := newResolver(t, quick(func(l *limits) { l.questions, l.questionsPerPeer, l.attempt = 3, 2, 2*time.Second }))
	r.dnsport.set(func(*dns.Msg) *dns.Msg { return nil })
	query := typed(dns.TypeA)()
	fill := func(from netip.Addr, n int) {
		for range n {
			transmit(t, r.connect(t, link{"udp", from, router4}), query)
		}
	}
	fill(device4, 2)
	eventually(t, "two questions are in flight", func() bool { return r.questions.inUse() == 2 })
	for _, network := range []string{"udp", "tcp"} {
		conn := r.connect(t, link{network, device4, router4})
		start := time.Now()
		transmit(t, conn, query)
		if reply := receive(t, conn); reply.Rcode != servFail || time.Since(start) > time.Second {
			t.Errorf("%s: %v after %v", network, reply, time.Since(start))
		}
	}
	fill(another4, 1)
	eventually(t, "three questions are in flight", func() bool { return r.questions.inUse() == 3 })
	conn := r.connect(t, link{"udp", another4, router4})
	transmit(t, conn, query)
	if reply := receive(t, conn); reply.Rcode != servFail {
		t.Errorf("the fourth in all: %v", reply)
	}
	eventually(t, "all are given up", func() bool { return r.questions.inUse() == 0 })
}

func TestLostQuestionIsAskedAgain(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	r := newResolver(t, quick(func(l *limits) { l.attempt = fast }))
	asked := 0
	r.dnsport.set(func(q *dns.Msg) *dns.Msg {
		if asked++; asked == 1 {
			return nil
		}
		return torAnswer(q)
	})
	reply := ask(t, r.connect(t, link{"udp", device4, router4}), question("www.example.", dns.TypeA))
	if reply.Rcode != ok || len(r.dnsport.sources()) != 2 {
		t.Errorf("asked %d times: %v", len(r.dnsport.sources()), reply)
	}
}

func TestStoppedOrDeadTorIsAFailureInBoundedTime(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	r := newResolver(t, quick(func(l *limits) { l.attempt = fast }))
	must(t, r.dnsport.conn.Close()) // a real process takes its place
	tor := exec.Command("/proc/self/exe", roleDNSPort, strconv.Itoa(dnsPort))
	stdout, err := tor.StdoutPipe()
	must(t, err)
	must(t, tor.Start())
	if _, err := stdout.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	want := func(when string, rcode int) {
		t.Helper()
		for _, l := range links {
			conn := r.connect(t, l)
			within(t, when, func() {
				if reply := ask(t, conn, question("www.example.", dns.TypeA)); reply.Rcode != rcode {
					t.Errorf("%s, %v: %v", when, l, reply)
				}
			})
		}
	}
	want("running", ok)
	freeze(t, tor.Process.Pid)
	want("stopped", servFail)
	must(t, tor.Process.Signal(unix.SIGCONT))
	want("going on", ok)
	must(t, tor.Process.Kill())
	_ = tor.Wait() // it was killed
	want("dead", servFail)
}
