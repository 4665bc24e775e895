package top

import "testing"

// BenchmarkFrame draws a frame of a household with 250 devices more.
func BenchmarkFrame(b *testing.B) {
	m := many(250)
	for b.Loop() {
		m.frame(80, 24)
	}
}
