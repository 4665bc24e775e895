package daemon

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"reflect"
	"slices"
	"time"

	"golang.org/x/net/netutil"

	"github.com/torbpf/torbpf/internal/api"
	"github.com/torbpf/torbpf/internal/conduit"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/router"
	"github.com/torbpf/torbpf/internal/web"
)

// webPause is how often it is looked whether the process that serves metrics and the page is
// there and serves what the configuration says.
const webPause = time.Second

// maxConduit bounds how many connections the process has to the API at a time: one that was
// taken over has no reason to stop at what it serves.
const maxConduit = 96

// serveAPI serves the API to root by a socket, until ctx ends. Without it everything else goes on.
func (d *daemon) serveAPI(ctx context.Context) error {
	l, err := d.Router.ListenAPI()
	if err != nil {
		d.Log.Error("the API cannot be served", "error", err)
		return nil
	}
	server := api.Server(api.New(d.Router, d.Version, api.Door{Keeper: d.keeper, Served: d.served.Load}))
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		d.Log.Error("the API is not served any more", "error", err)
	}
	return nil
}

// webProcess is what serves metrics and the page.
type webProcess struct {
	serving   router.Served
	pid       int
	starttime uint64
	server    *http.Server // of the API, at our end of its conduit
}

// watchWeb keeps the process that serves metrics and the page running.
func (d *daemon) watchWeb(ctx context.Context) error {
	var running *webProcess
	defer func() { running.stop() }()
	ticker := time.NewTicker(webPause)
	defer ticker.Stop()
	paces, said := make(paces), ""
	for left := []string(nil); ; {
		wanted, known := d.Router.Web()
		if known && !slices.Equal(left, wanted.Left) {
			left = wanted.Left
			d.logLeft(left)
		}
		if known && !running.serves(wanted) && paces.due(nil, time.Now()) {
			d.served.Store(nil)
			running.stop()
			paces.tried(nil, time.Now())
			var err error
			running, err = d.startWeb(wanted)
			switch {
			case err == nil:
				said = ""
				d.served.Store(&wanted)
				d.Log.Info("metrics are served", "listen", wanted.Listen, "page", wanted.Page, "metrics", wanted.Metrics)
			case err.Error() != said:
				said = err.Error()
				d.Log.Error("metrics are not served", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (d *daemon) logLeft(left []string) {
	for _, why := range left {
		d.Log.Warn(why)
	}
}

// startWeb starts the process; nil where nothing is to be served.
func (d *daemon) startWeb(wanted router.Served) (*webProcess, error) {
	if len(wanted.Places) == 0 {
		return nil, nil
	}
	ours, theirs, err := conduit.New()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	pid, starttime, err := web.Spawn([]string{"web"}, webConfig(wanted), theirs, os.Stderr)
	if err != nil {
		return nil, errors.Join(err, ours.Close())
	}
	h := api.Metrics(d.Router, d.Version)
	if wanted.Page {
		h = api.Page(d.Router, d.Version, d.keeper, wanted.PasswordFile)
	}
	server := api.Server(h)
	go func() {
		if err := server.Serve(netutil.LimitListener(ours, maxConduit)); !errors.Is(err, http.ErrServerClosed) {
			ours.Close() // the child has ended, and will be started anew
		}
	}()
	return &webProcess{wanted, pid, starttime, server}, nil
}

func webConfig(wanted router.Served) web.Config {
	cfg := web.Config{Page: wanted.Page, MetricsEverywhere: wanted.Metrics == config.MetricsEverywhere}
	for _, p := range wanted.Places {
		cfg.Places = append(cfg.Places, web.Place(p))
	}
	return cfg
}

// serves tells whether what is wanted is served.
func (p *webProcess) serves(wanted router.Served) bool {
	if p == nil {
		return len(wanted.Places) == 0
	}
	return web.Running(p.pid, p.starttime) && reflect.DeepEqual(p.serving, wanted)
}

// stop ends the process, and only then our end of the conduit: who has taken it over could clear
// O_NONBLOCK of a pair of sockets that both ends share, and so have the close wait for a read of
// which it alone decides when it ends. Its death ends that.
func (p *webProcess) stop() {
	if p == nil {
		return
	}
	_ = web.Stop(p.pid, p.starttime)
	_ = p.server.Close()
}
