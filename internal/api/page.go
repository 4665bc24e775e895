package api

import (
	"net/http"
	"net/netip"
	"time"

	"github.com/torbpf/torbpf/internal/access"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/router"
)

// Page returns what may be asked through the process that serves the page (docs/PAGE.md): metrics,
// and for who has a session what is in register, which is all that somebody gets who has taken
// over the process. passwordFile has the hash of the password.
func Page(r Router, version string, k *access.Keeper, passwordFile string) http.Handler {
	inner := http.NewServeMux()
	api{r, byPage}.register(inner, newBounds())
	mux := http.NewServeMux()
	mux.Handle("/", Metrics(r, version))
	mux.Handle("/v1/", k.Handler(passwordFile, inner))
	return mux
}

// Door is what root may say of who uses the page.
type Door struct {
	Keeper *access.Keeper
	Served func() *router.Served // what is served by TCP now; nil: nothing
}

func (d Door) register(mux *http.ServeMux) {
	mux.HandleFunc("POST /v1/page/login", d.login)
	mux.HandleFunc("DELETE /v1/page/sessions", d.logout)
}

// Login is a link that opens the page once.
type Login struct {
	Schema int       `json:"schema"`
	URL    string    `json:"url"`
	Ends   time.Time `json:"ends"`
}

func (d Door) login(w http.ResponseWriter, _ *http.Request) {
	at, err := d.address()
	if err != nil {
		fail(w, err)
		return
	}
	word, ends := d.Keeper.Invite()
	reply(w, Login{1, "http://" + at.String() + "/#" + word, ends}, nil)
}

// address is where the page is opened best: where nobody listens to it.
func (d Door) address() (netip.AddrPort, error) {
	served := d.Served()
	switch {
	case served == nil || len(served.Places) == 0:
		return netip.AddrPort{}, config.Invalid("the page is not served: [web] listen names no address, or the process that serves it cannot; see the log of torbpf run")
	case !served.Page:
		return netip.AddrPort{}, config.Invalid("the page is not served: the configuration says page = false below [web]")
	}
	for _, p := range served.Places {
		if p.Addr.Addr().IsLoopback() {
			return p.Addr, nil
		}
	}
	return served.Places[0].Addr, nil
}

// Logout is how many sessions have ended.
type Logout struct {
	Schema int `json:"schema"`
	Ended  int `json:"ended"`
}

func (d Door) logout(w http.ResponseWriter, _ *http.Request) {
	reply(w, Logout{1, d.Keeper.EndAll()}, nil)
}
