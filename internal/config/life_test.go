package config

import (
	"math"
	"testing"
	"time"
)

// TestWhenRulesEnd by the clock since boot, whatever the wall clock says by then; what
// lets out ends by that clock, too.
func TestWhenRulesEnd(t *testing.T) {
	const boot = time.Hour
	now := time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name   string
		policy Policy
		until  time.Time
		ends   time.Duration
		wall   time.Time // two hours later, as it is told
		active bool
	}{
		{"in a day", PolicyDirect, now.AddDate(0, 0, 1), 25 * time.Hour, now.Add(2 * time.Hour), true},
		{"in an hour", PolicyDirect, now.Add(time.Hour), 2 * time.Hour, now.Add(2 * time.Hour), false},
		{"in an hour, with the clock put back", PolicyDirect, now.Add(time.Hour), 2 * time.Hour, now.AddDate(-1, 0, 0), false},
		{"in a day, when the router did not know which it was", PolicyDirect, now.AddDate(0, 0, 1), 25 * time.Hour, now.AddDate(1, 0, 0), false},
		{"kept for Tor for a day, with the clock put forward", PolicyTor, now.AddDate(0, 0, 1), 25 * time.Hour, now.AddDate(1, 0, 0), true},
		{"blocked as good as for ever", PolicyBlock, time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC), math.MaxInt64, now, true},
		{"long ago", PolicyDirect, time.Date(1, 1, 1, 0, 0, 1, 0, time.UTC), 1, now, false},
		{"never", PolicyDirect, time.Time{}, 0, now.AddDate(1, 0, 0), true},
	} {
		rules := Rules{{Policy: c.policy, Until: c.until}}.Last(now, boot)
		if rules[0].Ends != c.ends {
			t.Errorf("%s: it ends %v after boot, want %v", c.name, rules[0].Ends, c.ends)
		}
		if active, ended := rules.Active(c.wall, boot+2*time.Hour); (len(active) == 1) != c.active || len(active)+len(ended) != 1 {
			t.Errorf("%s: active is %v, ended %v", c.name, active, ended)
		}
	}
}
