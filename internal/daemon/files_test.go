package daemon

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestTooManyFilesAreAnError: never a descriptor that pselect cannot wait for, so no panic.
func TestTooManyFilesAreAnError(t *testing.T) {
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if before.Max <= maxFiles {
		t.Fatalf("the hard limit of %d leaves nothing to try", before.Max)
	}
	if err := boundFiles(); err != nil {
		t.Fatal(err)
	}
	var open []*os.File
	t.Cleanup(func() {
		for _, f := range open {
			f.Close()
		}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
			t.Error(err)
		}
	})
	for {
		f, err := os.Open(os.DevNull)
		if errors.Is(err, unix.EMFILE) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, f)
		if f.Fd() >= unix.FD_SETSIZE {
			t.Fatalf("descriptor %d is open", f.Fd())
		}
	}
	var after unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &after); err != nil {
		t.Fatal(err)
	}
	if after.Max != before.Max {
		t.Errorf("the hard limit is %d, was %d: tors need it", after.Max, before.Max)
	}
}
