package main

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/router"
)

// eventsSchema numbers the form of an event in JSON.
const eventsSchema = 1

func newEvents() *cobra.Command {
	var (
		f      router.EventFilter
		kinds  []string
		since  time.Duration
		once   bool
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Print what happens: refusals, alarms, repairs, changes of the policy",
		Long: `events prints what has happened since attach, and goes on with what happens.
Refusals are told of only while they happen, at most a hundred a second: what a
device wanted is not written down.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := newRouter()
			if err != nil {
				return err
			}
			for _, k := range kinds {
				f.Kinds = append(f.Kinds, router.EventKind(k))
			}
			if since > 0 {
				f.Since = time.Now().Add(-since)
			}
			f.Follow = !once
			return r.Events(cmd.Context(), f, printEvent(cmd.OutOrStdout(), asJSON))
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.Device, "device", "", "only those of a device: its name, hardware address or address")
	flags.StringSliceVar(&f.Reasons, "reason", nil, "only packets for these reasons, such as quic (docs/REASONS.md)")
	flags.StringSliceVar(&kinds, "kind", nil, "only these kinds: refused, alarm, repair, trouble, policy, attach, tor")
	flags.Var(life{&since}, "since", "of what was before only the last 10m, 2h, 7d")
	flags.BoolVar(&once, "once", false, "do not wait for what happens from now on")
	flags.BoolVar(&asJSON, "json", false, "print an object a line")
	offer(cmd, "device", completeDevices)
	completeFlags(cmd, map[string][]string{"reason": abi.ReasonNames(), "kind": eventKinds()})
	return cmd
}

func eventKinds() []string {
	var words []string
	for _, k := range router.EventKinds {
		words = append(words, string(k))
	}
	return words
}

// eventLine is an event in JSON.
type eventLine struct {
	Schema int `json:"schema"`
	router.Event
}

// printEvent prints an event a line, as they come.
func printEvent(w io.Writer, asJSON bool) func(router.Event) {
	encoder := json.NewEncoder(w)
	return func(e router.Event) {
		if asJSON {
			_ = encoder.Encode(eventLine{eventsSchema, e}) // a reader that is gone ends this by SIGPIPE
			return
		}
		fmt.Fprintf(w, "%s %-7s %s\n", e.Time.Local().Format(time.DateTime), e.Kind, eventText(e))
	}
}

// eventText tells an event in words.
func eventText(e router.Event) string {
	if e.Packet == nil {
		return e.Text
	}
	return packetText(e.Device, *e.Packet)
}

// packetText tells a packet and what became of it; of whom, if that is known.
func packetText(device string, p router.Refused) string {
	if device != "" {
		device += " "
	}
	return fmt.Sprintf("%s%s > %s, %s, by %s: %s, %s", device,
		packetEnd(p.Src.Addr().String(), p.Src.Port()), packetEnd(p.Dst.Addr().String(), p.Dst.Port()),
		config.ProtocolName(p.Protocol), p.Interface, p.Reason, p.Meaning)
}
