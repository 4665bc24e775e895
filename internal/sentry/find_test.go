package sentry

import "testing"

// TestStopAllEndsForgottenSentries: they are found by what they are.
func TestStopAllEndsForgottenSentries(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	opts := spawnOptions(t, newGates(t))
	pid, starttime := spawned(t, opts)
	must(t, StopAll())
	if Running(pid, starttime) {
		t.Error("the sentry still runs")
	}
	must(t, StopAll()) // there is none
}

// TestStopAllLeavesOtherNamespacesAlone: their sentries are not ours.
func TestStopAllLeavesOtherNamespacesAlone(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	pid, starttime := spawned(t, spawnOptions(t, newGates(t)))
	newOutside(t).do(t, StopAll)
	if !Running(pid, starttime) {
		t.Error("the sentry of another namespace was ended")
	}
}
