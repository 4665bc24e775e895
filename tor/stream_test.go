package tor

import (
	"bufio"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/internal/circuits"
)

const (
	dnsTail   = " PURPOSE=DNS_REQUEST CLIENT_PROTOCOL=DNS NYM_EPOCH=0 SESSION_GROUP=-4 ISO_FIELDS=SOCKS_USERNAME,SOCKS_PASSWORD,CLIENTADDR,SESSION_GROUP,NYM_EPOCH"
	transTail = " CLIENT_PROTOCOL=TRANS NYM_EPOCH=3 SESSION_GROUP=-3 ISO_FIELDS=SOCKS_USERNAME,SOCKS_PASSWORD,CLIENTADDR,SESSION_GROUP,NYM_EPOCH"
	ownTail   = " PURPOSE=DIR_FETCH CLIENT_PROTOCOL=UNKNOWN NYM_EPOCH=0 SESSION_GROUP=-2 ISO_FIELDS=SESSION_GROUP"
)

func TestStreamsAreRead(t *testing.T) {
	for line, want := range map[string]circuits.Stream{
		"650 STREAM 11 NEWRESOLVE 0 a.test:0 SOURCE_ADDR=192.168.50.11:50768" + dnsTail:              {ID: 11, Source: netip.MustParseAddr("192.168.50.11"), Alone: true},
		"650 STREAM 12 NEW 0 1.2.3.4:80 SOURCE_ADDR=[fd00::12]:1 PURPOSE=USER" + transTail:           {ID: 12, Source: netip.MustParseAddr("fd00::12"), Alone: true},
		"650 STREAM 12 NEW 0 1.2.3.4:80 SOURCE_ADDR=fd00::12:1 PURPOSE=USER" + transTail:             {ID: 12, Source: netip.MustParseAddr("fd00::12"), Alone: true},
		"650 STREAM 12 SENTCONNECT 27 1.2.3.4:80" + transTail:                                        {ID: 12, Circuit: 27, Alone: true},
		"650 STREAM 12 CLOSED 27 1.2.3.4:80 REASON=DONE" + transTail:                                 {ID: 12, Circuit: 27, Closed: true, Alone: true},
		"650 STREAM 16 NEW 0 10.0.0.1.$A.exit:9002" + ownTail:                                        {ID: 16},
		"650 STREAM 13 NEWRESOLVE 0 x SOURCE_ADDR=1.2.3.4:5.test:0 SOURCE_ADDR=10.0.0.9:1" + dnsTail: {ID: 13, Source: netip.MustParseAddr("10.0.0.9"), Alone: true},
		"650 STREAM 14 REMAP 9 x SOURCE_ADDR=1.2.3.4:5.test:0" + transTail:                           {ID: 14, Circuit: 9, Alone: true},
	} {
		var r eventReader
		if kind := r.judge(line); kind != lineStream {
			t.Errorf("%s is of kind %d", line, kind)
		}
		if got, ok := parseStream(line); !ok || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", line, got, want)
		}
	}
}

// linesOf are the lines of a control connection that are taken for tor's own.
func linesOf(text string) (streams, replies []string) {
	var r eventReader
	for s := bufio.NewScanner(strings.NewReader(text)); s.Scan(); {
		switch r.judge(s.Text()) {
		case lineStream:
			streams = append(streams, s.Text())
		case lineReply:
			replies = append(replies, s.Text())
		}
	}
	return streams, replies
}

// TestADeviceCannotWriteEvents: the name that it asks for is in tor's events as it is, with
// whatever lines it has. It could have circuits of others closed, or its own spared.
func TestADeviceCannotWriteEvents(t *testing.T) {
	const before = "650 STREAM 1 SENTCONNECT 5 1.2.3.4:80" + transTail
	const after = "650 STREAM 2 SENTCONNECT 6 1.2.3.4:80" + transTail
	for _, name := range []string{
		"a\r\n650 STREAM 9 NEW 0 b",
		"a\n650 STREAM 9 SENTCONNECT 7 b",
		"a\r\n250 OK\r\n250-circuit-status=",
		"a\r\n250+circuit-status=\r\n1 BUILT\r\n.\r\n250 OK\r\n",
		"\n\n\n", "\r\n650 ", "a\r\n650+x\r\n",
		// as much as a name of labels can be like an end of tor's own
		"a CLIENT_PROTOCOL=DNS NYM_EPOCH=0 SESSION_GROUP=-4 ISO_FIELDS=NYM_EPOCH\n650 STREAM 9 NEW 0 b"[:63] + "\n.b",
	} {
		event := "650 STREAM 14 NEWRESOLVE 0 " + name + ".test:0 SOURCE_ADDR=10.0.0.9:1" + dnsTail
		streams, replies := linesOf(strings.Join([]string{before, event, after, "250 OK"}, "\r\n"))
		if !reflect.DeepEqual(streams, []string{before, after}) || !reflect.DeepEqual(replies, []string{"250 OK"}) {
			t.Errorf("%q: streams %q, replies %q", name, streams, replies)
		}
	}
}

// TestRepliesAreNoEvents, though the number of a circuit may be that of an event.
func TestRepliesAreNoEvents(t *testing.T) {
	reply := "250+circuit-status=\r\n649 BUILT\r\n650 BUILT\r\n250 LAUNCHED\r\n.\r\n250 OK"
	event := "650 STREAM 1 SENTCONNECT 5 1.2.3.4:80" + transTail
	streams, replies := linesOf(reply + "\r\n" + event)
	if len(streams) != 1 || strings.Join(replies, "\r\n") != reply {
		t.Errorf("streams %q, replies %q", streams, replies)
	}
	for i := range replies {
		if replyEnds(replies[:i+1]) != (i == len(replies)-1) {
			t.Errorf("it ends with %q", replies[i])
		}
	}
	if a := parseAnswer(replies); a.err != nil || len(a.circuits) != 3 || a.circuits[1].ID != 650 {
		t.Errorf("it says %+v", a)
	}
	for _, reply := range [][]string{{"552 Unrecognized"}, {"250 OK"}, {"250-version=1", "250 OK"}, {"250+circuit-status=", "x", ".", "250 OK"}} {
		if a := parseAnswer(reply); a.err == nil {
			t.Errorf("%q is %+v", reply, a)
		}
	}
	if a := parseAnswer([]string{"250-circuit-status=", "250 OK"}); a.err != nil || len(a.circuits) != 0 {
		t.Errorf("of none it says %+v", a)
	}
}

// FuzzNames: whatever a device asks for, as far as DNS can carry it, no line of its making is
// taken for tor's.
func FuzzNames(f *testing.F) {
	f.Add([]byte("a\r\n650 STREAM 9 NEW 0 b"), []byte("x"))
	f.Add([]byte(" CLIENT_PROTOCOL=DNS NYM_EPOCH=0 SESSION_GROUP=-4 ISO_FIELDS=\n"), []byte("\n250 OK"))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		if len(first) > labelMax || len(second) > labelMax {
			return
		}
		name := string(first) + "." + string(second)
		event := "650 STREAM 14 NEWRESOLVE 0 " + name + ":0 SOURCE_ADDR=10.0.0.9:1" + dnsTail
		const after = "650 STREAM 2 SENTCONNECT 6 1.2.3.4:80" + transTail
		streams, replies := linesOf(event + "\r\n" + after)
		for i, s := range streams {
			if own := i == 0 && !strings.Contains(name, "\n") && s == strings.TrimSuffix(event, "\r"); !own && s != after {
				t.Errorf("%q is taken for tor's", s)
			}
		}
		if len(streams) == 0 || streams[len(streams)-1] != after || len(replies) > 0 {
			t.Errorf("streams %q, replies %q", streams, replies)
		}
	})
}
