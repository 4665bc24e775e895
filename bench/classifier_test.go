// Package bench measures. It has no tests that pass or fail by time: figures
// of one machine and one run are only worth their ratios.
//
//	sudo go test -run '^$' -bench . ./bench
package bench

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/loader"
	"github.com/torbpf/torbpf/testnet"
)

// repeat is how often the kernel runs the program for one system call.
const repeat = 10_000

var (
	client = netip.MustParseAddr("192.168.50.11")
	direct = netip.MustParseAddr("51.21.0.80")
	public = netip.MustParseAddr("51.20.0.80")
)

// BenchmarkClassifier runs the LAN program over one packet of each kind and
// reports the kernel's own time for it, in nanoseconds.
func BenchmarkClassifier(b *testing.B) {
	program := lanProgram(b, nil)
	for _, kind := range []struct {
		name   string
		packet []byte
	}{
		{"tor", testnet.TCPSegment(from(40000), to(public, 443), testnet.FlagACK, 1, 1, nil)},
		{"direct", testnet.UDPDatagram(from(40000), to(direct, 5000), make([]byte, 22))},
		{"router", testnet.TCPSegment(from(40000), to(testnet.LANRouter4, 22), testnet.FlagACK, 1, 1, nil)},
		{"dns", query("www.example.com", dns.TypeA)},
		{"dns-local", query("printer.lan", dns.TypeA)},
		{"dns-reverse", query("1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.2.ip6.arpa", dns.TypePTR)},
		{"flood", testnet.UDPDatagram(from(40000), to(public, 5000), make([]byte, 22))},
	} {
		b.Run(kind.name, func(b *testing.B) { timePackets(b, program, [][]byte{kind.packet}) })
	}
}

// timePackets runs a program over packets in turn and reports the kernel's own time for
// one, in nanoseconds.
func timePackets(b *testing.B, program *ebpf.Program, packets [][]byte) {
	b.Helper()
	var frames [][]byte
	for _, packet := range packets {
		frames = append(frames, testnet.Frame(net.HardwareAddr{2, 0, 0, 0, 0, 1}, net.HardwareAddr{2, 0, 0, 0, 0, 2}, unix.ETH_P_IP, packet))
	}
	var spent int64
	for i := 0; b.Loop(); i++ {
		_, duration, err := program.Benchmark(frames[i%len(frames)], repeat/len(frames), nil)
		if err != nil {
			b.Fatal(err)
		}
		spent += duration.Nanoseconds()
	}
	b.ReportMetric(float64(spent)/float64(b.N), "ns/packet")
	b.ReportMetric(0, "ns/op") // of the system call: says nothing
}

// query is a DNS query to a public resolver. The gate is open, see lanProgram.
func query(name string, qtype uint16) []byte {
	packed, err := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype).SetEdns0(1232, false).Pack()
	if err != nil {
		panic(err) // the names above all pack
	}
	return testnet.UDPDatagram(from(40000), to(public, testnet.PortDNS), packed)
}

func from(port uint16) netip.AddrPort             { return netip.AddrPortFrom(client, port) }
func to(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

// lanProgram loads the datapath for a small plan, in a network namespace and
// below a bpffs of its own; with lists, nil for none. When it returns, nothing is attached
// or pinned any more.
func lanProgram(b *testing.B, lists *loader.Lists) *ebpf.Program {
	b.Helper()
	if os.Geteuid() != 0 {
		b.Fatal("loading BPF programs needs root: run the benchmarks with sudo")
	}
	runtime.LockOSThread() // and never unlocked: the namespace ends with the thread
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		b.Fatal(err)
	}
	mount := "/run/torbpf-bench"
	root, err := loader.Mount(mount)
	if err != nil {
		b.Fatal(err)
	}
	d := loader.Open(loader.Options{Root: root, Namespace: "bench"})
	const loopback = 1 // where a test run puts its packets
	subnet := netip.PrefixFrom(testnet.LANRouter4, 24).Masked()
	p := &plan.Plan{
		Mark:       plan.Mark{Shift: 24},
		LANs:       []plan.LAN{{Name: "lo", Index: loopback, Ethernet: true, Prefixes: []netip.Prefix{subnet, testnet.LANULA}}},
		Local:      []plan.LocalSubnet{{Prefix: subnet, Index: loopback, Name: "lo"}, {Prefix: testnet.LANULA, Index: loopback, Name: "lo"}},
		LocalAddrs: []netip.Addr{testnet.LANRouter4},
		Onion4:     netip.MustParsePrefix("10.192.0.0/10"),
		Inbound:    true,
	}
	p.Rules = config.DirectPrefixes(config.KindDestination, netip.PrefixFrom(direct, 32))
	if lists != nil {
		p.Lists = []plan.List{{Path: "bench"}}
		d.UseLists(lists)
	}
	g, err := d.ApplyGuards(p)
	if err != nil {
		b.Fatal(err)
	}
	if err := g.AttachLANs(); err != nil {
		b.Fatal(err)
	}
	gates, err := d.Gates()
	if err != nil {
		b.Fatal(err)
	}
	defer gates.Close()
	if err := gates.Put(uint32(0), abi.DatapathGate{Open: 1}); err != nil {
		b.Fatal(err)
	}
	program, err := ebpf.LoadPinnedProgram(d.Dir()+"/programs/torbpf_lan", nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { program.Close() })
	if err := errors.Join(g.Close(), d.Remove(), loader.Unmount(mount)); err != nil {
		b.Fatal(err)
	}
	return program
}
