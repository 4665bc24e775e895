package proxy

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/elazarl/goproxy"
	"golang.org/x/sync/errgroup"
)

// Run serves until ctx ends, which is no error: plain requests under way have a moment
// left then, tunnels none. ready is called once when all listens; its error ends Run.
func Run(ctx context.Context, cfg Config, ready func() error) error {
	return run(ctx, cfg, ready, defaultLimits())
}

func run(ctx context.Context, cfg Config, ready func() error, lim limits) error {
	if err := cfg.validate(); err != nil {
		return err
	}
	conns := newConns()
	listeners, err := listen(ctx, cfg.Port, lim, conns)
	if err != nil {
		return err
	}
	server := newServer(cfg, lim, conns)
	g, ctx := errgroup.WithContext(ctx)
	for _, l := range listeners {
		g.Go(func() error {
			if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
	g.Go(func() error {
		sweep(ctx, conns, lim)
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), lim.grace)
		defer cancel()
		_ = server.Shutdown(end) // what is under way after that is cut
		conns.closeAll()
		return nil
	})
	g.Go(ready)
	return g.Wait()
}

// sweep ends idle tunnels until ctx ends.
func sweep(ctx context.Context, conns *conns, lim limits) {
	tick := time.NewTicker(lim.sweep)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			conns.closeIdle(lim.tunnelIdle)
		}
	}
}

// clientKey is where a request's context has its connection.
type clientKey struct{}

func newServer(cfg Config, lim limits, conns *conns) *http.Server {
	proxy := newProxy(cfg, lim, newDialer(cfg, lim, conns))
	return &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			proxy.ServeHTTP(w, r)
			// A tunnel ends both its ends; a WebSocket's client would be left.
			if client := r.Context().Value(clientKey{}).(*conn); client.hijacked && r.Method != http.MethodConnect {
				client.Close()
			}
		}),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, clientKey{}, c)
		},
		ConnState: func(c net.Conn, state http.ConnState) {
			if state == http.StateHijacked {
				c.(*conn).hijacked = true
			}
		},
		ReadHeaderTimeout: lim.readHeader,
		IdleTimeout:       lim.idle,
		MaxHeaderBytes:    lim.header,
		ErrorLog:          log.New(io.Discard, "", 0), // it would name destinations
	}
}

// unlogged takes the library's log, which names destinations.
type unlogged struct{}

func (unlogged) Printf(string, ...any) {}

func newProxy(cfg Config, lim limits, d *dialer) *goproxy.ProxyHttpServer {
	p := goproxy.NewProxyHttpServer()
	p.Logger = unlogged{}
	p.ConnectDial = nil // not what the environment says
	p.Tr = &http.Transport{
		DialContext:            d.dial,
		DisableCompression:     true, // what is compressed is between the two ends
		MaxIdleConns:           lim.spare,
		MaxIdleConnsPerHost:    lim.spare,
		IdleConnTimeout:        lim.idle,
		ResponseHeaderTimeout:  lim.headerAnswer,
		MaxResponseHeaderBytes: int64(lim.header),
		ExpectContinueTimeout:  time.Second,
	}
	p.KeepAcceptEncoding = true
	p.NonproxyHandler = helpPage{cfg.Port}
	p.ConnectionErrHandler = func(w io.Writer, ctx *goproxy.ProxyCtx, err error) {
		page := errorPage(ctx.Req, err)
		page.Close = true
		_ = page.Write(w) // the client may have given up
	}
	p.OnRequest().DoFunc(func(r *http.Request, _ *goproxy.ProxyCtx) (*http.Request, *http.Response) {
		return r, judge(r, cfg.Port)
	})
	p.OnResponse().DoFunc(finish)
	return p
}

// judge prepares a plain request for its origin, or answers it itself.
func judge(r *http.Request, port uint16) *http.Response {
	if isProxy(r.URL.Host, port) {
		return textPage(r, http.StatusOK, help)
	}
	if !strings.EqualFold(r.URL.Scheme, "http") {
		return textPage(r, http.StatusBadRequest, "This proxy takes http:// requests and CONNECT.")
	}
	stripHops(r.Header)
	r.Close = false // that is between the client and the proxy
	if _, ok := r.Header["User-Agent"]; !ok {
		r.Header.Set("User-Agent", "") // or the transport would add its own
	}
	return nil
}

// finish prepares an answer for the client.
func finish(resp *http.Response, ctx *goproxy.ProxyCtx) *http.Response {
	if resp == nil {
		return errorPage(ctx.Req, cause(ctx.Error))
	}
	stripHops(resp.Header)
	if resp.ContentLength < 0 {
		// It comes bit by bit, and the library passes it on so if this says it.
		resp.Header.Set("Transfer-Encoding", "chunked")
	}
	return resp
}

func cause(err error) error {
	if err == nil {
		return errors.New("it gave no answer")
	}
	return err
}
