// Package report is what a run of the benchmarks has found: its file, its statistics,
// what is compared with targets and with another run, and how it is shown.
package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"time"
)

// Schema is the version of the file. It grows with any change that an older reader would
// misunderstand.
const Schema = 1

// Units of rows.
const (
	NanosecondsPerPacket = "ns/packet"
	GigabitsPerSecond    = "Gbit/s"
	Microseconds         = "µs/connection"
	Milliseconds         = "ms"
)

// Result is one run.
type Result struct {
	Schema   int       `json:"schema"`
	Taken    time.Time `json:"taken"`
	Version  string    `json:"version"` // of torbpf
	Machine  Machine   `json:"machine"`
	Rows     []Row     `json:"rows"`
	Programs []Program `json:"programs"`
	Maps     []Map     `json:"maps"`
}

// Machine is what the figures are true for.
type Machine struct {
	CPU        string  `json:"cpu"`
	Cores      int     `json:"cores"`
	Kernel     string  `json:"kernel"`
	Compiler   string  `json:"compiler"` // of the BPF objects
	Go         string  `json:"go"`
	NIC        string  `json:"nic"` // the driver that carries the packets
	Clock      string  `json:"clock"`
	Realtime   bool    `json:"realtime"`
	Flows      int     `json:"flows"` // of the rows with many of them
	LoadBefore float64 `json:"load_before"`
	LoadAfter  float64 `json:"load_after"`
}

// Row is one kind of work, done by several configurations in turns.
type Row struct {
	Name   string `json:"name"`
	Title  string `json:"title"`
	Unit   string `json:"unit"`
	Higher bool   `json:"higher_is_better"`
	Base   string `json:"base"` // the configuration that others are compared with; none: nothing is
	Cells  []Cell `json:"cells"`
}

// Cell is one configuration's part of a row: the n-th samples of a row's cells were taken
// in the same round.
type Cell struct {
	Config  string    `json:"config"`
	Title   string    `json:"title"`
	Samples []float64 `json:"samples"`
}

// Program is what the verifier had to do for a program.
type Program struct {
	Name         string `json:"name"`
	Instructions uint32 `json:"verified_instructions"`
	JITed        uint32 `json:"jited_bytes"`
}

// Map is what a map holds of the kernel's memory.
type Map struct {
	Name  string `json:"name"`
	Bytes uint64 `json:"bytes"`
}

// Row returns the row of a name, nil if there is none.
func (r *Result) Row(name string) *Row {
	for i := range r.Rows {
		if r.Rows[i].Name == name {
			return &r.Rows[i]
		}
	}
	return nil
}

// Cell returns the cell of a configuration, nil if there is none.
func (r *Row) Cell(config string) *Cell {
	for i := range r.Cells {
		if r.Cells[i].Config == config {
			return &r.Cells[i]
		}
	}
	return nil
}

// Write writes a result as JSON.
func (r *Result) Write(path string) error {
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// ReadFile reads a stored result.
func ReadFile(path string) (*Result, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read result: %w", err)
	}
	r, err := Read(text)
	if err != nil {
		return nil, fmt.Errorf("read result %s: %w", path, err)
	}
	return r, nil
}

// Read reads a result, and refuses one that it does not understand wholly.
func Read(text []byte) (*Result, error) {
	var version struct{ Schema int }
	if err := json.Unmarshal(text, &version); err != nil {
		return nil, err
	}
	if version.Schema != Schema {
		return nil, fmt.Errorf("its schema is %d, this program reads %d: measure anew", version.Schema, Schema)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	r := &Result{}
	if err := d.Decode(r); err != nil {
		return nil, err
	}
	return r, r.check()
}

func (r *Result) check() error {
	if len(r.Rows) == 0 {
		return errors.New("it has no rows")
	}
	seen := map[string]bool{}
	for i := range r.Rows {
		row := &r.Rows[i]
		if row.Name == "" || seen[row.Name] {
			return fmt.Errorf("row %d: the name %q is empty or not the only one", i+1, row.Name)
		}
		seen[row.Name] = true
		if err := row.check(); err != nil {
			return fmt.Errorf("row %q: %w", row.Name, err)
		}
	}
	return nil
}

func (r *Row) check() error {
	if len(r.Cells) == 0 {
		return errors.New("it has no cells")
	}
	if r.Base != "" && r.Cell(r.Base) == nil {
		return fmt.Errorf("its base %q is none of its cells", r.Base)
	}
	seen := map[string]bool{}
	for _, c := range r.Cells {
		if c.Config == "" || seen[c.Config] {
			return fmt.Errorf("the configuration %q is empty or not the only one", c.Config)
		}
		seen[c.Config] = true
		if len(c.Samples) == 0 || len(c.Samples) != len(r.Cells[0].Samples) {
			return fmt.Errorf("%q has %d samples, the first configuration %d", c.Config, len(c.Samples), len(r.Cells[0].Samples))
		}
		for _, s := range c.Samples {
			if !(s > 0) || math.IsInf(s, 0) {
				return fmt.Errorf("%q has the sample %v, which nothing takes", c.Config, s)
			}
		}
	}
	return nil
}
