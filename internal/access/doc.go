// Package access says who may use the page, and from where. It is root's side, in `torbpf run`:
// the process that serves the page has no privilege and is trusted with nothing, so each request
// that comes through it is judged here (docs/PAGE.md).
//
//	torbpf page login ── root's socket ──▶ Invite: a word that signs in once
//	the page ── POST /v1/session ────────▶ that word, or the password: a session
//	the page ── all else of /v1 ─────────▶ Guard: its origin, then its session
//
// Sessions are in memory: they end with the daemon.
package access
