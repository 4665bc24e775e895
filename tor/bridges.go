package tor

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/torbpf/torbpf/internal/config"
)

// transport is what is known of a pluggable transport.
type transport struct {
	programs []string // that speak it, in the order in which they are looked for
	install  string   // how to get one on Debian; "" where Debian has none
}

// transports are those that have a program of some fame.
var transports = map[string]transport{
	"obfs4":     {[]string{"lyrebird", "obfs4proxy"}, "apt install obfs4proxy"},
	"obfs3":     {[]string{"lyrebird", "obfs4proxy"}, "apt install obfs4proxy"},
	"meek_lite": {[]string{"lyrebird", "obfs4proxy"}, "apt install obfs4proxy"},
	"snowflake": {[]string{"snowflake-client"}, "apt install snowflake-client"},
	"webtunnel": {[]string{"webtunnel-client", "lyrebird"}, ""},
	"conjure":   {[]string{"conjure-client"}, ""},
}

// TransportProgram is the program of a transport.
type TransportProgram struct {
	Name    string `json:"name"`
	Program string `json:"program"` // its path, or what was looked for
	Found   bool   `json:"found"`
	Install string `json:"install"` // what to do about one that was not found; "" for nothing
}

// findTransport looks for the program of a transport; configured is its path, "" for none.
func findTransport(name, configured string) TransportProgram {
	t := TransportProgram{Name: name, Program: configured}
	known, named := transports[name]
	candidates := []string{configured}
	if configured == "" {
		candidates = known.programs
	}
	for _, c := range candidates {
		if path, err := lookTransport(c); err == nil {
			t.Program, t.Found = path, true
			return t
		}
	}
	switch {
	case configured != "":
		t.Install = fmt.Sprintf("%s below [tor.transports] is no program: put it right", configured)
	case !named:
		t.Install = fmt.Sprintf("name its program: %s = \"/path\" below [tor.transports], or --transport %s=/path", name, name)
	case known.install == "":
		t.Program = strings.Join(known.programs, " or ")
		t.Install = fmt.Sprintf("install %s, or name a program that speaks it: %s = \"/path\" below [tor.transports]", t.Program, name)
	default:
		t.Program = strings.Join(known.programs, " or ")
		t.Install = known.install
	}
	return t
}

// lookTransport finds a program by its name where packages put them.
func lookTransport(name string) (string, error) {
	path, err := exec.LookPath(name)
	for _, dir := range []string{"/usr/bin", "/usr/local/bin", "/usr/sbin"} {
		if err == nil || strings.Contains(name, "/") {
			break
		}
		path, err = exec.LookPath(filepath.Join(dir, name))
	}
	if err != nil {
		return "", err
	}
	return filepath.Abs(path)
}

// Transports looks for the programs that bridges need, each once.
func Transports(bridges []string, configured map[string]string) ([]TransportProgram, error) {
	var out []TransportProgram
	for _, line := range bridges {
		b, err := config.ParseBridge(line)
		if err != nil {
			return nil, err
		}
		if b.Transport != "" && !slices.ContainsFunc(out, func(t TransportProgram) bool { return t.Name == b.Transport }) {
			out = append(out, findTransport(b.Transport, configured[b.Transport]))
		}
	}
	return out, nil
}

// withBridges adds the lines that make the bridges of the options the only way into the network.
func (o Options) withBridges() (Options, error) {
	o.bridges = nil
	if len(o.Bridges) == 0 {
		return o, nil
	}
	o.bridges = []directive{{key: "UseBridges", value: "1"}}
	programs, err := Transports(o.Bridges, o.Transports)
	if err != nil {
		return o, err
	}
	for _, t := range programs {
		if !t.Found {
			return o, fmt.Errorf("use bridges by the transport %s: its program is not there: %s", t.Name, t.Install)
		}
		o.bridges = append(o.bridges, directive{"ClientTransportPlugin", fmt.Sprintf("%s exec %s", t.Name, t.Program), true})
	}
	for _, line := range o.Bridges {
		b, err := config.ParseBridge(line)
		if err != nil {
			return o, err
		}
		o.bridges = append(o.bridges, directive{"Bridge", b.String(), true})
	}
	return o, nil
}

// bridgeOptions are the user's lines that bridges of the options would undo, in lower case.
var bridgeOptions = []string{"usebridges", "bridge", "clienttransportplugin"}

// besideBridges refuses them: one of the two would be lost in silence.
func (o Options) besideBridges(extra *extraFile) error {
	if extra == nil || len(o.Bridges) == 0 {
		return nil
	}
	for _, l := range extra.lines {
		if slices.Contains(bridgeOptions, l.key) {
			return fmt.Errorf("%s:%d: bridges are configured as well (bridges below [tor], --bridge), and those hold: keep one of the two", extra.path, l.number)
		}
	}
	return nil
}

// BridgeStatus is a bridge as a tor has it.
type BridgeStatus struct {
	Transport   string `json:"transport"` // "" for none
	Address     string `json:"address"`
	Fingerprint string `json:"fingerprint"` // "" where neither the line has it nor tor has learned it
	State       string `json:"state"`       // as that of a guard; "unknown" where tor says nothing
	Connected   bool   `json:"connected"`   // tor has a connection to it now
}

// BridgesInUse are those that a tor goes by, and the programs of its transports.
type BridgesInUse struct {
	Enabled    bool
	Bridges    []BridgeStatus
	Transports []TransportProgram
}

// Bridges asks a tor for its bridges, whoever has configured them.
func (c *Control) Bridges(ctx context.Context) (*BridgesInUse, error) {
	use, err := c.GetConf(ctx, "UseBridges")
	if err != nil {
		return nil, err
	}
	lines, err := c.GetConf(ctx, "Bridge")
	if err != nil {
		return nil, err
	}
	plugins, err := c.GetConf(ctx, "ClientTransportPlugin")
	if err != nil {
		return nil, err
	}
	values, err := c.getInfos(ctx, []string{"entry-guards", "orconn-status"})
	if err != nil {
		return nil, err
	}
	out := &BridgesInUse{Enabled: slices.Equal(use, []string{"1"})}
	for _, line := range lines {
		b, err := bridgeStatus(line, values["entry-guards"], values["orconn-status"])
		if err != nil {
			return nil, err
		}
		out.Bridges = append(out.Bridges, b)
	}
	for _, plugin := range plugins {
		out.Transports = append(out.Transports, pluginOf(plugin)...)
	}
	return out, nil
}

// bridgeStatus says how one is: by its fingerprint, or where it has none by its address.
func bridgeStatus(line, guards, connections string) (BridgeStatus, error) {
	b, err := config.ParseBridge(line)
	if err != nil {
		return BridgeStatus{}, errors.New("read tor's bridges: one of them is not written as bridges are")
	}
	out := BridgeStatus{Transport: b.Transport, Address: b.Addr.String(), Fingerprint: b.Fingerprint, State: "unknown"}
	for text := range strings.Lines(connections) {
		name, state, _ := strings.Cut(strings.TrimSpace(text), " ")
		relay, err := parseRelay(name)
		same := err == nil && relay.Fingerprint == b.Fingerprint || name == b.Addr.String()
		out.Connected = out.Connected || same && state == "CONNECTED"
	}
	for text := range strings.Lines(guards) {
		fields := strings.Fields(text)
		if len(fields) < 2 {
			continue
		}
		if relay, err := parseRelay(fields[0]); err == nil && relay.Fingerprint == b.Fingerprint {
			out.State = printable(fields[1])
		}
	}
	return out, nil
}

// pluginOf reads "obfs4,obfs3 exec /usr/bin/obfs4proxy --flag"; of one that is reached by a
// socks port there is no program.
func pluginOf(value string) []TransportProgram {
	fields := strings.Fields(value)
	if len(fields) < 3 {
		return nil
	}
	var out []TransportProgram
	for name := range strings.SplitSeq(fields[0], ",") {
		t := TransportProgram{Name: printable(name), Program: printable(fields[2]), Found: true}
		if fields[1] == "exec" {
			if _, err := lookTransport(fields[2]); err != nil {
				t = findTransport(t.Name, "")
				t.Program, t.Found = printable(fields[2]), false
			}
		}
		out = append(out, t)
	}
	return out
}
