package proxy

import (
	"net/http"
	"strings"
)

// hopByHop are headers that end at a proxy (RFC 9110, section 7.6.1), with those that
// only the old RFC 2616 names, which are still sent.
var hopByHop = []string{
	"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection",
	"TE", "Trailer", "Transfer-Encoding", "Upgrade",
}

// stripHops takes from a header what is not for the far end, but for the change to
// WebSocket: the proxy passes that on.
func stripHops(h http.Header) {
	websocket := false
	for _, line := range h.Values("Connection") {
		for name := range strings.SplitSeq(line, ",") {
			name = strings.TrimSpace(name)
			if strings.EqualFold(name, "Upgrade") && strings.EqualFold(h.Get("Upgrade"), "websocket") {
				websocket = true
				continue
			}
			h.Del(name)
		}
	}
	for _, name := range hopByHop {
		h.Del(name)
	}
	if websocket {
		h.Set("Connection", "Upgrade")
		h.Set("Upgrade", "websocket")
	}
}
