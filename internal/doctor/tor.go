package doctor

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Version is one of tor's: "0.4.9.11".
type Version [4]int

// fixedDNSPort is the first in which an exit relay cannot make tor crash by how it answers DNS
// (TROVE-2026-018, bug 41265).
var fixedDNSPort = Version{0, 4, 9, 9}

// String is as tor writes it.
func (v Version) String() string { return fmt.Sprintf("%d.%d.%d.%d", v[0], v[1], v[2], v[3]) }

// ParseVersion reads one in what tor says of itself: "Tor version 0.4.9.11 (git-…).", "0.4.9.1-alpha".
func ParseVersion(text string) (Version, bool) {
	for word := range strings.FieldsSeq(text) {
		word, _, _ = strings.Cut(strings.TrimSuffix(word, "."), "-")
		parts := strings.Split(word, ".")
		var v Version
		if len(parts) != len(v) {
			continue
		}
		var err error
		for i, part := range parts {
			if v[i], err = strconv.Atoi(part); err != nil {
				break
			}
		}
		if err == nil {
			return v, true
		}
	}
	return Version{}, false
}

func torThere(f *Facts) []Finding {
	if f.Tor.Missing == nil {
		return nil
	}
	reason, lines, _ := strings.Cut(f.Tor.Missing.Error(), "\n")
	var fix []string
	for line := range strings.Lines(lines) {
		fix = append(fix, strings.TrimSpace(line))
	}
	if at := strings.LastIndex(reason, "; "); at >= 0 && len(fix) == 0 {
		reason, fix = reason[:at], []string{reason[at+2:]}
	}
	return []Finding{problem(reason, fix...)}
}

func torVersion(f *Facts) []Finding {
	if f.Tor.Version == "" {
		return about("there is no tor to ask for its version")
	}
	v, ok := ParseVersion(f.Tor.Version)
	if !ok {
		return []Finding{note(fmt.Sprintf("tor calls itself %q, of which no version can be read", f.Tor.Version))}
	}
	if slices.Compare(v[:], fixedDNSPort[:]) >= 0 {
		return nil
	}
	return []Finding{warning(fmt.Sprintf("tor is %s: an exit relay can make it crash by how it answers DNS (TROVE-2026-018, fixed in %s, and maybe by your distribution), and devices are refused until it is started anew", v, fixedDNSPort),
		"apt update && apt install --only-upgrade tor")}
}

func torReady(f *Facts) []Finding {
	switch s := f.Status; {
	case !f.Attached || s.Blocked:
		return about("nothing is attached")
	case !s.Alive:
		return []Finding{problem("tor does not answer, so devices are refused: "+s.Summary, "sudo torbpf attach")}
	case !s.Ready:
		return []Finding{problem(fmt.Sprintf("tor is at %d%% (%s), so devices are refused", s.Percent, s.Summary), "torbpf status")}
	}
	return nil
}

// patience is how far off a clock may be: that of tor itself for a consensus that is over is a
// day (REASONABLY_LIVE_TIME).
const patience = 24 * time.Hour

// setClock is what to type for it.
var setClock = []string{"date -u -s 'YYYY-MM-DD HH:MM:SS'", "or let a time service set it: timedatectl set-ntp true"}

func clock(f *Facts) []Finding {
	t := f.Tor
	now := t.Now.UTC().Format(time.DateTime)
	switch {
	case t.Skew != "":
		return []Finding{problem("tor finds the clock wrong: "+t.Skew, setClock...)}
	case t.Now.Before(t.Built):
		return []Finding{problem(fmt.Sprintf("the clock is wrong: it is %s by it, and this program is of %s", now, t.Built.UTC().Format(time.DateTime)), setClock...)}
	case !t.ValidAfter.IsZero() && t.Now.Before(t.ValidAfter):
		return []Finding{problem(fmt.Sprintf("the clock is behind: it is %s by it, and Tor's consensus is of %s", now, t.ValidAfter.UTC().Format(time.DateTime)), setClock...)}
	case !t.ValidUntil.IsZero() && !t.Cached && t.Now.After(t.ValidUntil.Add(patience)):
		return []Finding{warning(fmt.Sprintf("the clock is ahead, or tor has got no consensus for long: it is %s by it, and the one that it has was over at %s", now, t.ValidUntil.UTC().Format(time.DateTime)), setClock...)}
	}
	return nil
}
