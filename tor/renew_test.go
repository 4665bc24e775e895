package tor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/torbpf/torbpf/internal/circuits"
)

// switchboard is a tor that has circuits, as far as somebody who follows it asks.
type switchboard struct {
	mu       sync.Mutex
	circuits map[uint64]string // what GETINFO says behind the state
	streams  []uint64          // circuits that something goes by
	asked    uint64            // a circuit by which a question goes until somebody looks twice
	keeps    []uint64          // those that it does not close the first time it is told
	never    bool              // nor any other time
	closed   []uint64          // in order
	listener io.Writer         // who hears of streams
}

func (s *switchboard) serve(t *testing.T) (address string) {
	t.Helper()
	return listenFake(t, filepath.Join(shortDir(t), "control"), func(conn io.Writer, line string) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		_, err := io.WriteString(conn, s.answer(conn, line))
		return err == nil
	})
}

func (s *switchboard) answer(conn io.Writer, line string) string {
	var id uint64
	switch {
	case strings.HasPrefix(line, "PROTOCOLINFO"):
		return infoNull
	case line == "GETINFO process/pid":
		return "250-process/pid=77\r\n" + ok
	case line == "GETINFO circuit-status":
		text := "250+circuit-status=\r\n"
		for id, rest := range s.circuits {
			text += fmt.Sprintf("%d BUILT %s\r\n", id, rest)
		}
		return text + ".\r\n" + ok
	case line == "GETINFO stream-status":
		return s.streamStatus()
	case line == "SETEVENTS STREAM":
		s.listener = conn
	case strings.HasPrefix(line, "CLOSECIRCUIT "):
		if _, err := fmt.Sscanf(line, "CLOSECIRCUIT %d", &id); err != nil {
			return "512 syntax\r\n"
		}
		return s.close(id, strings.HasSuffix(line, " IfUnused"))
	}
	return ok
}

// streamStatus tells of the question, which is over when it is told.
func (s *switchboard) streamStatus() string {
	if s.asked == 0 {
		return "250-stream-status=\r\n" + ok
	}
	text := fmt.Sprintf("250-stream-status=31 SENTRESOLVE %d example.net:0\r\n", s.asked) + ok
	s.streams = slices.DeleteFunc(s.streams, func(id uint64) bool { return id == s.asked })
	s.asked = 0
	return text
}

func (s *switchboard) close(id uint64, unused bool) string {
	if _, there := s.circuits[id]; !there {
		return fmt.Sprintf("552 Unknown circuit \"%d\"\r\n", id)
	}
	at := slices.Index(s.keeps, id)
	switch {
	case unused && slices.Contains(s.streams, id) || at >= 0 && s.never:
	case at >= 0:
		s.keeps = slices.Delete(s.keeps, at, at+1)
	default:
		delete(s.circuits, id)
		s.closed = append(s.closed, id)
	}
	return ok
}

// says has it tell of a stream.
func (s *switchboard) says(t *testing.T, line string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := io.WriteString(s.listener, line+"\r\n"); err != nil {
		t.Error(err)
	}
}

func (s *switchboard) follow(t *testing.T) *Follower {
	t.Helper()
	f, err := Follow(deadline(t, 10*time.Second), s.serve(t), circuits.Memory{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

var tv = netip.MustParseAddr("192.168.50.11")

func isTV(addr netip.Addr) bool { return addr == tv }

// TestARenewalClosesWhatIsTheirs, with the circuits that share its streams, and asks for no
// connection to be cut where everything is known.
func TestARenewalClosesWhatIsTheirs(t *testing.T) {
	s := &switchboard{circuits: map[uint64]string{
		1: "PURPOSE=CONFLUX_LINKED CONFLUX_ID=AB", 2: "PURPOSE=CONFLUX_LINKED CONFLUX_ID=AB", 3: "PURPOSE=GENERAL", 4: "PURPOSE=GENERAL",
	}, streams: []uint64{1, 3}, keeps: []uint64{2}}
	f := s.follow(t)
	phone := netip.MustParseAddr("192.168.50.12")
	done, err := f.Renew(deadline(t, 20*time.Second), Renewal{
		Whose: isTV, Memory: circuits.Memory{PID: 77, Uses: []circuits.Use{{Circuit: 1, Addr: tv}, {Circuit: 3, Addr: phone}, {Circuit: 9, Addr: tv}}},
		Cut: func(int) error { return errors.New("nothing is to be cut") },
	})
	slices.Sort(s.closed)
	if err != nil || done != (Renewed{Closed: 2}) || !slices.Equal(s.closed, []uint64{1, 2}) {
		t.Errorf("it has closed %v, %+v, %v", s.closed, done, err)
	}
}

// TestARenewalWithoutMemory spares what something of others goes by, and what never carries
// anything of devices; what they begin meanwhile by a circuit of before ends with that.
func TestARenewalWithoutMemory(t *testing.T) {
	s := &switchboard{circuits: map[uint64]string{
		4: "PURPOSE=GENERAL", 5: "PURPOSE=GENERAL", 6: "PURPOSE=HS_SERVICE_INTRO", 7: "PURPOSE=HS_CLIENT_REND", 8: "PURPOSE=GENERAL",
	}, streams: []uint64{5, 7, 8}, asked: 8}
	f := s.follow(t)
	var cut []int
	done, err := f.Renew(deadline(t, 10*time.Second), Renewal{Whose: isTV, Cut: func(pid int) error {
		cut = append(cut, pid)
		s.says(t, "650 STREAM 12 NEW 0 1.2.3.4:80 SOURCE_ADDR="+tv.String()+":1 PURPOSE=USER"+transTail)
		s.says(t, "650 STREAM 12 SENTCONNECT 7 1.2.3.4:80"+transTail)
		return nil
	}})
	if err != nil || done != (Renewed{Closed: 1, Unknown: 2}) || !slices.Equal(cut, []int{77}) || !slices.Equal(s.closed, []uint64{4, 8, 7}) {
		t.Errorf("it has closed %v, cut %v, %+v, %v", s.closed, cut, done, err)
	}
	if _, err := f.Renew(deadline(t, 10*time.Second), Renewal{Whose: isTV, Cut: func(int) error { return errors.New("no such process") }}); err == nil {
		t.Error("what cannot be cut is no error")
	}
}

// TestARenewalThatTorDoesNotObeyIsAnError.
func TestARenewalThatTorDoesNotObeyIsAnError(t *testing.T) {
	s := &switchboard{circuits: map[uint64]string{1: "PURPOSE=GENERAL"}, keeps: []uint64{1}, never: true}
	f := s.follow(t)
	_, err := f.Renew(deadline(t, 20*time.Second), Renewal{Whose: isTV, Memory: circuits.Memory{PID: 77, Uses: []circuits.Use{{Circuit: 1, Addr: tv}}}})
	wantError(t, err, "has not closed circuits [1]", "try again")
}

// TestAFollowerSaysWhenItHearsNothingMore, to who asks as well.
func TestAFollowerSaysWhenItHearsNothingMore(t *testing.T) {
	s := &switchboard{}
	f := s.follow(t)
	if m, err := f.Memory(t.Context()); err != nil || !reflect.DeepEqual(m, circuits.Memory{PID: 77, Uses: []circuits.Use{}, Unknown: []uint64{}}) {
		t.Errorf("it knows %+v, %v", m, err)
	}
	s.mu.Lock()
	err := s.listener.(io.Closer).Close()
	s.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	<-f.Done()
	if _, err := f.Memory(t.Context()); err == nil {
		t.Error("it remembers without hearing")
	}
}

// TestNewnymWaitsForTor: until tor says that it has done it, and no longer than it is wanted.
func TestNewnymWaitsForTor(t *testing.T) {
	for name, tt := range map[string]struct {
		delay time.Duration // negative: never
		waits int
		want  string
	}{
		"at once": {0, 0, ""}, "when it may": {1200 * time.Millisecond, 1, ""}, "never": {-1, 1, "wait for new circuits"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address := listenFake(t, filepath.Join(shortDir(t), "control"), func(conn io.Writer, line string) bool {
				reply := ok
				if strings.HasPrefix(line, "PROTOCOLINFO") {
					reply = infoNull
				}
				_, err := io.WriteString(conn, reply)
				if line == "SIGNAL NEWNYM" && tt.delay >= 0 { // tor says that behind its reply
					time.AfterFunc(tt.delay, func() { _, _ = io.WriteString(conn, "650 SIGNAL NEWNYM\r\n") })
				}
				return err == nil
			})
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			c, err := Dial(ctx, address)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			waits := 0
			err = c.Newnym(ctx, func() { waits++ })
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("%v, want %q", err, tt.want)
			}
			if waits != tt.waits {
				t.Errorf("it has waited %d times, want %d", waits, tt.waits)
			}
		})
	}
}

// TestCountriesAreThoseOfTorsDatabase, where it has one and knows the relay.
func TestCountriesAreThoseOfTorsDatabase(t *testing.T) {
	address := listenFake(t, filepath.Join(shortDir(t), "control"), func(conn io.Writer, line string) bool {
		reply := map[string]string{
			"GETINFO ns/id/" + fingerprintA:            "250+ns/id/" + fingerprintA + "=\r\nr guard AAAA BBBB 2026-11-27 06:50:00 192.0.2.7 9001 0\r\ns Fast\r\n.\r\n" + ok,
			"GETINFO ip-to-country/192.0.2.7":          "250-ip-to-country/192.0.2.7=se\r\n" + ok,
			"GETINFO ns/id/" + fingerprintB:            "552 Unrecognized\r\n",
			"GETINFO ns/id/" + fingerprintA[:39] + "0": "250+ns/id/" + fingerprintA[:39] + "0=\r\nr x AAAA BBBB 2026-11-27 06:50:00 192.0.2.8 9001 0\r\n.\r\n" + ok,
			"GETINFO ip-to-country/192.0.2.8":          "250-ip-to-country/192.0.2.8=\x1b[\r\n" + ok,
		}[line]
		if strings.HasPrefix(line, "PROTOCOLINFO") {
			reply = infoNull
		} else if reply == "" {
			reply = ok
		}
		_, err := io.WriteString(conn, reply)
		return err == nil
	})
	c, err := Dial(deadline(t, 5*time.Second), address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got, err := c.Countries(deadline(t, 5*time.Second), []string{fingerprintA, fingerprintB, fingerprintA[:39] + "0"})
	if err != nil || !reflect.DeepEqual(got, map[string]string{fingerprintA: "se"}) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestTargetsAreThoseOfCircuits(t *testing.T) {
	got := parseTargets("1 SUCCEEDED 5 1.2.3.4:80\r\n2 SUCCEEDED 5 abc.onion:80\n3 NEW 0 1.2.3.4:81\nnonsense\n4 SUCCEEDED 6 a\x1b[2J:1\n")
	if want := map[uint64][]string{5: {"1.2.3.4:80", "abc.onion:80"}, 6: {"a?[2J:1"}}; !reflect.DeepEqual(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
