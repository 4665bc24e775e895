package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
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
		{"10.0.0.0/8", "add", "destination 10.1.0.0/16=tor", Added,
			"added destination 10.1.0.0/16 (tor)", "10.0.0.0/8 10.1.0.0/16=tor"},
		{"10.0.0.0/8 10.1.0.0/16=tor", "add", "destination 10.1.2.0/24", Added,
			"added destination 10.1.2.0/24", "10.0.0.0/8 10.1.0.0/16=tor 10.1.2.0/24"},
		{"10.1.0.0/16=tor 10.1.2.0/24", "add", "destination 10.0.0.0/8", Added,
			"added destination 10.0.0.0/8", "10.0.0.0/8 10.1.0.0/16=tor 10.1.2.0/24"},
		{"10.0.0.0/8", "add", "destination 10.0.0.0/8=tor", Changed,
			"changed destination 10.0.0.0/8: it is Tor's for good, and was excluded for good", "10.0.0.0/8=tor"},
		{"port:22/tcp", "add", "port 22/tcp@10.0.0.0/8", Covered,
			"port 22/tcp@10.0.0.0/8 is excluded already, covered by 22/tcp", "port:22/tcp"},
		{"port:22/tcp@10.0.0.0/8 port:23/tcp", "add", "port 22/tcp", Added,
			"added port 22/tcp, which absorbed 22/tcp@10.0.0.0/8", "port:22/tcp port:23/tcp"},
		{"mac:02:00:00:00:00:01", "add", "device 02-00-00-00-00-01=block", Changed,
			"changed device 02:00:00:00:00:01: it is blocked for good, and was excluded for good", "mac:02:00:00:00:00:01=block"},
		{"by:wg0", "add", "interface wg0", Present, "interface wg0 is excluded already", "by:wg0"},
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
			"destination 10.1.0.0/16 is not in the list, but 10.0.0.0/8 covers it and still lets it out: add it with --policy tor to take it out of that",
			"10.0.0.0/8 11.0.0.0/8"},
		{"9.0.0.0/8 10.1.2.0/24 10.1.3.0/24 10.64.0.0/16 ::/8", "del", "destination 10.1.2.4", Absent,
			"destination 10.1.2.4/32 is not in the list, but 10.1.2.0/24 covers it and still lets it out: add it with --policy tor to take it out of that",
			"9.0.0.0/8 10.1.2.0/24 10.1.3.0/24 10.64.0.0/16 ::/8"},
		{"9.0.0.0/8 10.1.2.0/24 10.1.3.0/24 10.64.0.0/16 ::/8", "del", "destination 10.1.0.0/16", Absent,
			"destination 10.1.0.0/16 is not in the list: nearest are 10.1.2.0/24, 10.1.3.0/24, 10.64.0.0/16",
			"9.0.0.0/8 10.1.2.0/24 10.1.3.0/24 10.64.0.0/16 ::/8"},
		{"mark:0x200 mark:0x101", "del", "mark 0x100", Absent,
			"mark 0x100 is not in the list: nearest are 0x101, 0x200", "mark:0x200 mark:0x101"},
		{"by:wg0 by:tun0", "del", "interface wg1", Absent,
			"interface wg1 is not in the list: nearest are wg0, tun0", "by:wg0 by:tun0"},
		{"10.0.0.0/8", "del", "source 10.0.0.0/8", Absent,
			"source 10.0.0.0/8 is not in the list, which has no source", "10.0.0.0/8"},
	} {
		c.check(t)
	}
}

// TestRemoveTellsWhoseTheRuleIs: --client is easily forgotten.
func TestRemoveTellsWhoseTheRuleIs(t *testing.T) {
	lans := entry(t, "destination 10.0.0.0/8")
	own := lans
	own.Client = true
	for want, c := range map[string]struct{ has, removed Entry }{
		"destination 10.0.0.0/8 is not in the list, but destination 10.0.0.0/8 of this machine is: say --client":       {own, lans},
		"destination 10.0.0.0/8 of this machine is not in the list, but destination 10.0.0.0/8 is: leave --client out": {lans, own},
	} {
		rs := Rules{Direct(c.has)}
		if got := rs.Remove(c.removed); got.Outcome != Absent || got.String() != want || len(rs) != 1 {
			t.Errorf("%s, %q, want %q", got.Outcome, got, want)
		}
	}
}

func (c change) check(t *testing.T) {
	t.Helper()
	rs := rulesOf(t, c.have)
	kind, rest, _ := strings.Cut(c.entry, " ")
	what, policy, _ := strings.Cut(rest, "=")
	r := Direct(entry(t, kind+" "+what))
	if policy != "" {
		r.Policy = Policy(policy)
	}
	var got Change
	if c.op == "add" {
		got = rs.Add(r)
	} else {
		got = rs.Remove(r.Entry)
	}
	if got.Outcome != c.outcome || got.String() != c.told {
		t.Errorf("[%s] %s %s: %s, %q\nwant %s, %q", c.have, c.op, c.entry, got.Outcome, got, c.outcome, c.told)
	}
	if after := words(rs); after != c.after {
		t.Errorf("[%s] %s %s leaves [%s], want [%s]", c.have, c.op, c.entry, after, c.after)
	}
	changed := got.Outcome == Added || got.Outcome == Changed || got.Outcome == Removed
	if before := rulesOf(t, c.have).Normalized(); changed == reflect.DeepEqual(before, rs.Normalized()) {
		t.Errorf("[%s] %s %s: %s, which is not so", c.have, c.op, c.entry, got.Outcome)
	}
}

// rulesOf reads "10.0.0.0/8 from:10.0.0.0/8 mark:0x100 port:22/tcp", each with a policy
// other than direct behind "=".
func rulesOf(t *testing.T, s string) Rules {
	t.Helper()
	var out Rules
	for _, word := range strings.Fields(s) {
		word, policy, _ := strings.Cut(word, "=")
		kind, what := KindDestination, word
		for k, prefix := range prefixesOfKinds {
			if rest, ok := strings.CutPrefix(word, prefix); ok {
				kind, what = k, rest
			}
		}
		r := Direct(entry(t, string(kind)+" "+what))
		if policy != "" {
			r.Policy = Policy(policy)
		}
		out = append(out, r)
	}
	return out
}

var prefixesOfKinds = map[Kind]string{KindSource: "from:", KindMark: "mark:", KindPort: "port:", KindInterface: "by:", KindDevice: "mac:", KindDomain: "name:", KindList: "list:"}

func words(rs Rules) string {
	var words []string
	for _, r := range rs {
		word := prefixesOfKinds[r.Kind] + r.String()
		if r.Policy != PolicyDirect {
			word += "=" + string(r.Policy)
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

func TestParseEntryRefusesUnknownKind(t *testing.T) {
	if e, err := ParseEntry("colour", "53"); err == nil || e != (Entry{}) {
		t.Errorf("ParseEntry(colour) = %v, %v", e, err)
	}
}

func TestNormalizedMasksAndSorts(t *testing.T) {
	rs := slices.Concat(
		DirectMarks(Mark{0x200, FullMask}, Mark{0x100, FullMask}, Mark{0x200, FullMask}),
		DirectPrefixes(KindDestination, netip.MustParsePrefix("2001:db8::1/32"), netip.MustParsePrefix("10.1.2.3/16"),
			netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("10.1.9.9/32"), netip.MustParsePrefix("9.0.0.0/8")))
	before := slices.Clone(rs)
	if got, want := words(rs.Normalized()), "9.0.0.0/8 10.1.0.0/16 10.1.9.9/32 2001:db8::/32 mark:0x100 mark:0x200"; got != want {
		t.Errorf("Normalized() = %s, want %s", got, want)
	}
	if !slices.Equal(before, rs) {
		t.Errorf("Normalized() changed its receiver to %v", rs)
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

func TestRulesSurviveJSON(t *testing.T) {
	want := rulesOf(t, "10.0.0.0/8 10.1.0.0/16=tor 2001:db8::/32 port:22/tcp port:icmp@10.8.0.0/16 from:192.168.1.9=block mac:02:00:00:00:00:01 mark:0x100/0xff00 by:wg0")
	want[0].Until, want[0].Ends = time.Date(2026, 12, 24, 18, 0, 0, 0, time.UTC), time.Hour
	want[0].Comment, want[0].Origin = "the bank", "torbpf exclude add"
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got Rules
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s came back as %v", data, fmt.Sprint(got))
	}
}

// TestAStateOfThreeListsIsRead: a torbpf that knew no other kinds wrote it.
func TestAStateOfThreeListsIsRead(t *testing.T) {
	var c Config
	err := json.Unmarshal([]byte(`{"interfaces": ["eth1"], "exclusions": {
		"destinations": ["10.0.0.0/8"], "sources": ["192.168.1.9/32"], "marks": [{"value": 256, "mask": 65280}]}}`), &c)
	if got := words(c.Rules); err != nil || got != "10.0.0.0/8 from:192.168.1.9/32 mark:0x100/0xff00" || len(c.Interfaces) != 1 {
		t.Errorf("read as %s, %v, %v", got, c.Interfaces, err)
	}
}

func TestRulesThatHoldForAWhile(t *testing.T) {
	soon, later := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name, have string
		until      time.Time // of what is there
		add        string
		adds       time.Time
		outcome    Outcome
		after      string
	}{
		{"a life does not cut short what holds for ever", "10.0.0.0/8", time.Time{}, "10.0.0.0/8", soon, Present, "10.0.0.0/8"},
		{"a longer life", "10.0.0.0/8", soon, "10.0.0.0/8", later, Changed, "10.0.0.0/8"},
		{"a shorter life", "10.0.0.0/8", later, "10.0.0.0/8", soon, Changed, "10.0.0.0/8"},
		{"for ever after all", "10.0.0.0/8", later, "10.0.0.0/8", time.Time{}, Changed, "10.0.0.0/8"},
		{"the same again", "10.0.0.0/8", soon, "10.0.0.0/8", soon, Present, "10.0.0.0/8"},
		{"covered for as long", "10.0.0.0/8", later, "10.1.0.0/16", soon, Covered, "10.0.0.0/8"},
		{"covered, but not for as long", "10.0.0.0/8", soon, "10.1.0.0/16", later, Added, "10.0.0.0/8 10.1.0.0/16"},
		{"covers for a shorter time", "10.1.0.0/16", later, "10.0.0.0/8", soon, Added, "10.0.0.0/8 10.1.0.0/16"},
		{"covers for as long", "10.1.0.0/16", soon, "10.0.0.0/8", soon, Added, "10.0.0.0/8"},
	} {
		rs := rulesOf(t, c.have)
		rs[0].Until = c.until
		r := rulesOf(t, c.add)[0]
		r.Until = c.adds
		if got := rs.Add(r); got.Outcome != c.outcome || words(rs) != c.after {
			t.Errorf("%s: %s, and then %s; want %s, %s", c.name, got.Outcome, words(rs), c.outcome, c.after)
		}
	}
}

// TestALifeThatIsNotTakenIsTold: whoever asks for an end must not believe in it where what
// is there stays.
func TestALifeThatIsNotTakenIsTold(t *testing.T) {
	soon := time.Now().Add(time.Hour)
	for add, want := range map[string]string{
		"10.0.0.0/8":  "destination 10.0.0.0/8 is excluded already, for good, and stays so: remove it first if it is to end",
		"10.1.0.0/16": "destination 10.1.0.0/16 is excluded already, covered by 10.0.0.0/8, for good, and stays so: remove that first if it is to end",
	} {
		rs := rulesOf(t, "10.0.0.0/8")
		r := rulesOf(t, add)[0]
		r.Until = soon
		if got := rs.Add(r).String(); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
}

// TestTheWallClockPutsNoEndOff: when a rule ends is decided once, since boot, and a wall
// clock that jumps afterwards moves that nowhere.
func TestTheWallClockPutsNoEndOff(t *testing.T) {
	wall, boot := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC), 1000*time.Second
	rs := rulesOf(t, "10.0.0.0/8 11.0.0.0/8 12.0.0.0/8")
	rs[0].Until, rs[1].Until = wall.Add(30*time.Minute), wall.Add(-time.Hour)
	lasting := rs.Last(wall, boot)
	if rs[0].Ends != 0 {
		t.Error("Last changed its receiver")
	}
	if lasting[0].Ends != boot+30*time.Minute || lasting[1].Ends == 0 || lasting[2].Ends != 0 {
		t.Errorf("they end at %v, %v, %v", lasting[0].Ends, lasting[1].Ends, lasting[2].Ends)
	}
	for _, jump := range []time.Duration{-10 * 365 * 24 * time.Hour, time.Hour, 10 * 365 * 24 * time.Hour} {
		if again := lasting.Last(wall.Add(jump), boot+time.Minute); !reflect.DeepEqual(again, lasting) {
			t.Errorf("after a jump by %v they are %v", jump, again)
		}
	}
	for at, want := range map[time.Duration]string{
		boot: "10.0.0.0/8 12.0.0.0/8", boot + 30*time.Minute - 1: "10.0.0.0/8 12.0.0.0/8", boot + 30*time.Minute: "12.0.0.0/8",
	} {
		active, ended := lasting.Active(wall.Add(at-boot), at)
		if words(active) != want || len(active)+len(ended) != len(rs) {
			t.Errorf("at %v active are %s, want %s", at, words(active), want)
		}
	}
}

func TestParseProtocol(t *testing.T) {
	for text, want := range map[string]uint8{"tcp": 6, "udp": 17, "icmp": ProtocolICMP, "gre": 47, "41": 41, "ip-41": 41, "255": 255, "0": 0} {
		if got, err := ParseProtocol(text); err != nil || got != want {
			t.Errorf("%s is %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "quic", "256", "-1", "TCP", "ip-"} {
		if got, err := ParseProtocol(text); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q is %d, %v", text, got, err)
		}
	}
}
