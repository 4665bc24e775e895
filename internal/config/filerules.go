package config

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2/unstable"
)

// fileExclusions are lists of what goes direct for ever.
type fileExclusions struct {
	Destinations []text[destinationText] `toml:"destinations,omitempty"`
	Ports        []text[portText]        `toml:"ports,omitempty"`
	Sources      []text[sourceText]      `toml:"sources,omitempty"`
	Devices      []text[deviceText]      `toml:"devices,omitempty"`
	Marks        []text[markText]        `toml:"marks,omitempty"`
	Interfaces   []text[interfaceText]   `toml:"interfaces,omitempty"`
	Domains      []text[domainText]      `toml:"domains,omitempty"`
	Resolver     *netip.Addr             `toml:"resolver,omitempty"`
	Lists        []text[listText]        `toml:"lists,omitempty"`
	Users        []text[userText]        `toml:"users,omitempty"`
	Cgroups      []text[cgroupText]      `toml:"cgroups,omitempty"`
	Programs     []text[programText]     `toml:"programs,omitempty"`
}

// fileRule is one rule of which there is more to say. Of the keys for a kind it has one.
type fileRule struct {
	Destination *text[destinationText] `toml:"destination,omitempty"`
	Port        *text[portText]        `toml:"port,omitempty"`
	Source      *text[sourceText]      `toml:"source,omitempty"`
	Device      *text[deviceText]      `toml:"device,omitempty"`
	Mark        *text[markText]        `toml:"mark,omitempty"`
	Interface   *text[interfaceText]   `toml:"interface,omitempty"`
	Domain      *text[domainText]      `toml:"domain,omitempty"`
	List        *text[listText]        `toml:"list,omitempty"`
	User        *text[userText]        `toml:"user,omitempty"`
	Cgroup      *text[cgroupText]      `toml:"cgroup,omitempty"`
	Program     *text[programText]     `toml:"program,omitempty"`
	Client      bool                   `toml:"client,omitempty"`
	Policy      *policyText            `toml:"policy,omitempty"`
	Until       time.Time              `toml:"until,omitempty"` // no pointer, which would be written as a text
	Comment     string                 `toml:"comment,omitempty"`
}

// text is what a rule of a kind matches, read as the command line reads it, so that both
// take and refuse the same.
type text[K kindOf] struct{ Entry }

// kindOf is a kind as a type, since a reader of text has nothing else to know it by.
type kindOf interface{ kind() Kind }

type (
	destinationText struct{}
	portText        struct{}
	sourceText      struct{}
	deviceText      struct{}
	markText        struct{}
	interfaceText   struct{}
	domainText      struct{}
	listText        struct{}
	userText        struct{}
	cgroupText      struct{}
	programText     struct{}
)

func (destinationText) kind() Kind { return KindDestination }
func (portText) kind() Kind        { return KindPort }
func (sourceText) kind() Kind      { return KindSource }
func (deviceText) kind() Kind      { return KindDevice }
func (markText) kind() Kind        { return KindMark }
func (interfaceText) kind() Kind   { return KindInterface }
func (domainText) kind() Kind      { return KindDomain }
func (listText) kind() Kind        { return KindList }
func (userText) kind() Kind        { return KindUser }
func (cgroupText) kind() Kind      { return KindCgroup }
func (programText) kind() Kind     { return KindProgram }

// UnmarshalText reads an entry by ParseEntry. A device may be called by a name as well, which
// another file may give it.
func (t *text[K]) UnmarshalText(b []byte) (err error) {
	var k K
	t.Entry, err = ParseEntry(k.kind(), string(b))
	if err != nil && k.kind() == KindDevice && deviceName.Match(b) {
		t.Entry, err = Entry{Kind: KindDevice, named: string(b)}, nil
	}
	return err
}

// MarshalText writes it.
func (t text[K]) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

type policyText struct{ Policy }

// UnmarshalText refuses what is no policy at all.
func (p *policyText) UnmarshalText(b []byte) error {
	p.Policy = Policy(b)
	switch p.Policy {
	case PolicyDirect, PolicyTor, PolicyBlock:
		return nil
	}
	return fmt.Errorf("%q is none of direct, tor, block", b)
}

// MarshalText writes it.
func (p policyText) MarshalText() ([]byte, error) { return []byte(p.Policy), nil }

// fileKind is where files say something of a kind: in a list of what goes direct for ever, and
// by the key of one rule.
type fileKind struct {
	kind   Kind
	list   string // its key below exclusions
	listed func(*fileExclusions) []Entry
	add    func(*fileExclusions, Entry)
	named  func(*fileRule) []Entry // one, or none
	name   func(*fileRule, Entry)
}

func kindAt[K kindOf](key string, list func(*fileExclusions) *[]text[K], one func(*fileRule) **text[K]) fileKind {
	var k K
	return fileKind{
		kind: k.kind(), list: key,
		listed: func(e *fileExclusions) (out []Entry) {
			for _, t := range *list(e) {
				out = append(out, t.Entry)
			}
			return out
		},
		add: func(e *fileExclusions, entry Entry) { *list(e) = append(*list(e), text[K]{entry}) },
		named: func(r *fileRule) []Entry {
			if t := *one(r); t != nil {
				return []Entry{t.Entry}
			}
			return nil
		},
		name: func(r *fileRule, entry Entry) { *one(r) = &text[K]{entry} },
	}
}

// fileKinds lists them in the order in which their rules are read.
var fileKinds = []fileKind{
	kindAt("destinations", func(e *fileExclusions) *[]text[destinationText] { return &e.Destinations }, func(r *fileRule) **text[destinationText] { return &r.Destination }),
	kindAt("ports", func(e *fileExclusions) *[]text[portText] { return &e.Ports }, func(r *fileRule) **text[portText] { return &r.Port }),
	kindAt("sources", func(e *fileExclusions) *[]text[sourceText] { return &e.Sources }, func(r *fileRule) **text[sourceText] { return &r.Source }),
	kindAt("devices", func(e *fileExclusions) *[]text[deviceText] { return &e.Devices }, func(r *fileRule) **text[deviceText] { return &r.Device }),
	kindAt("marks", func(e *fileExclusions) *[]text[markText] { return &e.Marks }, func(r *fileRule) **text[markText] { return &r.Mark }),
	kindAt("interfaces", func(e *fileExclusions) *[]text[interfaceText] { return &e.Interfaces }, func(r *fileRule) **text[interfaceText] { return &r.Interface }),
	kindAt("domains", func(e *fileExclusions) *[]text[domainText] { return &e.Domains }, func(r *fileRule) **text[domainText] { return &r.Domain }),
	kindAt("lists", func(e *fileExclusions) *[]text[listText] { return &e.Lists }, func(r *fileRule) **text[listText] { return &r.List }),
	kindAt("users", func(e *fileExclusions) *[]text[userText] { return &e.Users }, func(r *fileRule) **text[userText] { return &r.User }),
	kindAt("cgroups", func(e *fileExclusions) *[]text[cgroupText] { return &e.Cgroups }, func(r *fileRule) **text[cgroupText] { return &r.Cgroup }),
	kindAt("programs", func(e *fileExclusions) *[]text[programText] { return &e.Programs }, func(r *fileRule) **text[programText] { return &r.Program }),
}

// fileKindOf is that of a kind.
func fileKindOf(kind Kind) fileKind {
	return fileKinds[slices.IndexFunc(fileKinds, func(k fileKind) bool { return k.kind == kind })]
}

// rules returns those of a file in the order of rulePlaces.
func (f file) rules() Rules {
	var out Rules
	for _, k := range fileKinds {
		for _, entry := range k.listed(&f.Exclusions) {
			out = append(out, Direct(entry))
		}
	}
	for _, k := range fileKinds {
		for _, entry := range k.listed(&f.Client.Exclusions) {
			entry.Client = true
			out = append(out, Direct(entry))
		}
	}
	for _, r := range f.Rules {
		out = append(out, r.rule())
	}
	return out
}

// entries are what the keys of a rule name.
func (f fileRule) entries() []Entry {
	var out []Entry
	for _, k := range fileKinds {
		out = append(out, k.named(&f)...)
	}
	return out
}

// rule is zero but for its policy where the keys do not name one thing.
func (f fileRule) rule() Rule {
	r := Rule{Policy: PolicyDirect, Comment: f.Comment}
	if entries := f.entries(); len(entries) == 1 {
		r.Entry = entries[0]
		r.Client = r.Client || f.Client
	}
	if f.Policy != nil {
		r.Policy = f.Policy.Policy
	}
	r.Until = f.Until
	return r
}

// setRules writes rules in the shortest form that holds them.
func (f *file) setRules(rules Rules) {
	for _, r := range rules.Layers() {
		switch k := fileKindOf(r.Kind); {
		case r.Policy != PolicyDirect || !r.Until.IsZero() || r.Comment != "":
			f.Rules = append(f.Rules, fileRuleOf(r))
		case r.Client:
			k.add(&f.Client.Exclusions, r.Entry)
		default:
			k.add(&f.Exclusions, r.Entry)
		}
	}
}

func fileRuleOf(r Rule) fileRule {
	out := fileRule{Policy: &policyText{r.Policy}, Comment: r.Comment, Client: r.Client}
	out.Until = r.Until
	fileKindOf(r.Kind).name(&out, r.Entry)
	return out
}

// rules returns those of a decoded source, each with its line as its origin, and refuses
// those that name nothing or more than one thing, or a device that no file names. The key
// of each is noted by its origin.
func (s source) rules(f file, devices map[string]MAC, keys map[string]string) (Rules, error) {
	rules := f.rules()
	places, err := s.rulePlaces()
	if err != nil {
		return nil, err
	}
	var problems []error
	for i := range rules {
		rules[i].Origin = s.at(1) // of tables written in line it is not known where
		if len(places) == len(rules) {
			rules[i].Origin = s.at(places[i].line)
			keys[rules[i].Origin] = places[i].keyOf(rules[i])
		}
		if rules[i].Kind == "" {
			problems = append(problems, &FieldError{rules[i].Origin, "a rule says one thing to match: one of destination, port, domain, source, device, mark, interface, list, user, cgroup, program"})
		}
		if problem := commentProblem(rules[i].Comment); problem != "" {
			problems = append(problems, &FieldError{rules[i].Origin, "the comment " + problem})
		}
		if err := rules[i].meanDevice(devices); err != nil {
			problems = append(problems, err)
		}
	}
	return rules, errors.Join(problems...)
}

// overridden leaves out what saved rules say otherwise: they were told last. As with Add,
// what holds longer stays for when they end, and what holds for ever is not cut short.
func (rs Rules) overridden(saved Rules) Rules {
	out := slices.DeleteFunc(slices.Clone(rs), func(r Rule) bool {
		return slices.ContainsFunc(saved, func(s Rule) bool {
			return s.Entry == r.Entry && (!r.longer(s) || s.Policy == r.Policy && !r.Until.IsZero())
		})
	})
	return append(out, saved...)
}

// contradictions finds what one rule says so and another otherwise. One that ends may say
// otherwise of what another says for longer.
func (rs Rules) contradictions() error {
	said := make(map[Entry]Rules)
	var problems []error
	for _, r := range rs {
		for _, before := range said[r.Entry] {
			if (before.Policy == r.Policy) != before.Until.Equal(r.Until) {
				problems = append(problems, &FieldError{r.Origin, fmt.Sprintf("%s %s is in %s as well, where it is %s: which of the two is meant?", r.Kind, r.Entry, before.Origin, before.Policy)})
				break
			}
		}
		said[r.Entry] = append(said[r.Entry], r)
	}
	return errors.Join(problems...)
}

// keyRules is that of what is more than an entry in a list.
const keyRules = "rules"

// place is where a rule stands.
type place struct {
	line int
	key  string // of the list that it is in, or keyRules
}

// keyOf is the key that a rule at this place is told by.
func (p place) keyOf(r Rule) string {
	if p.key == keyRules && r.Kind != "" {
		return keyRules + "." + string(r.Kind)
	}
	return p.key
}

// rulePlaces finds those of all rules, in the order of file.rules.
func (s source) rulePlaces() ([]place, error) {
	lists := make(map[string][]place) // by their keys
	var rules []place
	err := s.walk(func(table string, e *unstable.Node, line func(*unstable.Node) int) {
		switch {
		case e.Kind == unstable.ArrayTable && table == keyRules:
			key := e.Key()
			key.Next()
			rules = append(rules, place{line(key.Node()), keyRules})
		case e.Kind == unstable.KeyValue:
			key := strings.TrimPrefix(table+"."+keyOf(e), ".")
			if e.Value().Kind == unstable.Array {
				lists[key] = append(lists[key], placesOf(e.Value(), key, line)...)
			}
		}
	})
	var out []place
	for _, table := range []string{"exclusions.", "client.exclusions."} {
		for _, k := range fileKinds {
			out = append(out, lists[table+k.list]...)
		}
	}
	return append(out, rules...), err
}

// placesOf are those of the strings in an array.
func placesOf(array *unstable.Node, key string, line func(*unstable.Node) int) []place {
	var out []place
	for values := array.Children(); values.Next(); {
		if n := values.Node(); n.Kind == unstable.String {
			out = append(out, place{line(n), key})
		}
	}
	return out
}
