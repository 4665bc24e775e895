package lists

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/internal/config"
)

// universe is a prefix and all the parts of it that are up to depth bits longer.
type universe struct {
	root  netip.Prefix
	depth int
}

// parts are all prefixes of the universe.
func (u universe) parts() []netip.Prefix {
	if u.depth == 0 {
		return []netip.Prefix{u.root}
	}
	lower, upper := config.Halves(u.root)
	return append(append([]netip.Prefix{u.root},
		universe{lower, u.depth - 1}.parts()...), universe{upper, u.depth - 1}.parts()...)
}

// smallest is what minimal should make of the chosen parts, from the top down:
// a prefix is in it if all of it is covered and nothing above it is.
func (u universe) smallest(chosen map[netip.Prefix]bool) []netip.Prefix {
	if chosen[u.root] {
		return []netip.Prefix{u.root}
	}
	if u.depth == 0 {
		return nil
	}
	lower, upper := config.Halves(u.root)
	a, b := universe{lower, u.depth - 1}.smallest(chosen), universe{upper, u.depth - 1}.smallest(chosen)
	if slices.Equal(a, []netip.Prefix{lower}) && slices.Equal(b, []netip.Prefix{upper}) {
		return []netip.Prefix{u.root}
	}
	return append(a, b...)
}

// TestMinimalIsExact tries each of the 32,768 sets of prefixes within a few
// universes of eight cells, at both ends of both families.
func TestMinimalIsExact(t *testing.T) {
	for _, root := range []string{"0.0.0.0/0", "255.255.255.248/29", "::/0", "2001:db8:0:fffc::/62", "::8/125"} {
		u := universe{netip.MustParsePrefix(root), 3}
		parts := u.parts()
		for set := range 1 << len(parts) {
			chosen, in := map[netip.Prefix]bool{}, []netip.Prefix{}
			for i, p := range parts {
				if set>>i&1 == 1 {
					chosen[p] = true
					in = append(in, p)
				}
			}
			if got, want := minimal(slices.Clone(in)), u.smallest(chosen); !slices.Equal(got, want) {
				t.Fatalf("minimal(%s) = %s, want %s", in, got, want)
			}
		}
	}
}

// TestMergeCoversTheSameAddresses merges random lists of both families in
// random order.
func TestMergeCoversTheSameAddresses(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	universes := []universe{
		{netip.MustParsePrefix("10.0.0.0/26"), 6},
		{netip.MustParsePrefix("192.0.2.0/24"), 4},
		{netip.MustParsePrefix("2001:db8:0:fff0::/60"), 6},
	}
	for range 3000 {
		chosen := map[netip.Prefix]bool{}
		all := make([]*List, random.IntN(4))
		for i := range all {
			all[i] = &List{}
			for range random.IntN(40) {
				parts := universes[random.IntN(len(universes))].parts()
				p := parts[random.IntN(len(parts))]
				chosen[p] = true
				all[i].Prefixes = append(all[i].Prefixes, p)
			}
		}
		var want []netip.Prefix
		for _, u := range universes {
			want = append(want, u.smallest(chosen)...)
		}
		if got, err := Merge(all...); err != nil || !slices.Equal(got, want) {
			t.Fatalf("Merge gives %s, %v; want %s", got, err, want)
		}
	}
}

func TestMergeLeavesTheListsAlone(t *testing.T) {
	a, b := list(t, "10.0.0.0/9\n2001:db8::/32\n"), list(t, "10.128.0.0/9\n1.2.3.4\n")
	got, err := Merge(a, b)
	if err != nil || words(got) != "1.2.3.4/32 10.0.0.0/8 2001:db8::/32" {
		t.Errorf("merged: %s, %v", got, err)
	}
	if words(a.Prefixes) != "10.0.0.0/9 2001:db8::/32" || words(b.Prefixes) != "1.2.3.4/32 10.128.0.0/9" {
		t.Errorf("the lists are now %s and %s", a.Prefixes, b.Prefixes)
	}
	alone, err := Merge(a)
	if err != nil || !slices.Equal(alone, a.Prefixes) || &alone[0] == &a.Prefixes[0] {
		t.Errorf("one list gives %s, %v, which must be a copy", alone, err)
	}
}

func TestListsThatCoverAFamilyTogetherAreRefused(t *testing.T) {
	for family, c := range map[string][2]string{
		"IPv4": {"0.0.0.0/1\n", "::/1\n128.0.0.0/1\n"},
		"IPv6": {"::/1\n", "1.2.3.4\n8000::/1\n"},
	} {
		got, err := Merge(list(t, c[0]), list(t, c[1]))
		if got != nil || !errors.Is(err, config.ErrInvalid) || !strings.Contains(err.Error(), "all of "+family+" and would let everything past Tor") {
			t.Errorf("%s: %s, %v", family, got, err)
		}
	}
}
