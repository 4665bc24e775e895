package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/torbpf/torbpf/internal/router"
)

// listDevices prints a line for each device, or in fewer columns than that takes two: its
// addresses are on the second.
func listDevices(w io.Writer, devices []router.DeviceStatus, columns int) error {
	var wide strings.Builder
	t := tabwriter.NewWriter(&wide, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "DEVICE\tMAC\tUNDER\tBY TOR\tDIRECT\tLOCAL\tREFUSED\tSILENT FOR\tADDRESSES")
	for _, d := range devices {
		silent := "never sent"
		if d.Silent != nil {
			silent = d.Silent.Round(time.Second).String()
		}
		under := string(d.Policy)
		if d.Until != nil {
			under += " until " + untilWords(*d.Until, time.Now())
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d packets\t%s\t%s\n", cmp.Or(d.Name, "-"), cmp.Or(d.MAC, "-"), under,
			strings.Join(sizes(d), "\t"), d.Traffic["refused"].Packets, silent, strings.Join(addresses(d), " "))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	text := wide.String()
	if !fits(text, columns) {
		text = narrowDevices(devices, columns)
	}
	_, err := io.WriteString(w, text)
	return err
}

func fits(text string, columns int) bool {
	for line := range strings.Lines(text) {
		if len([]rune(strings.TrimRight(line, " \n"))) > columns {
			return false
		}
	}
	return true
}

// sizes are what a device has sent by Tor, directly and within the LANs.
func sizes(d router.DeviceStatus) []string {
	return []string{size(d.Traffic["tor"].Bytes), size(d.Traffic["direct"].Bytes), size(d.Traffic["local"].Bytes)}
}

func addresses(d router.DeviceStatus) []string {
	var out []string
	for _, a := range d.Addrs {
		out = append(out, a.String())
	}
	return out
}

// shortestName is how much of a name is shown at least; a hardware address fits.
const shortestName = 17

// narrowDevices prints what is short in a line, with as much of the name as there is room for.
func narrowDevices(devices []router.DeviceStatus, columns int) string {
	rows := [][]string{{"DEVICE", "UNDER", "BY TOR", "DIRECT", "LOCAL", "REFUSED", "SILENT"}}
	for _, d := range devices {
		silent, under := "never", string(d.Policy)
		if d.Silent != nil {
			silent = shortTime(roughly(*d.Silent))
		}
		if d.Until != nil {
			under += " " + shortTime(roughly(time.Until(*d.Until)))
		}
		rows = append(rows, append(append([]string{cmp.Or(d.Name, d.MAC, "-"), under}, sizes(d)...), fmt.Sprint(d.Traffic["refused"].Packets), silent))
	}
	widths := make([]int, len(rows[0]))
	rest := columns
	for i := range widths {
		for _, row := range rows {
			widths[i] = max(widths[i], len([]rune(row[i])))
		}
		if i > 0 {
			rest -= 2 + widths[i]
		}
	}
	widths[0] = min(widths[0], max(rest, shortestName))
	var out strings.Builder
	for i, row := range rows {
		row[0] = squeezed(row[0], widths[0])
		line := ""
		for j, cell := range row {
			line += fmt.Sprintf("%-*s  ", widths[j], cell)
		}
		out.WriteString(strings.TrimRight(line, " ") + "\n")
		if i == 0 {
			continue
		}
		more := addresses(devices[i-1])
		if d := devices[i-1]; d.Name != "" && d.MAC != "" {
			more = append([]string{d.MAC}, more...)
		}
		if len(more) == 0 {
			continue
		}
		for _, line := range broken("  ", strings.Join(more, " "), columns) {
			out.WriteString(line + "\n")
		}
	}
	return out.String()
}

// roughly leaves of a time what is large.
func roughly(d time.Duration) time.Duration {
	for _, unit := range []time.Duration{24 * time.Hour, time.Hour, time.Minute} {
		if d >= unit {
			return d.Truncate(unit)
		}
	}
	return d.Truncate(time.Second)
}

// squeezed leaves out the middle of a name that is too long: names differ at their ends.
func squeezed(name string, columns int) string {
	r := []rune(name)
	if len(r) <= columns {
		return name
	}
	end := (columns - 1) / 2
	return string(r[:columns-1-end]) + "~" + string(r[len(r)-end:])
}
