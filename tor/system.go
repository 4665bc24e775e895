package tor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/torbpf/torbpf/internal/plan"
)

// SystemSockets are where distributions put the control socket of their tor.
var SystemSockets = []string{"/run/tor/control", "/var/run/tor/control"}

// SystemTor is a tor of the user's that can serve a LAN as it is configured.
type SystemTor struct {
	Address        string // of its control port
	Version        string
	PID            int
	Ports          plan.Ports // Trans and DNS as found, Resolver as wished
	Onion4, Onion6 netip.Prefix
}

// UnfitError says what a tor of the user's lacks.
type UnfitError struct {
	Address string
	Lines   []string // to add to its torrc
}

func (e *UnfitError) Error() string {
	return fmt.Sprintf("use the tor at %s: it cannot serve a LAN as it is; add these lines to its torrc and reload it:\n  %s",
		e.Address, strings.Join(e.Lines, "\n  "))
}

// System examines a running tor and changes nothing about it. An empty
// address means the first of SystemSockets that exists. Of o it takes what
// tor should have: Ports, Onion4, Onion6 and AllowFrom. What is missing comes
// back as an *UnfitError, together with what was found.
//
// To plan with what is there before it is known whom tor must serve, leave
// AllowFrom and the ranges zero: they are not judged then, and the ranges found
// are zero where tor has only its default, which no LAN can use.
func System(ctx context.Context, address string, o Options) (*SystemTor, error) {
	if address == "" {
		var err error
		if address, err = systemSocket(); err != nil {
			return nil, err
		}
	}
	c, err := Dial(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("use the tor at %s: %w", address, err)
	}
	defer c.Close()
	e := examiner{ctx: ctx, control: c, wish: o, v6: o.hasIPv6()}
	found := &SystemTor{Address: address, Ports: o.Ports}
	e.identity(found)
	e.listeners(found)
	e.automap(found)
	e.policy()
	if e.err != nil {
		return nil, fmt.Errorf("use the tor at %s: %w", address, e.err)
	}
	if len(e.missing) > 0 {
		return found, &UnfitError{Address: address, Lines: e.missing}
	}
	return found, nil
}

func systemSocket() (string, error) {
	for _, path := range SystemSockets {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("find a running tor: none of %s exists; start tor with these lines in its torrc, "+
		"or give the address of its control port:\n  ControlSocket %s\n  CookieAuthentication 1",
		strings.Join(SystemSockets, ", "), SystemSockets[0])
}

// examiner collects what a tor lacks. After an error its questions are void.
type examiner struct {
	ctx     context.Context
	control *Control
	wish    Options
	v6      bool
	missing []string
	err     error
}

func (e *examiner) info(key string) (value string) {
	if e.err == nil {
		value, e.err = e.control.GetInfo(e.ctx, key)
	}
	return value
}

func (e *examiner) conf(option string) (values []string) {
	if e.err == nil {
		values, e.err = e.control.GetConf(e.ctx, option)
	}
	return values
}

// conf1 returns the value of an option that has one.
func (e *examiner) conf1(option string) string {
	if v := e.conf(option); len(v) > 0 {
		return v[0]
	}
	return ""
}

// want notes the lines of one option from those a managed tor would have.
func (e *examiner) want(lines []directive, key string) {
	for _, d := range lines {
		if d.key == key {
			e.missing = append(e.missing, d.line())
		}
	}
}

// identity refuses a tor in another network namespace: a socket in the file
// system leads there, but a redirect would end at closed ports.
func (e *examiner) identity(found *SystemTor) {
	found.Version = e.info("version")
	pid := e.info("process/pid")
	if e.err != nil {
		return
	}
	if found.PID, e.err = strconv.Atoi(pid); e.err != nil {
		return
	}
	name, err := os.ReadFile("/proc/" + pid + "/comm")
	if errors.Is(err, fs.ErrNotExist) || strings.TrimSpace(string(name)) != "tor" {
		return // a tor in a container counts pids of its own
	}
	theirs, err := os.Readlink("/proc/" + pid + "/ns/net")
	ours, ourErr := os.Readlink("/proc/thread-self/ns/net")
	if e.err = errors.Join(err, ourErr); e.err == nil && theirs != ours {
		e.err = fmt.Errorf("process %d is in another network namespace (%s, not %s), where packets of this one do not arrive",
			found.PID, theirs, ours)
	}
}

// listeners looks for a TransPort and a DNSPort on the wildcard of every
// family: which address of the router a redirect picks is not known in advance. A TransPort
// that is handed connections is to be on loopback, where nobody else reaches it.
func (e *examiner) listeners(found *SystemTor) {
	lines := e.wish.listeners(e.v6)
	for _, l := range []struct {
		key, info string
		port      *uint16
		on        portsOn
	}{
		{"TransPort", "net/listeners/trans", &found.Ports.Trans, onWildcard},
		{"DNSPort", "net/listeners/dns", &found.Ports.DNS, onWildcard},
	} {
		if e.wish.TProxy && l.key == "TransPort" {
			l.on = onLoopback
		}
		ports, err := l.on.of(e.info(l.info), e.v6)
		switch {
		case e.err != nil:
		case err != nil:
			e.err = err
		case slices.Contains(ports, *l.port):
		case len(ports) > 0:
			*l.port = ports[0]
		default:
			e.want(lines, l.key)
		}
		e.isolation(l.key)
	}
	want := e.wish.transProxyType()
	if t := e.conf1("TransProxyType"); !strings.EqualFold(cmp.Or(t, "default"), want.value) {
		e.missing = append(e.missing, want.line())
	}
}

// isolation looks whether tor keeps devices apart, as it does unless it is told not to: the
// redirect leaves them their addresses.
func (e *examiner) isolation(key string) {
	for _, value := range e.conf(key) {
		port, flags, _ := strings.Cut(value, " ")
		if slices.ContainsFunc(strings.Fields(flags), func(f string) bool { return strings.EqualFold(f, "NoIsolateClientAddr") }) {
			e.missing = append(e.missing, fmt.Sprintf("%s %s # without NoIsolateClientAddr, by which devices share circuits", key, port))
		}
	}
}

// portsOn is which addresses listeners are looked for on.
type portsOn struct{ addr4, addr6 netip.Addr }

var (
	onWildcard = portsOn{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	onLoopback = portsOn{loopback4, netip.IPv6Loopback()}
)

// of reads `"0.0.0.0:9040" "[::]:9040" "unix:/path"` and returns
// the ports that are open on these addresses, in both families if v6.
func (on portsOn) of(s string, v6 bool) ([]uint16, error) {
	ws, err := words(s)
	if err != nil {
		return nil, fmt.Errorf("read tor's listeners: %w", err)
	}
	var on4, on6 []uint16
	for _, w := range ws {
		at, err := netip.ParseAddrPort(w.value)
		switch {
		case err != nil: // a Unix socket
		case at.Addr() == on.addr4:
			on4 = append(on4, at.Port())
		case at.Addr() == on.addr6:
			on6 = append(on6, at.Port())
		}
	}
	return slices.DeleteFunc(on4, func(p uint16) bool { return v6 && !slices.Contains(on6, p) }), nil
}

// automap looks whether names under .onion get addresses that a LAN can send
// to the router: tor's default ranges are loopback and link-local.
func (e *examiner) automap(found *SystemTor) {
	lines := automap(e.wish.Onion4, e.wish.Onion6)
	if e.conf1("AutomapHostsOnResolve") != "1" {
		e.want(lines, "AutomapHostsOnResolve")
	}
	suffixes := strings.Split(e.conf1("AutomapHostsSuffixes"), ",")
	if !slices.Contains(suffixes, ".onion") && !slices.Contains(suffixes, ".") {
		e.want(lines, "AutomapHostsSuffixes")
	}
	found.Onion4 = e.onion("VirtualAddrNetworkIPv4", e.wish.Onion4, lines)
	found.Onion6 = e.onion("VirtualAddrNetworkIPv6", e.wish.Onion6, lines)
}

func (e *examiner) onion(option string, wish netip.Prefix, lines []directive) netip.Prefix {
	value := e.conf1(option)
	if e.err != nil {
		return netip.Prefix{}
	}
	p, err := netip.ParsePrefix(strings.NewReplacer("[", "", "]", "").Replace(value))
	if err != nil {
		e.err = fmt.Errorf("read its %s: %w", option, err)
		return netip.Prefix{}
	}
	if a := p.Addr(); a.IsLoopback() || a.IsLinkLocalUnicast() {
		e.want(lines, option) // none without a wish
		return wish
	}
	return p.Masked()
}

// policy looks whether tor answers the LAN and nobody beyond. A tor without a
// SocksPolicy is an open proxy on the WAN as soon as nft is flushed.
func (e *examiner) policy() {
	if len(e.wish.AllowFrom) == 0 {
		return
	}
	values := e.conf("SocksPolicy")
	if e.err != nil {
		return
	}
	var rules []policyRule
	if rules, e.err = parsePolicy(values); e.err != nil {
		return
	}
	lines := policy(e.wish.AllowFrom)
	if open(rules) {
		hint := ""
		if len(values) > 0 {
			hint = " # in place of the present SocksPolicy lines"
		}
		for _, d := range lines {
			e.missing = append(e.missing, d.line()+hint)
		}
		return
	}
	for i, p := range e.wish.AllowFrom {
		if !accepts(rules, p.Masked()) {
			e.missing = append(e.missing, lines[i].line()+" # above the lines that reject")
		}
	}
}
