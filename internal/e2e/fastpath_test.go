package e2e

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/router"
	"github.com/torbpf/torbpf/testnet"
)

// portFast is that of an echo server that hangs up when its client does.
const portFast = 4450

// fastStatus is what status says of the fast path.
func fastStatus(t *testing.T, lab *testnet.Lab) router.FastStatus {
	t.Helper()
	_, s := lanStatus(t, lab)
	return s.Fast
}

// isFast waits for the fast path to be on, or off for a reason.
func isFast(t *testing.T, lab *testnet.Lab, off string) {
	t.Helper()
	eventually(t, patience, "the fast path to be off for: "+off, func() error {
		f := fastStatus(t, lab)
		if why := strings.Join(f.Off, "; "); f.Active != (off == "") || !strings.Contains(why, off) || off == "" && why != "" {
			return fmt.Errorf("it is %+v", f)
		}
		return nil
	})
}

// runFast attaches a lab of its own by a daemon, with a fast path for lab.Other.
func runFast(t *testing.T) (*testnet.Lab, *runDaemon) {
	t.Helper()
	lab := freshLab(t)
	detachLater(t, lab)
	d := startRun(t, lab, writeConfig(t, lab, `interfaces = ["eth1"]`, `fastpath = "auto"`,
		"[exclusions]", fmt.Sprintf("destinations = [%q, %q]", other4, other6)))
	eventually(t, patience, "the LAN to be attached", func() error { return sound(t, lab, lan) })
	isFast(t, lab, "")
	return lab, d
}

// TestFastPath: flows that are excluded take it, with the user's own NAT, and are otherwise as
// they would be without it.
func TestFastPath(t *testing.T) {
	lab, d := runFast(t)
	userRules(t, lab, "inet", `chain forward {
		type filter hook forward priority filter; policy accept;
		ct state invalid counter drop
		ct state established,related counter accept
	}`)
	isFast(t, lab, "")
	onOneCPU(t)
	checkExcludedFlows(t, lab, checkFastFlow)
	why := mustTorbpf(t, lab, "explain", "--from", lab.Client1.IPv4.String(), "--to", testnet.Other4.String())
	if !strings.Contains(why.stdout, "direct") {
		t.Errorf("explain: %v", why)
	}
	d.stop(t)
	isFast(t, lab, "torbpf run does not run")
	openFlow(t, lab.Client1, "udp", at(testnet.Other4, testnet.PortEcho))
}

// checkExcludedFlows checks flows to what runFast and runFlowtable exclude: on the WAN they are as
// without any short cut, and conntrack finds nothing of them invalid, as a rule of the user's counts.
func checkExcludedFlows(t *testing.T, lab *testnet.Lab, check func(*testing.T, *testnet.Lab, string, netip.AddrPort)) {
	t.Helper()
	servers := []netip.Addr{testnet.Other4, testnet.Other6}
	for _, server := range servers {
		serve(t, lab, at(server, portFast), func(conn net.Conn) {
			_, _ = io.Copy(conn, conn)
			conn.Close()
		})
	}
	w := captureWAN(t, lab)
	for _, server := range servers {
		for proto, port := range map[string]uint16{"tcp": portFast, "udp": testnet.PortEcho} {
			t.Run(proto+" "+server.String(), func(t *testing.T) { check(t, lab, proto, at(server, port)) })
		}
	}
	for _, p := range w.Packets() {
		if p.Inbound && p.Dst.Port() == portFast && (p.HopLimit != 63 || p.Src.Addr().Is4() && p.Src.Addr() != testnet.WANRouter4) {
			t.Fatalf("on the WAN: %v with hop limit %d", p, p.HopLimit)
		}
	}
	if rules := run(t, lab.Router, "nft", "list", "table", "inet", "users_own"); !strings.Contains(rules, "ct state invalid counter packets 0") {
		t.Errorf("conntrack has found packets invalid: %s", rules)
	}
	checkByRouterOnly(t, lab)
}

// onOneCPU has this process, which is both ends of flows, keep to one CPU: so packets of a flow come in on one, as those of
// a network card do.
func onOneCPU(t *testing.T) {
	t.Helper()
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	for cpu := 0; one.Count() == 0; cpu++ {
		if all.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	set := func(cpus *unix.CPUSet) {
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Fatal(err)
		}
		for _, thread := range threads {
			id, err := strconv.Atoi(thread.Name())
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.SchedSetaffinity(id, cpus); err != nil && !errors.Is(err, unix.ESRCH) {
				t.Fatal(err)
			}
		}
	}
	set(&one)
	t.Cleanup(func() { set(&all) })
}

// checkFastFlow has one flow echo until it goes both ways by the fast path, and end.
func checkFastFlow(t *testing.T, lab *testnet.Lab, proto string, server netip.AddrPort) {
	f := openFlow(t, lab.Client1, proto, server)
	before := fastStatus(t, lab)
	eventually(t, patience, f.name+" to be fast", func() error {
		for range 20 {
			if err := f.echo(); err != nil {
				return err
			}
		}
		if now := fastStatus(t, lab); now.Out < before.Out+20 || now.In < before.In+20 {
			return fmt.Errorf("it was %+v, and is %+v", before, now)
		}
		return nil
	})
	if proto == "udp" {
		return
	}
	exchange(t, f.conn, 32<<20)
	if err := f.conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("%s does not end: %v", f.name, err)
	}
	f.conn.Close()
	entry := fmt.Sprintf("dport=%d", f.conn.LocalAddr().(*net.TCPAddr).Port)
	eventually(t, patience, "conntrack to see the end of "+f.name, func() error {
		family := map[bool]string{true: "ipv4", false: "ipv6"}[server.Addr().Is4()]
		for line := range strings.Lines(run(t, lab.Router, "conntrack", "-L", "-f", family, "-p", "tcp")) {
			if strings.Contains(line, entry) && !strings.Contains(line, "TIME_WAIT") {
				return errors.New(line)
			}
		}
		return nil
	})
}

// exchange sends bytes and wants them back.
func exchange(t *testing.T, conn net.Conn, size int) {
	t.Helper()
	sent := make([]byte, size)
	if _, err := rand.Read(sent); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	wrote := make(chan error, 1)
	go func() {
		_, err := conn.Write(sent)
		wrote <- err
	}()
	got := make([]byte, size)
	_, err := io.ReadFull(conn, got)
	if err := errors.Join(err, <-wrote); err != nil {
		t.Fatalf("exchange %d bytes: %v", size, err)
	}
	if !bytes.Equal(sent, got) {
		t.Errorf("of %d bytes others came back", size)
	}
}

// checkByRouterOnly wants what is Tor's refused, as there is no Tor.
func checkByRouterOnly(t *testing.T, lab *testnet.Lab) {
	t.Helper()
	if err := testnet.Echo(lab.Client1, "udp", at(testnet.Web4, testnet.PortEcho), patience); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("udp to what is not excluded: %v, want it refused at once", err)
	}
}

// TestFastPathByFrames: UDP goes by XDP where it is in the driver and the far ends take frames,
// and by tc where not.
func TestFastPathByFrames(t *testing.T) {
	lab := freshLab(t)
	detachLater(t, lab)
	startRun(t, lab, writeConfig(t, lab, `interfaces = ["eth1"]`, `fastpath = "auto"`, `early_refusal = "native"`,
		"[exclusions]", fmt.Sprintf("destinations = [%q]", other4)))
	eventually(t, patience, "the LAN to be attached", func() error { return sound(t, lab, lan) })
	isFast(t, lab, "")
	server := at(testnet.Other4, testnet.PortEcho)
	if f := fastStatus(t, lab); len(f.Frames) > 0 {
		t.Errorf("frames go between %v, whose far ends take none", f.Frames)
	}
	t.Run("tc", func(t *testing.T) { checkFastFlow(t, lab, "udp", server) })
	for node, name := range map[*testnet.Node]string{lab.ISP: "wan0", lab.Switch: portOf(t, lab)} {
		if err := node.Do(func() error { return testnet.SetGRO(name, true) }); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, patience, "frames to be sent", func() error {
		if f := fastStatus(t, lab); len(f.Frames) != 2 {
			return fmt.Errorf("it is %+v", f)
		}
		return nil
	})
	if r := mustTorbpf(t, lab, "status"); !strings.Contains(r.stdout, "UDP by XDP between") {
		t.Errorf("status: %v", r)
	}
	t.Run("XDP", func(t *testing.T) { checkFastFlow(t, lab, "udp", server) })
	checkByRouterOnly(t, lab)
}

// portOf is the switch's end of the LAN.
func portOf(t *testing.T, lab *testnet.Lab) string {
	t.Helper()
	peer, err := lab.Switch.Netlink().LinkByIndex(linkOf(t, lab, lan).Attrs().ParentIndex)
	if err != nil {
		t.Fatal(err)
	}
	return peer.Attrs().Name
}

// TestFastPathIsOff while there is something that it would pass by or get wrong, and says what.
func TestFastPathIsOff(t *testing.T) {
	lab, d := runFast(t)
	for _, c := range []struct{ do, undo, says string }{
		{"tc qdisc add dev eth0 root tbf rate 100mbit burst 64k latency 50ms", "tc qdisc del dev eth0 root", "eth0 has a qdisc tbf"},
		{"tc qdisc add dev eth1 root htb", "tc qdisc del dev eth1 root", "eth1 has a qdisc htb"},
		{"ip rule add fwmark 0x7 lookup 77", "ip rule del fwmark 0x7 lookup 77", "goes by the mark 0x7"},
		{"ip xfrm policy add src 10.9.0.0/16 dst 10.8.0.0/16 dir out action block", "ip xfrm policy flush", "IPsec"},
		{"sysctl -w net.netfilter.nf_conntrack_acct=1", "sysctl -w net.netfilter.nf_conntrack_acct=0", "nf_conntrack_acct is 1"},
		{"sysctl -w net.netfilter.nf_conntrack_tcp_be_liberal=0", "sysctl -w net.netfilter.nf_conntrack_tcp_be_liberal=1", "nf_conntrack_tcp_be_liberal is 0"},
	} {
		runLine(t, lab, c.do)
		isFast(t, lab, c.says)
		d.await(t, c.says)
		runLine(t, lab, c.undo)
		isFast(t, lab, "")
	}
	close := foreignTCX(t, lab)
	isFast(t, lab, "eth0 has a tcx program at egress of somebody else")
	close()
	isFast(t, lab, "")
	for gone, says := range map[string]string{
		"/links/uplink_in-*": "no program uplink_in on eth0: answers go the slow way", "/maps/fast_permits": "the fast path is gone",
	} {
		removeAll(t, pinDir(t, lab)+gone)
		d.await(t, says)
		eventually(t, patience, "its repair", func() error { return sound(t, lab, lan) })
		isFast(t, lab, "")
	}
	if err := d.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = d.cmd.Wait()
	isFast(t, lab, "torbpf run does not run")
}

func runLine(t *testing.T, lab *testnet.Lab, line string) {
	t.Helper()
	words := strings.Fields(line)
	run(t, lab.Router, words[0], words[1:]...)
}

// foreignTCX puts a program of somebody else at the uplink, behind ours, until the function is
// called that it returns.
func foreignTCX(t *testing.T, lab *testnet.Lab) (remove func()) {
	t.Helper()
	const next = -1
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, Instructions: asm.Instructions{asm.Mov.Imm32(asm.R0, next), asm.Return()}})
	if err != nil {
		t.Fatal(err)
	}
	var theirs link.Link
	err = lab.Router.Do(func() (err error) {
		theirs, err = link.AttachTCX(link.TCXOptions{Interface: linkOf(t, lab, wan).Attrs().Index, Program: program, Attach: ebpf.AttachTCXEgress})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return func() { theirs.Close(); program.Close() }
}

// TestFastPathLeavesNothing: attached, switched off again, and detached.
func TestFastPathLeavesNothing(t *testing.T) {
	lab := freshLab(t)
	before := takeSnapshot(t, lab)
	detachLater(t, lab)
	fast := func(mode string) {
		t.Helper()
		mustTorbpf(t, lab, attachArgs(lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab), "--fastpath", mode)...)
	}
	liberal := func(want string) {
		t.Helper()
		if is := strings.TrimSpace(run(t, lab.Router, "sysctl", "-n", "net.netfilter.nf_conntrack_tcp_be_liberal")); is != want {
			t.Errorf("conntrack is liberal: %s, want %s", is, want)
		}
	}
	fast("auto")
	liberal("1")
	if f := fastStatus(t, lab); f.Active || len(f.Off) != 1 || !strings.Contains(f.Off[0], "torbpf run does not run") {
		t.Errorf("without torbpf run: %+v", f)
	}
	fast("off")
	liberal("0")
	if f := fastStatus(t, lab); f.Active || len(f.Off) > 0 {
		t.Errorf("switched off: %+v", f)
	}
	fast("auto")
	mustTorbpf(t, lab, "detach", "--all")
	before.checkSame(t, takeSnapshot(t, lab))
	b := badInput{name: "no mode", args: attachArgs(lab, lan, "--fastpath", "always"), code: 2, says: []string{`fastpath: "always" is none of auto, flowtable, off`}}
	b.refused(t, runTorbpf(t, lab, b.args...))
}
