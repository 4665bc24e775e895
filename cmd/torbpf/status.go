package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/router"
)

func newStatus() *cobra.Command {
	cmd := &cobra.Command{Use: "status", Short: "Show what happens to the LAN's traffic, and why"}
	return newNoun(cmd, func(ctx context.Context, r *router.Router) (shown, error) {
		status, err := r.Status(ctx)
		if err != nil {
			return shown{}, err
		}
		return shown{status, func(w io.Writer) error { return printStatus(w, status) }, alarm(status)}, nil
	})
}

// alarm is the error that tells of what only the last guards have stopped.
func alarm(s *router.Status) error {
	if s.Stopped == 0 {
		return nil
	}
	return fmt.Errorf("%w: %d", router.ErrStopped, s.Stopped)
}

func printStatus(w io.Writer, s *router.Status) error {
	if printProblems(w, s, "torbpf check shows those of which the headers were kept") {
		fmt.Fprintln(w)
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, i := range s.Interfaces {
		fmt.Fprintf(t, "LAN\t%s\t%s\n", i.Name, attachedBy(i))
	}
	for _, name := range s.Waiting {
		fmt.Fprintf(t, "LAN\t%s\tblocked until it can be attached\n", name)
	}
	if s.Client {
		fmt.Fprintln(t, "client\tthis machine\ton Tor")
		fmt.Fprintf(t, "\thas sent\t%s\n", ownWords(s))
	}
	for _, e := range s.Exec {
		how := "by Tor"
		if e.Policy == config.PolicyDirect {
			how = "past Tor"
		}
		fmt.Fprintf(t, "exec\t%s\t%s\n", cmp.Or(strings.Join(e.Programs, ", "), "has ended"), how)
	}
	if s.ProxyPort != 0 {
		fmt.Fprintf(t, "proxy\t127.0.0.1:%d\tpast Tor, for whoever on this machine asks it\n", s.ProxyPort)
	}
	for _, i := range s.Uplinks {
		fmt.Fprintf(t, "uplink\t%s\tguarded: %s\n", i.Name, attachedBy(i))
	}
	printFast(t, s.Fast)
	printTor(t, s)
	fmt.Fprintf(t, "last guards\tstopped\t%d packets\n", s.Stopped)
	if s.Resolver.IsValid() {
		fmt.Fprintf(t, "resolver\t%s\tis asked %s, in clear\n", s.Resolver, askedFor(s))
	}
	if s.OwnDNS > 0 {
		fmt.Fprintf(t, "own DNS\tsent\t%d packets of the router itself, not by Tor\n", s.OwnDNS)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	if err := listRules(w, s.Rules, s.Lists, s.Resolver); err != nil {
		return err
	}
	fmt.Fprintln(w)
	if err := printCounters(w, s); err != nil {
		return err
	}
	printNotes(w, s)
	return nil
}

// printNotes says what is waited for, what to mind, and what this kernel goes without.
func printNotes(w io.Writer, s *router.Status) {
	for _, why := range s.Unfit {
		fmt.Fprintf(w, "note: waiting, since %s\n", why)
	}
	for _, warning := range s.Warnings {
		fmt.Fprintf(w, "warning: %s\n", warning)
	}
	for _, l := range s.Lacks {
		fmt.Fprintf(w, "note: this kernel has %s\n", l)
	}
}

// ownWords tell what this machine itself has sent, by what became of it.
func ownWords(s *router.Status) string {
	var out []string
	for _, f := range []struct{ fate, words string }{
		{"tor", "%s by Tor"}, {"direct", "%s direct"}, {"local", "%s local"}, {"refused", "%s refused"}, {"tor_itself", "%s by tor itself"},
	} {
		c := s.OwnTraffic[f.fate]
		text := counted(int(c.Packets), "packet", "packets")
		if c.Packets > 0 {
			text += fmt.Sprintf(" (%s)", size(c.Bytes))
		}
		out = append(out, fmt.Sprintf(f.words, text))
	}
	return strings.Join(out, ", ")
}

// printTor says which tor there is, and what gets there.
func printTor(t io.Writer, s *router.Status) {
	printTors(t, s)
	if s.Tor.TCPMode == config.TCPTProxy {
		fmt.Fprintf(t, "TCP\t%s\thanded to tor's socket, without NAT\n", s.Tor.TCPMode)
	}
	fmt.Fprintf(t, ".onion\t%s\t%s\n", s.Tor.Onion4, s.Tor.Onion6)
}

// askedFor says what the resolver is for.
func askedFor(s *router.Status) string {
	names := len(s.Rules.Of(config.KindDomain)) > 0
	switch {
	case s.ProxyPort == 0:
		return "for excluded names"
	case names:
		return "for excluded names and by the proxy"
	}
	return "by the proxy"
}

// printProblems says what is wrong and what to type; headers is where those of what was
// stopped are to be found. It tells whether there is anything.
func printProblems(w io.Writer, s *router.Status, headers string) bool {
	for _, p := range s.Problems {
		fmt.Fprintf(w, "! %s\n", p)
	}
	if s.Stopped > 0 {
		fmt.Fprintf(w, "! %d packets got as far as the last guards, which stopped them: something bypasses the tc programs or nftables (%s)\n", s.Stopped, headers)
	}
	if len(s.Problems) > 0 {
		fmt.Fprintln(w, "to repair: `sudo torbpf attach` once more, or let `torbpf run` do it")
	}
	return len(s.Problems) > 0 || s.Stopped > 0
}

func printCounters(w io.Writer, s *router.Status) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "INTERFACE\tVERDICT\tREASON\tPACKETS\tBYTES")
	for _, c := range s.Counters {
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%d\n", c.Interface, c.Verdict, c.Reason, c.Packets, c.Bytes)
	}
	for _, g := range s.Guards {
		if g.Packets > 0 {
			fmt.Fprintf(t, "nftables\tdropped\t%s\t%d\t%d\n", g.Guard, g.Packets, g.Bytes)
		}
	}
	return t.Flush()
}

func attachedBy(i router.InterfaceStatus) string {
	switch {
	case i.AttachedBy == "":
		return "NOT ATTACHED"
	case i.Early == "native" || i.Early == "generic":
		return fmt.Sprintf("%s, floods are refused by XDP (%s)", i.AttachedBy, i.Early)
	}
	return i.AttachedBy
}

// printTors prints a line, and where there are several one more for each.
func printTors(w io.Writer, s *router.Status) {
	fmt.Fprintf(w, "Tor\t%s\t%s\n", s.Tor.Mode, torLine(s))
	if len(s.Tor.Instances) == 1 {
		return
	}
	for _, i := range s.Tor.Instances {
		fmt.Fprintf(w, "Tor %d\t%d, %d\t%s\n", i.Instance, i.TransPort, i.DNSPort, instanceLine(i))
	}
}

// instanceLine is one of several tors.
func instanceLine(t router.TorInstance) string {
	if !t.Alive {
		return "no answer, its devices use the others: " + t.Summary
	}
	devices := fmt.Sprintf("%d devices", t.Devices)
	if t.Devices == 1 {
		devices = "1 device"
	}
	text := fmt.Sprintf("%d%% (%s), %s, %s", t.Percent, t.Summary, devices, torTraffic(t))
	if !t.Ready {
		text += ": not ready"
	}
	return text
}

// printFast says whether there is a fast path, if one was asked for, and why not.
func printFast(w io.Writer, f router.FastStatus) {
	switch {
	case f.Mode == config.FastPathOff:
		return
	case !f.Active:
		fmt.Fprintf(w, "fast path\t%s\toff: %s\n", f.Mode, strings.Join(f.Off, "; "))
		return
	}
	if f.Mode == config.FastPathFlowtable {
		fmt.Fprintf(w, "fast path\t%s\ton: flows between %s\n", f.Mode, strings.Join(f.Flows, ", "))
		return
	}
	text := fmt.Sprintf("on: %d packets to uplinks, %d to LANs", f.Out, f.In)
	if len(f.Frames) > 1 {
		text += "; UDP by XDP between " + strings.Join(f.Frames, ", ")
	}
	fmt.Fprintf(w, "fast path\t%s\t%s\n", f.Mode, text)
}

func torLine(s *router.Status) string {
	t := s.Tor
	if !t.Alive {
		return "no answer: " + t.Summary
	}
	text := fmt.Sprintf("%s, %d%% (%s)", t.Version, t.Percent, t.Summary)
	if len(t.Instances) == 1 {
		text += ", " + torTraffic(t.Instances[0])
	}
	if !s.Ready {
		text += ": not ready, so clients are refused"
	}
	return text
}

// torTraffic is what one of the tors has to go by, and what it has carried.
func torTraffic(t router.TorInstance) string {
	return fmt.Sprintf("%s, %s in, %s out", counted(t.Circuits, "circuit", "circuits"), size(t.Read), size(t.Written))
}
