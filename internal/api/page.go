package api

import (
	"context"
	"errors"
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
	Served func() *router.Served // what is served by TCP now; nil: not yet, or not now
}

// startPatience is how long a link waits for the process that serves the page: `torbpf run`
// answers a moment before that has come up.
const startPatience = 5 * time.Second

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

func (d Door) login(w http.ResponseWriter, r *http.Request) {
	at, err := d.address(r.Context())
	if err != nil {
		fail(w, err)
		return
	}
	word, ends := d.Keeper.Invite()
	reply(w, Login{1, "http://" + at.String() + "/#" + word, ends}, nil)
}

// address is where the page is opened best: where nobody listens to it.
func (d Door) address(ctx context.Context) (netip.AddrPort, error) {
	served := d.await(ctx)
	switch {
	case served == nil:
		return netip.AddrPort{}, errors.New("the page is not served: the process that serves it does not come up; the log of torbpf run says why")
	case len(served.Places) == 0:
		return netip.AddrPort{}, config.Invalid("the page is not served: [web] listen names no address")
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

// await returns what is served, once it is; nil where that takes too long.
func (d Door) await(ctx context.Context) *router.Served {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	const between = 50 * time.Millisecond
	ticker := time.NewTicker(between)
	defer ticker.Stop()
	for {
		if served := d.Served(); served != nil {
			return served
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// Logout is how many sessions have ended.
type Logout struct {
	Schema int `json:"schema"`
	Ended  int `json:"ended"`
}

func (d Door) logout(w http.ResponseWriter, _ *http.Request) {
	reply(w, Logout{1, d.Keeper.EndAll()}, nil)
}
