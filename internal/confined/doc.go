// Package confined runs what stays behind of torbpf: each part as a small process of its
// own that has no privilege, cannot gain one, and knows nothing but its configuration.
//
//	caller (root)                            child (torbpf or nobody)
//	Role.Spawn ── configuration, 3 ────────▶ RunChild: bounds itself,
//	           ◀─ "ready" or an error, 4 ──  does its work, hides
//	           ── files of the role, 5 … ──▶
//
// The caller may end after that. What it keeps is the pid with the start time, which
// tell the process from any other later on.
package confined

// Role is what a process is there for, in a word: errors name it by that, and ps shows
// it behind "torbpf-". Ten letters at most, or the kernel cuts the name.
type Role string

// processName is what ps and top show, and how a process is found that nobody wrote down.
func (r Role) processName() string { return "torbpf-" + string(r) }
