package config

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// entry reads "destination 10.0.0.0/8".
func entry(t *testing.T, s string) Entry {
	t.Helper()
	kind, text, _ := strings.Cut(s, " ")
	e, err := ParseEntry(Kind(kind), text)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// change is an Add or Remove and all that can be seen of it.
type change struct {
	have, op, entry string
	outcome         Outcome
	told, after     string
}

func TestAddTellsWhatHappened(t *testing.T) {
	for _, c := range []change{
		{"", "add", "destination 10.0.0.0/8", Added,
			"added destination 10.0.0.0/8", "10.0.0.0/8"},
		{"10.0.0.0/8", "add", "destination 10.0.0.0/8", Present,
			"destination 10.0.0.0/8 is excluded already", "10.0.0.0/8"},
		{"10.0.0.0/8", "add", "destination 10.1.2.3", Covered,
			"destination 10.1.2.3/32 is excluded already, covered by 10.0.0.0/8", "10.0.0.0/8"},
		{"10.1.0.0/16 10.2.0.0/16 11.0.0.0/8", "add", "destination 10.0.0.0/8", Added,
			"added destination 10.0.0.0/8, which absorbed 10.1.0.0/16, 10.2.0.0/16", "10.0.0.0/8 11.0.0.0/8"},
		{"10.0.0.0/9", "add", "destination 10.128.0.0/9", Added,
			"added destination 10.128.0.0/9", "10.0.0.0/9 10.128.0.0/9"},
		{"2001:db8::/32", "add", "destination 10.0.0.0/8", Added,
			"added destination 10.0.0.0/8", "10.0.0.0/8 2001:db8::/32"},
		{"", "add", "source 192.168.1.9", Added,
			"added source 192.168.1.9/32", "from:192.168.1.9/32"},
		{"10.0.0.0/8", "add", "source 10.0.0.0/8", Added,
			"added source 10.0.0.0/8", "10.0.0.0/8 from:10.0.0.0/8"},
		{"mark:0x100", "add", "mark 0x100/0xff00", Added,
			"added mark 0x100/0xff00, which absorbed 0x100", "mark:0x100/0xff00"},
		{"mark:0x100/0xff00", "add", "mark 0x1ff", Covered,
			"mark 0x1ff is excluded already, covered by 0x100/0xff00", "mark:0x100/0xff00"},
		{"mark:0x100/0xff00", "add", "mark 0x200/0xff00", Added,
			"added mark 0x200/0xff00", "mark:0x100/0xff00 mark:0x200/0xff00"},
	} {
		c.check(t)
	}
}

func TestRemoveTellsWhatHappened(t *testing.T) {
	for _, c := range []change{
		{"10.0.0.0/8 11.0.0.0/8", "del", "destination 10.0.0.0/8", Removed,
			"removed destination 10.0.0.0/8", "11.0.0.0/8"},
		{"mark:0x100", "del", "mark 0x100", Removed,
			"removed mark 0x100", ""},
		{"10.0.0.0/8 11.0.0.0/8", "del", "destination 10.1.0.0/16", Absent,
			"destination 10.1.0.0/16 is not in the list, but 10.0.0.0/8 covers it and still lets it out: delete that and add the parts to keep",
			"10.0.0.0/8 11.0.0.0/8"},
		{"9.0.0.0/8 10.1.2.0/24 10.1.3.0/24 10.64.0.0/16 ::/8", "del", "destination 10.1.2.4", Absent,
			"destination 10.1.2.4/32 is not in the list, but 10.1.2.0/24 covers it and still lets it out: delete that and add the parts to keep",
			"9.0.0.0/8 10.1.2.0/24 10.1.3.0/24 10.64.0.0/16 ::/8"},
		{"9.0.0.0/8 10.1.2.0/24 10.1.3.0/24 10.64.0.0/16 ::/8", "del", "destination 10.1.0.0/16", Absent,
			"destination 10.1.0.0/16 is not in the list: nearest are 10.1.2.0/24, 10.1.3.0/24, 10.64.0.0/16",
			"9.0.0.0/8 10.1.2.0/24 10.1.3.0/24 10.64.0.0/16 ::/8"},
		{"mark:0x200 mark:0x101", "del", "mark 0x100", Absent,
			"mark 0x100 is not in the list: nearest are 0x101, 0x200", "mark:0x101 mark:0x200"},
		{"10.0.0.0/8", "del", "source 10.0.0.0/8", Absent,
			"source 10.0.0.0/8 is not in the list, which has no source", "10.0.0.0/8"},
	} {
		c.check(t)
	}
}

func (c change) check(t *testing.T) {
	t.Helper()
	e := exclusions(t, c.have)
	var got Change
	if c.op == "add" {
		got = e.Add(entry(t, c.entry))
	} else {
		got = e.Remove(entry(t, c.entry))
	}
	if got.Outcome != c.outcome || got.String() != c.told {
		t.Errorf("[%s] %s %s: %s, %q\nwant %s, %q", c.have, c.op, c.entry, got.Outcome, got, c.outcome, c.told)
	}
	if after := text(e); after != c.after {
		t.Errorf("[%s] %s %s leaves [%s], want [%s]", c.have, c.op, c.entry, after, c.after)
	}
	changed := got.Outcome == Added || got.Outcome == Removed
	if before := exclusions(t, c.have).Normalized(); changed == reflect.DeepEqual(before, e.Normalized()) {
		t.Errorf("[%s] %s %s: %s, which is not so", c.have, c.op, c.entry, got.Outcome)
	}
}

// exclusions reads "10.0.0.0/8 from:10.0.0.0/8 mark:0x100".
func exclusions(t *testing.T, s string) Exclusions {
	t.Helper()
	var e Exclusions
	for _, word := range strings.Fields(s) {
		if source, ok := strings.CutPrefix(word, "from:"); ok {
			e.Sources = append(e.Sources, entry(t, "source "+source).Prefix)
		} else if mark, ok := strings.CutPrefix(word, "mark:"); ok {
			e.Marks = append(e.Marks, entry(t, "mark "+mark).Mark)
		} else {
			e.Destinations = append(e.Destinations, entry(t, "destination "+word).Prefix)
		}
	}
	return e
}

func text(e Exclusions) string {
	var words []string
	for _, p := range e.Destinations {
		words = append(words, p.String())
	}
	for _, p := range e.Sources {
		words = append(words, "from:"+p.String())
	}
	for _, m := range e.Marks {
		words = append(words, "mark:"+m.String())
	}
	return strings.Join(words, " ")
}

func TestParseEntryRefusesUnknownKind(t *testing.T) {
	if e, err := ParseEntry("port", "53"); err == nil || e != (Entry{}) {
		t.Errorf("ParseEntry(port) = %v, %v", e, err)
	}
}

func TestNormalizedMasksMergesAndSorts(t *testing.T) {
	e := Exclusions{
		Destinations: []netip.Prefix{
			netip.MustParsePrefix("2001:db8::1/32"),
			netip.MustParsePrefix("10.1.2.3/16"),
			netip.MustParsePrefix("10.1.0.0/16"),
			netip.MustParsePrefix("10.1.9.9/32"),
			netip.MustParsePrefix("9.0.0.0/8"),
		},
		Marks: []Mark{{0x200, FullMask}, {0x100, FullMask}, {0x200, FullMask}},
	}
	before := slices.Clone(e.Destinations)
	if got, want := text(e.Normalized()), "9.0.0.0/8 10.1.0.0/16 2001:db8::/32 mark:0x100 mark:0x200"; got != want {
		t.Errorf("Normalized() = %s, want %s", got, want)
	}
	if !slices.Equal(before, e.Destinations) {
		t.Errorf("Normalized() changed its receiver to %v", e.Destinations)
	}
}

// The merged list holds the same addresses as the given one, and no entry
// covers another.
func TestMergingKeepsEveryAddressAndAddsNone(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	random := func() netip.Prefix {
		a := netip.AddrFrom4([4]byte{10, 0, byte(r.IntN(4)), byte(r.IntN(256))})
		return netip.PrefixFrom(a, 20+r.IntN(13))
	}
	for range 300 {
		var given []netip.Prefix
		for range r.IntN(12) {
			given = append(given, random())
		}
		merged := MergePrefixes(given)
		for i, p := range merged {
			for j, q := range merged {
				if i != j && p.Overlaps(q) {
					t.Fatalf("%v merged into %v: %s and %s overlap", given, merged, p, q)
				}
			}
		}
		for low := range 1024 {
			a := netip.AddrFrom4([4]byte{10, 0, byte(low >> 8), byte(low)})
			in := func(p netip.Prefix) bool { return p.Contains(a) }
			if slices.ContainsFunc(given, in) != slices.ContainsFunc(merged, in) {
				t.Fatalf("%v merged into %v: differ at %s", given, merged, a)
			}
		}
	}
}

func TestExclusionsSurviveJSON(t *testing.T) {
	want := exclusions(t, "10.0.0.0/8 2001:db8::/32 from:192.168.1.9 mark:0x100/0xff00")
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got Exclusions
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s came back as %v", data, fmt.Sprint(got))
	}
}
