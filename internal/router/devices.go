package router

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/loader"
)

// DevicesSchema is that of a list of devices as JSON.
const DevicesSchema = 3

// DeviceStatus is one device behind the LANs.
type DeviceStatus struct {
	Name    string                    `json:"name,omitempty"`
	MAC     string                    `json:"mac,omitempty"` // "" where frames have none
	Addrs   []netip.Addr              `json:"addresses"`     // as neighbours know them
	Policy  config.Policy             `json:"policy"`
	Until   *time.Time                `json:"until,omitempty"`
	Comment string                    `json:"comment,omitempty"`
	Traffic map[string]loader.Traffic `json:"traffic"`   // sent, by "tor", "direct", "local", "refused"
	Silent  *time.Duration            `json:"silent_ns"` // nil: it has sent nothing since attach
}

// policyUnknown is that of a device whose addresses nobody knows now while there are rules
// for addresses.
const policyUnknown config.Policy = "unknown"

// Devices lists the devices that have sent anything since attach, or that are neighbours
// of a LAN, or have a name; the one that sent last comes first.
func (r *Router) Devices() ([]DeviceStatus, error) {
	s, err := r.attached()
	if err != nil {
		return nil, err
	}
	d, err := r.datapath(s.Config.Clsact)
	if err != nil {
		return nil, err
	}
	traffic, err := d.DeviceTraffic()
	if err != nil {
		return nil, err
	}
	neighbours, err := s.neighbours()
	if err != nil {
		return nil, err
	}
	boot, err := kernel.BootTime()
	if err != nil {
		return nil, err
	}
	rules, _, err := s.activeRules()
	if err != nil {
		return nil, err
	}
	found := &devices{config: s.Config, rules: rules, addrs: byMAC(neighbours), boot: boot}
	for _, t := range traffic {
		found.add(t)
	}
	silent := slices.Collect(maps.Values(s.Config.Devices))
	for _, mac := range slices.Concat(silent, slices.Collect(maps.Keys(found.addrs))) {
		if !slices.ContainsFunc(found.list, func(d DeviceStatus) bool { return d.MAC == mac.String() }) {
			found.add(loader.DeviceTraffic{MAC: mac})
		}
	}
	slices.SortFunc(found.list, func(a, b DeviceStatus) int {
		return cmp.Or(cmp.Compare(a.silence(), b.silence()), cmp.Compare(a.MAC, b.MAC))
	})
	return found.list, nil
}

// silence orders devices.
func (d DeviceStatus) silence() time.Duration {
	if d.Silent == nil {
		return math.MaxInt64
	}
	return *d.Silent
}

// devices collects them.
type devices struct {
	config config.Config
	rules  config.Rules
	addrs  map[config.MAC][]netip.Addr
	boot   time.Duration
	list   []DeviceStatus
}

func (ds *devices) add(t loader.DeviceTraffic) {
	d := DeviceStatus{Addrs: []netip.Addr{}, Policy: config.PolicyTor, Traffic: make(map[string]loader.Traffic)}
	if silent := ds.boot - t.Seen; t.Seen != 0 {
		d.Silent = &silent
	}
	if t.MAC != (config.MAC{}) {
		d.MAC, d.Name, d.Addrs = t.MAC.String(), ds.config.DeviceName(t.MAC), append(d.Addrs, ds.addrs[t.MAC]...)
	} else {
		d.Addrs = append(d.Addrs, t.Addr)
	}
	for fate, name := range abi.FateNames {
		d.Traffic[name] = t.ByFate[fate]
	}
	if rule, ok := ds.ruleFor(t.MAC, d.Addrs); ok {
		d.Policy, d.Comment = rule.Policy, rule.Comment
		if !rule.Until.IsZero() {
			d.Until = &rule.Until
		}
	} else if len(d.Addrs) == 0 && slices.ContainsFunc(ds.rules.Of(config.KindSource), func(r config.Rule) bool { return r.Policy != config.PolicyTor }) {
		d.Policy = policyUnknown
	}
	ds.list = append(ds.list, d)
}

// ruleFor is the rule that a device is under, as the programs find it: by its hardware
// address, or else the narrowest for the first of its addresses that has one.
func (ds *devices) ruleFor(mac config.MAC, addrs []netip.Addr) (config.Rule, bool) {
	for _, rule := range ds.rules.Of(config.KindDevice) {
		if rule.MAC == mac {
			return rule, true
		}
	}
	for _, addr := range addrs {
		var best config.Rule
		for _, rule := range ds.rules.Of(config.KindSource) {
			if rule.Prefix.Contains(addr) && (best.Kind == "" || rule.Prefix.Bits() > best.Prefix.Bits()) {
				best = rule
			}
		}
		if best.Kind != "" {
			return best, true
		}
	}
	return config.Rule{}, false
}

// neighbours are those behind the LANs.
func (s *State) neighbours() (map[netip.Addr]config.MAC, error) {
	return host.Neighbours(s.lanIndices())
}

func byMAC(neighbours map[netip.Addr]config.MAC) map[config.MAC][]netip.Addr {
	out := make(map[config.MAC][]netip.Addr)
	for addr, mac := range neighbours {
		out[mac] = append(out[mac], addr)
	}
	for _, addrs := range out {
		slices.SortFunc(addrs, netip.Addr.Compare)
	}
	return out
}

// WhoIs finds the devices that somebody names, by name, hardware address or address.
func (r *Router) WhoIs(who []string) ([]config.Entry, error) {
	s, err := r.attached()
	if err != nil {
		return nil, err
	}
	entries, err := s.whoIs(who)
	if err != nil {
		return nil, err
	}
	return entries, r.refuseNoDevice(s, entries)
}

// refuseNoDevice refuses addresses that no device behind the LANs can have.
func (r *Router) refuseNoDevice(s *State, entries []config.Entry) error {
	if !slices.ContainsFunc(entries, func(e config.Entry) bool { return e.Kind == config.KindSource }) {
		return nil
	}
	p, err := r.makePlan(s)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if why := noDevice(e, p); why != "" {
			return config.Invalid("%s %s: torbpf device list shows who is there", e, why)
		}
	}
	return nil
}

// noDevice says why an address is no device's; "" for one that may be.
func noDevice(e config.Entry, p *plan.Plan) string {
	switch {
	case e.Kind != config.KindSource:
		return ""
	case e.Prefix.IsSingleIP() && slices.Contains(p.LocalAddrs, e.Prefix.Addr()):
		return "is the router's own, and no device's"
	case len(p.LANs) > 0 && !slices.ContainsFunc(p.LANPrefixes(), e.Prefix.Overlaps):
		return "is behind no LAN, so no device has it"
	}
	return ""
}

// notThere tells of rules for devices whose device nobody knows: it has no name, is no neighbour
// and has sent nothing.
func (r *Router) notThere(rules config.Rules) []string {
	known, err := r.Devices()
	if err != nil {
		return []string{fmt.Sprintf("whether the devices are there is not known: %v", err)}
	}
	var out []string
	for _, rule := range rules {
		there := slices.ContainsFunc(known, func(d DeviceStatus) bool {
			if rule.Kind == config.KindDevice {
				return d.MAC == rule.MAC.String()
			}
			return slices.ContainsFunc(d.Addrs, rule.Prefix.Contains)
		})
		if !there {
			who := rule.MAC.String()
			if rule.Kind == config.KindSource {
				who = rule.Prefix.Addr().String()
			}
			out = append(out, fmt.Sprintf("no device has %s now: torbpf device list shows who is there", who))
		}
	}
	return out
}

func (s *State) whoIs(who []string) ([]config.Entry, error) {
	neighbours, err := s.neighbours()
	if err != nil {
		return nil, err
	}
	var out []config.Entry
	for _, w := range who {
		entry, err := s.Config.WhoIs(w, neighbours)
		if err != nil {
			return nil, err
		}
		out = append(out, entry)
	}
	return out, nil
}

// BackToTor takes back what was said of devices, all at once; of one that another rule lets
// out, or may, it says that it is Tor's.
func (r *Router) BackToTor(ctx context.Context, who []string, o ExcludeOptions) ([]config.Change, []string, error) {
	if err := requireRoot(); err != nil {
		return nil, nil, err
	}
	return r.change(ctx, true, listFiles{}, o, func(s *State) ([]config.Change, error) {
		entries, err := s.whoIs(who)
		var changes []config.Change
		for _, e := range entries {
			changes = append(changes, backToTor(&s.Config.Rules, e, o.By))
		}
		return changes, err
	})
}

func backToTor(rules *config.Rules, e config.Entry, by string) config.Change {
	tor := config.Rule{Entry: e, Policy: config.PolicyTor, Runtime: true, Origin: by}
	own := slices.DeleteFunc(rules.Layers(), func(r config.Rule) bool { return r.Entry != e })
	kept := slices.ContainsFunc(own, func(r config.Rule) bool { return r.Policy == config.PolicyTor })
	switch {
	case kept || letOut(*rules, e):
		return rules.Add(tor)
	case len(own) > 0:
		return rules.Remove(e)
	}
	return config.Change{Rule: tor, Outcome: config.Present}
}

// letOut tells whether a rule for sources lets out a device. By its hardware address it is
// not known which addresses it will take.
func letOut(rules config.Rules, e config.Entry) bool {
	return slices.ContainsFunc(rules.Layers(), func(r config.Rule) bool {
		mayBe := e.Kind == config.KindDevice || r.Entry != e && config.PrefixCovers(r.Prefix, e.Prefix)
		return r.Kind == config.KindSource && r.Policy == config.PolicyDirect && mayBe
	})
}

// NameDevice calls a device something, or nothing any more for the name "". A name that
// another device has is moved by force alone, which the result says.
func (r *Router) NameDevice(ctx context.Context, who, name string, o ExcludeOptions) (*Naming, []string, error) {
	entries, err := r.WhoIs([]string{who})
	if err != nil {
		return nil, nil, err
	}
	mac := entries[0].MAC
	if entries[0].Kind != config.KindDevice {
		return nil, nil, config.Invalid("no neighbour has the address %s now, so its hardware address is not known: name the device by that", who)
	}
	if name != "" {
		if err := config.CheckDeviceName(name); err != nil {
			return nil, nil, err
		}
	}
	unlock, err := r.lock(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	s, err := r.attached()
	if err != nil {
		return nil, nil, err
	}
	said := s.naming(mac, name)
	if said.Taken != "" && !o.Force {
		return nil, nil, config.Invalid("%s is %s; --force moves the name", name, said.Taken)
	}
	s.Config.Devices, s.Given.Devices = renamed(s.Config.Devices, mac, name), renamed(s.Given.Devices, mac, name)
	var saveErr error
	var warnings []string
	if o.Save {
		saveErr = s.writeSaved(o.File, func(_ config.Config, to *config.Saved) { to.Devices = renamed(to.Devices, mac, name) })
		if saveErr == nil {
			s.Given.Devices = renamed(s.Given.Devices, mac, "")
			warnings = unread(o.File)
		} else {
			saveErr = fmt.Errorf("the name is in force, but not saved: %w", saveErr)
		}
	}
	return said, warnings, errors.Join(saveErr, r.saveState(s))
}

// Naming is what it means to call a device something from now on.
type Naming struct {
	MAC   string `json:"mac"`
	Name  string `json:"name"`  // "" for none any more
	Was   string `json:"was"`   // what it was called, "" for nothing
	Taken string `json:"taken"` // the hardware address of another device that had the name, "" for none
}

func (s *State) naming(mac config.MAC, name string) *Naming {
	out := &Naming{MAC: mac.String(), Name: name, Was: s.Config.DeviceName(mac)}
	if other, taken := s.Config.Named(name); taken && other != mac {
		out.Taken = other.String()
	}
	return out
}

// String says it in words.
func (n *Naming) String() string {
	if n.Name == "" && n.Was == "" {
		return fmt.Sprintf("%s has no name", n.MAC)
	}
	if n.Name == "" {
		return fmt.Sprintf("%s is not called %s any more", n.MAC, n.Was)
	}
	text := fmt.Sprintf("%s is called %s", n.MAC, n.Name)
	if n.Was != "" && n.Was != n.Name {
		text += ", and was called " + n.Was
	}
	if n.Taken != "" {
		text += fmt.Sprintf("; %s, which had that name, has none now", n.Taken)
	}
	return text
}

// renamed is the names with another for one device.
func renamed(names map[string]config.MAC, mac config.MAC, name string) map[string]config.MAC {
	out := make(map[string]config.MAC)
	for n, m := range names {
		if m != mac && !strings.EqualFold(n, name) {
			out[n] = m
		}
	}
	if name != "" {
		out[name] = mac
	}
	return out
}
