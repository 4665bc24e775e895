package top

import (
	"fmt"
	"math"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/rivo/uniseg"

	"github.com/torbpf/torbpf/internal/router"
)

// clean replaces what is no character that a terminal shows: controls, invisible ones that
// turn the text round or join it, and what is no text.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) && r != ' ' {
			return '?'
		}
		return r
	}, s)
}

// width is how many columns a text takes.
func width(s string) int { return uniseg.StringWidth(s) }

// cut shortens a text to some columns, with ~ for what is missing at its end.
func cut(s string, columns int) string {
	if width(s) <= columns {
		return s
	}
	if columns <= 0 {
		return ""
	}
	return head(s, columns-1) + "~"
}

// squeeze shortens a text to some columns, with ~ for what is missing in its middle: names and
// addresses differ at their ends.
func squeeze(s string, columns int) string {
	if width(s) <= columns {
		return s
	}
	if columns < 5 {
		return cut(s, columns)
	}
	begin := head(s, columns/2)
	rest := columns - 1 - width(begin)
	end := s
	for end != "" && width(end) > rest {
		_, end, _, _ = uniseg.FirstGraphemeClusterInString(end, -1)
	}
	return begin + "~" + end
}

// head is the beginning of a text that fits.
func head(s string, columns int) string {
	var out strings.Builder
	for s != "" {
		cluster, rest, w, _ := uniseg.FirstGraphemeClusterInString(s, -1)
		if columns -= w; columns < 0 {
			break
		}
		out.WriteString(cluster)
		s = rest
	}
	return out.String()
}

// left and right fill a text up to some columns, which it does not exceed.
func left(s string, columns int) string {
	s = cut(s, columns)
	return s + strings.Repeat(" ", max(0, columns-width(s)))
}

func right(s string, columns int) string {
	s = cut(s, columns)
	return strings.Repeat(" ", max(0, columns-width(s))) + s
}

// number writes one in five columns at most.
func number(v float64) string {
	if v < 9.95 && v != math.Trunc(v) {
		return fmt.Sprintf("%.1f", v)
	}
	if v < 999.5 {
		return fmt.Sprintf("%.0f", v)
	}
	prefix := -1
	for v >= 999.5 && prefix < 5 {
		v /= 1000
		prefix++
	}
	unit := "kMGTPE"[prefix : prefix+1]
	switch {
	case v < 9.995:
		return fmt.Sprintf("%.2f%s", v, unit)
	case v < 99.95:
		return fmt.Sprintf("%.1f%s", v, unit)
	}
	return fmt.Sprintf("%.0f%s", v, unit)
}

// count writes a whole number, exactly as long as it fits.
func count(n uint64, columns int) string {
	text := fmt.Sprint(n)
	if len(text) > columns {
		return number(float64(n))
	}
	return text
}

// under is the policy that a device is under, and how long still.
func under(d router.DeviceStatus, now time.Time) string {
	if d.Until == nil {
		return string(d.Policy)
	}
	return fmt.Sprintf("%s %s", d.Policy, short(d.Until.Sub(now)))
}

// short writes a time in its largest unit.
func short(d time.Duration) string {
	switch {
	case d >= 24*time.Hour:
		return fmt.Sprintf("%dd", int(d/(24*time.Hour)))
	case d >= time.Hour:
		return fmt.Sprintf("%dh", int(d/time.Hour))
	case d >= time.Minute:
		return fmt.Sprintf("%dm", int(d/time.Minute))
	}
	return fmt.Sprintf("%ds", max(0, int(d/time.Second)))
}
