package tor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// NewnymPace is how often tor takes new circuits at most; who asks sooner waits as long.
const NewnymPace = 10 * time.Second

// Newnym has tor use no circuit that was used before for what anybody begins from now on, and
// returns when it does. waits is called if tor makes it wait. What goes by a circuit goes on.
func (c *Control) Newnym(ctx context.Context, waits func()) error {
	if _, err := c.command(ctx, "SETEVENTS SIGNAL"); err != nil {
		return err
	}
	if _, err := c.command(ctx, "SIGNAL NEWNYM"); err != nil {
		return err
	}
	end := time.Now().Add(NewnymPace + commandTimeout)
	for limit := time.Now().Add(time.Second); ; limit = end {
		err := c.awaitEvent(ctx, limit, "650 SIGNAL NEWNYM")
		switch {
		case err == nil:
			return nil
		case context.Cause(ctx) != nil:
			return fmt.Errorf("wait for new circuits: %w", context.Cause(ctx))
		case !errors.Is(err, os.ErrDeadlineExceeded) || limit.Equal(end):
			return fmt.Errorf("wait for new circuits: tor does not say that it has taken them: %w", err)
		}
		waits()
	}
}

// awaitEvent reads until tor says one thing.
func (c *Control) awaitEvent(ctx context.Context, limit time.Time, line string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.wire.SetDeadline(limit); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = c.wire.SetDeadline(time.Unix(1, 0)) })()
	c.wire.left, c.wire.lines = replyMax, linesMax
	for {
		said, err := c.text.ReadLine()
		if err != nil {
			return err
		}
		if strings.TrimSpace(said) == line {
			return nil
		}
	}
}
