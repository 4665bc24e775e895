package config

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func TestParsePrefixReadsAddressesAndPrefixes(t *testing.T) {
	for in, want := range map[string]string{
		"1.2.3.4":           "1.2.3.4/32",
		"104.16.0.0/13":     "104.16.0.0/13",
		"0.0.0.0/0":         "0.0.0.0/0",
		"2001:db8::1":       "2001:db8::1/128",
		"2001:DB8:0::/32":   "2001:db8::/32",
		"::/0":              "::/0",
		"64:ff9b::1.2.3.4":  "64:ff9b::102:304/128",
		"255.255.255.255":   "255.255.255.255/32",
		"fc00:0:0::0:0:0/7": "fc00::/7",
	} {
		got, err := ParsePrefix(in)
		if err != nil || got.String() != want {
			t.Errorf("ParsePrefix(%q) = %v, %v; want %s", in, got, err, want)
		}
	}
}

func TestParsePrefixRefuses(t *testing.T) {
	for _, c := range []struct {
		in         string
		kind       error
		suggestion string
	}{
		{"", ErrSyntax, ""},
		{"example.com", ErrSyntax, ""},
		{" 1.2.3.4", ErrSyntax, ""},
		{"1.2.3", ErrSyntax, ""},
		{"1.2.3.04", ErrSyntax, ""},
		{"1.2.3.4/33", ErrSyntax, ""},
		{"1.2.3.4/-1", ErrSyntax, ""},
		{"1.2.3.4/08", ErrSyntax, ""},
		{"1.2.3.4/", ErrSyntax, ""},
		{"/8", ErrSyntax, ""},
		{"10.0.0.0/255.0.0.0", ErrSyntax, ""},
		{"104.17.1.1/13", ErrHostBits, "104.16.0.0/13"},
		{"2001:db8::1/32", ErrHostBits, "2001:db8::/32"},
		{"1.2.3.4/0", ErrHostBits, "0.0.0.0/0"},
		{"::ffff:1.2.3.4", ErrIPv4Mapped, "1.2.3.4/32"},
		{"::ffff:10.1.0.0/104", ErrIPv4Mapped, "10.0.0.0/8"},
		{"::ffff:10.0.0.0/90", ErrIPv4Mapped, ""},
		{"fe80::1%eth0", ErrZone, ""},
		{"fe80::1%eth0/64", ErrZone, ""},
		{"%", ErrZone, ""},
	} {
		got, err := ParsePrefix(c.in)
		checkRefused(t, c.in, err, c.kind, c.suggestion)
		if got != (netip.Prefix{}) {
			t.Errorf("ParsePrefix(%q) returned %s beside its error", c.in, got)
		}
	}
}

func checkRefused(t *testing.T, in string, err, kind error, suggestion string) {
	t.Helper()
	var parse *ParseError
	if !errors.As(err, &parse) || !errors.Is(err, kind) || !errors.Is(err, ErrInvalid) {
		t.Errorf("parse %q: got %v, want a ParseError for %v", in, err, kind)
		return
	}
	if parse.Suggestion != suggestion || !strings.Contains(err.Error(), suggestion) {
		t.Errorf("parse %q: suggests %q in %q, want %q", in, parse.Suggestion, err, suggestion)
	}
}

func TestParseMarkReadsValuesAndMasks(t *testing.T) {
	for in, want := range map[string]Mark{
		"0x100":             {0x100, FullMask},
		"0X1F":              {0x1f, FullMask},
		"256":               {0x100, FullMask},
		"0x100/0xff00":      {0x100, 0xff00},
		"256/65280":         {0x100, 0xff00},
		"0x1/0xffffffff":    {1, FullMask},
		"4294967295":        {FullMask, FullMask},
		"0x80000/0xff0000":  {0x80000, 0xff0000},
		"0x00000001/0x0001": {1, 1},
	} {
		if got, err := ParseMark(in); err != nil || got != want {
			t.Errorf("ParseMark(%q) = %v, %v; want %v", in, got, err, want)
		}
	}
}

func TestParseMarkRefuses(t *testing.T) {
	for _, c := range []struct {
		in         string
		kind       error
		suggestion string
	}{
		{"", ErrSyntax, ""},
		{"0x", ErrSyntax, ""},
		{"ff", ErrSyntax, ""},
		{"0100", ErrSyntax, ""},
		{"00", ErrSyntax, ""},
		{"-1", ErrSyntax, ""},
		{"+1", ErrSyntax, ""},
		{"0x1_0", ErrSyntax, ""},
		{"0x100000000", ErrSyntax, ""},
		{"1/", ErrSyntax, ""},
		{"1/2/3", ErrSyntax, ""},
		{"0", ErrZeroMark, ""},
		{"0x0/0xff", ErrZeroMark, ""},
		{"1/0", ErrZeroMask, ""},
		{"0/0", ErrZeroMask, ""},
		{"0x101/0xff00", ErrOutsideMask, "0x101/0xff01"},
	} {
		got, err := ParseMark(c.in)
		checkRefused(t, c.in, err, c.kind, c.suggestion)
		if got != (Mark{}) {
			t.Errorf("ParseMark(%q) returned %s beside its error", c.in, got)
		}
	}
}

func FuzzParsePrefixRoundTrips(f *testing.F) {
	for _, s := range []string{"1.2.3.4", "104.16.0.0/13", "2001:db8::/32", "::ffff:1.2.3.4", "fe80::1%eth0", "10.0.0.1/8"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePrefix(s)
		if err != nil {
			var parse *ParseError
			if !errors.As(err, &parse) {
				t.Fatalf("ParsePrefix(%q): %v is no ParseError", s, err)
			}
			if parse.Suggestion != "" {
				if _, err := ParsePrefix(parse.Suggestion); err != nil {
					t.Fatalf("ParsePrefix(%q) suggests %q, which it refuses: %v", s, parse.Suggestion, err)
				}
			}
			return
		}
		if p != p.Masked() || p.Addr().Is4In6() || p.Addr().Zone() != "" {
			t.Fatalf("ParsePrefix(%q) = %s, which has a second spelling", s, p)
		}
		if again, err := ParsePrefix(p.String()); err != nil || again != p {
			t.Fatalf("ParsePrefix(%q) = %s, read back as %s, %v", s, p, again, err)
		}
	})
}

func FuzzParseMarkRoundTrips(f *testing.F) {
	for _, s := range []string{"0x100", "256", "0x100/0xff00", "0", "1/0", "0100", "0x101/0xff00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseMark(s)
		if err != nil {
			var parse *ParseError
			if !errors.As(err, &parse) {
				t.Fatalf("ParseMark(%q): %v is no ParseError", s, err)
			}
			if parse.Suggestion != "" {
				if _, err := ParseMark(parse.Suggestion); err != nil {
					t.Fatalf("ParseMark(%q) suggests %q, which it refuses: %v", s, parse.Suggestion, err)
				}
			}
			return
		}
		if m.Value == 0 || m.Value&^m.Mask != 0 {
			t.Fatalf("ParseMark(%q) = %+v, which matches everything or nothing", s, m)
		}
		if again, err := ParseMark(m.String()); err != nil || again != m {
			t.Fatalf("ParseMark(%q) = %s, read back as %s, %v", s, m, again, err)
		}
	})
}

func TestParseDomain(t *testing.T) {
	for in, want := range map[string]string{
		"bank.example": "bank.example", "BANK.Example.": "bank.example", "*.bank.example": "*.bank.example", "_sip.bank.example": "_sip.bank.example",
		"xn--bnk-qla.example": "xn--bnk-qla.example",
	} {
		if got, err := ParseDomain(in); err != nil || got != want {
			t.Errorf("%s is read as %q, %v", in, got, err)
		}
	}
	for in, says := range map[string]string{
		"": "not a name", "com": "top-level", "*.com": "top-level", "*": "not a name", "a*.example": "not a name", "bank..example": "not a name", ".example": "not a name",
		"x.onion": "no part of the public DNS", "*.lan": "top-level", "nas.lan": "no part", "1.0.0.127.in-addr.arpa": "no part", "bänk.example": "xn--",
		strings.Repeat("a", 64) + ".example": "not a name", "bank.example/24": "not a name", "bank example.com": "not a name",
	} {
		if got, err := ParseDomain(in); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %q, %v, want it to say %q", in, got, err, says)
		}
	}
	for _, c := range []struct {
		domain, name string
		want         bool
	}{
		{"bank.example", "bank.example", true}, {"bank.example", "www.bank.example", false}, {"*.bank.example", "www.bank.example", true},
		{"*.bank.example", "a.b.bank.example", true}, {"*.bank.example", "bank.example", false}, {"*.bank.example", "notbank.example", false},
	} {
		if got := DomainMatches(c.domain, c.name); got != c.want {
			t.Errorf("%s matches %s: %t", c.domain, c.name, got)
		}
	}
}

// TestARangeOfPortsIsAnswered: with what to write instead.
func TestARangeOfPortsIsAnswered(t *testing.T) {
	_, _, err := ParsePort("6000-6010/udp")
	if err == nil || !strings.Contains(err.Error(), "there are no ranges: write one for each, such as 6000/udp 6010/udp") {
		t.Errorf("a range: %v", err)
	}
}
