package report

import (
	"fmt"
	"math"
	"slices"
)

// Estimate is a median with what it may be off by.
type Estimate struct {
	Median    float64
	Low, High float64 // bounds of the median, with a confidence of 95 % at least
}

// Estimated is the median of samples. Its bounds are samples themselves, of which the
// binomial distribution says how likely the true median lies between them: nothing is
// supposed of how they are distributed. Fewer than six cannot say, and have the least and the
// greatest.
func Estimated(samples []float64) Estimate {
	sorted := slices.Sorted(slices.Values(samples))
	n := len(sorted)
	k := outside(n)
	return Estimate{Median: median(sorted), Low: sorted[k], High: sorted[n-1-k]}
}

// outside is how many samples may lie beyond each bound: the greatest k for which fewer than
// k+1 of n coins show heads with a probability of at most 2.5 %.
func outside(n int) int {
	const tail = 0.025
	k, sum, term := 0, 0.0, math.Pow(0.5, float64(n)) // term: exactly i heads
	for i := 0; i < n/2; i++ {
		if sum += term; sum > tail {
			break
		}
		k = i
		term *= float64(n-i) / float64(i+1)
	}
	return k
}

func median(sorted []float64) float64 {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// Quartiles of samples: a quarter lies below the first, a quarter above the second.
func Quartiles(samples []float64) (low, high float64) {
	sorted := slices.Sorted(slices.Values(samples))
	return quantile(sorted, 0.25), quantile(sorted, 0.75)
}

// quantile interpolates between the two nearest samples.
func quantile(sorted []float64, q float64) float64 {
	place := q * float64(len(sorted)-1)
	below := int(place)
	if below == len(sorted)-1 {
		return sorted[below]
	}
	return sorted[below] + (place-float64(below))*(sorted[below+1]-sorted[below])
}

// Ratio compares two configurations of a row round by round, so that what a machine did
// meanwhile is in both.
func (r *Row) Ratio(config, base string) (Estimate, error) {
	a, b := r.Cell(config), r.Cell(base)
	if a == nil || b == nil {
		return Estimate{}, fmt.Errorf("row %q has no %q beside %q", r.Name, config, base)
	}
	ratios := make([]float64, len(a.Samples))
	for i := range ratios {
		ratios[i] = a.Samples[i] / b.Samples[i]
	}
	return Estimated(ratios), nil
}
