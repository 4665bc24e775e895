// Package doctor judges whether a host is fit for torbpf, and whether what torbpf has there is
// sound. It is pure: internal/router gathers the Facts, and each check looks at those alone, so
// that its tests are tables.
//
//	internal/router ── Facts ──▶ Examine ──▶ Report: the worst Verdict of each check,
//	                              checks     and for each Finding why, and what to type
//
// A check's name is what JSON, the docs (docs/DOCTOR.md) and the tests call it, and stays.
package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Verdict is what a check has come to, the worst last in the list of Verdicts.
type Verdict string

// The verdicts.
const (
	NotApplicable Verdict = "not-applicable" // there is nothing here that it is about
	OK            Verdict = "ok"
	Note          Verdict = "note"    // worth knowing, and nothing is wrong
	Unknown       Verdict = "unknown" // it could not be looked at, such as without root
	Warning       Verdict = "warning" // something will not work, or not for ever, or lets out what one may not expect
	Problem       Verdict = "problem" // attach refuses, devices are refused, or a layer is missing
)

// Verdicts are all of them, the worst last.
var Verdicts = []Verdict{NotApplicable, OK, Note, Unknown, Warning, Problem}

// worse tells which of two verdicts is the worse one.
func worse(a, b Verdict) Verdict {
	if slices.Index(Verdicts, b) > slices.Index(Verdicts, a) {
		return b
	}
	return a
}

// Advice is what is wrong and what to do about it, the same wherever it is told.
type Advice struct {
	Reason string   `json:"reason"`
	Fix    []string `json:"fix"` // what to type, or to change, in this order
}

// Advise makes one.
func Advise(reason string, fix ...string) Advice { return Advice{reason, append([]string{}, fix...)} }

// Advised makes one of an error, whose next step follows its last colon.
func Advised(err error) Advice {
	text := err.Error()
	at := strings.LastIndex(text, ": ")
	if at < 0 {
		return Advise(text)
	}
	return Advise(text[:at], text[at+2:])
}

// String is how attach warns of it.
func (a Advice) String() string {
	if len(a.Fix) == 0 {
		return a.Reason
	}
	return a.Reason + ": " + strings.Join(a.Fix, "; ")
}

// Strings are advices as attach warns of them.
func Strings(advices []Advice) []string {
	out := make([]string, 0, len(advices))
	for _, a := range advices {
		out = append(out, a.String())
	}
	return out
}

// Finding is one thing that a check has found.
type Finding struct {
	Verdict Verdict `json:"verdict"`
	Advice
}

func found(v Verdict, advices ...Advice) []Finding {
	var out []Finding
	for _, a := range advices {
		out = append(out, Finding{v, Advice{a.Reason, append([]string{}, a.Fix...)}})
	}
	return out
}

func problem(reason string, fix ...string) Finding { return Finding{Problem, Advise(reason, fix...)} }
func warning(reason string, fix ...string) Finding { return Finding{Warning, Advise(reason, fix...)} }
func note(reason string, fix ...string) Finding    { return Finding{Note, Advise(reason, fix...)} }

// about is a finding of a check that nothing here is for.
func about(nothing string) []Finding { return []Finding{{NotApplicable, Advise(nothing)}} }

// Result is what one check has come to.
type Result struct {
	ID       string    `json:"id"`
	Group    string    `json:"group"`
	Verdict  Verdict   `json:"verdict"`
	Findings []Finding `json:"findings"`
}

// Report is what all of them have.
type Report struct {
	Schema     int      `json:"schema"`
	Attached   bool     `json:"attached"`
	Interfaces []string `json:"interfaces"` // that are LANs, or were looked at as if they were to be
	Client     bool     `json:"client"`     // so is what this machine itself sends
	Verdict    Verdict  `json:"verdict"`    // the worst
	Checks     []Result `json:"checks"`
}

// schema numbers the shape of Report in JSON.
const schema = 1

// Examine runs every check.
func Examine(f *Facts) *Report {
	r := &Report{Schema: schema, Attached: f.Attached, Interfaces: append([]string{}, f.Interfaces...), Client: f.Config.Client.Enable, Verdict: OK, Checks: []Result{}}
	for _, c := range checks {
		result := Result{ID: c.id, Group: c.group, Verdict: OK, Findings: append([]Finding{}, f.examine(c)...)}
		for i, one := range result.Findings {
			if i == 0 {
				result.Verdict = one.Verdict
			}
			result.Verdict = worse(result.Verdict, one.Verdict)
		}
		r.Verdict = worse(r.Verdict, result.Verdict)
		r.Checks = append(r.Checks, result)
	}
	return r
}

// examine runs one check, or says why it could not be.
func (f *Facts) examine(c check) []Finding {
	if err := f.Unread[c.id]; err != nil {
		var fix []string
		if !f.Root {
			fix = []string{"sudo torbpf doctor"}
		}
		return []Finding{{Unknown, Advise(fmt.Sprintf("could not be looked at: %v", err), fix...)}}
	}
	return c.judge(f)
}

// Sound tells whether nothing is wrong, and all could be looked at.
func (r *Report) Sound() bool {
	return cmp.Compare(slices.Index(Verdicts, r.Verdict), slices.Index(Verdicts, Note)) <= 0
}
