package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/router"
)

// Tor is what the API serves of the tors.
type Tor interface {
	TorReport(ctx context.Context) (*router.TorReport, error)
	Circuits(ctx context.Context, targets bool) ([]router.CircuitStatus, error)
	NewCircuits(ctx context.Context) (*router.Newnym, error)
	NewCircuitsFor(ctx context.Context, device string) (*router.Newnym, error)
}

func (a api) tor(w http.ResponseWriter, r *http.Request) {
	report, err := a.router.TorReport(r.Context())
	reply(w, report, err)
}

// circuits says where devices go only for ?targets=1, and never to the page.
func (a api) circuits(w http.ResponseWriter, r *http.Request) {
	found, err := a.router.Circuits(r.Context(), r.URL.Query().Get("targets") == "1" && a.by != byPage)
	reply(w, map[string]any{"schema": 1, "circuits": found}, err)
}

// NewnymRequest says for whom new circuits are wanted.
type NewnymRequest struct {
	Device string `json:"device"` // a name, a hardware address or an address; "" for all
}

func (a api) newnym(w http.ResponseWriter, r *http.Request) {
	var q NewnymRequest
	in := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	in.DisallowUnknownFields()
	if err := in.Decode(&q); err != nil && !errors.Is(err, io.EOF) { // nothing means all
		fail(w, config.Invalid("read for whom new circuits are wanted: %v", err))
		return
	}
	var done *router.Newnym
	var err error
	if q.Device == "" {
		done, err = a.router.NewCircuits(r.Context())
	} else {
		done, err = a.router.NewCircuitsFor(r.Context(), q.Device)
	}
	reply(w, struct {
		Schema int `json:"schema"`
		*router.Newnym
	}{1, done}, err)
}
