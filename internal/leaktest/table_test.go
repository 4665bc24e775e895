package leaktest

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/torbpf/torbpf/testnet"
)

// TestNothingLeaksWhateverHappens is the table of `make leaktest`: whatever part of torbpf
// is taken away, and whatever happens to the host under it, no packet of a LAN gets out,
// and `torbpf run` repairs it all. Repair by hand is what the end-to-end tests do.
func TestNothingLeaksWhateverHappens(t *testing.T) {
	dir, err := testnet.ProgramDir()
	if err != nil {
		t.Fatal(err)
	}
	series := &Series{Program: filepath.Join(dir, "torbpf"), Recovery: &Daemon{}}
	t.Cleanup(func() {
		if err := errors.Join(series.Close(), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	if err := testnet.BuildProgram(series.Program); err != nil {
		t.Fatal(err)
	}
	for _, f := range Faults() {
		t.Run(f.Name, func(t *testing.T) {
			row, err := series.Run(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			if row.Lacks != "" {
				t.Skip(row.Lacks)
			}
			if !row.OK() {
				var text bytes.Buffer
				(&Table{Out: &text}).Add(row)
				t.Error(text.String())
			}
		})
	}
}
