package report

// Verdicts on targets.
const (
	Met       = "met"
	Missed    = "missed"
	Undecided = "undecided" // the spread is greater than the margin
)

// Target is what one configuration may cost at most, or must do at least, in shares of
// another.
type Target struct {
	Row, Config, Base string
	Bound             float64
}

// Targets are what torbpf is to keep to.
func Targets() []Target {
	return []Target{
		{"refused-many", "torbpf", "nft", 0.30},
		{"refused-many", "xdp", "nft", 0.12},
		{"udp-64", "torbpf", "nft", 1.00},
		{"udp-64", "tc", "masquerade", 1.07},
		{"bulk", "torbpf", "masquerade", 0.98},
		{"connect", "torbpf", "nft", 1.00},
		{"tors", "four-tors", "one-tor", 1.00},
		{"tor-bulk", "fast-xdp", "torbpf", 0.98},
		{"connect", "tproxy", "nft", 1.00},
		{"udp-64", "fast-xdp", "nft", 0.45},
		{"udp-64", "fast-xdp", "masquerade", 0.55},
		{"udp-64-back", "fast-xdp", "nft", 0.45},
		{"udp-64-back", "fast-xdp", "masquerade", 0.55},
		{"tcp-64", "fast", "nft", 0.70},
		{"bulk", "fast", "torbpf", 1.00},
		{"bulk", "fast", "masquerade", 0.98},
	}
}

// Judged is a target and what a run says of it.
type Judged struct {
	Target
	Title   string // of the row
	Higher  bool   // the bound is a lower one
	Ratio   Estimate
	Verdict string
}

// Judge compares a run with targets; what it has not measured is left out.
func (r *Result) Judge(targets []Target) []Judged {
	var out []Judged
	for _, t := range targets {
		row := r.Row(t.Row)
		if row == nil {
			continue
		}
		ratio, err := row.Ratio(t.Config, t.Base)
		if err != nil {
			continue
		}
		out = append(out, Judged{t, row.Title, row.Higher, ratio, verdict(ratio, t.Bound, row.Higher)})
	}
	return out
}

func verdict(ratio Estimate, bound float64, higher bool) string {
	worst, best := ratio.High, ratio.Low
	if higher {
		worst, best, bound = -ratio.Low, -ratio.High, -bound
	}
	switch {
	case worst <= bound:
		return Met
	case best > bound:
		return Missed
	default:
		return Undecided
	}
}
