package abi

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"
)

// enumOf returns the values of an enum as the compiled object holds them.
func enumOf(t *testing.T, name string) []btf.EnumValue {
	t.Helper()
	spec, err := LoadDatapath()
	if err != nil {
		t.Fatal(err)
	}
	var enum *btf.Enum
	if err := spec.Types.TypeByName(name, &enum); err != nil {
		t.Fatal(err)
	}
	return enum.Values
}

// derived turns the C name of a value into ours: REASON_NON_IP, "non-ip".
func derived(prefix string, v btf.EnumValue) string {
	name := strings.TrimPrefix(v.Name, prefix)
	return strings.ReplaceAll(strings.ToLower(name), "_", "-")
}

func TestEveryVerdictHasItsName(t *testing.T) {
	values := enumOf(t, "verdict")
	for _, v := range values {
		if got, want := Verdict(v.Value).String(), derived("VERDICT_", v); got != want {
			t.Errorf("%s is named %q, want %q", v.Name, got, want)
		}
	}
	if len(verdictNames) != len(values) {
		t.Errorf("%d verdicts have names, the object has %d", len(verdictNames), len(values))
	}
}

func TestEveryReasonHasItsName(t *testing.T) {
	values := enumOf(t, "reason")
	for _, v := range values {
		r := Reason(v.Value)
		if r == ReasonMax {
			continue
		}
		if got, want := r.String(), derived("REASON_", v); got != want {
			t.Errorf("%s is named %q, want %q", v.Name, got, want)
		}
		if reasonTexts[r].explain == "" {
			t.Errorf("%s has no explanation", v.Name)
		}
	}
	if want := len(values) - 1; len(reasonTexts) != want || int(ReasonMax) != want {
		t.Errorf("%d reasons have names, the object has %d and ends at %d", len(reasonTexts), want, ReasonMax)
	}
}

func TestUnknownNamesReadAsRefused(t *testing.T) {
	if got := Verdict(77).String(); got != "verdict-77" {
		t.Errorf("verdict 77 is named %q", got)
	}
	if got := ReasonMax.String(); !strings.HasPrefix(got, "reason-") {
		t.Errorf("an unknown reason is named %q", got)
	}
	if got := ReasonMax.Verdict(); got != VerdictRefused {
		t.Errorf("an unknown reason belongs to %s", got)
	}
	if ReasonMax.Explain() == "" {
		t.Error("an unknown reason has no explanation")
	}
}

// TestReasonsBelongToTheirVerdict holds the table against the comments of
// bpf/abi.h, where the verdict stands before the colon.
func TestReasonsBelongToTheirVerdict(t *testing.T) {
	header, err := os.ReadFile("../../bpf/abi.h")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^\s+REASON_(\w+),\s*/\* (\w+)`)
	said := make(map[string]string)
	for _, m := range line.FindAllStringSubmatch(string(header), -1) {
		said[strings.ReplaceAll(strings.ToLower(m[1]), "_", "-")] = m[2]
	}
	for r := ReasonNone + 1; r < ReasonMax; r++ {
		if got, want := r.Verdict().String(), said[r.String()]; got != want {
			t.Errorf("%s belongs to %q, bpf/abi.h says %q", r, got, want)
		}
	}
}
