package top

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/torbpf/torbpf/internal/router"
)

const (
	// statusAgain is how often the status is read, which takes more than a reading, and asks tor.
	statusAgain = 5 * time.Second
	// watchAgain is how soon it is tried again to hear of refusals.
	watchAgain = time.Second
)

// news changes the model.
type news func(*model)

// feed is what goes on beside the screen. Each of its parts sends what it learns; what one of
// them panics with is raised where the screen is restored.
type feed struct {
	ctx    context.Context
	source Source
	news   chan news
}

func newFeed(ctx context.Context, s Source) *feed {
	return &feed{ctx: ctx, source: s, news: make(chan news)}
}

// begin starts the parts that all ways of showing have.
func (f *feed) begin() {
	f.run(f.statuses)
	f.run(f.events)
}

func (f *feed) run(part func()) {
	go func() {
		defer func() {
			if p := recover(); p != nil {
				text := fmt.Sprintf("%v\n\n%s", p, debug.Stack())
				f.send(func(*model) { panic(text) })
			}
		}()
		part()
	}()
}

// send passes news on, unless nobody wants any more.
func (f *feed) send(n news) {
	select {
	case f.news <- n:
	case <-f.ctx.Done():
	}
}

// wait tells whether to go on after some time.
func (f *feed) wait(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-f.ctx.Done():
		return false
	}
}

func (f *feed) statuses() {
	for {
		f.status()
		if !f.wait(statusAgain) {
			return
		}
	}
}

// status reads one.
func (f *feed) status() {
	s, err := f.source.Status(f.ctx)
	at := time.Now()
	f.send(func(m *model) { m.setStatus(s, at, err) })
}

// events hears of refusals, again and again: somebody else may read them for a while.
func (f *feed) events() {
	filter := router.EventFilter{Kinds: []router.EventKind{router.EventRefused, router.EventAlarm}, Follow: true}
	for {
		filter.Since = time.Now()
		err := f.source.Events(f.ctx, filter, func(e router.Event) { f.send(func(m *model) { m.setEvent(e) }) })
		if f.ctx.Err() != nil {
			return
		}
		if err != nil && !errors.Is(err, router.ErrNotAttached) { // which ends all of it
			f.send(func(m *model) { m.deaf = err })
		}
		if !f.wait(watchAgain) {
			return
		}
	}
}

// change makes one.
func (f *feed) change(c Change) {
	f.run(func() {
		text, err := c.make(f.ctx, f.source)
		f.send(func(m *model) { m.setChanged(text, err) })
	})
}
