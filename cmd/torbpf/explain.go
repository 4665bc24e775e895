package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/miekg/dns"
	"github.com/spf13/cobra"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/router"
)

// explainFlags say which packet is asked about.
type explainFlags struct {
	ownFlags
	to, proto, mac, mark string
	asJSON, watch        bool
	question             router.Question
}

func newExplain() *cobra.Command {
	f := explainFlags{}
	cmd := &cobra.Command{
		Use:   "explain",
		Short: "Say what becomes of a packet of a device's or of this machine's, why, and how to change it",
		Long: `explain asks the program that judges a LAN's packets what it would do with one, and says
why, which rule decided, what nftables and routing do then, and what to type for another
outcome. It is the program itself, on the rules in force, with all that acts switched
off: nothing is sent, counted or answered, and the device is told no less of refusals.

The device is told by an address of it, or by its name (torbpf device name) or hardware
address where the router knows an address. With a name for --to it says who answers the DNS
query for that; the name is not resolved.

With --own it is about what begins a flow of this machine's own, in client mode: it goes by the
maps of the programs that judge sockets and by the rules of nftables, as they are in the kernel.
Nothing is sent. Who sends it is said by --user, --cgroup, --program or --pid.

With --watch it prints what one device is refused from then on, a line each, until it is
interrupted.`,
		Example: `  sudo torbpf explain --from 192.168.1.7 --to 1.1.1.1 --proto udp --dport 443
  sudo torbpf explain --from 192.168.1.7 --to 10.8.0.1 --proto icmp
  sudo torbpf explain --from 192.168.1.7 --to bank.example --type HTTPS
  sudo torbpf explain --own --to 1.1.1.1 --dport 443 --user alice
  sudo torbpf explain --own --to 192.0.2.53 --proto udp --dport 53 --pid 4711
  sudo torbpf explain --watch --from kitchen-tv`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	flags, q := cmd.Flags(), &f.question
	flags.StringVar(&q.Who, "from", "", "the device: an address of it, its name or its hardware address")
	flags.StringVar(&f.to, "to", "", "where the packet goes: an address, or a name for its DNS query")
	flags.StringVar(&f.proto, "proto", "tcp", "tcp, udp, icmp, gre, or a number")
	flags.Uint16Var(&q.SrcPort, "sport", 0, "the source port, where it matters")
	flags.Uint16Var(&q.DstPort, "dport", 0, "the destination port (TCP: 443)")
	flags.StringVar(&q.Type, "type", "", "the record that a DNS query asks for, such as AAAA or HTTPS (A)")
	flags.StringVar(&f.mac, "mac", "", "the device's hardware address, if the router does not know it")
	flags.StringVar(&f.mark, "mark", "", "the fwmark with which it arrives, if your own rules set one before; with --own that of its socket")
	flags.StringVar(&q.LAN, "lan", "", "the interface it comes by, where the address does not say")
	flags.BoolVar(&f.watch, "watch", false, "print what the device is refused from now on")
	flags.BoolVar(&f.asJSON, "json", false, "print as JSON, with --watch a line for each")
	f.registerOwn(cmd)
	offer(cmd, "from", completeDevices)
	offer(cmd, "lan", completeAttached)
	completeFlags(cmd, map[string][]string{"proto": {"tcp", "udp", "icmp", "gre"}, "type": {"A", "AAAA", "HTTPS", "PTR", "TXT", "MX"}})
	return cmd
}

func (f *explainFlags) run(cmd *cobra.Command) error {
	parse := func() error { return f.parse(cmd) }
	if f.watch && !f.own {
		parse = func() error { return f.parseWatch(cmd) }
	}
	err := f.apart(cmd)
	if err == nil {
		err = parse()
	}
	if err != nil {
		return usageError{err: err, command: cmd.CommandPath()}
	}
	r, err := newRouter()
	if err != nil {
		return err
	}
	if f.watch {
		return r.WatchRefusals(cmd.Context(), f.question.Who, f.printRefused(cmd.OutOrStdout()))
	}
	ask := r.Explain
	if f.own {
		ask = func(router.Question) (*router.Explanation, error) { return f.askOwn(r) }
	}
	e, err := ask(f.question)
	if err != nil {
		return err
	}
	if f.asJSON {
		return printJSON(cmd.OutOrStdout(), e)
	}
	return printExplanation(cmd.OutOrStdout(), e)
}

// parse reads the flags into the question.
func (f *explainFlags) parse(cmd *cobra.Command) error {
	q := &f.question
	if q.Who == "" && !f.own || f.to == "" {
		return errors.New("which packet? give --to ADDRESS, and --from ADDRESS for a device's or --own for this machine's")
	}
	var err error
	if q.To, err = netip.ParseAddr(f.to); err != nil {
		if q.To = (netip.Addr{}); !isName(f.to) {
			return fmt.Errorf("--to %q is neither an address nor a name: write 1.1.1.1, or bank.example for its DNS query", f.to)
		}
		if f.own {
			return errNoOwnName
		}
		q.Name = f.to
	}
	if err := f.fits(cmd); err != nil {
		return err
	}
	q.To = q.To.WithZone("").Unmap()
	if q.Protocol, err = config.ParseProtocol(f.proto); err != nil {
		return err
	}
	if f.proto == "tcp" {
		q.DstPort = cmp.Or(q.DstPort, 443)
	}
	if f.mac != "" {
		if q.MAC, err = config.ParseMAC(f.mac); err != nil {
			return err
		}
	}
	if f.mark != "" {
		mark, err := strconv.ParseUint(f.mark, 0, 32)
		if err != nil {
			return fmt.Errorf("--mark %q is no mark: write a number such as 0x100", f.mark)
		}
		q.Mark = uint32(mark)
	}
	return nil
}

// fits refuses flags that would be ignored: a name is asked for by one kind of packet.
func (f *explainFlags) fits(cmd *cobra.Command) error {
	asks := f.proto == "udp" && f.question.DstPort == config.PortDNS
	if f.question.Name == "" && f.question.Type != "" && !asks {
		return fmt.Errorf("--type is of a DNS query: ask for a name with --to bank.example, or add --proto udp --dport %d", config.PortDNS)
	}
	if f.question.Name == "" {
		return nil
	}
	if strings.ContainsFunc(f.question.Name, func(r rune) bool { return r > unicode.MaxASCII }) {
		return fmt.Errorf("--to %s: devices ask for names as DNS has them (xn--...): write that", f.question.Name)
	}
	for _, name := range []string{"proto", "dport"} {
		if cmd.Flags().Changed(name) {
			return fmt.Errorf("--to %s asks about the DNS query for that name: leave --%s out, or write an address instead of the name", f.question.Name, name)
		}
	}
	return nil
}

// parseWatch is parse with --watch, which is about whatever the device sends.
func (f *explainFlags) parseWatch(cmd *cobra.Command) error {
	if f.question.Who == "" {
		return errors.New("which device? give --from ADDRESS")
	}
	for _, name := range []string{"to", "proto", "sport", "dport", "type", "mac", "mark", "lan"} {
		if cmd.Flags().Changed(name) {
			return fmt.Errorf("--watch is about all that the device is refused: leave --%s out", name)
		}
	}
	return nil
}

// watchedLine is a refusal in JSON.
type watchedLine struct {
	Schema int `json:"schema"`
	router.Refused
}

// printRefused prints a refusal a line, as they come.
func (f *explainFlags) printRefused(w io.Writer) func(router.Refused) {
	encoder := json.NewEncoder(w)
	return func(r router.Refused) {
		if f.asJSON {
			_ = encoder.Encode(watchedLine{1, r}) // a reader that is gone ends this by SIGPIPE
			return
		}
		fmt.Fprintf(w, "%s %s\n", r.Time.Format(time.TimeOnly), packetText("", r))
	}
}

// isName tells a name from an address with a slip in it, which ends in a number.
func isName(s string) bool {
	_, ok := dns.IsDomainName(s)
	labels := dns.SplitDomainName(s)
	if !ok || len(labels) == 0 || strings.ContainsAny(s, ":/ ") {
		return false
	}
	_, err := strconv.ParseUint(labels[len(labels)-1], 10, 64)
	return err != nil
}

func printExplanation(w io.Writer, e *router.Explanation) error {
	fmt.Fprintln(w, packetLine(e.Packet))
	line := func(label, format string, args ...any) {
		fmt.Fprintf(w, "  %-10s %s\n", label, fmt.Sprintf(format, args...))
	}
	line("verdict", "%s", e.Verdict)
	line("reason", "%s: %s", e.Reason, e.Meaning)
	if e.Ready != nil {
		line("", "once Tor is ready: %s, %s: %s", e.Ready.Verdict, e.Ready.Reason, e.Ready.Meaning)
	}
	line("decided", "%s", e.Decided)
	if e.Verdict == "refused" {
		line("answer", "%s", cmp.Or(e.Answer, "none, in silence"))
	}
	for _, list := range []struct {
		label string
		texts []string
	}{{"then", e.Then}, {"depends on", e.Depends}, {"note", e.Notes}} {
		for _, text := range list.texts {
			line(list.label, "%s", text)
		}
	}
	for i, a := range e.Change {
		if i == 0 {
			fmt.Fprintln(w, "to change it:")
		}
		fmt.Fprintf(w, "  %s\n      %s\n", a.Command, a.Effect)
	}
	return nil
}

// packetEnd tells an address with its port, if there is one.
func packetEnd(addr string, port uint16) string {
	if port == 0 {
		return addr
	}
	return net.JoinHostPort(addr, strconv.Itoa(int(port)))
}

// packetLine tells a packet as captures do.
func packetLine(p router.Packet) string {
	text := fmt.Sprintf("%s > %s, %s", packetEnd(p.From, p.SrcPort), packetEnd(p.To, p.DstPort), p.Protocol)
	if p.LAN != "" {
		text += ", by " + p.LAN
	} else {
		text += ", by this machine itself"
	}
	if p.Sender != "" {
		text += ", " + p.Sender
	}
	if p.MAC != "" {
		text += " from " + p.MAC
	}
	if p.Mark != 0 {
		text += fmt.Sprintf(", mark %#x", p.Mark)
	}
	if p.Query != "" {
		text += ", DNS query " + p.Query
	}
	return text
}
