package doctor

import (
	"errors"
	"fmt"
	"regexp"
	"slices"

	"github.com/torbpf/torbpf/internal/plan"
)

// refused are the findings of what planning refuses for one of these reasons.
func refused(f *Facts, kinds ...error) []Finding {
	var out []Finding
	for _, r := range f.Refusals {
		if !slices.ContainsFunc(kinds, func(kind error) bool { return errors.Is(r, kind) }) {
			continue
		}
		why, next := r.Parts()
		one := problem(why, next...)
		if !slices.ContainsFunc(out, func(other Finding) bool { return other.Reason == one.Reason }) {
			out = append(out, one)
		}
	}
	return out
}

func interfaceThere(f *Facts) []Finding {
	if out := refused(f, plan.ErrUnknownInterface, plan.ErrLoopback); len(out) > 0 {
		return out
	}
	for _, r := range f.Refusals {
		if errors.Is(r, plan.ErrNoInterface) {
			why, next := r.Parts()
			return []Finding{note(why, next...)}
		}
	}
	return nil
}

func bridgePort(f *Facts) []Finding    { return refused(f, plan.ErrEnslaved) }
func subInterfaces(f *Facts) []Finding { return refused(f, plan.ErrTrunk) }
func bridgeNF(f *Facts) []Finding      { return refused(f, plan.ErrBridgeNF) }
func defaultRoute(f *Facts) []Finding  { return refused(f, plan.ErrDefaultRoute) }
func address(f *Facts) []Finding       { return refused(f, plan.ErrNoAddress) }
func onionRange(f *Facts) []Finding    { return refused(f, plan.ErrOnionRouted, plan.ErrNoOnionRange) }

func uplink(f *Facts) []Finding {
	return append(refused(f, plan.ErrUnknownUplink), found(Warning, f.Advice[CheckUplink]...)...)
}

func containers(f *Facts) []Finding {
	out := found(Warning, f.Advice[CheckContainer]...)
	for _, l := range f.Host.Links {
		if l.Kind != "bridge" || !ofContainers.MatchString(l.Name) || slices.Contains(f.Interfaces, l.Name) {
			continue
		}
		beside := Beside(l.Name)
		if !slices.ContainsFunc(out, func(other Finding) bool { return other.Reason == beside.Reason }) {
			out = append(out, Finding{Note, beside})
		}
	}
	return out
}

// ofContainers are the names of bridges that container engines and virtual machines make; those
// of Docker's own networks end in twelve digits.
var ofContainers = regexp.MustCompile(`^(docker0|br-[0-9a-f]{12}|podman[0-9]+|cni-podman[0-9]+|cni0|lxcbr0|lxdbr0|incusbr0|virbr[0-9]+)$`)

// Beside is about what is behind an interface that is no LAN.
func Beside(name string) Advice {
	return Advise(fmt.Sprintf("what is behind %s, such as containers, is forwarded and not sent by this machine, so it goes direct", name), "torbpf attach "+name)
}
