package tor

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestTheConsensusOfAControlPort: its times, and none where tor has none.
func TestTheConsensusOfAControlPort(t *testing.T) {
	for name, c := range map[string]struct {
		reply string
		want  Consensus
		fails bool
	}{
		"one": {"250-consensus/valid-after=2026-11-27 12:00:00\r\n250-consensus/valid-until=2026-11-27 12:00:00\r\n250 OK\r\n",
			Consensus{time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC), time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)}, false},
		"none":    {"551 Internal error\r\n", Consensus{}, false},
		"nothing": {"250-consensus/valid-after=soon\r\n250-consensus/valid-until=soon\r\n250 OK\r\n", Consensus{}, true},
		"hung up": {"EOF", Consensus{}, true},
	} {
		t.Run(name, func(t *testing.T) {
			address := fakeTor(t, map[string]string{"PROTOCOLINFO": infoNull, "AUTHENTICATE": "250 OK\r\n", "GETINFO": c.reply})
			control, err := Dial(t.Context(), address)
			if err != nil {
				t.Fatal(err)
			}
			defer control.Close()
			got, err := control.Consensus(t.Context())
			if got != c.want || (err != nil) != c.fails {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

// TestTheConsensusThatTorHasKept is read, but not by a link that its account may have made.
func TestTheConsensusThatTorHasKept(t *testing.T) {
	dir := t.TempDir()
	if got, err := CachedConsensus(dir); err != nil || got != (Consensus{}) {
		t.Errorf("without one: %+v, %v", got, err)
	}
	path := filepath.Join(dir, "cached-microdesc-consensus")
	text := "network-status-version 3 microdesc\nvote-status consensus\nvalid-after 2026-11-27 12:00:00\nfresh-until 2026-11-27 13:00:00\nvalid-until 2026-11-27 15:00:00\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	want := Consensus{time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC), time.Date(2026, 11, 27, 15, 0, 0, 0, time.UTC)}
	if got, err := CachedConsensus(dir); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	elsewhere := filepath.Join(dir, "elsewhere")
	if err := os.Rename(path, elsewhere); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, path); err != nil {
		t.Fatal(err)
	}
	if got, err := CachedConsensus(dir); err == nil {
		t.Errorf("a link is followed: %+v", got)
	}
}
