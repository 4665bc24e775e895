package router

import (
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/doctor"
	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/internal/plan"
)

// WebPlace is where something is served by TCP.
type WebPlace struct {
	Addr      netip.AddrPort
	Interface string // by which it is reached, and no other; "" for any
}

// Served is what is to be served by TCP.
type Served struct {
	config.Web
	Places []WebPlace
	Left   []string // why not, of each address that is left out
}

// Web is what is to be served by TCP; known is false where nothing is attached, and whatever
// is served may go on. The page is for this machine, and for devices that are on Tor: whoever
// else could reach it is by an uplink, or may be tomorrow.
func (r *Router) Web() (served Served, known bool) {
	s, err := r.loadState()
	if err != nil || s == nil {
		return Served{}, false
	}
	served.Web = s.Config.Web
	var owners map[netip.Addr]string
	for _, addr := range served.Listen {
		place := WebPlace{Addr: addr}
		if served.isGuarded(addr) {
			if owners == nil {
				if owners, err = host.Owners(s.lanIndices()); err != nil {
					return Served{}, false
				}
			}
			place.Interface = owners[addr.Addr().WithZone("")]
			switch {
			case place.Interface != "":
			case s.Blocked:
				continue // what is waited for may have it
			default:
				served.Left = append(served.Left, leftAdvice(addr).String())
				continue
			}
		}
		served.Places = append(served.Places, place)
	}
	return served, true
}

// isGuarded tells whether the page is to be served beyond this machine.
func (s Served) isGuarded(addr netip.AddrPort) bool { return s.Page && !addr.Addr().IsLoopback() }

func leftAdvice(addr netip.AddrPort) doctor.Advice {
	return doctor.Advise(fmt.Sprintf("the page is not served at %s, since no interface that is on Tor has this address now, and others may lead outside", addr),
		"name another by [web] listen, or write page = false and metrics = \"everywhere\" for metrics alone")
}

// pageAdvice tells of what keeps the page from the LAN.
func pageAdvice(s *State, p *plan.Plan) []doctor.Advice {
	var out []doctor.Advice
	served := Served{Web: s.Config.Web}
	for _, addr := range served.Listen {
		if !served.isGuarded(addr) {
			continue
		}
		has := func(a netip.Prefix) bool { return a.Addr() == addr.Addr().WithZone("") }
		if !slices.ContainsFunc(p.LANs, func(l plan.LAN) bool { return slices.ContainsFunc(l.Addrs, has) }) {
			out = append(out, leftAdvice(addr))
		} else if _, err := os.Stat(served.PasswordFile); err != nil {
			out = append(out, doctor.Advise(fmt.Sprintf("nobody can sign in to the page at %s: there is no password (%v)", addr, err), "torbpf page password"))
		}
	}
	return out
}
