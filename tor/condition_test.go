package tor

import (
	"maps"
	"reflect"
	"testing"
	"time"
)

func conditionValues() map[string]string {
	return map[string]string{
		"version": "0.4.9.11", "status/bootstrap-phase": `NOTICE BOOTSTRAP PROGRESS=100 TAG=done SUMMARY="Done"`,
		"process/pid": "77", "uptime": "3600", "dormant": "0", "network-liveness": "up",
		"traffic/read": "12345678901", "traffic/written": "42", "bw-event-cache": "10,2 20,4",
		"circuit-status": "1 BUILT PURPOSE=GENERAL\n2 LAUNCHED PURPOSE=GENERAL",
		"entry-guards":   "$" + fingerprintA + "~guard up\n$" + fingerprintB + "~other never-connected\n$" + fingerprintB + " down 2026-11-27 06:50:00\n",
		"orconn-status":  "$" + fingerprintA + "~guard CONNECTED\n10.0.0.1:443 LAUNCHED",
	}
}

func TestTheConditionIsRead(t *testing.T) {
	got, err := parseCondition(conditionValues())
	if err != nil {
		t.Fatal(err)
	}
	want := &Condition{
		Version: "0.4.9.11", Progress: Progress{Percent: 100, Tag: "done", Summary: "Done"}, PID: 77, Uptime: time.Hour, Network: true,
		Read: 12345678901, Written: 42, Rate: &Rate{Read: 15, Written: 3},
		Circuits: []Circuit{{ID: 1, State: Built, Purpose: "GENERAL"}, {ID: 2, State: "LAUNCHED", Purpose: "GENERAL"}},
		Guards:   []Guard{{Relay{fingerprintA, "guard"}, "up", true}, {Relay{Fingerprint: fingerprintB}, "down", false}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("it is %+v, want %+v", got, want)
	}
}

func TestAConditionThatTorWouldNotTellIsAnError(t *testing.T) {
	for key, value := range map[string]string{
		"status/bootstrap-phase": "", "process/pid": "x", "uptime": "-1", "traffic/read": "1e9", "traffic/written": "", "bw-event-cache": "1",
		"circuit-status": "BUILT", "entry-guards": "\x1b[2J up",
	} {
		values := maps.Clone(conditionValues())
		values[key] = value
		if got, err := parseCondition(values); err == nil {
			t.Errorf("%s=%q: %+v", key, value, got)
		}
	}
}

func TestTheRateIsOfTheLastSeconds(t *testing.T) {
	cache := "1000000,1000000"
	for range rateSeconds {
		cache += " 5,6"
	}
	if got, err := parseRate(cache); err != nil || *got != (Rate{5, 6}) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := parseRate(""); err != nil || got != nil {
		t.Errorf("of a tor that has just started: %+v, %v", got, err)
	}
}

func TestTheClockIsToldOf(t *testing.T) {
	const skewed = "Nov 27 06:50:00.000 [warn] Received NETINFO cell with skewed time (OR:10.0.0.1:443): It seems that our clock is behind by 3 days, 2 hours, 0 minutes, or that theirs is ahead. Tor requires an accurate clock to work\n"
	const done = "Nov 27 06:51:00.000 [notice] Bootstrapped 100% (done): Done\n"
	for log, want := range map[string]string{
		"": "", skewed: "behind by 3 days, 2 hours, 0 minutes", skewed + done: "", done + skewed: "behind by 3 days, 2 hours, 0 minutes",
		"It seems that our clock is ahead by \x1b[2J, or that theirs": "",
	} {
		if got := clockSkew(log); got != want {
			t.Errorf("%q: %q, want %q", log, got, want)
		}
	}
}

// TestARunningTorTellsItsCondition: of the tor that is installed.
func TestARunningTorTellsItsCondition(t *testing.T) {
	d := started(t, options(t))
	ctx := deadline(t, 10*time.Second)
	c, err := d.Dial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got, err := c.Condition(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if version, err := c.Version(ctx); err != nil || got.Version != version || got.PID != d.PID() || got.Progress.Percent != 0 || got.Network {
		t.Errorf("it is %+v, %v; want version %s, process %d", got, err, version, d.PID())
	}
}
