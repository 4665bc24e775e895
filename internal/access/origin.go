package access

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// KnownHost tells whether a request was made to an address, or to localhost. A site that has
// its own name point here would have a browser read the answer for it (DNS rebinding).
func KnownHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	} else if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
	}
	_, err := netip.ParseAddr(host)
	return err == nil || host == "localhost"
}

// The refusals of sameOrigin.
var (
	errHost   = errors.New("this is to be asked by an address, or as localhost")
	errOrigin = errors.New("this is for the page itself: another site, or an address that was typed, gets nothing")
	errForm   = errors.New("what changes something is JSON: say so by Content-Type")
)

// SameOrigin lets through what the page itself asks.
func SameOrigin(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := sameOrigin(r); err != nil {
			Refuse(w, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// sameOrigin refuses what another site has a browser ask. Browsers say where a request comes
// from: by Sec-Fetch-Site on loopback, by Origin in whatever changes something. What changes
// something is of a type, too, that they let no other site send before asking for it.
func sameOrigin(r *http.Request) error {
	if !KnownHost(r.Host) {
		return errHost
	}
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" {
		return errOrigin
	}
	if origin := r.Header.Get("Origin"); origin != "" && origin != "http://"+r.Host {
		return errOrigin
	}
	if r.Method != http.MethodGet && r.Header.Get("Content-Type") != "application/json" {
		return errForm
	}
	return nil
}
