package redact

import (
	"regexp"
	"time"
)

// The distance of a clock from UTC tells the region.
var (
	zoned = regexp.MustCompile(`[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:[.,][0-9]+)?[+-][0-9]{2}:?[0-9]{2}`)
	// as torbpf writes it for people, in the zone of this machine
	local = regexp.MustCompile(`((?:until|read on) )([0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2})`)
)

// inUTC rewrites the times of a text.
func inUTC(text string) string {
	text = zoned.ReplaceAllStringFunc(text, func(found string) string {
		for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05Z0700"} {
			if t, err := time.Parse(layout, found); err == nil {
				return t.UTC().Format(time.RFC3339Nano)
			}
		}
		return found[:len("2006-01-02")] // no time that there is: the day is enough
	})
	return local.ReplaceAllStringFunc(text, func(found string) string {
		m := local.FindStringSubmatch(found)
		t, err := time.ParseInLocation(time.DateTime, m[2], time.Local)
		if err != nil {
			return found
		}
		return m[1] + t.UTC().Format(time.DateTime) + " UTC"
	})
}
