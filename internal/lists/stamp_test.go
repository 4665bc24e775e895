package lists

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"
)

// read reads the list at path, which must be in order.
func read(t *testing.T, path string) *List {
	t.Helper()
	l, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestChangedSeesWhatHappenedToTheFile(t *testing.T) {
	const text, sameSize = "1.2.3.4\n", "5.6.7.8\n"
	for name, c := range map[string]struct {
		change func(t *testing.T, path string)
		want   bool
	}{
		"nothing":  {func(*testing.T, string) {}, false},
		"read":     {func(t *testing.T, path string) { read(t, path) }, false},
		"longer":   {func(t *testing.T, path string) { overwrite(t, path, text+sameSize) }, true},
		"as long":  {func(t *testing.T, path string) { overwrite(t, path, sameSize) }, true},
		"restored": {keepTimes(func(t *testing.T, path string) { overwrite(t, path, sameSize) }), true},
		"renamed":  {keepTimes(func(t *testing.T, path string) { replace(t, path, text) }), true},
		"by link": {func(t *testing.T, path string) {
			target := write(t, text)
			if err := errors.Join(os.Remove(path), os.Symlink(target, path)); err != nil {
				t.Fatal(err)
			}
		}, true},
	} {
		path := write(t, text)
		l := read(t, path)
		c.change(t, path)
		if got, err := l.Changed(); got != c.want || err != nil {
			t.Errorf("%s: changed: %v, %v", name, got, err)
		}
		if got, err := read(t, path).Changed(); got || err != nil {
			t.Errorf("%s: changed after it was read again: %v, %v", name, got, err)
		}
	}
}

// keepTimes makes a change and sets the time of the text back, as cp -p does.
func keepTimes(change func(*testing.T, string)) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		change(t, path)
		if err := os.Chtimes(path, time.Time{}, info.ModTime()); err != nil {
			t.Fatal(err)
		}
	}
}

// replace renames a file with this text to path.
func replace(t testing.TB, path, text string) {
	t.Helper()
	overwrite(t, path+".new", text)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func TestStampIsOfTheFile(t *testing.T) {
	path := write(t, "1.2.3.4\n")
	l := read(t, path)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if s := l.Stamp; s.Size != 8 || s.ModifiedNs != info.ModTime().UnixNano() || s.Inode == 0 || s.ChangedNs < s.ModifiedNs {
		t.Errorf("stamp %+v of %v", s, info)
	}
}

// A kernel that stamps files once a jiffy gives what is written right after
// reading the time of what was read, unless reading waits. Newer kernels do
// not, so how long it took is checked, too.
func TestChangedSeesAWriteRightAfterReading(t *testing.T) {
	path := write(t, "1.2.3.4\n")
	for i := range 10 {
		overwrite(t, path, "1.2.3.4\n")
		l := read(t, path)
		if age := time.Since(time.Unix(0, l.Stamp.ChangedNs)); age < tick {
			t.Fatalf("was read %s after it was written", age)
		}
		overwrite(t, path, "5.6.7.8\n")
		if got, err := l.Changed(); !got || err != nil {
			t.Fatalf("round %d: changed: %v, %v", i, got, err)
		}
	}
}

func TestOnlyAFreshFileIsWaitedFor(t *testing.T) {
	written := time.Unix(1_700_000_000, 123)
	for age, want := range map[time.Duration]time.Duration{
		0: tick, tick / 4: tick * 3 / 4, tick: 0, tick * 3 / 2: 0, time.Hour: 0, -1: 0, -time.Hour: 0,
	} {
		if got := (Stamp{ChangedNs: written.UnixNano()}).unsettled(written.Add(age)); got != want {
			t.Errorf("after %s: waits %s, want %s", age, got, want)
		}
	}
}

func TestChangedReportsAVanishedList(t *testing.T) {
	path := write(t, "1.2.3.4\n")
	l := read(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if changed, err := l.Changed(); changed || !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("changed: %v, %v", changed, err)
	}
}

// reader is a call of stable with a list that change alters before the text is
// read in each of the first rounds; what was read counts only if nothing
// changed, be it an error.
func reader(t *testing.T, rounds int, change func(path string, round int)) (l *List, calls int, err error) {
	t.Helper()
	l = &List{Path: write(t, "broken\n")}
	l.Stamp, err = stable(l.Path, func(f *os.File, size int64) error {
		calls++
		if calls <= rounds {
			change(l.Path, calls)
		}
		return l.fill(f, size)
	})
	return l, calls, err
}

func TestAListThatChangesIsReadAgain(t *testing.T) {
	for name, change := range map[string]func(path string, round int){
		"written":  func(path string, _ int) { overwrite(t, path, "5.6.7.8\n") },
		"replaced": func(path string, _ int) { replace(t, path, "5.6.7.8\n") },
	} {
		l, calls, err := reader(t, attempts-1, change)
		if err != nil || calls != attempts || words(l.Prefixes) != "5.6.7.8/32" {
			t.Errorf("%s: %s after %d calls, %v", name, l.Prefixes, calls, err)
		}
		if changed, err := l.Changed(); changed || err != nil {
			t.Errorf("%s: the stamp is of another file: %v, %v", name, changed, err)
		}
	}
}

func TestAListThatNeverRestsIsAnError(t *testing.T) {
	l, calls, err := reader(t, 100, func(path string, _ int) { replace(t, path, "5.6.7.8\n") })
	if calls != attempts || err == nil || !strings.HasPrefix(err.Error(), l.Path+": changed each of the 3 times it was read") {
		t.Errorf("%d calls, %v", calls, err)
	}
}

func TestAListThatVanishesWhileReadIsAnError(t *testing.T) {
	l, calls, err := reader(t, 1, func(path string, _ int) {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	})
	if calls != 1 || !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), l.Path) {
		t.Errorf("%d calls, %v", calls, err)
	}
}
