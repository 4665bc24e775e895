package sentry

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/torbpf/torbpf/internal/circuits"
)

// counting counts how often it is asked, until it has ended.
type counting struct {
	times chan struct{}
	done  chan struct{}
}

func (a counting) Close() error          { return nil }
func (a counting) Done() <-chan struct{} { return a.done }
func (a counting) Memory(context.Context) (circuits.Memory, error) {
	a.times <- struct{}{}
	return circuits.Memory{}, nil
}

// TestCircuitsThatAreOverAreForgotten without anybody asking for those that are not.
func TestCircuitsThatAreOverAreForgotten(t *testing.T) {
	m := newMemories(make([]TorConfig, 1), nil, nil, slog.New(slog.DiscardHandler))
	m.each = time.Millisecond
	l := counting{make(chan struct{}), make(chan struct{})}
	heard := make(chan struct{})
	go func() { defer close(heard); m.hear(t.Context(), l) }()
	for range 3 {
		within(t, "forgetting", func() { <-l.times })
	}
	close(l.done)
	within(t, "the end", func() {
		for {
			select {
			case <-l.times:
			case <-heard:
				return
			}
		}
	})
}
