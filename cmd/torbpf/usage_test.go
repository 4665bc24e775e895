package main

import (
	"testing"
	"time"
)

// TestTimesAreReadInDays: as people write them, and written as they are read.
func TestTimesAreReadInDays(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"30m": 30 * time.Minute, "1d": 24 * time.Hour, "7d12h": 180 * time.Hour, "1h30m": 90 * time.Minute, "90s": 90 * time.Second,
		"0s": 0, "-1h": -time.Hour,
	} {
		var got time.Duration
		if err := (life{&got}).Set(text); err != nil || got != want {
			t.Errorf("%s is %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "d", "10", "1w", "-1d", "1d1", "999999d", "soon"} {
		var got time.Duration
		if err := (life{&got}).Set(text); err == nil {
			t.Errorf("%q is taken for %v", text, got)
		}
	}
	for d, want := range map[time.Duration]string{
		2 * time.Minute: "2m", 48 * time.Hour: "2d", 36 * time.Hour: "1d12h", 90 * time.Second: "1m30s", 0: "0s", 393*24*time.Hour + 14*time.Hour + 41*time.Second: "393d14h0m41s",
	} {
		if got := shortTime(d); got != want {
			t.Errorf("%v is written %s, want %s", d, got, want)
		}
	}
}
