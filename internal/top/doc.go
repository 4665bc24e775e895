// Package top shows in a terminal what each device sends, and what becomes of it, from moment to
// moment: `torbpf top`. It reads as status, device list and events do, so it needs no daemon.
//
//	Source ─▶ Reading ──┐
//	          Reading ──┴─▶ Rows: rates, sorted ──┐
//	          Status, refusals ───────────────────┴─▶ Model ─▶ Frame ─▶ a terminal, or plain text
//	                              keys ─▶ Model.Key ─▶ Change ─▶ Source
//
// All but the outermost part is pure: two readings make rows, and a model makes the lines of a
// frame of some width and height. What others have named passes clean before it is shown, so
// that no control character reaches the terminal. Own text is ASCII, for any locale.
package top
