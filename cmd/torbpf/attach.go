package main

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/torbpf/torbpf/internal/api"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/internal/router"
	"github.com/torbpf/torbpf/tor"
)

// attachFlags are the flags of attach; they change the configuration only
// where they are given, so that attaching again keeps what is in force.
type attachFlags struct {
	torMode, control, torrc, binary   string
	torInstances                      string
	bridges, transports               []string
	tcpMode                           string
	transPort, dnsPort, resolverPort  uint16
	onion4, onion6                    string
	uplinks                           []string
	local                             string
	refuseInbound, force, clsact      bool
	early, fastPath                   string
	skipFirewallProbe                 bool
	noWait, asJSON, client            bool
	markShift                         uint8
	timeout                           time.Duration
	excludes, excludeSources, exMarks []string
}

func newAttach() *cobra.Command {
	var f attachFlags
	cmd := &cobra.Command{
		Use:   "attach [INTERFACE...] [--client]",
		Short: "Put every device behind these interfaces on Tor, or this machine itself",
		Long: `attach puts every device behind the given LAN interfaces on Tor and returns
when Tor is ready. All of it goes on without the command. Attaching again adds
interfaces, refreshes what follows the host, and repairs what was removed.

With --client it puts what this machine itself sends on Tor, with or without devices
behind it; torbpf exclude add --client says what of that goes direct, torbpf exec runs
one program otherwise.

Until Tor is ready, and whenever it is not, clients are refused at once.`,
		Example: `  sudo torbpf attach eth1
  sudo torbpf attach br-lan wlan1 --no-wait
  sudo torbpf attach --client
  sudo torbpf attach eth1 --tor system
  sudo torbpf attach eth1 --bridge "obfs4 192.0.2.7:443 FINGERPRINT cert=... iat-mode=0"`,
		Args:              apartArgs,
		ValidArgsFunction: completeLANs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.run(cmd, args)
		},
	}
	f.register(cmd)
	return cmd
}

func (f *attachFlags) register(cmd *cobra.Command) {
	d := config.Default()
	flags := cmd.Flags()
	flags.StringVar(&f.torMode, "tor", string(d.Tor.Mode), "whose tor: managed (started by torbpf) or system (already running)")
	flags.StringVar(&f.tcpMode, "tcp-mode", string(d.Tor.TCPMode), "how TCP of devices gets to tor: redirect (by NAT) or tproxy (handed to its socket)")
	flags.StringVar(&f.control, "control", "", "control port of a system tor: a socket's path or 127.0.0.1:9051")
	flags.StringVar(&f.torrc, "torrc", "", "append this file's lines to the managed tor's configuration")
	flags.StringArrayVar(&f.bridges, "bridge", nil, "enter Tor by this bridge, as it was handed out, and by others of this flag alone; \"\" for none")
	flags.StringArrayVar(&f.transports, "transport", nil, "the program of a pluggable transport that bridges need, such as obfs4=/usr/bin/obfs4proxy")
	flags.StringVar(&f.torInstances, "tor-instances", d.Tor.Instances.String(), "how many managed tors share the devices: 1 to 16, or auto (one for two CPUs)")
	flags.StringVar(&f.binary, "tor-binary", d.Tor.Binary, "the tor program")
	flags.Uint16Var(&f.transPort, "trans-port", d.Tor.TransPort, "port of tor's TransPort")
	flags.Uint16Var(&f.dnsPort, "dns-port", d.Tor.DNSPort, "port of tor's DNSPort")
	flags.Uint16Var(&f.resolverPort, "resolver-port", d.Tor.ResolverPort, "port for DNS that DNSPort cannot answer")
	flags.StringVar(&f.onion4, "onion4", "", "IPv4 range for .onion names (default: one that misses every local route)")
	flags.StringVar(&f.onion6, "onion6", "", "IPv6 range for .onion names")
	flags.BoolVar(&f.client, "client", false, "put what this machine itself sends on Tor; --client=false takes it off")
	flags.StringSliceVar(&f.uplinks, "uplink", nil, "interfaces that lead outside, beside those with a default route")
	flags.StringVar(&f.local, "local", string(d.Local), "private destinations: connected (local subnets only), reserved (all go direct), none")
	flags.BoolVar(&f.refuseInbound, "refuse-inbound", false, "refuse replies to connections begun outside (port forwards end)")
	flags.Uint8Var(&f.markShift, "mark-shift", d.MarkShift, "lowest of the eight fwmark bits that torbpf uses")
	flags.StringVar(&f.fastPath, "fastpath", string(d.FastPath), "let flows that are excluded skip the kernel's forwarding, as far as it lets them through: auto, flowtable (that of nftables), off")
	flags.StringVar(&f.early, "early-refusal", string(d.Early), "drop a flood of refused packets by XDP: auto, native (in the driver), generic, off")
	flags.BoolVar(&f.clsact, "clsact", false, "attach by clsact even where the kernel has tcx")
	flags.BoolVar(&f.force, "force", false, "take an interface that carries a default route, or an exclusion of everything")
	flags.BoolVar(&f.skipFirewallProbe, "skip-firewall-probe", false, "do not ask whether this host's firewall lets in what is redirected")
	flags.StringSliceVar(&f.excludes, "exclude", nil, "destination prefixes that go direct: of devices, or of this machine where there are none")
	flags.StringSliceVar(&f.excludeSources, "exclude-source", nil, "source prefixes that go direct, of devices")
	flags.StringSliceVar(&f.exMarks, "exclude-mark", nil, "fwmarks (0x100 or 0x100/0xff00) that go direct, as with --exclude")
	f.timeout = d.Tor.Timeout
	flags.Var(life{&f.timeout}, "timeout", "how long to wait for Tor")
	flags.BoolVar(&f.noWait, "no-wait", false, "return at once instead of when Tor is ready")
	flags.BoolVar(&f.asJSON, "json", false, "print the result as JSON")
	offer(cmd, "uplink", completeInterfaces)
	completeFlags(cmd, map[string][]string{
		"tor":           {string(config.TorManaged), string(config.TorSystem)},
		"tor-instances": {"1", "2", "4", config.AutoInstances.String()},
		"tcp-mode":      {string(config.TCPRedirect), string(config.TCPTProxy)},
		"fastpath":      {string(config.FastPathAuto), string(config.FastPathFlowtable), string(config.FastPathOff)},
		"early-refusal": {string(config.EarlyAuto), string(config.EarlyNative), string(config.EarlyGeneric), string(config.EarlyOff)},

		"local": {string(config.LocalConnected), string(config.LocalReserved), string(config.LocalNone)},
	})
}

func (f *attachFlags) run(cmd *cobra.Command, args []string) error {
	if f.timeout <= 0 {
		return usageError{err: fmt.Errorf("--timeout %s leaves no time: give some, such as 2m, or --no-wait", shortTime(f.timeout)), command: cmd.CommandPath()}
	}
	edit, err := f.edit(cmd, args)
	if err != nil {
		return usageError{err: err, command: cmd.CommandPath()}
	}
	r, err := newRouter()
	if err != nil {
		return err
	}
	bar := newBootstrapBar(f.noWait || f.asJSON)
	result, err := r.Attach(cmd.Context(), edit, router.AttachOptions{NoWait: f.noWait, Timeout: f.timeout, Progress: bar.show})
	bar.finish(err == nil)
	if result != nil {
		warn(result.Warnings)
	}
	if err != nil {
		return err
	}
	return f.report(cmd, r, result)
}

func (f *attachFlags) report(cmd *cobra.Command, r *router.Router, result *router.Result) error {
	if f.asJSON {
		return printJSON(cmd.OutOrStdout(), attachedJSON(result, nil))
	}
	out := cmd.OutOrStdout()
	names := strings.Join(result.Plan.LANNames(), ", ")
	switch {
	case f.noWait:
		fmt.Fprintf(out, "attached to %s; clients are refused until Tor is ready (torbpf status)\n", result.Plan.Whom())
	case names == "":
		fmt.Fprintln(out, "this machine is on Tor")
	case onClient(result.Plan):
		fmt.Fprintf(out, "this machine and every device behind %s are on Tor\n", names)
	default:
		fmt.Fprintf(out, "every device behind %s is on Tor\n", names)
	}
	fmt.Fprintln(out, nextSteps(names != "", api.Listens(r.APISocket())))
	return nil
}

// nextSteps names what to type after attach; what is attached is gone after a reboot, but
// where `torbpf run` is at work.
func nextSteps(devices, runs bool) string {
	steps := "what happens now: torbpf status"
	if devices {
		steps += "; who they are: torbpf device list"
	}
	if !runs {
		steps += "; at every boot: torbpf enable"
	}
	return steps
}

// attachedJSON is what attach has to say, and more.
func attachedJSON(result *router.Result, more map[string]any) map[string]any {
	out := map[string]any{
		"schema": 1, "interfaces": append([]string{}, result.Plan.LANNames()...), "client": onClient(result.Plan), "seconds": result.Took.Seconds(), "warnings": append([]string{}, result.Warnings...),
	}
	maps.Copy(out, more)
	return out
}

func onClient(p *plan.Plan) bool { return p.Client != nil && p.Client.All }

// edit returns the change that the flags ask for.
func (f *attachFlags) edit(cmd *cobra.Command, args []string) (func(*config.Config), error) {
	given := cmd.Flags().Changed
	var edits []func(*config.Config)
	on := func(flag string, change func(*config.Config)) {
		if given(flag) {
			edits = append(edits, change)
		}
	}
	on("uplink", func(c *config.Config) { c.Uplinks = f.uplinks })
	on("local", func(c *config.Config) { c.Local = config.LocalMode(f.local) })
	on("refuse-inbound", func(c *config.Config) { c.Inbound = !f.refuseInbound })
	on("mark-shift", func(c *config.Config) { c.MarkShift = f.markShift })
	on("fastpath", func(c *config.Config) { c.FastPath = config.FastPath(f.fastPath) })
	on("early-refusal", func(c *config.Config) { c.Early = config.Early(f.early) })
	on("clsact", func(c *config.Config) { c.Clsact = f.clsact })
	on("force", func(c *config.Config) {
		c.Force = f.force
		c.Everything = f.force && (c.Everything || c.Rules.Everything())
	})
	on("skip-firewall-probe", func(c *config.Config) { c.SkipFirewallProbe = f.skipFirewallProbe })
	torEdits, err := f.editTor(given)
	if err != nil {
		return nil, err
	}
	exclude, err := f.editExclusions()
	if err != nil {
		return nil, err
	}
	edits = append(edits, torEdits...)
	return func(c *config.Config) {
		for _, name := range args {
			if !slices.Contains(c.Interfaces, name) {
				c.Interfaces = append(c.Interfaces, name)
			}
		}
		if given("client") {
			c.Client.Enable = f.client
		}
		exclude(c) // knowing whose they are; and whether they are all of it decides what force means
		for _, change := range edits {
			change(c)
		}
	}, nil
}

func (f *attachFlags) editTor(given func(string) bool) ([]func(*config.Config), error) {
	var edits []func(*config.Config)
	on := func(flag string, change func(*config.Tor)) {
		if given(flag) {
			edits = append(edits, func(c *config.Config) { change(&c.Tor) })
		}
	}
	onion4, onion6, err := f.onionRanges()
	if err != nil {
		return nil, err
	}
	instances, err := config.ParseInstances(f.torInstances)
	if err != nil {
		return nil, fmt.Errorf("--tor-instances: %w", err)
	}
	transports, err := f.transportPrograms()
	if err != nil {
		return nil, err
	}
	torrc := f.torrc
	if torrc != "" {
		if torrc, err = filepath.Abs(torrc); err != nil {
			return nil, err
		}
		if _, err := os.Stat(torrc); err != nil {
			return nil, fmt.Errorf("read --torrc: %w: name a file of lines for tor, such as bridges", err)
		}
	}
	on("tor", func(t *config.Tor) {
		t.Mode = config.TorMode(f.torMode)
		if t.Mode == config.TorManaged {
			t.Control = ""
		}
	})
	on("tcp-mode", func(t *config.Tor) { t.TCPMode = config.TCPMode(f.tcpMode) })
	on("control", func(t *config.Tor) { t.Control = f.control })
	on("tor-instances", func(t *config.Tor) { t.Instances = instances })
	on("torrc", func(t *config.Tor) { t.Torrc = torrc })
	on("bridge", func(t *config.Tor) {
		t.Bridges = slices.DeleteFunc(slices.Clone(f.bridges), func(line string) bool { return line == "" })
	})
	on("transport", func(t *config.Tor) { t.Transports = transports })
	on("tor-binary", func(t *config.Tor) { t.Binary = f.binary })
	on("trans-port", func(t *config.Tor) { t.TransPort = f.transPort })
	on("dns-port", func(t *config.Tor) { t.DNSPort = f.dnsPort })
	on("resolver-port", func(t *config.Tor) { t.ResolverPort = f.resolverPort })
	on("onion4", func(t *config.Tor) { t.Onion4 = onion4 })
	on("onion6", func(t *config.Tor) { t.Onion6 = onion6 })
	return edits, nil
}

// transportPrograms reads NAME=PATH.
func (f *attachFlags) transportPrograms() (map[string]string, error) {
	out := make(map[string]string)
	for _, t := range f.transports {
		name, path, ok := strings.Cut(t, "=")
		if !ok || path == "" {
			return nil, fmt.Errorf("--transport %s: write the transport and its program, such as obfs4=/usr/bin/obfs4proxy", t)
		}
		out[name] = path
	}
	return out, nil
}

func (f *attachFlags) onionRanges() (onion4, onion6 netip.Prefix, err error) {
	if f.onion4 != "" {
		if onion4, err = config.ParsePrefix(f.onion4); err != nil {
			return onion4, onion6, fmt.Errorf("read --onion4: %w", err)
		}
	}
	if f.onion6 != "" {
		if onion6, err = config.ParsePrefix(f.onion6); err != nil {
			return onion4, onion6, fmt.Errorf("read --onion6: %w", err)
		}
	}
	return onion4, onion6, nil
}

// editExclusions adds what goes direct: of devices, and without any of this machine.
func (f *attachFlags) editExclusions() (func(*config.Config), error) {
	kinds := []struct {
		kind   config.Kind
		values []string
	}{
		{config.KindDestination, f.excludes}, {config.KindSource, f.excludeSources}, {config.KindMark, f.exMarks},
	}
	var entries []config.Entry
	for _, k := range kinds {
		for _, v := range k.values {
			entry, err := config.ParseEntry(k.kind, v)
			if err != nil {
				return nil, err
			}
			entries = append(entries, entry)
		}
	}
	return func(c *config.Config) {
		for _, e := range entries {
			r := config.Direct(e)
			r.Client = c.Client.Enable && len(c.Interfaces) == 0
			r.Runtime, r.Origin = true, "attach"
			c.Rules.Add(r)
		}
	}, nil
}

// bootstrapBar shows Tor's bootstrap on stderr: a bar with the current phase
// on a terminal, a line for each phase elsewhere.
type bootstrapBar struct {
	bar  *progressbar.ProgressBar
	last string
	off  bool
}

func newBootstrapBar(off bool) *bootstrapBar {
	b := &bootstrapBar{off: off}
	if !off && isTerminal(os.Stderr) {
		b.bar = progressbar.NewOptions(100,
			progressbar.OptionSetWriter(os.Stderr),
			progressbar.OptionSetWidth(30),
			progressbar.OptionSetPredictTime(false),
			progressbar.OptionSetElapsedTime(false),
			progressbar.OptionClearOnFinish(),
			progressbar.OptionSetDescription("Tor"))
	}
	return b
}

func (b *bootstrapBar) show(p tor.Progress) {
	switch {
	case b.off:
	case b.bar != nil:
		b.bar.Describe("Tor: " + p.Summary)
		_ = b.bar.Set(p.Percent) // drawing is all that can fail
	default:
		if line := p.String(); line != b.last {
			fmt.Fprintln(os.Stderr, "Tor:", line)
			b.last = line
		}
	}
}

func (b *bootstrapBar) finish(done bool) {
	if b.bar == nil {
		return
	}
	if done {
		_ = b.bar.Finish()
	} else {
		_ = b.bar.Exit()
		fmt.Fprintln(os.Stderr)
	}
}
