package tor

import (
	"context"
	"errors"
	"net/netip"
	"net/textproto"
	"regexp"
	"strings"
)

// country is what a database of places calls one; ?? where it knows none.
var country = regexp.MustCompile(`^[a-z]{2}$`)

// Countries returns where relays are, by fingerprint, as far as tor has a database of places
// (Debian's package tor-geoipdb) and the addresses of relays.
func (c *Control) Countries(ctx context.Context, fingerprints []string) (map[string]string, error) {
	out := make(map[string]string)
	for _, fingerprint := range fingerprints {
		text, err := c.GetInfo(ctx, "ns/id/"+fingerprint)
		if addr := relayAddress(text); err == nil && addr.IsValid() {
			text, err = c.GetInfo(ctx, "ip-to-country/"+addr.String())
			if err == nil && country.MatchString(text) {
				out[fingerprint] = text
			}
		}
		var reply *textproto.Error
		if err != nil && !errors.As(err, &reply) { // a reply says that it does not know
			return nil, err
		}
	}
	return out, nil
}

// relayAddress reads "r nickname identity digest date time IP ORPort DirPort" (dir-spec).
func relayAddress(text string) netip.Addr {
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) >= 7 && fields[0] == "r" {
			addr, _ := netip.ParseAddr(fields[6]) // an invalid one for what is none
			return addr
		}
	}
	return netip.Addr{}
}

// Targets returns where the streams of each circuit go, by its number.
func (c *Control) Targets(ctx context.Context) (map[uint64][]string, error) {
	text, err := c.GetInfo(ctx, "stream-status")
	if err != nil {
		return nil, err
	}
	return parseTargets(text), nil
}

// parseTargets reads lines of ID STATUS CIRCUIT TARGET. What is none is left out: a device can
// write into the name of its target.
func parseTargets(text string) map[uint64][]string {
	out := make(map[uint64][]string)
	for line := range strings.Lines(text) {
		fields := strings.SplitN(strings.TrimRight(line, "\r\n"), " ", 4)
		if len(fields) < 4 {
			continue
		}
		if circuit, err := parseID(fields[2]); err == nil && circuit != 0 {
			out[circuit] = append(out[circuit], printable(fields[3]))
		}
	}
	return out
}
