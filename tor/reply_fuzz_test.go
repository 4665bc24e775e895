package tor

import (
	"context"
	"net"
	"strings"
	"testing"
	"unicode"
)

// FuzzReply: whatever a control port says, its reader comes to an end, and takes no
// percentage and no value from what is no reply.
func FuzzReply(f *testing.F) {
	for _, reply := range []string{
		ok, "250-version=0.4.9.11\r\n" + ok, "250+status/bootstrap-phase=\r\nNOTICE BOOTSTRAP PROGRESS=80 TAG=x\r\n.\r\n" + ok,
		"250 TransPort=9040\r\n", "250-TransPort=9040\r\n250 TransPort=9041\r\n", "552 Unrecognized\r\n", "650 EVENT\r\n250 OK\r\n", "250+x=\r\n..\r\n", "999999", "\r\n", "25",
		"250+circuit-status=\r\n1 BUILT $" + fingerprintA + "~a\x1b PURPOSE=GENERAL\r\n.\r\n250-version=\x1b[2J\r\n" + ok,
	} {
		f.Add([]byte(reply))
	}
	f.Fuzz(func(t *testing.T, reply []byte) {
		talk := func(ask func(context.Context, *Control)) {
			ours, theirs := net.Pipe()
			go func() {
				defer theirs.Close()
				_, _ = theirs.Read(make([]byte, 256)) // the question
				_, _ = theirs.Write(reply)            // fails when the reader has had enough
			}()
			c := newControl("pipe", ours)
			defer c.Close()
			ask(t.Context(), c)
		}
		talk(func(ctx context.Context, c *Control) { _, _ = c.Version(ctx) })
		talk(func(ctx context.Context, c *Control) { _, _ = c.GetConf(ctx, "TransPort") })
		talk(func(ctx context.Context, c *Control) { checkCondition(ctx, t, c) })
		talk(func(ctx context.Context, c *Control) {
			if p, err := c.Bootstrap(ctx); err == nil && (p.Percent < 0 || p.Percent > 100) {
				t.Errorf("%q: %d%%", reply, p.Percent)
			}
		})
	})
}

// checkCondition: nothing that could drive a terminal is in what is shown.
func checkCondition(ctx context.Context, t *testing.T, c *Control) {
	values, err := c.getInfos(ctx, nil)
	if err != nil {
		return
	}
	for key, value := range conditionValues() {
		if _, said := values[key]; !said {
			values[key] = value
		}
	}
	got, err := parseCondition(values)
	if err != nil {
		return
	}
	shown := []string{got.Version, got.Progress.Summary, got.Progress.Warning}
	for _, circuit := range got.Circuits {
		shown = append(shown, circuit.State, circuit.Purpose, circuit.Conflux)
		for _, r := range circuit.Path {
			shown = append(shown, r.Nickname, r.Fingerprint)
		}
	}
	for _, g := range got.Guards {
		shown = append(shown, g.Nickname, g.State)
	}
	for _, text := range shown {
		if strings.ContainsFunc(text, unicode.IsControl) {
			t.Errorf("%q is shown", text)
		}
	}
}
