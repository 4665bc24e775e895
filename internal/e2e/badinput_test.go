package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/torbpf/torbpf/testnet"
)

// badInput is a command that must end with an error, leaving the host alone.
type badInput struct {
	name    string
	prepare func(*testing.T, *testnet.Lab) // makes the host bad; undone by a cleanup
	args    []string
	code    int
	says    []string // what, why and the next step, anywhere in stderr
}

// check runs the command and compares the host before and after.
func (b badInput) check(t *testing.T, lab *testnet.Lab) {
	t.Helper()
	if b.prepare != nil {
		b.prepare(t, lab)
	}
	before := takeSnapshot(t, lab)
	b.refused(t, runTorbpf(t, lab, b.args...))
	before.checkSame(t, takeSnapshot(t, lab))
}

// refused checks how a command ended.
func (b badInput) refused(t *testing.T, r result) {
	t.Helper()
	if r.code != b.code {
		t.Errorf("torbpf %v: not exit code %d: %v", b.args, b.code, r)
	}
	if r.stdout != "" {
		t.Errorf("torbpf %v: an error goes to stderr, not to stdout: %q", b.args, r.stdout)
	}
	for _, want := range b.says {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("torbpf %v: does not say %q: %s", b.args, want, r.stderr)
		}
	}
}

// freshLab is a lab without Tor in whose router nothing is left by a namespace
// that ended attached and had the same number.
func freshLab(t *testing.T) *testnet.Lab {
	t.Helper()
	lab := plainLab(t, testnet.Options{})
	if r := runTorbpf(t, lab, "detach", "--all"); r.code != 0 && r.code != 3 {
		t.Fatalf("detach --all: %v", r)
	}
	return lab
}

// changed changes the router by commands, and undoes that by others.
func changed(do, undo []string) func(*testing.T, *testnet.Lab) {
	return func(t *testing.T, lab *testnet.Lab) {
		t.Helper()
		t.Cleanup(func() {
			for _, command := range undo {
				words := strings.Fields(command)
				if _, err := lab.Router.Run(context.Background(), words[0], words[1:]...); err != nil {
					t.Error(err)
				}
			}
		})
		for _, command := range do {
			words := strings.Fields(command)
			run(t, lab.Router, words[0], words[1:]...)
		}
	}
}

// badCommands cannot be understood, whatever the host.
var badCommands = []badInput{
	{name: "unknown command", args: []string{"atach", lan}, code: 2,
		says: []string{`unknown command "atach"`, "did you mean attach or detach?", "see `torbpf --help`"}},
	{name: "unknown command of exclude", args: []string{"exclude", "insert"}, code: 2,
		says: []string{`unknown command "insert"`, "see `torbpf exclude --help`"}},
	{name: "unknown flag", args: []string{"attach", lan, "--colour"}, code: 2,
		says: []string{"unknown flag: --colour", "see `torbpf attach --help`"}},
	{name: "flag without its value", args: []string{"attach", lan, "--torrc"}, code: 2,
		says: []string{"flag needs an argument: --torrc", "see `torbpf attach --help`"}},
	{name: "flag with a bad value", args: []string{"attach", lan, "--timeout", "soon"}, code: 2,
		says: []string{`invalid argument "soon" for "--timeout"`, "see `torbpf attach --help`"}},
	{name: "bad mode", args: []string{"attach", lan, "--tor", "none"}, code: 2,
		says: []string{`tor.mode: "none" is none of managed, system`}},
	{name: "mark bits in between", args: []string{"attach", lan, "--mark-shift", "3"}, code: 2,
		says: []string{"mark_shift: 3", "use 0, 4, 8, 12, 16, 20 or 24"}},
	{name: "one port for two", args: []string{"attach", lan, "--dns-port", "9040"}, code: 2,
		says: []string{"tor.dns_port: is 9040 like tor.trans_port", "choose another"}},
	{name: "attach what?", args: []string{"attach"}, code: 2,
		says: []string{"no interface given", "torbpf attach eth1"}},
	{name: "detach what?", args: []string{"detach"}, code: 2,
		says: []string{"name the interfaces, or --client, or --all", "see `torbpf detach --help`"}},
	{name: "detach all and one", args: []string{"detach", "--all", lan}, code: 2,
		says: []string{"name the interfaces, or --client, or --all"}},
	{name: "exclude how?", args: []string{"exclude"}, code: 2,
		says: []string{"add, del or list?", "see `torbpf exclude --help`"}},
	{name: "exclude what?", args: []string{"exclude", "add"}, code: 2,
		says: []string{"which? give prefixes", "see `torbpf exclude add --help`"}},
	{name: "exclude two kinds at once", args: []string{"exclude", "add", "--source", "--mark", "0x100"}, code: 2,
		says: []string{"--source", "--mark", "see `torbpf exclude add --help`"}},
	{name: "status of what?", args: []string{"status", lan}, code: 2,
		says: []string{"torbpf status takes no arguments, and got eth1", "see `torbpf status --help`"}},
	{name: "help for nothing there is", args: []string{"help", "nosuch"}, code: 2,
		says: []string{`unknown command "nosuch"`, "see `torbpf --help`"}},
	{name: "completion for another shell", args: []string{"completion", "tcsh"}, code: 2,
		says: []string{`unknown command "tcsh"`, "see `torbpf completion --help`"}},
	{name: "flag with a number that is none", args: []string{"attach", lan, "--trans-port", "many"}, code: 2,
		says: []string{`invalid argument "many" for "--trans-port": write a number from 0 to 65535`}},
	{name: "flag with a number that is too large", args: []string{"attach", lan, "--mark-shift", "300"}, code: 2,
		says: []string{`invalid argument "300" for "--mark-shift": write a number from 0 to 255`}},
	{name: "a time without a unit", args: []string{"exclude", "add", "9.9.9.9", "--for", "10"}, code: 2,
		says: []string{`invalid argument "10" for "--for": write a number and its unit, such as 30m, 12h or 7d`}},
	{name: "two names for a device", args: []string{"device", "name", "a", "b", "c"}, code: 2,
		says: []string{"give the device, and what to call it", "see `torbpf device name --help`"}},
	{name: "interfaces in one word", args: []string{"attach", "eth1,eth2"}, code: 2,
		says: []string{"write interfaces apart: torbpf attach eth1 eth2"}},
	{name: "a name for a destination", args: []string{"exclude", "add", "bank.example"}, code: 2,
		says: []string{"not an address or prefix", "did you mean --domain bank.example?"}},
	{name: "a port for a destination", args: []string{"exclude", "add", "22/tcp"}, code: 2, says: []string{"did you mean --port 22/tcp?"}},
	{name: "a protocol for a destination", args: []string{"exclude", "add", "icmp"}, code: 2, says: []string{"did you mean --port icmp?"}},
	{name: "a mark for a destination", args: []string{"exclude", "add", "0x100"}, code: 2, says: []string{"did you mean --mark 0x100?"}},
	{name: "a device for a destination", args: []string{"exclude", "add", "02:00:5e:10:00:01"}, code: 2,
		says: []string{"did you mean --device 02:00:5e:10:00:01?"}},
	{name: "a file for a destination", args: []string{"exclude", "add", "/etc/de.txt"}, code: 2, says: []string{"did you mean --list /etc/de.txt?"}},
	{name: "an interface for a destination", args: []string{"exclude", "add", "wg0"}, code: 2, says: []string{"did you mean --interface wg0?"}},
	{name: "a configuration that is not there", args: []string{"check-config", "--config", "/nonexistent.toml"}, code: 1,
		says: []string{"/nonexistent.toml: no such file", "torbpf enable writes one", "--config FILE"}},
	{name: "prefix too long", args: []string{"attach", lan, "--exclude", "104.16.0.0/33"}, code: 2,
		says: []string{`parse "104.16.0.0/33": not an address or prefix`, "write 192.0.2.7, 104.16.0.0/13"}},
	{name: "a name for a prefix", args: []string{"attach", lan, "--exclude-source", "printer"}, code: 2,
		says: []string{`parse "printer": not an address or prefix`}},
	{name: "host bits", args: []string{"attach", lan, "--exclude", "104.17.0.1/13"}, code: 2,
		says: []string{"bits are set beyond the first 13", "did you mean 104.16.0.0/13?"}},
	{name: "host bits to exclude add", args: []string{"exclude", "add", "104.17.0.1/13"}, code: 2,
		says: []string{"did you mean 104.16.0.0/13?"}},
	{name: "everything excluded", args: []string{"attach", lan, "--exclude", "::/0"}, code: 2,
		says: []string{"::/0 would let everything past Tor", "insist with --force"}},
	{name: "mark of everything", args: []string{"attach", lan, "--exclude-mark", "0"}, code: 2,
		says: []string{"a zero mark", "mark the packets meant and name that mark"}},
	{name: "a mark of torbpf's own bits", args: []string{"attach", lan, "--exclude-mark", "0x1000000"}, code: 2,
		says: []string{"mark bits 0xff000000 are used by the exempt mark 0x1000000", "--mark-shift 16"}},
	{name: "a source where there are no devices", args: []string{"attach", "--client", "--exclude-source", "192.168.50.12"}, code: 2,
		says: []string{"source 192.168.50.12/32 is about LANs", "nothing that this machine itself sends has one"}},
	{name: "public virtual range", args: []string{"attach", lan, "--onion4", "8.0.0.0/8"}, code: 2,
		says: []string{"tor.onion4: 8.0.0.0/8 is not within private space", "choose a part of 10.0.0.0/8"}},
	{name: "torrc that is not there", args: []string{"attach", lan, "--torrc", "/nonexistent/torrc"}, code: 2,
		says: []string{"--torrc", "/nonexistent/torrc: no such file", "bridges", "see `torbpf attach --help`"}},
}

// badHosts do not allow what is asked.
var badHosts = []badInput{
	{name: "unknown interface", args: []string{"attach", "eth11"}, code: 2,
		says: []string{"there is no interface eth11 here", "did you mean", lan}},
	{name: "unknown interface like none", args: []string{"attach", "wlan7"}, code: 2,
		says: []string{"there is no interface wlan7 here", "these fit: eth1"}},
	{name: "loopback", args: []string{"attach", "lo"}, code: 2,
		says: []string{"lo carries only this machine's own traffic", "name the interface your devices are behind"}},
	{name: "default route", args: []string{"attach", wan}, code: 1,
		says: []string{"eth0 has the default route 0.0.0.0/0", "torbpf attach eth1", "insist with --force"}},
	{name: "default route among others", args: []string{"attach", lan, wan}, code: 1,
		says: []string{"eth0 has the default route"}},
	{name: "no address", args: []string{"attach", "br7"}, code: 1,
		prepare: changed([]string{"ip link add name br7 type bridge"}, []string{"ip link del br7"}),
		says:    []string{"br7 has no address", "ip addr add 192.168.50.1/24 dev br7"}},
	{name: "bridge port", args: []string{"attach", "pair0"}, code: 1,
		prepare: changed([]string{
			"ip link add name br7 type bridge", "ip addr add 192.168.70.1/24 dev br7",
			"ip link add name pair0 type veth peer name pair1", "ip link set pair0 master br7",
		}, []string{"ip link del pair0", "ip link del br7"}),
		says: []string{"pair0 is a port of bridge br7", "attach br7"}},
	{name: "macvlan parent", args: []string{"attach", lan}, code: 1,
		prepare: changed([]string{"ip link add name mac0 link eth1 type macvlan mode bridge"}, []string{"ip link del mac0"}),
		says:    []string{"eth1 is shared: its frames are handed to mac0", "attach mac0"}},
	{name: "bridge with bridge-nf-call", args: []string{"attach", "br7"}, code: 1,
		prepare: changed([]string{
			"ip link add name br7 type bridge", "ip addr add 192.168.70.1/24 dev br7",
			"sysctl -w net.bridge.bridge-nf-call-iptables=1",
		}, []string{"sysctl -w net.bridge.bridge-nf-call-iptables=0", "ip link del br7"}),
		says: []string{"br7 is a bridge whose packets run through nftables on the port already", "sysctl -w net.bridge.bridge-nf-call-iptables=0"}},
	{name: "mark bits of an ip rule", args: []string{"attach", lan}, code: 1,
		prepare: changed([]string{"ip rule add fwmark 0x1000000/0xff000000 lookup main priority 900"}, []string{"ip rule del priority 900"}),
		says:    []string{"mark bits 0xff000000 are used by", "priority 900", "--mark-shift 16"}},
	{name: "mark bits of an IPv6 rule", args: []string{"attach", lan}, code: 1,
		prepare: changed([]string{"ip -6 rule add fwmark 0x1000000/0xf000000 lookup main priority 901"}, []string{"ip -6 rule del priority 901"}),
		says:    []string{"mark bits 0xff000000 are used by", "--mark-shift 16"}},
	{name: "virtual range on a LAN", args: []string{"attach", lan, "--onion4", "192.168.0.0/16"}, code: 1,
		says: []string{"virtual range 192.168.0.0/16 for .onion overlaps 192.168.50.", lan, "leave --onion4 out or give it 10.192.0.0/10"}},
	{name: "virtual range on a route", args: []string{"attach", lan, "--onion6", "fd99::/40"}, code: 1,
		prepare: changed([]string{"ip route add fd99:0:0:1::/64 via fd50::99"}, []string{"ip route del fd99:0:0:1::/64"}),
		says:    []string{"virtual range fd99::/40 for .onion overlaps fd99:0:0:1::/64", "leave --onion6 out or give it fd74:"}},
	{name: "not attached: status", args: []string{"status"}, code: 3,
		says: []string{"torbpf: not attached", "run `sudo torbpf attach INTERFACE`"}},
	{name: "not attached: detach", args: []string{"detach", lan}, code: 3, says: []string{"torbpf: not attached"}},
	{name: "not attached: detach all", args: []string{"detach", "--all"}, code: 3, says: []string{"torbpf: not attached"}},
	{name: "not attached: exclude list", args: []string{"exclude", "list"}, code: 3, says: []string{"torbpf: not attached"}},
	{name: "not attached: exclude add", args: []string{"exclude", "add", "104.16.0.0/13"}, code: 3,
		says: []string{"torbpf: not attached", "run `sudo torbpf attach INTERFACE`"}},
	{name: "not attached: explain", args: []string{"explain", "--from", "192.168.50.11", "--to", "1.1.1.1"}, code: 3,
		says: []string{"torbpf: not attached", "run `sudo torbpf attach INTERFACE`"}},
	{name: "not attached: explain, of this machine", args: []string{"explain", "--own", "--to", "1.1.1.1"}, code: 3,
		says: []string{"torbpf: not attached", "--client for this machine itself"}},
	{name: "not attached: exclude del", args: []string{"exclude", "del", "104.16.0.0/13"}, code: 3, says: []string{"torbpf: not attached"}},
}

// TestBadInput: each error has its exit code, says what is wrong and what to do,
// and leaves the host byte for byte as it was.
func TestBadInput(t *testing.T) {
	lab := freshLab(t)
	for _, table := range [][]badInput{badCommands, badHosts, badTor(t, lab), takenPorts()} {
		for _, b := range table {
			t.Run(b.name, func(t *testing.T) {
				if b.args[0] == "attach" {
					b.args = append([]string{"attach", "--no-wait"}, b.args[1:]...)
				}
				b.check(t, lab)
			})
		}
	}
	t.Run("not root", func(t *testing.T) { onlyRootMay(t, lab) })
	t.Run("two at once", func(t *testing.T) { onlyOneMay(t, lab) })
}

// badTor are those that fail when tor is to start, the first thing attach does.
func badTor(t *testing.T, lab *testnet.Lab) []badInput {
	t.Helper()
	torrc := func(name, text string) string {
		path := filepath.Join(lab.Dir(), name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	unknown := torrc("unknown.torrc", "# bridges\nNewCircuitPeriod 30\nUseBridgse 1\n")
	reserved := torrc("reserved.torrc", "TransPort 9999\n")
	return []badInput{
		{name: "no tor", args: []string{"attach", lan, "--tor-binary", "/nonexistent/tor"}, code: 1,
			says: []string{"find the tor program", "/nonexistent/tor", "apt install tor"}},
		{name: "no system tor", args: []string{"attach", lan, "--tor", "system", "--control", "/nonexistent/control"}, code: 1,
			says: []string{"/nonexistent/control"}},
		{name: "torrc with a line that tor refuses", args: []string{"attach", lan, "--torrc", unknown}, code: 1,
			says: []string{unknown + ":3:", "UseBridgse 1", "Unknown option"}},
		{name: "torrc with a line of ours", args: []string{"attach", lan, "--torrc", reserved}, code: 1,
			says: []string{reserved + ":1:", "TransPort is set by torbpf", "remove the line"}},
	}
}

// takenPorts are ours, held by somebody else: this test.
func takenPorts() []badInput {
	holder := fmt.Sprintf("is held by e2e.test (pid %d)", os.Getpid())
	tcp := func(addr string) func(*testing.T, *testnet.Lab) {
		return func(t *testing.T, lab *testnet.Lab) {
			l, err := lab.Router.Listen("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
		}
	}
	udp := func(addr string) func(*testing.T, *testnet.Lab) {
		return func(t *testing.T, lab *testnet.Lab) {
			c, err := lab.Router.ListenPacket("udp", addr)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
		}
	}
	arguments := []string{"attach", lan}
	return []badInput{
		{name: "TransPort taken", args: arguments, code: 1, prepare: tcp("127.0.0.1:9040"),
			says: []string{"tcp port 9040 " + holder, "stop it, or choose another port with --trans-port"}},
		{name: "DNSPort taken", args: arguments, code: 1, prepare: udp("[::1]:9053"),
			says: []string{"udp port 9053 " + holder, "--dns-port"}},
		{name: "resolver port taken", args: arguments, code: 1, prepare: tcp("0.0.0.0:9054"),
			says: []string{"tcp port 9054 " + holder, "--resolver-port"}},
		{name: "resolver port taken for UDP", args: arguments, code: 1, prepare: udp("0.0.0.0:9054"),
			says: []string{"udp port 9054 " + holder, "--resolver-port"}},
		{name: "another port taken", args: append(arguments, "--trans-port", "19040"), code: 1, prepare: tcp("192.168.50.1:19040"),
			says: []string{"tcp port 19040 " + holder, "--trans-port"}},
	}
}

// onlyRootMay: for anyone else all but help and version end at once.
func onlyRootMay(t *testing.T, lab *testnet.Lab) {
	before := takeSnapshot(t, lab)
	for _, args := range [][]string{
		{"attach", lan}, {"detach", "--all"}, {"detach", lan}, {"status"}, {"status", "--json"},
		{"explain", "--from", "192.168.50.11", "--to", "1.1.1.1"}, {"explain", "--own", "--to", "1.1.1.1"},
		{"exclude", "list"}, {"exclude", "add", "104.16.0.0/13"}, {"exclude", "del", "104.16.0.0/13"},
		{"enable"}, {"disable"}, {"plan"}, {"apply"},
	} {
		badInput{args: args, code: 5, says: []string{"this needs root", "run it with sudo"}}.refused(t, asNobody(t, lab, args...))
	}
	if r := asNobody(t, lab, "version"); r.code != 0 {
		t.Errorf("version: %v", r)
	}
	before.checkSame(t, takeSnapshot(t, lab))
}

// asNobody runs the program in the router without any privilege.
func asNobody(t *testing.T, lab *testnet.Lab, args ...string) result {
	t.Helper()
	const nobody = 65534
	var r result
	err := lab.Router.Do(func() error {
		cmd := lab.Router.Command(t.Context(), program, args...)
		cmd.Path, cmd.Args = program, append([]string{program}, args...) // it is there without nsenter
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		r = runCommand(t, cmd)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}
