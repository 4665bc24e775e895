package router

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/config"
)

// The journal is a file of events for root, a line of JSON each, that commands and the
// daemon append to while something is attached. Refusals are not in it: whom a device wanted
// is written down of alarms alone (see alarm.go). Detach removes it, and it has at most
// journalMax bytes in each of two files.

// EventKind says what sort of thing has happened.
type EventKind string

// The kinds of events.
const (
	EventRefused EventKind = "refused" // a packet was refused; sampled, and never written down
	EventAlarm   EventKind = "alarm"   // only a last guard stopped a packet
	EventRepair  EventKind = "repair"  // something was missing or changed, and is right again
	EventTrouble EventKind = "trouble" // something is wrong that could not be repaired
	EventPolicy  EventKind = "policy"  // a rule was added, changed, taken back, or has ended
	EventAttach  EventKind = "attach"  // interfaces, or this machine, were put on Tor or taken off
	EventTor     EventKind = "tor"     // Tor is ready, or not any more, or was started anew
)

// EventKinds are all of them.
var EventKinds = []EventKind{EventRefused, EventAlarm, EventRepair, EventTrouble, EventPolicy, EventAttach, EventTor}

// Event is one of the things that happen.
type Event struct {
	Time   time.Time `json:"time"`
	Kind   EventKind `json:"kind"`
	Text   string    `json:"text"`   // what has happened, in words; of packets why
	Device string    `json:"device"` // whom it is about: a name, else an address; "" for no device or several
	Packet *Refused  `json:"packet"` // of refusals and alarms
	Rule   *EventOf  `json:"rule"`   // of policies
}

// EventOf names the rule that an event is about.
type EventOf struct {
	Kind  config.Kind `json:"kind"`
	Entry string      `json:"entry"`
}

// journalMax bounds each of the two files, in bytes: some thousand events.
const journalMax = 256 << 10

// journalName is the newer file's, and olderEnd what the other one has behind it.
const (
	journalName = "events.jsonl"
	olderEnd    = ".1"
)

func (r *Router) journalPath() string { return filepath.Join(r.dir, journalName) }

// journalPaths are the files of the journal, the older one first.
func (r *Router) journalPaths() []string {
	return []string{r.journalPath() + olderEnd, r.journalPath()}
}

// Record writes an event down. A failure is told and changes nothing else.
func (r *Router) Record(kind EventKind, text string) { r.record(Event{Kind: kind, Text: text}) }

func (r *Router) record(e Event) {
	e.Time = time.Now()
	if err := r.writeJournal(e); err != nil {
		r.notify(fmt.Sprintf("warning: an event could not be written down (%s): %v", e.Text, err))
	}
}

func (r *Router) writeJournal(e Event) error {
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode event: %w", err)
	}
	f, err := openLog(r.journalPath(), journalMax)
	if errors.Is(err, os.ErrNotExist) {
		return nil // detached meanwhile, with all that was there
	}
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(append(line, '\n'))
	return err
}

// openLog opens and locks a file to append to; one that is full is put aside first.
func openLog(path string, most int64) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		}
		info, err := f.Stat()
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		named, err := os.Stat(path)
		ours := err == nil && os.SameFile(info, named) // or another process has just put it aside
		if ours && info.Size() < most {
			return f, nil
		}
		if ours {
			err = os.Rename(path, path+olderEnd)
		}
		f.Close()
		if err != nil {
			return nil, err
		}
	}
}

// journalReader reads events as they are appended, across files that are put aside.
type journalReader struct {
	paths []string // the older one first
	file  *os.File // the newer one, as it was opened
	rest  []byte   // the beginning of a line
}

// Next returns the events that were appended since the last call; all of them at the first.
func (j *journalReader) Next() ([]Event, error) {
	var events []Event
	if j.file == nil {
		err := j.open()
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		if events, err = j.readOlder(); err != nil {
			return nil, err
		}
	}
	for {
		named, nameErr := os.Stat(j.paths[1])
		text, err := io.ReadAll(j.file) // behind the look at the name: nothing is appended to what was put aside
		if err != nil {
			return events, err
		}
		events = append(events, j.decode(text)...)
		ours, err := j.file.Stat()
		if err != nil || nameErr != nil || os.SameFile(ours, named) {
			return events, err
		}
		j.Close()
		if err := j.open(); err != nil {
			return events, ignoreMissing(err)
		}
	}
}

func (j *journalReader) open() (err error) {
	j.file, err = os.Open(j.paths[1])
	return err
}

// readOlder reads the older file, unless the one that is open has become it meanwhile.
func (j *journalReader) readOlder() ([]Event, error) {
	f, err := os.Open(j.paths[0])
	if err != nil {
		return nil, ignoreMissing(err)
	}
	defer f.Close()
	older, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if ours, err := j.file.Stat(); err != nil || os.SameFile(ours, older) {
		return nil, err
	}
	text, err := io.ReadAll(f)
	return j.decode(text), err
}

// decode takes whole lines apart and keeps what is left.
func (j *journalReader) decode(text []byte) []Event {
	var events []Event
	text = append(j.rest, text...)
	for {
		line, rest, whole := bytes.Cut(text, []byte("\n"))
		if !whole {
			j.rest = bytes.Clone(line)
			return events
		}
		var e Event
		if json.Unmarshal(line, &e) == nil { // else a disk was full in the middle of a line
			events = append(events, e)
		}
		text = rest
	}
}

// Close makes the next call of Next the first one.
func (j *journalReader) Close() {
	if j.file != nil {
		j.file.Close()
	}
	j.file, j.rest = nil, nil
}
