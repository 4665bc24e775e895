package redact

import (
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// pattern is something that secrets look like.
type pattern struct {
	find    *regexp.Regexp
	replace func(r *Redactor, found string) string
}

// hidden is a pattern of which all is the secret.
func hidden(kind, expression string) pattern {
	return pattern{regexp.MustCompile(expression), func(r *Redactor, found string) string { return r.hide(kind, lower(found)) }}
}

// after is one of which the secret is what follows a group.
func after(kind, expression string) pattern {
	find := regexp.MustCompile(expression)
	return pattern{find, func(r *Redactor, found string) string {
		before := find.FindStringSubmatch(found)[1]
		return before + r.hide(kind, lower(found[len(before):]))
	}}
}

// alone is a pattern that says something only by itself: not as a part of a longer word.
func alone(p pattern) pattern {
	bare := p.find
	p.find = regexp.MustCompile(`[0-9A-Za-z]*(?:` + bare.String() + `)[0-9A-Za-z]*`)
	whole := regexp.MustCompile(`^(?:` + bare.String() + `)$`)
	hide := p.replace
	p.replace = func(r *Redactor, found string) string {
		if !whole.MatchString(found) {
			return found
		}
		return hide(r, found)
	}
	return p
}

// What bridge lines are known by, where nothing says that they are some.
const (
	transports    = `obfs[2-5]|scramblesuit|snowflake|webtunnel|meek(?:_lite|_azure)?|conjure|dnstt`
	transportKeys = `cert|url|fronts?|fingerprint|utls(?:-[a-z]+)?|servername|ampcache|ice|sqs[a-z]*|secret|shared-secret|` +
		`pass(?:word)?|token|creds|key|(?:pub|priv|public-|private-)key|node-id|iat-mode|covertdtls-[a-z]+|registrar|assetid|phantom|stun|doh|dot`
)

// patterns are tried in this order.
var patterns = []pattern{
	// comments of rules in JSON, of those that have ended, too
	{regexp.MustCompile(`"comment":[ \t]*"(?:[^"\\]|\\.)+"`), hideComment},
	// a bridge line of a torrc, wherever it is quoted
	after("bridge", `(?i)(\bbridge[ \t]+)(?:(?:[a-z0-9_]+[ \t]+)?\[?[0-9a-f:.]+\]?:[0-9]+)[^\n"]*`),
	after("bridge", `(?i)(\b(?:`+transports+`)[ \t]+)(?:\[?[0-9a-f:.]+\]?:[0-9]+)[^\n"]*`),
	hidden("bridge", `(?i)\[?[0-9a-f:.]*[0-9a-f]\]?:[0-9]+[ \t]+\$?[0-9a-f]{40}[^\n"]*`),
	after("bridge", `(?i)(\b(?:`+transportKeys+`)=)[^\s"\\]+`),
	// a relay, by fingerprint, and maybe its name
	alone(hidden("relay", `\$?[0-9A-Fa-f]{40}(?:[~=][A-Za-z0-9]+)?`)),
	hidden("onion", `(?i)[a-z0-9.-]*[a-z2-7]{16}\.onion`),
	hidden("key", `[A-Za-z0-9+/]{43}=`),
	hidden("key", `[0-9A-Za-z+]{32,}`),
	hidden("hex", `0x[0-9A-Fa-f]{9,}`),
	// raw payload, as nft lists what it has no word for: addresses among it
	{regexp.MustCompile(`@(?:nh|th|ll|ih),[^\n]*`), hideHex},
	{regexp.MustCompile(`(?i)[0-9a-f]{2}(?:[:-][0-9a-f]{2}){5,19}`), hideMAC},
	{regexp.MustCompile(`(?i)(?:en|wl|ww)x[0-9a-f]{12}`), hideNamedMAC},
	alone(pattern{regexp.MustCompile(`(?i)[0-9a-f]{12}`), hideBareMAC}),
	{regexp.MustCompile(`(?i)[0-9a-f]*:[0-9a-f:]*:[0-9a-f:.]*`), hideIPv6},
	{regexp.MustCompile(`[0-9]{1,3}(?:\.[0-9]{1,3}){3}`), hideIPv4},
	{regexp.MustCompile(`/home/[^/\s"']+`), hideHome},
	// what a link is called by who set it up
	after("comment", `(?m)(^\s+alias )[^\n]+`),
	after("netns", `((?:\b(?:link-)?netns |/netns/))[^\s"'/\\,;:)\x{F0000}-\x{FFFFD}]+`),
	// where a list comes from is a country, or a firm
	after("list", `(\blist |/lists/)(?:[^\s"'\\,;:)\x{F0000}-\x{FFFFD}]*[/.][^\s"'\\,;:)\x{F0000}-\x{FFFFD}]+)`),
	{regexp.MustCompile(`[^\s/"'\\=,;()]+\.scope\b|\b(?:app|dbus|snap|vte)[-.:@][^\s/"'\\=,;()]*\.(?:service|slice)\b`), hideUnit},
	{regexp.MustCompile(`(?:[\p{L}\p{N}_.+-]+@)?[\p{L}\p{N}_.-]*\.[\p{L}\p{N}_-]*[\p{L}\p{N}_]`), hideName},
}

// commentOf takes a comment out of JSON.
var commentOf = regexp.MustCompile(`^("comment":[ \t]*")(.*)(")$`)

func hideComment(r *Redactor, found string) string {
	return r.hideIn(commentOf, "comment", found, r.speaks)
}

// hideUnit is for what systemd calls the apps of people.
func hideUnit(r *Redactor, found string) string {
	if found == "init.scope" {
		return found
	}
	at := strings.LastIndexByte(found, '.')
	return r.hide("app", lower(found[:at])) + found[at:]
}

// hexNumber is more than a port, or a part of one.
var hexNumber = regexp.MustCompile(`0x[0-9a-fA-F]{5,}`)

func hideHex(r *Redactor, line string) string {
	return hexNumber.ReplaceAllStringFunc(line, func(found string) string { return r.hide("hex", lower(found)) })
}

// Hardware addresses that are nobody's.
var nobodys = []string{"00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff"}

func hideMAC(r *Redactor, found string) string {
	mac := strings.ReplaceAll(lower(found), "-", ":")
	if slices.Contains(nobodys, mac) {
		return found
	}
	return r.hide("mac", strings.ReplaceAll(mac, ":", ""))
}

// hideBareMAC leaves numbers alone, such as of bytes: most hardware addresses have a letter.
func hideBareMAC(r *Redactor, found string) string {
	if !strings.ContainsAny(lower(found), "abcdef") {
		return found
	}
	return r.hide("mac", lower(found))
}

// hideNamedMAC is for interfaces that are called by their hardware address.
func hideNamedMAC(r *Redactor, found string) string {
	at := len(found) - 12
	return found[:at] + r.hide("mac", lower(found[at:]))
}

// kept6 is what of IPv6 is the same for everybody.
var kept6 = []netip.Prefix{
	netip.MustParsePrefix("::/127"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("ff00::/8"),
	netip.MustParsePrefix("fd74:6f72::/32"), netip.MustParsePrefix("2001:2::/48"), // of .onion names, by default
}

// neighbours6 are groups that have a part of an address in theirs (RFC 4291, 2.7.1).
var neighbours6 = netip.MustParsePrefix("ff02::1:ff00:0/104")

// telling tells whether an address says whose it is.
func telling(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if a.Is4() {
		return !plan.Private(netip.PrefixFrom(a, 32))
	}
	begins := func(p netip.Prefix) bool { return p.Addr() == a } // a range by its first address
	within := func(p netip.Prefix) bool { return config.PrefixCovers(p, netip.PrefixFrom(a, 128)) }
	if within(neighbours6) {
		return true
	}
	return !slices.ContainsFunc(kept6, within) && !slices.ContainsFunc(plan.Reserved(), begins) && a != netip.MustParseAddr("2000::")
}

// hideIPv4 reads numbers with zeros before them as people do.
func hideIPv4(r *Redactor, found string) string {
	var octets [4]byte
	for i, part := range strings.Split(found, ".") {
		n, err := strconv.ParseUint(part, 10, 8)
		if err != nil {
			return found
		}
		octets[i] = byte(n)
	}
	a := netip.AddrFrom4(octets)
	if !telling(a) {
		return found
	}
	return r.hide("ip4", a.String())
}

// longest6 is how many characters an IPv6 address has at most, with an IPv4 one in it.
const longest6 = 45

// hideIPv6 looks for addresses in what has two colons at least: with what stands before or behind
// one, such as the punctuation of a sentence.
func hideIPv6(r *Redactor, found string) string {
	var out strings.Builder
	for start := 0; start < len(found); {
		begins := start == 0 || found[start-1] == ':'
		shown, end := "", start
		if begins {
			shown, end = r.addressAt(found, start)
		}
		if end == start {
			out.WriteByte(found[start])
			start++
			continue
		}
		out.WriteString(shown)
		start = end
	}
	return out.String()
}

// addressAt hides the longest address that begins at a place, and returns where it ends; that
// place for none.
func (r *Redactor) addressAt(text string, start int) (shown string, end int) {
	for end := min(len(text), start+longest6); end > start+1; end-- {
		a, err := netip.ParseAddr(text[start:end])
		switch {
		case err != nil:
			continue
		case !telling(a):
			return text[start:end], end
		case a.Unmap().Is4():
			return r.hide("ip4", a.Unmap().String()), end
		}
		return r.hide("ip6", a.String()), end
	}
	return "", start
}

func hideHome(r *Redactor, found string) string {
	name := strings.TrimPrefix(found, "/home/")
	if strings.ContainsFunc(name, func(c rune) bool { return c >= firstRune && c <= lastRune }) {
		return found
	}
	return "/home/" + r.hide("user", lower(name))
}
