package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/torbpf/torbpf/bench/report"
	"github.com/torbpf/torbpf/bench/rig"
)

// goBenchmarks runs those of the package bench that are no lists: the kernel's own time for
// the LAN program alone, by kind of packet, and connections of client mode.
func goBenchmarks(ctx context.Context, progress func(string)) ([]report.Row, error) {
	progress("the LAN program by kind of packet; client mode")
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^Benchmark(Classifier|ConnectionSetup)$", "-benchtime", "20x", "-count", "9", "./bench")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("run the Go benchmarks: %w: %s", err, out)
	}
	metrics, err := parseMetrics(string(out))
	if err != nil {
		return nil, err
	}
	rows := classifierRows(metrics)
	client, err := clientRow(metrics)
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, fmt.Errorf("the Go benchmarks say nothing of the classifier: %s", out)
	}
	return append(rows, client), nil
}

// metric is what `go test -bench` prints of one unit, as often as it was measured:
//
//	BenchmarkClassifier/dns-2   20   0 ns/op   310.5 ns/packet
type metric struct {
	name, unit string
	values     []float64
}

func parseMetrics(out string) ([]metric, error) {
	var metrics []metric
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		name := withoutCPUs(strings.TrimPrefix(fields[0], "Benchmark"))
		for i := 2; i+1 < len(fields); i += 2 {
			value, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return nil, fmt.Errorf("read %q: %w", line, err)
			}
			metrics = add(metrics, name, fields[i+1], value)
		}
	}
	return metrics, nil
}

func add(metrics []metric, name, unit string, value float64) []metric {
	i := slices.IndexFunc(metrics, func(m metric) bool { return m.name == name && m.unit == unit })
	if i < 0 {
		return append(metrics, metric{name, unit, []float64{value}})
	}
	metrics[i].values = append(metrics[i].values, value)
	return metrics
}

// withoutCPUs is the name of a benchmark without the number of CPUs, which is there if it
// is more than one.
func withoutCPUs(name string) string {
	if i := strings.LastIndex(name, "-"); i > 0 {
		if _, err := strconv.Atoi(name[i+1:]); err == nil {
			return name[:i]
		}
	}
	return name
}

// classifierRows are one for each kind of packet.
func classifierRows(metrics []metric) []report.Row {
	var rows []report.Row
	for _, m := range metrics {
		kind, ok := strings.CutPrefix(m.name, "Classifier/")
		if !ok || m.unit != report.NanosecondsPerPacket {
			continue
		}
		rows = append(rows, report.Row{
			Name: "program-" + kind, Title: "the LAN program alone: " + kind, Unit: report.NanosecondsPerPacket,
			Cells: []report.Cell{{Config: rig.Torbpf, Title: "torbpf", Samples: m.values}},
		})
	}
	return rows
}

// clientRow is of connections that this machine itself begins.
func clientRow(metrics []metric) (report.Row, error) {
	row := report.Row{Name: "client-connect", Title: "client mode: new connection to TransPort", Unit: report.Microseconds, Base: rig.NFT}
	for _, c := range []report.Cell{
		{Config: "loopback", Title: "to the listener itself"},
		{Config: rig.NFT, Title: "nft rules of networking.tor"},
		{Config: rig.Torbpf, Title: "torbpf: all layers"},
	} {
		unit := "ns/" + strings.Replace(c.Config, rig.NFT, "seed", 1)
		i := slices.IndexFunc(metrics, func(m metric) bool { return m.name == "ConnectionSetup" && m.unit == unit })
		if i < 0 {
			return row, fmt.Errorf("the Go benchmarks say nothing of %s", unit)
		}
		for _, ns := range metrics[i].values {
			c.Samples = append(c.Samples, ns/1000)
		}
		row.Cells = append(row.Cells, c)
	}
	return row, nil
}
