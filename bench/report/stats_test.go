package report

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestMedianAndQuartiles(t *testing.T) {
	for _, c := range []struct {
		samples           []float64
		median, low, high float64
	}{
		{[]float64{3}, 3, 3, 3},
		{[]float64{4, 2}, 3, 2.5, 3.5},
		{[]float64{5, 1, 3}, 3, 2, 4},
		{[]float64{4, 1, 3, 2}, 2.5, 1.75, 3.25},
		{[]float64{1, 2, 3, 4, 1000}, 3, 2, 4},
	} {
		if got := Estimated(c.samples).Median; got != c.median {
			t.Errorf("median of %v: %v, want %v", c.samples, got, c.median)
		}
		if low, high := Quartiles(c.samples); low != c.low || high != c.high {
			t.Errorf("quartiles of %v: %v and %v, want %v and %v", c.samples, low, high, c.low, c.high)
		}
	}
}

// The places are those of tables of the sign test (two-sided, 5 %).
func TestBoundsOfTheMedian(t *testing.T) {
	for n, want := range map[int]int{1: 0, 2: 0, 5: 0, 6: 0, 8: 0, 9: 1, 12: 2, 15: 3, 20: 5, 25: 7, 30: 9, 40: 13} {
		if got := outside(n); got != want {
			t.Errorf("of %d samples %d lie beyond each bound, want %d", n, got, want)
		}
	}
	var samples []float64
	for i := range 25 {
		samples = append(samples, float64(25-i))
	}
	if got, want := Estimated(samples), (Estimate{Median: 13, Low: 8, High: 18}); got != want {
		t.Errorf("of 1 to 25: %v, want %v", got, want)
	}
}

// TestBoundsHoldTheMedian draws from a skewed distribution, as times have, whose median is 1.
func TestBoundsHoldTheMedian(t *testing.T) {
	const draws = 2000
	random := rand.New(rand.NewPCG(1, 2))
	held := 0
	for range draws {
		samples := make([]float64, 21)
		for i := range samples {
			samples[i] = math.Exp(random.NormFloat64())
		}
		if e := Estimated(samples); e.Low <= 1 && 1 <= e.High {
			held++
		}
	}
	if share := float64(held) / draws; share < 0.95 {
		t.Errorf("the bounds held the median in %.1f %% of draws, want 95 at least", 100*share)
	}
}

func TestRatiosAreTakenRoundByRound(t *testing.T) {
	row := Row{Name: "r", Cells: []Cell{
		{Config: "a", Samples: []float64{100, 400, 900}}, // the machine was ever busier
		{Config: "b", Samples: []float64{200, 800, 1800}},
	}}
	got, err := row.Ratio("b", "a")
	if err != nil {
		t.Fatal(err)
	}
	if want := (Estimate{2, 2, 2}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if _, err := row.Ratio("b", "c"); err == nil {
		t.Error("a ratio to what is not there")
	}
}
