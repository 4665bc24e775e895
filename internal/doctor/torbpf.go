package doctor

import (
	"fmt"
	"strings"
)

func layers(f *Facts) []Finding {
	if !f.Attached {
		return about("nothing is attached")
	}
	var out []Finding
	for _, p := range f.Status.Problems {
		out = append(out, problem(p, "sudo torbpf attach"))
	}
	return out
}

func alarms(f *Facts) []Finding {
	switch {
	case !f.Attached:
		return about("nothing is attached")
	case f.Status.Stopped == 0:
		return nil
	}
	return []Finding{problem(fmt.Sprintf("%d packets got as far as the last guards, which stopped them: something bypasses the tc programs or nftables", f.Status.Stopped), "torbpf check")}
}

// boot says what a reboot would let out.
func boot(f *Facts) []Finding {
	const gone = "a reboot removes all of this, and what is on Tor now goes out in clear"
	b := f.Boot
	switch {
	case !f.Attached:
		return about("nothing is attached")
	case !b.Managed:
		return []Finding{note("whether something starts `torbpf run` at boot cannot be told, since this host runs neither systemd nor OpenRC nor procd; if nothing does, "+gone,
			"torbpf enable, which says what to have started")}
	case !b.Service:
		return []Finding{warning(gone+": its service is not installed", "sudo make install, or the package", "torbpf enable")}
	case !b.Enabled:
		return []Finding{warning(gone+": nothing starts torbpf at boot", "torbpf enable")}
	case len(b.Missing) > 0:
		return []Finding{warning(fmt.Sprintf("a reboot takes off Tor what %s does not name: %s", b.File, strings.Join(b.Missing, ", ")), "torbpf enable --save", "or name it there")}
	}
	return nil
}
