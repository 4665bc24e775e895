package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"syscall"

	"github.com/torbpf/torbpf/internal/config"
)

// Ask asks the API at root's socket and reads what comes into out. What the API refuses is an
// error in its words.
func Ask(ctx context.Context, socket, method, path string, out any) error {
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	request, err := http.NewRequestWithContext(ctx, method, "http://api"+path, nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(request)
	if err != nil {
		return unanswered(err)
	}
	defer answer.Body.Close()
	in := json.NewDecoder(answer.Body)
	if answer.StatusCode != http.StatusOK {
		var refused struct{ Error string }
		if err := in.Decode(&refused); err != nil {
			return fmt.Errorf("read the refusal of the API (%s): %w", answer.Status, err)
		}
		if answer.StatusCode == http.StatusBadRequest {
			return config.Invalid("%s", refused.Error)
		}
		return errors.New(refused.Error)
	}
	if err := in.Decode(out); err != nil {
		return fmt.Errorf("read the answer of the API: %w", err)
	}
	return nil
}

// Listens tells whether `torbpf run` serves the API at root's socket.
func Listens(socket string) bool {
	c, err := net.Dial("unix", socket)
	if err == nil {
		c.Close()
	}
	return err == nil
}

// unanswered says what to do where nobody listens at the socket, and what is wrong elsewhere.
func unanswered(err error) error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return errNotRunning
	}
	return fmt.Errorf("`torbpf run` does not answer: %w; what it has printed says why (journalctl -u torbpf)", err)
}

var errNotRunning = errors.New("the page is served by `torbpf run`, which is not running: sudo torbpf enable (or sudo torbpf run in another terminal)")
