package kernels

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
)

// budgetFile is what TestVerifierBudget of package loader compares with: for each program, the
// instructions that the verifier of each kernel goes through.
const budgetFile = "loader/testdata/verifier.json"

// WriteBudget takes over the figures of all results into the budget. Kernels without a result
// keep theirs.
func WriteBudget(root string) error {
	r, err := ReadResults(filepath.Join(root, ResultsFile))
	if err != nil {
		return err
	}
	file := filepath.Join(root, budgetFile)
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	known := make(map[string]map[string]int)
	if err := json.Unmarshal(text, &known); err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	for _, k := range r.Kernels {
		takeFigures(known, k)
	}
	if text, err = json.MarshalIndent(known, "", "  "); err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

// takeFigures makes a kernel's column of the budget what its result says; a program that it
// refuses has no entry.
func takeFigures(known map[string]map[string]int, k Result) {
	if len(k.Verifier) == 0 {
		return
	}
	for _, byKernel := range known {
		delete(byKernel, k.Kernel)
	}
	for name, n := range k.Verifier {
		if n == 0 {
			continue
		}
		if known[name] == nil {
			known[name] = make(map[string]int)
		}
		known[name][k.Kernel] = n
	}
	maps.DeleteFunc(known, func(name string, byKernel map[string]int) bool {
		_, there := k.Verifier[name]
		return !there && len(byKernel) == 0
	})
}
