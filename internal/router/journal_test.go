package router

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// testJournal is a Router that can do nothing but write a journal, and a reader of it.
func testJournal(t *testing.T) (*Router, *journalReader) {
	t.Helper()
	r := &Router{dir: t.TempDir(), notify: func(line string) { t.Error(line) }}
	reader := &journalReader{paths: r.journalPaths()}
	t.Cleanup(reader.Close)
	return r, reader
}

// next is the texts of what the reader returns.
func next(t *testing.T, reader *journalReader) string {
	t.Helper()
	events, err := reader.Next()
	must(t, err)
	var texts []string
	for _, e := range events {
		texts = append(texts, e.Text)
	}
	return strings.Join(texts, " ")
}

func TestTheJournalIsReadAsItIsWritten(t *testing.T) {
	r, reader := testJournal(t)
	if got := next(t, reader); got != "" {
		t.Errorf("before there is any: %q", got)
	}
	r.Record(EventTor, "a")
	r.Record(EventRepair, "b")
	if got := next(t, reader); got != "a b" {
		t.Errorf("at first: %q", got)
	}
	r.Record(EventTor, "c")
	if got := next(t, reader); got != "c" {
		t.Errorf("then: %q", got)
	}
	f, err := os.OpenFile(r.journalPath(), os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	defer f.Close()
	for _, part := range []string{`{"kind":"tor",`, "\"text\":\"whole\"}\nnot JSON\n"} {
		_, err = f.WriteString(part)
		must(t, err)
		if got, want := next(t, reader), map[bool]string{true: "whole"}[strings.HasPrefix(part, `"`)]; got != want {
			t.Errorf("behind %q: %q, want %q", part, got, want)
		}
	}
	if info, err := f.Stat(); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v", info, err)
	}
}

// TestAFullJournalIsPutAside: one older file is kept, and a reader misses nothing that is
// written while it looks now and then; nor is anything told twice.
func TestAFullJournalIsPutAside(t *testing.T) {
	r, reader := testJournal(t)
	filler := strings.Repeat("x", 8<<10)
	var want, got []string
	for i := range 200 { // some six files
		text := fmt.Sprintf("%d-%s", i, filler)
		r.Record(EventTor, text)
		want = append(want, text)
		if i%7 == 0 {
			got = append(got, strings.Fields(next(t, reader))...)
		}
	}
	got = append(got, strings.Fields(next(t, reader))...)
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("%d events were written, and %d read", len(want), len(got))
	}
	entries, err := os.ReadDir(r.dir)
	must(t, err)
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Size() > journalMax+2*int64(len(filler)) {
			t.Errorf("%s: %v, %v", e.Name(), info, err)
		}
	}
	if len(entries) != 2 {
		t.Errorf("there are %d files", len(entries))
	}
	late := &journalReader{paths: r.journalPaths()}
	defer late.Close()
	if texts := strings.Fields(next(t, late)); len(texts) < 32 || texts[len(texts)-1] != want[len(want)-1] || strings.Join(texts, " ") != strings.Join(want[len(want)-len(texts):], " ") {
		t.Errorf("who comes late reads %d events", len(texts))
	}
}

// TestManyWriteTheJournal: no line is torn, and none is lost as long as two files have room.
func TestManyWriteTheJournal(t *testing.T) {
	r, reader := testJournal(t)
	filler := strings.Repeat("x", 1<<10)
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for i := range 100 {
				r.Record(EventTor, fmt.Sprintf("%d.%d-%s", w, i, filler))
			}
		})
	}
	writers.Wait()
	if got := strings.Fields(next(t, reader)); len(got) != 400 {
		t.Errorf("400 events were written, and %d read", len(got))
	}
}

func TestNothingIsWrittenDownBehindDetach(t *testing.T) {
	r, _ := testJournal(t)
	r.dir = filepath.Join(r.dir, "gone")
	r.Record(EventTor, "late")
	if _, err := os.Stat(r.dir); !os.IsNotExist(err) {
		t.Errorf("it made %s again: %v", r.dir, err)
	}
}
