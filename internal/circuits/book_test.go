package circuits

import (
	"errors"
	"net/netip"
	"reflect"
	"testing"
)

var (
	tv    = netip.MustParseAddr("192.168.50.11")
	phone = netip.MustParseAddr("fd00::12")
)

func note(t *testing.T, b *Book, streams ...Stream) {
	t.Helper()
	for _, s := range streams {
		if err := b.Note(s); err != nil {
			t.Fatal(err)
		}
	}
}

// TestABookKnowsWhoHasUsedACircuit, long after the stream is over.
func TestABookKnowsWhoHasUsedACircuit(t *testing.T) {
	b := NewBook(7)
	b.Begin([]uint64{1, 2, 3}, Memory{})
	note(t, b,
		Stream{ID: 10, Source: tv}, Stream{ID: 10, Circuit: 1, Alone: true}, Stream{ID: 10, Circuit: 1, Closed: true, Alone: true},
		Stream{ID: 11, Source: phone}, Stream{ID: 11, Circuit: 4, Alone: true}, Stream{ID: 11, Circuit: 5, Alone: true}, // it was moved
		Stream{ID: 12, Circuit: 2, Alone: true},                // of which nobody has heard who began it
		Stream{ID: 13, Source: tv}, Stream{ID: 13, Circuit: 3}, // others may come on it
		Stream{ID: 10, Circuit: 4, Alone: true}, Stream{ID: 14, Circuit: 4}, // a number is used once
	)
	got := b.Memory([]uint64{1, 2, 3, 4, 5})
	want := Memory{PID: 7, Uses: []Use{{1, tv}, {3, tv}, {4, phone}, {5, phone}}, Unknown: []uint64{2, 3}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("it knows %+v, want %+v", got, want)
	}
	if got := got.Of(func(a netip.Addr) bool { return a == tv }); !reflect.DeepEqual(got, []uint64{1, 3}) {
		t.Errorf("of the television %v", got)
	}
	if got := b.Memory([]uint64{3}); !reflect.DeepEqual(got, Memory{PID: 7, Uses: []Use{{3, tv}}, Unknown: []uint64{3}}) {
		t.Errorf("of what is left %+v", got)
	}
}

// TestABookTakesOverWhatAnotherKnew of the same tor; the circuits of another have other numbers.
func TestABookTakesOverWhatAnotherKnew(t *testing.T) {
	before := Memory{PID: 7, Uses: []Use{{1, tv}, {2, tv}}, Unknown: []uint64{2}}
	b := NewBook(7)
	b.Begin([]uint64{1, 2, 3}, before)
	if got := b.Memory([]uint64{1, 2, 3}); !reflect.DeepEqual(got, Memory{PID: 7, Uses: []Use{{1, tv}}, Unknown: []uint64{2, 3}}) {
		t.Errorf("it knows %+v", got)
	}
	b = NewBook(8)
	b.Begin([]uint64{1}, before)
	if got := b.Memory([]uint64{1}); !reflect.DeepEqual(got, Memory{PID: 8, Uses: []Use{}, Unknown: []uint64{1}}) {
		t.Errorf("of another tor it knows %+v", got)
	}
}

func TestTwoMemoriesOfOneTorAreJoined(t *testing.T) {
	a := Memory{PID: 7, Uses: []Use{{1, tv}}, Unknown: []uint64{2, 3}}
	got := a.Join(Memory{PID: 7, Uses: []Use{{1, tv}, {2, phone}}, Unknown: []uint64{3, 4}})
	if !reflect.DeepEqual(got, Memory{PID: 7, Uses: []Use{{1, tv}, {2, phone}}, Unknown: []uint64{3}}) {
		t.Errorf("they know %+v", got)
	}
	if got := a.Join(Memory{PID: 8, Uses: []Use{{9, phone}}}); !reflect.DeepEqual(got, a) {
		t.Errorf("with another tor's %+v", got)
	}
}

func TestABookIsBounded(t *testing.T) {
	b := NewBook(1)
	var err error
	for id := uint64(1); err == nil && id <= 2*streamsMax; id++ {
		err = b.Note(Stream{ID: id, Source: tv})
	}
	if !errors.Is(err, ErrTooMany) {
		t.Errorf("of too many streams it says %v", err)
	}
}

// TestABookHasABound on circuits, until somebody says which are over.
func TestABookHasABound(t *testing.T) {
	b := NewBook(7)
	begin := func(c uint64) error {
		return errors.Join(b.Note(Stream{ID: c, Source: tv}), b.Note(Stream{ID: c, Circuit: c, Closed: true, Alone: true}))
	}
	for c := range uint64(circuitsMax) {
		if err := begin(c + 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := begin(circuitsMax + 1); !errors.Is(err, ErrTooMany) {
		t.Errorf("one more than there may be: %v", err)
	}
	b.Memory([]uint64{1})
	if err := begin(circuitsMax + 2); err != nil {
		t.Errorf("after the others are over: %v", err)
	}
}
