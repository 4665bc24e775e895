package bench

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/bench/rig"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/loader"
	"github.com/torbpf/torbpf/nft"
)

// perRound is how many connections one machine sets up before the next has its turn.
const perRound = 200

// seedRules do for a client what those of networking.tor do: exemptions, DNS and reserved
// space first, then TCP to TransPort; established, reserved and exempt pass the filter.
const seedRules = `
define reserved = { 0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, 192.0.0.0/24,
	192.0.2.0/24, 192.88.99.0/24, 192.168.0.0/16, 198.18.0.0/15, 198.51.100.0/24, 203.0.113.0/24, 224.0.0.0/4, 240.0.0.0/4 }
table inet tor_client {
	chain nat {
		type nat hook output priority -100;
		oifname "lo" return
		ip daddr 127.0.0.0/8 return
		meta skuid { 65532, 65533 } return
		udp dport 53 redirect to :9053
		ip daddr $reserved return
		meta l4proto tcp redirect to :9040
	}
	chain filter {
		type filter hook output priority 0; policy drop;
		ct state established,related accept
		oifname "lo" accept
		ip daddr 127.0.0.0/8 accept
		meta skuid { 65532, 65533 } accept
		ip daddr $reserved accept
		udp dport { 123, 443 } drop
		log prefix "tor-drop: " drop
	}
}
`

// BenchmarkConnectionSetup has a program of a machine in client mode connect to a public
// address, with a listener in the place of TransPort, beside one whose nftables rules are
// those of networking.tor and one that connects to the listener without any. They take
// turns; reported are the medians of the time for socket, connect, accept and both closes.
func BenchmarkConnectionSetup(b *testing.B) {
	machines := []*machine{
		{name: "loopback", to: netip.MustParseAddr("127.0.0.1"), prepare: func(testing.TB) error { return nil }},
		{name: "seed", to: public, prepare: loadSeed},
		{name: "torbpf", to: public, prepare: attachClient},
	}
	for _, m := range machines {
		if err := m.boot(b); err != nil {
			b.Fatalf("%s: %v", m.name, err)
		}
	}
	for b.Loop() {
		for _, m := range machines {
			if err := m.do(m.connect); err != nil {
				b.Fatalf("%s: %v", m.name, err)
			}
		}
	}
	for _, m := range machines {
		b.ReportMetric(float64(m.median().Nanoseconds()), "ns/"+m.name)
	}
	b.ReportMetric(float64(machines[2].median())/float64(machines[1].median()), "torbpf/seed")
	b.ReportMetric(0, "ns/op") // of a round of all: says nothing
}

// machine is a network namespace with a thread that never leaves it.
type machine struct {
	name    string
	to      netip.Addr // port 9040 for the loopback address, else 80
	prepare func(testing.TB) error

	listener int
	samples  []time.Duration
	jobs     chan func() error
	done     chan error
}

func (m *machine) boot(b *testing.B) error {
	m.jobs, m.done = make(chan func() error), make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		for job := range m.jobs {
			m.done <- job()
		}
	}()
	b.Cleanup(func() { close(m.jobs) })
	return m.do(func() error {
		if err := errors.Join(unix.Unshare(unix.CLONE_NEWNET), m.network()); err != nil {
			return err
		}
		if err := m.listen(); err != nil {
			return err
		}
		return m.prepare(b)
	})
}

func (m *machine) do(job func() error) error {
	m.jobs <- job
	return <-m.done
}

// network is an address on an uplink, whose other end answers nobody.
func (m *machine) network() error {
	for _, command := range []string{
		"ip link set lo up", "ip link add eth0 type veth peer name far", "ip addr add 62.10.0.2/24 dev eth0",
		"ip link set eth0 up", "ip link set far up", "ip route add default via 62.10.0.1",
	} {
		words := strings.Fields(command)
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", command, err, out)
		}
	}
	_, err := netlink.LinkByName("eth0")
	return err
}

func (m *machine) listen() (err error) {
	if m.listener, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	return errors.Join(unix.Bind(m.listener, &unix.SockaddrInet4{Port: 9040}), unix.Listen(m.listener, perRound))
}

func (m *machine) connect() error {
	to := &unix.SockaddrInet4{Addr: m.to.As4(), Port: 80}
	if m.to.IsLoopback() {
		to.Port = 9040
	}
	begin := time.Now()
	for range perRound {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err := unix.Connect(fd, to); err != nil {
			return fmt.Errorf("connect: %w", err)
		}
		accepted, _, err := unix.Accept(m.listener)
		if err != nil {
			return err
		}
		if err := m.ask(accepted); err != nil {
			return err
		}
		// A reset leaves nothing in TIME_WAIT, of which thousands would gather.
		if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
			return err
		}
		if err := errors.Join(unix.Close(fd), unix.Close(accepted)); err != nil {
			return err
		}
	}
	m.samples = append(m.samples, time.Since(begin)/perRound)
	return nil
}

// ask does what tor does with each connection: it finds out where that was to go.
func (m *machine) ask(accepted int) error {
	if m.to.IsLoopback() {
		return nil
	}
	const original = 80 // SO_ORIGINAL_DST, of which the address is in place of the group
	to, err := unix.GetsockoptIPv6Mreq(accepted, unix.SOL_IP, original)
	if err != nil {
		return fmt.Errorf("ask where a connection was to go: %w", err)
	}
	if addr := netip.AddrFrom4([4]byte(to.Multiaddr[4:8])); addr != m.to {
		return fmt.Errorf("a connection to %v was taken for one to %v", m.to, addr)
	}
	return nil
}

func (m *machine) median() time.Duration {
	slices.Sort(m.samples)
	return m.samples[len(m.samples)/2]
}

func loadSeed(testing.TB) error {
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(seedRules)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("load rules: %w: %s", err, out)
	}
	return nil
}

// attachClient is attach --client without tor, with the gate open.
func attachClient(tb testing.TB) error {
	facts, err := host.Read()
	if err != nil {
		return err
	}
	cfg := config.Default()
	cfg.Client.Enable = true
	if facts.TorGroup, err = ownGroup(); err != nil {
		return err
	}
	facts.Own = []plan.Identity{{Kind: config.KindUser, User: 65533, Policy: config.PolicyDirect, Rule: -1}}
	p, err := plan.Make(cfg, facts)
	if err != nil {
		return err
	}
	root := filepath.Join(tb.TempDir(), "bpf")
	mounted, err := loader.Mount(root)
	if err != nil {
		return err
	}
	d := loader.Open(loader.Options{Root: mounted, Namespace: "bench"})
	tb.Cleanup(func() {
		if err := errors.Join(d.Remove(), loader.Unmount(root)); err != nil {
			tb.Error(err)
		}
	})
	if err := nft.Apply(p); err != nil {
		return err
	}
	return rig.Serve(d, p)
}

// ownGroup is the control group of this process, and of the listener.
func ownGroup() (string, error) {
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(groups)) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			return strings.TrimSpace(path), nil
		}
	}
	return "", errors.New("this process is in no control group of version 2")
}
