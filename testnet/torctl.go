package testnet

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
)

// awaitUpload listens to a tor's control socket until its onion service has
// published a descriptor with every directory that it chose (control-spec, HS_DESC).
func awaitUpload(ctx context.Context, socket string) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("open control socket: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if _, err := fmt.Fprint(conn, "AUTHENTICATE\r\nSETEVENTS HS_DESC\r\n"); err != nil {
		return fmt.Errorf("ask for events: %w", err)
	}
	// There are two descriptors at any time, for this period and the next or the
	// one before; which of them a client asks for depends on the hour.
	descriptors, pending, published := map[string]bool{}, 0, 0
	replies := bufio.NewScanner(conn)
	for replies.Scan() {
		// 650 HS_DESC action address authentication directory descriptor ...
		fields := strings.Fields(replies.Text())
		if len(fields) > 0 && strings.HasPrefix(fields[0], "5") {
			return fmt.Errorf("ask for events: %s", replies.Text())
		}
		if len(fields) < 6 || fields[1] != "HS_DESC" {
			continue
		}
		switch fields[2] {
		case "CREATED":
			descriptors[fields[len(fields)-1]] = true
		case "UPLOAD":
			pending++
		case "UPLOADED":
			pending--
			published++
		case "FAILED":
			pending--
		}
		if len(descriptors) == 2 && published > 0 && pending == 0 {
			return nil
		}
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("wait for descriptor upload: %w", err)
	}
	return fmt.Errorf("wait for descriptor upload: control connection closed: %w", replies.Err())
}
