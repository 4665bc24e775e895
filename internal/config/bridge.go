package config

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Bridge is a way into the Tor network that no list has, as tor's option Bridge takes it.
type Bridge struct {
	Transport   string // the name of a pluggable transport; "" for none
	Addr        netip.AddrPort
	Fingerprint string   // 40 digits in upper case; "" where the line has none
	Args        []string // of the transport, as KEY=VALUE
}

// bridgeMax bounds a line, in bytes.
const bridgeMax = 4 << 10

// transportName is what tor takes for one (pt-spec: the identifiers of C).
var transportName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)

// ParseBridge reads "obfs4 192.0.2.7:443 FINGERPRINT cert=… iat-mode=0". What it takes cannot be
// anything else in a torrc than the one line.
func ParseBridge(line string) (Bridge, error) {
	fields, err := bridgeFields(line)
	if err != nil {
		return Bridge{}, noBridge(line, err)
	}
	var b Bridge
	if _, err := netip.ParseAddrPort(fields[0]); err != nil && transportName.MatchString(fields[0]) {
		b.Transport, fields = fields[0], fields[1:]
	}
	if len(fields) == 0 {
		return Bridge{}, noBridge(line, errors.New("it has no address"))
	}
	if b.Addr, err = bridgeAddr(fields[0]); err != nil {
		return Bridge{}, noBridge(line, err)
	}
	fields = fields[1:]
	if len(fields) > 0 && !strings.Contains(fields[0], "=") {
		if b.Fingerprint, err = bridgeFingerprint(fields[0]); err != nil {
			return Bridge{}, noBridge(line, err)
		}
		fields = fields[1:]
	}
	if len(fields) > 0 && b.Transport == "" {
		return Bridge{}, noBridge(line, fmt.Errorf("%q is a setting of a transport, and none is named before the address", fields[0]))
	}
	for _, arg := range fields {
		if key, _, ok := strings.Cut(arg, "="); !ok || key == "" {
			return Bridge{}, noBridge(line, fmt.Errorf("%q is none of a transport's settings, which are written key=value", arg))
		}
	}
	b.Args = fields
	return b, nil
}

// noBridge says why a line is none, and how one is written.
func noBridge(line string, why error) error {
	return Invalid("%s: %w; a bridge is written as it was handed out, such as obfs4 192.0.2.7:443 FINGERPRINT cert=... iat-mode=0", shortened(line), why)
}

// bridgeFields are the words of a line that can be no more than one.
func bridgeFields(line string) ([]string, error) {
	if at := strings.IndexFunc(line, noTorrcRune); at >= 0 {
		return nil, fmt.Errorf("%q is in no bridge", []rune(line[at:])[0])
	}
	fields := strings.Fields(line)
	switch {
	case len(line) > bridgeMax:
		return nil, fmt.Errorf("it is longer than %d bytes", bridgeMax)
	case len(fields) == 0:
		return nil, errors.New("it is empty")
	case strings.EqualFold(fields[0], "bridge"):
		return nil, fmt.Errorf("leave the word %s at its begin out", fields[0])
	}
	return fields, nil
}

func bridgeAddr(s string) (netip.AddrPort, error) {
	addr, err := netip.ParseAddrPort(s)
	if err != nil || addr.Port() == 0 || addr.Addr().IsUnspecified() || addr.Addr().Zone() != "" {
		return addr, fmt.Errorf("%q is no address with a port, such as 192.0.2.7:443 or [2001:db8::7]:443", s)
	}
	return addr, nil
}

func bridgeFingerprint(s string) (string, error) {
	fingerprint := strings.TrimPrefix(s, "$")
	if _, err := hex.DecodeString(fingerprint); err != nil || len(fingerprint) != 40 {
		return "", fmt.Errorf("%q is no fingerprint, which has 40 digits from 0 to F", s)
	}
	return strings.ToUpper(fingerprint), nil
}

// noTorrcRune tells what could be more than a word of one line: quotes, escapes, comments and
// whatever is not printable ASCII.
func noTorrcRune(r rune) bool { return r < ' ' || r > '~' || strings.ContainsRune(`"\#`, r) }

// shortened is a line as an error quotes it.
func shortened(line string) string {
	const most = 60
	if len(line) > most {
		line = line[:most] + "..."
	}
	return fmt.Sprintf("%q", line)
}

// String writes what ParseBridge reads.
func (b Bridge) String() string {
	fields := []string{b.Addr.String()}
	if b.Transport != "" {
		fields = []string{b.Transport, b.Addr.String()}
	}
	if b.Fingerprint != "" {
		fields = append(fields, b.Fingerprint)
	}
	return strings.Join(append(fields, b.Args...), " ")
}

// bridges judges those of a managed tor, and the programs of their transports.
func (v *validation) bridges(t Tor) {
	var parsed []Bridge
	for _, line := range t.Bridges {
		b, err := ParseBridge(line)
		if err != nil {
			v.add("tor.bridges", "%v", err)
			continue
		}
		if slices.ContainsFunc(parsed, func(o Bridge) bool { return o.Addr == b.Addr && o.Transport == b.Transport }) {
			v.add("tor.bridges", "%s is there twice: take one out", b.Addr)
		}
		parsed = append(parsed, b)
	}
	for _, name := range slices.Sorted(maps.Keys(t.Transports)) {
		path := t.Transports[name]
		switch {
		case !transportName.MatchString(name):
			v.add("tor.transports."+name, "%q is no name of a transport, such as obfs4", name)
		case !filepath.IsAbs(path) || filepath.Clean(path) != path || strings.ContainsFunc(path, func(r rune) bool { return r == ' ' || noTorrcRune(r) }):
			v.add("tor.transports."+name, "%q cannot be written into a torrc as the path of a program: it must be absolute, without blanks and quotes", path)
		}
	}
	if t.Mode == TorSystem && len(t.Bridges) > 0 {
		v.add("tor.bridges", "would be ignored: the running tor reads its own torrc. Use tor.mode %s, or add there what they come to:\n  %s", TorManaged, strings.Join(bridgeLines(t, parsed), "\n  "))
	}
	if t.Mode == TorSystem && len(t.Transports) > 0 {
		v.add("tor.transports", "would be ignored: the running tor reads its own torrc; use tor.mode %s", TorManaged)
	}
}

// bridgeLines are the lines of a torrc for bridges, as far as they are known without the host.
func bridgeLines(t Tor, bridges []Bridge) []string {
	lines := []string{"UseBridges 1"}
	var named []string
	for _, b := range bridges {
		if b.Transport != "" && !slices.Contains(named, b.Transport) {
			named = append(named, b.Transport)
			path := t.Transports[b.Transport]
			if path == "" {
				path = "/usr/bin/PROGRAM"
			}
			lines = append(lines, fmt.Sprintf("ClientTransportPlugin %s exec %s", b.Transport, path))
		}
	}
	for _, b := range bridges {
		lines = append(lines, "Bridge "+b.String())
	}
	return lines
}
