package config

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// What ParsePrefix and ParseMark refuse, as the Kind of a ParseError.
var (
	ErrSyntax      = errors.New("syntax")
	ErrHostBits    = errors.New("host bits set")
	ErrIPv4Mapped  = errors.New("IPv4-mapped IPv6")
	ErrZone        = errors.New("IPv6 zone")
	ErrOutsideMask = errors.New("mark outside its mask")
	ErrZeroMark    = errors.New("mark zero")
	ErrZeroMask    = errors.New("mask zero")
)

// ParseError is a prefix or mark that cannot be used. errors.Is finds its Kind.
type ParseError struct {
	Input      string
	Kind       error
	Suggestion string // what was probably meant, ready to type; "" if unknown
	message    string
}

// Error says what is wrong with the input and, where known, what to type.
func (e *ParseError) Error() string {
	text := fmt.Sprintf("parse %q: %s", e.Input, e.message)
	if e.Suggestion != "" {
		text += fmt.Sprintf(": did you mean %s?", e.Suggestion)
	}
	return text
}

// Unwrap makes errors.Is find the Kind and ErrInvalid.
func (e *ParseError) Unwrap() []error { return []error{e.Kind, ErrInvalid} }

// ParsePrefix reads an address (a host) or a prefix in CIDR notation. The
// result is masked and never IPv4-mapped, so that each set of addresses has
// one spelling: an exclusion can be found again and deleted.
//
// Host bits are refused, not dropped: 104.17.0.1/13 may be a slip for
// 104.17.0.1/31, and an exclusion that is wider than meant lets out in clear
// what should go through Tor.
func ParsePrefix(s string) (netip.Prefix, error) {
	if strings.Contains(s, "%") {
		bare, _, _ := strings.Cut(s, "%")
		return netip.Prefix{}, &ParseError{Input: s, Kind: ErrZone,
			message: "an exclusion holds on every interface, so it takes no zone: leave out what follows " + bare}
	}
	p, err := parseBare(s)
	if err != nil {
		return netip.Prefix{}, &ParseError{Input: s, Kind: ErrSyntax,
			message: "not an address or prefix: write 192.0.2.7, 104.16.0.0/13 or 2001:db8::/32"}
	}
	if p.Addr().Is4In6() {
		e := &ParseError{Input: s, Kind: ErrIPv4Mapped,
			message: "IPv4-mapped IPv6 addresses never appear on the wire"}
		if p.Bits() >= 96 {
			e.Suggestion = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96).Masked().String()
		}
		return netip.Prefix{}, e
	}
	if p != p.Masked() {
		return netip.Prefix{}, &ParseError{Input: s, Kind: ErrHostBits, Suggestion: p.Masked().String(),
			message: fmt.Sprintf("bits are set beyond the first %d", p.Bits())}
	}
	return p, nil
}

// LooksLike guesses of what is no prefix what kind of entry was meant.
func LooksLike(s string) (Kind, bool) {
	if _, err := ParsePrefix(s); !errors.Is(err, ErrSyntax) {
		return "", false
	}
	for _, kind := range []Kind{KindList, KindDevice, KindPort, KindMark, KindDomain, KindInterface} {
		if _, err := ParseEntry(kind, s); err == nil {
			return kind, true
		}
	}
	return "", false
}

// parseBare reads an address or a prefix and judges only its syntax.
func parseBare(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		return netip.ParsePrefix(s)
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

// FullMask compares every bit of a mark; it is what a mark without a mask means.
const FullMask = 0xffffffff

// ParseMark reads VALUE or VALUE/MASK, each decimal or, behind 0x, hexadecimal.
//
// A zero mask matches every packet and a zero value every packet that nobody
// marked, so that either would switch Tor off for the whole LAN: both are refused.
func ParseMark(s string) (Mark, error) {
	refuse := func(kind error, suggestion, message string) (Mark, error) {
		return Mark{}, &ParseError{Input: s, Kind: kind, Suggestion: suggestion, message: message}
	}
	value, mask, masked := strings.Cut(s, "/")
	m := Mark{Mask: FullMask}
	var err error
	if m.Value, err = parseBits(value); err != nil {
		return refuse(ErrSyntax, "", err.Error())
	}
	if masked {
		if m.Mask, err = parseBits(mask); err != nil {
			return refuse(ErrSyntax, "", err.Error())
		}
	}
	switch {
	case m.Mask == 0:
		return refuse(ErrZeroMask, "", "a zero mask matches every packet: name the bits to compare, as in 0x100/0xff00")
	case m.Value == 0:
		return refuse(ErrZeroMark, "", "a zero mark is that of every unmarked packet and would let all of them past Tor: mark the packets meant and name that mark")
	case m.Value&^m.Mask != 0:
		return refuse(ErrOutsideMask, Mark{Value: m.Value, Mask: m.Mask | m.Value}.String(),
			"the value has bits that the mask leaves out, so it can never match")
	}
	return m, nil
}

// parseBits reads 32 bits. Leading zeros are refused: ip(8) takes them for
// octal, people for decimal.
func parseBits(s string) (uint32, error) {
	digits, base := s, 10
	if hex, ok := strings.CutPrefix(strings.ToLower(s), "0x"); ok {
		digits, base = hex, 16
	} else if len(s) > 1 && s[0] == '0' {
		return 0, fmt.Errorf("%q may be octal or decimal: write it without leading zeros or with 0x", s)
	}
	v, err := strconv.ParseUint(digits, base, 32)
	if errors.Is(err, strconv.ErrRange) {
		return 0, fmt.Errorf("%q has more than 32 bits, a mark has 32", s)
	}
	if err != nil {
		return 0, fmt.Errorf("%q is not a number: write 0x100 or 256", s)
	}
	return uint32(v), nil
}

// String writes the mark as ParseMark reads it.
func (m Mark) String() string {
	if m.Mask == FullMask {
		return fmt.Sprintf("%#x", m.Value)
	}
	return fmt.Sprintf("%#x/%#x", m.Value, m.Mask)
}

// covers says whether every mark that o matches is matched by m.
func (m Mark) covers(o Mark) bool {
	return m.Mask&^o.Mask == 0 && o.Value&m.Mask == m.Value
}
