package tor

import (
	"context"
	"net"
	"testing"
)

// FuzzReply: whatever a control port says, its reader comes to an end, and takes no
// percentage and no value from what is no reply.
func FuzzReply(f *testing.F) {
	for _, reply := range []string{
		ok, "250-version=0.4.9.11\r\n" + ok, "250+status/bootstrap-phase=\r\nNOTICE BOOTSTRAP PROGRESS=80 TAG=x\r\n.\r\n" + ok,
		"250 TransPort=9040\r\n", "250-TransPort=9040\r\n250 TransPort=9041\r\n", "552 Unrecognized\r\n", "650 EVENT\r\n250 OK\r\n", "250+x=\r\n..\r\n", "999999", "\r\n", "25",
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
		talk(func(ctx context.Context, c *Control) {
			if p, err := c.Bootstrap(ctx); err == nil && (p.Percent < 0 || p.Percent > 100) {
				t.Errorf("%q: %d%%", reply, p.Percent)
			}
		})
	})
}
