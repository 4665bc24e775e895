package config

import (
	"encoding/json"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"time"
)

// Kind says what of a packet a rule looks at.
type Kind string

// The kinds of rules.
const (
	KindDestination Kind = "destination"
	KindSource      Kind = "source"
	KindMark        Kind = "mark"
	KindPort        Kind = "port"      // the destination's, or a protocol without ports
	KindInterface   Kind = "interface" // that the packet leaves by
	KindDevice      Kind = "device"    // by its hardware address
	KindDomain      Kind = "domain"    // a name, or *.name for those below it
	KindList        Kind = "list"      // destinations in a file of prefixes, see internal/lists
	KindUser        Kind = "user"      // whose programs on this machine send it
	KindCgroup      Kind = "cgroup"    // what runs in a control group of this machine, or below it
	KindProgram     Kind = "program"   // what runs an executable file of this machine
)

// Kinds lists them in the order in which they are told.
var Kinds = []Kind{KindDestination, KindPort, KindDomain, KindSource, KindDevice, KindMark, KindInterface, KindList, KindUser, KindCgroup, KindProgram}

// Policy says what becomes of what a rule matches.
type Policy string

// The policies.
const (
	PolicyDirect Policy = "direct" // it goes as if torbpf were not there
	PolicyTor    Policy = "tor"    // it stays Tor's, within something that goes direct
	PolicyBlock  Policy = "block"  // it goes nowhere; for sources and devices
)

// Entry is what a rule matches: the field of its kind, the others are zero.
type Entry struct {
	Kind Kind
	// Client says that it is about what this machine itself sends, instead of what LANs do.
	Client    bool
	Prefix    netip.Prefix // of a destination or a source; of a port the destinations, zero for all
	Mark      Mark
	Service   Service // of a port
	Interface string
	MAC       MAC    // of a device
	named     string // what a file calls the device, until it is known which is meant
	Domain    string // in lower case, without a dot at its end
	List      string // absolute path of a file
	User      string // a name or a number
	Cgroup    string // path below the root of the cgroup v2 tree, such as /system.slice/ntpd.service
	Program   string // absolute path of a file
}

// Rule is an entry, what becomes of it, and what there is to say about it.
type Rule struct {
	Entry
	Policy  Policy
	Until   time.Time     // by the wall clock; zero: for ever
	Ends    time.Duration // the same since boot (CLOCK_BOOTTIME), once that is decided
	Comment string
	Origin  string // what put it there: a file and line, or a command
	// Runtime says that a command has put it there: no file brings it back, and none
	// that changes takes it away.
	Runtime bool
	// Beneath says otherwise of the same entry and holds again when this one has ended;
	// nil for none.
	Beneath *Rule
}

// Direct is a rule that excludes an entry for ever.
func Direct(e Entry) Rule { return Rule{Entry: e, Policy: PolicyDirect} }

// DirectPrefixes excludes destinations or sources for ever.
func DirectPrefixes(kind Kind, prefixes ...netip.Prefix) Rules {
	var out Rules
	for _, p := range prefixes {
		out = append(out, Direct(Entry{Kind: kind, Prefix: p}))
	}
	return out
}

// DirectMarks excludes marks for ever.
func DirectMarks(marks ...Mark) Rules {
	var out Rules
	for _, m := range marks {
		out = append(out, Direct(Entry{Kind: KindMark, Mark: m}))
	}
	return out
}

// ParseEntry reads what a rule of a known kind matches: a prefix (ParsePrefix), a mark
// (ParseMark), a port (ParsePort), an interface name, a hardware address or a path.
func ParseEntry(kind Kind, s string) (Entry, error) {
	var err error
	e := Entry{Kind: kind}
	switch kind {
	case KindDestination, KindSource:
		e.Prefix, err = ParsePrefix(s)
	case KindMark:
		e.Mark, err = ParseMark(s)
	case KindPort:
		e.Service, e.Prefix, err = ParsePort(s)
	case KindInterface:
		e.Interface, err = parseInterface(s)
	case KindDevice:
		e.MAC, err = ParseMAC(s)
	case KindDomain:
		e.Domain, err = ParseDomain(s)
	case KindList:
		e.List, err = parseList(s)
	case KindUser:
		e.Client = true
		e.User, err = parseUser(s)
	case KindCgroup:
		e.Client = true
		e.Cgroup, err = parseCgroup(s)
	case KindProgram:
		e.Client = true
		e.Program, err = parsePath(s, "a program")
	default:
		err = Invalid("read rule %q: kind %q is none of %v", s, kind, Kinds)
	}
	if err != nil {
		return Entry{}, err
	}
	return e, nil
}

// String writes the entry as ParseEntry reads it, without its kind.
func (e Entry) String() string {
	switch e.Kind {
	case KindMark:
		return e.Mark.String()
	case KindPort:
		if e.Prefix.IsValid() {
			return fmt.Sprintf("%s@%s", e.Service, e.Prefix)
		}
		return e.Service.String()
	case KindInterface:
		return e.Interface
	case KindDevice:
		return e.MAC.String()
	case KindDomain:
		return e.Domain
	case KindList:
		return e.List
	case KindUser:
		return e.User
	case KindCgroup:
		return e.Cgroup
	case KindProgram:
		return e.Program
	default:
		return e.Prefix.String()
	}
}

// covers says whether every packet that o matches is matched by e.
func (e Entry) covers(o Entry) bool {
	if e.Kind != o.Kind || e.Client != o.Client {
		return false
	}
	switch e.Kind {
	case KindMark:
		return e.Mark.covers(o.Mark)
	case KindDestination, KindSource:
		return PrefixCovers(e.Prefix, o.Prefix)
	case KindPort:
		return e.Service == o.Service && (!e.Prefix.IsValid() || o.Prefix.IsValid() && PrefixCovers(e.Prefix, o.Prefix))
	case KindDomain:
		return domainCovers(e.Domain, o.Domain)
	default:
		return e == o
	}
}

// wide grows with what an entry matches, among those that cover one another.
func (e Entry) wide() int {
	switch e.Kind {
	case KindMark:
		return -bits.OnesCount32(e.Mark.Mask)
	case KindDomain:
		return -len(e.Domain)
	}
	if !e.Prefix.IsValid() {
		return 1
	}
	return -e.Prefix.Bits()
}

// distance grows as two entries of one kind have less in common.
func (e Entry) distance(o Entry) int {
	switch e.Kind {
	case KindMark:
		return bits.OnesCount32(e.Mark.Value^o.Mark.Value) + bits.OnesCount32(e.Mark.Mask^o.Mark.Mask)
	case KindDestination, KindSource:
		return prefixDistance(e.Prefix, o.Prefix)
	case KindPort:
		if e.Service == o.Service {
			return 0
		}
		return 1
	default:
		return nameDistance(e.String(), o.String())
	}
}

func prefixDistance(p, o netip.Prefix) int {
	if p.Addr().Is4() != o.Addr().Is4() {
		return 256
	}
	a, b := p.Addr().AsSlice(), o.Addr().AsSlice()
	for i := range a {
		if x := a[i] ^ b[i]; x != 0 {
			return (len(a)-i)*8 - bits.LeadingZeros8(x)
		}
	}
	return 0
}

// nameDistance counts the places at which two names differ.
func nameDistance(a, b string) int {
	differ := max(len(a), len(b)) - min(len(a), len(b))
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			differ++
		}
	}
	return differ
}

// outlasts says whether a rule holds at least as long as another.
func (r Rule) outlasts(o Rule) bool {
	return r.Until.IsZero() || !o.Until.IsZero() && !r.Until.Before(o.Until)
}

// ruleJSON is a rule as the state holds it and commands print it.
type ruleJSON struct {
	Kind    Kind          `json:"kind"`
	Match   string        `json:"match"`
	Client  bool          `json:"client,omitempty"`
	Policy  Policy        `json:"policy"`
	Until   *time.Time    `json:"until,omitempty"`
	Ends    time.Duration `json:"ends_ns,omitempty"`
	Comment string        `json:"comment,omitempty"`
	Origin  string        `json:"origin,omitempty"`
	Runtime bool          `json:"runtime,omitempty"`
	Beneath *Rule         `json:"beneath,omitempty"`
}

// MarshalJSON writes what the rule matches as ParseEntry reads it.
func (r Rule) MarshalJSON() ([]byte, error) {
	out := ruleJSON{r.Kind, r.String(), r.Client, r.Policy, nil, r.Ends, r.Comment, r.Origin, r.Runtime, r.Beneath}
	if !r.Until.IsZero() {
		out.Until = &r.Until
	}
	return json.Marshal(out)
}

// UnmarshalJSON reads what MarshalJSON writes.
func (r *Rule) UnmarshalJSON(text []byte) error {
	var in ruleJSON
	if err := json.Unmarshal(text, &in); err != nil {
		return err
	}
	entry, err := ParseEntry(in.Kind, in.Match)
	if err != nil {
		return err
	}
	entry.Client = in.Client
	*r = Rule{Entry: entry, Policy: in.Policy, Ends: in.Ends, Comment: printable(in.Comment), Origin: in.Origin, Runtime: in.Runtime, Beneath: in.Beneath}
	if in.Until != nil {
		r.Until = *in.Until
	}
	return nil
}

// Rules are what a user wants to be otherwise than through Tor.
type Rules []Rule

// Of returns those of one kind, in their order.
func (rs Rules) Of(kind Kind) []Rule {
	return slices.DeleteFunc(slices.Clone(rs), func(r Rule) bool { return r.Kind != kind })
}

// OfLANs returns those that are about what LANs send.
func (rs Rules) OfLANs() Rules {
	return slices.DeleteFunc(slices.Clone(rs), func(r Rule) bool { return r.Client })
}

// OfClient returns those that are about what this machine itself sends.
func (rs Rules) OfClient() Rules {
	return slices.DeleteFunc(slices.Clone(rs), func(r Rule) bool { return !r.Client })
}

// OpensAny says whether a rule lets anything go direct.
func (rs Rules) OpensAny() bool {
	return slices.ContainsFunc(rs, func(r Rule) bool { return r.Policy == PolicyDirect })
}
