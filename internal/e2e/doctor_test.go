package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/torbpf/torbpf/internal/doctor"
	"github.com/torbpf/torbpf/testnet"
)

// closedWAN is the firewall of a router that is well kept: what devices send may come in, and
// what the WAN begins may not.
const closedWAN = `table inet wall { chain input { type filter hook input priority 0; policy accept; iifname "eth0" ct state new drop; }; }`

// wellKept makes a lab's router one with nothing wrong, and returns how its time server ends.
func wellKept(t *testing.T, lab *testnet.Lab) (endTime func()) {
	t.Helper()
	run(t, lab.Router, "nft", closedWAN)
	ntp := listenUDP(t, lab, ":123")
	return func() { ntp.Close() }
}

func listenUDP(t *testing.T, lab *testnet.Lab, at string) io.Closer {
	t.Helper()
	conn, err := lab.Router.ListenPacket("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// examined is what doctor reports.
func examined(t *testing.T, lab *testnet.Lab, args ...string) (*doctor.Report, result) {
	t.Helper()
	r := runTorbpf(t, lab, append([]string{"doctor", "--json"}, args...)...)
	var report doctor.Report
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil {
		t.Fatalf("doctor %v: %v: %v", args, err, r)
	}
	return &report, r
}

// unwell lists what is neither ok nor about nothing: "time-server warning".
func unwell(r *doctor.Report) []string {
	var out []string
	for _, c := range r.Checks {
		if c.Verdict != doctor.OK && c.Verdict != doctor.NotApplicable {
			out = append(out, c.ID+" "+string(c.Verdict))
		}
	}
	return out
}

// ofThisMachine is what of the machine that runs the tests cannot be helped: its tor may be old.
func ofThisMachine(t *testing.T, lab *testnet.Lab) []string {
	t.Helper()
	report, _ := examined(t, lab, lan)
	return slices.DeleteFunc(unwell(report), func(s string) bool { return !strings.HasPrefix(s, "tor-version ") })
}

// findings are those of one check, as text.
func findings(r *doctor.Report, id string) string {
	for _, c := range r.Checks {
		if c.ID == id {
			return fmt.Sprintf("%v", c.Findings)
		}
	}
	return ""
}

// planted is a fault, and what doctor has to say of it alone.
type planted struct {
	name   string
	plant  func(*testing.T, *testnet.Lab) // and take it away with the test
	config []string                       // of a file to judge, beside its interfaces
	args   []string                       // instead of eth1
	want   string
	says   []string
}

// speaksAsRouter has a client forward, and so say of itself that it is a router when it is asked for.
func speaksAsRouter(t *testing.T, lab *testnet.Lab) {
	t.Helper()
	if err := lab.Client1.Sysctl("net.ipv6.conf.all.forwarding=1"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Client1.Sysctl("net.ipv6.conf.all.forwarding=0"); err != nil {
			t.Error(err)
		}
	})
	forgetNeighbours := "ip -6 neigh flush dev " + lan
	changed([]string{forgetNeighbours}, []string{forgetNeighbours})(t, lab)
	run(t, lab.Router, "ping", "-6", "-c", "1", "-W", "5", lab.Client1.IPv6.String())
}

// xdpOfOthers puts a program on the LAN that lets everything pass.
func xdpOfOthers(t *testing.T, lab *testnet.Lab) {
	t.Helper()
	n := &neighbours{lab: lab, programs: make(map[string]ebpf.ProgramID)}
	t.Cleanup(func() {
		for _, c := range slices.Backward(n.closers) {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	index := linkOf(t, lab, lan).Attrs().Index
	program := n.pass(t, ebpf.XDP, 2) // XDP_PASS
	n.attach(t, lan+" xdp", program, func() (link.Link, error) {
		return link.AttachXDP(link.XDPOptions{Interface: index, Program: program, Flags: link.XDPGenericMode})
	})
}

// holds listens in the router until the test ends.
func holds(network, addr string) func(*testing.T, *testnet.Lab) {
	return func(t *testing.T, lab *testnet.Lab) {
		t.Helper()
		if network == "udp" {
			listenUDP(t, lab, addr)
			return
		}
		l, err := lab.Router.Listen(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
	}
}

// fakeTor is a program that calls itself a tor of another version.
func fakeTor(t *testing.T, lab *testnet.Lab) {
	t.Helper()
	script := "#!/bin/sh\necho 'Tor version 0.4.8.16.'\n"
	if err := os.WriteFile(filepath.Join(lab.Dir(), "oldtor"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
}

// futureConsensus is what tor has kept, of tomorrow: a clock that has been put back since.
func futureConsensus(t *testing.T, lab *testnet.Lab) {
	t.Helper()
	dir := filepath.Join(stateDir(t, lab), "data", "tor")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(stateDir(t, lab)) })
	tomorrow := time.Now().UTC().Add(24 * time.Hour)
	text := fmt.Sprintf("network-status-version 3 microdesc\nvote-status consensus\nconsensus-method 35\nvalid-after %s\nfresh-until %s\nvalid-until %s\n",
		tomorrow.Format(time.DateTime), tomorrow.Add(time.Hour).Format(time.DateTime), tomorrow.Add(3*time.Hour).Format(time.DateTime))
	if err := os.WriteFile(filepath.Join(dir, "cached-microdesc-consensus"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// plantedFaults are those that namespaces can have; see internal/doctor for the others.
var plantedFaults = []planted{
	{name: "no such interface", args: []string{"nope0"}, want: "interface problem", says: []string{"there is no interface nope0"}},
	{name: "a port of a bridge", plant: changed([]string{"ip link add br7 type bridge", "ip link set eth1 master br7"}, []string{"ip link del br7"}),
		want: "bridge-port problem", says: []string{"torbpf attach br7"}},
	{name: "a macvlan on it", plant: changed([]string{"ip link add name mac0 link eth1 type macvlan mode bridge"}, []string{"ip link del mac0"}),
		want: "sub-interfaces problem", says: []string{"torbpf attach mac0"}},
	{name: "bridge-nf-call", args: []string{"br7"}, plant: changed([]string{
		"ip link add br7 type bridge", "ip link set br7 up", "ip addr add 192.168.7.1/24 dev br7", "sysctl -w net.bridge.bridge-nf-call-iptables=1",
	}, []string{"sysctl -w net.bridge.bridge-nf-call-iptables=0", "ip link del br7"}),
		want: "bridge-nf-call problem", says: []string{"sysctl -w net.bridge.bridge-nf-call-iptables=0"}},
	{name: "the uplink", args: []string{wan}, want: "default-route problem", says: []string{"torbpf attach eth1"}},
	{name: "no address", args: []string{"bare0"}, plant: changed([]string{"ip link add bare0 type veth peer name bare1", "ip link set bare0 up"}, []string{"ip link del bare0"}),
		want: "address problem", says: []string{"ip addr add"}},
	{name: "no uplink", plant: changed([]string{"ip route del default", "ip -6 route del default"},
		[]string{"ip route add default via " + testnet.WANISP4.String(), "ip -6 route add default via " + testnet.WANISP6.String()}),
		want: "uplink warning", says: []string{"no interface has a default route now"}},
	{name: "no forwarding, and an exclusion", config: []string{"[exclusions]", `destinations = ["` + other4 + `"]`},
		plant: changed([]string{"sysctl -w net.ipv4.ip_forward=0"}, []string{"sysctl -w net.ipv4.ip_forward=1"}),
		want:  "forwarding warning", says: []string{"net.ipv4.ip_forward=0", "--enable-forwarding"}},
	{name: "another's mark", plant: changed([]string{"ip rule add fwmark 0x1000000/0x1000000 lookup 177 priority 7700"}, []string{"ip rule del priority 7700"}),
		want: "marks problem", says: []string{"priority 7700", "--mark-shift 16"}},
	{name: "a rule that wipes the mark", plant: changed([]string{"nft add table inet mangle",
		"nft add chain inet mangle pre { type filter hook prerouting priority -150 ; }", "nft add rule inet mangle pre meta mark set ct mark"}, []string{"nft delete table inet mangle"}),
		want: "marks warning", says: []string{"inet mangle pre"}},
	{name: "an ip rule before ours", config: []string{"[tor]", `tcp_mode = "tproxy"`}, plant: changed([]string{"ip rule add priority 50 lookup 220"}, []string{"ip rule del priority 50"}),
		want: "ip-rules warning", says: []string{"the IPv4 rule at priority 50"}},
	{name: "XDP of others", plant: xdpOfOthers, want: "programs warning", says: []string{"ip link set dev eth1 xdp off"}},
	{name: "a firewall that drops", plant: changed([]string{"nft add table inet fw", "nft add chain inet fw in { type filter hook input priority 0 ; policy drop ; }",
		"nft add rule inet fw in iif lo accept", "nft add rule inet fw in ct state established,related accept", "nft add rule inet fw in udp dport 123 accept"}, []string{"nft delete table inet fw"}),
		want: "firewall problem", says: []string{"the chain inet fw in drops", "from eth1: tcp4", "nft insert rule inet fw in iifname \"eth1\" tcp dport '{ 9040, 9054 }' accept"}},
	{name: "Docker, and an exclusion", config: []string{"[exclusions]", `destinations = ["` + other4 + `"]`}, plant: changed([]string{"nft add table ip filter",
		"nft add chain ip filter DOCKER-USER", "nft add chain ip filter FORWARD { type filter hook forward priority 0 ; policy drop ; }", "nft add rule ip filter FORWARD jump DOCKER-USER",
		`nft add rule ip filter FORWARD oifname "docker0" accept`}, []string{"nft delete table ip filter"}),
		want: "firewall-forward warning", says: []string{"ip filter FORWARD, as Docker sets it up", `nft insert rule ip filter FORWARD iifname "eth1" oifname "eth0" accept`}},
	{name: "containers", plant: changed([]string{"ip link add docker0 type bridge", "ip addr add 172.17.0.1/16 dev docker0"}, []string{"ip link del docker0"}),
		want: "containers note", says: []string{"torbpf attach docker0"}},
	{name: "a closed output chain, without NAT", config: []string{"[tor]", `tcp_mode = "tproxy"`}, plant: changed([]string{"nft add table inet fw",
		"nft add chain inet fw out { type filter hook output priority 0 ; policy drop ; }"}, []string{"nft delete table inet fw"}),
		want: "firewall-answers warning", says: []string{"nft insert rule inet fw out"}},
	{name: "wg-quick's firewall, and this machine on Tor", config: []string{"[client]", "enable = true"}, plant: changed([]string{"nft add table ip wg-quick-wg0",
		"nft add chain ip wg-quick-wg0 preraw { type filter hook prerouting priority -300 ; }"}, []string{"nft delete table ip wg-quick-wg0"}),
		want: "vpn warning", says: []string{"wg0.conf says Table"}},
	{name: "a qdisc, and the fast path", config: []string{`fastpath = "auto"`}, plant: changed([]string{"tc qdisc add dev eth0 root tbf rate 100mbit burst 64k latency 50ms"}, []string{"tc qdisc del dev eth0 root", "ip link set dev eth0 txqueuelen 0"}),
		want: "fast-path note", says: []string{"eth0 has a qdisc tbf"}},
	{name: "a range that is a LAN", config: []string{"[tor]", `onion4 = "192.168.0.0/16"`}, want: "onion-range problem", says: []string{"192.168.0.0/16", "leave --onion4 out"}},
	{name: "tor's port is taken", plant: holds("tcp", "127.0.0.1:9040"), want: "ports problem", says: []string{"tcp port 9040 is held by"}},
	{name: "a resolver", plant: holds("udp", testnet.LANRouter4.String()+":53"), want: "resolver note", says: []string{"(53/udp) answers DNS here"}},
	{name: "another router", plant: speaksAsRouter, want: "other-router warning", says: []string{testnet.MACClient1}},
	{name: "a service that the WAN reaches", plant: changed([]string{"nft insert rule inet wall input tcp dport 2222 accept"}, []string{"nft flush chain inet wall input", `nft add rule inet wall input iifname "eth0" ct state new drop`}),
		want: "open-ports warning", says: []string{"from eth0 anybody reaches", "(2222/tcp)", `nft insert rule inet wall input iifname "eth0" tcp dport '{ 2222 }' drop`}},
	{name: "no tor", config: []string{"[tor]", `binary = "/nowhere/tor"`}, want: "tor problem", says: []string{"install it (apt install tor)"}},
	{name: "a clock that was put back", plant: futureConsensus, want: "clock problem", says: []string{"is behind", "date -u -s"}},
	{name: "a rule for most of the web", config: []string{"[exclusions]", `ports = ["443/tcp"]`}, want: "rules warning", says: []string{"most of the web"}},
}

// TestDoctorFindsWhatIsPlanted: on a router with nothing wrong it says so by exit code 0; of each
// fault it says what to type, and of nothing else that it is wrong.
func TestDoctorFindsWhatIsPlanted(t *testing.T) {
	lab := plainLab(t, testnet.Options{NoRouterDNS: true})
	endTime := wellKept(t, lab)
	greet(t, lab.Router, ":2222", "router")
	usual := ofThisMachine(t, lab)
	snapshot := takeSnapshot(t, lab)
	soundly := func(t *testing.T) {
		t.Helper()
		if report, r := examined(t, lab, lan); !slices.Equal(unwell(report), usual) || len(usual) == 0 && r.code != 0 {
			t.Fatalf("a sound router: %v: %v", unwell(report), r)
		}
		snapshot.checkSame(t, takeSnapshot(t, lab))
	}
	soundly(t)
	for _, f := range plantedFaults {
		t.Run(f.name, func(t *testing.T) { f.isFound(t, lab, usual) })
		soundly(t)
	}
	t.Run("a tor that crashes", func(t *testing.T) {
		fakeTor(t, lab)
		f := planted{config: []string{"[tor]", fmt.Sprintf("binary = %q", filepath.Join(lab.Dir(), "oldtor"))}, want: "tor-version warning", says: []string{"0.4.8.16", "TROVE-2026-018"}}
		f.isFound(t, lab, nil)
	})
	t.Run("no time server", func(t *testing.T) {
		endTime()
		planted{want: "time-server warning", says: []string{"apt install chrony"}}.isFound(t, lab, usual)
	})
}

// isFound plants the fault and looks for it.
func (f planted) isFound(t *testing.T, lab *testnet.Lab, usual []string) {
	t.Helper()
	if f.plant != nil {
		f.plant(t, lab)
	}
	args := f.args
	if len(args) == 0 {
		args = []string{lan}
	}
	if f.config != nil {
		file := filepath.Join(lab.Dir(), "judged.toml")
		lines := append([]string{}, f.config...)
		if strings.HasPrefix(lines[0], "[") {
			lines = append([]string{`interfaces = ["eth1"]`}, lines...)
		} else {
			lines = append(lines, `interfaces = ["eth1"]`)
		}
		if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		args = []string{"--config", file}
	}
	report, r := examined(t, lab, args...)
	want := append(slices.Clone(usual), f.want)
	got := unwell(report)
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("found %v, want %v: %v", got, want, r)
	}
	id, verdict, _ := strings.Cut(f.want, " ")
	for _, says := range f.says {
		if text := findings(report, id); !strings.Contains(text, says) {
			t.Errorf("it does not say %q: %s", says, text)
		}
	}
	if wrong := verdict == "warning" || verdict == "problem"; wrong != (r.code == 1) && len(usual) == 0 {
		t.Errorf("exit code %d", r.code)
	}
}

// TestDoctorWhileAttached: with Tor there it finds nothing, without the daemon; then each thing
// that is taken away.
func TestDoctorWhileAttached(t *testing.T) {
	lab := torLab(t)
	changed(nil, []string{"nft delete table inet wall"})(t, lab)
	wellKept(t, lab)
	usual := append(ofThisMachine(t, lab), "resolver note") // that of the lab
	attach(t, lab, lan)
	slices.Sort(usual)
	isFound := func(what string, want ...string) {
		t.Helper()
		want = append(want, usual...)
		slices.Sort(want)
		eventually(t, patience, what, func() error {
			report, r := examined(t, lab)
			got := slices.DeleteFunc(unwell(report), func(s string) bool { return strings.HasPrefix(s, "boot ") }) // by what starts services here
			slices.Sort(got)
			if !slices.Equal(got, want) || !report.Attached || !slices.Equal(report.Interfaces, []string{lan}) {
				return fmt.Errorf("found %v, want %v: %v", got, want, r)
			}
			return nil
		})
	}
	isFound("a sound router")
	rulesetGone.inflict(t, lab)
	run(t, lab.Router, "nft", closedWAN)
	isFound("a table that is gone", "layers problem")
	mustTorbpf(t, lab, "attach")
	isFound("a repaired router")
	for _, pid := range pidsNamed(t, lab, "tor") {
		run(t, lab.Router, "kill", "-9", fmt.Sprint(pid))
	}
	isFound("a tor that is gone", "layers problem", "tor-ready problem")
}

// TestDoctorWithoutRoot says what it could not look at, and so not that all is well.
func TestDoctorWithoutRoot(t *testing.T) {
	lab := plainLab(t, testnet.Options{NoRouterDNS: true})
	wellKept(t, lab)
	cmd := lab.Router.Command(t.Context(), "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", program, "doctor", lan)
	r := runCommand(t, cmd)
	for _, says := range []string{"UNKNOWN: firewall (others)", "UNKNOWN: kernel-bpf (kernel)", "sudo torbpf doctor"} {
		if !strings.Contains(r.stdout, says) {
			t.Errorf("it does not say %q: %v", says, r)
		}
	}
	if r.code != 5 && len(ofThisMachine(t, lab)) == 0 || strings.Contains(r.stdout, "PROBLEM") {
		t.Errorf("without root: %v", r)
	}
}
