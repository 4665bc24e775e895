package tor

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Condition is how a running tor is.
type Condition struct {
	Version  string
	Progress Progress
	PID      int
	Uptime   time.Duration // to the second
	Dormant  bool          // it has had nothing to do for long, and builds no circuits until it has
	Network  bool          // it has heard of the network lately
	Read     uint64        // bytes since it was started, from relays and directories
	Written  uint64
	Rate     *Rate // nil while it has not run for a second
	Circuits []Circuit
	Guards   []Guard
}

// Rate is bytes a second, as the mean of the last seconds.
type Rate struct {
	Read    uint64 `json:"read"`
	Written uint64 `json:"written"`
}

// Guard is a relay by which tor goes, or may go, into the network.
type Guard struct {
	Relay
	State     string `json:"state"`     // up, down, unusable or never-connected (control-spec, "entry-guards")
	Connected bool   `json:"connected"` // tor has a connection to it now
}

// conditionKeys are what Condition asks for, at once, so that it is of one moment.
var conditionKeys = []string{
	"version", "status/bootstrap-phase", "process/pid", "uptime", "dormant", "network-liveness",
	"traffic/read", "traffic/written", "bw-event-cache", "circuit-status", "entry-guards", "orconn-status",
}

// Condition asks how tor is.
func (c *Control) Condition(ctx context.Context) (*Condition, error) {
	values, err := c.getInfos(ctx, conditionKeys)
	if err != nil {
		return nil, err
	}
	out, err := parseCondition(values)
	if err != nil {
		return nil, fmt.Errorf("read how tor is: %w", err)
	}
	return out, nil
}

// getInfos returns several values of one moment.
func (c *Control) getInfos(ctx context.Context, keys []string) (map[string]string, error) {
	resp, err := c.command(ctx, "GETINFO "+strings.Join(keys, " "))
	if err != nil {
		return nil, err
	}
	out := make(map[string]string)
	for _, line := range resp.Data {
		key, value, _ := strings.Cut(line, "=")
		out[key] = strings.TrimPrefix(value, "\r\n")
	}
	for _, key := range keys {
		if _, ok := out[key]; !ok {
			return nil, fmt.Errorf("ask tor for %s: the reply has no such value", key)
		}
	}
	return out, nil
}

func parseCondition(values map[string]string) (*Condition, error) {
	out := &Condition{
		Version: printable(values["version"]),
		Dormant: values["dormant"] == "1",
		Network: values["network-liveness"] == "up",
	}
	var err error
	if out.Progress, err = parseBootstrap(values["status/bootstrap-phase"]); err != nil {
		return nil, err
	}
	if out.PID, err = strconv.Atoi(values["process/pid"]); err != nil {
		return nil, err
	}
	seconds, err := strconv.ParseUint(values["uptime"], 10, 32)
	if err != nil {
		return nil, err
	}
	out.Uptime = time.Duration(seconds) * time.Second
	if out.Read, err = strconv.ParseUint(values["traffic/read"], 10, 64); err != nil {
		return nil, err
	}
	if out.Written, err = strconv.ParseUint(values["traffic/written"], 10, 64); err != nil {
		return nil, err
	}
	if out.Rate, err = parseRate(values["bw-event-cache"]); err != nil {
		return nil, err
	}
	if out.Circuits, err = parseCircuits(values["circuit-status"]); err != nil {
		return nil, err
	}
	out.Guards, err = parseGuards(values["entry-guards"], values["orconn-status"])
	return out, err
}

// rateSeconds is of how many seconds a rate is the mean.
const rateSeconds = 10

// parseRate reads "READ,WRITTEN READ,WRITTEN …", a pair for each of the last seconds, the
// newest last.
func parseRate(s string) (*Rate, error) {
	pairs := strings.Fields(s)
	pairs = pairs[max(0, len(pairs)-rateSeconds):]
	if len(pairs) == 0 {
		return nil, nil
	}
	var sum Rate
	for _, pair := range pairs {
		read, written, _ := strings.Cut(pair, ",")
		r, err := strconv.ParseUint(read, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("bytes of a second: %w", err)
		}
		w, err := strconv.ParseUint(written, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("bytes of a second: %w", err)
		}
		sum.Read, sum.Written = sum.Read+r, sum.Written+w
	}
	n := uint64(len(pairs))
	return &Rate{Read: sum.Read / n, Written: sum.Written / n}, nil
}

// parseGuards reads those that tor has connected to before, or is connected to now. The
// others are candidates, of which it has some dozens.
func parseGuards(guards, connections string) ([]Guard, error) {
	connected := make(map[string]bool)
	for line := range strings.Lines(connections) {
		name, state, _ := strings.Cut(strings.TrimSpace(line), " ")
		if relay, err := parseRelay(name); err == nil && state == "CONNECTED" {
			connected[relay.Fingerprint] = true
		} // else it is of one whose name tor does not know yet
	}
	var out []Guard
	for line := range strings.Lines(guards) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		relay, err := parseRelay(fields[0])
		if err != nil || len(fields) < 2 {
			return nil, fmt.Errorf("read tor's guard %.200q: %w", line, err)
		}
		g := Guard{Relay: relay, State: printable(fields[1]), Connected: connected[relay.Fingerprint]}
		if g.Connected || g.State != "never-connected" {
			out = append(out, g)
		}
	}
	return out, nil
}

func parseID(s string) (uint64, error) { return strconv.ParseUint(s, 10, 64) }
