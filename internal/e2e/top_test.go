package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/router"
	"github.com/torbpf/torbpf/testnet"
)

// sumsLine has what all devices have sent since attach, as top shows it.
var sumsLine = regexp.MustCompile(`all packets since attach +(\d+) +(\d+) +(\d+) +(\d+)`)

// shownSums are packets by Tor, direct, local and refused.
func shownSums(screen string) (sums [4]uint64, ok bool) {
	m := sumsLine.FindStringSubmatch(screen)
	if m == nil {
		return sums, false
	}
	for i := range sums {
		sums[i], _ = strconv.ParseUint(m[i+1], 10, 64) // digits alone
	}
	return sums, true
}

// countedStatus is what status has counted on the LAN, by verdict; ARP is nobody's.
func countedStatus(t *testing.T, lab *testnet.Lab) map[string]uint64 {
	t.Helper()
	var s router.Status
	if err := json.Unmarshal([]byte(mustTorbpf(t, lab, "status", "--json").stdout), &s); err != nil {
		t.Fatal(err)
	}
	out := make(map[string]uint64)
	for _, c := range s.Counters {
		if c.Interface == lan && c.Reason != "non-ip" {
			out[c.Verdict] += c.Packets
		}
	}
	return out
}

// TestTop shows to the packet what was sent, as status has it, whole aggregates included; a key
// lets a device go direct for ten minutes, once that is confirmed, and another takes it back.
func TestTop(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	attach(t, lab, lan, "--no-wait", "--early-refusal", "off", "--torrc", loneTorrc(t, lab))
	mustTorbpf(t, lab, "exclude", "add", other4)
	n := lab.Client1
	mustTorbpf(t, lab, "device", "name", n.MAC.String(), "kitchen-tv")
	run(t, n, "ping", "-q", "-c", "1", "-W", "2", testnet.LANRouter4.String()) // now each knows the other's address
	term := openTerminal(t, lab, nil, "top", "--interval", "200ms", "--sort", "name")
	screen := term.shows(t, "kitchen-tv")
	before, ok := shownSums(screen)
	if !ok {
		t.Fatalf("it shows no sums:\n%s", screen)
	}
	const refused, direct, segments, bursts = 17, 5, 40, 3
	for i := range refused {
		sendUDP(t, n, at(testnet.Web4, uint16(1000+i)))
	}
	for range direct {
		sendUDP(t, n, at(testnet.Other4, 9))
	}
	for range bursts {
		sendAggregate(t, n, at(testnet.Other4, 9), segments)
		sendAggregate(t, n, at(testnet.Web4, 7), segments)
	}
	screen = term.awaits(t, "what was sent", func(screen string) bool {
		now, ok := shownSums(screen)
		return ok && now[1]-before[1] == direct+bursts*segments && now[3]-before[3] == refused+bursts*segments
	})
	eventually(t, patience, "the same in status", func() error {
		now, _ := shownSums(term.screen())
		counted := countedStatus(t, lab)
		for i, fate := range []string{"tor", "direct", "local", "refused"} {
			if counted[fate] != now[i] {
				return fmt.Errorf("%s: status has %d, top %d:\n%s", fate, counted[fate], now[i], term.screen())
			}
		}
		return nil
	})
	if !strings.Contains(screen, "REFUSED") {
		t.Errorf("it shows no refusals:\n%s", screen)
	}
	sendUDP(t, n, at(testnet.Web4, 443))
	term.shows(t, "kitchen-tv > "+at(testnet.Web4, 443).String())

	term.press(t, "ja") // the first: it alone has a name
	term.shows(t, "let kitchen-tv go direct, past Tor, for 10m? y/n")
	checkNoEcho(t, n, testnet.Web4)
	term.press(t, "y")
	term.shows(t, "added device "+n.MAC.String()+" until ")
	checkDirect(t, n, testnet.Web4)
	if d := listedDevices(t, lab)[n.MAC.String()]; d.Policy != "direct" || d.Until == "" {
		t.Errorf("it is under %+v", d)
	} else if until, err := time.Parse(time.RFC3339, d.Until); err != nil || time.Until(until) > 10*time.Minute || time.Until(until) < 9*time.Minute {
		t.Errorf("it is direct until %s: %v", d.Until, err)
	}
	term.shows(t, "direct 9m")
	if got := eventsOf(t, lab, "--kind", "policy", "--device", "kitchen-tv"); len(got) != 1 || !strings.Contains(got[0].Text, "by top") {
		t.Errorf("written down is %+v", got)
	}
	term.press(t, "t")
	term.shows(t, "put kitchen-tv back on Tor? y/n")
	term.press(t, "y")
	term.shows(t, "removed device")
	checkNoEcho(t, n, testnet.Web4)
	term.press(t, "q")
	term.ends(t, 0)
}

func sendUDP(t *testing.T, n *testnet.Node, to netip.AddrPort) {
	t.Helper()
	if err := testnet.SendRaw(n, testnet.UDPDatagram(at(n.IPv4, 40000), to, []byte("x"))); err != nil {
		t.Fatal(err)
	}
}

// sendAggregate sends datagrams that the kernel hands on as one packet, as GRO makes of what
// a network card gets (UDP_SEGMENT of udp(7)).
func sendAggregate(t *testing.T, n *testnet.Node, to netip.AddrPort, segments int) {
	t.Helper()
	const size = 100
	err := n.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, size); err != nil {
			return err
		}
		return unix.Sendto(fd, make([]byte, segments*size), 0, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestTopLeavesTheTerminalAsItWas, whatever ends it, and fits its window.
func TestTopLeavesTheTerminalAsItWas(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	attach(t, lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab))
	for name, end := range map[string]func(*terminal){
		"q":       func(term *terminal) { term.press(t, "q") },
		"^C":      func(term *terminal) { term.press(t, "\x03") },
		"SIGTERM": func(term *terminal) { kill(t, unix.SIGTERM, term.cmd.Process.Pid) },
		"SIGHUP":  func(term *terminal) { kill(t, unix.SIGHUP, term.cmd.Process.Pid) },
		"SIGQUIT": func(term *terminal) { kill(t, unix.SIGQUIT, term.cmd.Process.Pid) },
	} {
		t.Run(name, func(t *testing.T) {
			term := openTerminal(t, lab, nil, "top")
			term.shows(t, "q quit")
			end(term)
			term.ends(t, 0)
		})
	}
	term := openTerminal(t, lab, []string{"NO_COLOR=1"}, "top", "--interval", "100ms")
	term.shows(t, "UNDER")
	for _, size := range [][2]int{{40, 12}, {200, 50}, {20, 6}, {100, 30}} {
		term.resize(t, size[0], size[1])
		term.awaits(t, "a frame of that size", func(screen string) bool {
			lines := strings.Split(screen, "\n")
			return len(lines) == size[1] && strings.HasPrefix(lines[0], "torbpf top") && lines[len(lines)-1] != ""
		})
	}
	if colours := regexp.MustCompile(`\x1b\[([0-9;]*;)?(3[0-7]|38;[0-9;]*)m`).FindString(term.written()); colours != "" {
		t.Errorf("with NO_COLOR it writes %q", colours)
	}
	term.press(t, "h")
	term.shows(t, "choose a device")
	mustTorbpf(t, lab, "detach", "--all")
	term.ends(t, 3)
	if !strings.Contains(term.written(), "not attached") {
		t.Errorf("it does not say why it ends: %q", term.written())
	}
}

// TestTopIsSuspended by ^Z, as a shell wants it, and goes on where it was.
func TestTopIsSuspended(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	attach(t, lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab))
	term := openTerminalWith(t, lab, nil, "bash", "-mc", program+` top --interval 100ms; echo "stopped with $?"; read -r; fg; exit`)
	term.shows(t, "q quit")
	term.press(t, "\x1a")
	term.shows(t, "stopped with 148") // 128 and SIGTSTP
	term.checkSettings(t)
	term.press(t, "\n")
	term.shows(t, "q quit")
	term.press(t, "h")
	term.shows(t, "choose a device")
	term.press(t, "qq")
	term.ends(t, 0)
}

// TestTopWithoutAScreen prints lines: in a pipe, in a dumb terminal, and in one that nobody knows.
func TestTopWithoutAScreen(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	if r := runTorbpf(t, lab, "top", "--once"); r.code != 3 {
		t.Errorf("while nothing is attached: %v", r)
	}
	attach(t, lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab))
	for _, args := range [][]string{{"--sort", "colour"}, {"--interval", "1ms"}, {"--interval", "soon"}, {"eth1"}} {
		if r := runTorbpf(t, lab, append([]string{"top", "--once"}, args...)...); r.code != 2 {
			t.Errorf("top %v: %v", args, r)
		}
	}
	sendUDP(t, lab.Client1, at(testnet.Web4, 443))
	r := mustTorbpf(t, lab, "top", "--once", "--interval", "200ms", "--sort", "refused")
	if strings.ContainsAny(r.stdout, "\x1b\r") || !strings.Contains(r.stdout, lab.Client1.MAC.String()) {
		t.Errorf("in a pipe: %v", r)
	}
	for line := range strings.Lines(r.stdout) {
		if len([]rune(strings.TrimRight(line, "\n"))) > 80 {
			t.Errorf("in a pipe a line is %q", line)
		}
	}
	for _, name := range []string{"dumb", "nobody-knows-this-one", ""} {
		term := openTerminal(t, lab, []string{"TERM=" + name}, "top", "--interval", "100ms")
		eventually(t, patience, "frames", func() error {
			if text := term.written(); strings.Count(text, "torbpf top") < 3 || strings.Contains(text, "\x1b") {
				return fmt.Errorf("TERM=%s: %q", name, text)
			}
			return nil
		})
		kill(t, unix.SIGTERM, term.cmd.Process.Pid)
		if err := <-term.exited; err != nil {
			t.Errorf("TERM=%s: %v", name, err)
		}
	}
	follow := startRunBy(t, lab.Router.Command(context.Background(), program, "top", "--json", "--interval", "100ms"))
	eventually(t, patience, "lines of JSON", func() error {
		lines := slices.Collect(strings.Lines(follow.log.String()))
		if len(lines) < 4 {
			return fmt.Errorf("there are %d", len(lines))
		}
		var first, later struct {
			Schema  int
			Seconds float64
			Time    time.Time
		}
		if err := json.Unmarshal([]byte(lines[0]), &first); err != nil || first.Schema != 1 || first.Seconds < 0.05 {
			return fmt.Errorf("the first is %s", lines[0])
		}
		if err := json.Unmarshal([]byte(lines[2]), &later); err != nil || !later.Time.After(first.Time) {
			return fmt.Errorf("a later one is %s", lines[2])
		}
		return nil
	})
}

// TestTopCostsLittle: what a second of it takes of a CPU with 250 devices, all of the program's
// work included.
func TestTopCostsLittle(t *testing.T) {
	const devices = 250
	lab := plainLab(t, testnet.Options{})
	attach(t, lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab))
	n := lab.Client1
	for i := range devices {
		packet := testnet.UDPDatagram(at(n.IPv4, 40000), at(testnet.Web4, 443), []byte("x"))
		frame := testnet.Frame(n.GatewayMAC, []byte{2, 0, 0x5e, 0x77, 0, byte(i)}, unix.ETH_P_IP, packet)
		if err := n.SendFrame("eth0", frame); err != nil {
			t.Fatal(err)
		}
	}
	term := openTerminal(t, lab, nil, "top")
	term.shows(t, "02:00:5e:77:")
	seconds := regexp.MustCompile(`\d\d:\d\d:\d\d$`)
	begin, used := time.Now(), cpuTime(t, term.cmd.Process.Pid)
	clocks := make(map[string]bool)
	term.awaits(t, "ten seconds more", func(screen string) bool {
		first, _, _ := strings.Cut(screen, "\n")
		clocks[seconds.FindString(first)] = true
		return len(clocks) > 10
	})
	took := time.Since(begin).Seconds()
	each := time.Duration(float64(cpuTime(t, term.cmd.Process.Pid)-used) / took)
	t.Logf("a second takes %v of a CPU with %d devices", each.Round(100*time.Microsecond), devices)
	if each > fairly(t, 50*time.Millisecond) {
		t.Errorf("a second takes %v of a CPU", each)
	}
	term.press(t, "q")
	term.ends(t, 0)
}

// cpuTime is what a process has used, its threads included.
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(after)
	var ticks int64
	for _, f := range fields[11:13] { // utime and stime, in hundredths of a second
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}
