package daemon

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"reflect"
	"time"

	"github.com/torbpf/torbpf/internal/api"
	"github.com/torbpf/torbpf/internal/conduit"
	"github.com/torbpf/torbpf/internal/web"
)

// webPause is how often it is looked whether the process that serves the metrics is there and
// serves what the configuration says.
const webPause = time.Second

// serveAPI serves the API to root by a socket, until ctx ends. Without it everything else goes on.
func (d *daemon) serveAPI(ctx context.Context, h http.Handler) error {
	l, err := d.Router.ListenAPI()
	if err != nil {
		d.Log.Error("the API cannot be served", "error", err)
		return nil
	}
	server := api.Server(h)
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		d.Log.Error("the API is not served any more", "error", err)
	}
	return nil
}

// webProcess is what serves the metrics.
type webProcess struct {
	config    web.Config
	pid       int
	starttime uint64
	server    *http.Server // of the API, at our end of its conduit
}

// watchWeb keeps the process that serves the metrics running.
func (d *daemon) watchWeb(ctx context.Context, h http.Handler) error {
	var running *webProcess
	defer func() { running.stop() }()
	ticker := time.NewTicker(webPause)
	defer ticker.Stop()
	paces, said := make(paces), ""
	for {
		asked, known := d.Router.Web()
		wanted := web.Config{Listen: asked.Listen}
		if known && !running.serves(wanted) && paces.due(nil, time.Now()) {
			running.stop()
			paces.tried(nil, time.Now())
			var err error
			running, err = d.startWeb(wanted, h)
			switch {
			case err == nil:
				said = ""
				d.Log.Info("metrics are served", "listen", wanted.Listen)
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

// startWeb starts the process; nil where nothing is to be served.
func (d *daemon) startWeb(cfg web.Config, h http.Handler) (*webProcess, error) {
	if len(cfg.Listen) == 0 {
		return nil, nil
	}
	ours, theirs, err := conduit.New()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	pid, starttime, err := web.Spawn([]string{"web"}, cfg, theirs, os.Stderr)
	if err != nil {
		return nil, errors.Join(err, ours.Close())
	}
	server := api.Server(h)
	go func() {
		if err := server.Serve(ours); !errors.Is(err, http.ErrServerClosed) {
			ours.Close() // the child has ended, and will be started anew
		}
	}()
	return &webProcess{cfg, pid, starttime, server}, nil
}

// serves tells whether what is wanted is served.
func (p *webProcess) serves(wanted web.Config) bool {
	if p == nil {
		return len(wanted.Listen) == 0
	}
	return web.Running(p.pid, p.starttime) && reflect.DeepEqual(p.config, wanted)
}

// stop ends the process.
func (p *webProcess) stop() {
	if p == nil {
		return
	}
	_ = p.server.Close()
	_ = web.Stop(p.pid, p.starttime) // it ends by itself, too, now that the conduit is closed
}
