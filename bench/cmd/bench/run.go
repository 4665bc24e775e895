package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/torbpf/torbpf/bench/report"
	"github.com/torbpf/torbpf/bench/rig"
	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/testnet"
)

// How much is done in one turn of a row.
const (
	framesOfBurst   = 20_000
	bytesOfBulk     = 64 << 20
	connections     = 200
	timeRounds      = 5
	bytesThroughTor = 16 << 20
	torRounds       = 9
	bytesOfDevice   = 6 << 20 // through one of several tors
)

// torRows are those that need a private Tor network.
var torRows = []string{rig.TorBulkRow, rig.TorsRow}

// options of a run.
type options struct {
	program  string
	rounds   int
	only     []string // names of rows; nil for everything
	configs  []string // names of configurations; nil for all
	tor      bool
	progress func(string)
}

// run measures everything, one part after the other: each has its own turns.
func run(ctx context.Context, o options) (_ *report.Result, err error) {
	lab, err := testnet.Start(ctx, testnet.Options{Bare: true})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	r := &report.Result{Schema: report.Schema, Taken: time.Now().UTC().Truncate(time.Second)}
	if r.Version, err = versionOf(ctx, o.program); err != nil {
		return nil, err
	}
	if r.Machine, err = readMachine(); err != nil {
		return nil, err
	}
	type part func() ([]report.Row, error)
	paths := part(func() ([]report.Row, error) { return nil, measurePaths(ctx, lab, o, r) })
	tors := part(func() ([]report.Row, error) { return throughTor(ctx, o) })
	parts := []part{
		paths,
		func() ([]report.Row, error) { return rig.Times(ctx, lab, o.program, timeRounds, o.progress) },
		func() ([]report.Row, error) { return goBenchmarks(ctx, o.progress) },
		tors,
	}
	switch {
	case o.only == nil:
	case slices.ContainsFunc(o.only, func(name string) bool { return !slices.Contains(torRows, name) }):
		parts = []part{paths, tors}
	default:
		parts = []part{tors}
	}
	for _, part := range parts {
		rows, err := part()
		if err != nil {
			return nil, err
		}
		r.Rows = append(r.Rows, rows...)
	}
	r.Machine.LoadAfter, err = loadAverage()
	return r, err
}

// throughTor has no rows unless they were asked for.
func throughTor(ctx context.Context, o options) (rows []report.Row, _ error) {
	for _, name := range torRows {
		rounds := torRounds
		switch {
		case slices.Contains(o.only, name):
			rounds = o.rounds
		case !o.tor:
			continue
		}
		var row report.Row
		var err error
		if name == rig.TorsRow {
			row, err = rig.SeveralTors(ctx, o.program, rounds, bytesOfDevice, o.progress)
		} else {
			row, err = rig.ThroughTor(ctx, o.program, rounds, bytesThroughTor, o.progress)
		}
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// measurePaths measures what goes through routers.
func measurePaths(ctx context.Context, lab *testnet.Lab, o options, r *report.Result) error {
	var paths []*rig.Path
	configs, err := chosen(rig.Configs(o.program), o.configs)
	if err != nil {
		return err
	}
	for _, c := range configs {
		o.progress("prepare: " + c.Title)
		p, err := rig.NewPath(ctx, lab, c)
		if c.Name == rig.Flowtable && errors.Is(err, kernel.ErrMissing) {
			o.progress("not on this kernel: " + err.Error())
			continue
		}
		if err != nil {
			return err
		}
		paths = append(paths, p)
		if c.Name == rig.Torbpf {
			if err := readObjects(p, r); err != nil {
				return err
			}
		}
	}
	d, err := rig.NewDriver()
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Calibrate(paths[0]); err != nil {
		return err
	}
	r.Machine.Clock, r.Machine.Realtime = d.Clock, d.Realtime
	if r.Machine.Flows, err = rig.ManyFlows(); err != nil {
		return err
	}
	packets, err := rig.PacketRows(framesOfBurst, r.Machine.Flows)
	if err != nil {
		return err
	}
	kinds := []kind{{"packets", packets}, {"bulk TCP", []rig.Row{rig.BulkRow(bytesOfBulk)}}, {"connections", []rig.Row{rig.ConnectRow(connections)}}, {"bulk TCP to TransPort", []rig.Row{rig.ToTransRow(bytesOfBulk)}}}
	if err := choose(kinds, o.only); err != nil {
		return err
	}
	for _, kind := range kinds {
		rows, err := d.Measure(ctx, paths, kind.rows, o.rounds, func(text string) { o.progress(kind.name + ": " + text) })
		if err != nil {
			return err
		}
		r.Rows = append(r.Rows, rows...)
	}
	return nil
}

// chosen are the configurations of these names, nil for all, and that of the sender alone.
func chosen(configs []rig.Config, names []string) ([]rig.Config, error) {
	if names == nil {
		return configs, nil
	}
	known := make(map[string]bool)
	for _, c := range configs {
		known[c.Name] = true
	}
	for _, name := range names {
		if !known[name] {
			return nil, fmt.Errorf("no configuration is called %q; there are %s", name, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		}
	}
	return slices.DeleteFunc(configs, func(c rig.Config) bool { return !c.Floor && !slices.Contains(names, c.Name) }), nil
}

// kind is rows that take turns.
type kind struct {
	name string
	rows []rig.Row
}

// choose leaves the rows of these names, nil for all.
func choose(kinds []kind, names []string) error {
	if names == nil {
		return nil
	}
	known := slices.Clone(torRows)
	for i := range kinds {
		for _, r := range kinds[i].rows {
			known = append(known, r.Name)
		}
		kinds[i].rows = slices.DeleteFunc(kinds[i].rows, func(r rig.Row) bool { return !slices.Contains(names, r.Name) })
	}
	for _, name := range names {
		if !slices.Contains(known, name) {
			return fmt.Errorf("no row is called %q; there are %s", name, strings.Join(known, ", "))
		}
	}
	return nil
}

func readObjects(p *rig.Path, r *report.Result) (err error) {
	if r.Programs, err = p.Programs(); err != nil {
		return err
	}
	r.Maps, err = p.Maps()
	return err
}

func versionOf(ctx context.Context, program string) (string, error) {
	out, err := exec.CommandContext(ctx, program, "version").Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", program, err)
	}
	return strings.TrimSpace(strings.TrimPrefix(string(out), "torbpf ")), nil
}
