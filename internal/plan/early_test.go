package plan

import (
	"strings"
	"testing"

	"github.com/torbpf/torbpf/internal/config"
)

// TestEarlyByDriver: by itself where bulk TCP loses nothing by it, elsewhere if it is asked for.
func TestEarlyByDriver(t *testing.T) {
	hardware := func(driver string) Link { return Link{Ethernet: true, Driver: driver} }
	for _, c := range []struct {
		asked config.Early
		link  Link
		want  Early
		why   string
	}{
		{config.EarlyAuto, hardware("igc"), EarlyNative, ""},
		{config.EarlyAuto, hardware("virtio_net"), EarlyOff, "the driver virtio_net"},
		{config.EarlyAuto, hardware(""), EarlyOff, "a driver that is not known"},
		{config.EarlyAuto, Link{Ethernet: true, Kind: "veth"}, EarlyOff, "kind veth"},
		{config.EarlyAuto, Link{Kind: "wireguard"}, EarlyOff, "kind wireguard"},
		{config.EarlyNative, hardware("virtio_net"), EarlyNative, ""},
		{config.EarlyGeneric, hardware("r8169"), EarlyGeneric, ""},
		{config.EarlyNative, Link{Kind: "tun"}, EarlyOff, "no Ethernet header"},
		{config.EarlyOff, hardware("igc"), EarlyOff, ""},
	} {
		got, why := early(config.Config{Early: c.asked}, c.link)
		if got != c.want || (why == "") != (c.why == "") || !strings.Contains(why, c.why) {
			t.Errorf("%s of %+v: %v, %q; want %v, %q", c.asked, c.link, got, why, c.want, c.why)
		}
	}
}
