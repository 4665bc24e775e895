package kernels

import (
	_ "embed"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
)

// ResultsFile and pageFile are where results are kept and shown, below the repository.
const (
	ResultsFile = "docs/kernels.json"
	pageFile    = "docs/KERNELS.md"
)

//go:embed page.md.tmpl
var pageText string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"runs": runsTable, "wholes": wholes, "suites": suitesTable, "missing": missing, "features": featuresTable, "fallbacks": fallbacks, "skips": skipsList, "verifier": verifierTable,
}).Parse(pageText))

// WritePage writes docs/KERNELS.md from docs/kernels.json.
func WritePage(root string) error {
	r, err := ReadResults(filepath.Join(root, ResultsFile))
	if err != nil {
		return err
	}
	text, err := renderPage(r)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(root, pageFile), []byte(text), 0o644)
}

func renderPage(r *Results) (string, error) {
	var b strings.Builder
	err := page.Execute(&b, r)
	return b.String(), err
}

// table lays out rows for Markdown; the first one is the header.
func table(rows [][]string) string {
	var b strings.Builder
	for i, row := range rows {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			b.WriteString(strings.Repeat("|---", len(row)) + "|\n")
		}
	}
	return b.String()
}

func runsTable(r *Results) string {
	rows := [][]string{{"kernel", "Debian's package", "day", "how", "tests", "left out", "failed"}}
	for _, k := range r.Kernels {
		passed, skipped, failed := k.totals()
		rows = append(rows, []string{k.Kernel, fmt.Sprintf("%s (%s)", strings.TrimPrefix(k.Package, "linux-image-"), k.Version), k.Day,
			fmt.Sprintf("%s, %d s%s", k.Run, k.Seconds, map[bool]string{true: ", short form"}[k.Short]), fmt.Sprint(passed), fmt.Sprint(skipped), fmt.Sprint(failed)})
	}
	return table(rows)
}

// wholes says how long all of them took.
func wholes(r *Results) string {
	if len(r.Wholes) == 0 {
		return ""
	}
	rows := [][]string{{"all of them, from", "took", "of processors", "day", "how"}}
	for _, w := range r.Wholes {
		from := map[string]string{"empty": "an empty cache, with all that is downloaded", "full": "a full cache"}[w.Cache]
		if w.Failed > 0 {
			from += fmt.Sprintf("; %d tests failed", w.Failed)
		}
		rows = append(rows, []string{from, minutes(w.Seconds), minutes(w.Busy), w.Day,
			fmt.Sprintf("%d kernels, %s, %d at once on %d processors", w.Kernels, w.Run, w.AtOnce, w.Processors)})
	}
	return table(rows) + "\n"
}

func minutes(seconds int) string { return fmt.Sprintf("%d min %d s", seconds/60, seconds%60) }

// missing names the targets that have no result.
func missing(r *Results) string {
	newest := ""
	for _, k := range r.Kernels {
		newest = k.Kernel
	}
	var names []string
	for _, t := range Targets {
		there := slices.ContainsFunc(r.Kernels, func(k Result) bool { return k.Kernel == t.String() })
		if !there && (t.Kernel != "newest" || compareVersions(newest, "6.18") <= 0) {
			names = append(names, t.String())
		}
	}
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf("**Not run yet: %s.**\n\n", strings.Join(names, ", "))
}

func (r *Result) totals() (passed, skipped, failed int) {
	for _, s := range r.Suites {
		passed, skipped, failed = passed+s.Passed, skipped+len(s.Skipped), failed+len(s.Failed)
	}
	return passed, skipped, failed
}

// suitesTable has how many tests of each suite passed on which kernel.
func suitesTable(r *Results) string {
	header := []string{"tests passed of"}
	for _, k := range r.Kernels {
		header = append(header, k.Kernel)
	}
	rows := [][]string{header}
	for _, s := range slices.Concat(suites, foreignSuites) {
		row, ran := []string{fmt.Sprintf("`%s`: %s", s.Package, s.Name)}, false
		for _, k := range r.Kernels {
			cell := "not run"
			for _, one := range k.Suites {
				if one.Name == s.Name {
					cell, ran = fmt.Sprint(one.Passed), true
				}
			}
			row = append(row, cell)
		}
		if ran {
			rows = append(rows, row)
		}
	}
	return table(rows)
}

func featuresTable(r *Results) string {
	header := []string{"", "since"}
	for _, k := range r.Kernels {
		header = append(header, k.Kernel)
	}
	rows := [][]string{header}
	for _, f := range features {
		row := []string{f.title, f.since}
		for _, k := range r.Kernels {
			cell := map[bool]string{true: "yes", false: "**no**"}[f.of(k)]
			if k.Features[f.probe].Unknown {
				cell = "not looked at"
			}
			row = append(row, cell)
		}
		rows = append(rows, row)
	}
	return table(rows)
}

// fallbacks says what happens without each feature.
func fallbacks(*Results) string {
	rows := [][]string{{"without", "torbpf"}}
	for _, f := range features {
		rows = append(rows, []string{f.title, f.without})
	}
	return table(rows)
}

// skipsList says which tests were left out where, and why.
func skipsList(r *Results) string {
	where := make(map[string][]string)
	for _, k := range r.Kernels {
		for _, s := range k.Suites {
			for _, skip := range s.Skipped {
				where[skip.Reason] = append(where[skip.Reason], k.Kernel)
			}
		}
	}
	rows := [][]string{{"why", "tests by kernel"}}
	for _, reason := range slices.Sorted(maps.Keys(where)) {
		var counts []string
		for _, k := range r.Kernels {
			n := 0
			for _, w := range where[reason] {
				if w == k.Kernel {
					n++
				}
			}
			if n > 0 {
				counts = append(counts, fmt.Sprintf("%s: %d", k.Kernel, n))
			}
		}
		rows = append(rows, []string{reason, strings.Join(counts, ", ")})
	}
	return table(rows)
}

// verifierTable has the programs that cost the verifier most.
func verifierTable(r *Results) string {
	header, most := []string{"program"}, make(map[string]int)
	for _, k := range r.Kernels {
		header = append(header, k.Kernel)
		for name, n := range k.Verifier {
			most[name] = max(most[name], n)
		}
	}
	names := slices.SortedFunc(maps.Keys(most), func(a, b string) int {
		if most[a] != most[b] {
			return most[b] - most[a]
		}
		return strings.Compare(a, b)
	})
	rows := [][]string{header}
	for _, name := range names[:min(len(names), 12)] {
		row := []string{"`" + name + "`"}
		for _, k := range r.Kernels {
			n := "refused"
			if k.Verifier[name] > 0 {
				n = fmt.Sprint(k.Verifier[name])
			}
			row = append(row, n)
		}
		rows = append(rows, row)
	}
	return table(rows)
}

// String is what is printed of a kernel.
func (r *Result) String() string {
	var b strings.Builder
	passed, skipped, failed := r.totals()
	fmt.Fprintf(&b, "Linux %s (%s): %d tests passed, %d left out, %d failed, in %d s, %s\n", r.Kernel, r.Release, passed, skipped, failed, r.Seconds, r.Run)
	for _, s := range r.Suites {
		fmt.Fprintf(&b, "  %4d s %3d passed, %d left out, %d failed: %s\n", s.Seconds, s.Passed, len(s.Skipped), len(s.Failed), s.Name)
		for _, f := range s.Failed {
			fmt.Fprintf(&b, "    FAILED: %s\n", f)
		}
	}
	return b.String()
}
