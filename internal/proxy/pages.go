package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/elazarl/goproxy"
)

const help = `This is torbpf's clearnet proxy. What is sent through it goes to its destination
directly, not by Tor: your provider and the destination see who you are.

Set it as the HTTP proxy, for HTTP and HTTPS, of the one program or browser profile
that is to go direct. It connects to no address of this machine, and to no .onion.
`

// helpPage answers what was sent to the proxy as if it were a web server.
type helpPage struct{ port uint16 }

func (h helpPage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", plainText)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if !isProxy(r.Host, h.port) {
		w.WriteHeader(http.StatusBadRequest)
	}
	_, _ = io.WriteString(w, help) // the client may have gone
}

// isProxy tells whether a host, with or without a port, is the proxy itself.
func isProxy(hostport string, port uint16) bool {
	host, number, err := net.SplitHostPort(hostport)
	if err != nil {
		host, number = strings.Trim(hostport, "[]"), "80"
	}
	addr, err := netip.ParseAddr(host)
	here := err == nil && addr.IsLoopback() || strings.EqualFold(strings.TrimSuffix(host, "."), "localhost")
	return here && number == strconv.Itoa(int(port))
}

// plainText: what a page quotes cannot become markup.
const plainText = "text/plain; charset=utf-8"

func textPage(r *http.Request, status int, text string) *http.Response {
	page := goproxy.NewResponse(r, plainText, status, text)
	page.Header.Set("X-Content-Type-Options", "nosniff")
	return page
}

// errorPage says why there is no connection, or no answer.
func errorPage(r *http.Request, err error) *http.Response {
	var refused refusal
	var netErr net.Error
	switch {
	case errors.As(err, &refused):
		return textPage(r, refused.status, refused.text+"\n")
	case errors.As(err, &netErr) && netErr.Timeout(), errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return textPage(r, http.StatusGatewayTimeout, "The destination does not answer: "+err.Error()+"\n")
	}
	return textPage(r, http.StatusBadGateway, "The destination cannot be reached: "+err.Error()+"\n")
}
