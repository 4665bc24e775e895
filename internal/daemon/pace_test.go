package daemon

import (
	"testing"
	"time"
)

// TestAQuarrelSlowsDownAlone: what is found again and again is tried ever less
// often, while something else is tried at once, and rest has it forgotten.
func TestAQuarrelSlowsDownAlone(t *testing.T) {
	p := make(paces)
	now := time.Unix(1000, 0)
	quarrel, other := []string{"a program ahead"}, []string{"no table"}
	attempts := 0
	for end := now.Add(5 * time.Minute); now.Before(end); now = now.Add(250 * time.Millisecond) {
		if p.due(quarrel, now) {
			p.tried(quarrel, now)
			attempts++
		}
	}
	if attempts < paceFree+5 || attempts > 20 {
		t.Errorf("%d attempts in five minutes", attempts)
	}
	if !p.due(other, now) {
		t.Error("something else has to wait")
	}
	now = now.Add(paceMax + paceRest)
	p.tried(other, now)
	p.tried(quarrel, now)
	if !p.due(quarrel, now) {
		t.Error("the quarrel was not forgotten")
	}
}
