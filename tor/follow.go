package tor

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/torbpf/torbpf/internal/circuits"
)

// Follower hears of every stream of a tor, and remembers which circuits were used from which
// address. It reads events itself: see eventReader for why.
type Follower struct {
	control *Control
	book    *circuits.Book
	pid     int

	asking  sync.Mutex // one question at a time
	answers chan answer
	done    chan struct{}
	err     error // why it has ended; read after done
}

type answer struct {
	circuits []Circuit
	err      error
}

// Follow begins to listen. before is what was known earlier, of this tor or of another, whose
// circuits are forgotten.
func Follow(ctx context.Context, address string, before circuits.Memory) (*Follower, error) {
	c, err := Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	f := &Follower{control: c, answers: make(chan answer, 1), done: make(chan struct{})}
	if err := f.begin(ctx, before); err != nil {
		return nil, errors.Join(fmt.Errorf("follow the streams of tor: %w", err), c.Close())
	}
	return f, nil
}

func (f *Follower) begin(ctx context.Context, before circuits.Memory) error {
	pid, err := f.control.GetInfo(ctx, "process/pid")
	if err != nil {
		return err
	}
	if f.pid, err = strconv.Atoi(pid); err != nil {
		return err
	}
	f.book = circuits.NewBook(f.pid)
	if _, err := f.control.command(ctx, "SETEVENTS STREAM"); err != nil {
		return err
	}
	if err := f.control.wire.SetDeadline(time.Time{}); err != nil {
		return err
	}
	go f.read()
	existing, err := f.ask(ctx)
	if err == nil {
		f.book.Begin(ids(existing), before)
	}
	return err
}

// Close ends it.
func (f *Follower) Close() error {
	err := f.control.Close()
	<-f.done
	return err
}

// Done is closed when tor is not to be heard any more.
func (f *Follower) Done() <-chan struct{} { return f.done }

// Memory is what is known, of all that tor did before it was asked.
func (f *Follower) Memory(ctx context.Context) (circuits.Memory, error) {
	m, _, err := f.memory(ctx)
	return m, err
}

// memory returns the circuits that there are as well.
func (f *Follower) memory(ctx context.Context) (circuits.Memory, []Circuit, error) {
	// Events and answers come in one order: when this is answered, all that was before is noted.
	existing, err := f.ask(ctx)
	if err != nil {
		return circuits.Memory{}, nil, err
	}
	return f.book.Memory(ids(existing)), existing, nil
}

func ids(cs []Circuit) []uint64 {
	var out []uint64
	for _, c := range cs {
		out = append(out, c.ID)
	}
	return out
}

// ask returns the circuits that there are.
func (f *Follower) ask(ctx context.Context) ([]Circuit, error) {
	f.asking.Lock()
	defer f.asking.Unlock()
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	if err := f.control.text.PrintfLine("GETINFO circuit-status"); err != nil {
		return nil, err
	}
	select {
	case a := <-f.answers:
		return a.circuits, a.err
	case <-f.done:
		return nil, fmt.Errorf("tor is not to be heard any more: %w", f.err)
	case <-ctx.Done():
		// A late answer would be taken for that of the next question.
		_ = f.control.Close()
		return nil, fmt.Errorf("ask tor for its circuits: %w", context.Cause(ctx))
	}
}

// read notes events and hands answers on until the connection ends.
func (f *Follower) read() {
	defer close(f.done)
	var events eventReader
	var reply []string
	for {
		f.control.wire.left, f.control.wire.lines = eventMax, linesMax
		line, err := f.control.text.ReadLine()
		if err != nil {
			f.err = err
			return
		}
		switch events.judge(line) {
		case lineStream:
			if s, ok := parseStream(line); ok {
				err = f.book.Note(s)
			}
		case lineReply:
			reply = append(reply, line)
			if len(reply) > linesMax {
				err = errReplyTooLong
			} else if replyEnds(reply) {
				f.answers <- parseAnswer(reply)
				reply = nil
			}
		}
		if err != nil {
			f.err = errors.Join(err, f.control.Close())
			return
		}
	}
}

// eventMax bounds a line in bytes; that of a circuit has eight relays at most.
const eventMax = 64 << 10

// replyEnds tells whether the last line is the reply's last: one that is not within its data.
func replyEnds(reply []string) bool {
	last := reply[len(reply)-1]
	if len(last) < 4 || last[3] != ' ' {
		return false
	}
	if strings.HasPrefix(reply[0], "250+") {
		return len(reply) > 2 && reply[len(reply)-2] == "."
	}
	return true
}

// parseAnswer reads a reply to GETINFO circuit-status.
func parseAnswer(reply []string) answer {
	if last := reply[len(reply)-1]; !strings.HasPrefix(last, "250 ") {
		return answer{err: fmt.Errorf("ask tor for its circuits: %.200q", last)}
	}
	first, ok := strings.CutPrefix(reply[0][4:], "circuit-status=")
	if !ok {
		return answer{err: fmt.Errorf("ask tor for its circuits: the reply begins with %.200q", reply[0])}
	}
	lines := append([]string{first}, reply[1:len(reply)-1]...)
	if strings.HasPrefix(reply[0], "250+") {
		lines = lines[:len(lines)-1] // the dot
	}
	found, err := parseCircuits(strings.Join(lines, "\n"))
	return answer{found, err}
}
