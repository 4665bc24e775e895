package loader

import (
	"cmp"
	"slices"
)

// Attachment is a hook with a program of ours.
type Attachment struct {
	Kind    string // "lan", "lan_out" or "uplink"
	Ifindex int
	By      string // "tcx" or "clsact"
}

// Attachments lists where programs are attached now, sorted by interface and
// kind.
func (d *Datapath) Attachments() ([]Attachment, error) {
	links, _, err := d.pinnedLinks()
	if err != nil {
		return nil, err
	}
	var out []Attachment
	for _, h := range links {
		alive, err := d.alive(h)
		if err != nil {
			return nil, err
		}
		if alive {
			out = append(out, Attachment{Kind: h.kind, Ifindex: h.ifindex, By: "tcx"})
		}
	}
	filters, err := clsactHooks()
	if err != nil {
		return nil, err
	}
	for _, h := range filters {
		out = append(out, Attachment{Kind: h.kind, Ifindex: h.ifindex, By: "clsact"})
	}
	slices.SortFunc(out, func(a, b Attachment) int {
		return cmp.Or(cmp.Compare(a.Ifindex, b.Ifindex), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.By, b.By))
	})
	return out, nil
}
