package main

import (
	"reflect"
	"testing"

	"github.com/torbpf/torbpf/bench/report"
)

const printed = `goos: linux
pkg: github.com/torbpf/torbpf/bench
BenchmarkClassifier/dns-2         	      20	         0 ns/op	       310.5 ns/packet
BenchmarkClassifier/dns-local     	      20	         0 ns/op	       400 ns/packet
BenchmarkListPacket/10000/any-2   	      20	         0 ns/op	       900 ns/packet
BenchmarkClassifier/dns-2         	      20	         0 ns/op	       320 ns/packet
BenchmarkConnectionSetup-2        	      20	         0 ns/op	     20000 ns/loopback	     50000 ns/seed	     45500 ns/torbpf	         0.91 torbpf/seed
BenchmarkConnectionSetup-2        	      20	         0 ns/op	     21000 ns/loopback	     51000 ns/seed	     46000 ns/torbpf	         0.90 torbpf/seed
PASS
`

func TestTimesOfTheClassifierAreRead(t *testing.T) {
	got := map[string][]float64{}
	for _, r := range classifierRows(metricsOf(t, printed)) {
		got[r.Name] = r.Cells[0].Samples
		if r.Unit != report.NanosecondsPerPacket {
			t.Errorf("%s is in %s", r.Name, r.Unit)
		}
	}
	if want := map[string][]float64{"program-dns": {310.5, 320}, "program-dns-local": {400}}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestConnectionsOfClientModeAreRead(t *testing.T) {
	row, err := clientRow(metricsOf(t, printed))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]float64{}
	for _, c := range row.Cells {
		got[c.Config] = c.Samples
	}
	if want := map[string][]float64{"loopback": {20, 21}, "nft": {50, 51}, "torbpf": {45.5, 46}}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if row, err := clientRow(nil); err == nil {
		t.Errorf("of nothing: %+v", row)
	}
}

func TestTimesThatAreNoneAreAnError(t *testing.T) {
	if got, err := parseMetrics("BenchmarkClassifier/dns-2 20 0 ns/op some ns/packet\n"); err == nil {
		t.Errorf("read: %v", got)
	}
}

func metricsOf(t *testing.T, text string) []metric {
	t.Helper()
	metrics, err := parseMetrics(text)
	if err != nil {
		t.Fatal(err)
	}
	return metrics
}
