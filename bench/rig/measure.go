package rig

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/torbpf/torbpf/bench/report"
)

// Measure has the paths do all rows, round by round: in each round each row has its turn,
// and in it each of its configurations, beginning with another one every time. The first
// round counts for nothing: flows, caches and sockets come about in it.
func (d *Driver) Measure(ctx context.Context, paths []*Path, rows []Row, rounds int, progress func(string)) (_ []report.Row, err error) {
	defer func() {
		for _, r := range rows {
			if r.cleanUp != nil {
				err = errors.Join(err, r.cleanUp())
			}
		}
	}()
	undo, err := prepareRows(paths, rows)
	defer func() { err = errors.Join(err, undo()) }()
	if err != nil {
		return nil, err
	}
	out := emptyRows(paths, rows)
	for round := range rounds + 1 {
		progress(fmt.Sprintf("round %d of %d", round, rounds))
		for i, r := range rows {
			if err := d.measureRow(ctx, paths, r, &out[i], round); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// measureRow adds a sample to each cell of a row, but in round 0.
func (d *Driver) measureRow(ctx context.Context, paths []*Path, r Row, out *report.Row, round int) error {
	for i := range out.Cells {
		cell := &out.Cells[(i+round)%len(out.Cells)]
		if err := ctx.Err(); err != nil {
			return err
		}
		p := pathOf(paths, cell.Config)
		sample, err := r.measure(ctx, d, p)
		if err != nil {
			return fmt.Errorf("row %q, %q: %w", r.Name, cell.Config, err)
		}
		switch {
		case round > 0:
			cell.Samples = append(cell.Samples, sample)
		case r.begin != nil:
			if err := r.begin(d, p); err != nil {
				return fmt.Errorf("row %q, %q: %w", r.Name, cell.Config, err)
			}
		}
	}
	return nil
}

// prepareRows prepares each path once for all rows, which are of one kind.
func prepareRows(paths []*Path, rows []Row) (undo func() error, err error) {
	var undos []func() error
	undo = func() error {
		var errs []error
		for _, u := range slices.Backward(undos) {
			errs = append(errs, u())
		}
		return errors.Join(errs...)
	}
	for _, p := range paths {
		for _, r := range rows {
			if !slices.Contains(r.Configs, p.Config.Name) {
				continue
			}
			u, err := r.prepare(p)
			if err != nil {
				return undo, fmt.Errorf("prepare path %q: %w", p.Config.Name, err)
			}
			undos = append(undos, u)
			break
		}
	}
	return undo, nil
}

// emptyRows are the rows with a cell for each configuration that there is a path of.
func emptyRows(paths []*Path, rows []Row) []report.Row {
	var out []report.Row
	for _, r := range rows {
		row := r.Row
		for _, name := range r.Configs {
			if p := pathOf(paths, name); p != nil {
				row.Cells = append(row.Cells, report.Cell{Config: name, Title: p.Config.Title})
			}
		}
		out = append(out, row)
	}
	return out
}

// pathOf is the path of a configuration, nil for none.
func pathOf(paths []*Path, config string) *Path {
	i := slices.IndexFunc(paths, func(p *Path) bool { return p.Config.Name == config })
	if i < 0 {
		return nil
	}
	return paths[i]
}
