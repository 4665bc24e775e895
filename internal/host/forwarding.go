package host

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// Writing one of these rewrites the same setting of every interface.
const (
	forwarding4 = "net.ipv4.ip_forward"
	forwarding6 = "net.ipv6.conf.all.forwarding"
)

// ForwardingEnabled reports for which families this namespace forwards packets.
// Where there is no IPv6, none is forwarded.
func ForwardingEnabled() (v4, v6 bool, err error) {
	value4, err := Sysctl(forwarding4)
	if err != nil {
		return false, false, err
	}
	value6, err := Sysctl(forwarding6)
	if errors.Is(err, os.ErrNotExist) {
		return value4 != "0", false, nil
	}
	if err != nil {
		return false, false, err
	}
	return value4 != "0", value6 != "0", nil
}

// EnableForwarding turns forwarding on for both families. Every setting that
// this changes, or that turning it off again would not bring back, is given to
// record with its present value before anything changes; an error of record
// ends it. Restore takes what was recorded.
//
// A forwarding IPv6 host ignores router advertisements, and with them loses its
// own default route, unless accept_ra is 2: uplinks with 1 get that first.
func EnableForwarding(uplinks []string, record func(name, old string) error) error {
	v4, v6, err := ForwardingEnabled()
	if err != nil {
		return err
	}
	if !v4 {
		if err := enable4(record); err != nil {
			return err
		}
	}
	if v6 {
		return nil
	}
	if _, err := Sysctl(forwarding6); errors.Is(err, os.ErrNotExist) {
		return nil // no IPv6 here
	}
	return enable6(uplinks, record)
}

func enable4(record func(name, old string) error) error {
	// Turning it off sets forwarding to 0 on every interface and lets all take
	// ICMP redirects, so what differs from that has to be remembered.
	const redirects = "net.ipv4.conf.all.accept_redirects"
	if err := recordUnless(redirects, "1", record); err != nil {
		return err
	}
	if err := recordInterfaces("net/ipv4/conf", record); err != nil {
		return err
	}
	return change(forwarding4, "1", record)
}

func enable6(uplinks []string, record func(name, old string) error) error {
	for _, uplink := range uplinks {
		name := filepath.Join("net/ipv6/conf", uplink, "accept_ra")
		value, err := Sysctl(name)
		if errors.Is(err, os.ErrNotExist) {
			continue // an uplink without IPv6
		}
		if err != nil {
			return err
		}
		if value != "1" {
			continue
		}
		if err := change(name, "2", record); err != nil {
			return err
		}
	}
	if err := recordInterfaces("net/ipv6/conf", record); err != nil {
		return err
	}
	return change(forwarding6, "1", record)
}

// recordInterfaces records the interfaces (and the default for later ones) that
// forward already.
func recordInterfaces(dir string, record func(name, old string) error) error {
	entries, err := os.ReadDir(filepath.Join(procSys, dir))
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	for _, entry := range entries {
		if entry.Name() == "all" {
			continue
		}
		err := recordUnless(filepath.Join(dir, entry.Name(), "forwarding"), "0", record)
		if err != nil && !errors.Is(err, os.ErrNotExist) { // the interface went meanwhile
			return err
		}
	}
	return nil
}

// recordUnless records a setting whose value is not the given one.
func recordUnless(name, value string, record func(name, old string) error) error {
	old, err := Sysctl(name)
	if err != nil {
		return err
	}
	if old == value {
		return nil
	}
	if err := record(name, old); err != nil {
		return fmt.Errorf("record sysctl %s: %w", name, err)
	}
	return nil
}

// change sets a setting after recording its value.
func change(name, value string, record func(name, old string) error) error {
	if err := recordUnless(name, value, record); err != nil {
		return err
	}
	return SetSysctl(name, value)
}

// Restore writes recorded settings back, those that rewrite others first. All
// are tried; settings of interfaces that are gone are no error.
func Restore(values map[string]string) error {
	wide := func(name string) int {
		if name == forwarding4 || name == forwarding6 {
			return 0
		}
		return 1
	}
	names := slices.Sorted(maps.Keys(values))
	slices.SortStableFunc(names, func(a, b string) int { return wide(a) - wide(b) })
	var errs []error
	for _, name := range names {
		err := SetSysctl(name, values[name])
		if errors.Is(err, os.ErrNotExist) && wide(name) != 0 {
			continue
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
