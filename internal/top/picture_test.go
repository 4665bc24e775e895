package top

import (
	"encoding/xml"
	"fmt"
	"strings"
	"testing"
)

// Measures of the picture, in pixels, and its colours, which are those of a dark terminal.
const (
	cellWidth  = 8
	cellHeight = 18
	margin     = 12
	ground     = "#1d1f21"
)

// inks are the colours of styles.
var inks = map[style]string{plain: "#d8dee4", strong: "#ffffff", faint: "#7d8790", chosen: ground, opened: "#e5c07b", bad: "#e06c75"}

// TestThePicture of the docs is of a frame as it is now.
func TestThePicture(t *testing.T) {
	inUTC(t)
	m := fixture()
	for _, k := range []key{keyDown, keyDown, keyDown, "a"} {
		m.press(k)
	}
	drawn := picture(m.frame(80, 24), 80)
	if len(drawn) > 150<<10 {
		t.Errorf("it has %d bytes", len(drawn))
	}
	if err := xml.Unmarshal([]byte(drawn), new(struct{})); err != nil {
		t.Errorf("no XML: %v", err)
	}
	golden(t, "../../docs/top.svg", drawn)
}

// picture draws a frame as SVG, a text for each span.
func picture(lines []line, columns int) string {
	w, h := 2*margin+columns*cellWidth, 2*margin+len(lines)*cellHeight
	var b strings.Builder
	fmt.Fprintf(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" font-family=\"ui-monospace,Menlo,Consolas,monospace\" font-size=\"13\">\n", w, h, w, h)
	fmt.Fprintf(&b, "<rect width=\"%d\" height=\"%d\" rx=\"6\" fill=\"%s\"/>\n", w, h, ground)
	for y, l := range lines {
		x := 0
		for _, s := range l {
			drawSpan(&b, s, x, y)
			x += width(s.text)
		}
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func drawSpan(b *strings.Builder, s span, x, y int) {
	left, top := margin+x*cellWidth, margin+y*cellHeight
	if s.style == chosen {
		fmt.Fprintf(b, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"%s\"/>\n", left, top, width(s.text)*cellWidth, cellHeight, inks[plain])
	}
	for word := range strings.FieldsSeq(s.text) {
		at := strings.Index(s.text, word)
		begin := width(s.text[:at])
		s.text = strings.Replace(s.text, word, strings.Repeat(" ", width(word)), 1)
		weight := ""
		if s.style == strong {
			weight = " font-weight=\"600\""
		}
		var escaped strings.Builder
		if err := xml.EscapeText(&escaped, []byte(word)); err != nil {
			panic(err)
		}
		fmt.Fprintf(b, "<text x=\"%d\" y=\"%d\" textLength=\"%d\" fill=\"%s\"%s>%s</text>\n",
			left+begin*cellWidth, top+cellHeight-5, width(word)*cellWidth, inks[s.style], weight, &escaped)
	}
}
