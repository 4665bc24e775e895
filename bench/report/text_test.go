package report

import (
	"bytes"
	"errors"
	"regexp"
	"strings"
	"testing"
)

func TestTablesTellMediansSharesAndTargets(t *testing.T) {
	var out bytes.Buffer
	if err := example(101, 104, 105, 105, 106, 120).Print(&out); err != nil {
		t.Fatal(err)
	}
	got := regexp.MustCompile(` +`).ReplaceAllString(out.String(), " ")
	for _, want := range []string{
		"torbpf v1, 2026-01-02 03:04\n",
		"some, 2 cores, Linux 6.18",
		"UDP (ns/packet)\n nft 100 100 to 100\n torbpf 105 104 to 106 1.05 of nft (1.01 to 1.20)\n",
		"attach (ms)\n torbpf 105 104 to 106\n",
		" torbpf_lan 1000 2000\n",
		"maps: KiB of memory, 4 in all",
		" UDP: torbpf of nft at most 1.00 1.05 (1.01 to 1.20) missed\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the tables lack %q:\n%s", want, got)
		}
	}
}

func TestTargetsOfWhatIsToBeMuchAreLeast(t *testing.T) {
	r := example(99, 99, 99, 99, 99, 99)
	r.Rows[0].Higher = true
	var out bytes.Buffer
	if err := r.Print(&out); err != nil {
		t.Fatal(err)
	}
	if got, want := regexp.MustCompile(` +`).ReplaceAllString(out.String(), " "), "at least 1.00 0.99 (0.99 to 0.99) missed"; !strings.Contains(got, want) {
		t.Errorf("the table of targets lacks %q:\n%s", want, got)
	}
}

func TestWhatGotSlowerIsSaid(t *testing.T) {
	before := example(100, 101, 102, 103, 104, 105)
	for _, c := range []struct {
		samples []float64
		slower  bool
		want    string
	}{
		{[]float64{100, 101, 102, 103, 104, 105}, false, "udp-64, torbpf of nft 1.025 (1.00 to 1.05) now 1.025 (1.00 to 1.05) the same within the spread"},
		{[]float64{110, 111, 112, 113, 114, 115}, true, "now 1.125 (1.10 to 1.15) SLOWER"},
		{[]float64{50, 51, 52, 53, 54, 55}, false, "faster"},
	} {
		var out bytes.Buffer
		slower, err := PrintChanges(&out, Compare(before, example(c.samples...)))
		if err != nil {
			t.Fatal(err)
		}
		got := regexp.MustCompile(` +`).ReplaceAllString(out.String(), " ")
		if slower != c.slower || !strings.Contains(got, c.want) {
			t.Errorf("%v: slower is %v, want %v with %q:\n%s", c.samples, slower, c.slower, c.want, got)
		}
	}
}

func TestAPrinterThatCannotWriteSaysSo(t *testing.T) {
	if err := example(100).Print(full{}); err == nil {
		t.Error("nothing was written, and nothing said")
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("full") }
