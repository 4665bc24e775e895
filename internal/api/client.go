package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"

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
		return fmt.Errorf("`torbpf run` does not answer: %w; torbpf enable starts it", err)
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
