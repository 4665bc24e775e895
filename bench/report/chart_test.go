package report

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestBarsAreAsLongAsTheirMedians(t *testing.T) {
	r := example(50, 50, 50)
	r.Rows[0].Title = "less < more & \"so\""
	path := filepath.Join(t.TempDir(), "chart.svg")
	if err := r.WriteChart(path, "udp-64"); err != nil {
		t.Fatal(err)
	}
	bars, text := readChart(t, path)
	if len(bars) != 2 || bars[0] != 2*bars[1] {
		t.Errorf("bars of 100 and 50 are %v long", bars)
	}
	for _, want := range []string{r.Rows[0].Title, "ns/packet, less is better", "100", "50.0", "torbpf"} {
		if !strings.Contains(text, want) {
			t.Errorf("the chart lacks %q: %s", want, text)
		}
	}
}

func TestChartsHaveOneUnit(t *testing.T) {
	r := example(50, 50, 50)
	path := filepath.Join(t.TempDir(), "chart.svg")
	for _, other := range []string{"attach", "nothing"} {
		if err := r.WriteChart(path, "udp-64", other); err == nil {
			t.Errorf("%q is drawn beside packets", other)
		}
	}
}

// readChart returns how long the bars of a chart are, and its texts.
func readChart(t *testing.T, path string) (bars []float64, text string) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	d := xml.NewDecoder(file)
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return bars[1:], text // the first is the ground
		}
		if err != nil {
			t.Fatal(err)
		}
		switch token := token.(type) {
		case xml.CharData:
			text += string(token)
		case xml.StartElement:
			for _, a := range token.Attr {
				if token.Name.Local != "rect" || a.Name.Local != "width" {
					continue
				}
				width, err := strconv.ParseFloat(a.Value, 64)
				if err != nil {
					t.Fatal(err)
				}
				bars = append(bars, width)
			}
		}
	}
}
