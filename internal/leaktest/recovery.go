package leaktest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"

	"github.com/torbpf/torbpf/testnet"
)

// Recovery is how a router gets well again.
type Recovery interface {
	// Begin is called when torbpf is attached, before the fault.
	Begin(*Bench) error
	// Repair is called when what torbpf cannot know to change has been undone.
	Repair(*Bench) error
	// End is called before torbpf is detached.
	End(*Bench) error
}

// AttachAgain repairs by hand, with the command that status names.
type AttachAgain struct{}

// Begin does nothing.
func (AttachAgain) Begin(*Bench) error { return nil }

// Repair attaches once more.
func (AttachAgain) Repair(b *Bench) error { return b.torbpf("attach", "--no-wait") }

// End does nothing.
func (AttachAgain) End(*Bench) error { return nil }

// well reports what is not as it should be: what status complains of, and a client
// that does not get its verdict.
func (b *Bench) well() error {
	// It says what is wrong with its exit code as well.
	out, err := b.Lab.Router.Command(b.ctx, b.Program, "status", "--json").Output()
	if err != nil && len(out) == 0 {
		return fmt.Errorf("ask for the status: %w", err)
	}
	var status struct {
		Problems   []string
		Interfaces []struct {
			Name       string
			AttachedBy string `json:"attached_by"`
		}
		Counters []struct {
			Interface, Reason string
			Packets           uint64
		}
	}
	if err := json.Unmarshal(out, &status); err != nil {
		return fmt.Errorf("read status: %w", err)
	}
	if len(status.Problems) > 0 || len(status.Interfaces) == 0 && !b.own {
		var guards []string
		for _, c := range status.Counters {
			if strings.HasSuffix(c.Reason, "-guard") {
				guards = append(guards, fmt.Sprintf("%s of %s %d", c.Reason, c.Interface, c.Packets))
			}
		}
		return fmt.Errorf("status has %d interfaces and the problems: %s (%s)",
			len(status.Interfaces), strings.Join(status.Problems, "; "), strings.Join(guards, ", "))
	}
	if b.own {
		return b.ownRefused()
	}
	servers := map[netip.Addr]netip.Addr{probe4: testnet.Web4, probe6: testnet.Web6}
	if b.from.IsValid() {
		servers = map[netip.Addr]netip.Addr{b.from: testnet.Web4}
	}
	for from, server := range servers {
		if err := b.refused(from, at(server, testnet.PortHTTPS)); err != nil {
			return err
		}
	}
	return nil
}

// refused wants client1 to be told at once that there is no QUIC.
func (b *Bench) refused(from netip.Addr, server netip.AddrPort) error {
	conn, err := b.Lab.Client1.DialFrom(b.ctx, from, "udp", server.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(deadline(hush)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("no QUIC here?")); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1))
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("quic from %v to %v is not refused but: %w", from, server, err)
	}
	return nil
}

// ownRefused wants the router's own programs told at once that there is no QUIC, and that
// Tor takes nothing yet.
func (b *Bench) ownRefused() error {
	n := b.Lab.Router
	for _, server := range []netip.Addr{testnet.Web4, testnet.Web6} {
		err := testnet.Echo(n, "udp", at(server, testnet.PortHTTPS), hush)
		if !errors.Is(err, syscall.EPERM) {
			return fmt.Errorf("quic of the router to %v is not refused but: %w", server, err)
		}
		err = testnet.Echo(n, "tcp", at(server, testnet.PortEcho), hush)
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return fmt.Errorf("a connection of the router to %v is not refused but: %w", server, err)
		}
	}
	return nil
}
