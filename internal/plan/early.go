package plan

import (
	"fmt"
	"slices"

	"github.com/torbpf/torbpf/internal/config"
)

// groBehindXDP are drivers that hand packets on to GRO behind an XDP program as they do
// without one, so that bulk TCP loses nothing by it: those with a page pool or buffers of
// their own, for ports of machines and routers. Not so veth, which has the sender cut its
// large segments, and virtio_net, which gives up its offloads.
var groBehindXDP = []string{
	"bnxt_en", "fsl_dpaa2_eth", "fsl_enetc", "i40e", "ice", "igb", "igc", "ixgbe", "ixgbevf",
	"mlx4_en", "mlx5_core", "mtk_soc_eth", "mvneta", "mvpp2", "nfp", "qede", "sfc", "st_gmac", "stmmaceth",
}

// early decides how a LAN refuses early, and why it does not.
func early(cfg config.Config, l Link) (Early, string) {
	switch cfg.Early {
	case config.EarlyNative, config.EarlyGeneric:
		if !l.Ethernet {
			return EarlyOff, "its frames have no Ethernet header"
		}
		if cfg.Early == config.EarlyGeneric {
			return EarlyGeneric, ""
		}
		return EarlyNative, ""
	case config.EarlyAuto:
		if slices.Contains(groBehindXDP, l.Driver) {
			return EarlyNative, ""
		}
		return EarlyOff, fmt.Sprintf("bulk TCP may lose by it with %s; early_refusal = \"native\" has it all the same", l.driver())
	}
	return EarlyOff, ""
}

// frames decides whether an uplink's answers may go to LANs as frames: where refusals at it
// would be early, were it a LAN.
func frames(cfg config.Config, h Host, u Uplink) Early {
	l, known := h.LinkByIndex(u.Index)
	if !known || cfg.FastPath != config.FastPathAuto {
		return EarlyOff
	}
	if mode, _ := early(cfg, l); mode == EarlyNative {
		return mode
	}
	return EarlyOff
}

func (l Link) driver() string {
	switch {
	case l.Driver != "":
		return "the driver " + l.Driver
	case l.Kind != "":
		return "an interface of kind " + l.Kind
	}
	return "a driver that is not known"
}

func (l LAN) earlyText() string {
	if l.NotEarly == "" {
		return l.Early.String()
	}
	return fmt.Sprintf("%s: %s", l.Early, l.NotEarly)
}
