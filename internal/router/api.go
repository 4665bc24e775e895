package router

import (
	"fmt"
	"net"
	"path/filepath"
)

// APISocket is where `torbpf run` serves the API, for root. It is beside the state directory,
// since detach removes that while `torbpf run` goes on.
func (r *Router) APISocket() string { return filepath.Join(runDir, r.ns.Name+".sock") }

// ListenAPI opens the socket of the API. The caller is the one that LockRun has let run, so
// what is there is of one that was killed.
func (r *Router) ListenAPI() (net.Listener, error) {
	l, err := listenForRoot(r.APISocket())
	if err != nil {
		return nil, fmt.Errorf("listen for the API: %w", err)
	}
	return l, nil
}
