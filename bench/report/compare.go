package report

// Change is how a configuration of a row differs between two runs.
type Change struct {
	Row, Config string
	Against     string // the configuration whose share is compared, none: the figures themselves
	Before, Now Estimate
	Slower      bool // and beyond the spread of both, and what two runs differ by anyway
	Faster      bool
}

// Compare lists what is in both runs. Shares of the row's base are compared: machines and
// days differ, and only ratios last. Rows without a base say something only on the same
// machine, and are left out elsewhere.
func Compare(before, now *Result) []Change {
	same := before.Machine.CPU == now.Machine.CPU && before.Machine.Kernel == now.Machine.Kernel &&
		before.Machine.Cores == now.Machine.Cores && before.Machine.Clock == now.Machine.Clock
	var out []Change
	for i := range now.Rows {
		row := &now.Rows[i]
		old := before.Row(row.Name)
		if old == nil || old.Unit != row.Unit || old.Base != row.Base || row.Base == "" && !same {
			continue
		}
		for _, c := range row.Cells {
			if c.Config == row.Base || old.Cell(c.Config) == nil {
				continue
			}
			out = append(out, compareCell(old, row, c.Config))
		}
	}
	return out
}

func compareCell(old, row *Row, config string) Change {
	c := Change{Row: row.Name, Config: config, Against: row.Base}
	c.Before, c.Now = old.estimate(config), row.estimate(config)
	slack := 1 + row.slack()
	above := c.Now.Low > c.Before.High && c.Now.Median > c.Before.Median*slack
	below := c.Now.High < c.Before.Low && c.Now.Median < c.Before.Median/slack
	c.Slower, c.Faster = above, below
	if row.Higher {
		c.Slower, c.Faster = below, above
	}
	return c
}

// slack is by how much two runs of the same programs differ beyond the bounds of both, as
// seen: each builds its paths anew, so other things share the caches, and what is
// timed by the time of day depends on what else the machine does.
func (r *Row) slack() float64 {
	switch {
	case r.Base == "":
		return 0.25
	case r.Unit == NanosecondsPerPacket:
		return 0.05
	default:
		return 0.10
	}
}

// estimate is of the share of the base, or of the figures where there is none.
func (r *Row) estimate(config string) Estimate {
	if r.Base == "" {
		return Estimated(r.Cell(config).Samples)
	}
	ratio, _ := r.Ratio(config, r.Base) // both are there: check() and Compare have seen to that
	return ratio
}
