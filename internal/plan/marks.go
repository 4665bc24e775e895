package plan

import (
	"errors"
	"fmt"
	"slices"

	"github.com/torbpf/torbpf/internal/config"
)

// clashes says whether somebody who looks for (mark & mask) == value would be
// misled by our bits, or we by theirs.
//
// A mask narrower than the whole mark was chosen by someone who owns those
// bits: any bit in common is a conflict, even where value is zero there (such
// a rule stops matching once we set the bit). The whole mark is what ip(8) and
// nft compare when no mask is given, by users who own no bits at all, and is a
// conflict only if value has one of ours: our packets could be taken for
// theirs. Otherwise our packets merely miss such a rule ("not fwmark 51820" of
// wg-quick, which they are meant to); those that an exempt mark lets out have
// our bits cleared so that it does match.
//
// The kernel takes a rule's mask of 0 with a nonzero mark for the whole mark.
func clashes(m Mark, value, mask uint32) bool {
	if mask == 0 || mask == config.FullMask {
		return value&m.Mask() != 0
	}
	return mask&m.Mask() != 0
}

// refuseMarkInUse judges our bits against others' ip rules and the exempt
// marks, and suggests the highest that are free: people type low ones by hand.
func refuseMarkInUse(cfg config.Config, h Host) error {
	m := Mark{Shift: cfg.MarkShift}
	by := clashing(m, cfg, h)
	if by == "" {
		return nil
	}
	kind := ErrMarkInUse
	if clashing(m, config.Config{}, h) == "" { // what was asked for is at odds with itself
		kind = errors.Join(ErrMarkInUse, config.ErrInvalid)
	}
	bits := fmt.Sprintf("0x%08x", m.Mask())
	for shift := 24; shift >= 0; shift -= 4 {
		if clashing(Mark{Shift: uint8(shift)}, cfg, h) == "" {
			return refuse(kind, bits, []string{fmt.Sprint(shift)},
				"mark bits %s are used by %s as well: take free ones with --mark-shift %[3]d of torbpf attach, or mark_shift = %[3]d in a configuration file", bits, by, shift)
		}
	}
	return refuse(kind, bits, nil,
		"mark bits %s are used by %s as well, and no eight bits in a row are free: ip rule shows who uses them, narrow one of the masks", bits, by)
}

// clashing names who else uses the bits of m, or is empty.
func clashing(m Mark, cfg config.Config, h Host) string {
	for _, r := range h.Rules {
		if clashes(m, r.Mark, r.Mask) {
			return fmt.Sprintf("the IPv%d rule at priority %d (fwmark %#x/%#x)", r.Family, r.Priority, r.Mark, r.Mask)
		}
	}
	for _, e := range cfg.Rules.Of(config.KindMark) {
		if clashes(m, e.Mark.Value, e.Mark.Mask) {
			return fmt.Sprintf("the exempt mark %s", e.Entry)
		}
	}
	return ""
}

// withoutOurs takes our bits out of whole-mark masks, so that an exempt mark
// is found beside our class as well: "meta mark set meta mark or 0x100" leaves
// ours in place, "meta mark set 0x100" does not, and both mean 0x100.
func withoutOurs(rules config.Rules, m Mark) config.Rules {
	out := slices.Clone(rules)
	for i := range out {
		if out[i].Kind == config.KindMark {
			out[i].Mark.Mask &^= m.Mask()
		}
	}
	return out.Normalized()
}
