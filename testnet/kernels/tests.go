package kernels

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

// testEvent is what `go tool test2json` makes of what a test program prints.
type testEvent struct {
	Action, Test, Output string
}

// readTests reads what a test program has printed.
func readTests(ctx context.Context, root string, printed io.Reader) (*SuiteResult, error) {
	cmd := exec.CommandContext(ctx, "go", "tool", "test2json")
	cmd.Dir, cmd.Stdin = root, printed
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go tool test2json: %w", err)
	}
	r, said := &SuiteResult{}, make(map[string]string)
	for events := json.NewDecoder(bytes.NewReader(out)); ; {
		var e testEvent
		if err := events.Decode(&e); errors.Is(err, io.EOF) {
			r.neverEnded(said)
			return r, nil
		} else if err != nil {
			return nil, fmt.Errorf("read test2json: %w", err)
		}
		r.count(e, said)
	}
}

// neverEnded counts as failed what was cut off.
func (r *SuiteResult) neverEnded(said map[string]string) {
	for _, test := range slices.Sorted(maps.Keys(said)) {
		if !strings.Contains(test, "/") {
			r.Failed = append(r.Failed, test+" did not end")
		}
	}
}

// count takes over an event; said is what each test that has not ended has printed.
func (r *SuiteResult) count(e testEvent, said map[string]string) {
	within := strings.Contains(e.Test, "/")
	switch {
	case e.Test == "":
	case e.Action == "output":
		said[e.Test] += e.Output
		return
	case e.Action == "pass" && !within:
		r.Passed++
	case e.Action == "fail" && !within:
		r.Failed = append(r.Failed, e.Test)
	case e.Action == "skip":
		r.Skipped = append(r.Skipped, Skip{e.Test, reason(said[e.Test])})
	}
	if e.Action == "pass" || e.Action == "fail" || e.Action == "skip" {
		delete(said, e.Test)
	}
}

var logged = regexp.MustCompile(`(?m)^ +\w+\.go:\d+: (.*)$`)

// reason is what a test that was left out has logged last.
func reason(said string) string {
	all := logged.FindAllStringSubmatch(said, -1)
	if len(all) == 0 {
		return ""
	}
	return all[len(all)-1][1]
}
