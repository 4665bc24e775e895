package report

import (
	"fmt"
	"html"
	"os"
	"strings"
)

// Measures of a chart, in pixels.
const (
	chartWidth   = 760
	labelWidth   = 260
	valueWidth   = 90
	barHeight    = 16
	barSpace     = 22
	titleSpace   = 30
	rowSpace     = 12
	chartMargin  = 14
	fontOfCharts = "font-family=\"system-ui,sans-serif\" font-size=\"12\""
)

// colours by configuration; others have the last.
var colours = map[string]string{
	"floor": "#c8ccd0", "plain": "#a3abb3", "masquerade": "#7d8790", "nft": "#5a6570", "tc": "#b48ad0", "torbpf": "#7d4698",
}

const otherColour = "#3f2a56"

// WriteChart writes rows of one unit as an SVG of bars on one scale: a bar is the median,
// the line at its end goes from the lower to the upper quartile.
func (r *Result) WriteChart(path string, names ...string) error {
	var rows []*Row
	for _, name := range names {
		row := r.Row(name)
		if row == nil {
			return fmt.Errorf("draw chart: there is no row %q", name)
		}
		if row.Unit != r.Row(names[0]).Unit {
			return fmt.Errorf("draw chart: %q and %q are of two units", names[0], name)
		}
		rows = append(rows, row)
	}
	return os.WriteFile(path, []byte(chart(rows)), 0o644)
}

func chart(rows []*Row) string {
	scale, height := 0.0, 2*chartMargin
	for _, r := range rows {
		height += titleSpace + len(r.Cells)*barSpace + rowSpace
		for _, c := range r.Cells {
			_, high := Quartiles(c.Samples)
			scale = max(scale, high, Estimated(c.Samples).Median)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" %s>\n",
		chartWidth, height, chartWidth, height, fontOfCharts)
	fmt.Fprintf(&b, "<rect width=\"%d\" height=\"%d\" fill=\"#ffffff\"/>\n", chartWidth, height)
	y := chartMargin
	for _, r := range rows {
		y = drawRow(&b, r, scale, y)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// drawRow draws a row from y on and returns where the next begins.
func drawRow(b *strings.Builder, r *Row, scale float64, y int) int {
	better := "less is better"
	if r.Higher {
		better = "more is better"
	}
	fmt.Fprintf(b, "<text x=\"%d\" y=\"%d\" font-weight=\"600\" fill=\"#1f2328\">%s (%s, %s)</text>\n",
		chartMargin, y+titleSpace/2, html.EscapeString(r.Title), html.EscapeString(r.Unit), better)
	y += titleSpace
	for _, c := range r.Cells {
		drawCell(b, c, scale, y)
		y += barSpace
	}
	return y + rowSpace
}

func drawCell(b *strings.Builder, c Cell, scale float64, y int) {
	length := func(f float64) float64 { return f / scale * (chartWidth - labelWidth - valueWidth - chartMargin) }
	colour, ok := colours[c.Config]
	if !ok {
		colour = otherColour
	}
	median := Estimated(c.Samples).Median
	low, high := Quartiles(c.Samples)
	middle := float64(y) + barHeight/2
	fmt.Fprintf(b, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\" fill=\"#1f2328\">%s</text>\n", labelWidth-8, y+12, html.EscapeString(c.Title))
	fmt.Fprintf(b, "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" rx=\"2\" fill=\"%s\"/>\n", labelWidth, y, length(median), barHeight, colour)
	fmt.Fprintf(b, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#1f2328\"/>\n",
		labelWidth+length(low), middle, labelWidth+length(high), middle)
	fmt.Fprintf(b, "<text x=\"%.1f\" y=\"%d\" fill=\"#1f2328\">%s</text>\n", labelWidth+length(max(high, median))+6, y+12, figure(median))
}
