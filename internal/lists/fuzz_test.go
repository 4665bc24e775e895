package lists

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/internal/config"
)

// plain reads a list the obvious way, by config.ParsePrefix alone. problem is
// how the error of a broken line begins.
func plain(text string) (out []netip.Prefix, problem string) {
	lines := strings.Split(strings.TrimPrefix(text, "\xef\xbb\xbf"), "\n")
	for i, line := range lines {
		at := fmt.Sprintf("line %d: ", i+1)
		line = strings.TrimSuffix(line, "\r")
		if len(line) > MaxLine {
			return nil, at + "is longer"
		}
		line, _, _ = strings.Cut(line, "#")
		line, _, _ = strings.Cut(line, ";")
		line = strings.Trim(line, " \t")
		if line == "" {
			continue
		}
		p, err := config.ParsePrefix(line)
		switch last := i == len(lines)-1; {
		case err != nil && len(line) > shownBytes:
			return nil, at + "parse "
		case err != nil:
			return nil, at + err.Error()
		case p.Bits() == 0:
			return nil, at + p.String() + " would let everything"
		case last && p.Addr().Is4() && p.Bits() < 8, last && p.Addr().Is6() && p.Bits() < 16:
			return nil, at + p.String() + " may have been cut"
		}
		out = append(out, p)
	}
	return out, ""
}

// FuzzList holds the reader, with its quick way, against the obvious one; what
// it refuses and where must be the same. The minimal set must say the same
// addresses as config.MergePrefixes, which joins nothing.
func FuzzList(f *testing.F) {
	for _, text := range []string{
		"1.2.3.0/24\n5.6.7.8 # a\r\n\n;b\n2001:db8::/32\n", "\xef\xbb\xbf1.2.3.4", "128.0.0.0/1", "::/12", "::/0\n",
		"0.0.0.0/0\n", "1.2.3.4/33\n", "01.2.3.4\n", "1.2.3.4/08\n", "1.2.3.4/-1\n", "1.2.3.256\n", "1.2.3.4.5\n", "1.2.3.4/\n",
		"::ffff:1.2.3.4\n", "::ffff:102:304/120\n", "64:ff9b::1.2.3.4\n", "fe80::1%eth0\n", "1::2::3\n", ":1:2:3:4:5:6:7\n",
		"1:2:3:4:5:6:7:8\n", "1:2:3:4:5:6:7::\n", "1:2:3:4::5:6:7:8\n", "::1:2:3:4:5:6:7\n", "1:2:3:4:5:6:7\n", ":::\n", "::/128\n",
		"12345::\n", "2001:db8::1/32\n", "::/129\n", "10.0.0.0/9\n10.128.0.0/9\n", "1.2.3.4/18446744073709551648\n", "1:2:3:4:5:6:7:8:9\n", ":\n", "/8\n", "1:\n",
		"0.0.0.0/1\n128.0.0.0/1\n", "0.0.0.0\n1.2.3.4/33\n", "::FFFE:0:0/95\n", strings.Repeat("1", 80),
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := entries(bytes.NewReader(text), nil)
		want, problem := plain(string(text))
		if (err != nil) != (problem != "") || err != nil && !strings.HasPrefix(err.Error(), problem) {
			t.Fatalf("error %v, want %q", err, problem)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("entries %s, want %s", got, want)
		}
		sameAddresses(t, minimal(got), config.MergePrefixes(want))
	})
}

// sameAddresses checks that small is the smallest set with the addresses of
// merged, which is sorted and has none that another covers.
func sameAddresses(t *testing.T, small, merged []netip.Prefix) {
	t.Helper()
	rest := merged
	for i, p := range small {
		if i > 0 && (config.ComparePrefixes(small[i-1], p) >= 0 || halves(small[i-1], p)) {
			t.Fatalf("%s and %s stand side by side", small[i-1], p)
		}
		n := 0
		for n < len(rest) && config.PrefixCovers(p, rest[n]) {
			n++
		}
		if !fills(p, rest[:n]) {
			t.Fatalf("%s is made of %s", p, rest[:n])
		}
		rest = rest[n:]
	}
	if len(rest) > 0 {
		t.Fatalf("%s are lost", rest)
	}
}

// fills says whether the parts, of which none covers another, are all of p.
func fills(p netip.Prefix, parts []netip.Prefix) bool {
	if len(parts) == 1 && parts[0] == p {
		return true
	}
	if len(parts) < 2 || p.IsSingleIP() {
		return false
	}
	_, upper := config.Halves(p)
	n := slices.IndexFunc(parts, upper.Overlaps)
	if n < 0 {
		return false
	}
	lower, _ := config.Halves(p)
	return fills(lower, parts[:n]) && fills(upper, parts[n:])
}
